//! vCPUs: plugged, never unplugged. QEMU 7.2 keeps a freed CPU's memory listener and aborts at the next plug, so
//! the way back is the guest's: CPU offline, device stays.

use crate::driver::DriverError;
use crate::qemu::{Live, QemuDriver, QemuVm, command_line, process, vm_call};
use proteus_model::setting::Knob;
use serde_json::{Value, json};

/// vCPUs plugged in.
pub(in crate::qemu) async fn plugged(vm: &QemuVm, live: &Live) -> Result<u32, DriverError> {
    let cpus = vm_call(vm.seat.id, &live.qmp, "list vCPUs", "query-cpus-fast", Value::Null).await?;
    let count = cpus.as_array().map_or(0, Vec::len);
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Plugs until `count` are there.
pub(in crate::qemu) async fn ensure_plugged(
    driver: &QemuDriver,
    vm: &QemuVm,
    live: &mut Live,
    count: u32,
) -> Result<(), DriverError> {
    let most = vm.seat.intent.vcpus_max;
    if count > most || count == 0 {
        let why = format!("the VM was created for 1 to {most}");
        return Err(DriverError::OutOfRange { knob: Knob::Vcpus, asked: count.to_string(), why });
    }
    for index in plugged(vm, live).await?..count {
        let device = json!({ "driver": command_line::cpu_driver(driver.probe.accelerator),
            "id": format!("cpu{index}"), "socket-id": 0, "core-id": index, "thread-id": 0 });
        vm_call(vm.seat.id, &live.qmp, "plug a vCPU", "device_add", device).await?;
        live.run.plugged.vcpus = index + 1 - vm.seat.intent.vcpus;
        process::save_run_state(&vm.seat, &live.run)?;
    }
    Ok(())
}
