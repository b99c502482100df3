//! Control groups (version 2), down to three levels. Must never walk without a limit: a guest's user can make
//! thousands.

use super::pressure;
use crate::procfs::{Reader, field};
use proteus_protocol::guest::v1::sample::{CGROUPS_MAX, Cgroup};
use std::path::{Path, PathBuf};

/// Where version 2 is mounted.
pub const ROOT: &str = "/sys/fs/cgroup";
/// Most groups that are read in one look.
const READ_MAX: usize = 64;
/// As deep as `system.slice/…/unit.service`.
const DEPTH_MAX: usize = 3;

/// Groups with a memory count, largest first.
pub fn largest(reader: &mut Reader) -> Option<Vec<Cgroup>> {
    if !Path::new(ROOT).join("cgroup.controllers").exists() {
        return None;
    }
    let mut found = Vec::new();
    let mut open = vec![(PathBuf::from(ROOT), 0)];
    while let Some((dir, depth)) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            if found.len() + open.len() >= READ_MAX {
                break;
            }
            let path = entry.path();
            found.push(read(reader, &path));
            if depth + 1 < DEPTH_MAX {
                open.push((path, depth + 1));
            }
        }
    }
    found.sort_by_key(|group| std::cmp::Reverse(group.memory));
    found.truncate(CGROUPS_MAX);
    Some(found)
}

fn read(reader: &mut Reader, dir: &Path) -> Cgroup {
    let path = dir.strip_prefix(ROOT).unwrap_or(dir).to_string_lossy().into_owned();
    let mut group = Cgroup { path, ..Cgroup::default() };
    if let Some(text) = reader.read(dir.join("cpu.stat")) {
        group.cpu_us = field(text, "usage_usec");
        group.throttled_us = field(text, "throttled_usec");
    }
    let number = |text: &str| text.trim().parse::<u64>().ok();
    group.memory = reader.read(dir.join("memory.current")).and_then(number);
    group.tasks = reader.read(dir.join("pids.current")).and_then(number).and_then(|v| u32::try_from(v).ok());
    if let Some(text) = reader.read(dir.join("io.stat")) {
        group.read = Some(io_total(text, "rbytes="));
        group.written = Some(io_total(text, "wbytes="));
    }
    group.memory_pressure = reader.read(dir.join("memory.pressure")).and_then(|text| pressure(text, "some"));
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
