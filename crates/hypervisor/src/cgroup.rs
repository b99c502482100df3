//! CPU cap and weight of a set of threads, by cgroup v1 or v2, whichever holds the `cpu` controller. Only vCPU
//! threads go in: capping the whole process would stall its control socket.
//!
//! v1: one group per VM; threads by `tasks`, cap by `cpu.cfs_quota_us`, weight by `cpu.shares`.
//! v2: one domain group per VM for the process and its weight, in it a *threaded* group for vCPUs and their cap. There the
//! books of memory and disks are kept too, where this host hands out their controllers ([`Group::counters`]).

mod book;

use proteus_model::setting::Weight;
use proteus_model::unit::MilliCpu;
use proteus_model::vm::GroupCounters;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Length of the period over which a cap is counted. Short: a capped guest then pauses for at most 20 ms at a
/// time (with 100 ms, ping would see 100 ms).
const PERIOD_US: u64 = 20_000;
/// Least CPU that can be granted: the kernel takes no quota under 1 ms, and 1 ms of 20 ms is 50 thousandths.
pub const CAP_MIN: MilliCpu = MilliCpu(50);

/// Longest file that is read: thousands of threads, or of mounts.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Which hierarchy holds the `cpu` controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy per controller.
    V1,
    /// One for all.
    V2,
}

/// Where this host's `cpu` controller is.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    /// Which.
    pub version: Version,
    base: PathBuf,
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::write(path, value).map_err(|e| io::Error::new(e.kind(), format!("{} ← {value}: {e}", path.display())))
}

fn read(path: &Path) -> io::Result<String> {
    // Without asking first how long it is, which the kernel does not say of such a file: it is read every second.
    let whole = || -> io::Result<String> {
        let mut text = String::with_capacity(4096);
        fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text)
    };
    whole().map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// Our own group, made free of processes: a group with processes in it cannot hand controllers to its children.
fn own_group(root: &Path) -> io::Result<PathBuf> {
    let own = read(Path::new("/proc/self/cgroup"))?;
    let own = own.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("/").trim_start_matches('/');
    let mut parent = root.join(own);
    if parent.ends_with("supervisor") {
        parent.pop();
        return Ok(parent);
    }
    let aside = parent.join("supervisor");
    fs::create_dir_all(&aside)?;
    write(&aside.join("cgroup.procs"), "0")?;
    Ok(parent)
}

/// Hands controllers that only keep books to the children of a group: memory and IO of a VM are counted where they are
/// there, and missing where they are not.
fn hand_on_books(group: &Path) {
    let there = read(&group.join("cgroup.controllers")).unwrap_or_default();
    for controller in ["memory", "io"] {
        if !there.split_whitespace().any(|word| word == controller) {
            continue;
        }
        if let Err(error) = write(&group.join("cgroup.subtree_control"), &format!("+{controller}")) {
            tracing::debug!(%error, controller, "what VMs take of the host is not counted by it");
        }
    }
}

