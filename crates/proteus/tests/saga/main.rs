//! The morph saga on simulated VMs: it commits, it undoes, it leaves alone what is not its own, it refuses what is
//! stale, and wherever it is killed, the next start brings VM and record together.

#![allow(clippy::unwrap_used, reason = "test support: a failed step is a failed test")]

mod clone;

mod full_disk;

mod gone;

mod inside;

mod life;

mod place;

mod registry;

mod snapshot;

mod support;

mod window;

use proteus_control_plane::abort::AbortHow;
use proteus_control_plane::control::{ControlError, ControlEvent};
use proteus_control_plane::profile::digest;
use proteus_model::execution::{Morph, State};
use proteus_model::plan::Plan;
use proteus_model::setting::{Setting, ThpMode, Weight};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::{Bench, bench, differences, profile, start_vm};

pub(crate) async fn plan(bench: &Bench, vm: &str) -> Plan {
    let profile = profile();
    bench.control.plan_profile(vm, &profile, &digest(&profile)).await.unwrap()
}

pub(crate) async fn morph(bench: &Bench, vm: &str) -> Morph {
    let morph = bench.control.begin_morph(plan(bench, vm).await, "test").await.unwrap();
    bench.control.run_morph(morph.id).await.unwrap()
}

#[tokio::test]
async fn a_morph_commits_and_is_rolled_back_to_what_was() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    start_vm(&bench, dir.path(), "web").await;
    let done = morph(&bench, "web").await;
    assert_eq!(done.state, State::Committed, "{:?}", done.reason);
    assert_eq!(done.steps.len(), done.plan.steps.len());
    assert!(done.plan.steps.len() >= 9, "{:#?}", done.plan.steps);
    let record = bench.control.vm("web").await.unwrap();
    assert_eq!((record.version, record.profile.as_deref()), (1, Some("fit@1.0.0")));
    assert_eq!(differences(&bench, dir.path(), "web").await, Vec::<String>::new());

    let again = plan(&bench, "web").await;
    assert!(again.steps.is_empty(), "a second plan changes {:?}", again.steps);

    // What is needed for the way back is no old version of a record.
    bench.control.forget_history(0).await.unwrap();
    let report = bench.store.check().await.unwrap();
    assert_eq!((report.compacted, report.problems), (report.rev, Vec::new()));
    assert_eq!(untold(&bench).await, Vec::<String>::new());

    let back = bench.control.plan_rollback("web", 0).await.unwrap();
    let back = bench.control.begin_morph(back, "test").await.unwrap();
    let back = bench.control.run_morph(back.id).await.unwrap();
    assert_eq!(back.state, State::Committed, "{:?}", back.reason);
    let left = proteus_hypervisor::sim::changed_settings(&dir.path().join("sim"), back.plan.vm).unwrap();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(bench.control.vm("web").await.unwrap().version, 2);
}

#[tokio::test]
async fn what_is_in_force_already_makes_no_version() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    let vm = start_vm(&bench, dir.path(), "web").await;
    assert_eq!(morph(&bench, "web").await.state, State::Committed);
    let record = bench.control.vm("web").await.unwrap();
    let again = morph(&bench, "web").await;
    assert_eq!(again.state, State::Committed);
    assert!(again.reason.as_deref().is_some_and(|why| why.contains("nothing changes")), "{:?}", again.reason);
    let after = bench.control.vm("web").await.unwrap();
    assert_eq!((after.version, after.morph), (1, None));
    assert_eq!(bench.control.versions(&after).await.unwrap().len(), 2);
    assert_eq!(after.managed, record.managed);
    assert_eq!(untold(&bench).await, Vec::<String>::new());

    // A guest's memory moves by itself: it is taken again, and that is a change.
    bench.sim.meddle(vm, &Setting::Memory { target: proteus_model::unit::Bytes::mib(200) }).unwrap();
    let retaken = morph(&bench, "web").await;
    assert_eq!((retaken.state, retaken.plan.steps.len()), (State::Committed, 1), "{:?}", retaken.plan.steps);
    assert_eq!(bench.control.vm("web").await.unwrap().version, 2);
}

