//! Lives of VMs that cross: starts, stops, removals and morphs at the same time leave record, host and allocation
//! table telling the same.

use crate::support::{Bench, bench, differences, intent, start_vm};
use crate::{Act, morph, plan, run_child};
use proteus_control_plane::control::{ControlError, ControlEvent};
use proteus_hypervisor::driver::Driver;
use proteus_model::execution::State;
use proteus_model::id::VmId;
use proteus_model::setting::Setting;
use proteus_model::unit::{Bytes, Millis};
use proteus_model::vm::{MEMORY_MAX, PowerState};
use proteus_protocol::node::v1::NodeErrorCode;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Whether the allocation table has this VM, and whether it has any.
async fn listed(bench: &Bench, vm: VmId) -> (bool, bool) {
    let view = bench.control.allocation_view().await.unwrap();
    (view.table.vms().contains_key(&vm), !view.table.vms().is_empty())
}

#[tokio::test]
async fn a_vm_that_is_stopped_during_the_window_is_not_counted_a_success() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    let vm = start_vm(&bench, dir.path(), "web").await;
    let mut events = bench.control.events();
    let (control, running) = (bench.control.clone(), plan(&bench, "web").await);
    let running = bench.control.begin_morph(running, "test").await.unwrap();
    let task = tokio::spawn(async move { control.run_morph(running.id).await });
    while !matches!(events.recv().await.unwrap(), ControlEvent::Morph { state: "verifying", .. }) {}
    bench.control.stop_vm("web", Millis(0), "test").await.unwrap();
    // Started under the morph it would look as if nothing had been.
    let refused = bench.control.start_vm("web", "test").await.map(drop).unwrap_err();
    assert!(matches!(refused, ControlError::Conflict { .. }), "{refused}");
    let ended = task.await.unwrap().unwrap();
    assert_eq!(ended.state, State::RolledBack, "{:?}", ended.reason);
    assert_eq!(ended.reason.as_deref(), Some("the VM does not run any more"));
    assert_eq!(listed(&bench, vm).await, (false, false), "a stopped VM keeps its place");
    let record = bench.control.vm("web").await.unwrap();
    assert_eq!((record.version, record.morph), (0, None));
    // What its host says of one that has ended before anything was read has its name, and not the host's word for it.
    bench.control.start_vm("web", "test").await.unwrap();
    let begun = bench.control.begin_morph(plan(&bench, "web").await, "test").await.unwrap();
    bench.sim.stop(vm, Millis(0)).await.unwrap();
    let ended = bench.control.run_morph(begun.id).await.unwrap();
    assert_eq!(ended.reason.as_deref(), Some("web does not run here"));
}

#[tokio::test]
async fn what_does_not_run_is_taken_out_of_the_table_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let vm = {
        let bench = bench(dir.path(), None).await;
        let vm = start_vm(&bench, dir.path(), "web").await;
        // As if it, and Proteus, had ended at once.
        bench.control.node().stop(vm, Millis(0)).await.unwrap();
        assert_eq!(listed(&bench, vm).await, (true, true));
        bench.store.close().await;
        vm
    };
    let bench = bench(dir.path(), None).await;
    bench.control.recover().await.unwrap();
    assert!(bench.control.start_wanted().await.unwrap().is_empty());
    assert_eq!(listed(&bench, vm).await, (false, false));
}

#[tokio::test]
async fn a_vm_that_ended_by_itself_gives_back_what_it_held() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    let vm = start_vm(&bench, dir.path(), "web").await;
    bench.control.clear_ended().await.unwrap();
    assert_eq!(listed(&bench, vm).await, (true, true), "it runs");
    bench.sim.stop(vm, Millis(0)).await.unwrap();
    let mut events = bench.control.events();
    bench.control.watch_vms();
    while !matches!(events.recv().await.unwrap(), ControlEvent::Vm { what: "ended", .. }) {}
    assert_eq!(listed(&bench, vm).await, (false, false));
    let view = bench.control.audit_view().await.unwrap();
    assert_eq!(view.entries.last().unwrap()["action"], "vm.ended");
    bench.control.start_vm("web", "test").await.unwrap();
    assert_eq!(listed(&bench, vm).await, (true, true));
}

#[tokio::test]
async fn a_plan_cannot_call_its_vm_by_another_name() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    start_vm(&bench, dir.path(), "web").await;
    let mut forged = plan(&bench, "web").await;
    forged.vm_name = "another".parse().unwrap();
    let running = bench.control.begin_morph(forged, "test").await.unwrap();
    bench.control.run_morph(running.id).await.unwrap();
    let view = bench.control.audit_view().await.unwrap();
    assert!(view.entries.iter().all(|entry| entry["subject"] != "vm/another"), "{:?}", view.entries);
    morph(&bench, "web").await;
}

