//! What a host counts of its VMs in its own books, without a word to VMM or guest: a few small files a VM, so that it
//! can be done every second. Must never wait for anything that is being done to a VM.

use super::{QemuDriver, QemuVm, process};
use crate::cgroup::Group;
use crate::network::LinkCounters;
use proteus_model::id::VmId;
use proteus_model::unit::{Bytes, UnixMillis};
use proteus_model::vm::{PowerState, VmCounters};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Time that a thread ran, and that it was ready and did not, ns.
fn schedstat(pid: u32, tid: u32) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    let mut fields = text.split_whitespace();
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// The books of one VM. `links`: what its tap counted, where that could be read.
fn books(pid: u32, group: &Group, resident: Option<u64>, links: Option<LinkCounters>) -> VmCounters {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut counters =
        VmCounters { at: UnixMillis(u64::try_from(now.as_millis()).unwrap_or(0)), ..VmCounters::default() };
    let vcpus = group.threads().unwrap_or_default();
    let per_vcpu: Option<Vec<(u64, u64)>> = vcpus.iter().map(|tid| schedstat(pid, *tid)).collect();
    if let Some(all) = per_vcpu.filter(|all| !all.is_empty()) {
        counters.vcpu_run_ns = Some(all.iter().map(|(run, _)| run).sum());
        counters.vcpu_wait_ns = Some(all.iter().map(|(_, wait)| wait).sum());
    }
    counters.throttled_ns = group.throttled_ns();
    counters.resident = resident.map(Bytes);
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let tids = tasks.filter_map(|task| task.file_name().to_string_lossy().parse().ok());
    let per_task: Option<Vec<u64>> = tids.map(|tid| schedstat(pid, tid).map(|(run, _)| run)).collect();
    counters.vmm_run_ns = per_task.filter(|all| !all.is_empty()).map(|all| all.iter().sum());
    if let Some(links) = links {
        // What the host's end of a tap sends is what the guest receives.
        counters.net_to_guest = Some(links.sent);
        counters.packets_to_guest = Some(links.sent_packets);
        counters.net_from_guest = Some(links.received);
        counters.packets_from_guest = Some(links.received_packets);
    }
    counters
}

/// Process of a VM that runs.
fn running(vm: &QemuVm) -> Option<u32> {
    let seen = vm.seen.lock().unwrap_or_else(PoisonError::into_inner);
    (seen.0 == PowerState::Running).then_some(seen.1.pid)
}

fn look_at(ram_dir: &Path, vm: &QemuVm, pid: u32, links: &HashMap<String, LinkCounters>) -> VmCounters {
    let tap = crate::network::tap_name(vm.seat.slot);
    books(pid, &vm.group, process::resident(ram_dir, &vm.seat), links.get(&tap).copied())
}

/// The books of all VMs that run.
pub(super) async fn all(driver: &QemuDriver) -> HashMap<VmId, VmCounters> {
    let vms: Vec<(VmId, Arc<QemuVm>)> = {
        let vms = driver.vms.lock().unwrap_or_else(PoisonError::into_inner);
        vms.iter().map(|(id, vm)| (*id, vm.clone())).collect()
    };
    of(driver, vms).await
}

/// The books of one VM; empty ones where it does not run.
pub(super) async fn one(driver: &QemuDriver, vm: Arc<QemuVm>) -> VmCounters {
    let id = vm.seat.id;
    of(driver, vec![(id, vm)]).await.remove(&id).unwrap_or_default()
}

async fn of(driver: &QemuDriver, vms: Vec<(VmId, Arc<QemuVm>)>) -> HashMap<VmId, VmCounters> {
    let (network, ram_dir) = (driver.network.clone(), driver.ram_dir.clone());
    let look = move || {
        let links = network.link_counters().unwrap_or_default();
        let seen = |(id, vm): (VmId, Arc<QemuVm>)| Some((id, look_at(&ram_dir, &vm, running(&vm)?, &links)));
        vms.into_iter().filter_map(seen).collect()
    };
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}
