//! One stream from two sources: the host's counters and the guest's word. The host's win wherever both speak, and how
//! far the guest's are from them is told.

use super::fault::{Fault, Faults};
use proteus_model::telemetry::{GuestSample, Metric, Reading};
use proteus_model::unit::Bytes;
use proteus_model::vm::{DirtyObserved, MEMORY_MAX, VmCounters};

/// Longest time between two looks of which a rate is told: beyond it what happened in between is not known.
const GAP_MS: u64 = 60_000;
/// Least CPU of the host's count, thousandths of a core, at which the two counts are compared.
const COMPARED_CPU_MIN: f32 = 50.0;
/// Weight of the newest comparison in the running mean: about the last 30 count.
const COMPARED_WEIGHT: f32 = 0.065;

/// How far what a guest says is from what its host counts. 0: they agree.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Disagreement {
    /// Of the CPU time used: |guest − host| / host, a running mean over comparisons. `None`: never compared.
    pub cpu: Option<f32>,
    /// How often the two were compared.
    pub compared: u64,
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

/// Column of the CPU time.
const CPU: usize = 0;

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
    /// The guest's last word, when it came, and the host's count of the CPU then.
    guest: Option<(u64, GuestTotals, Option<Base>)>,
    faults: Faults,
    disagreement: Disagreement,
}

/// What only rises in a guest, and what tells whether it is a new word.
#[derive(Debug, Clone, Copy)]
struct GuestTotals {
    sequence: u64,
    cpu_us: Option<u64>,
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
            cpu_us: cpu.and_then(|cpu| cpu.user_us.checked_add(cpu.system_us)),
            psi_cpu_us: pressure.cpu_some.map(|p| p.total_us),
            psi_memory_us: pressure.memory_some.map(|p| p.total_us),
            psi_io_us: pressure.io_some.map(|p| p.total_us),
            switches: cpu.and_then(|cpu| cpu.switches),
            forks: cpu.and_then(|cpu| cpu.forks),
        }
    }
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
        let Some((then, before, counted_then)) = self.guest.replace((at, now, self.host[CPU])) else {
            return;
        };
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
        let said = self.rate(before.cpu_us, now.cpu_us, seconds).map(|rate| (rate / 1e3) as f32);
        let counted = counted_then.zip(self.host[CPU]).and_then(|(then, now)| {
            let rise = now.value.checked_sub(then.value)?;
            Some((rise as f64 / span(then.at, now.at)? / SHARE) as f32)
        });
        self.compare(said, counted);
    }

    fn compare(&mut self, said: Option<f32>, counted: Option<f32>) {
        let (Some(said), Some(counted)) = (said, counted.filter(|cpu| *cpu >= COMPARED_CPU_MIN)) else {
            return;
        };
        // Beyond ten times it is all the same.
        let off = ((said - counted).abs() / counted).min(10.0);
        let mean = self.disagreement.cpu.map_or(off, |mean| mean + (off - mean) * COMPARED_WEIGHT);
        self.disagreement = Disagreement { cpu: Some(mean), compared: self.disagreement.compared + 1 };
    }
}

#[cfg(test)]
mod tests;
