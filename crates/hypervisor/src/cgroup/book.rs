//! The kernel's books of a group of cgroup v2: memory and IO (Linux, Documentation/admin-guide/cgroup-v2.rst). Must never
//! take a book that is not kept for an empty one.

use proteus_model::unit::Bytes;
use proteus_model::vm::GroupCounters;
use std::path::Path;

/// The number behind a word, in a file with one of each a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Bytes and operations, read and written.
#[derive(Debug, Default, PartialEq, Eq)]
struct Io([u64; 4]);

/// Sums up `io.stat`. `is_stacked`: whether a device, by its number, is made of others, where the same is counted again.
fn io(text: &str, is_stacked: impl Fn(&str) -> bool) -> Io {
    let mut sum = Io::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next().is_none_or(&is_stacked) {
            continue;
        }
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let place = ["rbytes", "wbytes", "rios", "wios"].iter().position(|known| *known == name);
            if let (Some(place), Ok(value)) = (place, value.parse::<u64>()) {
                sum.0[place] = sum.0[place].saturating_add(value);
            }
        }
    }
    sum
}

/// What the group at `group` took. `devices`: where the host's block devices are by their numbers.
pub(super) fn read(group: &Path, devices: &Path) -> GroupCounters {
    let text = |name: &str| super::read(&group.join(name)).ok();
    let (stat, events) = (text("memory.stat"), text("memory.events"));
    let bytes = |name: &str| field(stat.as_deref()?, name).map(Bytes);
    let is_stacked = |device: &str| {
        let parts = std::fs::read_dir(devices.join(device).join("slaves"));
        parts.is_ok_and(|mut parts| parts.next().is_some())
    };
    let io = text("io.stat").map(|text| io(&text, is_stacked).0);
    GroupCounters {
        memory: text("memory.current").and_then(|text| text.trim().parse().ok()).map(Bytes),
        anonymous: bytes("anon"),
        file: bytes("file"),
        oom_kills: events.and_then(|events| field(&events, "oom_kill")),
        read: io.map(|io| io[0]),
        written: io.map(|io| io[1]),
        reads: io.map(|io| io[2]),
        writes: io.map(|io| io[3]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_that_are_kept_are_read_and_those_that_are_not_are_missing() {
        let dir = tempfile::tempdir().unwrap();
        let (group, devices) = (dir.path().join("group"), dir.path().join("devices"));
        std::fs::create_dir_all(devices.join("253:0/slaves/sda")).unwrap();
        std::fs::create_dir_all(devices.join("8:0/slaves")).unwrap();
        std::fs::create_dir(&group).unwrap();
        assert_eq!(read(&group, &devices), GroupCounters::default());
        let put = |name: &str, text: &str| std::fs::write(group.join(name), text).unwrap();
        put("memory.current", "16777216\n");
        put("memory.stat", "anon 4194304\nfile 8388608\nanon_thp 7\nfile_mapped 9\n");
        put("memory.events", "low 0\nhigh 0\nmax 0\noom 3\noom_kill 2\noom_group_kill 0\n");
        let memory = read(&group, &devices);
        let mib = |mib| Some(Bytes::mib(mib));
        assert_eq!((memory.memory, memory.anonymous, memory.file), (mib(16), mib(4), mib(8)));
        assert_eq!((memory.oom_kills, memory.read), (Some(2), None));
        // A volume on a disk is counted at the disk; what is no number is left out.
        put(
            "io.stat",
            "8:0 rbytes=1000 wbytes=2000 rios=3 wios=4 dbytes=0 dios=0\n\
             253:0 rbytes=1000 wbytes=2000 rios=3 wios=4\n\
             8:16 rbytes=5 wbytes=x rios=1\n\n",
        );
        let io = read(&group, &devices);
        assert_eq!((io.read, io.written, io.reads, io.writes), (Some(1005), Some(2000), Some(4), Some(4)));
        put("io.stat", "");
        assert_eq!(read(&group, &devices).written, Some(0), "nothing was written, which is known");
    }
}