/// A VM that starts by itself, and whose start fails until the folder that this gives is gone.
async fn vm_that_cannot_start(bench: &Bench, dir: &Path) -> PathBuf {
    let mut intent = intent("web");
    intent.disks[0].path = dir.join("disk.raw");
    intent.autostart = true;
    std::fs::write(&intent.disks[0].path, b"x").unwrap();
    let vm = bench.control.create_vm(intent, "test").await.unwrap().id;
    // The simulated VM is written to this file first.
    let in_the_way = dir.join("sim").join(format!("{vm}.next"));
    std::fs::create_dir(&in_the_way).unwrap();
    in_the_way
}

async fn last_act(bench: &Bench) -> serde_json::Value {
    bench.control.audit_view().await.unwrap().entries.last().unwrap()["action"].clone()
}

#[tokio::test]
async fn a_failed_start_leaves_what_was_wanted_before() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    let in_the_way = vm_that_cannot_start(&bench, dir.path()).await;
    let vm = bench.control.vm("web").await.unwrap().id;
    bench.control.start_vm("web", "test").await.unwrap_err();
    let record = bench.control.vm("web").await.unwrap();
    assert_eq!((record.wanted, record.wanted_before), (false, None), "it would be tried at each restart");
    assert_eq!((listed(&bench, vm).await.0, last_act(&bench).await), (false, "vm.start_failed".into()));
    assert!(bench.control.start_wanted().await.unwrap().is_empty());

    std::fs::remove_dir(&in_the_way).unwrap();
    bench.control.start_vm("web", "test").await.unwrap();
    let record = bench.control.vm("web").await.unwrap();
    assert_eq!((record.wanted, record.wanted_before), (true, None));
    assert_eq!(last_act(&bench).await, "vm.started");
    // Its owner wants it to run: a start that fails once does not change that.
    bench.sim.stop(vm, Millis(0)).await.unwrap();
    std::fs::create_dir(&in_the_way).unwrap();
    assert_eq!(bench.control.start_wanted().await.unwrap().len(), 1);
    let record = bench.control.vm("web").await.unwrap();
    assert_eq!((record.wanted, record.wanted_before), (true, None));
}

#[tokio::test]
async fn a_vm_that_the_host_has_no_room_for_is_not_wanted_after_its_start() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    // Each has room alone, both together have not.
    let host = bench.control.node().host().await.unwrap();
    let most = Bytes((host.memory.0 - (1 << 30)) / 5 * 3).round_down(Bytes::mib(2));
    for name in ["first", "web"] {
        let mut large = intent(name);
        large.disks[0].path = dir.path().join(format!("{name}.raw"));
        std::fs::write(&large.disks[0].path, b"x").unwrap();
        (large.memory, large.memory_max) = (most, most);
        bench.control.create_vm(large, "test").await.unwrap();
    }
    bench.control.start_vm("first", "test").await.unwrap();
    let refused = bench.control.start_vm("web", "test").await.unwrap_err();
    assert!(matches!(refused, ControlError::Conflict { .. }), "{refused}");
    assert!(!bench.control.vm("web").await.unwrap().wanted);
}

#[tokio::test]
async fn a_vm_that_is_larger_than_its_host_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    let host = bench.control.node().host().await.unwrap();
    let mut wide = intent("web");
    wide.vcpus_max = host.cpus * 4 + 1;
    let mut huge = intent("web");
    (huge.memory, huge.memory_max) = (MEMORY_MAX, MEMORY_MAX);
    for (intent, said) in [
        (
            wide,
            format!("than this host runs: at most {}, 4 to each of its {} CPUs", host.cpus * 4, host.cpus),
        ),
        (huge, format!("its {} less 1 GiB for itself", host.memory)),
    ] {
        let refused = bench.control.create_vm(intent, "test").await.map(drop).unwrap_err();
        let ControlError::Invalid { what, hint } = refused else { panic!("{refused:?}") };
        assert!(what.contains(&said) && hint.contains("proteus host show"), "{what}");
    }
    assert!(bench.control.vms().await.unwrap().is_empty());
}

