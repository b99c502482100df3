//! One VM as it is watched: what host and guest tell of it becomes readings, readings become history. Must never wait for a
//! disk to open a history: what closes meanwhile is held, bounded, and written when it is there.

use super::history::{Found, History, HistoryError};
use super::{DIRTY_STANDS_MS, HEARD_MS, RECENT, TOLD_MS, history_path};
use crate::clock::now;
use proteus_brain::telemetry::{Applications, Closed, Faults, LatencyWatch, Merger, Series, dirty_rate};
use proteus_hypervisor::driver::Seat;
use proteus_model::telemetry::{Bucket, FlowsBegun, GuestSample, Metric, Reading};
use proteus_model::unit::{Millis, UnixMillis};
use proteus_model::vm::{DirtyObserved, VmCounters};
use proteus_protocol::cause::chain;
use proteus_protocol::node::v1::{RecentObserved, UsageObserved};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A history that could not be opened is tried again after so long, ms.
const AGAIN_MS: u64 = 60_000;
/// Buckets that are held while there is no history to write them to, the latest: nine minutes.
const UNWRITTEN_MAX: usize = 64;

/// What became of opening a VM's history.
pub(super) struct Opened(Result<(History, Found), String>);

impl Opened {
    /// Opens it, and reads what it ends in. Megabytes from a disk.
    pub(super) fn open(seat: &Seat) -> Self {
        let history = match History::open(&history_path(&seat.dir), seat.id) {
            Ok((history, aside)) => {
                if let Some(aside) = aside {
                    tracing::warn!(vm = %seat.intent.name, aside = %aside.display(), "its history could not be read and is put aside");
                }
                history
            }
            Err(error) => return Self::failed(chain(&error)),
        };
        let mut found = history.read().unwrap_or_default();
        found.leave_out_future(now());
        if found.damaged > 0 {
            tracing::warn!(vm = %seat.intent.name, slots = found.damaged, "parts of its history are damaged and left out");
        }
        Self(Ok((history, found)))
    }

    /// It could not be, for this reason.
    pub(super) fn failed(why: String) -> Self {
        Self(Err(why))
    }
}

/// Where a VM's history is.
enum Keeping {
    /// To be opened, not before this moment.
    Wanted {
        from_ms: u64,
    },
    /// Somebody opens it.
    Opening,
    Open(Arc<History>),
    /// Nothing is to be kept.
    Unkept,
}

/// One VM, as it is watched.
pub(super) struct Watched {
    pub(super) merger: Merger,
    pub(super) series: Series,
    keeping: Keeping,
    /// Closed while there was no history yet, the oldest first.
    unwritten: VecDeque<Closed>,
    /// Whether it was told that the history could not be opened.
    told_unopened: bool,
    /// The ring that could not be written to, which was told, as on a full disk.
    told_unwritten: Option<usize>,
    /// What was asked since the last look, for the next reading.
    asked: Reading,
    /// What was asked last, and when.
    told: Option<(u64, Reading)>,
    /// How fast it changed its memory, KiB/s, and when that was seen.
    dirty: Option<(u64, f32)>,
    latency: LatencyWatch,
    pub(super) last: Option<(UnixMillis, Reading)>,
    /// The latest short buckets, the oldest first.
    pub(super) recent: VecDeque<Bucket>,
    pub(super) applications: Applications,
    /// When the guest was heard last.
    heard_ms: Option<u64>,
    /// Its vCPUs by the host's count.
    vcpus: Option<u32>,
    /// Whom it spoke to lately, and when that was looked at.
    pub(super) flows: Option<(UnixMillis, FlowsBegun)>,
    /// How long it ran when it was heard last. Outlives its end: a word of before may come late.
    uptime: Option<Millis>,
}

impl Default for Watched {
    /// One whose history is to be opened.
    fn default() -> Self {
        Self {
            merger: Merger::default(),
            series: Series::default(),
            keeping: Keeping::Wanted { from_ms: 0 },
            unwritten: VecDeque::new(),
            told_unopened: false,
            told_unwritten: None,
            asked: Reading::default(),
            told: None,
            dirty: None,
            latency: LatencyWatch::default(),
            last: None,
            recent: VecDeque::new(),
            applications: Applications::default(),
            heard_ms: None,
            vcpus: None,
            flows: None,
            uptime: None,
        }
    }
}

