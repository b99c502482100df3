//! Parts of a VM's record that are told from its history. Must never hold a value without its source, its age and what
//! is missing of it.

use super::Trait;
use crate::unit::UnixMillis;

/// A part of the record.
#[derive(Debug, Clone, PartialEq)]
pub struct Part<T> {
    /// Who says so.
    pub source: String,
    /// When it was seen last; `None`: not yet.
    pub at: Option<UnixMillis>,
    /// How much of it is known, 0–1: of the time that it tells of, or of its values.
    pub coverage: f32,
    /// What is known; `None`: nothing.
    pub value: Option<T>,
    /// What is not, and why.
    pub missing: Vec<String>,
}

/// What a VM sends and receives.
#[derive(Debug, Clone, PartialEq)]
pub struct Traffic {
    /// Mean received over the last hour, KiB/s.
    pub received: f32,
    /// Mean sent over the last hour, KiB/s.
    pub sent: f32,
    /// Bytes sent as a share of all, 0–1; `None`: there were none.
    pub sent_share: Option<f32>,
    /// Mean size of a packet received, bytes.
    pub packet_in: Option<f32>,
    /// Mean size of a packet sent, bytes.
    pub packet_out: Option<f32>,
    /// The 95th percentile of both directions over their mean.
    pub burstiness: Option<f32>,
    /// Mean of both directions by the hour of the day (UTC), KiB/s; `None`: that hour was never seen.
    pub by_hour: Vec<Option<f32>>,
}

/// How a metric was over the last hour.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Performance {
    /// Median of the minutes' means.
    pub p50: f32,
    /// 95th percentile of the minutes' 95th percentiles.
    pub p95: f32,
}

/// One dimension of the trait vector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TraitSeen {
    /// Which.
    pub of: Trait,
    /// Its value, as people read it.
    pub value: f32,
    /// Distance from the median of all prototypes, in robust deviations, at most 4 either way.
    pub deviation: f32,
    /// How much it counts, 0–1.
    pub weight: f32,
}
