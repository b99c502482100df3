//! What a host counts of its VMs in its own books, without a word to VMM or guest: a few small files a VM, so that it
//! can be done every second. Must never wait for anything that is being done to a VM.

use super::{QemuDriver, QemuVm, process};
use crate::cgroup::Group;
use crate::network::LinkCounters;
use proteus_model::id::VmId;
use proteus_model::unit::{Bytes, UnixMillis};
use proteus_model::vm::{PowerState, VmCounters};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// What the threads of a VMM have had, ns. Each is read once.
#[derive(Default)]
struct Threads {
    /// Time that the vCPUs ran, and that they were ready and did not.
    vcpus: Option<(u64, u64)>,
    /// Time that all of them ran.
    all: Option<u64>,
}

/// Reads the time that a thread ran, and that it was ready and did not, ns: one line, which one read gives whole.
fn schedstat(path: &Path) -> Option<(u64, u64)> {
    // Three numbers of 20 digits at most.
    let mut line = [0; 128];
    let length = File::open(path).ok()?.read(&mut line).ok()?;
    let text = std::str::from_utf8(&line[..length]).ok()?;
    let mut fields = text.split_ascii_whitespace();
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

impl Threads {
    /// `None` where one of them could not be read: a sum without it would be a wrong one.
    fn read(pid: u32, vcpus: &[u32]) -> Self {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Self::default() };
        let mut read = Self { vcpus: Some((0, 0)), all: Some(0) };
        let (mut seen, mut found) = (0, 0);
        for mut path in tasks.flatten().map(|task| task.path()) {
            let tid: Option<u32> = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            path.push("schedstat");
            let time = schedstat(&path);
            seen += 1;
            read.all = read.all.zip(time).map(|(all, (ran, _))| all + ran);
            if tid.is_some_and(|tid| vcpus.contains(&tid)) {
                found += 1;
                read.vcpus = read.vcpus.zip(time).map(|(all, time)| (all.0 + time.0, all.1 + time.1));
            }
        }
        read.all = read.all.filter(|_| seen > 0);
        read.vcpus = read.vcpus.filter(|_| found > 0 && found == vcpus.len());
        read
    }
}

/// The books of one VM. `links`: what its tap counted, where that could be read.
fn books(pid: u32, group: &Group, resident: Option<u64>, links: Option<LinkCounters>) -> VmCounters {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut counters =
        VmCounters { at: UnixMillis(u64::try_from(now.as_millis()).unwrap_or(0)), ..VmCounters::default() };
    let threads = Threads::read(pid, &group.threads().unwrap_or_default());
    (counters.vcpu_run_ns, counters.vcpu_wait_ns) = threads.vcpus.unzip();
    counters.vmm_run_ns = threads.all;
    counters.throttled_ns = group.throttled_ns();
    counters.resident = resident.map(Bytes);
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

/// The slots of the VMs that run.
pub(super) fn slots(driver: &QemuDriver) -> HashMap<u16, VmId> {
    let vms = driver.vms.lock().unwrap_or_else(PoisonError::into_inner);
    let slot = |(id, vm): (&VmId, &Arc<QemuVm>)| running(vm).map(|_| (vm.seat.slot, *id));
    vms.iter().filter_map(slot).collect()
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
