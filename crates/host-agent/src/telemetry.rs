//! The steady look at every VM of the host: once a second what the host counts in its own books, every ten seconds
//! what takes a word from VMM and guest, merged to readings and kept as history. Must never wait for a VM, and never
//! fill a gap with what was not measured.

mod collect;

mod history;

mod transfer;

mod intake;

mod watched;

pub use intake::Intake;

use crate::clock::now;
use crate::error::driver_error;
use crate::node::HostAgent;
use history::{History, HistoryError};
use proteus_hypervisor::driver::Seat;
use proteus_model::id::VmId;
use proteus_model::telemetry::{FLOWS_BEGUN_MAX, GuestSample};
use proteus_model::unit::{Bytes, Permille};
use proteus_protocol::cause::chain;
use proteus_protocol::guest::v1::Sample;
use proteus_protocol::guest::v1::sample::{Cpu, Pressure};
use proteus_protocol::node::v1::{
    HistoryObserved, Measurement, NodeError, NodeErrorCode, RecentObserved, UsageObserved,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinError;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use watched::{Opened, Watched, make_durable};

/// Time between two looks into the host's books.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Every so many of them VMM and guest of a VM are asked; VMs take turns.
const ASK_EVERY: u64 = 10;
/// Every so many of them, and when first, it is looked whom VMs speak to: one listing of the kernel for all.
const FLOWS_EVERY: u64 = 30;
const FLOWS_FIRST: u64 = 3;
/// Every so many of them it is looked how fast a VM changes its memory; VMs take turns, each midway between two times at
/// which it is asked.
const DIRTY_EVERY: u64 = 60;
const DIRTY_AFTER: u64 = ASK_EVERY / 2;
/// So long that stands for now, ms: until it is looked again, and some.
const DIRTY_STANDS_MS: u64 = 75_000;
/// So long what was asked stands for now, ms: until it is asked again, and some.
const TOLD_MS: u64 = 15_000;
/// So long after its last word a guest counts as heard, ms.
const HEARD_MS: u64 = 45_000;
/// Short buckets that are at hand: a minute.
const RECENT: usize = 6;
/// Longest wait for a VMM that is asked for its disks' counters: tens of milliseconds are usual. Nobody else has the VM in
/// hand meanwhile.
const ASK_LIMIT: Duration = Duration::from_secs(1);

/// All VMs, as they are watched.
pub(crate) struct Telemetry {
    began: Instant,
    vms: Mutex<HashMap<VmId, Arc<Mutex<Watched>>>>,
    /// Those whose VMM or guest has been asked and has not answered.
    asking: Mutex<BTreeSet<VmId>>,
    /// Those at whose memory somebody looks.
    at_memory: Mutex<BTreeSet<VmId>>,
    /// Whether somebody looks at flows already.
    at_flows: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a VM's history is.
pub(crate) fn history_path(dir: &Path) -> PathBuf {
    dir.join("history")
}

impl Telemetry {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            vms: Mutex::default(),
            asking: Mutex::default(),
            at_memory: Mutex::default(),
            at_flows: AtomicBool::default(),
        }
    }

    fn steady_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn watched(&self, vm: VmId) -> Arc<Mutex<Watched>> {
        locked(&self.vms).entry(vm).or_default().clone()
    }

    /// The same of a VM that is watched already: one that is no more is not taken up again.
    fn known(&self, vm: VmId) -> Option<Arc<Mutex<Watched>>> {
        locked(&self.vms).get(&vm).cloned()
    }

    /// So many parts of what a guest said were out of bounds.
    pub(crate) fn refuse(&self, vm: VmId, parts: usize) {
        if let Some(watched) = self.known(vm) {
            locked(&watched).merger.refuse(parts);
        }
    }

    /// The VM is no more.
    pub(crate) fn forget(&self, vm: VmId) {
        locked(&self.vms).remove(&vm);
    }

    /// How a VM was when it was last looked at; `None`: it was not since the node began.
    pub(crate) fn seen(&self, vm: VmId) -> Option<UsageObserved> {
        let watched = self.known(vm)?;
        let watched = locked(&watched);
        Some(watched.seen(self.steady_ms()))
    }
}

/// A task that ended by a panic.
pub(crate) fn task_error(error: JoinError) -> NodeError {
    NodeError::new(NodeErrorCode::Failed, error.to_string())
}

fn history_error(error: HistoryError) -> NodeError {
    let code = match error {
        HistoryError::File { .. } => NodeErrorCode::Failed,
        HistoryError::Foreign(_) | HistoryError::Cut { .. } => NodeErrorCode::Conflict,
    };
    NodeError::new(code, chain(&error))
}