/// Killed at every store call of a start that fails: what is left after the next start of Proteus.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_start_that_a_crash_cuts_short_is_not_tried_for_ever() {
    let mut points = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        {
            let bench = bench(dir.path(), None).await;
            vm_that_cannot_start(&bench, dir.path()).await;
            bench.store.close().await;
        }
        if !run_child(dir.path(), points, Act::FailedStart) {
            break;
        }
        points += 1;
        let bench = bench(dir.path(), None).await;
        bench.control.start_wanted().await.unwrap();
        let record = bench.control.vm("web").await.unwrap();
        assert_eq!((record.wanted, record.wanted_before), (false, None), "killed at store call {points}");
        assert!(!listed(&bench, record.id).await.0);
        assert!(bench.control.start_wanted().await.unwrap().is_empty());
        bench.store.close().await;
    }
    assert!(points >= 4, "only {points} points");
}

/// Removals, starts and stops of one name at once, and it is made anew in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn starts_stops_and_removals_at_once_leave_nothing_half_done() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    let mut first = intent("web");
    first.disks[0].path = dir.path().join("disk.raw");
    std::fs::write(&first.disks[0].path, b"x").unwrap();
    for _ in 0..40 {
        let made = bench.control.create_vm(first.clone(), "test").await;
        let acts = (0..6).map(|number| {
            let control = bench.control.clone();
            tokio::spawn(async move {
                // Each may be refused: what counts is what is left.
                match number % 3 {
                    0 => drop(control.start_vm("web", "test").await),
                    1 => drop(control.delete_vm("web", "test").await),
                    _ => drop(control.stop_vm("web", Millis(0), "test").await),
                }
            })
        });
        for act in acts.collect::<Vec<_>>() {
            act.await.unwrap();
        }
        let Ok(made) = made else { continue };
        let known = bench.control.vm("web").await.ok().filter(|record| record.id == made.id);
        let seen = bench.control.node().observe(made.id).await;
        let runs = seen.as_ref().is_ok_and(|seen| seen.power != PowerState::Stopped);
        assert_eq!(known.is_some(), seen.is_ok(), "record and host differ on whether there is the VM");
        assert_eq!(listed(&bench, made.id).await.0, runs, "the table differs from what runs");
        assert!(known.is_none_or(|record| record.wanted == runs), "the record differs from what runs");
    }
}

#[tokio::test]
async fn a_place_that_cannot_be_read_is_set_aside_and_the_others_live_on() {
    let dir = tempfile::tempdir().unwrap();
    let (broken, other) = {
        let bench = bench(dir.path(), None).await;
        let broken = start_vm(&bench, dir.path(), "broken").await;
        let other = start_vm(&bench, dir.path(), "other").await;
        bench.store.close().await;
        (broken, other)
    };
    let seat = dir.path().join("vms").join(broken.to_string()).join("seat.json");
    let whole = std::fs::read(&seat).unwrap();
    std::fs::write(&seat, &whole[..whole.len() / 2]).unwrap();
    std::fs::create_dir(dir.path().join("vms/notes")).unwrap();
    {
        let bench = bench(dir.path(), None).await;
        bench.control.recover().await.unwrap();
        // It wants to run and nobody can tell whether it does: its place in the table stays.
        bench.control.clear_ended().await.unwrap();
        assert_eq!(listed(&bench, broken).await, (true, true));
        // It is not written down that it was started, which nobody saw.
        let failed = bench.control.start_wanted().await.unwrap();
        assert!(failed.len() == 1 && failed[0].0.as_str() == "broken", "{failed:?}");
        let errors = [
            bench.control.start_vm("broken", "test").await.map(drop).unwrap_err(),
            bench.control.stop_vm("broken", Millis(0), "test").await.map(drop).unwrap_err(),
            bench.control.delete_vm("broken", "test").await.unwrap_err(),
        ];
        for error in errors {
            let said = error.to_string();
            assert!(said.contains("seat.json is damaged: ") && said.contains("mend the file"), "{said}");
        }
        assert!(bench.control.vm("broken").await.is_ok(), "its record is kept");
        assert_eq!(
            bench.control.observe_vm(&bench.control.vm("other").await.unwrap()).await.unwrap().id,
            other
        );
        start_vm(&bench, dir.path(), "third").await;
        bench.store.close().await;
    }
    std::fs::write(&seat, whole).unwrap();
    let bench = bench(dir.path(), None).await;
    assert!(dir.path().join("vms/notes").exists(), "a folder that is no VM's is left alone");
    bench.control.observe_vm(&bench.control.vm("broken").await.unwrap()).await.unwrap();
}