#[tokio::test]
async fn each_step_failed_in_turn_is_undone() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    start_vm(&bench, dir.path(), "web").await;
    let steps = plan(&bench, "web").await.steps.len();
    for failing in 0..steps {
        let plan = plan(&bench, "web").await;
        let knob = plan.knobs().nth(failing).unwrap();
        let once = Arc::new(AtomicUsize::new(0));
        let fault = move |_, setting: &Setting| {
            let hit = setting.knob() == knob && once.fetch_add(1, Ordering::SeqCst) == 0;
            hit.then(|| "made to fail".to_owned())
        };
        bench.sim.inject(Some(Arc::new(fault)));
        let morph = bench.control.begin_morph(plan, "test").await.unwrap();
        let ended = bench.control.run_morph(morph.id).await.unwrap();
        bench.sim.inject(None);
        assert_eq!(ended.state, State::RolledBack, "step {failing}: {:?}", ended.reason);
        assert!(ended.reason.unwrap().contains("made to fail"));
        assert_eq!(differences(&bench, dir.path(), "web").await, Vec::<String>::new(), "step {failing}");
    }
}

#[tokio::test]
async fn an_unhealthy_vm_gets_its_shape_back() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    start_vm(&bench, dir.path(), "web").await;
    let healthy = bench.healthy.clone();
    let fault = move |_, setting: &Setting| {
        if matches!(setting, Setting::Thp { mode: ThpMode::Never }) {
            healthy.store(false, Ordering::SeqCst);
        }
        None
    };
    bench.sim.inject(Some(Arc::new(fault)));
    let ended = morph(&bench, "web").await;
    assert_eq!(ended.state, State::RolledBack);
    assert!(ended.reason.as_deref().unwrap_or_default().contains("tcp 80"), "{:?}", ended.reason);
    assert!(ended.undo_ms.is_some());
    assert_eq!(differences(&bench, dir.path(), "web").await, Vec::<String>::new());
}

#[tokio::test]
async fn an_undo_that_cannot_be_done_parks_the_morph() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    start_vm(&bench, dir.path(), "web").await;
    let broken = |_, setting: &Setting| {
        let refuses = match setting {
            Setting::CpuWeight { weight } => *weight == Weight::NEUTRAL,
            Setting::Thp { .. } => true,
            _ => false,
        };
        refuses.then(|| "made to fail".to_owned())
    };
    bench.sim.inject(Some(Arc::new(broken)));
    let ended = morph(&bench, "web").await;
    assert_eq!(ended.state, State::Parked);
    assert!(ended.reason.unwrap().contains("could not be undone"));
}

#[tokio::test]
async fn what_somebody_else_changed_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    let vm = start_vm(&bench, dir.path(), "web").await;
    let sim = bench.sim.clone();
    let theirs = Setting::CpuWeight { weight: Weight(777) };
    let meddled = theirs.clone();
    // In the middle of the morph, an administrator sets the weight that Proteus has just set.
    let fault = move |vm, setting: &Setting| {
        if matches!(setting, Setting::Thp { mode: ThpMode::Never }) {
            sim.meddle(vm, &meddled).unwrap();
            return Some("made to fail".to_owned());
        }
        None
    };
    bench.sim.inject(Some(Arc::new(fault)));
    let ended = morph(&bench, "web").await;
    bench.sim.inject(None);
    assert_eq!(ended.state, State::RolledBack);
    assert_eq!(ended.left_alone.len(), 1, "{:?}", ended.left_alone);
    let found = bench.control.node().read(vm, &theirs.knob()).await.unwrap();
    assert_eq!(found, theirs);
}

#[tokio::test]
async fn a_stale_plan_a_second_morph_and_an_old_generation_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    let vm = start_vm(&bench, dir.path(), "web").await;
    let (first, second) = (plan(&bench, "web").await, plan(&bench, "web").await);
    let running = bench.control.begin_morph(first.clone(), "test").await.unwrap();
    let refused = bench.control.begin_morph(second, "test").await;
    assert!(matches!(refused, Err(ControlError::Conflict { .. })));
    let ended = bench.control.run_morph(running.id).await.unwrap();
    assert_eq!(ended.state, State::Committed);
    let refused = bench.control.begin_morph(first, "test").await;
    assert!(matches!(refused, Err(ControlError::Conflict { .. })), "a plan of an older version was taken");
    let old = proteus_model::id::Generation(0);
    let setting = Setting::CpuWeight { weight: Weight(5) };
    let refused = bench.control.node().apply(vm, &setting, old).await.unwrap_err();
    assert_eq!(refused.code, proteus_protocol::node::v1::NodeErrorCode::StaleGeneration);
}

