//! Asks a guest to power off, for as long as it was granted. A VMM that does not answer may again: its guest has the rest
//! of that time. Must never wait longer than was granted, whoever has the VM in hand, but for work on its disks.

use super::process::{self, RunState};
use super::qmp::{Qmp, QmpError};
use super::{LOOK_LIMIT, QemuVm, since};
use proteus_model::vm::StopObserved;
use serde_json::Value;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Between two presses of the power button: a guest that boots hears none until its kernel listens, and one that heard
/// the first has gone, or is on its way, by then.
const PRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Asks the guest of a VM to go, and waits up to `grace`; then its process is ended, but for one whose disks are being
/// worked on, or that took its place meanwhile: these may run on.
pub(super) async fn ask(vm: &QemuVm, grace: Duration) -> StopObserved {
    let mut start = Instant::now();
    // Whoever has it in hand may be waiting for a VMM that does not answer.
    let mut held = tokio::time::timeout(grace.max(LOOK_LIMIT), vm.live.lock()).await.ok();
    if held.is_none() && is_saved(vm) {
        // What is cut short in the middle of a disk may leave it torn. That time is not the guest's.
        held = Some(vm.live.lock().await);
        start = Instant::now();
    }
    // Not with the VM held: whoever looks at it meanwhile would wait for the guest's patience too.
    let taken = held.map(|live| (live.qmp.clone(), live.run.clone()));
    let Some((qmp, run)) = taken else {
        let waited = since(start);
        let run = vm.seen.lock().unwrap_or_else(PoisonError::into_inner).1.clone();
        // It is let go then.
        process::kill(&run).await;
        return StopObserved { by_itself: false, answered: false, waited };
    };
    let (by_itself, answered) = press(&qmp, &run, start, grace).await;
    let waited = since(start);
    if !by_itself && !is_saved(vm) {
        // Now, and not once it is let go: whoever has it in hand may be waiting for a VMM that does not answer.
        process::kill(&run).await;
    }
    StopObserved { by_itself, answered, waited }
}

/// Whether a snapshot or a template is being written, or a snapshot read.
fn is_saved(vm: &QemuVm) -> bool {
    // What cannot be read is left to its end, too.
    process::load_run_state(&vm.seat).map_or(true, |run| run.is_some_and(|run| run.under_way.is_some()))
}

/// Presses the guest's power button until the guest has gone, or for as long as `grace` from `start`. Whether it has
/// gone, and whether its VMM took the last press.
async fn press(qmp: &Arc<Qmp>, run: &RunState, start: Instant, grace: Duration) -> (bool, bool) {
    let left = || grace.saturating_sub(start.elapsed());
    let mut answered = true;
    loop {
        if left() > Duration::ZERO {
            let pressed = tokio::time::timeout(left(), qmp.call("system_powerdown", Value::Null)).await;
            answered = matches!(pressed, Ok(Ok(_) | Err(QmpError::Refused { .. })));
        }
        let gone = process::wait_end(run, left().min(PRESS_INTERVAL)).await;
        if gone || left() == Duration::ZERO {
            return (gone, answered || gone);
        }
    }
}
