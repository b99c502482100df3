//! Readings in the order of time, summed up to buckets of each tier. Must never hold more than the readings of one
//! short bucket and the parts of the longer ones: everything else is the history's.
//!
//! ```text
//! readings ─▶ 10 s bucket ─▶ six make a minute ─▶ ten make ten minutes
//! ```
//! A longer bucket is made of shorter ones alone, so that whoever begins again after a crash takes up where the
//! history ends ([`Series::resume`]).

use super::fault::{Fault, Faults};
use proteus_model::telemetry::{Bucket, METRICS, Reading, Summary, Tier};
use proteus_model::unit::UnixMillis;

/// Wall clock and steady clock may go apart so far between two readings: beyond it the clock was set.
const CLOCK_SET_MS: i128 = 2_000;
/// How far ahead of the reader's clock a reading may be.
const AHEAD_MS: u64 = 5_000;
/// Most readings of one short bucket: 10 s at 100 Hz. What comes beyond is left out.
const READINGS_MAX: usize = 1_000;
/// At how many levels a bucket's quantiles are read when buckets are pooled.
const LEVELS: usize = 20;

/// A bucket that came to its end, and its place in [`Tier::ALL`].
#[derive(Debug, Clone, PartialEq)]
pub struct Closed {
    /// Which resolution.
    pub tier: usize,
    /// What is in it.
    pub bucket: Bucket,
}

/// The open end of a VM's history.
#[derive(Debug, Default)]
pub struct Series {
    last: Option<(UnixMillis, Option<u64>)>,
    open: Vec<Reading>,
    /// The parts of the open minute and of the open ten minutes.
    parts: [Vec<Bucket>; 2],
    faults: Faults,
}

impl Series {
    /// Goes on where a history ends: `tail` has its short and its middle buckets, oldest first, of the last ten
    /// minutes at least; `at` is now.
    pub fn resume(at: UnixMillis, tail: [&[Bucket]; 2]) -> Self {
        let mut series = Self::default();
        series.go_on(at, tail);
        series
    }

    /// The same of one that has begun already, as where its history could not be read at once.
    pub fn go_on(&mut self, at: UnixMillis, tail: [&[Bucket]; 2]) {
        for (tier, parts) in self.parts.iter_mut().enumerate() {
            let longer = Tier::ALL[tier + 1];
            let begin = longer.begin_of(at);
            // What is open of before is closed first, and by itself.
            if parts.first().is_some_and(|part| longer.begin_of(part.begins_at) != begin) {
                continue;
            }
            let of_open = |bucket: &&Bucket| begin <= bucket.begins_at && bucket.begins_at <= at;
            for bucket in tail[tier].iter().filter(of_open) {
                keep_part(parts, bucket.clone());
            }
        }
    }

    /// What was wrong with the order of readings so far.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Takes in a reading of now: `at` by the wall clock, `steady_ms` by a clock that nobody sets. Buckets that it
    /// brings to their end, the shortest first.
    pub fn push(&mut self, at: UnixMillis, steady_ms: u64, reading: &Reading) -> Vec<Closed> {
        let mut closed = Vec::new();
        if let Some((last, Some(steady))) = self.last {
            let by_wall = i128::from(at.0) - i128::from(last.0);
            let off = by_wall - (i128::from(steady_ms) - i128::from(steady));
            if off.abs() > CLOCK_SET_MS {
                self.faults.count(if off < 0 { Fault::ClockBack } else { Fault::ClockForward });
                // By the new clock the open buckets are of another time.
                closed = self.flush();
                self.last = None;
            }
        }
        if self.is_next(at) {
            closed.extend(self.take_in(at, Some(steady_ms), reading));
        }
        closed
    }

    /// Takes in a reading of before, as from a file: `now` is the reader's own time.
    pub fn place(&mut self, at: UnixMillis, now: UnixMillis, reading: &Reading) -> Vec<Closed> {
        if at.0 > now.0.saturating_add(AHEAD_MS) {
            self.faults.count(Fault::Future);
            return Vec::new();
        }
        if self.is_next(at) { self.take_in(at, None, reading) } else { Vec::new() }
    }

    /// Closes what is open, whole or not: nothing more comes, or not for long.
    pub fn flush(&mut self) -> Vec<Closed> {
        self.close_until(None)
    }

    fn is_next(&mut self, at: UnixMillis) -> bool {
        let fault = match self.last {
            Some((last, _)) if at == last => Fault::Repeated,
            Some((last, _)) if at < last => Fault::Late,
            _ => return true,
        };
        self.faults.count(fault);
        false
    }

    fn take_in(&mut self, at: UnixMillis, steady_ms: Option<u64>, reading: &Reading) -> Vec<Closed> {
        let closed = self.close_until(Some(at));
        self.last = Some((at, steady_ms));
        if self.open.len() < READINGS_MAX {
            self.open.push(*reading);
        }
        closed
    }