#[tokio::test]
async fn disarm_undoes_a_running_morph_and_refuses_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    start_vm(&bench, dir.path(), "web").await;
    let running = bench.control.begin_morph(plan(&bench, "web").await, "test").await.unwrap();
    let mut events = bench.control.events();
    let (control, id) = (bench.control.clone(), running.id);
    let task = tokio::spawn(async move { control.run_morph(id).await });
    // The first event of the run: it is under way.
    events.recv().await.unwrap();
    let fleet = proteus_control_plane::arm::ArmScope::Fleet;
    bench.control.disarm(&fleet, false, "test").await.unwrap();
    let ended = task.await.unwrap().unwrap();
    assert_eq!(ended.state, State::RolledBack);
    assert_eq!(differences(&bench, dir.path(), "web").await, Vec::<String>::new());
    let refused = bench.control.begin_morph(plan(&bench, "web").await, "test").await;
    assert!(matches!(refused, Err(ControlError::Disarmed { .. })));
    bench.control.arm(&fleet, "test").await.unwrap();
    assert_eq!(morph(&bench, "web").await.state, State::Committed);
    let over = bench.control.abort_morph(id, AbortHow::Undo, "test").await;
    assert!(matches!(over, Err(ControlError::Conflict { .. })));
}

#[tokio::test]
async fn a_restarted_vm_gets_its_settings_back() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    start_vm(&bench, dir.path(), "web").await;
    assert_eq!(morph(&bench, "web").await.state, State::Committed);
    bench.control.stop_vm("web", proteus_model::unit::Millis(0), "test").await.unwrap();
    let mut events = bench.control.events();
    bench.control.start_vm("web", "test").await.unwrap();
    // A plan that is asked for at once waits for it: what is not restored yet is nobody else's change.
    let again = plan(&bench, "web").await;
    assert!(again.steps.is_empty() && again.notes.iter().all(|n| !n.contains("somebody")), "{again:?}");
    restored(&mut events).await;
    assert_eq!(differences(&bench, dir.path(), "web").await, Vec::<String>::new());
}

async fn restored(events: &mut tokio::sync::broadcast::Receiver<ControlEvent>) {
    loop {
        let event =
            tokio::time::timeout(std::time::Duration::from_secs(60), events.recv()).await.unwrap().unwrap();
        if matches!(event, ControlEvent::Vm { what: "restored", .. }) {
            return;
        }
    }
}

/// Names the folder of a crash test to the process that is to be killed.
const CRASH_DIR: &str = "PROTEUS_TEST_CRASH_DIR";
/// The store call at which it dies.
const CRASH_AT: &str = "PROTEUS_TEST_CRASH_AT";
/// What it does.
const CRASH_ACT: &str = "PROTEUS_TEST_CRASH_ACT";

/// What a process does when it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Commit,
    Undo,
    Restart,
    FailedStart,
    Clone,
    /// Takes a snapshot, then types into a console and leaves it open.
    Inside,
    Restore,
    HoldVm,
    HoldFleet,
}

/// The process that dies: acts once, and kills itself at the named store call. Does nothing in a usual run.
#[tokio::test]
async fn crash_child() {
    let Ok(dir) = std::env::var(CRASH_DIR) else { return };
    let at: usize = std::env::var(CRASH_AT).unwrap().parse().unwrap();
    let act = std::env::var(CRASH_ACT).unwrap();
    let calls = AtomicUsize::new(0);
    let probe = move |_: &str| {
        if calls.fetch_add(1, Ordering::SeqCst) == at {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        }
    };
    let bench = bench(Path::new(&dir), Some(Arc::new(probe))).await;
    if act == "Restart" {
        let mut events = bench.control.events();
        bench.control.start_vm("web", "test").await.unwrap();
        return restored(&mut events).await;
    }
    if act == "FailedStart" {
        bench.control.start_vm("web", "test").await.unwrap_err();
        return;
    }
    if act == "Inside" {
        return inside::die_inside(&bench, Path::new(&dir)).await;
    }
    if act == "Restore" {
        return drop(bench.control.restore_snapshot("web", "snapshot-1", "test").await.unwrap());
    }
    if act == "Clone" {
        // A simulated host clones nothing: that is what it undoes at last.
        bench.control.clone_vm("base", "copy".parse().unwrap(), "test").await.map(drop).unwrap_err();
        return;
    }
    for hold in [Act::HoldVm, Act::HoldFleet] {
        if act == format!("{hold:?}") {
            return window::die_holding(&bench, hold).await;
        }
    }
    if act == "Undo" {
        let fail = |_, setting: &Setting| {
            matches!(setting, Setting::NetworkPolicy { policy: Some(_) }).then(|| "made to fail".to_owned())
        };
        bench.sim.inject(Some(Arc::new(fail)));
    }
    morph(&bench, "web").await;
}

