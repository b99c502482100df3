//! One stream from two sources: the host's counters and the guest's word. The host's win wherever both speak, and how
//! far the guest's are from them is told.

use super::fault::{Fault, Faults};
use proteus_model::telemetry::{GuestSample, Metric, Reading};
use proteus_model::unit::Bytes;
use proteus_model::vm::{DirtyObserved, MEMORY_MAX, VmCounters};

/// Longest time between two looks of which a rate is told: beyond it what happened in between is not known.
const GAP_MS: u64 = 60_000;
/// What of the guest's word is held against the host's count: how much of the guest's counter and of the host's is one
/// unit, and from how many of them a second by the host's count on. Below that moments between the two looks show.
/// CPU and steal in thousandths of a core, disks and links in bytes.
const COMPARED: [(f64, f64, f32); 4] =
    [(1e3, SHARE, 50.0), (1e3, SHARE, 50.0), (1.0, 1.0, 65_536.0), (1.0, 1.0, 65_536.0)];
/// Weight of the newest comparison in the running mean: about the last 30 count.
const COMPARED_WEIGHT: f32 = 0.065;

/// How far what a guest says is from what its host counts, each |guest − host| / host, a running mean over comparisons.
/// 0: they agree; `None`: never compared.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Disagreement {
    /// Of the CPU time used.
    pub cpu: Option<f32>,
    /// Of the time that it was ready to run and did not (the host's delay of its vCPUs). A guest whose kernel counts none,
    /// as each that is emulated, is not compared.
    pub steal: Option<f32>,
    /// Of what its disks read and wrote.
    pub disks: Option<f32>,
    /// Of what its links received and sent.
    pub links: Option<f32>,
    /// How often the CPU time was compared.
    pub compared: u64,
}

impl Disagreement {
    /// All but the CPU's, as far as they were compared.
    pub fn others(&self) -> impl Iterator<Item = (&'static str, f32)> {
        let all = [("steal", self.steal), ("disks", self.disks), ("links", self.links)];
        all.into_iter().filter_map(|(of, off)| Some((of, off?)))
    }
}

/// A counter of the host's: what its rise per second is, how it is read, and how much of it is one unit.
type Counter = (Metric, fn(&VmCounters) -> Option<u64>, f64);

/// Nanoseconds in a second as thousandths of it.
const SHARE: f64 = 1e6;
const KIB: f64 = 1024.0;
const MIB: f64 = 1_048_576.0;

/// Instructions and cycles are told in millions.
const MILLION: f64 = 1e6;

const COUNTERS: [Counter; 16] = [
    (Metric::Cpu, |c| c.vcpu_run_ns, SHARE),
    (Metric::RunDelay, |c| c.vcpu_wait_ns, SHARE),
    (Metric::Throttled, |c| c.throttled_ns, SHARE),
    (Metric::Overhead, |c| c.vmm_run_ns?.checked_sub(c.vcpu_run_ns?), SHARE),
    (Metric::DiskRead, |c| c.disk_read, KIB),
    (Metric::DiskWritten, |c| c.disk_written, KIB),
    (Metric::Received, |c| c.net_to_guest, KIB),
    (Metric::Sent, |c| c.net_from_guest, KIB),
    (Metric::Reads, |c| c.disk_reads, 1.0),
    (Metric::Writes, |c| c.disk_writes, 1.0),
    (Metric::Flushes, |c| c.disk_flushes, 1.0),
    (Metric::PacketsReceived, |c| c.packets_to_guest, 1.0),
    (Metric::PacketsSent, |c| c.packets_from_guest, 1.0),
    (Metric::Instructions, |c| c.instructions, MILLION),
    (Metric::Cycles, |c| c.cycles, MILLION),
    (Metric::CacheMisses, |c| c.cache_misses, 1.0),
];

/// Columns of what is compared.
const CPU: usize = 0;
const RUN_DELAY: usize = 1;
const DISKS: [usize; 2] = [4, 5];
const LINKS: [usize; 2] = [6, 7];

