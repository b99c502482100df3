//! Learns a prior from a fleet's series: lifts and losses of the experts, forests, where the calibration begins. Must
//! hold each forest against VMs that it did not learn from, as those will be that it is asked for.

use super::forecaster::{DEVIATION_LEAST, MEAN_LEAST, mixed, pinball};
use super::prior::{Cell, FEATURES, Lift, Prior, features};
use super::{EXPERTS, HORIZONS, SHARES, Track};
use crate::random::Random;
use crate::tree::{Examples, Forest, LearnError, Training, learn_quantile};
use std::collections::VecDeque;

/// Fewest moments that something is learned of.
const MOMENTS_MIN: usize = 1000;

/// How a prior is learned.
#[derive(Debug, Clone, PartialEq)]
pub struct PriorTraining {
    /// Moments of the whole fleet that are looked at, for each window.
    pub moments: usize,
    /// How forests are grown; `None`: none is.
    pub forest: Option<Training>,
    /// Where chance begins.
    pub seed: u64,
}

impl Default for PriorTraining {
    fn default() -> Self {
        let forest = Training {
            trees: 60,
            leaves: 16,
            rate: 0.1,
            feature_share: 0.7,
            leaf_examples: 100,
            ..Training::default()
        };
        Self { moments: 60_000, forest: Some(forest), seed: 1 }
    }
}

/// A moment of a VM, and what came of it.
#[derive(Debug, Clone)]
struct Moment {
    vm: usize,
    words: [f32; EXPERTS],
    row: [f32; FEATURES],
    mean: f32,
    deviation: f32,
    came: f32,
}

impl Moment {
    /// A loss counts as a share of the mean use.
    fn weight(&self) -> f32 {
        1.0 / self.mean.max(MEAN_LEAST)
    }
}

/// Highest of the `window` values after each; `None`: too few of them were measured.
pub fn coming(series: &[Option<f32>], window: usize) -> Vec<Option<f32>> {
    let mut all = vec![None; series.len()];
    // The places of what may be the highest, falling.
    let mut best: VecDeque<usize> = VecDeque::new();
    let mut measured = 0;
    for at in (0..series.len()).rev() {
        // The window of `at` is what is after it, up to `at + window`.
        if at + 1 < series.len()
            && let Some(next) = series[at + 1]
        {
            while best.back().is_some_and(|held| series[*held] <= Some(next)) {
                best.pop_back();
            }
            best.push_back(at + 1);
            measured += 1;
        }
        if at + window + 1 < series.len() && series[at + window + 1].is_some() {
            measured -= 1;
        }
        while best.front().is_some_and(|held| *held > at + window) {
            best.pop_front();
        }
        if at + window < series.len() && 2 * measured >= window {
            all[at] = best.front().and_then(|held| series[*held]);
        }
    }
    all
}

fn moments(fleet: &[Vec<Option<f32>>], horizon: usize, training: &PriorTraining) -> Vec<Moment> {
    let all: usize = fleet.iter().map(Vec::len).sum();
    let share = training.moments as f64 / all.max(1) as f64;
    let mut random = Random::new(training.seed ^ (horizon as u64) << 32);
    let mut moments = Vec::new();
    for (vm, series) in fleet.iter().enumerate() {
        let coming = coming(series, HORIZONS[horizon].samples as usize);
        let mut track = Track::default();
        for (number, (sample, came)) in series.iter().zip(coming).enumerate() {
            track.push(number as u64, *sample);
            let (Some(came), true) = (came, random.share() < share) else { continue };
            let (Some(words), Some((row, _))) = (track.words(horizon), features(&track, horizon)) else {
                continue;
            };
            let (mean, deviation) = (track.mean(), track.deviation());
            moments.push(Moment { vm, words, row, mean, deviation, came });
        }
    }
    moments
}

/// The value that `share` of the weight is not above; `pairs` of value and weight.
fn weighted_quantile(pairs: &mut [(f32, f32)], share: f32) -> f32 {
    pairs.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let all: f64 = pairs.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let mut left = all * f64::from(share);
    for (value, weight) in pairs.iter() {
        left -= f64::from(*weight);
        if left <= 0.0 {
            return *value;
        }
    }
    pairs.last().map_or(0.0, |(value, _)| *value)
}

/// What somebody said, and what came.
#[derive(Debug, Clone, Copy)]
pub struct Said {
    /// What was said.
    pub said: f32,
    /// What came.
    pub came: f32,
    /// How much its loss counts.
    pub weight: f32,
}