    /// Closes every bucket that does not have the moment `at`; `None`: all of them.
    fn close_until(&mut self, at: Option<UnixMillis>) -> Vec<Closed> {
        let is_over =
            |tier: usize, begin: UnixMillis| at.is_none_or(|at| Tier::ALL[tier].begin_of(at) != begin);
        let mut closed = Vec::new();
        let mut close = |tier: usize, bucket: Bucket| closed.push(Closed { tier, bucket });
        if let (Some((last, _)), false) = (self.last, self.open.is_empty()) {
            let begins_at = Tier::ALL[0].begin_of(last);
            if is_over(0, begins_at) {
                let bucket = sum_up(begins_at, &self.open);
                self.open.clear();
                close(0, bucket.clone());
                keep_part(&mut self.parts[0], bucket);
            }
        }
        for tier in [1, 2] {
            let Some(first) = self.parts[tier - 1].first() else { continue };
            let begins_at = Tier::ALL[tier].begin_of(first.begins_at);
            // A part may be added yet while a shorter bucket is open.
            if is_over(tier, begins_at) {
                let parts = std::mem::take(&mut self.parts[tier - 1]);
                let bucket = pool(begins_at, &parts);
                close(tier, bucket.clone());
                if tier == 1 {
                    keep_part(&mut self.parts[1], bucket);
                }
            }
        }
        closed
    }
}

/// A part that was closed early, as when Proteus ended, gives way to the fuller one of the same time.
fn keep_part(parts: &mut Vec<Bucket>, bucket: Bucket) {
    match parts.iter_mut().find(|part| part.begins_at == bucket.begins_at) {
        Some(part) if part.readings > bucket.readings => {}
        Some(part) => *part = bucket,
        None => parts.push(bucket),
    }
}

/// Value at a rank of sorted values: the nearest rank, as in `algorithms.md`'s p-th percentile.
fn at_rank(sorted: &[f32], share: f64) -> f32 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

fn sum_up(begins_at: UnixMillis, readings: &[Reading]) -> Bucket {
    let summaries = std::array::from_fn(|column| {
        let mut values: Vec<f32> = readings.iter().filter_map(|reading| reading.0[column]).collect();
        values.sort_by(f32::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len() as f64;
        let (p50, p95) = (at_rank(&values, 0.5), at_rank(&values, 0.95));
        Some(Summary { min, p50, p95, max, mean: (mean as f32).clamp(min, max) })
    });
    Bucket { begins_at, readings: u16::try_from(readings.len()).unwrap_or(u16::MAX), summaries }
}

/// Buckets of one length as one longer bucket. Least, most and mean are exact (but for missing readings inside a
/// part); quantiles are those of the parts' own, taken as straight between least, median, 95th percentile and most.
pub fn pool(begins_at: UnixMillis, parts: &[Bucket]) -> Bucket {
    let readings = parts.iter().map(|part| u64::from(part.readings)).sum::<u64>();
    let summaries = std::array::from_fn(|column| pool_metric(parts, column));
    Bucket { begins_at, readings: u16::try_from(readings).unwrap_or(u16::MAX), summaries }
}

fn pool_metric(parts: &[Bucket], column: usize) -> Option<Summary> {
    debug_assert!(column < METRICS);
    let there: Vec<(f64, Summary)> = parts
        .iter()
        .filter_map(|part| Some((f64::from(part.readings.max(1)), part.summaries[column]?)))
        .collect();
    let weight: f64 = there.iter().map(|(weight, _)| weight).sum();
    let min = there.iter().map(|(_, s)| s.min).min_by(f32::total_cmp)?;
    let max = there.iter().map(|(_, s)| s.max).max_by(f32::total_cmp)?;
    let mean = there.iter().map(|(weight, s)| weight * f64::from(s.mean)).sum::<f64>() / weight;
    let mut points: Vec<(f32, f64)> = there
        .iter()
        .flat_map(|(weight, summary)| {
            (0..LEVELS).map(move |level| {
                (quantile(summary, (level as f32 + 0.5) / LEVELS as f32), weight / LEVELS as f64)
            })
        })
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let at = |share: f64| {
        let mut so_far = 0.0;
        let found = points.iter().find(|(_, weight_of)| {
            so_far += weight_of;
            // A hair less: sums of fractions are not exact.
            so_far >= share * weight * (1.0 - 1e-9)
        });
        found.map_or(max, |(value, _)| *value).clamp(min, max)
    };
    let (p50, p95) = (at(0.5), at(0.95));
    Some(Summary { min, p50, p95: p95.max(p50), max, mean: (mean as f32).clamp(min, max) })
}

/// A summary's value at a level between 0 and 1.
fn quantile(summary: &Summary, level: f32) -> f32 {
    let known = [(0.0, summary.min), (0.5, summary.p50), (0.95, summary.p95), (1.0, summary.max)];
    for pair in known.windows(2) {
        let ((from, low), (to, high)) = (pair[0], pair[1]);
        if level <= to {
            return low + (high - low) * (level - from) / (to - from);
        }
    }
    summary.max
}

#[cfg(test)]
mod tests;
