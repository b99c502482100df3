//! The steady look at every VM of the host: once a second what the host counts in its own books, every ten seconds
//! what takes a word from VMM and guest, merged to readings and kept as history. Must never wait for a VM, and never
//! fill a gap with what was not measured.

mod collect;

mod history;

mod transfer;

mod intake;

pub use intake::Intake;

use crate::clock::now;
use crate::error::driver_error;
use crate::node::HostAgent;
use history::{History, HistoryError};
use proteus_brain::telemetry::{Applications, Closed, Merger, Series, dirty_rate};
use proteus_hypervisor::driver::Seat;
use proteus_model::id::VmId;
use proteus_model::telemetry::{Bucket, FLOWS_BEGUN_MAX, FlowBegun, GuestSample, Metric, Reading};
use proteus_model::unit::{Bytes, Millis, Permille, UnixMillis};
use proteus_model::vm::{DirtyObserved, VmCounters};
use proteus_protocol::cause::chain;
use proteus_protocol::guest::v1::sample::{Cpu, Pressure};
use proteus_protocol::node::v1::{
    HistoryObserved, Measurement, NodeError, NodeErrorCode, RecentObserved, UsageObserved,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinError;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

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

/// One VM, as it is watched.
struct Watched {
    merger: Merger,
    series: Series,
    /// `None`: it could not be opened, which was told.
    history: Option<History>,
    /// The ring that could not be written to, which was told, as on a full disk.
    unwritten: Option<usize>,
    /// What was asked since the last look, for the next reading.
    asked: Reading,
    /// What was asked last, and when.
    told: Option<(u64, Reading)>,
    /// How fast it changed its memory, KiB/s, and when that was seen.
    dirty: Option<(u64, f32)>,
    last: Option<(UnixMillis, Reading)>,
    /// The latest short buckets, the oldest first.
    recent: VecDeque<Bucket>,
    applications: Applications,
    /// When the guest was heard last, and its CPUs then.
    heard: Option<(u64, Option<u32>)>,
    /// Whom it spoke to lately, and when that was looked at.
    flows: Option<(UnixMillis, Vec<FlowBegun>)>,
    /// How long it ran when it was heard last. Outlives its end: a word of before may come late.
    uptime: Option<Millis>,
}

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

impl Watched {
    fn open(seat: &Seat) -> Self {
        let history = match History::open(&history_path(&seat.dir), seat.id) {
            Ok((history, aside)) => {
                if let Some(aside) = aside {
                    tracing::warn!(vm = %seat.intent.name, aside = %aside.display(), "its history could not be read and is put aside");
                }
                Some(history)
            }
            Err(error) => {
                tracing::warn!(vm = %seat.intent.name, error = %chain(&error), "its history is not kept");
                None
            }
        };
        let found = history.as_ref().and_then(|history| history.read().ok()).unwrap_or_default();
        if found.damaged > 0 {
            tracing::warn!(vm = %seat.intent.name, slots = found.damaged, "parts of its history are damaged and left out");
        }
        let series = Series::resume(now(), [&found.buckets[0], &found.buckets[1]]);
        Self::new(history, series)
    }

    fn new(history: Option<History>, series: Series) -> Self {
        Self {
            merger: Merger::default(),
            series,
            history,
            unwritten: None,
            asked: Reading::default(),
            told: None,
            dirty: None,
            last: None,
            recent: VecDeque::new(),
            applications: Applications::default(),
            heard: None,
            flows: None,
            uptime: None,
        }
    }

    fn keep(&mut self, seat: &Seat, closed: &[Closed]) {
        self.recent
            .extend(closed.iter().filter(|closed| closed.tier == 0).map(|closed| closed.bucket.clone()));
        self.recent.drain(..self.recent.len().saturating_sub(RECENT));
        let Some(history) = &self.history else { return };
        let put = |closed: &Closed| Some((closed.tier, history.put(closed.tier, &closed.bucket).err()?));
        // All that can be kept is, also where one of them cannot.
        let failed: Vec<(usize, HistoryError)> = closed.iter().filter_map(put).collect();
        match (failed.first(), self.unwritten) {
            // Told once: where a disk is full it would be said every ten seconds.
            (Some((tier, error)), None) => {
                tracing::warn!(vm = %seat.intent.name, error = %chain(error), "its history is not kept for now");
                self.unwritten = Some(*tier);
            }
            // A ring that has gone round has its room: that it is written to says nothing of the others.
            (None, Some(tier)) if closed.iter().any(|closed| closed.tier == tier) => {
                tracing::info!(vm = %seat.intent.name, "its history is kept again");
                self.unwritten = None;
            }
            _ => {}
        }
    }

    /// `at` by the wall clock, `at_ms` by the steady one.
    fn look(&mut self, seat: &Seat, at: UnixMillis, at_ms: u64, host: &VmCounters) {
        let mut reading = self.merger.count(at_ms, host);
        reading.fill(&std::mem::take(&mut self.asked));
        self.last = Some((at, reading));
        let closed = self.series.push(at, at_ms, &reading);
        self.keep(seat, &closed);
    }

    /// What VMM or guest said when they were asked.
    fn hear(&mut self, at_ms: u64, merge: impl FnOnce(&mut Merger, u64) -> Reading) {
        let mut said = merge(&mut self.merger, at_ms);
        self.asked.fill(&said);
        if let Some((at, before)) = self.told.filter(|(at, _)| at_ms.saturating_sub(*at) < TOLD_MS / 2) {
            // VMM and guest are asked one after the other.
            said.fill(&before);
            self.told = Some((at, said));
        } else {
            self.told = Some((at_ms, said));
        }
    }

    /// All that is known of now.
    fn now(&self, at_ms: u64) -> Reading {
        let mut reading = self.last.map(|(_, reading)| reading).unwrap_or_default();
        if let Some((_, told)) = self.told.filter(|(at, _)| at_ms.saturating_sub(*at) <= TOLD_MS) {
            reading.fill(&told);
        }
        let dirty = self.dirty.filter(|(at, _)| at_ms.saturating_sub(*at) <= DIRTY_STANDS_MS);
        if reading.get(Metric::DirtyRate).is_none() {
            reading.set(Metric::DirtyRate, dirty.map(|(_, rate)| rate));
        }
        reading
    }

    /// How its memory changed. In its history that is where it was seen, and nowhere else.
    fn see_dirty(&mut self, at_ms: u64, seen: &DirtyObserved) {
        let Some(rate) = dirty_rate(seen) else { return };
        self.dirty = Some((at_ms, rate));
        self.asked.set(Metric::DirtyRate, Some(rate));
    }

    /// What the guest said; `at` by the wall clock, `at_ms` by the steady one.
    fn hear_guest(&mut self, at: UnixMillis, at_ms: u64, word: &GuestSample) {
        // One that starts anew by itself keeps its VMM: nobody ended it.
        if word.uptime.zip(self.uptime).is_some_and(|(now, before)| now < before) {
            self.applications.begin_anew();
        }
        self.uptime = word.uptime;
        self.heard = Some((at_ms, word.cpu.as_ref().map(|cpu| cpu.online)));
        if let Some(processes) = &word.processes {
            self.applications.hear(at, processes);
        }
        self.hear(at_ms, |merger, at_ms| merger.hear(at_ms, word));
    }

    /// The last minute, as far as it is known.
    fn recent(&self, seat: &Seat, at_ms: u64) -> RecentObserved {
        let heard = self.heard.filter(|(at, _)| at_ms.saturating_sub(*at) <= HEARD_MS);
        RecentObserved {
            vm: seat.id,
            vcpus: heard.and_then(|(_, online)| online).unwrap_or(seat.intent.vcpus).max(1),
            buckets: self.recent.iter().cloned().collect(),
            applications: heard.map(|_| self.applications.list()),
            flows: self.flows.clone(),
        }
    }

    /// It does not run any more.
    fn end(&mut self, seat: &Seat) {
        let closed = self.series.flush();
        self.keep(seat, &closed);
        self.merger.begin_anew();
        self.applications.begin_anew();
        (self.told, self.dirty, self.last) = (None, None, None);
        (self.heard, self.flows, self.asked) = (None, None, Reading::default());
        self.recent.clear();
        if let Some(Err(error)) = self.history.as_ref().map(History::sync) {
            tracing::warn!(vm = %seat.intent.name, error = %chain(&error), "its history may not outlive a loss of power");
        }
    }
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

    fn watched(&self, seat: &Seat) -> Arc<Mutex<Watched>> {
        let mut vms = locked(&self.vms);
        vms.entry(seat.id).or_insert_with(|| Arc::new(Mutex::new(Watched::open(seat)))).clone()
    }

    /// The same of a VM that is watched already: one that is no more is not taken up again.
    fn known(&self, vm: VmId) -> Option<Arc<Mutex<Watched>>> {
        locked(&self.vms).get(&vm).cloned()
    }

    /// The VM is no more.
    pub(crate) fn forget(&self, vm: VmId) {
        locked(&self.vms).remove(&vm);
    }

    /// How a VM was when it was last looked at; `None`: it was not since the node began.
    pub(crate) fn seen(&self, vm: VmId) -> Option<UsageObserved> {
        let watched = self.known(vm)?;
        let watched = locked(&watched);
        let mut faults = *watched.merger.faults();
        faults.add(watched.series.faults());
        let (reading, off) = (watched.now(self.steady_ms()), watched.merger.disagreement());
        Some(UsageObserved {
            at: watched.last.map(|(at, _)| at),
            values: Metric::ALL
                .into_iter()
                .filter_map(|metric| Some((metric, reading.get(metric)?)))
                .collect(),
            unmeasured: BTreeMap::new(),
            faults: faults.counted().map(|(fault, times)| (fault.name().to_owned(), times)).collect(),
            disagreement: off.cpu,
            disagreements: off.others().map(|(of, off)| (of.to_owned(), off)).collect(),
        })
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
            self.end_watching(&running);
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
        self.end_watching(&running);
    }

    /// These do not run any more, or nobody looks at them any more.
    fn end_watching(&self, ended: &BTreeMap<VmId, Seat>) {
        for (vm, seat) in ended {
            if let Some(watched) = self.telemetry.known(*vm) {
                locked(&watched).end(seat);
            }
        }
    }

    /// One look into the host's books. The VMs that run.
    async fn look_at_all(&self) -> BTreeMap<VmId, Seat> {
        let books = self.driver.survey().await;
        let seats: BTreeMap<VmId, Seat> = {
            let seats = self.seats();
            let own = seats.all().filter(|seat| books.contains_key(&seat.id) && !seat.newborn);
            own.map(|seat| (seat.id, seat.clone())).collect()
        };
        for (vm, seat) in &seats {
            locked(&self.telemetry.watched(seat)).look(seat, now(), self.telemetry.steady_ms(), &books[vm]);
        }
        seats
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
                    for (vm, mut all) in flows {
                        all.truncate(FLOWS_BEGUN_MAX);
                        if let Some(watched) = node.telemetry.known(vm) {
                            locked(&watched).flows = Some((now(), all));
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
        let disks = counted.ok().and_then(Result::ok).map(|all| VmCounters {
            disk_read: all.disk_read,
            disk_written: all.disk_written,
            disk_reads: all.disk_reads,
            disk_writes: all.disk_writes,
            disk_flushes: all.disk_flushes,
            disk_took_ns: all.disk_took_ns,
            ..VmCounters::default()
        });
        let Some(watched) = self.telemetry.known(seat.id) else { return };
        if let Some(disks) = disks {
            locked(&watched).hear(self.telemetry.steady_ms(), |merger, at| merger.count(at, &disks));
        }
        if let Some(word) = self.word_of(seat.id).await {
            locked(&watched).hear_guest(now(), self.telemetry.steady_ms(), &word);
        }
    }

    /// What the guest's agent says of itself; `None`: it has none, or it was not heard.
    async fn word_of(&self, vm: VmId) -> Option<GuestSample> {
        let path = self.agent_path(vm).await.ok()?;
        if !self.guest(vm).is_known(&path).await {
            return None;
        }
        GuestSample::try_from(self.glance(vm).await?).ok()
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
        let read = tokio::task::spawn_blocking(move || history::read(&path, tier)).await;
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
