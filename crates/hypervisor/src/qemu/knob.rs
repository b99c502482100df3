//! Turning QEMU's knobs and reading them back. One file per resource.

pub(super) mod block;

pub(super) mod cpu;

pub(super) mod disk;

pub(super) mod image;

pub(super) mod memory;

use super::process::{self, FilterNext};
use super::{Live, QemuDriver, QemuVm, survey};
use crate::cgroup::CAP_MIN;
use crate::driver::DriverError;
use proteus_model::policy::PacketPolicy;
use proteus_model::setting::{Knob, Setting};
use proteus_model::vm::VmCounters;
use std::sync::Arc;

fn not_mine(knob: Knob) -> DriverError {
    DriverError::Unsupported { knob, why: "the guest's agent turns it, not the hypervisor".into() }
}

/// Reads a knob.
pub(super) async fn read(
    driver: &QemuDriver,
    vm: &QemuVm,
    live: &mut Live,
    knob: &Knob,
) -> Result<Setting, DriverError> {
    let doing = |what: &str| DriverError::host(format!("read the {what} of {}", vm.seat.id));
    match knob {
        Knob::CpuCap => Ok(Setting::CpuCap { limit: vm.group.cap().map_err(doing("cpu cap"))? }),
        Knob::CpuWeight => Ok(Setting::CpuWeight { weight: vm.group.weight().map_err(doing("cpu weight"))? }),
        Knob::Memory => memory::read_balloon(vm, live).await,
        Knob::HotMemory => memory::read_plugged(vm, live).await,
        Knob::DiskLimit(disk) => disk::read(vm, live, disk).await,
        Knob::NicRate => Ok(Setting::NicRate { rate: driver.network.read_nic_rate(vm.seat.slot).await? }),
        Knob::NetworkPolicy => read_policy(driver, vm, live).await,
        Knob::Image(image) => Ok(image::read(live, image)),
        Knob::Vcpus
        | Knob::Sysctl(_)
        | Knob::Thp
        | Knob::IoScheduler(_)
        | Knob::Priority(_)
        | Knob::AppPolicy(_) => Err(not_mine(knob.clone())),
    }
}

/// The policy whose filter the kernel holds. A filter that is not the one last set is nobody's policy: refused,
/// so that it is reported and left alone.
async fn read_policy(driver: &QemuDriver, vm: &QemuVm, live: &mut Live) -> Result<Setting, DriverError> {
    if let Some(FilterNext { to }) = live.run.filter_next.clone() {
        // Setting it was cut short, before or after the kernel took it: it is set again, whole.
        set_policy(driver, vm, live, to).await?;
    }
    let fingerprint = driver.network.policy_fingerprint(vm.seat.slot).await?;
    if fingerprint.is_empty() {
        return Ok(Setting::NetworkPolicy { policy: None });
    }
    match &live.run.filter {
        Some((ours, policy)) if *ours == fingerprint => {
            Ok(Setting::NetworkPolicy { policy: Some(policy.clone()) })
        }
        _ => {
            let tap = crate::network::tap_name(vm.seat.slot);
            let why = crate::network::FilterError { tap }.to_string();
            Err(DriverError::Unsupported { knob: Knob::NetworkPolicy, why })
        }
    }
}

/// Sets the filter that was announced, and writes down how the kernel lists it.
async fn set_policy(
    driver: &QemuDriver,
    vm: &QemuVm,
    live: &mut Live,
    policy: Option<PacketPolicy>,
) -> Result<(), DriverError> {
    let fingerprint = driver.network.set_policy(vm.seat.slot, policy.as_ref()).await?;
    live.run.filter = policy.map(|policy| (fingerprint, policy));
    live.run.filter_next = None;
    process::save_run_state(&vm.seat, &live.run)
}

/// Turns a knob and waits for its effect.
pub(super) async fn apply(
    driver: &QemuDriver,
    vm: &QemuVm,
    live: &mut Live,
    setting: &Setting,
) -> Result<(), DriverError> {
    let doing = |what: &str| DriverError::host(format!("set the {what} of {}", vm.seat.id));
    match setting {
        Setting::CpuCap { limit } => {
            if let Some(asked) = limit.filter(|limit| *limit < CAP_MIN) {
                let why = format!("the kernel grants at least {CAP_MIN}");
                return Err(DriverError::OutOfRange { knob: Knob::CpuCap, asked: asked.to_string(), why });
            }
            vm.group.set_cap(*limit).map_err(doing("cpu cap"))
        }
        Setting::CpuWeight { weight } => vm.group.set_weight(*weight).map_err(doing("cpu weight")),
        Setting::Memory { target } => memory::set_balloon(vm, live, *target).await,
        Setting::HotMemory { plugged } => memory::set_plugged(vm, live, *plugged).await,
        Setting::DiskLimit { disk, limit } => disk::apply(vm, live, disk, *limit).await,
        Setting::NicRate { rate } => driver.network.set_nic_rate(vm.seat.slot, *rate).await,
        Setting::NetworkPolicy { policy } => {
            live.run.filter_next = Some(FilterNext { to: policy.clone() });
            process::save_run_state(&vm.seat, &live.run)?;
            set_policy(driver, vm, live, policy.clone()).await
        }
        Setting::Image { image, digest } => image::apply(vm, live, image, digest.as_deref()).await,
        Setting::Vcpus { .. }
        | Setting::Sysctl { .. }
        | Setting::Thp { .. }
        | Setting::IoScheduler { .. }
        | Setting::Priority { .. }
        | Setting::AppPolicy { .. } => Err(not_mine(setting.knob())),
    }
}

/// Counters from the host's own books, and from the VMM those of the disks.
pub(super) async fn counters(
    driver: &QemuDriver,
    vm: &Arc<QemuVm>,
    live: &Live,
) -> Result<VmCounters, DriverError> {
    let mut counters = survey::one(driver, vm.clone()).await;
    block::count(vm, live, &mut counters).await?;
    Ok(counters)
}
