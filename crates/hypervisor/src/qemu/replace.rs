//! Puts a new QEMU process under a running guest. The guest's memory is a shared file that both processes map, so
//! only device state moves (about 200 KB), and the pause is tens of milliseconds whatever the memory's size.
//!
//! ```text
//! old runs ─ new starts, waits ─ old pauses, sends device state ─┬─ new takes over ─ old ends
//!                                                                └─ anything fails ─ new ends, old goes on
//! ```

use super::command_line::Sockets;
use super::process::{self, Launch, RunState};
use super::qmp::Qmp;
use super::{Live, QemuDriver, QemuVm, since, vm_call};
use crate::driver::{Applied, DriverError, Seat};
use proteus_model::id::VmId;
use proteus_model::unit::{Bytes, Millis};
use proteus_model::vm::PowerState;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest time for the device state to move. It takes 8–43 ms.
const MOVE_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(2);
const DOING: &str = "replace the VMM";

/// Why this VM's VMM must not be replaced now, if so.
pub(super) async fn why_not(
    driver: &QemuDriver,
    vm: &QemuVm,
    live: &Live,
) -> Result<Option<String>, DriverError> {
    let plugged = super::knob::memory::plugged(vm, live).await?;
    if plugged == Bytes::ZERO || driver.probe.keeps_plugged_memory() {
        return Ok(None);
    }
    let version = driver.probe.version.split(' ').next().unwrap_or_default();
    Ok(Some(format!(
        "a new VMM of QEMU {version} would empty the {plugged} that are plugged in (8.1 and later would not); \
         take them out first"
    )))
}

pub(super) async fn replace(
    driver: &QemuDriver,
    vm: &QemuVm,
    live: &mut Live,
) -> Result<Applied, DriverError> {
    let start = Instant::now();
    if let Some(why) = why_not(driver, vm, live).await? {
        return Err(DriverError::Unsupported { knob: proteus_model::setting::Knob::HotMemory, why });
    }
    let tap =
        process::borrow_tap(&live.run).map_err(DriverError::host("take over the tap of the old VMM"))?;
    let around = Launch {
        accelerator: live.run.accelerator,
        machine: live.run.machine.clone(),
        ram_dir: driver.ram_dir.clone(),
        incoming: true,
        paused: false,
        incarnation: live.run.incarnation + 1,
        plugged: live.run.plugged.clone(),
        filter: live.run.filter.clone(),
        under_way: None,
    };
    let old_state = live.run.clone();
    // Until the new one has the guest, a restarted Proteus finds the old one, and asks both (`survivor`).
    let (run, qmp) = process::launch(&vm.seat, &around, tap).await?;
    let moved = move_state(vm, live, &qmp).await;
    let blackout_ms = match moved {
        Ok(blackout) => blackout,
        Err(error) => {
            process::kill(&run).await;
            // Where the old one had not paused yet, it refuses `cont` harmlessly.
            let _ = live.qmp.call("cont", Value::Null).await;
            return Err(error);
        }
    };
    process::save_run_state(&vm.seat, &run)?;
    process::kill(&old_state).await;
    let sockets = Sockets::of(&vm.seat, old_state.incarnation);
    for socket in [sockets.qmp, sockets.agent, sockets.console] {
        // The next incarnation's sockets have other names: one left behind is only untidy.
        let _ = std::fs::remove_file(socket);
    }
    super::reboot::count(&qmp, &vm.reboots);
    live.qmp = Arc::new(qmp);
    live.run = run;
    vm.keep_seen(PowerState::Running, &live.run);
    QemuDriver::gather_threads(vm, live).await?;
    Ok(Applied { took_ms: since(start), blackout_ms })
}

/// After a crash: of the VMMs of a seat the one that has its guest; the others are ended.
pub(super) async fn survivor(seat: &Seat, known: RunState) -> Result<RunState, DriverError> {
    let mut all = process::unknown_vmms(seat, Some(&known));
    if all.is_empty() {
        return Ok(known);
    }
    tracing::warn!(vm = %seat.intent.name, "a replacement of its VMM was cut short");
    let recorded = known.clone();
    all.push(known);
    all.retain(process::lives);
    all.sort_by_key(|run| run.incarnation);
    let Some(newest) = all.pop() else { return Ok(recorded) };
    let start = Instant::now();
    let kept = loop {
        if runs(seat, &newest).await {
            break newest;
        }
        // Nobody drives the move any more, but what was sent may still be on its way in.
        if start.elapsed() >= MOVE_LIMIT || !process::lives(&newest) || any_keeps(seat, &all).await {
            process::kill(&newest).await;
            break all.pop().unwrap_or(newest);
        }
        tokio::time::sleep(POLL).await;
    };
    for other in all.iter().filter(|other| other.pid != kept.pid) {
        process::kill(other).await;
    }
    if !process::lives(&kept) {
        return Ok(kept);
    }
    if !runs(seat, &kept).await {
        // It stood still for the move, which did not happen.
        let qmp = Qmp::connect(&Sockets::of(seat, kept.incarnation).qmp).await;
        let doing = |source| DriverError::Vmm { vm: seat.id, doing: DOING, source };
        vm_call(seat.id, &qmp.map_err(doing)?, DOING, "cont", Value::Null).await?;
    }
    process::save_run_state(seat, &kept)?;
    Ok(kept)
}

