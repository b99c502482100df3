//! Control groups (version 2), down to three levels. Must never walk without a limit: a guest's user can make
//! thousands.

use super::pressure;
use crate::procfs::{Reader, each_entry, fields};
use proteus_protocol::guest::v1::sample::{CGROUPS_MAX, Cgroup};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where version 2 is mounted.
pub const ROOT: &str = "/sys/fs/cgroup";
/// Most groups that are read in one look.
const READ_MAX: usize = 64;
/// As deep as `system.slice/…/unit.service`.
const DEPTH_MAX: usize = 3;

/// Most groups whose files stay open between two looks: each takes five descriptors.
const KEPT_MAX: usize = 24;

/// The files of a group.
#[derive(Default)]
struct Files {
    cpu: Option<File>,
    memory: Option<File>,
    tasks: Option<File>,
    io: Option<File>,
    pressure: Option<File>,
}

/// What the last look saw.
#[derive(Default)]
pub struct Groups {
    kept: BTreeMap<PathBuf, Files>,
}

/// Whether groups are in this one: the kernel counts them as links, and listing its dozens of files costs more.
fn is_leaf(dir: &Path) -> bool {
    std::fs::metadata(dir).is_ok_and(|metadata| metadata.nlink() == 2)
}

/// The groups below the root, at most [`READ_MAX`].
fn walk() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![(PathBuf::from(ROOT), 0)];
    while let Some((dir, depth)) = open.pop() {
        each_entry(&dir, |name, is_dir| {
            if !is_dir || found.len() + open.len() >= READ_MAX {
                return;
            }
            let path = dir.join(OsStr::from_bytes(name.to_bytes()));
            if depth + 1 < DEPTH_MAX && !is_leaf(&path) {
                open.push((path.clone(), depth + 1));
            }
            found.push(path);
        });
    }
    found
}

impl Groups {
    /// Groups with a memory count, largest first.
    pub fn largest(&mut self, reader: &mut Reader) -> Option<Vec<Cgroup>> {
        if !Path::new(ROOT).join("cgroup.controllers").exists() {
            return None;
        }
        let (mut before, mut found) = (std::mem::take(&mut self.kept), Vec::new());
        for dir in walk() {
            let mut files = before.remove(&dir).unwrap_or_default();
            found.push(read(reader, &dir, &mut files));
            if self.kept.len() < KEPT_MAX {
                self.kept.insert(dir, files);
            }
        }
        found.sort_by_key(|group| std::cmp::Reverse(group.memory));
        found.truncate(CGROUPS_MAX);
        Some(found)
    }
}

fn read(reader: &mut Reader, dir: &Path, files: &mut Files) -> Cgroup {
    let path = dir.strip_prefix(ROOT).unwrap_or(dir).to_string_lossy().into_owned();
    let mut group = Cgroup { path, ..Cgroup::default() };
    if let Some(text) = reader.read_kept(&mut files.cpu, dir.join("cpu.stat")) {
        [group.cpu_us, group.throttled_us] = fields(text, ["usage_usec", "throttled_usec"]);
    }
    let number = |text: &str| text.trim().parse::<u64>().ok();
    group.memory = reader.read_kept(&mut files.memory, dir.join("memory.current")).and_then(number);
    let tasks = reader.read_kept(&mut files.tasks, dir.join("pids.current")).and_then(number);
    group.tasks = tasks.and_then(|v| u32::try_from(v).ok());
    if let Some(text) = reader.read_kept(&mut files.io, dir.join("io.stat")) {
        group.read = Some(io_total(text, "rbytes="));
        group.written = Some(io_total(text, "wbytes="));
    }
    let pressed = reader.read_kept(&mut files.pressure, dir.join("memory.pressure"));
    group.memory_pressure = pressed.and_then(|text| pressure(text, "some"));
    group
}

/// Sum over all devices of one value of `io.stat`: `254:0 rbytes=1 wbytes=2 …` per line.
fn io_total(text: &str, key: &str) -> u64 {
    text.split_ascii_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_is_summed_over_devices() {
        let text = "254:0 rbytes=100 wbytes=5 rios=1\n254:16 rbytes=11 wbytes=0 rios=2\n";
        assert_eq!((io_total(text, "rbytes="), io_total(text, "wbytes=")), (111, 5));
        assert_eq!(io_total("", "rbytes="), 0);
    }
}
