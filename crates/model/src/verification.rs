//! What is measured around a change and what was made of it.

use crate::unit::{Millis, Permille};
use serde::{Deserialize, Serialize};

/// One stretch between two looks at a VM. What could not be read is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// Its length.
    pub length: Millis,
    /// Share of it in which some task inside waited for CPU.
    pub psi_cpu: Option<Permille>,
    /// For memory.
    pub psi_memory: Option<Permille>,
    /// For storage.
    pub psi_io: Option<Permille>,
    /// Share of time that runnable vCPUs waited for a physical one.
    pub run_delay: Option<Permille>,
    /// Share of time that the CPU cap held vCPUs back.
    pub throttled: Option<Permille>,
    /// Longest time that a health check took in it, in microseconds.
    pub probe_latency_us: Option<u64>,
    /// Health checks in it that failed.
    pub unhealthy: u32,
}

/// The before-window.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// Its stretches, in order.
    pub stretches: Vec<Stretch>,
    /// Health checks that failed already before: they cannot speak against the change.
    pub unhealthy_before: Vec<String>,
}

/// The one measure that is a time; all others are shares of time.
pub const PROBE_LATENCY: &str = "probe_latency";

/// How one measure compares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Which measure, by its name in the profile.
    pub measure: String,
    /// Its mean before, in permille, or in microseconds for [`PROBE_LATENCY`].
    pub before: Option<f64>,
    /// How much it varied before: standard deviation of the stretches.
    pub noise: Option<f64>,
    /// Its mean after.
    pub after: Option<f64>,
    /// The profile's limit.
    pub limit: Option<f64>,
    /// Whether it counts as harm.
    pub harm: bool,
    /// In words.
    pub why: String,
}

impl Comparison {
    /// A value of this measure for people, in the units that profiles are written in.
    pub fn told(&self, value: f64) -> String {
        match self.measure.as_str() {
            PROBE_LATENCY => format!("{:.1} ms", value / 1000.0),
            _ => format!("{:.1} %", value / 10.0),
        }
    }

    /// The difference of two values. Of shares in points: "10 % more" could be a tenth more than was.
    pub fn told_difference(&self, value: f64) -> String {
        match self.measure.as_str() {
            PROBE_LATENCY => self.told(value),
            _ => format!("{:.1} percentage points", value / 10.0),
        }
    }
}

/// What verification found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VerificationReport {
    /// Whether the change may stay.
    pub passed: bool,
    /// Health checks that failed after and not before.
    pub unhealthy: Vec<String>,
    /// Each measure.
    pub comparisons: Vec<Comparison>,
}

impl Eq for VerificationReport {}
