//! One stream from two sources: the host's counters and the guest's word. The host's win wherever both speak, and how
//! far the guest's are from them is told.

use super::fault::{Fault, Faults};
use proteus_model::telemetry::{GuestSample, Metric, Reading};
use proteus_model::unit::Bytes;
use proteus_model::vm::VmCounters;

/// Longest time between two looks of which a rate is told: beyond it what happened in between is not known.
const GAP_MS: u64 = 60_000;
/// Oldest word of a guest that still belongs to a look. Guests are asked once a second where they are asked.
const STALE_MS: u64 = 5_000;
/// Least CPU of the host's count, thousandths of a core, at which the two counts are compared.
const COMPARED_CPU_MIN: f32 = 50.0;
/// Weight of the newest comparison in the running mean: about the last 30 count.
const COMPARED_WEIGHT: f32 = 0.065;

/// What was seen at one moment. Times are the host's own steady ones, ms, from any beginning: a clock that is set does
/// not move them.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// When the host's counters were read.
    pub at_ms: u64,
    /// What the host counted; `None`: it could not be read.
    pub host: Option<&'a VmCounters>,
    /// The guest's last word and when it came; `None`: it has no agent, or none was heard.
    pub guest: Option<(u64, &'a GuestSample)>,
}

/// How far what a guest says is from what its host counts. 0: they agree.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Disagreement {
    /// Of the CPU time used: |guest − host| / host, a running mean over comparisons. `None`: never compared.
    pub cpu: Option<f32>,
    /// How often the two were compared.
    pub compared: u64,
}

/// Turns looks at one VM into readings.
#[derive(Debug, Default)]
pub struct Merger {
    host: Option<(u64, VmCounters)>,
    guest: Option<(u64, GuestTotals)>,
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

const KIB: f64 = 1024.0;
const MIB: f64 = 1_048_576.0;

fn mib(bytes: Bytes) -> f32 {
    (bytes.0 as f64 / MIB) as f32
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

    /// Forgets what was counted last, as when a VM has a new VMM or a new boot: the next look is a beginning.
    pub fn begin_anew(&mut self) {
        (self.host, self.guest) = (None, None);
    }

    /// The reading of this look: levels of now, and rates since the look before. A first look has only levels.
    pub fn merge(&mut self, look: Look<'_>) -> Reading {
        let mut reading = Reading::default();
        if let Some(counters) = look.host {
            reading.set(Metric::Memory, counters.resident.map(mib));
            self.host_rates(look.at_ms, counters, &mut reading);
        }
        match look.guest {
            Some((at, _)) if look.at_ms.saturating_sub(at) > STALE_MS => self.faults.count(Fault::Stale),
            Some((at, sample)) => self.guest_rates(at, sample, &mut reading),
            None => {}
        }
        reading
    }

    /// Time since `before`; `None`: no rate can be told of it.
    fn elapsed(&mut self, before: u64, now: u64) -> Option<f64> {
        let fault = match now.checked_sub(before) {
            None => Fault::Late,
            Some(0) => Fault::Repeated,
            Some(ms) if ms > GAP_MS => Fault::Gap,
            Some(ms) => return Some(ms as f64 / 1000.0),
        };
        self.faults.count(fault);
        None
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

    fn host_rates(&mut self, at: u64, now: &VmCounters, reading: &mut Reading) {
        let before = self.host.replace((at, now.clone()));
        let Some((then, before)) = before else { return };
        let Some(seconds) = self.elapsed(then, at) else {
            if at < then {
                // What is older says nothing of now.
                self.host = Some((then, before));
            }
            return;
        };
        // Nanoseconds in a second, as thousandths: 10^6.
        let mut put = |merger: &mut Self, metric, was: Option<u64>, is: Option<u64>, unit: f64| {
            let value = merger.rate(was, is, seconds).map(|rate| (rate / unit) as f32);
            reading.set(metric, value);
        };
        put(self, Metric::Cpu, before.vcpu_run_ns, now.vcpu_run_ns, 1e6);
        put(self, Metric::RunDelay, before.vcpu_wait_ns, now.vcpu_wait_ns, 1e6);
        put(self, Metric::Throttled, before.throttled_ns, now.throttled_ns, 1e6);
        let beside = |counters: &VmCounters| counters.vmm_run_ns?.checked_sub(counters.vcpu_run_ns?);
        put(self, Metric::Overhead, beside(&before), beside(now), 1e6);
        put(self, Metric::DiskRead, before.disk_read, now.disk_read, KIB);
        put(self, Metric::DiskWritten, before.disk_written, now.disk_written, KIB);
        put(self, Metric::Received, before.net_to_guest, now.net_to_guest, KIB);
        put(self, Metric::Sent, before.net_from_guest, now.net_from_guest, KIB);
        put(self, Metric::Reads, before.disk_reads, now.disk_reads, 1.0);
        put(self, Metric::Writes, before.disk_writes, now.disk_writes, 1.0);
        put(self, Metric::Flushes, before.disk_flushes, now.disk_flushes, 1.0);
        put(self, Metric::PacketsReceived, before.packets_to_guest, now.packets_to_guest, 1.0);
        put(self, Metric::PacketsSent, before.packets_from_guest, now.packets_from_guest, 1.0);
        reading.set(Metric::DiskLatency, latency_us(&before, now));
    }

    fn guest_rates(&mut self, at: u64, sample: &GuestSample, reading: &mut Reading) {
        let used = sample.memory.as_ref().and_then(|memory| {
            let used = memory.total.0.checked_sub(memory.available.0);
            if used.is_none() {
                self.faults.count(Fault::Absurd);
            }
            used
        });
        reading.set(Metric::GuestMemory, used.map(|used| mib(Bytes(used))));
        let now = GuestTotals::from(sample);
        let Some((then, before)) = self.guest.replace((at, now)) else { return };
        if before.sequence == now.sequence {
            // Not a new word: the host looks more often than the agent speaks.
            self.guest = Some((then, before));
            return;
        }
        let Some(seconds) = self.elapsed(then, at) else { return };
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
        self.compare(said, reading.get(Metric::Cpu));
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

/// Mean time of an operation between two looks, µs; `None`: there was none.
fn latency_us(before: &VmCounters, now: &VmCounters) -> Option<f32> {
    let done = |c: &VmCounters| c.disk_reads?.checked_add(c.disk_writes?)?.checked_add(c.disk_flushes?);
    let operations = done(now)?.checked_sub(done(before)?)?;
    let took = now.disk_took_ns?.checked_sub(before.disk_took_ns?)?;
    (operations > 0).then(|| (took as f64 / operations as f64 / 1e3) as f32)
}

#[cfg(test)]
mod tests;
