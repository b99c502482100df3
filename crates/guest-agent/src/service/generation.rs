//! One generation of a service: its root, its first process, its log. A crash gives the same generation a new
//! process; an upgrade makes a new generation beside it. Must never keep a descriptor of the agent's open in a
//! service: everything is close-on-exec but what is handed over.

use super::root::{DataDisk, Root};
use crate::execution::application::{cgroup_dir, processes_in};
use crate::failure::Failure;
use crate::process::{Ended, Process};
use crate::procfs::{Reader, process_stat, write_text};
use crate::sys::spawn::{SpawnSpec, spawn};
use crate::task::{Task, TaskSpec, c_strings};
use crate::telemetry::collector::count_lines;
use proteus_protocol::guest::v1::ServiceManifest;
use proteus_protocol::guest::v1::service::{PrepareStep, Signal, SocketOwnership};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, open};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// Of what a service writes, the last this much is kept.
const LOG_BYTES_MAX: usize = 4096;
/// Connections that wait while nobody takes them; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// The last that a service wrote, and how much it wrote in all.
#[derive(Debug, Default)]
pub struct Log {
    kept: VecDeque<u8>,
    lines: u64,
    errors: u64,
}

impl Log {
    /// As text.
    pub fn text(&self) -> String {
        let (front, back) = self.kept.as_slices();
        String::from_utf8_lossy(&[front, back].concat()).into_owned()
    }

    fn push(&mut self, data: &[u8]) {
        let (lines, errors) = count_lines(data);
        (self.lines, self.errors) = (self.lines + lines, self.errors + errors);
        self.kept.extend(data);
        let over = self.kept.len().saturating_sub(LOG_BYTES_MAX);
        self.kept.drain(..over);
    }

    /// Lines so far, and those of them that speak of an error.
    pub fn counted(&self) -> (u64, u64) {
        (self.lines, self.errors)
    }
}

/// One generation of a service.
pub struct Generation {
    /// Name of its image.
    pub image: String,
    /// How to run it.
    pub manifest: ServiceManifest,
    root: Root,
    process: Option<Process>,
    log: Option<OwnedFd>,
}

/// The signal's number for the kernel.
fn kernel_signal(signal: Signal) -> rustix::process::Signal {
    use rustix::process::Signal as Kernel;
    match signal {
        Signal::Term => Kernel::TERM,
        Signal::Quit => Kernel::QUIT,
        Signal::Int => Kernel::INT,
        Signal::Hup => Kernel::HUP,
        Signal::Usr1 => Kernel::USR1,
        Signal::Usr2 => Kernel::USR2,
    }
}

/// Opens a service's sockets *from inside its control group*: a socket belongs for ever to the group of whoever
/// made it, and network policies go by that.
pub fn open_sockets(cgroup: &str, addresses: &[SocketAddr]) -> Result<Vec<OwnedFd>, Failure> {
    let join = |path: &str| write_text(cgroup_dir(path).join("cgroup.procs"), "0");
    join(cgroup).map_err(|e| Failure::system(format!("enter control group {cgroup}"), &e))?;
    let sockets = addresses.iter().map(open_socket).collect();
    join("").map_err(|e| Failure::system("return to the root control group", &e))?;
    sockets
}

fn open_socket(address: &SocketAddr) -> Result<OwnedFd, Failure> {
    let failure = |e: rustix::io::Errno| Failure::system(format!("listen on {address}"), &e);
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None).map_err(failure)?;
    sockopt::set_socket_reuseaddr(&socket, true).map_err(failure)?;
    bind(&socket, address).map_err(failure)?;
    listen(&socket, BACKLOG).map_err(failure)?;
    Ok(socket)
}