/// The one constant that makes of what somebody says the best quantile: of "so much more" and "so many times" the one that
/// loses less, and its mean loss. Each is exact: the first is the quantile of what came beyond, the second that of the
/// ratios, each weighing as much as what was said.
pub fn best_lift(cases: &[Said], share: f32) -> (Lift, f32) {
    let mut plus: Vec<(f32, f32)> = cases.iter().map(|one| (one.came - one.said, 1.0)).collect();
    let worth = cases.iter().filter(|one| one.said > 0.0);
    let mut times: Vec<(f32, f32)> = worth.map(|one| (one.came / one.said, one.said)).collect();
    let both =
        [Lift::Plus(weighted_quantile(&mut plus, share)), Lift::Times(weighted_quantile(&mut times, share))];
    let loss = |lift: Lift| {
        let losses =
            cases.iter().map(|one| f64::from(one.weight * pinball(share, one.came, lift.of(one.said))));
        (losses.sum::<f64>() / cases.len().max(1) as f64) as f32
    };
    let [plus, times] = both.map(|lift| (lift, loss(lift)));
    if times.1 < plus.1 { times } else { plus }
}

fn forest(
    moments: &[Moment],
    of: impl Fn(usize) -> bool,
    share: f32,
    training: &Training,
) -> Result<Forest, LearnError> {
    let mut examples = Examples::new(FEATURES);
    for one in moments.iter().filter(|one| of(one.vm)) {
        examples.push_number(&one.row, one.came - one.words[2]);
    }
    learn_quantile(&examples, share, training)
}

/// Learns from a fleet: each VM's series, a sample every five minutes, % of what it has.
pub fn learn_prior(fleet: &[Vec<Option<f32>>], training: &PriorTraining) -> Result<Prior, LearnError> {
    let mut cells = Vec::new();
    for horizon in 0..HORIZONS.len() {
        let moments = moments(fleet, horizon, training);
        for (place, share) in SHARES.into_iter().enumerate() {
            // A window that no series is long enough for is as one that no fleet taught anything of.
            let is_known = moments.len() >= MOMENTS_MIN;
            cells.push(if is_known { cell(&moments, share, training)? } else { Cell::plain(place) });
        }
    }
    if cells.iter().all(|cell| cell.losses[0] == 1.0) {
        return Err(LearnError::Few(fleet.iter().map(Vec::len).sum()));
    }
    let rows: Vec<[Cell; SHARES.len()]> =
        cells.chunks_exact(SHARES.len()).filter_map(|row| row.to_vec().try_into().ok()).collect();
    let cells = rows.try_into().map_err(|_| LearnError::Few(0))?;
    Ok(Prior { cells })
}

fn cell(moments: &[Moment], share: f32, training: &PriorTraining) -> Result<Cell, LearnError> {
    let mut cell = Cell {
        lifts: [Lift::Plus(0.0); EXPERTS],
        losses: [f32::NAN; EXPERTS + 1],
        offset: 0.0,
        forest: None,
    };
    for expert in 0..EXPERTS {
        let said = |one: &Moment| Said { said: one.words[expert], came: one.came, weight: one.weight() };
        let cases: Vec<Said> = moments.iter().map(said).collect();
        (cell.lifts[expert], cell.losses[expert]) = best_lift(&cases, share);
    }
    let mut said = vec![f32::NAN; moments.len()];
    if let Some(training) = &training.forest {
        // Each half is judged by the forest of the other: what is told of VMs that it learned from is too good.
        let halves = [
            forest(moments, |vm| vm % 2 == 0, share, training)?,
            forest(moments, |vm| vm % 2 == 1, share, training)?,
        ];
        for (said, one) in said.iter_mut().zip(moments) {
            *said = (one.words[2] + halves[1 - one.vm % 2].score(&one.row)).max(0.0);
        }
        let losses = moments.iter().zip(&said);
        let losses = losses.map(|(one, said)| f64::from(one.weight() * pinball(share, one.came, *said)));
        cell.losses[EXPERTS] = (losses.sum::<f64>() / moments.len() as f64) as f32;
        cell.forest = Some(forest(moments, |_| true, share, training)?);
    }
    let mut off: Vec<(f32, f32)> = moments
        .iter()
        .zip(&said)
        .map(|(one, said)| {
            (
                (one.came - mixed(&cell, &one.words, *said, &cell.losses))
                    / one.deviation.max(DEVIATION_LEAST),
                1.0,
            )
        })
        .collect();
    cell.offset = weighted_quantile(&mut off, share);
    Ok(cell)
}
