//! What a VM's history holds: named quantities over time, and what a stretch of time is summed up to. Must never hold
//! a value that was not measured.

use crate::personality::Dimension;
use crate::unit::UnixMillis;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A quantity that is watched of a VM. The first six are the dimensions of [`crate::personality::Usage`]; the names
/// are part of the format of a history on disk and of the API, so none is ever changed or taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// CPU time of the vCPUs, thousandths of a core.
    Cpu,
    /// Memory of the host that the guest's memory takes, MiB.
    Memory,
    /// Read from disks, KiB/s.
    DiskRead,
    /// Written to disks, KiB/s.
    DiskWritten,
    /// Received by its links, KiB/s.
    Received,
    /// Sent by its links, KiB/s.
    Sent,
    /// Read operations, /s.
    Reads,
    /// Write operations, /s.
    Writes,
    /// Flushes of a disk's cache (a database commits), /s.
    Flushes,
    /// Mean time of an operation on a disk, µs.
    DiskLatency,
    /// Packets received, /s.
    PacketsReceived,
    /// Packets sent, /s.
    PacketsSent,
    /// Time that vCPUs were ready and did not run, ‰ of a core.
    RunDelay,
    /// Time that the CPU cap stopped vCPUs, ‰ of a core.
    Throttled,
    /// CPU time of the VMM beside its vCPUs, thousandths of a core.
    Overhead,
    /// Memory that the guest says is in use, MiB.
    GuestMemory,
    /// Time in which a task of the guest waited for a CPU, ‰ (PSI, some).
    PressureCpu,
    /// Time in which a task of the guest waited for memory, ‰ (PSI, some).
    PressureMemory,
    /// Time in which a task of the guest waited for a disk, ‰ (PSI, some).
    PressureIo,
    /// Context switches in the guest, /s.
    Switches,
    /// Tasks made in the guest, /s.
    Forks,
    /// Instructions that the vCPUs carried out, millions/s (hardware counters).
    Instructions,
    /// Cycles in which the vCPUs were at work, millions/s (hardware counters).
    Cycles,
    /// Accesses that missed the last cache before memory, /s (hardware counters).
    CacheMisses,
    /// Memory whose content changed within a second, KiB/s, by a sample of pages.
    DirtyRate,
}

/// How many metrics there are.
pub const METRICS: usize = Metric::ALL.len();

impl Metric {
    /// All of them, in the order of their columns.
    pub const ALL: [Self; 25] = [
        Self::Cpu,
        Self::Memory,
        Self::DiskRead,
        Self::DiskWritten,
        Self::Received,
        Self::Sent,
        Self::Reads,
        Self::Writes,
        Self::Flushes,
        Self::DiskLatency,
        Self::PacketsReceived,
        Self::PacketsSent,
        Self::RunDelay,
        Self::Throttled,
        Self::Overhead,
        Self::GuestMemory,
        Self::PressureCpu,
        Self::PressureMemory,
        Self::PressureIo,
        Self::Switches,
        Self::Forks,
        Self::Instructions,
        Self::Cycles,
        Self::CacheMisses,
        Self::DirtyRate,
    ];

    /// Those that the processor itself counts, where the host has such counters.
    pub const OF_HARDWARE: [Self; 3] = [Self::Instructions, Self::Cycles, Self::CacheMisses];