/// Kills the child at store call `at`; whether it was killed before it was done.
fn run_child(dir: &Path, at: usize, act: Act) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "crash_child", "--nocapture"]).env(CRASH_DIR, dir);
    child.env(CRASH_AT, at.to_string()).env(CRASH_ACT, format!("{act:?}"));
    let status = child.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    !status.success()
}

/// Brings everything to its end as a start of Proteus does.
async fn recover(bench: &Bench, act: Act) {
    let recovered = bench.control.recover().await.unwrap();
    let states: Vec<State> = recovered.iter().map(|morph| morph.state).collect();
    assert!(states.iter().all(|s| matches!(s, State::Committed | State::RolledBack)), "{states:?}");
    if act == Act::Restart {
        assert!(bench.control.start_wanted().await.unwrap().is_empty());
        // Killed before it was told to run, or while it started: its owner starts it again.
        bench.control.start_vm("web", "test").await.unwrap();
        assert!(plan(bench, "web").await.steps.is_empty());
    }
}

/// Actions that are told before they begin, and once more with what came of them.
const ANNOUNCED: [&str; 3] = ["vm.snapshot.create", "vm.console", "vm.exec"];

/// What the audit log does not tell, or tells twice.
async fn untold(bench: &Bench) -> Vec<String> {
    let view = bench.control.audit_view().await.unwrap();
    assert!(view.intact, "{:?}", view.broken);
    let told = |action: &str, id: &str| {
        let fits = |entry: &&serde_json::Value| entry["action"] == action && entry["evidence"]["morph"] == id;
        view.entries.iter().filter(fits).count()
    };
    let begun = view.entries.iter().filter(|entry| ANNOUNCED.iter().any(|action| entry["action"] == *action));
    let unclosed = begun.filter_map(|begun| {
        let ends = view.entries.iter().filter(|entry| entry["evidence"]["began"] == begun["seq"]).count();
        (ends != 1).then(|| format!("{} of {}: closed {ends} times", begun["action"], begun["seq"]))
    });
    let morphs = bench.control.morphs().await.unwrap();
    let counts = morphs.iter().flat_map(|morph| {
        let id = morph.id.to_string();
        ["morph.begin", "morph.end"].map(|action| (format!("{action} of {id}"), told(action, &id)))
    });
    counts
        .filter(|(_, count)| *count != 1)
        .map(|(what, count)| format!("{what}: told {count} times"))
        .chain(unclosed)
        .collect()
}

async fn kill_at_every_point(act: Act) -> (usize, usize) {
    let (mut points, mut differing) = (0, 0);
    for at in 0.. {
        let dir = tempfile::tempdir().unwrap();
        {
            let bench = bench(dir.path(), None).await;
            start_vm(&bench, dir.path(), "web").await;
            if act == Act::Restart {
                assert_eq!(morph(&bench, "web").await.state, State::Committed);
                bench.control.stop_vm("web", proteus_model::unit::Millis(0), "test").await.unwrap();
            }
            bench.store.close().await;
        }
        if !run_child(dir.path(), at, act) {
            break;
        }
        points += 1;
        let bench = bench(dir.path(), None).await;
        // Also where a second crash follows at once.
        bench.control.close_cut_short().await.unwrap();
        assert_eq!(bench.control.close_cut_short().await.unwrap(), 0);
        recover(&bench, act).await;
        let ended = inside::entries(&bench, "vm.ended").await;
        assert!(ended.is_empty(), "killed at store call {at} ({act:?}): it did not run: {ended:?}");
        let mut wrong = differences(&bench, dir.path(), "web").await;
        wrong.extend(untold(&bench).await);
        if !wrong.is_empty() {
            differing += 1;
            eprintln!("killed at store call {at} ({act:?}): {wrong:?}");
        }
        bench.store.close().await;
    }
    (points, differing)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_announced_is_closed_once_wherever_it_is_killed() {
    let (points, differing) = kill_at_every_point(Act::Inside).await;
    assert!(points >= 6, "only {points} points");
    assert_eq!(differing, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_and_after_every_journal_write_vm_and_record_agree() {
    let acts = tokio::join!(
        kill_at_every_point(Act::Commit),
        kill_at_every_point(Act::Undo),
        kill_at_every_point(Act::Restart)
    );
    let ((commit, a), (undo, b), (restart, c)) = acts;
    println!("killed at {commit} + {undo} + {restart} points, {} differ", a + b + c);
    assert!(commit >= 20 && undo >= 20 && restart >= 6, "only {commit}, {undo} and {restart} points");
    assert_eq!(a + b + c, 0);
}
