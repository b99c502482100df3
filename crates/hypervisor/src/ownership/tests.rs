//! Whose a disk is before, during and after. Files change hands here: only root may do that.

use super::*;
use proteus_model::id::VmId;
use proteus_model::unit::Bytes;
use proteus_model::vm::{Boot, VmIntent};

fn seat(dir: &Path, slot: u16) -> Seat {
    let dir = dir.join(format!("vm-{slot}"));
    fs::create_dir_all(&dir).unwrap();
    let intent = VmIntent::new("test".parse().unwrap(), Boot::Firmware, Bytes::mib(128));
    let id = VmId::from_bits(u128::from(slot) + 1);
    Seat { id, slot, dir, intent, attached: Vec::new(), furnished: true, newborn: false, user: None }
}

fn owned_file(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, b"data").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    chown(&path, Some(1234), Some(5678)).unwrap();
    path
}

fn is(path: &Path) -> (u32, u32, u32) {
    let now = fs::metadata(path).unwrap();
    (now.uid(), now.gid(), now.mode() & 0o7777)
}

#[test]
fn a_disk_is_its_owners_again() {
    let dir = tempfile::tempdir().unwrap();
    let (seat, disk) = (seat(dir.path(), 3), owned_file(dir.path(), "disk"));
    // Each start hands it over; the first owner counts.
    for _ in 0..2 {
        hand_over(&seat, &disk).unwrap();
        assert_eq!(is(&disk), (seat.uid(), seat.uid(), 0o640));
    }
    for _ in 0..2 {
        assert_eq!(give_back(&seat, Holder::Vmm).unwrap(), [""; 0]);
        assert_eq!(is(&disk), (1234, 5678, 0o640));
    }
}

#[test]
fn what_is_another_file_or_somebody_elses_by_then_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (seat(dir.path(), 1), seat(dir.path(), 2));
    let names = ["gone", "replaced", "taken", "shared"];
    let [gone, replaced, taken, shared] = names.map(|name| owned_file(dir.path(), name));
    for disk in [&gone, &replaced, &taken, &shared] {
        hand_over(&first, disk).unwrap();
    }
    fs::remove_file(&gone).unwrap();
    let fresh = dir.path().join("fresh");
    fs::write(&fresh, b"another").unwrap();
    chown(&fresh, Some(first.uid()), None).unwrap();
    fs::rename(&fresh, &replaced).unwrap();
    chown(&taken, Some(99), Some(99)).unwrap();
    hand_over(&second, &shared).unwrap();
    let left = give_back(&first, Holder::Vmm).unwrap();
    let words = |path: &Path, how| {
        let file = format!("{} of user 1234 {how}; if it was moved: ", path.display());
        file + &format!("`chown 1234:5678` and `chmod 640` it, it still has user {}", first.uid())
    };
    assert_eq!(left, [words(&gone, "is not there any more"), words(&replaced, "is another file by now")]);
    assert_eq!(is(&replaced).0, first.uid(), "another file of the same name was touched");
    assert_eq!(is(&taken).0, 99);
    assert_eq!(is(&shared).0, second.uid(), "another VM lost its disk");
    // The user of a VMM that has ended is nobody to give it back to.
    assert_eq!(give_back(&second, Holder::Vmm).unwrap(), [""; 0]);
    assert_eq!(is(&shared), (0, 0, 0o640));
}

#[test]
fn the_first_owner_stays_it_when_two_vms_take_turns() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (seat(dir.path(), 1), seat(dir.path(), 2));
    let disk = owned_file(dir.path(), "disk");
    for seat in [&first, &second, &first] {
        hand_over(seat, &disk).unwrap();
    }
    assert_eq!(give_back(&second, Holder::Vmm).unwrap(), [""; 0]);
    assert_eq!(is(&disk).0, first.uid());
    assert_eq!(give_back(&first, Holder::Vmm).unwrap(), [""; 0]);
    assert_eq!(is(&disk), (1234, 5678, 0o640));
}

#[test]
fn a_file_that_somebody_writes_to_stays_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let (seat, disk) = (seat(dir.path(), 1), owned_file(dir.path(), "disk"));
    let open = fs::File::options().write(true).open(&disk).unwrap();
    rustix::fs::fcntl_lock(&open, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let refused = hand_over(&seat, &disk).unwrap_err().to_string();
    assert!(refused.contains("is in use"), "{refused}");
    assert_eq!(is(&disk), (1234, 5678, 0o640));
    drop(open);
    hand_over(&seat, &disk).unwrap();
}

#[test]
fn files_of_the_vms_own_folder_need_no_note() {
    let dir = tempfile::tempdir().unwrap();
    let seat = seat(dir.path(), 3);
    let overlay = owned_file(&seat.dir, "root.qcow2");
    hand_over(&seat, &overlay).unwrap();
    assert_eq!(is(&overlay).0, seat.uid());
    assert!(!owners_path(&seat).exists());
}

#[test]
fn a_templates_disk_is_its_owners_again_and_no_other_of_that_name() {
    let dir = tempfile::tempdir().unwrap();
    let (seat, disk, other) =
        (seat(dir.path(), 3), owned_file(dir.path(), "disk"), owned_file(dir.path(), "other"));
    for path in [&disk, &other] {
        hand_over(&seat, path).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o444)).unwrap();
        chown(path, Some(0), Some(0)).unwrap();
    }
    let fresh = dir.path().join("fresh");
    fs::write(&fresh, b"another").unwrap();
    fs::rename(&fresh, &other).unwrap();
    assert_eq!(give_back(&seat, Holder::Template).unwrap().len(), 1);
    assert_eq!((is(&disk), is(&other).0), ((1234, 5678, 0o640), 0));
}

#[test]
fn where_the_owner_is_not_known_a_disk_becomes_roots_and_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (mut seat, disk) = (seat(dir.path(), 3), owned_file(dir.path(), "disk"));
    seat.intent.disks = vec![proteus_model::vm::DiskIntent {
        name: "root".parse().unwrap(),
        path: disk.clone(),
        format: proteus_model::vm::DiskFormat::Raw,
        read_only: false,
        overlay: false,
    }];
    hand_over(&seat, &disk).unwrap();
    fs::write(owners_path(&seat), b"{").unwrap();
    let damaged = format!("{} is damaged: ", owners_path(&seat).display());
    let refused = hand_over(&seat, &owned_file(dir.path(), "more")).unwrap_err().to_string();
    assert!(refused.starts_with(&damaged) && refused.contains("mend it"), "{refused}");
    let left = give_back(&seat, Holder::Vmm).unwrap();
    assert!(left.len() == 1 && left[0].starts_with(&damaged), "{left:?}");
    assert!(left[0].ends_with(&format!("{} is root's now: `chown` it to whom it belongs", disk.display())));
    assert_eq!(is(&disk), (0, 0, 0o600));
    // Again: nothing is left to close.
    let left = give_back(&seat, Holder::Vmm).unwrap();
    assert!(left.len() == 1 && left[0].ends_with("; none of the VM's disks has its user"), "{left:?}");
}
