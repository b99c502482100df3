//! Whether a VM became something else, of series of five minutes and from a day of them on, as a fleet's history has
//! them. A running Proteus, which sees every ten seconds and knows a VM within minutes, tells it by
//! [`change`](super::change); this is what `proteus-lab shift` measures. A *shift* is told by a forest that learned, on a fleet, how a VM's own later
//! samples differ from another VM's: the last samples are held against what was usual for the VM, in its level, its
//! range and its nearest similar moment, and the forest says how likely they are somebody else's.
//!
//! ```text
//! quiet ─ score ≥ threshold ─▶ told ─ `QUIET_SAMPLES` later ─▶ quiet
//! ```

use super::reference::{Reference, WINDOW, deviation, mean};
use super::{DIMENSIONS, Row};
use crate::random::Random;
use crate::tree::{Examples, Forest, LearnError, Training, learn};
use proteus_model::personality::{Departure, Dimension, Shift, Usage};
use serde::{Deserialize, Serialize};

/// Samples of the windows that are looked at, all of which end with the latest.
const WINDOWS: [usize; 3] = [1, 3, WINDOW];
/// Of each window: four numbers a dimension, five distances.
const PER_WINDOW: usize = 4 * DIMENSIONS + 5;
/// Numbers that the forest is asked with: the windows, then five numbers a dimension and two of the whole.
const FEATURES: usize = WINDOWS.len() * PER_WINDOW + 5 * DIMENSIONS + 2;
/// Samples after a shift was told in which none is told again: an alarm is one, however long it lasts.
pub const QUIET_SAMPLES: usize = 12;
/// How many samples a reference may be old.
pub const REFRESH_SAMPLES: usize = 12;
/// Longest reference: seven days of five minutes.
pub const REFERENCE_SAMPLES: usize = 7 * 288;
/// Shortest one: a day of five minutes.
pub const REFERENCE_SAMPLES_MIN: usize = 288;

/// What was learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShiftModel {
    forest: Forest,
    /// Log-odds from which a shift is told.
    pub threshold: f32,
}

/// Why a model cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a shift model of {features} features, sound: {sound}; expected a sound one of {FEATURES}")]
pub struct ModelError {
    features: usize,
    sound: bool,
}

/// The latest samples, fewer than [`WINDOW`] at first, the oldest first, as numbers for the forest.
fn features(window: &[Row], usual: &Reference) -> [f32; FEATURES] {
    let rows: Vec<[f32; DIMENSIONS]> = window.iter().map(|row| row.0).collect();
    let mut all = [f32::NAN; FEATURES];
    let mut places = all.iter_mut();
    let mut put = |value: f32| {
        if let Some(place) = places.next() {
            *place = value;
        }
    };
    let mut last = [f32::NAN; DIMENSIONS];
    for length in WINDOWS {
        let part = &rows[rows.len().saturating_sub(length)..];
        let now: [f32; DIMENSIONS] = std::array::from_fn(|dimension| mean(part, dimension));
        for dimension in 0..DIMENSIONS {
            let values = || part.iter().map(|row| row[dimension]);
            let (low, high) = (values().fold(f32::NAN, f32::min), values().fold(f32::NAN, f32::max));
            let out = |(least, most): (f32, f32)| (low - most).max(0.0) + (high - least).min(0.0);
            let deviations =
                ((now[dimension] - usual.median(dimension)) / usual.spread[dimension]).clamp(-20.0, 20.0);
            if length == 1 {
                last[dimension] = deviations.abs();
            }
            put(deviations);
            put(now[dimension] - usual.mean[dimension]);
            put((out(usual.range(dimension)) / usual.spread[dimension]).clamp(-20.0, 20.0));
            put(out(usual.limits(dimension)));
        }
        usual.distances(&now, length == 1).into_iter().for_each(&mut put);
    }
    for dimension in 0..DIMENSIONS {
        let level = mean(&rows, dimension);
        put(deviation(&rows, dimension, level) - usual.deviation[dimension]);
        let steps = rows.windows(2).map(|pair| (pair[1][dimension] - pair[0][dimension]).abs());
        put(steps.sum::<f32>() / rows.len().saturating_sub(1).max(1) as f32);
        put(usual.deviation[dimension]);
        let (least, most) = usual.range(dimension);
        put(most - least);
    }
    last.sort_unstable_by(f32::total_cmp);
    last.into_iter().chain(usual.own_distance).for_each(&mut put);
    all
}

