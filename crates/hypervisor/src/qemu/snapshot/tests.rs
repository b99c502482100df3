//! Whose files snapshots are in: the VM's own, never those of its owner under an overlay.

use super::*;
use proteus_model::id::VmId;
use proteus_model::vm::{Boot, VmIntent};
use std::process::Command;

fn seat(dir: &Path, disk: DiskIntent) -> Seat {
    let intent = VmIntent {
        disks: vec![disk],
        ..VmIntent::new("test".parse().unwrap(), Boot::Firmware, Bytes::mib(128))
    };
    let (dir, attached) = (dir.to_owned(), Vec::new());
    Seat {
        id: VmId::from_bits(7),
        slot: 0,
        dir,
        intent,
        attached,
        furnished: true,
        newborn: false,
        user: None,
    }
}

fn overlay_over(path: &Path, format: DiskFormat) -> DiskIntent {
    DiskIntent {
        name: "root".parse().unwrap(),
        path: path.to_owned(),
        format,
        read_only: false,
        overlay: true,
    }
}

fn qemu_img(args: &[&str]) -> String {
    let output = Command::new("qemu-img").args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_overlay_keeps_snapshots_whatever_is_under_it() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base.img");
    assert_eq!(why_not(&seat(dir.path(), overlay_over(&base, DiskFormat::Raw))), None);
    let own = DiskIntent { overlay: false, ..overlay_over(&base, DiskFormat::Raw) };
    assert!(why_not(&seat(dir.path(), own)).unwrap().contains("root is raw"));
}

#[tokio::test]
async fn a_snapshot_of_the_file_under_an_overlay_is_its_owners() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base.qcow2");
    let seat = seat(dir.path(), overlay_over(&base, DiskFormat::Qcow2));
    let overlay = seat.overlay_path(&"root".parse().unwrap());
    let [under, over] = [&base, &overlay].map(|path| path.display().to_string());
    qemu_img(&["create", "-q", "-f", "qcow2", &under, "1M"]);
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &under, &over]);
    let name: SnapshotName = "before".parse().unwrap();
    for file in [&under, &over] {
        qemu_img(&["snapshot", "-c", name.as_str(), file]);
    }
    let snapshot = Snapshot { name: name.clone(), at: UnixMillis(0), ram: Bytes::ZERO };
    let kept =
        Kept { snapshot, machine: String::new(), plugged: super::super::command_line::Plugged::default() };
    Book { kept: vec![kept] }.save(&seat).unwrap();
    delete(&seat, None, &name).await.unwrap();
    assert!(qemu_img(&["snapshot", "-l", &under]).contains("before"), "the owner's went");
    assert!(!qemu_img(&["snapshot", "-l", &over]).contains("before"), "the VM's own stayed");
}
