//! What an instance of Proteus leaves on the host, and how a test takes it away, also when it failed. Shared by the
//! tests of several crates, which name it by its path.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Longest time for a killed VMM to leave: it gives its memory back first.
const LEAVE_LIMIT: Duration = Duration::from_secs(20);

/// An instance, by its name and the folder that its processes' command lines name.
pub struct Instance {
    pub name: String,
    folder: PathBuf,
}

/// Removes a control group and those below it, as far as nothing runs in them.
fn remove_groups(group: &Path) {
    let children = std::fs::read_dir(group).into_iter().flatten().flatten();
    children.filter(|child| child.path().is_dir()).for_each(|child| remove_groups(&child.path()));
    let _ = std::fs::remove_dir(group);
}

impl Instance {
    pub fn new(name: String, folder: PathBuf) -> Self {
        Self { name, folder }
    }

    pub fn namespace(&self) -> String {
        format!("proteus-{}", self.name)
    }

    /// Where this host's `cpu` controller keeps its control group, there or not.
    pub fn group(&self) -> PathBuf {
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts are listed");
        let of = |kind: &str, option: &str| {
            mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find_map(|fields| {
                let fits =
                    fields[2] == kind && (option.is_empty() || fields[3].split(',').any(|o| o == option));
                fits.then(|| PathBuf::from(fields[1]))
            })
        };
        of("cgroup", "cpu")
            .or_else(|| of("cgroup2", ""))
            .expect("a control group hierarchy")
            .join(self.namespace())
    }

    /// Files and folders of it.
    fn places(&self) -> Vec<PathBuf> {
        let name = self.namespace();
        let shared = ["/run/netns", "/dev/shm"].map(|dir| Path::new(dir).join(&name));
        let own = [format!("/run/{name}-dhcp"), format!("/run/{name}-uplink.json")].map(PathBuf::from);
        shared.into_iter().chain(own).chain([self.group()]).filter(|path| path.exists()).collect()
    }

    /// Its VMMs and its DHCP server: their command lines name its folder or its namespace.
    pub fn processes(&self) -> Vec<u32> {
        let marks = [self.folder.as_os_str().as_encoded_bytes().to_vec(), self.namespace().into_bytes()];
        let entries = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let tool = line.starts_with(b"qemu-system-x86_64\0") || line.starts_with(b"dnsmasq\0");
            tool && marks.iter().any(|mark| line.windows(mark.len()).any(|part| part == mark))
        })
        .collect()
    }

    /// Everything of it that is on the host.
    pub fn leftovers(&self) -> Vec<String> {
        let processes = self.processes().into_iter().map(|pid| format!("process {pid}"));
        processes.chain(self.places().iter().map(|path| path.display().to_string())).collect()
    }

    /// Ends its processes and removes everything of it.
    pub fn clear(&self) {
        for pid in self.processes() {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        let (start, group) = (Instant::now(), self.group());
        // A killed VMM's last threads leave after its first: until then its group is busy.
        while start.elapsed() < LEAVE_LIMIT && (group.exists() || !self.processes().is_empty()) {
            remove_groups(&group);
            std::thread::park_timeout(Duration::from_millis(10));
        }
        let name = self.namespace();
        if Path::new("/run/netns").join(&name).exists() {
            let _ = Command::new("ip").args(["netns", "delete", &name]).status();
        }
        for path in self.places() {
            let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
    }
}
