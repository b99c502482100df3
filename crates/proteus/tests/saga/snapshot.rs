//! Snapshots through the control plane, on simulated VMs: as a step whose undo leaves them, and by hand, with the
//! record's settings turned to again after a restore.

use crate::support::{bench, differences, start_vm};
use crate::{Act, morph, plan, run_child};
use proteus_control_plane::control::ControlError;
use proteus_model::execution::State;
use proteus_model::plan::Change;
use proteus_model::setting::{Knob, KnobKind, Setting, ThpMode};
use std::sync::Arc;

#[tokio::test]
async fn a_restored_vm_has_the_settings_of_its_record() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    let vm = start_vm(&bench, dir.path(), "web").await;
    let ((seen, origin), cost) = bench.control.create_snapshot("web", None, "test").await.unwrap();
    assert_eq!((seen.name.as_str(), cost.blackout_ms.0), ("snapshot-1", 300));
    assert_eq!(origin.map(|origin| (origin.version, origin.morph)), Some((0, None)));
    assert_eq!(morph(&bench, "web").await.state, State::Committed);
    let stale = plan(&bench, "web").await;
    // The simulated guest goes back to what was set then: nothing.
    let restored = bench.control.restore_snapshot("web", "snapshot-1", "test").await.unwrap();
    assert_eq!(restored.failed, Vec::<String>::new());
    assert!(restored.settings >= 9, "{}", restored.settings);
    assert_eq!(differences(&bench, dir.path(), "web").await, Vec::<String>::new());
    assert_eq!(bench.control.vm("web").await.unwrap().version, 1);
    let refused = bench.control.begin_morph(stale, "test").await;
    assert!(
        matches!(refused, Err(ControlError::Conflict { .. })),
        "a plan from before the restore was taken"
    );
    let entries = bench.control.audit_view().await.unwrap().entries;
    let actions: Vec<&str> = entries.iter().filter_map(|entry| entry["action"].as_str()).collect();
    for wanted in ["vm.snapshot.create", "vm.snapshot.restore", "vm.snapshot.restored", "vm.restore"] {
        assert!(actions.contains(&wanted), "{wanted} is not in {actions:?}");
    }
    // What cannot be turned is told, not swallowed; and so is a disarmed Proteus.
    bench.sim.inject(Some(Arc::new(|_, setting: &Setting| {
        (setting.knob().kind() == KnobKind::Thp).then(|| "made to fail".to_owned())
    })));
    let restored = bench.control.restore_snapshot("web", "snapshot-1", "test").await.unwrap();
    assert!(
        restored.failed.len() == 1 && restored.failed[0].contains("made to fail"),
        "{:?}",
        restored.failed
    );
    bench.sim.inject(None);
    let fleet = proteus_control_plane::arm::ArmScope::Fleet;
    bench.control.disarm(&fleet, false, "test").await.unwrap();
    let restored = bench.control.restore_snapshot("web", "snapshot-1", "test").await.unwrap();
    assert!(restored.failed[0].contains("disarmed"), "{:?}", restored.failed);
    let found = bench.control.node().read(vm, &Knob::NetworkPolicy).await.unwrap();
    assert_eq!(found, Setting::NetworkPolicy { policy: None });
}

