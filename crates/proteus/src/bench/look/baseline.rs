//! The least that a look can cost: the files that it reads, opened and read and thrown away, once a second, on a thread
//! of its own inside the guests' network. Must never understand what it reads.

use super::cpu;
use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustix::time::ClockId;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Where control groups of the `cpu` controller may be.
const HIERARCHIES: [&str; 3] = ["/sys/fs/cgroup", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"];
/// What is read of a group, version 1 and 2.
const OF_GROUP: [&str; 3] = ["tasks", "cgroup.threads", "cpu.stat"];

/// What is read of one VM.
pub(super) struct Files {
    tasks: PathBuf,
    group: Vec<PathBuf>,
    memory: PathBuf,
}

impl Files {
    /// Those of the VM with this process and group, whose memory is this file.
    pub(super) fn of(instance: &str, group: &str, pid: u32, memory: PathBuf) -> Self {
        let groups = HIERARCHIES.map(|hierarchy| Path::new(hierarchy).join(format!("proteus-{instance}")));
        let groups = groups.into_iter().flat_map(|base| [base.join(group).join("vcpu"), base.join(group)]);
        // On version 2 the vCPUs have a group of their own inside the VM's.
        let found = groups.into_iter().find(|group| group.join("cpu.stat").exists());
        let files = found.into_iter().flat_map(|group| OF_GROUP.map(|name| group.join(name)));
        let group = files.filter(|file| file.exists()).collect();
        Self { tasks: format!("/proc/{pid}/task").into(), group, memory }
    }

    fn read(&self, buffer: &mut [u8]) -> std::io::Result<()> {
        for file in &self.group {
            let _ = File::open(file)?.read(buffer)?;
        }
        for task in std::fs::read_dir(&self.tasks)? {
            // A thread may end between the two.
            if let Ok(mut file) = File::open(task?.path().join("schedstat")) {
                let _ = file.read(buffer);
            }
        }
        std::fs::metadata(&self.memory).map(drop)
    }
}

/// CPU time of reading all of them once a second until `stop` hangs up, and how often that was.
pub(super) fn read(namespace: &str, all: &[Files], stop: &Receiver<()>) -> Result<(Duration, u32)> {
    let namespace =
        File::open(Path::new("/run/netns").join(namespace)).context("find the guests' network")?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .context("enter the guests' network")?;
    let mut buffer = vec![0; 64 << 10];
    let (begin, mut rounds, mut next) = (cpu(ClockId::ThreadCPUTime), 0, Instant::now());
    loop {
        next += Duration::from_secs(1);
        match stop.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
        }
        let _ = File::open("/proc/thread-self/net/dev")?.read(&mut buffer)?;
        for files in all {
            files.read(&mut buffer).context("read what the look reads")?;
        }
        rounds += 1;
    }
    Ok((cpu(ClockId::ThreadCPUTime).saturating_sub(begin), rounds))
}
