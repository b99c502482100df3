//! Windows of observation, however long: whoever tells a morph to stop is heard in the middle of them.

use crate::support::{Bench, PROFILE, bench, differences, start_vm};
use crate::{Act, run_child};
use proteus_control_plane::abort::AbortHow;
use proteus_control_plane::arm::ArmScope;
use proteus_control_plane::control::{ControlError, ControlEvent};
use proteus_control_plane::profile::digest;
use proteus_model::execution::{Morph, State};
use proteus_model::id::MorphId;
use proteus_model::profile::document;
use proteus_model::unit::Millis;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Within so long it is heard: about a second, and the host is busy.
const SOON: Duration = Duration::from_secs(4);

type Running = JoinHandle<Result<Morph, ControlError>>;

/// A morph in its window before, or after, which is an hour long.
async fn in_window(bench: &Bench, before: bool) -> (MorphId, Running) {
    let window = if before { "{ before: 1h, after: 1s }" } else { "{ before: 1s, after: 1h }" };
    let text = PROFILE.replace("{ before: 1s, after: 1s }", window);
    let profile = document::parse("fit.yaml", text.as_bytes(), None).unwrap();
    let plan = bench.control.plan_profile("web", &profile, &digest(&profile)).await.unwrap();
    let mut events = bench.control.events();
    let id = bench.control.begin_morph(plan, "test").await.unwrap().id;
    let control = bench.control.clone();
    let task = tokio::spawn(async move { control.run_morph(id).await });
    let wanted = if before { "reserved" } else { "verifying" };
    loop {
        if matches!(events.recv().await.unwrap(), ControlEvent::Morph { state, .. } if state == wanted) {
            return (id, task);
        }
    }
}

/// What is disarmed in a test.
fn scope_of(act: Act) -> ArmScope {
    match act {
        Act::HoldVm => ArmScope::Vm { vm: "web".into() },
        _ => ArmScope::Fleet,
    }
}

/// The part of the process that dies: a morph is turned and watched, is to be held, and nobody has had a turn since.
pub(crate) async fn die_holding(bench: &Bench, act: Act) {
    let (id, _task) = in_window(bench, false).await;
    assert_eq!(bench.control.disarm(&scope_of(act), true, "test").await.unwrap(), 1);
    assert_eq!(bench.control.morph(id).await.unwrap().state, State::Verifying);
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
}

async fn soon(task: Running) -> Morph {
    tokio::time::timeout(SOON, task).await.expect("the window was not left").unwrap().unwrap()
}

