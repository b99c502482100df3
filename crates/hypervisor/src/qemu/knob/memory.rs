//! Memory: the balloon moves inside what the VM booted with, virtio-mem beyond it. Both move step by step as the
//! guest gives or takes; a guest that cannot give stalls, and then the target goes back to where it stayed.

use crate::driver::DriverError;
use crate::qemu::{Live, POLL, QemuVm, STALL_LIMIT, command_line, since, vm_call};
use proteus_model::setting::{Knob, Setting};
use proteus_model::unit::Bytes;
use serde_json::{Value, json};
use std::time::Instant;

const HOT_PATH: &str = "/machine/peripheral/vmem0";

/// How often a guest that stopped giving memory back is asked again before it counts as stalled. One page that is
/// held for a moment keeps its block, and Linux tries such a block again only after 50 seconds and then ever later
/// (`VIRTIO_MEM_RETRY_TIMER_MIN_MS` in its `virtio_mem.c`), or as soon as it is asked anew.
const ASKED_AGAIN_MAX: u32 = 2;

/// Memory plugged in beyond the boot memory.
pub(in crate::qemu) async fn plugged(vm: &QemuVm, live: &Live) -> Result<Bytes, DriverError> {
    if vm.seat.intent.memory_max == vm.seat.intent.memory {
        return Ok(Bytes::ZERO);
    }
    let ask = json!({"path": HOT_PATH, "property": "size"});
    let size = vm_call(vm.seat.id, &live.qmp, "read plugged memory", "qom-get", ask).await?;
    Ok(Bytes(size.as_u64().unwrap_or(0)))
}

/// What the balloon leaves of the boot memory. QEMU's "actual" counts DIMMs beside that, but no virtio-mem
/// (`get_current_ram_size` in its `virtio-balloon.c`): plugged memory is not in it.
async fn ballooned(vm: &QemuVm, live: &Live) -> Result<Bytes, DriverError> {
    let info = vm_call(vm.seat.id, &live.qmp, "read the balloon", "query-balloon", Value::Null).await?;
    Ok(Bytes(info["actual"].as_u64().unwrap_or(0)))
}

pub(super) async fn read_balloon(vm: &QemuVm, live: &Live) -> Result<Setting, DriverError> {
    Ok(Setting::Memory { target: ballooned(vm, live).await? })
}

pub(super) async fn read_plugged(vm: &QemuVm, live: &Live) -> Result<Setting, DriverError> {
    Ok(Setting::HotMemory { plugged: plugged(vm, live).await? })
}

async fn command_balloon(vm: &QemuVm, live: &Live, target: Bytes) -> Result<(), DriverError> {
    let command = json!({"value": target.0});
    vm_call(vm.seat.id, &live.qmp, "set the balloon", "balloon", command).await.map(|_| ())
}

async fn command_plugged(vm: &QemuVm, live: &Live, target: Bytes) -> Result<(), DriverError> {
    let command = json!({"path": HOT_PATH, "property": "requested-size", "value": target.0});
    vm_call(vm.seat.id, &live.qmp, "set plugged memory", "qom-set", command).await.map(|_| ())
}

/// Waits until the knob is at `want`. An error when it did not move for [`STALL_LIMIT`].
async fn follow(vm: &QemuVm, live: &Live, want: &Setting) -> Result<(), DriverError> {
    let knob = want.knob();
    let mut moved_at = Instant::now();
    let mut last: Option<Setting> = None;
    loop {
        let now = match knob {
            Knob::HotMemory => read_plugged(vm, live).await?,
            _ => read_balloon(vm, live).await?,
        };
        if want.holds_in(&now) {
            return Ok(());
        }
        if last.as_ref() != Some(&now) {
            moved_at = Instant::now();
        } else if moved_at.elapsed() > STALL_LIMIT {
            return Err(DriverError::Stalled {
                vm: vm.seat.id,
                stayed: now.to_string(),
                asked: want.to_string(),
                waited: since(moved_at),
                knob,
            });
        }
        last = Some(now);
        tokio::time::sleep(POLL).await;
    }
}

pub(super) async fn set_balloon(vm: &QemuVm, live: &Live, target: Bytes) -> Result<(), DriverError> {
    let most = vm.seat.intent.memory;
    if target > most || target < proteus_model::vm::MEMORY_MIN {
        let why = format!("a balloon moves between {} and {most}", proteus_model::vm::MEMORY_MIN);
        return Err(DriverError::OutOfRange { knob: Knob::Memory, asked: target.to_string(), why });
    }
    command_balloon(vm, live, target).await?;
    let outcome = follow(vm, live, &Setting::Memory { target }).await;
    if outcome.is_err() {
        // Take the pressure off: the guest keeps what it did not give.
        let stayed = ballooned(vm, live).await?;
        command_balloon(vm, live, stayed).await?;
    }
    outcome
}

pub(super) async fn set_plugged(vm: &QemuVm, live: &Live, target: Bytes) -> Result<(), DriverError> {
    let most = vm.seat.intent.memory_max.saturating_sub(vm.seat.intent.memory);
    let block = command_line::HOT_BLOCK;
    if target > most || !target.0.is_multiple_of(block.0) {
        let why = format!("0 to {most} in steps of {block}");
        return Err(DriverError::OutOfRange { knob: Knob::HotMemory, asked: target.to_string(), why });
    }
    if most == Bytes::ZERO {
        return Ok(());
    }
    command_plugged(vm, live, target).await?;
    let want = Setting::HotMemory { plugged: target };
    let mut outcome = follow(vm, live, &want).await;
    for _ in 0..ASKED_AGAIN_MAX {
        if !matches!(outcome, Err(DriverError::Stalled { .. })) {
            break;
        }
        // Only a change is told to the guest.
        let stayed = plugged(vm, live).await?;
        command_plugged(vm, live, stayed).await?;
        command_plugged(vm, live, target).await?;
        outcome = follow(vm, live, &want).await;
    }
    if outcome.is_err() {
        let stayed = plugged(vm, live).await?;
        command_plugged(vm, live, stayed).await?;
    }
    outcome
}