impl Hierarchy {
    /// Looks where the controller is, and makes the group of this instance in it.
    pub fn find(instance: &str) -> io::Result<Self> {
        let mounts = read(Path::new("/proc/self/mounts"))?;
        let mut v2 = None;
        for line in mounts.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let [_, place, kind, options, ..] = fields[..] else { continue };
            if kind == "cgroup" && options.split(',').any(|o| o == "cpu") {
                let base = Path::new(place).join(format!("proteus-{instance}"));
                fs::create_dir_all(&base)?;
                return Ok(Self { version: Version::V1, base });
            }
            if kind == "cgroup2" {
                v2 = Some(PathBuf::from(place));
            }
        }
        let root =
            v2.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup hierarchy is mounted"))?;
        Self::find_v2(&root, instance)
    }

    fn find_v2(root: &Path, instance: &str) -> io::Result<Self> {
        // The true root has no `cgroup.type`, may hold processes beside children, and is nobody's but the kernel's:
        // groups there outlive a restart of our service, which systemd would refuse to start beside children of its
        // own. Only inside a cgroup namespace is there no such root; then our own group is the parent.
        let parent = if root.join("cgroup.type").exists() { own_group(root)? } else { root.to_owned() };
        write(&parent.join("cgroup.subtree_control"), "+cpu")?;
        hand_on_books(&parent);
        let base = parent.join(format!("proteus-{instance}"));
        fs::create_dir_all(&base)?;
        write(&base.join("cgroup.subtree_control"), "+cpu")?;
        hand_on_books(&base);
        Ok(Self { version: Version::V2, base })
    }

    /// How it is called in a capability report.
    pub fn mechanism(&self, v1: &str, v2: &str) -> String {
        match self.version {
            Version::V1 => format!("cgroup v1 {v1}"),
            Version::V2 => format!("cgroup v2 {v2}"),
        }
    }

    /// Removes the group of this instance if nothing is left in it.
    pub fn remove_if_empty(&self) {
        // Busy means that VMs still run: theirs to keep.
        let _ = fs::remove_dir(&self.base);
    }

    /// The group of a VM, made where it is not there.
    pub fn ensure_group(&self, name: &str) -> io::Result<Group> {
        let domain = self.base.join(name);
        fs::create_dir_all(&domain)?;
        let threads = match self.version {
            Version::V1 => domain.clone(),
            Version::V2 => domain.join("vcpu"),
        };
        if self.version == Version::V2 {
            fs::create_dir_all(&threads)?;
            // A crash may have come between making the group and saying what it is.
            if read(&threads.join("cgroup.type"))?.trim() != "threaded" {
                write(&threads.join("cgroup.type"), "threaded")?;
            }
            write(&domain.join("cgroup.subtree_control"), "+cpu")?;
        }
        Ok(Group { version: self.version, domain, threads })
    }
}

fn stalled_us(text: &str) -> Option<u64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split(' ').find_map(|field| field.strip_prefix("total="))?.parse().ok()
}

/// The group of one VM.
#[derive(Debug, Clone)]
pub struct Group {
    version: Version,
    domain: PathBuf,
    threads: PathBuf,
}

impl Group {
    /// Takes the threads in; on v2 the process first.
    pub fn take_in(&self, pid: u32, threads: &[u32]) -> io::Result<()> {
        let list = match self.version {
            Version::V1 => self.threads.join("tasks"),
            Version::V2 => {
                write(&self.domain.join("cgroup.procs"), &pid.to_string())?;
                self.threads.join("cgroup.threads")
            }
        };
        threads.iter().try_for_each(|tid| write(&list, &tid.to_string()))
    }

    /// Holds the threads, all together, to so much CPU; `None`: to nothing.
    pub fn set_cap(&self, limit: Option<MilliCpu>) -> io::Result<()> {
        let quota = limit.map(|l| u64::from(l.0) * PERIOD_US / 1000);
        match self.version {
            Version::V1 => {
                write(&self.threads.join("cpu.cfs_period_us"), &PERIOD_US.to_string())?;
                let quota = quota.map_or("-1".into(), |q| q.to_string());
                write(&self.threads.join("cpu.cfs_quota_us"), &quota)
            }
            Version::V2 => {
                let quota = quota.map_or("max".into(), |q| q.to_string());
                write(&self.threads.join("cpu.max"), &format!("{quota} {PERIOD_US}"))
            }
        }
    }

    /// What they are held to.
    pub fn cap(&self) -> io::Result<Option<MilliCpu>> {
        let (quota, period) = match self.version {
            Version::V1 => (
                read(&self.threads.join("cpu.cfs_quota_us"))?,
                read(&self.threads.join("cpu.cfs_period_us"))?,
            ),
            Version::V2 => {
                let text = read(&self.threads.join("cpu.max"))?;
                let (quota, period) = text.trim().split_once(' ').unwrap_or(("max", "100000"));
                (quota.to_owned(), period.to_owned())
            }
        };
        let period: u64 = period.trim().parse().unwrap_or(PERIOD_US).max(1);
        // "max" and "-1" are no number of microseconds: unlimited.
        let Ok(quota) = quota.trim().parse::<u64>() else { return Ok(None) };
        Ok(Some(MilliCpu(u32::try_from(quota.saturating_mul(1000) / period).unwrap_or(u32::MAX))))
    }