#[tokio::test]
async fn a_morph_that_is_undone_leaves_its_snapshot_and_nothing_restores_it() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    start_vm(&bench, dir.path(), "web").await;
    let with = bench.control.plan_with_snapshot(plan(&bench, "web").await).await.unwrap();
    assert!(matches!(with.steps[0].change, Change::Snapshot { .. }));
    let fault =
        |_, setting: &Setting| (setting.knob().kind() == KnobKind::Thp).then(|| "made to fail".to_owned());
    bench.sim.inject(Some(Arc::new(fault)));
    let begun = bench.control.begin_morph(with, "test").await.unwrap();
    let ended = bench.control.run_morph(begun.id).await.unwrap();
    bench.sim.inject(None);
    assert_eq!(ended.state, State::RolledBack, "{:?}", ended.reason);
    assert_eq!(ended.steps[0].blackout_ms.0, 300);
    assert_eq!(differences(&bench, dir.path(), "web").await, Vec::<String>::new());
    let all = bench.control.snapshots("web").await.unwrap();
    assert_eq!(all.len(), 1);
    let (snapshot, origin) = &all[0];
    assert_eq!(origin.as_ref().and_then(|origin| origin.morph), Some(begun.id));
    let twice = bench.control.create_snapshot("web", Some(snapshot.name.as_str()), "test").await;
    match twice {
        Err(ControlError::Conflict { what, hint }) => {
            assert_eq!(what, format!("web has a snapshot {} already", snapshot.name));
            assert!(hint.starts_with("choose another name"), "{hint}");
        }
        other => panic!("{other:?}"),
    }
    bench.control.delete_snapshot("web", snapshot.name.as_str(), "test").await.unwrap();
    let gone = bench.control.restore_snapshot("web", "before-morph-1", "test").await;
    assert!(matches!(gone, Err(ControlError::NotFound { .. })));
    let held = bench.control.begin_morph(plan(&bench, "web").await, "test").await.unwrap();
    for refused in [
        bench.control.create_snapshot("web", None, "test").await.map(|_| ()),
        bench.control.restore_snapshot("web", "before-morph-1", "test").await.map(|_| ()),
    ] {
        let well = matches!(refused, Err(ControlError::Conflict { .. } | ControlError::NotFound { .. }));
        assert!(well, "{refused:?} while a morph holds the VM");
    }
    assert_eq!(bench.control.run_morph(held.id).await.unwrap().state, State::Committed);
}

#[tokio::test]
async fn a_restore_that_fails_is_told_so_and_an_earlier_one_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    start_vm(&bench, dir.path(), "web").await;
    bench.control.create_snapshot("web", None, "test").await.unwrap();
    assert_eq!(morph(&bench, "web").await.state, State::Committed);
    bench.sim.refuse_restores(true);
    let fail = async || bench.control.restore_snapshot("web", "snapshot-1", "test").await.unwrap_err();
    let why = fail().await.to_string();
    assert!(!bench.control.vm("web").await.unwrap().restoring);
    let entries = bench.control.audit_view().await.unwrap().entries;
    let told = entries.iter().find(|entry| entry["action"] == "vm.snapshot.restore_failed").unwrap();
    assert_eq!((told["why"].as_str(), &told["evidence"]["snapshot"]), (Some(&*why), &"snapshot-1".into()));
    assert!(entries.iter().all(|entry| entry["action"] != "vm.restore"), "it is told as a success");

    // The restore before it waits: Proteus is disarmed.
    bench.sim.refuse_restores(false);
    let fleet = proteus_control_plane::arm::ArmScope::Fleet;
    bench.control.disarm(&fleet, false, "test").await.unwrap();
    bench.control.restore_snapshot("web", "snapshot-1", "test").await.unwrap();
    assert!(bench.control.vm("web").await.unwrap().restoring);
    bench.sim.refuse_restores(true);
    fail().await;
    assert!(bench.control.vm("web").await.unwrap().restoring, "the restore before is forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_write_of_a_restore_it_is_told_what_became_of_it() {
    let (mut told, off) = ([0, 0, 0], Setting::Thp { mode: ThpMode::Never });
    for at in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let vm = {
            let bench = bench(dir.path(), None).await;
            let vm = start_vm(&bench, dir.path(), "web").await;
            bench.control.create_snapshot("web", None, "test").await.unwrap();
            bench.sim.meddle(vm, &off).unwrap();
            bench.store.close().await;
            vm
        };
        if !run_child(dir.path(), at, Act::Restore) {
            break;
        }
        let bench = bench(dir.path(), None).await;
        assert!(bench.control.start_wanted().await.unwrap().is_empty());
        let went_back = !off.holds_in(&bench.control.node().read(vm, &Knob::Thp).await.unwrap());
        let entries = bench.control.audit_view().await.unwrap().entries;
        let count = |action: &str| entries.iter().filter(|entry| entry["action"] == action).count();
        let found = ["vm.snapshot.restore", "vm.snapshot.restored", "vm.snapshot.restore_failed"].map(count);
        let right = match found[0] {
            0 => [0, 0, 0],
            _ if went_back => [1, 1, 0],
            _ => [1, 0, 1],
        };
        assert_eq!(found, right, "killed at store call {at}, went back: {went_back}");
        (0..3).for_each(|which| told[which] += found[which]);
        assert!(bench.control.vm("web").await.unwrap().going_back.is_none());
        bench.store.close().await;
    }
    assert!(told[1] > 0 && told[2] > 0, "{told:?}");
}
