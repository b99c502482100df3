//! What was usual for a VM, summed up so that a few samples can be held against it.

use super::{DIMENSIONS, Row};

/// Most moments, and most means of windows, that are kept to find the most similar one.
const KEPT: usize = 256;
/// Samples of a window, at most.
pub(super) const WINDOW: usize = 6;
/// Least rows of which a reference can be made: four windows.
const ROWS_MIN: usize = 4 * WINDOW;
/// Shares of the rows below the kept quantiles.
const SHARES: [f32; 9] = [0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0];
/// A spread smaller than this, 5 % of the value, is taken for it: rounding and idle noise are no measure.
const SPREAD_MIN: f32 = 0.05;
/// A factor of 1.4, as spread of every dimension: distances that do not depend on how steady a VM is.
const SPREAD_COMMON: f32 = 0.35;
/// One dimension counts at most as this many spreads in a distance.
const FAR: f32 = 8.0;

/// Every how many kept windows the distance to its nearest other is looked at.
const SELF_STEP: usize = 4;

/// What was usual for a VM: quantiles of each dimension, and the moments themselves, thinned out.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// By share, then dimension. NaN: that dimension was not measured.
    quantiles: [[f32; DIMENSIONS]; 9],
    pub(super) mean: [f32; DIMENSIONS],
    pub(super) deviation: [f32; DIMENSIONS],
    pub(super) spread: [f32; DIMENSIONS],
    moments: Vec<[f32; DIMENSIONS]>,
    windows: Vec<[f32; DIMENSIONS]>,
    /// Median and 99th percentile of the distance of its windows to the nearest other one.
    pub(super) own_distance: [f32; 2],
}

/// At most [`KEPT`], evenly spread.
fn thinned(all: &[[f32; DIMENSIONS]]) -> Vec<[f32; DIMENSIONS]> {
    let count = all.len().min(KEPT);
    (0..count).filter_map(|at| all.get(at * (all.len() - 1) / (count - 1).max(1)).copied()).collect()
}

/// Mean of what was measured.
pub(super) fn mean(rows: &[[f32; DIMENSIONS]], dimension: usize) -> f32 {
    let (mut sum, mut count) = (0.0, 0);
    for row in rows.iter().filter(|row| !row[dimension].is_nan()) {
        sum += row[dimension];
        count += 1;
    }
    // 0/0 is NaN: not measured.
    sum / count as f32
}

/// Standard deviation of what was measured.
pub(super) fn deviation(rows: &[[f32; DIMENSIONS]], dimension: usize, mean: f32) -> f32 {
    let (mut sum, mut count) = (0.0, 0);
    for row in rows.iter().filter(|row| !row[dimension].is_nan()) {
        sum += (row[dimension] - mean).powi(2);
        count += 1;
    }
    (sum / count as f32).sqrt()
}

impl Reference {
    /// Sums up rows, the oldest first. `None`: too few.
    pub fn new(rows: &[Row]) -> Option<Self> {
        if rows.len() < ROWS_MIN {
            return None;
        }
        let rows: Vec<[f32; DIMENSIONS]> = rows.iter().map(|row| row.0).collect();
        let mut reference = Self {
            quantiles: [[f32::NAN; DIMENSIONS]; 9],
            mean: [f32::NAN; DIMENSIONS],
            deviation: [f32::NAN; DIMENSIONS],
            spread: [f32::NAN; DIMENSIONS],
            moments: thinned(&rows),
            windows: Vec::new(),
            own_distance: [0.0; 2],
        };
        let mut values = Vec::with_capacity(rows.len());
        for dimension in 0..DIMENSIONS {
            values.clear();
            values.extend(rows.iter().map(|row| row[dimension]).filter(|value| !value.is_nan()));
            values.sort_unstable_by(f32::total_cmp);
            let Some(last) = values.len().checked_sub(1) else { continue };
            for (kept, share) in reference.quantiles.iter_mut().zip(SHARES) {
                kept[dimension] = values[(share * last as f32).round() as usize];
            }
            reference.mean[dimension] = mean(&rows, dimension);
            reference.deviation[dimension] = deviation(&rows, dimension, reference.mean[dimension]);
            // The quartiles of a normal distribution are 1.35 standard deviations apart.
            let robust = (reference.quantiles[5][dimension] - reference.quantiles[3][dimension]) / 1.35;
            reference.spread[dimension] = robust.max(reference.deviation[dimension] / 2.0).max(SPREAD_MIN);
        }
        let windows: Vec<[f32; DIMENSIONS]> = rows
            .chunks_exact(WINDOW)
            .map(|window| std::array::from_fn(|dimension| mean(window, dimension)))
            .collect();
        reference.windows = thinned(&windows);
        reference.own_distance = reference.distances_of_its_own();
        Some(reference)
    }

