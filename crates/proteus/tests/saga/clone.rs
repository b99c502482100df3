//! Clones that a crash cuts short: nobody was told of them, and at the next start of Proteus nothing of them is left.

use crate::support::{Bench, bench, start_vm};
use crate::{Act, run_child};
use proteus_control_plane::store::{Commit, Key, Outcome, Store};
use proteus_model::id::{OpId, VmId};
use proteus_model::unit::Millis;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;

/// Changes a VM's record behind Proteus's back: a simulated host makes no templates.
async fn rewrite(bench: &Bench, vm: VmId, change: impl FnOnce(&mut Value)) {
    let key = Key::new(format!("vm/{vm}")).unwrap();
    let mut record: Value =
        serde_json::from_slice(&bench.store.get(&key).await.unwrap().unwrap().value).unwrap();
    change(&mut record);
    // Of the record's own text: two changes are two operations.
    let op =
        Sha256::digest(record.to_string())[..16].iter().fold(0, |bits, byte| bits << 8 | u128::from(*byte));
    let commit = Commit::new(OpId::from_bits(op)).put(key, serde_json::to_vec(&record).unwrap());
    assert!(matches!(bench.store.commit(commit).await.unwrap(), Outcome::Committed(_)));
}

async fn template(dir: &Path) {
    let bench = bench(dir, None).await;
    let vm = start_vm(&bench, dir, "base").await;
    bench.control.stop_vm("base", Millis(0), "test").await.unwrap();
    let saved = dir.join("vms").join(vm.to_string()).join("template");
    std::fs::create_dir(&saved).unwrap();
    std::fs::write(saved.join("template.json"), "{}").unwrap();
    let disks = |record: &mut Value| {
        record["template"] = record["intent"]["disks"].clone();
        record["template"][0]["overlay"] = json!(true);
    };
    rewrite(&bench, vm, disks).await;
    bench.store.close().await;
}

async fn last_entry(bench: &Bench) -> Value {
    bench.control.audit_view().await.unwrap().entries.last().unwrap().clone()
}

async fn only_the_template_is_left(bench: &Bench, dir: &Path) {
    let names: Vec<String> =
        bench.control.vms().await.unwrap().iter().map(|record| record.intent.name.to_string()).collect();
    assert_eq!(names, ["base"]);
    assert_eq!(std::fs::read_dir(dir.join("vms")).unwrap().count(), 1);
    assert!(bench.control.allocation_view().await.unwrap().table.vms().is_empty());
    bench.control.check_clone("base", "copy".parse().unwrap()).await.expect("its name is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_write_of_a_clone_nothing_of_it_is_left() {
    let (mut points, mut removed) = (0, 0);
    loop {
        let dir = tempfile::tempdir().unwrap();
        template(dir.path()).await;
        if !run_child(dir.path(), points, Act::Clone) {
            break;
        }
        points += 1;
        let bench = bench(dir.path(), None).await;
        bench.control.resume().await.unwrap();
        only_the_template_is_left(&bench, dir.path()).await;
        removed += usize::from(last_entry(&bench).await["action"] == "vm.clone_failed");
        bench.store.close().await;
    }
    assert!(points >= 4 && removed >= 2, "{removed} removed of {points}");
}

#[tokio::test]
async fn a_clone_without_an_identity_is_removed_and_a_whole_one_stays() {
    for newborn in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        template(dir.path()).await;
        let vm = {
            let bench = bench(dir.path(), None).await;
            let vm = start_vm(&bench, dir.path(), "copy").await;
            rewrite(&bench, vm, |record| record["cloning"] = json!(true)).await;
            bench.store.close().await;
            vm
        };
        let seat = dir.path().join("vms").join(vm.to_string()).join("seat.json");
        let mut place: Value = serde_json::from_slice(&std::fs::read(&seat).unwrap()).unwrap();
        place["newborn"] = json!(newborn);
        std::fs::write(&seat, place.to_string()).unwrap();
        let bench = bench(dir.path(), None).await;
        if newborn {
            let refused = bench.control.start_vm("copy", "test").await.map(drop).unwrap_err();
            assert!(refused.to_string().ends_with("cut short: delete it"), "{refused}");
        }
        bench.control.resume().await.unwrap();
        let last = last_entry(&bench).await;
        if newborn {
            only_the_template_is_left(&bench, dir.path()).await;
            assert_eq!((&last["action"], &last["subject"]), (&json!("vm.clone_failed"), &json!("vm/copy")));
            assert_eq!(last["why"], "its making was cut short: clone again");
        } else {
            assert!(!bench.control.vm("copy").await.unwrap().cloning);
            assert!(bench.control.runs(vm).await);
            assert_eq!(last["action"], "vm.cloned");
            let base = bench.control.vm("base").await.unwrap().id;
            rewrite(&bench, vm, |record| record["cloned_from"] = json!(base)).await;
            let refused = bench.control.check_template("copy").await.map(drop).unwrap_err();
            assert!(refused.to_string().starts_with("copy is a clone itself, of base"), "{refused}");
        }
    }
}