    /// Their share where others want the CPU too.
    pub fn set_weight(&self, weight: Weight) -> io::Result<()> {
        match self.version {
            Version::V1 => write(&self.domain.join("cpu.shares"), &weight.shares().to_string()),
            Version::V2 => write(&self.domain.join("cpu.weight"), &weight.clamped().0.to_string()),
        }
    }

    /// That share.
    pub fn weight(&self) -> io::Result<Weight> {
        let number = |text: String| text.trim().parse::<u64>().map_err(io::Error::other);
        match self.version {
            Version::V1 => number(read(&self.domain.join("cpu.shares"))?).map(Weight::from_shares),
            Version::V2 => number(read(&self.domain.join("cpu.weight"))?)
                .map(|w| Weight(u32::try_from(w).unwrap_or(u32::MAX))),
        }
    }

    /// The threads in it.
    pub fn threads(&self) -> io::Result<Vec<u32>> {
        let list = match self.version {
            Version::V1 => "tasks",
            Version::V2 => "cgroup.threads",
        };
        Ok(read(&self.threads.join(list))?.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Time that the cap held the threads back, ns since the group was made.
    pub fn throttled_ns(&self) -> Option<u64> {
        let (field, factor) = match self.version {
            Version::V1 => ("throttled_time ", 1),
            Version::V2 => ("throttled_usec ", 1000),
        };
        let text = read(&self.threads.join("cpu.stat")).ok()?;
        let value = text.lines().find_map(|line| line.strip_prefix(field))?;
        Some(value.trim().parse::<u64>().ok()? * factor)
    }

    /// Time in which a thread of the VMM waited for CPU, memory and disks, µs since the group was made; the line `some`
    /// of `RESOURCE.pressure` (Linux, Documentation/accounting/psi.rst). cgroup v1 has none of it.
    pub fn stalled_us(&self) -> [Option<u64>; 3] {
        ["cpu", "memory", "io"].map(|resource| {
            if self.version == Version::V1 {
                return None;
            }
            stalled_us(&read(&self.domain.join(format!("{resource}.pressure"))).ok()?)
        })
    }

    /// What it took of the host's memory and disks; cgroup v1 has these books elsewhere, and they are not read.
    pub fn counters(&self) -> GroupCounters {
        match self.version {
            Version::V1 => GroupCounters::default(),
            Version::V2 => book::read(&self.domain, Path::new("/sys/dev/block")),
        }
    }

    /// Removes the group; its process must be gone.
    pub fn remove(&self) -> io::Result<()> {
        for dir in [&self.threads, &self.domain] {
            match fs::remove_dir(dir) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_that_are_there_are_handed_on_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (there, asked) =
            (dir.path().join("cgroup.controllers"), dir.path().join("cgroup.subtree_control"));
        for (controllers, expected) in
            [("cpuset cpu io\n", "+io"), ("cpu memory pids\n", "+memory"), ("cpu\n", "")]
        {
            fs::write(&there, controllers).unwrap();
            fs::write(&asked, "").unwrap();
            hand_on_books(dir.path());
            assert_eq!(fs::read_to_string(&asked).unwrap(), expected);
        }
    }

    #[test]
    fn pressure_is_the_total_of_what_some_waited() {
        let text = "some avg10=0.44 avg60=0.45 avg300=1.28 total=19691920923\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(stalled_us(text), Some(19_691_920_923));
        for text in ["", "full avg10=0.00 total=7\n", "some avg10=0.44\n", "some total=-1\n"] {
            assert_eq!(stalled_us(text), None, "{text}");
        }
    }
}
