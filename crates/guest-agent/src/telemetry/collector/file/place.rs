//! Which file systems are walked: those that are on this guest's own disks, each once, and a root that is in memory.
//! Must never choose one behind a network or a program, which may let the walk wait.

use super::super::mount::{Mount, each_mount};
use std::path::{Path, PathBuf};

/// Kinds of file systems on disks.
const LOCAL: [&str; 16] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "reiserfs", "nilfs2", "bcachefs", "zfs", "ntfs3",
    "vfat", "exfat", "hfsplus", "ufs",
];
/// Kinds that count only as the root: in memory, or over something else.
const ROOTS: [&str; 4] = ["tmpfs", "rootfs", "ramfs", "overlay"];
/// Kinds that are read-only images.
const IMAGES: [&str; 4] = ["erofs", "squashfs", "iso9660", "cramfs"];
/// Most file systems that are walked.
const PLACES_MAX: usize = 64;

/// Where a file system is walked from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Whether it keeps the time at which a file was read.
    pub keeps_read_time: bool,
}

/// The file systems.
#[derive(Debug, Default)]
pub struct Places {
    /// Those that are walked.
    pub walked: Vec<Place>,
    /// Images, which are not.
    pub images: u32,
    /// Whether there are more than may be walked.
    pub is_cut: bool,
}

/// What is walked of the mounts of a machine.
fn choose(mounts: Vec<Mount>) -> Places {
    let mut places = Places::default();
    let mut images: Vec<&str> = Vec::new();
    let mut chosen: Vec<&Mount> = Vec::new();
    for mount in &mounts {
        let kind = mount.kind.as_str();
        if IMAGES.contains(&kind) && !images.contains(&mount.device.as_str()) {
            images.push(&mount.device);
        }
        let is_root = mount.point == Path::new("/") && ROOTS.contains(&kind);
        if !is_root && !LOCAL.contains(&kind) {
            continue;
        }
        // What is mounted over another mount hides it.
        chosen.retain(|other| other.point != mount.point);
        // A part of what is walked elsewhere, as a folder that is bound to a second place.
        let holds = |a: &Mount, b: &Mount| a.device == b.device && b.root.starts_with(&a.root);
        if chosen.iter().any(|other| holds(other, mount)) {
            continue;
        }
        chosen.retain(|other| !holds(mount, other));
        if chosen.len() == PLACES_MAX {
            places.is_cut = true;
            continue;
        }
        chosen.push(mount);
    }
    let place = |mount: &&Mount| {
        let has = |option: &str| mount.options.split(',').any(|word| word == option);
        Place { point: mount.point.clone(), keeps_read_time: !has("noatime") && !has("ro") }
    };
    places.walked = chosen.iter().map(place).collect();
    places.images = u32::try_from(images.len()).unwrap_or(u32::MAX);
    places
}

/// Those of this machine. `None`: not known.
pub fn places(mounts: &Path) -> Option<Places> {
    let mut all = Vec::new();
    let kinds = |kind: &str| LOCAL.contains(&kind) || ROOTS.contains(&kind) || IMAGES.contains(&kind);
    // Hundreds of a container host's overlays are not held.
    let is_wanted = |mount: &Mount| {
        kinds(&mount.kind) && (!ROOTS.contains(&mount.kind.as_str()) || mount.point == Path::new("/"))
    };
    let is_whole = each_mount(mounts, |mount| all.extend(is_wanted(&mount).then_some(mount)));
    // Of a list that is too long, those that were made first are walked.
    (is_whole || !all.is_empty()).then(|| {
        let places = choose(all);
        Places { is_cut: places.is_cut || !is_whole, ..places }
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::mount::parse;
    use super::*;

    fn chosen(lines: &[&str]) -> (Vec<(String, bool)>, u32) {
        let places = choose(lines.iter().map(|line| parse(line.as_bytes()).unwrap()).collect());
        let walked = places.walked.iter();
        let walked = walked.map(|place| (place.point.display().to_string(), place.keeps_read_time));
        (walked.collect(), places.images)
    }

    #[test]
    fn each_disk_is_walked_once_and_images_are_counted() {
        let (walked, images) = chosen(&[
            "1 0 0:2 / / rw - rootfs rootfs rw",
            "2 1 254:0 / / rw,relatime - ext4 /dev/vda rw",
            "3 2 254:0 /srv /mnt/bound rw - ext4 /dev/vda rw",
            "4 2 254:16 /a /mnt/a rw,noatime - btrfs /dev/vdb rw",
            "5 2 254:16 /b /mnt/b rw - btrfs /dev/vdb rw",
            "6 2 0:20 / /run rw - tmpfs tmpfs rw",
            "7 2 254:32 / /run/proteus/image/web ro - erofs /dev/vdc ro",
            "8 2 0:30 / /run/proteus/service/web/1/root rw - overlay overlay rw",
            "9 2 254:48 / /run/proteus/service/web/1/root/data rw - ext4 /dev/vdd rw",
            "10 2 254:48 / /run/proteus/service/web/2/root/data rw - ext4 /dev/vdd rw",
            "11 2 0:40 / /home rw - nfs4 server:/home rw",
        ]);
        let wanted = [
            ("/", true),
            ("/mnt/a", false),
            ("/mnt/b", true),
            ("/run/proteus/service/web/1/root/data", true),
        ];
        assert_eq!(walked, wanted.map(|(point, keeps)| (point.to_owned(), keeps)));
        assert_eq!(images, 1);
    }

    #[test]
    fn a_root_in_memory_is_walked_and_the_whole_takes_the_place_of_a_part() {
        assert_eq!(chosen(&["1 0 0:2 / / rw - rootfs rootfs rw"]).0, [("/".to_owned(), true)]);
        let (walked, _) =
            chosen(&["1 0 8:1 /part /a rw - xfs /dev/sda1 rw", "2 0 8:1 / /b ro - xfs /dev/sda1 rw"]);
        assert_eq!(walked, [("/b".to_owned(), false)]);
    }
}
