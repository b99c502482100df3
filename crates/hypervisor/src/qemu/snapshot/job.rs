//! Snapshot jobs of QEMU: started, waited for by their event, asked how they ended, dismissed. While one works,
//! QEMU answers nothing else. Must never report a job as done whose end was not seen.

use crate::driver::DriverError;
use crate::qemu::qmp::{Event, QmpError};
use crate::qemu::{Live, QemuVm, process, vm_call};
use proteus_model::id::SnapshotName;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

/// Name of the job: a VM has one at a time.
const JOB: &str = "proteus-snapshot";
/// How often the VMM is looked at while it says nothing.
const LOOK: Duration = Duration::from_millis(200);
/// Longest time for a job: this, and a second per 10 MiB of memory, a tenth of what a slow disk writes.
const LIMIT_BASE: Duration = Duration::from_secs(60);
/// See [`LIMIT_BASE`].
const LIMIT_BYTES_PER_SECOND: u64 = 10 << 20;

fn limit(vm: &QemuVm) -> Duration {
    LIMIT_BASE + Duration::from_secs(vm.seat.intent.memory_max.0 / LIMIT_BYTES_PER_SECOND)
}

/// Disks and RAM, which is in the first of them.
fn whole(name: &SnapshotName, nodes: &[String]) -> Value {
    json!({"job-id": JOB, "tag": name, "vmstate": nodes.first(), "devices": nodes})
}

pub(super) async fn save(
    vm: &QemuVm,
    live: &Live,
    name: &SnapshotName,
    nodes: Vec<String>,
) -> Result<(), DriverError> {
    run(vm, live, "snapshot-save", whole(name, &nodes)).await
}

pub(super) async fn load(
    vm: &QemuVm,
    live: &Live,
    name: &SnapshotName,
    nodes: Vec<String>,
) -> Result<(), DriverError> {
    run(vm, live, "snapshot-load", whole(name, &nodes)).await
}

pub(super) async fn delete(
    vm: &QemuVm,
    live: &Live,
    name: &SnapshotName,
    nodes: Vec<String>,
) -> Result<(), DriverError> {
    run(vm, live, "snapshot-delete", json!({"job-id": JOB, "tag": name, "devices": nodes})).await
}

fn error(vm: &QemuVm, command: &str, description: String) -> DriverError {
    let source = QmpError::Refused { command: command.to_owned(), description };
    DriverError::Vmm { vm: vm.seat.id, doing: "keep snapshots", source }
}

async fn run(vm: &QemuVm, live: &Live, command: &'static str, with: Value) -> Result<(), DriverError> {
    let mut events = live.qmp.events();
    vm_call(vm.seat.id, &live.qmp, command, command, with).await?;
    let start = Instant::now();
    while !is_over(&mut events).await {
        if !process::lives(&live.run) || !live.qmp.is_open() {
            return Err(error(vm, command, "the VMM died over it".into()));
        }
        if start.elapsed() > limit(vm) {
            return Err(error(vm, command, format!("no end within {} s", limit(vm).as_secs())));
        }
    }
    match dismiss(vm, live).await? {
        Some(why) => Err(error(vm, command, why)),
        None => Ok(()),
    }
}

/// Waits a moment for the event of the job's end.
async fn is_over(events: &mut Receiver<Event>) -> bool {
    let over = async {
        loop {
            match events.recv().await {
                Ok(event) if event.name == "JOB_STATUS_CHANGE" => {
                    if event.data["id"] == JOB && event.data["status"] == "concluded" {
                        return true;
                    }
                }
                Ok(_) => {}
                // The end may have been among what was missed: it is asked for then.
                Err(RecvError::Lagged(_)) => return true,
                Err(RecvError::Closed) => return false,
            }
        }
    };
    tokio::time::timeout(LOOK, over).await.unwrap_or(false)
}

/// Takes the ended job away; its error, if it had one.
async fn dismiss(vm: &QemuVm, live: &Live) -> Result<Option<String>, DriverError> {
    let doing = "end a snapshot job";
    let start = Instant::now();
    loop {
        let jobs = vm_call(vm.seat.id, &live.qmp, doing, "query-jobs", Value::Null).await?;
        let ours = jobs.as_array().and_then(|all| all.iter().find(|job| job["id"] == JOB)).cloned();
        let Some(ours) = ours else { return Ok(None) };
        if ours["status"] == "concluded" {
            vm_call(vm.seat.id, &live.qmp, doing, "job-dismiss", json!({ "id": JOB })).await?;
            return Ok(ours["error"].as_str().map(str::to_owned));
        }
        if start.elapsed() > limit(vm) {
            return Err(error(vm, "query-jobs", "a snapshot job does not end".into()));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until no job of an earlier process works any more.
pub(super) async fn wait_quiet(vm: &QemuVm, live: &Live) -> Result<(), DriverError> {
    dismiss(vm, live).await.map(|_| ())
}
