//! What can be done live to a VM of QEMU's: by what is plugged into it, and by what stands in the way. Must never
//! promise what a knob would refuse.

use super::{QemuDriver, QemuVm, replace, snapshot};
use proteus_model::capability::{Ability, CapabilityReport};
use proteus_model::setting::KnobKind;
use proteus_model::unit::{Bytes, Millis};

/// What can be done to this VM, by what is plugged into it.
pub(super) async fn report(driver: &QemuDriver, vm: &QemuVm) -> CapabilityReport {
    let mut report = CapabilityReport {
        driver: "qemu".into(),
        accelerator: driver.probe.accelerator.word().into(),
        ..CapabilityReport::default()
    };
    let (none, hierarchy, intent) = (Millis(0), &driver.hierarchy, &vm.seat.intent);
    let hot = intent.memory_max.saturating_sub(intent.memory);
    report.limits.vcpus_max = intent.vcpus_max;
    report.limits.memory_boot = intent.memory;
    report.limits.hot_memory_max = hot;
    let mut yes = |kind, mechanism: String| report.supports(Ability::Knob(kind), mechanism, none);
    yes(KnobKind::CpuCap, hierarchy.mechanism("cpu.cfs_quota_us", "cpu.max"));
    yes(KnobKind::CpuWeight, hierarchy.mechanism("cpu.shares", "cpu.weight"));
    yes(KnobKind::Memory, "virtio-balloon".into());
    yes(KnobKind::NicRate, "tc tbf towards the guest, nft limit from it".into());
    yes(KnobKind::NetworkPolicy, "nft netdev table on the tap".into());
    yes(KnobKind::Image, "virtio-blk hot-plug".into());
    if hot > Bytes::ZERO {
        yes(KnobKind::HotMemory, "virtio-mem".into());
    }
    if !intent.disks.is_empty() {
        yes(KnobKind::DiskLimit, "QEMU throttle group".into());
    }
    if hot == Bytes::ZERO {
        let why = "the VM was created with memory_max equal to memory: no virtio-mem device";
        report.lacks(Ability::Knob(KnobKind::HotMemory), why);
    }
    if intent.disks.is_empty() {
        report.lacks(Ability::Knob(KnobKind::DiskLimit), "the VM has no disk");
    }
    let unfit = {
        let live = vm.live.lock().await;
        replace::why_not(driver, vm, &live).await.unwrap_or_else(|error| Some(error.to_string()))
    };
    match unfit {
        None => report.supports(Ability::ReplaceVmm, "shared memory file and x-ignore-shared", Millis(500)),
        Some(why) => report.lacks(Ability::ReplaceVmm, why),
    }
    crate::share::report(&mut report, intent);
    match snapshot::why_not(&vm.seat) {
        None => {
            let pause = snapshot::pause_max(driver, vm);
            report.supports(Ability::Snapshot, "qcow2 snapshot with the RAM in it", pause);
        }
        Some(why) => report.lacks(Ability::Snapshot, why),
    }
    report
}