impl ShiftModel {
    /// Fails where the model was not learned by this version, or is damaged.
    pub fn check(&self) -> Result<(), ModelError> {
        let (features, sound) = (self.forest.features(), self.forest.is_sound());
        if features == FEATURES && sound { Ok(()) } else { Err(ModelError { features, sound }) }
    }

    /// Log-odds that the latest samples, at most six, the oldest first, are another VM's.
    pub fn score(&self, window: &[Row], usual: &Reference) -> f32 {
        self.forest.score(&features(window, usual))
    }

    /// The shift that this score is, with what speaks for it.
    fn told(score: f32, window: &[Row], usual: &Reference) -> Shift {
        let rows: Vec<[f32; DIMENSIONS]> = window.iter().map(|row| row.0).collect();
        let departure = |(at, dimension): (usize, Dimension)| {
            let (middle, (least, most)) = (usual.median(at), usual.range(at));
            let means = WINDOWS.map(|length| mean(&rows[rows.len().saturating_sub(length)..], at));
            let measured = means.into_iter().filter(|mean| !mean.is_nan());
            let now = measured.max_by(|a, b| (a - middle).abs().total_cmp(&(b - middle).abs()))?;
            Some(Departure {
                dimension,
                now: Row::natural(now)?,
                usual: Row::natural(middle)?,
                range: (Row::natural(least)?, Row::natural(most)?),
                deviations: (now - middle) / usual.spread[at],
            })
        };
        let mut evidence: Vec<Departure> =
            Dimension::ALL.into_iter().enumerate().filter_map(departure).collect();
        evidence.sort_by(|a, b| b.deviations.abs().total_cmp(&a.deviations.abs()));
        Shift { score, evidence }
    }
}

/// Watches one VM.
#[derive(Debug, Clone, Default)]
pub struct ShiftWatch {
    /// The latest [`REFERENCE_SAMPLES`] and the window, the oldest first.
    rows: Vec<Row>,
    usual: Option<Reference>,
    age: usize,
    quiet: usize,
}

impl ShiftWatch {
    /// Takes the next sample, and tells a shift.
    pub fn push(&mut self, usage: &Usage, model: &ShiftModel) -> Option<Shift> {
        let score = self.score_next(usage, model)?;
        if self.quiet > 0 {
            self.quiet -= 1;
            return None;
        }
        if score < model.threshold {
            return None;
        }
        self.quiet = QUIET_SAMPLES - 1;
        Some(ShiftModel::told(score, &self.rows[self.rows.len() - WINDOW..], self.usual.as_ref()?))
    }

    /// Takes the next sample; its score, whatever the threshold. `None`: too little is known of this VM.
    pub fn score_next(&mut self, usage: &Usage, model: &ShiftModel) -> Option<f32> {
        if self.rows.len() >= 2 * REFERENCE_SAMPLES {
            self.rows.drain(..REFERENCE_SAMPLES - WINDOW);
        }
        self.rows.push(Row::from(usage));
        let before = self.rows.len().checked_sub(WINDOW)?;
        if before < REFERENCE_SAMPLES_MIN {
            return None;
        }
        if self.usual.is_none() || self.age >= REFRESH_SAMPLES {
            self.usual = Reference::new(&self.rows[before.saturating_sub(REFERENCE_SAMPLES)..before]);
            self.age = 0;
        }
        self.age += 1;
        let (window, usual) = (&self.rows[before..], self.usual.as_ref()?);
        usual.speaks_of(window).then(|| model.score(window, usual))
    }
}