impl Watched {
    /// One of which nothing is kept.
    pub(super) fn unkept() -> Self {
        Self { keeping: Keeping::Unkept, ..Self::default() }
    }

    /// Whether its history is to be opened now. Who is told so does it, and tells what became of it.
    pub(super) fn wants_history(&mut self, at_ms: u64) -> bool {
        let is_due = matches!(self.keeping, Keeping::Wanted { from_ms } if at_ms >= from_ms);
        if is_due {
            self.keeping = Keeping::Opening;
        }
        is_due
    }

    /// Its history, where it is open.
    pub(super) fn history(&self) -> Option<&Arc<History>> {
        match &self.keeping {
            Keeping::Open(history) => Some(history),
            _ => None,
        }
    }

    /// Goes on where its history ends, and writes what closed meanwhile.
    pub(super) fn take_up(&mut self, seat: &Seat, at_ms: u64, opened: Opened) {
        if self.history().is_some() {
            return;
        }
        match opened.0 {
            Ok((history, found)) => {
                self.series.go_on(now(), [&found.buckets[0], &found.buckets[1]]);
                self.keeping = Keeping::Open(Arc::new(history));
                if std::mem::take(&mut self.told_unopened) {
                    tracing::info!(vm = %seat.intent.name, "its history is kept now");
                }
                let held: Vec<Closed> = std::mem::take(&mut self.unwritten).into();
                self.write(seat, &held);
            }
            Err(error) => {
                self.keeping = Keeping::Wanted { from_ms: at_ms.saturating_add(AGAIN_MS) };
                if !std::mem::replace(&mut self.told_unopened, true) {
                    tracing::warn!(vm = %seat.intent.name, %error, "its history is not kept; it is tried again each minute");
                }
            }
        }
    }

    fn keep(&mut self, seat: &Seat, closed: &[Closed]) {
        self.recent
            .extend(closed.iter().filter(|closed| closed.tier == 0).map(|closed| closed.bucket.clone()));
        self.recent.drain(..self.recent.len().saturating_sub(RECENT));
        match self.keeping {
            Keeping::Unkept => {}
            Keeping::Open(_) => self.write(seat, closed),
            Keeping::Wanted { .. } | Keeping::Opening => {
                self.unwritten.extend(closed.iter().cloned());
                self.unwritten.drain(..self.unwritten.len().saturating_sub(UNWRITTEN_MAX));
            }
        }
    }

    fn write(&mut self, seat: &Seat, closed: &[Closed]) {
        let Some(history) = self.history() else { return };
        let put = |closed: &Closed| Some((closed.tier, history.put(closed.tier, &closed.bucket).err()?));
        // All that can be kept is, also where one of them cannot.
        let failed: Vec<(usize, HistoryError)> = closed.iter().filter_map(put).collect();
        match (failed.first(), self.told_unwritten) {
            // Told once: where a disk is full it would be said every ten seconds.
            (Some((tier, error)), None) => {
                tracing::warn!(vm = %seat.intent.name, error = %chain(error), "its history is not kept for now");
                self.told_unwritten = Some(*tier);
            }
            // A ring that has gone round has its room: that it is written to says nothing of the others.
            (None, Some(tier)) if closed.iter().any(|closed| closed.tier == tier) => {
                tracing::info!(vm = %seat.intent.name, "its history is kept again");
                self.told_unwritten = None;
            }
            _ => {}
        }
    }

