//! Which processes and control groups an application is. Must never guess: what is not found is an error.

use crate::failure::Failure;
use crate::procfs::{Reader, process_ids, process_stat, read_text};
use proteus_protocol::guest::v1::setting::ApplicationSelector;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where control groups of version 2 are mounted.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// Folder of the control groups of the agent's own services, below the mount.
pub const SERVICES: &str = "proteus";
/// Most control groups that are walked to find a unit.
const WALK_MAX: usize = 4096;

/// An application's processes and the groups that hold nothing else.
#[derive(Debug, Default)]
pub struct Found {
    /// Process ids, in order.
    pub pids: BTreeSet<u32>,
    /// Paths below the mount.
    pub cgroups: Vec<String>,
}

/// Folder of a control group.
pub fn cgroup_dir(path: &str) -> PathBuf {
    Path::new(CGROUP_ROOT).join(path)
}

/// The control group of a service, a unit, or the one that is named.
pub fn cgroup_of(selector: &ApplicationSelector) -> Result<String, Failure> {
    let path = match selector {
        ApplicationSelector::Service(name) => format!("{SERVICES}/{name}"),
        ApplicationSelector::Cgroup { path } => path.clone(),
        ApplicationSelector::Unit { name } => {
            find_unit(name).ok_or_else(|| Failure::not_found(format!("a control group of unit {name}")))?
        }
        ApplicationSelector::Process { name } => {
            return Err(Failure::unsupported(format!("process name {name} does not name one control group")));
        }
    };
    if cgroup_dir(&path).is_dir() {
        Ok(path)
    } else {
        Err(Failure::not_found(format!("control group {path}")))
    }
}

fn find_unit(unit: &str) -> Option<String> {
    let mut open = vec![PathBuf::from(CGROUP_ROOT)];
    let mut walked = 0;
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).ok()?.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) || walked >= WALK_MAX {
                continue;
            }
            walked += 1;
            if entry.file_name() == unit {
                let path = entry.path();
                return Some(path.strip_prefix(CGROUP_ROOT).ok()?.to_string_lossy().into_owned());
            }
            open.push(entry.path());
        }
    }
    None
}

/// Processes in a control group and below.
pub fn processes_in(path: &str) -> BTreeSet<u32> {
    let mut pids = BTreeSet::new();
    let mut open = vec![cgroup_dir(path)];
    while let Some(dir) = open.pop() {
        let text = read_text(dir.join("cgroup.procs")).unwrap_or_default();
        // 0 is a process of a namespace that cannot be seen from here.
        pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid > 0));
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        open.extend(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    pids
}

/// Processes of a name.
pub fn processes_named(name: &str) -> BTreeSet<u32> {
    let mut reader = Reader::default();
    let is_named = |pid: &u32| {
        let stat = reader.read(format!("/proc/{pid}/stat")).and_then(process_stat);
        stat.is_some_and(|stat| stat.name == name && !stat.is_kernel())
    };
    process_ids().into_iter().filter(is_named).collect()
}

/// Control group of a process, below the mount; the root group is empty.
fn cgroup_of_process(pid: u32) -> Option<String> {
    let text = read_text(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::/")).map(str::to_owned)
}

/// Everything that an application is at this moment.
pub fn find(selector: &ApplicationSelector) -> Result<Found, Failure> {
    let found = match selector {
        ApplicationSelector::Process { name } => {
            let pids = processes_named(name);
            let groups: BTreeSet<String> = pids.iter().filter_map(|pid| cgroup_of_process(*pid)).collect();
            let alone = |path: &String| !path.is_empty() && processes_in(path).is_subset(&pids);
            Found { cgroups: groups.into_iter().filter(alone).collect(), pids }
        }
        _ => {
            let path = cgroup_of(selector)?;
            Found { pids: processes_in(&path), cgroups: vec![path] }
        }
    };
    if found.pids.is_empty() {
        Err(Failure::not_found(format!("a process of {selector:?}")))
    } else {
        Ok(found)
    }
}
