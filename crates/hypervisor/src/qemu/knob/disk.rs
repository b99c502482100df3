//! Disk limits: each disk sits behind a throttle filter of its own group.

use crate::driver::DriverError;
use crate::qemu::qmp::Qmp;
use crate::qemu::{Live, QemuVm, vm_call};
use proteus_model::id::DiskName;
use proteus_model::setting::{DiskLimit, Knob, Setting};
use proteus_model::unit::BytesPerSec;
use serde_json::{Value, json};

fn check(vm: &QemuVm, disk: &DiskName) -> Result<String, DriverError> {
    if vm.seat.intent.disks.iter().any(|known| known.name == *disk) {
        return Ok(format!("/objects/tg-{disk}"));
    }
    let why = format!("the VM has no disk {disk}");
    Err(DriverError::Unsupported { knob: Knob::DiskLimit(disk.clone()), why })
}

pub(super) async fn read(vm: &QemuVm, live: &Live, disk: &DiskName) -> Result<Setting, DriverError> {
    let ask = json!({"path": check(vm, disk)?, "property": "limits"});
    let limits = vm_call(vm.seat.id, &live.qmp, "read disk limits", "qom-get", ask).await?;
    let field = |name: &str| limits[name].as_u64().filter(|n| *n > 0);
    let limit = DiskLimit { iops: field("iops-total"), bandwidth: field("bps-total").map(BytesPerSec) };
    Ok(Setting::DiskLimit { disk: disk.clone(), limit })
}

pub(super) async fn apply(
    vm: &QemuVm,
    live: &Live,
    disk: &DiskName,
    limit: DiskLimit,
) -> Result<(), DriverError> {
    // All fields, each time: one that stays behind from before makes QEMU refuse the whole.
    let mut limits = serde_json::Map::new();
    for kind in ["iops", "bps"] {
        for way in ["total", "read", "write"] {
            limits.insert(format!("{kind}-{way}"), json!(0));
            limits.insert(format!("{kind}-{way}-max"), json!(0));
            limits.insert(format!("{kind}-{way}-max-length"), json!(1));
        }
    }
    limits.insert("iops-size".into(), json!(0));
    limits.insert("iops-total".into(), json!(limit.iops.unwrap_or(0)));
    limits.insert("bps-total".into(), json!(limit.bandwidth.map_or(0, |b| b.0)));
    let command = json!({"path": check(vm, disk)?, "property": "limits", "value": Value::Object(limits)});
    vm_call(vm.seat.id, &live.qmp, "set disk limits", "qom-set", command).await.map(|_| ())
}

/// Gives a new VMM the limits of the old one: they are the process's own, no state of a device.
pub(in crate::qemu) async fn carry_over(vm: &QemuVm, old: &Qmp, new: &Qmp) -> Result<(), DriverError> {
    for disk in &vm.seat.intent.disks {
        let ask = json!({"path": check(vm, &disk.name)?, "property": "limits"});
        let limits = vm_call(vm.seat.id, old, "read disk limits", "qom-get", ask.clone()).await?;
        let mut command = ask;
        command["value"] = limits;
        vm_call(vm.seat.id, new, "set disk limits", "qom-set", command).await?;
    }
    Ok(())
}