/// Settings inside are gone with the boot, those of the host are not.
#[tokio::test]
async fn a_guest_that_starts_anew_gets_its_settings_back() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    let vm = start_vm(&bench, dir.path(), "web").await;
    assert_eq!(morph(&bench, "web").await.state, State::Committed);
    bench.control.look_at_vms().await.unwrap();
    let stale = bench.control.plan_rollback("web", 0).await.unwrap();
    bench.sim.reboot(vm).unwrap();
    assert_ne!(differences(&bench, dir.path(), "web").await, Vec::<String>::new(), "nothing was lost");
    // A plan sees to it at once: what a boot took is nobody else's change.
    let again = plan(&bench, "web").await;
    assert!(again.steps.is_empty() && again.notes.iter().all(|n| !n.contains("somebody")), "{again:?}");
    assert_eq!(differences(&bench, dir.path(), "web").await, Vec::<String>::new());
    let refused = bench.control.begin_morph(stale, "test").await.unwrap_err();
    assert!(matches!(refused, ControlError::Conflict { .. }), "{refused}");
    // So does a look; and the next one finds nothing new.
    bench.sim.reboot(vm).unwrap();
    let mut events = bench.control.events();
    bench.control.look_at_vms().await.unwrap();
    let mut told = Vec::new();
    while told.last() != Some(&"restored") {
        if let ControlEvent::Vm { what, .. } = events.recv().await.unwrap() {
            told.push(what);
        }
    }
    assert_eq!(told, ["rebooted", "restored"]);
    assert_eq!(differences(&bench, dir.path(), "web").await, Vec::<String>::new());
    bench.control.look_at_vms().await.unwrap();
    let view = bench.control.audit_view().await.unwrap();
    let of = |action: &str| view.entries.iter().filter(|entry| entry["action"] == action).count();
    assert_eq!((of("vm.rebooted"), of("vm.restore")), (2, 2));

    // One that is put back to a snapshot, or started, did not start anew by itself.
    bench.control.create_snapshot("web", Some("now"), "test").await.unwrap();
    bench.control.restore_snapshot("web", "now", "test").await.unwrap();
    bench.control.look_at_vms().await.unwrap();
    bench.control.stop_vm("web", Millis(0), "test").await.unwrap();
    bench.control.start_vm("web", "test").await.unwrap();
    bench.control.look_at_vms().await.unwrap();
    let view = bench.control.audit_view().await.unwrap();
    assert_eq!(view.entries.iter().filter(|entry| entry["action"] == "vm.rebooted").count(), 2);
}

#[tokio::test]
async fn a_morph_whose_guest_starts_anew_is_undone_and_the_last_settings_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    let vm = start_vm(&bench, dir.path(), "web").await;
    assert_eq!(morph(&bench, "web").await.state, State::Committed);
    let back = bench.control.plan_rollback("web", 0).await.unwrap();
    let sim = Arc::downgrade(&bench.sim);
    let last = back.knobs().last().unwrap();
    // In the middle of its last step the guest goes down, and comes up.
    let fault = move |id, setting: &Setting| {
        if setting.knob() == last {
            sim.upgrade().unwrap().reboot(id).unwrap();
        }
        None
    };
    bench.sim.inject(Some(Arc::new(fault)));
    let begun = bench.control.begin_morph(back, "test").await.unwrap();
    let ended = bench.control.run_morph(begun.id).await.unwrap();
    bench.sim.inject(None);
    assert_eq!(
        (ended.state, ended.reason.as_deref()),
        (State::RolledBack, Some("its guest started anew by itself"))
    );
    assert_eq!(ended.left_alone, []);
    bench.control.look_at_vms().await.unwrap();
    plan(&bench, "web").await;
    assert_eq!(differences(&bench, dir.path(), "web").await, Vec::<String>::new());
    assert_eq!(bench.control.vm("web").await.unwrap().id, vm);
}

#[tokio::test]
async fn a_guest_that_starts_anew_before_the_steps_gets_none_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    let vm = start_vm(&bench, dir.path(), "web").await;
    assert_eq!(morph(&bench, "web").await.state, State::Committed);
    let mut events = bench.control.events();
    let back = bench.control.plan_rollback("web", 0).await.unwrap();
    let begun = bench.control.begin_morph(back, "test").await.unwrap();
    let control = bench.control.clone();
    let task = tokio::spawn(async move { control.run_morph(begun.id).await });
    // The window before the steps takes a second.
    while !matches!(events.recv().await.unwrap(), ControlEvent::Morph { state: "reserved", .. }) {}
    bench.sim.reboot(vm).unwrap();
    let ended = task.await.unwrap().unwrap();
    assert_eq!(ended.reason.as_deref(), Some("its guest started anew by itself"));
    assert_eq!((ended.state, ended.steps.len(), ended.left_alone), (State::RolledBack, 0, Vec::new()));
    bench.control.look_at_vms().await.unwrap();
    plan(&bench, "web").await;
    assert_eq!(differences(&bench, dir.path(), "web").await, Vec::<String>::new());
}