/// How much to learn from.
#[derive(Debug, Clone, PartialEq)]
pub struct ShiftTraining {
    /// Of each VM: moments at which another takes its place.
    pub splices: usize,
    /// Of each VM: moments at which it goes on, of twelve samples each.
    pub steady: usize,
    /// How the forest grows.
    pub forest: Training,
}

impl Default for ShiftTraining {
    fn default() -> Self {
        Self { splices: 400, steady: 200, forest: Training::default() }
    }
}

/// Samples of one steady moment that are learned from.
const STEADY_SAMPLES: usize = 12;

/// Learns from a fleet: each list is one VM's samples, five minutes apart or so, the oldest first. The threshold is
/// 0 (as likely as not) until it is chosen, see [`threshold_for`].
pub fn learn_shift(fleet: &[Vec<Usage>], training: &ShiftTraining) -> Result<ShiftModel, LearnError> {
    let fleet: Vec<Vec<Row>> = fleet.iter().map(|vm| vm.iter().map(Row::from).collect()).collect();
    let mut random = Random::new(training.forest.seed);
    let mut examples = Examples::new(FEATURES);
    let shortest = REFERENCE_SAMPLES_MIN + 2 * WINDOW + STEADY_SAMPLES;
    for (number, vm) in fleet.iter().enumerate().filter(|(_, vm)| vm.len() > shortest) {
        // A moment at which the window is whole before it, and a steady stretch behind it.
        let moment = |random: &mut Random| {
            let at = REFERENCE_SAMPLES_MIN + WINDOW + random.below(vm.len() - shortest);
            let before = at - WINDOW;
            (at, Reference::new(&vm[before.saturating_sub(REFERENCE_SAMPLES)..before]))
        };
        for _ in 0..training.splices {
            let (other, (at, usual)) = (random.below(fleet.len()), moment(&mut random));
            let Some(usual) = usual.filter(|_| other != number && fleet[other].len() > WINDOW) else {
                continue;
            };
            let begin = random.below(fleet[other].len() - WINDOW);
            // From one sample of the other to a whole window of it.
            let strange = 1 + random.below(WINDOW);
            let mut window = vm[at + strange - WINDOW..at].to_vec();
            window.extend_from_slice(&fleet[other][begin..begin + strange]);
            examples.push(&features(&window, &usual), true);
        }
        for _ in 0..training.steady {
            let (at, usual) = moment(&mut random);
            let Some(usual) = usual else { continue };
            for at in at..at + STEADY_SAMPLES {
                examples.push(&features(&vm[at - WINDOW..at], &usual), false);
            }
        }
    }
    Ok(ShiftModel { forest: learn(&examples, &training.forest)?, threshold: 0.0 })
}

/// Alarms that the scores of one VM's steady samples raise at a threshold.
pub fn alarms(scores: &[f32], threshold: f32) -> usize {
    let (mut count, mut at) = (0, 0);
    while let Some(next) = scores.get(at..).and_then(|rest| rest.iter().position(|score| *score >= threshold))
    {
        count += 1;
        at += next + QUIET_SAMPLES;
    }
    count
}

/// The least threshold at which the steady scores of many VMs raise at most so many alarms in all.
pub fn threshold_for(scores: &[Vec<f32>], alarms_max: usize) -> f32 {
    let mut all: Vec<f32> = scores.iter().flatten().copied().filter(|score| score.is_finite()).collect();
    all.sort_unstable_by(f32::total_cmp);
    all.dedup();
    let raised = |threshold: f32| scores.iter().map(|vm| alarms(vm, threshold)).sum::<usize>();
    // Not quite monotone, for a quiet stretch hides alarms; from the first that fits upwards nearly all do.
    let at = all.partition_point(|score| raised(*score) > alarms_max);
    all.get(at).copied().unwrap_or(f32::INFINITY)
}

#[cfg(test)]
mod tests;
