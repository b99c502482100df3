//! Which slot a VM has, where its place is damaged: the seat says it, and what is written beside the seat.

use crate::support::{Bench, bench, start_vm};
use proteus_control_plane::control::ControlError;
use proteus_model::id::VmId;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

fn place(dir: &Path, vm: VmId) -> PathBuf {
    dir.join("vms").join(vm.to_string())
}

fn slot(dir: &Path, vm: VmId) -> u64 {
    let seat: Value = serde_json::from_slice(&fs::read(place(dir, vm).join("seat.json")).unwrap()).unwrap();
    seat["slot"].as_u64().unwrap()
}

async fn again(old: Bench, dir: &Path) -> Bench {
    old.store.close().await;
    drop(old);
    bench(dir, None).await
}

#[tokio::test]
async fn a_slot_is_told_by_the_seat_and_by_no_owner() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let first = bench(dir, None).await;
    let (one, two) = (start_vm(&first, dir, "one").await, start_vm(&first, dir, "two").await);
    assert_eq!((slot(dir, one), slot(dir, two)), (0, 1));
    // What is beside a seat is made to say the same, whatever it said.
    let beside = place(dir, one).join("slot");
    fs::write(&beside, "2").unwrap();
    fs::remove_file(place(dir, two).join("slot")).unwrap();
    let second = again(first, dir).await;
    assert_eq!(fs::read_to_string(&beside).unwrap(), "0");
    assert_eq!(fs::read_to_string(place(dir, two).join("slot")).unwrap(), "1");

    // The user of a VM is one of any, of which its slot does not follow.
    let run = place(dir, one).join("run");
    fs::create_dir_all(&run).unwrap();
    std::os::unix::fs::chown(&run, Some(70_002), None).unwrap();
    fs::write(place(dir, one).join("seat.json"), "{").unwrap();
    let third = again(second, dir).await;
    let three = start_vm(&third, dir, "three").await;
    assert_eq!(slot(dir, three), 2, "slot 2 is nobody's, 0 and 1 are taken");

    // A seat that is no whole seat and still says its slot.
    fs::remove_file(&beside).unwrap();
    fs::write(place(dir, one).join("seat.json"), "{ \"slot\": 0 }").unwrap();
    let fourth = again(third, dir).await;
    let four = start_vm(&fourth, dir, "four").await;
    assert_eq!(slot(dir, four), 3);

    // Nothing says it: no VM may get it, and none is made that could.
    fs::write(place(dir, one).join("seat.json"), "{").unwrap();
    let fifth = again(fourth, dir).await;
    let mut intent = crate::support::intent("five");
    intent.disks[0].path = dir.join("five.raw");
    fs::write(&intent.disks[0].path, b"x").unwrap();
    let refused = fifth.control.create_vm(intent.clone(), "test").await.map(drop).unwrap_err();
    let ControlError::Node(refused) = refused else { panic!("{refused:?}") };
    assert!(refused.message.starts_with(&place(dir, one).display().to_string()), "{refused:?}");
    assert!(refused.hint.as_deref().unwrap().starts_with("mend its seat.json"), "{refused:?}");
    let others = fifth.control.observe_vm(&fifth.control.vm("two").await.unwrap()).await.unwrap();
    assert_eq!(others.id, two, "the others live on");
    fs::write(&beside, "0\n").unwrap();
    let sixth = again(fifth, dir).await;
    let five = sixth.control.create_vm(intent, "test").await.unwrap();
    assert_eq!(slot(dir, five.id), 4);
}