    /// `at` by the wall clock, `at_ms` by the steady one.
    pub(super) fn look(&mut self, seat: &Seat, at: UnixMillis, at_ms: u64, host: &VmCounters) {
        let mut reading = self.merger.count(at_ms, host);
        reading.fill(&std::mem::take(&mut self.asked));
        self.last = Some((at, reading));
        self.vcpus = host.vcpus.or(self.vcpus);
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

    /// What the VMM said of its disks.
    pub(super) fn hear_disks(&mut self, at_ms: u64, all: &VmCounters) {
        let disks = VmCounters {
            disk_read: all.disk_read,
            disk_written: all.disk_written,
            disk_reads: all.disk_reads,
            disk_writes: all.disk_writes,
            disk_flushes: all.disk_flushes,
            disk_took_ns: all.disk_took_ns,
            ..VmCounters::default()
        };
        self.hear(at_ms, |merger, at| merger.count(at, &disks));
        if let Some(latencies) = &all.disk_latencies {
            self.latency.hear(at_ms, latencies);
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
    pub(super) fn see_dirty(&mut self, at_ms: u64, seen: &DirtyObserved) {
        let Some(rate) = dirty_rate(seen) else { return };
        self.dirty = Some((at_ms, rate));
        self.asked.set(Metric::DirtyRate, Some(rate));
    }

    /// What the guest said; `at` by the wall clock, `at_ms` by the steady one.
    pub(super) fn hear_guest(&mut self, at: UnixMillis, at_ms: u64, word: &GuestSample) {
        // One that starts anew by itself keeps its VMM: nobody ended it.
        if word.uptime.zip(self.uptime).is_some_and(|(now, before)| now < before) {
            self.applications.begin_anew();
        }
        self.uptime = word.uptime;
        self.heard_ms = Some(at_ms);
        if let Some(processes) = &word.processes {
            self.applications.hear(at, word.uptime, processes);
        }
        self.hear(at_ms, |merger, at_ms| merger.hear(at_ms, word));
    }

    /// The last minute, as far as it is known. Of its vCPUs only the host is asked: a guest that says it has thousands
    /// would otherwise seem to be idle.
    pub(super) fn recent(&self, seat: &Seat, at_ms: u64) -> RecentObserved {
        let is_heard = self.heard_ms.is_some_and(|at| at_ms.saturating_sub(at) <= HEARD_MS);
        let flows = self.flows.as_ref();
        RecentObserved {
            vm: seat.id,
            vcpus: self.vcpus.unwrap_or(seat.intent.vcpus).max(1),
            buckets: self.recent.iter().cloned().collect(),
            applications: is_heard.then(|| self.applications.list()),
            flows: flows.map(|(at, flows)| (*at, flows.all.clone())),
            flows_full: flows.is_some_and(|(_, flows)| flows.full),
        }
    }

    /// What was wrong with what came so far.
    pub(super) fn faults(&self) -> Faults {
        let mut faults = *self.merger.faults();
        faults.add(self.series.faults());
        faults
    }

    /// How it was when it was last looked at.
    pub(super) fn seen(&self, at_ms: u64) -> UsageObserved {
        let (reading, off) = (self.now(at_ms), self.merger.disagreement());
        let value = |metric: Metric| Some((metric, reading.get(metric)?));
        UsageObserved {
            at: self.last.map(|(at, _)| at),
            values: Metric::ALL.into_iter().filter_map(value).collect(),
            unmeasured: BTreeMap::new(),
            faults: self.faults().counted().map(|(fault, times)| (fault.name().to_owned(), times)).collect(),
            disagreement: off.cpu,
            disagreements: off.others().map(|(of, off)| (of.to_owned(), off)).collect(),
            disk_latencies: self.latency.last_minute(at_ms),
        }
    }

    /// What is counted next is a beginning.
    pub(super) fn begin_anew(&mut self) {
        self.merger.begin_anew();
        self.latency.begin_anew();
    }

    /// It does not run any more. Its history, which is to be made durable.
    pub(super) fn end(&mut self, seat: &Seat) -> Option<Arc<History>> {
        let closed = self.series.flush();
        self.keep(seat, &closed);
        self.begin_anew();
        self.applications.begin_anew();
        (self.told, self.dirty, self.last) = (None, None, None);
        (self.heard_ms, self.flows, self.asked) = (None, None, Reading::default());
        self.vcpus = None;
        self.recent.clear();
        self.history().cloned()
    }
}

/// Waits until what was put into a history is on disk.
pub(super) fn make_durable(history: &History, seat: &Seat) {
    if let Err(error) = history.sync() {
        tracing::warn!(vm = %seat.intent.name, error = %chain(&error), "its history may not outlive a loss of power");
    }
}