    fn distances_of_its_own(&self) -> [f32; 2] {
        let some = self.windows.iter().enumerate().step_by(SELF_STEP);
        let mut nearest: Vec<f32> = some
            .map(|(at, window)| {
                let others = self.windows.iter().enumerate().filter(|(other, _)| *other != at);
                others.map(|(_, other)| distance(window, other, &self.spread)).fold(FAR, f32::min)
            })
            .collect();
        nearest.sort_unstable_by(f32::total_cmp);
        let last = nearest.len().saturating_sub(1);
        [nearest[last / 2], nearest[last * 99 / 100]]
    }

    /// Whether something that is known of the VM was measured in all of these rows. Else nothing can be said.
    pub(super) fn speaks_of(&self, rows: &[Row]) -> bool {
        (0..DIMENSIONS).any(|at| !self.median(at).is_nan() && rows.iter().all(|row| !row.0[at].is_nan()))
    }

    /// A quantile of a dimension: `rank` counts [`SHARES`].
    fn quantile(&self, rank: usize, dimension: usize) -> f32 {
        self.quantiles[rank][dimension]
    }

    pub(super) fn median(&self, dimension: usize) -> f32 {
        self.quantile(4, dimension)
    }

    /// First and 99th percentile.
    pub(super) fn range(&self, dimension: usize) -> (f32, f32) {
        (self.quantile(1, dimension), self.quantile(7, dimension))
    }

    /// Least and largest value.
    pub(super) fn limits(&self, dimension: usize) -> (f32, f32) {
        (self.quantile(0, dimension), self.quantile(8, dimension))
    }

    /// Distances to the nearest, fifth and twenty-first nearest of the kept moments (`single`) or windows, in the
    /// VM's own spreads, and to the nearest and fifth in a common one.
    pub(super) fn distances(&self, from: &[f32; DIMENSIONS], single: bool) -> [f32; 5] {
        let kept = if single { &self.moments } else { &self.windows };
        let near = |spread: &[f32; DIMENSIONS]| {
            let mut all: Vec<f32> = kept.iter().map(|other| distance(from, other, spread)).collect();
            move |rank: usize| {
                let rank = rank.min(all.len().saturating_sub(1));
                *all.select_nth_unstable_by(rank, f32::total_cmp).1
            }
        };
        let (mut own, mut common) = (near(&self.spread), near(&[SPREAD_COMMON; DIMENSIONS]));
        [own(0), own(4), own(20), common(0), common(4)]
    }
}

/// Root of the mean square of the distances in each dimension that both have; far apart where there is none.
fn distance(a: &[f32; DIMENSIONS], b: &[f32; DIMENSIONS], spread: &[f32; DIMENSIONS]) -> f32 {
    let (mut sum, mut count) = (0.0, 0.0);
    for dimension in 0..DIMENSIONS {
        let apart = ((a[dimension] - b[dimension]) / spread[dimension]).abs();
        // False where it is NaN: not measured.
        if apart >= 0.0 {
            sum += apart.min(FAR).powi(2);
            count += 1.0f32;
        }
    }
    if count > 0.0 { (sum / count).sqrt() } else { FAR }
}
