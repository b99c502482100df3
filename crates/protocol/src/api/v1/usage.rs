//! What is measured of a VM, as it is shown. Metrics have their names and units; what was not measured is not there.

use proteus_model::telemetry::{LatencySeen, Summary};
use proteus_model::unit::UnixMillis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A value of now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ValueView {
    /// The value.
    pub value: f32,
    /// What it is measured in: `m` is thousandths of a core, `‰` a share of time.
    pub unit: String,
    /// Whether there is only the guest's word for it.
    pub of_guest: bool,
}

/// How long operations of one kind on a VM's disks took over about the last minute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LatencyView {
    /// How many there were.
    pub operations: u64,
    /// The median, µs.
    pub p50_us: f32,
    /// The 95th percentile, µs.
    pub p95_us: f32,
    /// The 99th percentile, µs.
    pub p99_us: f32,
}

impl From<LatencySeen> for LatencyView {
    fn from(seen: LatencySeen) -> Self {
        let LatencySeen { operations, p50_us, p95_us, p99_us } = seen;
        Self { operations, p50_us, p95_us, p99_us }
    }
}

/// How a VM was when it was last looked at, at most some seconds ago while it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UsageView {
    /// When, in milliseconds since 1970; `None`: not since Proteus began.
    #[schemars(with = "Option<u64>")]
    pub at: Option<UnixMillis>,
    /// What was measured, by metric. What was not is not in it: missing is not zero.
    pub values: BTreeMap<String, ValueView>,
    /// What was wrong with its samples since Proteus began, and how often: `late`, `repeated`, `future`, `reset`, `gap`,
    /// `absurd`, `refused`, `clock_back`, `clock_forward`.
    pub faults: BTreeMap<String, u64>,
    /// How far the guest's count of its CPU time is from the host's, which wins, as a share of it.
    pub disagreement: Option<f32>,
    /// The same of its `steal`, `disks` and `links`, as far as they were compared.
    #[serde(default)]
    pub disagreements: BTreeMap<String, f32>,
    /// How long operations on its disks took over about the last minute, by kind (`read`, `write`, `flush`); a kind of
    /// which there were none, or that is not counted, is not in it.
    #[serde(default)]
    pub disk_latencies: BTreeMap<String, LatencyView>,
}

/// Resolutions of a history, in seconds.
pub const HISTORY_STEPS_S: [u64; 3] = [10, 60, 600];

/// What a metric was over a stretch of time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SummaryView {
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

impl From<SummaryView> for Summary {
    fn from(view: SummaryView) -> Self {
        let SummaryView { min, p50, p95, max, mean } = view;
        Self { min, p50, p95, max, mean }
    }
}

impl From<Summary> for SummaryView {
    fn from(summary: Summary) -> Self {
        let Summary { min, p50, p95, max, mean } = summary;
        Self { min, p50, p95, max, mean }
    }
}

/// Most bytes of a history that is imported.
pub const IMPORT_BYTES_MAX: usize = 32 << 20;

/// What an import has brought, or would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImportView {
    /// Stretches of 10 s, of 1 min and of 10 min.
    pub buckets: Vec<u64>,
    /// Stretches of the future, left out.
    pub future: u64,
    /// Parts of the file that are damaged, left out.
    pub damaged: u64,
    /// Lines that were left out, by what was wrong with their time: `late`, `repeated`, `future`.
    pub faults: BTreeMap<String, u64>,
}

/// A stretch of time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BucketView {
    /// Where it begins, in milliseconds since 1970.
    #[schemars(with = "u64")]
    pub begins_at: UnixMillis,
    /// How many readings are in it.
    pub readings: u16,
    /// By metric; what was not measured is not in it.
    pub values: BTreeMap<String, SummaryView>,
}

/// A VM's history of one resolution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HistoryView {
    /// Length of each stretch, s.
    pub step_s: u64,
    /// Units by metric, of those that were asked for.
    pub units: BTreeMap<String, String>,
    /// Oldest first; a stretch of which nothing is known is not in it.
    pub buckets: Vec<BucketView>,
    /// Parts of the history that are damaged on disk, and left out.
    pub damaged: u64,
}
