//! Lives of VMs that cross: starts, stops, removals and morphs at the same time leave record, host and allocation
//! table telling the same.

use crate::support::{Bench, bench, intent, start_vm};
use crate::{morph, plan};
use proteus_control_plane::control::ControlEvent;
use proteus_hypervisor::driver::Driver;
use proteus_model::execution::State;
use proteus_model::id::VmId;
use proteus_model::unit::Millis;
use proteus_model::vm::PowerState;

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
    let ended = task.await.unwrap().unwrap();
    assert_eq!(ended.state, State::RolledBack, "{:?}", ended.reason);
    assert_eq!(ended.reason.as_deref(), Some("the VM does not run any more"));
    assert_eq!(listed(&bench, vm).await, (false, false), "a stopped VM keeps its place");
    let record = bench.control.vm("web").await.unwrap();
    assert_eq!((record.version, record.morph), (0, None));
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
    bench.control.watch_for_ends();
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