fn environment(manifest: &ServiceManifest, sockets: usize) -> Vec<String> {
    let mut out: Vec<String> = manifest.environment.iter().map(|(k, v)| format!("{k}={v}")).collect();
    if !manifest.environment.contains_key("PATH") {
        out.push("PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    }
    match manifest.sockets {
        SocketOwnership::AgentNginx => {
            let list: String = (3..3 + sockets).map(|fd| format!("{fd};")).collect();
            out.push(format!("NGINX={list}"));
        }
        SocketOwnership::AgentListenFds => {
            // In its own process namespace it is process 1.
            out.extend([format!("LISTEN_FDS={sockets}"), "LISTEN_PID=1".to_owned()]);
        }
        SocketOwnership::Service { .. } => {}
    }
    out
}

impl Generation {
    /// Mounts its root. Nothing runs yet.
    pub fn build(
        number: u32,
        image: &str,
        image_dir: &Path,
        manifest: ServiceManifest,
        data_serial: Option<&str>,
    ) -> Result<Self, Failure> {
        let mut root = Root::build(&manifest.name, number, image_dir, manifest.scratch_bytes)?;
        if let Some(serial) = data_serial {
            let Some(dir) = manifest.data_dir.as_deref() else {
                return Err(Failure::unsupported(format!(
                    "service {} has no folder for a data disk",
                    manifest.name
                )));
            };
            root.mount_data(&DataDisk { serial, dir })?;
        }
        Ok(Self { image: image.to_owned(), manifest, root, process: None, log: None })
    }

    /// Does a prepare step, or starts it: then the task tells the end.
    pub fn prepare(
        &self,
        step: usize,
        cgroup: BorrowedFd<'_>,
        now: Instant,
    ) -> Result<Option<Task>, Failure> {
        match self.manifest.prepare.get(step) {
            None => Ok(None),
            Some(PrepareStep::Directory { path, user, mode }) => {
                self.root.ensure_directory(path, *user, *mode)?;
                Ok(None)
            }
            Some(PrepareStep::Run { unless_exists: Some(path), .. }) if self.root.exists(path) => Ok(None),
            Some(PrepareStep::Run { argv, user, stdin, timeout_ms, .. }) => Task::start(
                TaskSpec {
                    argv,
                    environment: &environment(&self.manifest, 0),
                    root: Some(self.root.path()),
                    cgroup: Some(cgroup),
                    user: Some((user.uid, user.gid)),
                    confined: true,
                    stdin: stdin.clone().into_bytes(),
                    timeout: Duration::from_millis(*timeout_ms),
                    output_bytes_max: LOG_BYTES_MAX,
                },
                now,
            )
            .map(Some),
        }
    }

    /// Starts its process on these sockets.
    pub fn start(&mut self, cgroup: BorrowedFd<'_>, sockets: &[OwnedFd]) -> Result<(), Failure> {
        let argv = c_strings(&self.manifest.argv)?;
        let environment = c_strings(&environment(&self.manifest, sockets.len()))?;
        let (log_read, log_write) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|e| Failure::system("make a pipe", &e))?;
        rustix::io::ioctl_fionbio(&log_read, true).map_err(|e| Failure::system("prepare a pipe", &e))?;
        let null = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Failure::system("open /dev/null", &e))?;
        let inherited: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        let spawned = spawn(&SpawnSpec {
            argv: &argv,
            environment: &environment,
            root: Some(self.root.path()),
            pid_namespace: true,
            cgroup: Some(cgroup),
            user: Some((self.manifest.user.uid, self.manifest.user.gid)),
            stdio: [null.as_fd(), log_write.as_fd(), log_write.as_fd()],
            inherited: &inherited,
            confined: true,
        })
        .map_err(|e| Failure::system(format!("start service {}", self.manifest.name), &e))?;
        self.process = Some(Process::new(spawned));
        self.log = Some(log_read);
        Ok(())
    }

    /// Runs a program beside the service, in its root and control group.
    pub fn run_beside(
        &self,
        spec: TaskSpec<'_>,
        cgroup: BorrowedFd<'_>,
        now: Instant,
    ) -> Result<Task, Failure> {
        Task::start(TaskSpec { root: Some(self.root.path()), cgroup: Some(cgroup), ..spec }, now)
    }

    /// Its first process, seen from the agent.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Asks its first process to do something.
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(kernel_signal(signal));
        }
    }

    /// Ends its first process, and with that everything in its process namespace.
    pub fn kill(&self) {
        if let Some(process) = &self.process {
            process.signal(rustix::process::Signal::KILL);
        }
    }

    /// How its process ended, once.
    pub fn take_end(&mut self, log: &mut Log) -> Option<Ended> {
        self.read_log(log);
        let ended = self.process.as_mut()?.try_wait()?;
        self.read_log(log);
        self.process = None;
        self.log = None;
        Some(ended)
    }

    /// Whether enough of its workers run.
    pub fn has_workers(&self, cgroup: &str, reader: &mut Reader) -> bool {
        let Some(first) = self.pid() else { return false };
        let mut is_worker = |pid: &u32| {
            let stat = reader.read(format!("/proc/{pid}/stat")).and_then(process_stat);
            stat.is_some_and(|stat| stat.parent == first && stat.state != 'Z')
        };
        let workers = processes_in(cgroup).iter().filter(|pid| is_worker(pid)).count();
        workers >= self.manifest.ready.workers_min as usize
    }

    /// What wakes it.
    pub fn wake_fds<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        fds.extend(self.log.as_ref().map(|log| PollFd::new(log, PollFlags::IN)));
        fds.extend(self.process.as_ref().map(|p| PollFd::from_borrowed_fd(p.pidfd(), PollFlags::IN)));
    }

    fn read_log(&mut self, log: &mut Log) {
        let mut chunk = [0u8; 2048];
        // A bound on one turn, as for a task's output.
        for _ in 0..32 {
            let Some(pipe) = &self.log else { return };
            match rustix::io::read(pipe, &mut chunk) {
                Ok(0) => self.log = None,
                Ok(got) => log.push(&chunk[..got]),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        // Its root goes with it: nothing may go on running there.
        self.kill();
    }
}
