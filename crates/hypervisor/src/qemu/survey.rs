//! What a host counts of its VMs in its own books, without a word to VMM or guest: a few small files and counters a VM,
//! so that it can be done every second; and, rarely, what it sees in their memory. Must never wait for anything that is
//! being done to a VM.

use super::command_line::ram_path;
use super::{Live, QemuDriver, QemuVm, process};
use crate::cgroup::Group;
use crate::dirty::Sample;
use crate::driver::DriverError;
use crate::network::LinkCounters;
use crate::perf;
use proteus_model::id::VmId;
use proteus_model::telemetry::Metric;
use proteus_model::unit::{Bytes, Millis, UnixMillis};
use proteus_model::vm::{DirtyObserved, PowerState, VmCounters};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time between two looks at the same pages: as long as QEMU leaves between its own.
const DIRTY_OVER: Duration = Duration::from_secs(1);

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

/// The books of one VM. `vcpus`: its vCPU threads; `links`: what its tap counted, where that could be read.
fn books(
    pid: u32,
    group: &Group,
    vcpus: &[u32],
    resident: Option<u64>,
    links: Option<LinkCounters>,
) -> VmCounters {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut counters =
        VmCounters { at: UnixMillis(u64::try_from(now.as_millis()).unwrap_or(0)), ..VmCounters::default() };
    let threads = Threads::read(pid, vcpus);
    (counters.vcpu_run_ns, counters.vcpu_wait_ns) = threads.vcpus.unzip();
    counters.vcpus = threads.vcpus.and(u32::try_from(vcpus.len()).ok());
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

/// What all looks of one time have in common.
struct Around {
    ram_dir: PathBuf,
    links: HashMap<String, LinkCounters>,
    counting: Option<Arc<perf::Counting>>,
}

impl Around {
    fn look_at(&self, vm: &QemuVm, pid: u32) -> VmCounters {
        let tap = crate::network::tap_name(vm.seat.slot);
        let (vcpus, resident) =
            (vm.group.threads().unwrap_or_default(), process::resident(&self.ram_dir, &vm.seat));
        let mut counters = books(pid, &vm.group, &vcpus, resident, self.links.get(&tap).copied());
        if let Some(counting) = &self.counting {
            let mut threads = vm.threads.lock().unwrap_or_else(PoisonError::into_inner);
            [counters.instructions, counters.cycles, counters.cache_misses] =
                threads.look(counting, pid, &vcpus);
        }
        counters
    }
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
    let group = vm.group.clone();
    let mut counters = of(driver, vec![(id, vm)]).await.remove(&id).unwrap_or_default();
    // Not with those of every second: the kernel adds up all CPUs for each.
    let books = tokio::task::spawn_blocking(move || (group.stalled_us(), group.counters()));
    let (stalled, taken) = books.await.unwrap_or_default();
    [counters.psi_cpu_us, counters.psi_memory_us, counters.psi_io_us] = stalled;
    counters.group = taken;
    counters
}

async fn of(driver: &QemuDriver, vms: Vec<(VmId, Arc<QemuVm>)>) -> HashMap<VmId, VmCounters> {
    let (network, ram_dir) = (driver.network.clone(), driver.ram_dir.clone());
    let counting = driver.counting.as_ref().ok().cloned();
    let look = move || {
        let around = Around { ram_dir, links: network.link_counters().unwrap_or_default(), counting };
        let seen = |(id, vm): (VmId, Arc<QemuVm>)| Some((id, around.look_at(&vm, running(&vm)?)));
        vms.into_iter().filter_map(seen).collect()
    };
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

/// What is not counted of a VM here, and why.
pub(super) fn uncounted(driver: &QemuDriver, id: VmId) -> BTreeMap<Metric, String> {
    let told = |why: &str| format!("hardware counters are not supported here: {why}");
    let counting = match &driver.counting {
        Err(why) => return Metric::OF_HARDWARE.map(|metric| (metric, told(why))).into(),
        Ok(counting) => counting,
    };
    if let Ok(vm) = driver.vm(id)
        && let Some(why) = vm.threads.lock().unwrap_or_else(PoisonError::into_inner).why()
    {
        return Metric::OF_HARDWARE.map(|metric| (metric, format!("could not be counted: {why}"))).into();
    }
    let lacks = Metric::OF_HARDWARE.into_iter().zip(counting.present()).filter(|(_, there)| !there);
    lacks.map(|(metric, _)| (metric, told("this host's processor does not count that"))).collect()
}

/// The VMM of a VM that runs and that nobody else has in hand any more.
async fn at_work(vm: &QemuVm, live: &Live) -> Option<(u32, u64)> {
    if !process::lives(&live.run) {
        return None;
    }
    let power = vm.ask_power(&live.qmp).await;
    vm.keep_seen(power, &live.run);
    (power == PowerState::Running).then_some((live.run.pid, live.run.start_ticks))
}

/// How many pages of a sample changed within a second. Nothing of that disturbs what is begun meanwhile, but what it
/// would tell is of that and not of the guest: then nothing is told.
pub(super) async fn dirtied(driver: &QemuDriver, vm: &QemuVm) -> Result<Option<DirtyObserved>, DriverError> {
    let vmm = match vm.look().await {
        Ok(live) => at_work(vm, &live).await,
        Err(_) => None,
    };
    let Some(vmm) = vmm else { return Ok(None) };
    let files = ["ram", "hot"].map(|part| ram_path(&driver.ram_dir, &vm.seat, part));
    let doing = || DriverError::host(format!("look at the memory of {}", vm.seat.id));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = now.as_nanos() as u64 ^ u64::from(vm.seat.slot);
    let (began, first) = (Instant::now(), move || Sample::take(&[&files[0], &files[1]], seed));
    // Megabytes: nobody else would get this thread meanwhile.
    let first = tokio::task::spawn_blocking(first).await.map_err(io::Error::other).and_then(|taken| taken);
    let sample = first.map_err(doing())?;
    let took = began.elapsed();
    tokio::time::sleep(DIRTY_OVER.saturating_sub(took)).await;
    let over = began.elapsed();
    let second = tokio::task::spawn_blocking(move || {
        let changed = sample.changed()?;
        Ok((sample.len(), sample.memory(), changed))
    });
    let second = second.await.map_err(io::Error::other).and_then(|looked| looked);
    let (sampled, memory, changed) = second.map_err(doing())?;
    // What has it in hand now may have had it for most of that second.
    let Ok(live) = vm.live.try_lock() else { return Ok(None) };
    let is_same = at_work(vm, &live).await == Some(vmm);
    Ok(is_same.then_some(DirtyObserved { sampled, changed, memory, over: Millis::from(over) }))
}
