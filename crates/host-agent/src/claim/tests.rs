//! Which disks can be beside each other, with files that `qemu-img` made.

use super::*;
use crate::backing::chain;
use proteus_model::id::VmId;
use proteus_model::unit::Bytes;
use proteus_model::vm::{Boot, DiskFormat, VmIntent};
use std::fs;
use std::process::Command;

#[derive(Clone, Copy, PartialEq)]
enum Use {
    Own,
    Overlay,
    ReadOnly,
}

/// The place of a VM with these disks: `d0`, `d1`, …
fn seat(dir: &Path, name: &str, disks: &[(&Path, Use)]) -> Seat {
    let mut intent = VmIntent::new(name.parse().unwrap(), Boot::Firmware, Bytes::mib(128));
    let disk = |(number, (path, how)): (usize, &(&Path, Use))| DiskIntent {
        name: format!("d{number}").parse().unwrap(),
        path: path.to_path_buf(),
        format: DiskFormat::Qcow2,
        read_only: *how == Use::ReadOnly,
        overlay: *how == Use::Overlay,
    };
    intent.disks = disks.iter().enumerate().map(disk).collect();
    let id = VmId::from_bits(name.bytes().fold(1, |bits, byte| bits << 8 | u128::from(byte)));
    let dir = dir.join(name);
    Seat { id, slot: 0, dir, intent, attached: Vec::new(), furnished: false, newborn: false, user: None }
}

fn image(dir: &Path, name: &str, over: Option<&str>) -> PathBuf {
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2"]).current_dir(dir);
    if let Some(over) = over {
        command.args(["-F", "qcow2", "-b", over]);
    }
    assert!(command.args([name, "1M"]).status().unwrap().success());
    dir.join(name)
}

fn said(one: &Seat, others: &[&Seat]) -> String {
    check(one, others.iter().copied()).map_or_else(|clash| clash.to_string(), |()| "fine".into())
}

#[test]
fn a_file_that_is_written_to_is_one_vms_whatever_it_is_called() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let disk = image(dir, "disk.qcow2", None);
    let (soft, hard) = (dir.join("soft"), dir.join("hard"));
    std::os::unix::fs::symlink("disk.qcow2", &soft).unwrap();
    fs::hard_link(&disk, &hard).unwrap();
    let web = seat(dir, "web", &[(&disk, Use::Own)]);
    for path in [&disk, &soft, &hard] {
        let words =
            format!("the disk d0 cannot write to {}: the disk d0 of web writes to that file", path.display());
        assert_eq!(said(&seat(dir, "db", &[(path, Use::Own)]), &[&web]), words);
        for how in [Use::Overlay, Use::ReadOnly] {
            let said = said(&seat(dir, "db", &[(path, how)]), &[&web]);
            assert!(said.ends_with("the disk d0 of web writes to that file"), "{said}");
        }
    }
    assert_eq!(said(&web, &[&web]), "fine", "a VM is in its own way");
    let other = image(dir, "other.qcow2", None);
    assert_eq!(said(&seat(dir, "db", &[(&other, Use::Own)]), &[&web]), "fine");
    let gone = dir.join("gone");
    let both = ["a", "b"].map(|name| seat(dir, name, &[(&gone, Use::Own)]));
    assert_eq!(said(&both[0], &[&both[1]]), "fine", "two files that are not there are not one");
}

#[test]
fn what_lies_under_a_disk_is_written_to_by_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let base = image(dir, "base.qcow2", None);
    let middle = image(dir, "middle.qcow2", Some("base.qcow2"));
    let top = image(dir, "top.qcow2", Some(&middle.display().to_string()));
    let uses = [(&top, Use::Own), (&top, Use::ReadOnly), (&middle, Use::Overlay), (&base, Use::Overlay)];
    for (path, how) in uses {
        let web = seat(dir, "web", &[(path, how)]);
        let writer = seat(dir, "db", &[(&base, Use::Own)]);
        let words =
            format!("the disk d0 cannot write to {}: the disk d0 of web reads that file", base.display());
        assert_eq!(said(&writer, &[&web]), words);
        let said = said(&web, &[&writer]);
        assert!(said.starts_with("the disk d0 cannot lie over or read"), "{said}");
        assert!(said.ends_with("base.qcow2: the disk d0 of db writes to that file"), "{said}");
    }
    let readers =
        ["a", "b", "c"].map(|name| seat(dir, name, &[(&base, Use::Overlay), (&top, Use::ReadOnly)]));
    assert_eq!(said(&readers[0], &[&readers[1], &readers[2]]), "fine", "readers share");
}