#[tokio::test]
async fn an_abort_and_a_disarm_cut_a_window_short() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    start_vm(&bench, dir.path(), "web").await;
    for before in [true, false] {
        let (id, task) = in_window(&bench, before).await;
        bench.control.abort_morph(id, AbortHow::Undo, "test").await.unwrap();
        let ended = soon(task).await;
        assert_eq!((ended.state, ended.reason.as_deref()), (State::RolledBack, Some("aborted")));
        for scope in [ArmScope::Fleet, ArmScope::Vm { vm: "web".into() }] {
            let (_, task) = in_window(&bench, before).await;
            assert_eq!(bench.control.disarm(&scope, false, "test").await.unwrap(), 1);
            let ended = soon(task).await;
            let why = match &scope {
                ArmScope::Fleet => "the fleet was disarmed by test",
                ArmScope::Vm { .. } => "the VM web was disarmed by test",
            };
            assert_eq!((ended.state, ended.reason.as_deref()), (State::RolledBack, Some(why)));
            bench.control.arm(&scope, "test").await.unwrap();
        }
        assert_eq!(differences(&bench, dir.path(), "web").await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_vm_that_ends_and_a_check_that_fails_end_a_long_window() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    start_vm(&bench, dir.path(), "web").await;
    let within = |task| tokio::time::timeout(Duration::from_secs(30), task);
    let (_, task) = in_window(&bench, false).await;
    bench.healthy.store(false, Ordering::SeqCst);
    let ended = within(task).await.expect("three looks took too long").unwrap().unwrap();
    assert_eq!(ended.state, State::RolledBack);
    assert!(ended.reason.as_deref().unwrap_or_default().contains("tcp 80"), "{:?}", ended.reason);
    bench.healthy.store(true, Ordering::SeqCst);

    // It hangs: it is told as that, and not as one that has ended.
    let (_, task) = in_window(&bench, false).await;
    bench.sim.hang(true);
    bench.healthy.store(false, Ordering::SeqCst);
    let ended = within(task).await.expect("three looks took too long").unwrap().unwrap();
    assert_eq!(
        (ended.state, ended.reason.as_deref()),
        (State::RolledBack, Some("the VM's VMM does not answer"))
    );
    bench.sim.hang(false);
    bench.healthy.store(true, Ordering::SeqCst);

    let (_, task) = in_window(&bench, true).await;
    bench.control.stop_vm("web", Millis(0), "test").await.unwrap();
    let ended = within(task).await.expect("a stopped VM was watched").unwrap().unwrap();
    assert_eq!(ended.reason.as_deref(), Some("the VM does not run any more"));
}

#[tokio::test]
async fn a_morph_in_a_window_is_left_when_proteus_ends_and_goes_on_at_the_next_start() {
    for before in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let state = if before { State::Reserved } else { State::Verifying };
        let id = {
            let bench = bench(dir.path(), None).await;
            start_vm(&bench, dir.path(), "web").await;
            let (id, task) = in_window(&bench, before).await;
            bench.control.stop().await;
            assert_eq!(soon(task).await.state, state);
            assert_eq!(bench.control.morph(id).await.unwrap().state, state);
            bench.store.close().await;
            id
        };
        let bench = bench(dir.path(), None).await;
        let mut events = bench.control.events();
        bench.control.resume().await.unwrap();
        let over = tokio::time::timeout(Duration::from_millis(500), events.recv()).await;
        assert!(over.is_err(), "it did not stay in its window: {over:?}");
        let morph = bench.control.morph(id).await.unwrap();
        assert_eq!((morph.state, morph.reason), (state, None));
        bench.control.abort_morph(id, AbortHow::Undo, "test").await.unwrap();
        let ended = async {
            while !matches!(events.recv().await.unwrap(), ControlEvent::Morph { state: "rolled_back", .. }) {}
        };
        tokio::time::timeout(SOON, ended).await.unwrap();
        assert_eq!(differences(&bench, dir.path(), "web").await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn an_abort_that_was_accepted_holds_over_a_crash() {
    for (how, state, reason) in [
        (AbortHow::Undo, State::RolledBack, "aborted"),
        (AbortHow::Hold, State::Parked, "held by an operator"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let id = {
            let bench = bench(dir.path(), None).await;
            start_vm(&bench, dir.path(), "web").await;
            let (id, task) = in_window(&bench, false).await;
            bench.control.abort_morph(id, how, "test").await.unwrap();
            // On one thread: it had no turn since.
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
            assert_eq!(bench.control.morph(id).await.unwrap().state, State::Verifying);
            bench.store.close().await;
            id
        };
        let bench = bench(dir.path(), None).await;
        let ended = tokio::time::timeout(SOON, bench.control.recover()).await.unwrap().unwrap();
        assert_eq!((ended[0].id, ended[0].state, ended[0].reason.as_deref()), (id, state, Some(reason)));
        assert_eq!(differences(&bench, dir.path(), "web").await, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_of_a_disarm_holds_over_a_kill() {
    for act in [Act::HoldVm, Act::HoldFleet] {
        let dir = tempfile::tempdir().unwrap();
        {
            let bench = bench(dir.path(), None).await;
            start_vm(&bench, dir.path(), "web").await;
            bench.store.close().await;
        }
        assert!(run_child(dir.path(), usize::MAX, act), "it was not killed");
        let bench = bench(dir.path(), None).await;
        let ended = tokio::time::timeout(SOON, bench.control.recover()).await.unwrap().unwrap();
        assert_eq!(ended.len(), 1, "{act:?}");
        let why = match act {
            Act::HoldVm => "held: the VM web was disarmed by test",
            _ => "held: the fleet was disarmed by test",
        };
        assert_eq!((ended[0].state, ended[0].reason.as_deref()), (State::Parked, Some(why)));
        assert!(!bench.control.vm("web").await.unwrap().managed.is_empty(), "its steps were undone");
        assert_eq!(differences(&bench, dir.path(), "web").await, Vec::<String>::new());
        bench.control.arm(&scope_of(act), "test").await.unwrap();
        let record = bench.control.vm("web").await.unwrap();
        assert!(!record.disarmed && !record.disarmed_hold);
    }
}

#[tokio::test]
async fn the_last_word_of_a_disarm_is_what_holds() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    start_vm(&bench, dir.path(), "web").await;
    let vm = ArmScope::Vm { vm: "web".into() };
    for hold in [true, false, true] {
        for scope in [&ArmScope::Fleet, &vm] {
            bench.control.disarm(scope, hold, "test").await.unwrap();
        }
        assert_eq!(bench.control.fleet_disarmed().await.unwrap().map(|disarmed| disarmed.hold), Some(hold));
        assert_eq!(bench.control.vm("web").await.unwrap().disarmed_hold, hold);
        let view = bench.control.audit_view().await.unwrap();
        assert_eq!(view.entries.last().unwrap()["evidence"]["hold"], hold);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_disarmed_by_many_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    start_vm(&bench, dir.path(), "web").await;
    for scope in [ArmScope::Vm { vm: "web".into() }, ArmScope::Fleet] {
        let scope = Arc::new(scope);
        let all = (0..30).map(|_| {
            let (control, scope) = (bench.control.clone(), scope.clone());
            tokio::spawn(async move { control.disarm(&scope, false, "test").await })
        });
        for done in all.collect::<Vec<_>>() {
            done.await.unwrap().unwrap();
        }
    }
    assert!(bench.control.vm("web").await.unwrap().disarmed);
    assert!(bench.control.fleet_disarmed().await.unwrap().is_some());
}