/// Whether one of these VMMs runs its guest and is not about to give it away.
async fn any_keeps(seat: &Seat, all: &[RunState]) -> bool {
    for run in all {
        let Ok(qmp) = Qmp::connect(&Sockets::of(seat, run.incarnation).qmp).await else { continue };
        // In this order: one that runs after its move is known to have ended never gave the guest away.
        let moves = qmp.call("query-migrate", Value::Null).await;
        let over =
            |status: Option<&str>| !matches!(status, Some("setup" | "active" | "device" | "pre-switchover"));
        let status = qmp.call("query-status", Value::Null).await;
        if moves.is_ok_and(|moves| over(moves["status"].as_str()))
            && status.is_ok_and(|status| status["running"] == json!(true))
        {
            return true;
        }
    }
    false
}

/// Whether this VMM's guest runs.
async fn runs(seat: &Seat, run: &RunState) -> bool {
    let Ok(qmp) = Qmp::connect(&Sockets::of(seat, run.incarnation).qmp).await else { return false };
    let status = qmp.call("query-status", Value::Null).await;
    status.is_ok_and(|status| status["running"] == json!(true))
}

/// Moves the device state; the pause that it cost.
async fn move_state(vm: &QemuVm, live: &Live, new: &Qmp) -> Result<Millis, DriverError> {
    let id = vm.seat.id;
    super::knob::disk::carry_over(vm, &live.qmp, new).await?;
    let path = vm.seat.run_dir().join("move");
    let uri = format!("unix:{}", path.display());
    let ignore = json!({"capabilities": [{"capability": "x-ignore-shared", "state": true}]});
    for qmp in [&*live.qmp, new] {
        vm_call(id, qmp, DOING, "migrate-set-capabilities", ignore.clone()).await?;
    }
    vm_call(id, new, DOING, "migrate-incoming", json!({ "uri": uri })).await?;
    let paused_at = Instant::now();
    vm_call(id, &live.qmp, DOING, "migrate", json!({ "uri": uri })).await?;
    let sent = wait_moved(id, &live.qmp, DOING);
    let limit = tokio::time::timeout(MOVE_LIMIT, sent).await;
    // The socket's work is done either way.
    let _ = std::fs::remove_file(&path);
    let late = DriverError::Stalled {
        vm: id,
        knob: proteus_model::setting::Knob::Vcpus,
        stayed: "with the old VMM".into(),
        asked: "with the new one".into(),
        waited: Millis(MOVE_LIMIT.as_secs() * 1000),
    };
    if !matches!(limit, Ok(Ok(()))) {
        // Refused where the move is already over.
        let _ = live.qmp.call("migrate_cancel", Value::Null).await;
    }
    limit.map_err(|_| late)??;
    let downtime = vm_call(id, &live.qmp, DOING, "query-migrate", Value::Null).await?;
    wait_running(vm, new).await?;
    let measured = downtime["downtime"].as_u64().map(Millis);
    Ok(measured.unwrap_or_else(|| since(paused_at)))
}

/// Waits until the VMM behind `qmp` has sent, or taken in, all of its state.
pub(super) async fn wait_moved(vm: VmId, qmp: &Qmp, doing: &'static str) -> Result<(), DriverError> {
    loop {
        let info = vm_call(vm, qmp, doing, "query-migrate", Value::Null).await?;
        match info["status"].as_str() {
            Some("completed") => return Ok(()),
            Some(end @ ("failed" | "cancelled")) => {
                let why = info["error-desc"].as_str().unwrap_or(end).to_owned();
                let source = super::qmp::QmpError::Refused { command: "migrate".into(), description: why };
                return Err(DriverError::Vmm { vm, doing, source });
            }
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

/// The old one says "completed" once all is sent; only the new one knows that it all arrived.
async fn wait_running(vm: &QemuVm, new: &Qmp) -> Result<(), DriverError> {
    let start = Instant::now();
    loop {
        let status = vm_call(vm.seat.id, new, DOING, "query-status", Value::Null).await?;
        if status["running"] == json!(true) {
            return Ok(());
        }
        if start.elapsed() > MOVE_LIMIT {
            let said = status["status"].as_str().unwrap_or("nothing").to_owned();
            let source = super::qmp::QmpError::Malformed(format!("the new VMM stays {said}"));
            return Err(DriverError::Vmm { vm: vm.seat.id, doing: DOING, source });
        }
        tokio::time::sleep(POLL).await;
    }
}
