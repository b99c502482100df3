//! Which of a host's resources could be divided between VMs by weight, looked up and not assumed. CPU is, by control
//! groups; of the rest this says what stands in the way. Must never claim what no knob turns.

use proteus_model::capability::{Ability, CapabilityReport};
use proteus_model::vm::VmIntent;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Folder of the block devices' settings.
const SYS: &str = "/sys/dev/block";

/// Name and scheduler of the block device of this number; `None`: it is none (a memory file system, an overlay).
fn scheduler(sys: &Path, major: u32, minor: u32) -> Option<(String, String)> {
    let device = fs::canonicalize(sys.join(format!("{major}:{minor}"))).ok()?;
    // A partition has no queue of its own: its disk has.
    let disk: PathBuf =
        [device.as_path(), device.parent()?].into_iter().find(|d| d.join("queue").is_dir())?.into();
    let text = fs::read_to_string(disk.join("queue/scheduler")).ok()?;
    let chosen =
        text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("none", |(word, _)| word);
    Some((disk.file_name()?.to_string_lossy().into_owned(), chosen.to_owned()))
}

fn device_of(path: &Path) -> io::Result<(u32, u32)> {
    let number = fs::metadata(path)?.dev();
    Ok((rustix::fs::major(number), rustix::fs::minor(number)))
}

/// Why operations on this VM's disks are not divided by weight.
fn why_not_storage(sys: &Path, intent: &VmIntent) -> String {
    let Some(disk) = intent.disks.iter().find(|disk| !disk.read_only) else {
        return "the VM has no disk to write to".into();
    };
    let found = device_of(&disk.path).ok().and_then(|(major, minor)| scheduler(sys, major, minor));
    match found {
        None => format!("the disk {} is on a file system without a block device of the host", disk.name),
        Some((device, chosen)) if chosen == "bfq" => {
            format!("the device {device} could divide by weight (bfq), but nothing of Proteus turns that yet")
        }
        Some((device, chosen)) => format!(
            "the device {device} takes operations in the order of the scheduler {chosen}, which knows no weights \
             (bfq does)"
        ),
    }
}

/// Why it is not said whose memory is reclaimed first; `swaps`: the text of `/proc/swaps`.
fn why_not_memory(swaps: &str) -> &'static str {
    // The first line is a heading.
    if swaps.lines().count() > 1 {
        "guests' memory is in /dev/shm, and nothing of Proteus orders what the host swaps out of it yet"
    } else {
        "guests' memory is in /dev/shm and the host has no swap: it reclaims none of it, in whatever order"
    }
}

/// Notes of each weight beside the CPU's why it is not turned here.
pub(crate) fn report(report: &mut CapabilityReport, intent: &VmIntent) {
    report.lacks(Ability::StorageWeight, why_not_storage(Path::new(SYS), intent));
    report
        .lacks(Ability::MemoryWeight, why_not_memory(&fs::read_to_string("/proc/swaps").unwrap_or_default()));
    report.lacks(
        Ability::NetworkWeight,
        "guests' links meet on a bridge that no line limits: there is nothing to divide (`resources.network` limits \
         a link)",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheduler_is_that_of_the_disk_below_a_partition() {
        let sys = tempfile::tempdir().unwrap();
        let disk = sys.path().join("devices/vda");
        fs::create_dir_all(disk.join("queue")).unwrap();
        fs::create_dir_all(disk.join("vda1")).unwrap();
        std::os::unix::fs::symlink(&disk, sys.path().join("254:0")).unwrap();
        std::os::unix::fs::symlink(disk.join("vda1"), sys.path().join("254:1")).unwrap();
        for (text, chosen) in
            [("none [mq-deadline] bfq\n", "mq-deadline"), ("[bfq] none\n", "bfq"), ("none\n", "none")]
        {
            fs::write(disk.join("queue/scheduler"), text).unwrap();
            for minor in [0, 1] {
                assert_eq!(scheduler(sys.path(), 254, minor), Some(("vda".to_owned(), chosen.to_owned())));
            }
        }
        assert_eq!(scheduler(sys.path(), 0, 33), None);
    }

    #[test]
    fn without_swap_no_order_of_reclaim_means_anything() {
        assert!(why_not_memory("Filename Type Size Used Priority\n").contains("no swap"));
        assert!(!why_not_memory("Filename Type\n/dev/vdb partition 1 0 -2\n").contains("no swap"));
    }
}