/// A counter as it was read last. Each has its own: some are read more rarely than others.
#[derive(Debug, Clone, Copy)]
struct Base {
    at: u64,
    value: u64,
}

/// Turns looks at one VM into readings.
#[derive(Debug, Default)]
pub struct Merger {
    looked_at: Option<u64>,
    host: [Option<Base>; COUNTERS.len()],
    /// Operations on disks, and the time that they took, ns.
    disk: Option<(u64, u64, u64)>,
    /// The guest's last word, when it came, and the host's count then of what is compared.
    guest: Option<(u64, GuestTotals, [Option<Base>; COMPARED.len()])>,
    faults: Faults,
    disagreement: Disagreement,
}

/// What only rises in a guest, and what tells whether it is a new word.
#[derive(Debug, Clone, Copy)]
struct GuestTotals {
    sequence: u64,
    /// As the host's are compared: CPU and steal in µs, disks and links in bytes.
    compared: [Option<u64>; COMPARED.len()],
    psi_cpu_us: Option<u64>,
    psi_memory_us: Option<u64>,
    psi_io_us: Option<u64>,
    switches: Option<u64>,
    forks: Option<u64>,
}

impl From<&GuestSample> for GuestTotals {
    fn from(sample: &GuestSample) -> Self {
        let cpu = sample.cpu.as_ref();
        let pressure = &sample.pressure;
        Self {
            sequence: sample.sequence,
            compared: [
                cpu.and_then(|cpu| cpu.user_us.checked_add(cpu.system_us)),
                // A kernel that counts none has no clock for it.
                cpu.map(|cpu| cpu.steal_us).filter(|steal| *steal > 0),
                disks(sample),
                links(sample),
            ],
            psi_cpu_us: pressure.cpu_some.map(|p| p.total_us),
            psi_memory_us: pressure.memory_some.map(|p| p.total_us),
            psi_io_us: pressure.io_some.map(|p| p.total_us),
            switches: cpu.and_then(|cpu| cpu.switches),
            forks: cpu.and_then(|cpu| cpu.forks),
        }
    }
}

/// A sum; `None`: it is none, or beyond all numbers.
fn sum(amounts: impl Iterator<Item = u64>) -> Option<u64> {
    amounts.map(Some).reduce(|sum, amount| sum?.checked_add(amount?)).flatten()
}

/// What moved between a guest and the disks that its host gave it. What stands on them, as logical volumes, has no serial.
fn disks(sample: &GuestSample) -> Option<u64> {
    let given = sample.disks.iter().flatten().filter(|disk| disk.serial.is_some());
    sum(given.flat_map(|disk| [disk.read.0, disk.written.0]))
}

/// What moved over a guest's own links: what it made itself, as bridges and those of containers, has other names.
fn links(sample: &GuestSample) -> Option<u64> {
    let is_own =
        |name: &str| (name.starts_with("en") || name.starts_with("eth")) && !name.contains(['.', '@', ':']);
    let own = sample.nics.iter().flatten().filter(|nic| is_own(&nic.name));
    sum(own.flat_map(|nic| [nic.received.0, nic.sent.0]))
}

fn mib(bytes: Bytes) -> f32 {
    (bytes.0 as f64 / MIB) as f32
}

/// Seconds of which a rate can be told; `None`: none have gone by, or so many that what happened is not known.
fn span(then: u64, now: u64) -> Option<f64> {
    now.checked_sub(then).filter(|ms| (1..=GAP_MS).contains(ms)).map(|ms| ms as f64 / 1000.0)
}

/// What a sample of a VM's pages says of all of them, KiB/s. A page that was written to and has the same content again
/// counts as clean, and one that was written to often counts once, as for whoever moves the VM.
pub fn dirty_rate(seen: &DirtyObserved) -> Option<f32> {
    let seconds = Some(seen.over.0).filter(|ms| (1..=GAP_MS).contains(ms))? as f64 / 1000.0;
    if seen.sampled == 0 || seen.changed > seen.sampled {
        return None;
    }
    let share = seen.changed as f64 / seen.sampled as f64;
    Some((share * seen.memory.0 as f64 / KIB / seconds) as f32)
}