impl HostAgent {
    /// Watches every VM until told to stop; then all that was measured is on disk.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut tick = 0u64;
        let mut running: BTreeMap<VmId, Seat> = BTreeMap::new();
        loop {
            tokio::select! {
                // Cancel-safe: a token that is waited for again.
                () = stop.cancelled() => break,
                // Cancel-safe: a tick that is not taken comes again.
                _ = ticks.tick() => {}
            }
            tick += 1;
            let seats = self.look_at_all().await;
            running.retain(|vm, _| !seats.contains_key(vm));
            let ended = self.end_watching(&running);
            self.tasks.spawn(ended);
            for seat in seats.values().filter(|seat| u64::from(seat.slot) % ASK_EVERY == tick % ASK_EVERY) {
                self.ask_in_background(seat.clone());
            }
            let is_next =
                |seat: &&Seat| (u64::from(seat.slot) + DIRTY_AFTER) % DIRTY_EVERY == tick % DIRTY_EVERY;
            for seat in seats.values().filter(is_next) {
                self.look_at_memory_in_background(seat.clone());
            }
            if tick % FLOWS_EVERY == FLOWS_FIRST && !seats.is_empty() {
                self.look_at_flows_in_background();
            }
            running = seats;
        }
        self.end_watching(&running).await;
    }

    /// These do not run any more, or nobody looks at them any more. What is to be waited for until all that was measured of
    /// them is on disk, which may take as long as a disk likes: nobody else waits for it.
    fn end_watching(&self, ended: &BTreeMap<VmId, Seat>) -> impl Future<Output = ()> + Send + use<> {
        let end = |(vm, seat): (&VmId, &Seat)| {
            let watched = self.telemetry.known(*vm)?;
            let history = locked(&watched).end(seat)?;
            Some((history, seat.clone()))
        };
        let all: Vec<(Arc<History>, Seat)> = ended.iter().filter_map(end).collect();
        async move {
            if all.is_empty() {
                return;
            }
            let durable = move || all.iter().for_each(|(history, seat)| make_durable(history, seat));
            if let Err(error) = tokio::task::spawn_blocking(durable).await {
                tracing::warn!(%error, "histories may not outlive a loss of power");
            }
        }
    }

    /// One look into the host's books. The VMs that run.
    async fn look_at_all(self: &Arc<Self>) -> BTreeMap<VmId, Seat> {
        let books = self.driver.survey().await;
        let seats: BTreeMap<VmId, Seat> = {
            let seats = self.seats();
            let own = seats.all().filter(|seat| books.contains_key(&seat.id) && !seat.newborn);
            own.map(|seat| (seat.id, seat.clone())).collect()
        };
        for (vm, seat) in &seats {
            let (watched, at_ms) = (self.telemetry.watched(*vm), self.telemetry.steady_ms());
            let mut watched = locked(&watched);
            watched.look(seat, now(), at_ms, &books[vm]);
            if watched.wants_history(at_ms) {
                self.open_history_in_background(seat.clone());
            }
        }
        seats
    }

    /// Opens a VM's history, on a disk that may be slow or not there: looks go on meanwhile.
    fn open_history_in_background(self: &Arc<Self>, seat: Seat) {
        let node = self.clone();
        self.tasks.spawn(async move {
            let of = seat.clone();
            let opened = tokio::task::spawn_blocking(move || Opened::open(&of)).await;
            let opened = opened.unwrap_or_else(|error| Opened::failed(error.to_string()));
            if let Some(watched) = node.telemetry.known(seat.id) {
                locked(&watched).take_up(&seat, node.telemetry.steady_ms(), opened);
            }
        });
    }

    /// Looks whom VMs speak to, unless that is still looked at.
    fn look_at_flows_in_background(self: &Arc<Self>) {
        if self.telemetry.at_flows.swap(true, Ordering::SeqCst) {
            return;
        }
        let node = self.clone();
        self.tasks.spawn(async move {
            match node.driver.flows().await {
                Ok(flows) => {
                    for (vm, mut flows) in flows {
                        flows.all.truncate(FLOWS_BEGUN_MAX);
                        if let Some(watched) = node.telemetry.known(vm) {
                            locked(&watched).flows = Some((now(), flows));
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!(error = %chain(&error), "whom VMs speak to is not known for now")
                }
            }
            node.telemetry.at_flows.store(false, Ordering::SeqCst);
        });
    }

    /// Asks VMM and guest, unless they still owe an answer.
    fn ask_in_background(self: &Arc<Self>, seat: Seat) {
        if !locked(&self.telemetry.asking).insert(seat.id) {
            return;
        }
        let node = self.clone();
        self.tasks.spawn(async move {
            node.ask_vmm_and_guest(&seat).await;
            locked(&node.telemetry.asking).remove(&seat.id);
        });
    }

    /// Looks how fast a VM changes its memory, unless that is still looked at.
    fn look_at_memory_in_background(self: &Arc<Self>, seat: Seat) {
        if !locked(&self.telemetry.at_memory).insert(seat.id) {
            return;
        }
        let node = self.clone();
        self.tasks.spawn(async move {
            match node.driver.dirtied(seat.id).await {
                Ok(Some(seen)) => {
                    if let Some(watched) = node.telemetry.known(seat.id) {
                        locked(&watched).see_dirty(node.telemetry.steady_ms(), &seen);
                    }
                }
                // It is missing this time.
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(vm = %seat.intent.name, error = %chain(&error), "how its memory changes is not known for now");
                }
            }
            locked(&node.telemetry.at_memory).remove(&seat.id);
        });
    }

    /// How a VM was when it was last looked at, and what is never measured of it.
    pub(crate) fn usage_of(&self, vm: VmId) -> Result<UsageObserved, NodeError> {
        self.seat(vm)?;
        let seen = self.telemetry.seen(vm).unwrap_or_default();
        Ok(UsageObserved { unmeasured: self.driver.unmeasured(vm), ..seen })
    }

    async fn ask_vmm_and_guest(&self, seat: &Seat) {
        let counted = tokio::time::timeout(ASK_LIMIT, self.driver.counters(seat.id)).await;
        // A VMM that does not answer, or has ended meanwhile, has told nothing.
        let counted = counted.ok().and_then(Result::ok);
        let Some(watched) = self.telemetry.known(seat.id) else { return };
        if let Some(counted) = counted {
            locked(&watched).hear_disks(self.telemetry.steady_ms(), &counted);
        }
        match self.word_of(seat.id).await.map(GuestSample::try_from) {
            Some(Ok(word)) => locked(&watched).hear_guest(now(), self.telemetry.steady_ms(), &word),
            Some(Err(error)) => {
                self.telemetry.refuse(seat.id, 1);
                tracing::debug!(vm = %seat.intent.name, %error, "what its guest said of itself cannot be");
            }
            None => {}
        }
    }

    /// What the guest's agent says of itself; `None`: it has none, or it was not heard.
    async fn word_of(&self, vm: VmId) -> Option<Sample> {
        let path = self.agent_path(vm).await.ok()?;
        if !self.guest(vm).is_known(&path).await {
            return None;
        }
        self.glance(vm).await
    }

    /// The last minute of every VM that was looked at and runs.
    pub(crate) fn recent_of_all(&self) -> Vec<RecentObserved> {
        let seats: Vec<Seat> = self.seats().all().filter(|seat| !seat.newborn).cloned().collect();
        let at_ms = self.telemetry.steady_ms();
        let recent = |seat: &Seat| {
            let watched = self.telemetry.known(seat.id)?;
            let watched = locked(&watched);
            watched.last.map(|_| watched.recent(seat, at_ms))
        };
        seats.iter().filter_map(recent).collect()
    }

    /// A VM's history of one resolution.
    pub(crate) async fn history_of(&self, vm: VmId, tier: usize) -> Result<HistoryObserved, NodeError> {
        let path = history_path(&self.seat(vm)?.dir);
        // Megabytes and their logarithms: nobody else would get this thread meanwhile.
        let read = tokio::task::spawn_blocking(move || history::read(&path, tier, now())).await;
        let (buckets, damaged) = read.map_err(task_error)?.map_err(history_error)?;
        Ok(HistoryObserved { buckets, damaged })
    }

    /// One look of now, for verification.
    pub(crate) async fn measured(&self, vm: VmId) -> Result<Measurement, NodeError> {
        self.seat(vm)?;
        let counters = self.driver.counters(vm).await.map_err(driver_error)?;
        let mut measurement = Measurement { counters, ..Measurement::default() };
        if let Some(sample) = self.glance(vm).await {
            let total = |pressure: &Option<Pressure>| pressure.as_ref().map(|p| p.total_us);
            measurement.psi_cpu_us = total(&sample.pressure.cpu_some);
            measurement.psi_memory_us = total(&sample.pressure.memory_some);
            measurement.psi_io_us = total(&sample.pressure.io_some);
            measurement.guest_available = sample.memory.as_ref().map(|m| Bytes(m.available));
            measurement.guest_busy = sample.cpu.as_ref().and_then(busy);
        }
        Ok(measurement)
    }
}

/// Share of all time since boot in which the guest's CPUs did something.
fn busy(cpu: &Cpu) -> Option<Permille> {
    let work = cpu.user_us.checked_add(cpu.system_us)?;
    let all = work.checked_add(cpu.idle_us)?.checked_add(cpu.iowait_us)?;
    let share = work.checked_mul(1000)?.checked_div(all)?;
    u32::try_from(share).ok().map(Permille)
}

#[cfg(test)]
mod tests;