/// QEMU looks for the file below from the name that it was given.
#[test]
fn a_relative_name_begins_beside_the_link() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    for dir in [&here, &there] {
        fs::create_dir(dir).unwrap();
        image(dir, "base.qcow2", None);
    }
    image(&there, "top.qcow2", Some("base.qcow2"));
    let link = here.join("link.qcow2");
    std::os::unix::fs::symlink(there.join("top.qcow2"), &link).unwrap();
    let web = seat(dir.path(), "web", &[(&link, Use::Overlay)]);
    let writes = |file: &Path| said(&seat(dir.path(), "db", &[(file, Use::Own)]), &[&web]);
    assert!(writes(&here.join("base.qcow2")).ends_with("the disk d0 of web reads that file"));
    assert_eq!(writes(&there.join("base.qcow2")), "fine");
}

#[test]
fn a_vm_has_a_file_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let base = image(dir, "base.qcow2", None);
    let top = image(dir, "top.qcow2", Some("base.qcow2"));
    let twice = said(&seat(dir, "web", &[(&base, Use::Own), (&base, Use::Own)]), &[]);
    let words = "the disk d1 cannot write to";
    assert!(twice.starts_with(words) && twice.ends_with("the disk d0 of the same VM writes to that file"));
    let under = said(&seat(dir, "web", &[(&top, Use::Own), (&base, Use::Own)]), &[]);
    assert!(under.starts_with(words) && under.ends_with("d0 of the same VM reads that file"), "{under}");
    assert_eq!(said(&seat(dir, "web", &[(&base, Use::Overlay), (&base, Use::Overlay)]), &[]), "fine");
}

#[test]
fn another_vms_own_overlay_and_a_templates_disk_are_known() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let base = image(dir, "base.qcow2", None);
    let web = seat(dir, "web", &[(&base, Use::Overlay)]);
    fs::create_dir(&web.dir).unwrap();
    let overlay = image(&web.dir, "d0.qcow2", Some(&base.display().to_string()));
    let thief = seat(dir, "db", &[(&overlay, Use::Own)]);
    assert!(said(&thief, &[&web]).ends_with("the disk d0 of web writes to that file"));
    // As a template it is read by its clones, and written to by nobody.
    fs::create_dir(web.dir.join("template")).unwrap();
    fs::write(web.dir.join("template/template.json"), "{}").unwrap();
    assert_eq!(said(&seat(dir, "clone", &[(&overlay, Use::Overlay)]), &[&web]), "fine");
    assert!(said(&thief, &[&web]).ends_with("the disk d0 of web reads that file"));
}

#[test]
fn images_that_lie_over_themselves_are_followed_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (first, second) = (image(dir, "first", None), image(dir, "second", Some("first")));
    // The name of the file below is at 512, where QEMU leaves room.
    let mut bytes = fs::read(&first).unwrap();
    bytes[8..20].copy_from_slice(&[0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 6]);
    bytes[512..518].copy_from_slice(b"second");
    fs::write(&first, bytes).unwrap();
    let follow = |path: &Path| chain(path, DiskFormat::Qcow2).0.len();
    assert_eq!((follow(&first), follow(&second)), (2, 2));
    fs::write(&first, b"QFI\xfb").unwrap();
    assert_eq!(follow(&first), 1, "a header that was cut");
}

/// A guest may write what it likes onto its raw disk.
#[test]
fn a_guest_cannot_lay_its_raw_disk_over_another_file() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let victim = image(dir, "victim.qcow2", None);
    let raw = image(dir, "disk.raw", Some("victim.qcow2"));
    assert_eq!(chain(&raw, DiskFormat::Raw).0.len(), 1);
    let mut command = Command::new("qemu-img");
    command
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "disk.raw", "top.qcow2"])
        .current_dir(dir);
    assert!(command.status().unwrap().success());
    let (files, _) = chain(&dir.join("top.qcow2"), DiskFormat::Qcow2);
    assert_eq!(files.len(), 2, "{files:?} and not {}", victim.display());
}