/// How far a guest's rate is from its host's; `None`: one of them is not known, or there is too little to compare.
fn off(
    which: usize,
    (said_then, said_now, seconds): (Option<u64>, Option<u64>, f64),
    counted_then: Option<Base>,
    counted_now: Option<Base>,
) -> Option<f32> {
    let (said_unit, counted_unit, least) = COMPARED[which];
    let (then, now) = (counted_then?, counted_now?);
    let rise = now.value.checked_sub(then.value)?;
    let counted = (rise as f64 / span(then.at, now.at)? / counted_unit) as f32;
    let said = (said_now?.checked_sub(said_then?)? as f64 / seconds / said_unit) as f32;
    // Beyond ten times it is all the same.
    (counted >= least).then(|| ((said - counted).abs() / counted).min(10.0))
}

impl Merger {
    /// What was wrong with what came so far.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// How far the guest is from the host.
    pub fn disagreement(&self) -> Disagreement {
        self.disagreement
    }

    /// So much of what a guest said was out of bounds.
    pub fn refuse(&mut self, parts: usize) {
        (0..parts).for_each(|_| self.faults.count(Fault::Refused));
    }

    /// Forgets what was counted last, as when a VM has a new VMM or a new boot: the next look is a beginning.
    pub fn begin_anew(&mut self) {
        (self.looked_at, self.host, self.disk, self.guest) = (None, Default::default(), None, None);
    }

    /// What the host counted at a moment of its steady clock, ms, which nobody sets: levels of now, and of each counter
    /// the rate since it was read before. A first look has only levels.
    pub fn count(&mut self, at_ms: u64, counters: &VmCounters) -> Reading {
        let mut reading = Reading::default();
        let before = *self.looked_at.get_or_insert(at_ms);
        match at_ms.checked_sub(before) {
            // What is older says nothing of now.
            None => {
                self.faults.count(Fault::Late);
                return reading;
            }
            Some(0) if self.host.iter().any(Option::is_some) => {
                self.faults.count(Fault::Repeated);
                return reading;
            }
            Some(since) if since > GAP_MS => self.faults.count(Fault::Gap),
            Some(_) => {}
        }
        self.looked_at = Some(at_ms);
        reading.set(Metric::Memory, counters.resident.map(mib));
        for (column, (metric, read, unit)) in COUNTERS.into_iter().enumerate() {
            let Some(value) = read(counters) else { continue };
            let Some(before) = self.host[column].replace(Base { at: at_ms, value }) else { continue };
            let Some(seconds) = span(before.at, at_ms) else { continue };
            let rate = self.rate(Some(before.value), Some(value), seconds);
            reading.set(metric, rate.map(|rate| (rate / unit) as f32));
        }
        reading.set(Metric::DiskLatency, self.latency_us(at_ms, counters));
        reading
    }

    /// What the guest said at a moment of the host's steady clock, ms.
    pub fn hear(&mut self, at_ms: u64, sample: &GuestSample) -> Reading {
        let mut reading = Reading::default();
        self.guest_rates(at_ms, sample, &mut reading);
        reading
    }

    /// Rise of a counter per second; `None`: it was not read both times, or its owner began anew.
    fn rate(&mut self, before: Option<u64>, now: Option<u64>, seconds: f64) -> Option<f64> {
        let (before, now) = (before?, now?);
        let Some(rise) = now.checked_sub(before) else {
            self.faults.count(Fault::Reset);
            return None;
        };
        Some(rise as f64 / seconds)
    }