#[tokio::test]
async fn nobody_waits_for_a_window_that_a_crash_cut_short() {
    let dir = tempfile::tempdir().unwrap();
    let id = {
        let bench = bench(dir.path(), None).await;
        start_vm(&bench, dir.path(), "web").await;
        let mut events = bench.control.events();
        let begun = bench.control.begin_morph(plan(&bench, "web").await, "test").await.unwrap();
        let control = bench.control.clone();
        let task = tokio::spawn(async move { control.run_morph(begun.id).await });
        while !matches!(events.recv().await.unwrap(), ControlEvent::Morph { state: "verifying", .. }) {}
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        bench.store.close().await;
        begun.id
    };
    let bench = bench(dir.path(), None).await;
    let mut events = bench.control.events();
    bench.control.resume().await.unwrap();
    // Its fresh window takes a second at least.
    assert_eq!(bench.control.morph(id).await.unwrap().state, State::Verifying);
    assert_eq!(bench.control.vm("web").await.unwrap().morph, Some(id));
    while !matches!(events.recv().await.unwrap(), ControlEvent::Morph { state: "committed", .. }) {}
    assert_eq!(differences(&bench, dir.path(), "web").await, Vec::<String>::new());
}

#[tokio::test]
async fn a_start_of_a_vm_whose_place_is_damaged_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let vm = {
        let bench = bench(dir.path(), None).await;
        let vm = start_vm(&bench, dir.path(), "web").await;
        bench.control.stop_vm("web", Millis(0), "test").await.unwrap();
        bench.store.close().await;
        vm
    };
    std::fs::write(dir.path().join("vms").join(vm.to_string()).join("seat.json"), b"{").unwrap();
    let bench = bench(dir.path(), None).await;
    let said = bench.control.start_vm("web", "test").await.map(drop).unwrap_err().to_string();
    assert!(said.contains("seat.json is damaged: "), "{said}");
    assert_eq!(listed(&bench, vm).await, (false, false), "a VM that cannot be started keeps a place");
    let record = bench.control.vm("web").await.unwrap();
    assert_eq!((record.wanted, record.wanted_before), (false, None));
    assert_eq!(last_act(&bench).await, "vm.stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_disk_is_one_vms_also_where_two_are_made_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    let disk = dir.path().join("disk.raw");
    std::fs::write(&disk, b"x").unwrap();
    let making = (0..8).map(|number| {
        let control = bench.control.clone();
        let mut intent = intent(&format!("vm-{number}"));
        intent.disks[0].path.clone_from(&disk);
        tokio::spawn(async move { control.create_vm(intent, "test").await })
    });
    let mut made = Vec::new();
    for outcome in making.collect::<Vec<_>>() {
        match outcome.await.unwrap() {
            Ok(record) => made.push(record),
            Err(ControlError::Node(error)) => assert_eq!(error.code, NodeErrorCode::FileInUse, "{error}"),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(bench.control.vms().await.unwrap(), made, "what was refused left a record");

    // What comes to be one file later is found at the start.
    start_vm(&bench, dir.path(), "late").await;
    bench.control.stop_vm("late", Millis(0), "test").await.unwrap();
    std::fs::remove_file(dir.path().join("late.raw")).unwrap();
    std::fs::hard_link(&disk, dir.path().join("late.raw")).unwrap();
    let refused = bench.control.start_vm("late", "test").await.map(drop).unwrap_err().to_string();
    let other = &made[0].intent.name;
    assert!(refused.ends_with(&format!("the disk root of {other} writes to that file")), "{refused}");
}

#[tokio::test]
async fn a_vm_is_removed_also_where_its_disks_owner_is_not_known_and_that_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    let vm = start_vm(&bench, dir.path(), "web").await;
    bench.control.stop_vm("web", Millis(0), "test").await.unwrap();
    let owners = dir.path().join("vms").join(vm.to_string()).join("owners.json");
    std::fs::write(&owners, b"{").unwrap();
    bench.control.delete_vm("web", "test").await.unwrap();
    let view = bench.control.audit_view().await.unwrap();
    let told = &view.entries.last().unwrap()["evidence"]["not_given_back"][0];
    assert!(told.as_str().unwrap().starts_with(&format!("{} is damaged: ", owners.display())), "{told}");
    assert!(bench.control.vm("web").await.is_err());
}