    /// Its name, as in the API and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::DiskRead => "disk_read",
            Self::DiskWritten => "disk_written",
            Self::Received => "received",
            Self::Sent => "sent",
            Self::Reads => "reads",
            Self::Writes => "writes",
            Self::Flushes => "flushes",
            Self::DiskLatency => "disk_latency",
            Self::PacketsReceived => "packets_received",
            Self::PacketsSent => "packets_sent",
            Self::RunDelay => "run_delay",
            Self::Throttled => "throttled",
            Self::Overhead => "overhead",
            Self::GuestMemory => "guest_memory",
            Self::PressureCpu => "pressure_cpu",
            Self::PressureMemory => "pressure_memory",
            Self::PressureIo => "pressure_io",
            Self::Switches => "switches",
            Self::Forks => "forks",
            Self::Instructions => "instructions",
            Self::Cycles => "cycles",
            Self::CacheMisses => "cache_misses",
            Self::DirtyRate => "dirty_rate",
        }
    }

    /// The metric of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == name)
    }

    /// What it is measured in.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Cpu | Self::Overhead => "m",
            Self::Memory | Self::GuestMemory => "MiB",
            Self::DiskRead | Self::DiskWritten | Self::Received | Self::Sent | Self::DirtyRate => "KiB/s",
            Self::Instructions | Self::Cycles => "M/s",
            Self::DiskLatency => "µs",
            Self::RunDelay
            | Self::Throttled
            | Self::PressureCpu
            | Self::PressureMemory
            | Self::PressureIo => "‰",
            Self::Reads
            | Self::Writes
            | Self::Flushes
            | Self::PacketsReceived
            | Self::PacketsSent
            | Self::Switches
            | Self::Forks
            | Self::CacheMisses => "/s",
        }
    }

    /// Whether the guest's word is all there is for it. All else is from the host's own books.
    pub fn is_of_guest(self) -> bool {
        matches!(
            self,
            Self::GuestMemory
                | Self::PressureCpu
                | Self::PressureMemory
                | Self::PressureIo
                | Self::Switches
                | Self::Forks
        )
    }

    /// The dimension of usage that it is, if it is one.
    pub fn dimension(self) -> Option<Dimension> {
        Dimension::ALL.get(self as usize).copied()
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What was measured of a VM over one sampling interval: one value for each [`Metric`], in its unit, finite and not
/// negative. `None` was not measured; it is never zero.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Reading(pub [Option<f32>; METRICS]);

impl Reading {
    /// A value.
    pub fn get(&self, metric: Metric) -> Option<f32> {
        self.0[metric as usize]
    }

    /// Takes from another what is missing here.
    pub fn fill(&mut self, other: &Self) {
        for (value, theirs) in self.0.iter_mut().zip(other.0) {
            *value = value.or(theirs);
        }
    }

    /// Sets a value; what is no number, or negative, is "not measured".
    pub fn set(&mut self, metric: Metric, value: Option<f32>) {
        self.0[metric as usize] = value.filter(|value| value.is_finite() && *value >= 0.0);
    }
}

/// What one metric was over a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The least.
    pub min: f32,
    /// The median.
    pub p50: f32,
    /// The 95th percentile.
    pub p95: f32,
    /// The most.
    pub max: f32,
    /// The mean.
    pub mean: f32,
}

/// What a VM's metrics were over a stretch of time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// Where it begins: a multiple of its tier's step.
    pub begins_at: UnixMillis,
    /// How many readings are in it.
    pub readings: u16,
    /// By metric; `None`: no reading had it.
    pub summaries: [Option<Summary>; METRICS],
}

/// One resolution of a history: so many buckets of so many seconds, the oldest given up for the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    /// Length of a bucket, s.
    pub step_s: u64,
    /// How many are kept.
    pub slots: u64,
}

impl Tier {
    /// The finest first; each step is a multiple of the one before.
    pub const ALL: [Self; 3] = [
        // 2 h
        Self { step_s: 10, slots: 720 },
        // 2 days
        Self { step_s: 60, slots: 2880 },
        // 60 days
        Self { step_s: 600, slots: 8640 },
    ];

    /// Where the bucket begins that has this moment.
    pub fn begin_of(self, at: UnixMillis) -> UnixMillis {
        UnixMillis(at.0 - at.0 % (self.step_s * 1000))
    }

    /// How far back it reaches, ms.
    pub fn span_ms(self) -> u64 {
        self.step_s * self.slots * 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_names_and_dimensions_agree() {
        for (column, metric) in Metric::ALL.into_iter().enumerate() {
            assert_eq!(metric as usize, column);
            assert_eq!(Metric::named(metric.name()), Some(metric));
            assert_eq!(serde_json::to_value(metric).unwrap(), metric.name());
        }
        for (column, dimension) in Dimension::ALL.into_iter().enumerate() {
            assert_eq!(Metric::ALL[column].dimension(), Some(dimension));
            assert_eq!(Metric::ALL[column].unit(), dimension.unit());
        }
        assert_eq!(Metric::Reads.dimension(), None);
    }

    #[test]
    fn what_is_no_number_was_not_measured() {
        let mut reading = Reading::default();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0] {
            reading.set(Metric::Cpu, Some(bad));
            assert_eq!(reading.get(Metric::Cpu), None, "{bad}");
        }
        reading.set(Metric::Cpu, Some(0.0));
        assert_eq!(reading.get(Metric::Cpu), Some(0.0));
    }

    #[test]
    fn each_tier_is_made_of_the_one_before() {
        for pair in Tier::ALL.windows(2) {
            assert_eq!(pair[1].step_s % pair[0].step_s, 0);
            // All parts of a bucket are still there when it is closed.
            assert!(pair[0].span_ms() > pair[1].step_s * 1000);
        }
        assert_eq!(Tier::ALL[1].begin_of(UnixMillis(61_500)), UnixMillis(60_000));
    }
}