    /// Mean time of an operation on a disk since they were counted last, µs; `None`: there was none.
    fn latency_us(&mut self, at: u64, now: &VmCounters) -> Option<f32> {
        let done = now.disk_reads?.checked_add(now.disk_writes?)?.checked_add(now.disk_flushes?)?;
        let took = now.disk_took_ns?;
        let (then, done_before, took_before) = self.disk.replace((at, done, took))?;
        span(then, at)?;
        let operations = done.checked_sub(done_before).filter(|count| *count > 0)?;
        Some((took.checked_sub(took_before)? as f64 / operations as f64 / 1e3) as f32)
    }

    fn guest_rates(&mut self, at: u64, sample: &GuestSample, reading: &mut Reading) {
        let used = sample.memory.as_ref().and_then(|memory| {
            let used = memory.total.0.checked_sub(memory.available.0).filter(|used| *used <= MEMORY_MAX.0);
            if used.is_none() {
                self.faults.count(Fault::Absurd);
            }
            used
        });
        reading.set(Metric::GuestMemory, used.map(|used| mib(Bytes(used))));
        let now = GuestTotals::from(sample);
        let counted = self.counted();
        let Some((then, before, counted_then)) = self.guest.replace((at, now, counted)) else { return };
        if before.sequence == now.sequence {
            // Not a new word.
            self.faults.count(Fault::Repeated);
            self.guest = Some((then, before, counted_then));
            return;
        }
        let Some(seconds) = span(then, at) else { return };
        // A share of time, ‰: µs in a second, thousandths: 10^3. More than all of it cannot be.
        let mut share = |merger: &mut Self, metric, was, is| {
            let value = merger.rate(was, is, seconds).map(|rate| (rate / 1e3) as f32);
            if value.is_some_and(|value| value > 1100.0) {
                merger.faults.count(Fault::Absurd);
            }
            reading.set(metric, value.filter(|value| *value <= 1100.0).map(|value| value.min(1000.0)));
        };
        share(self, Metric::PressureCpu, before.psi_cpu_us, now.psi_cpu_us);
        share(self, Metric::PressureMemory, before.psi_memory_us, now.psi_memory_us);
        share(self, Metric::PressureIo, before.psi_io_us, now.psi_io_us);
        let mut times = |merger: &mut Self, metric, was, is| {
            // 10^9 a second: more than any machine does.
            let value = merger.rate(was, is, seconds);
            if value.is_some_and(|value| value > 1e9) {
                merger.faults.count(Fault::Absurd);
            }
            reading.set(metric, value.filter(|value| *value <= 1e9).map(|value| value as f32));
        };
        times(self, Metric::Switches, before.switches, now.switches);
        times(self, Metric::Forks, before.forks, now.forks);
        // A guest's time does not run back; its disks and links come and go.
        if before.compared[CPU].zip(now.compared[CPU]).is_some_and(|(before, now)| now < before) {
            self.faults.count(Fault::Reset);
        }
        let (means, mut compared) = (&mut self.disagreement, 0);
        let means = [&mut means.cpu, &mut means.steal, &mut means.disks, &mut means.links];
        for (which, mean) in means.into_iter().enumerate() {
            let said = (before.compared[which], now.compared[which], seconds);
            let Some(off) = off(which, said, counted_then[which], counted[which]) else { continue };
            *mean = Some(mean.map_or(off, |mean| mean + (off - mean) * COMPARED_WEIGHT));
            compared += u64::from(which == CPU);
        }
        self.disagreement.compared += compared;
    }

    /// The host's counts of what is compared, as they were read last.
    fn counted(&self) -> [Option<Base>; COMPARED.len()] {
        let both = |[one, other]: [usize; 2]| {
            let (one, other) = (self.host[one]?, self.host[other]?);
            let value = one.value.checked_add(other.value).filter(|_| one.at == other.at)?;
            Some(Base { at: one.at, value })
        };
        [self.host[CPU], self.host[RUN_DELAY], both(DISKS), both(LINKS)]
    }
}

#[cfg(test)]
mod tests;
