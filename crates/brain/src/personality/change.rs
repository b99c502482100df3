//! Whether a VM became something else, or misbehaves, from its trait vectors. A *shift* is a departure from all that it
//! was lately which ends in a new steady way of being; an *anomaly* is one that goes by, or finds no rest. Distances
//! are those of [`Labels`], so that twice the load is no departure, and other work is. Must never tell of a VM that is
//! hardly known.
//!
//! ```text
//! usual ─ far from all lately, 3 × ─▶ departed ─ steady anew, or another label ─▶ shift   ─▶ usual
//!                                        ├────── near again ──────────────────▶ anomaly ─▶ usual
//!                                        └────── no rest for long ────────────▶ anomaly, still departed
//! ```
//! What a VM has been often, as a batch run of each night, is a habit: going there or back is told as no shift.

use super::label::Labels;
use super::traits::median;
use proteus_model::personality::{ChangeKind, Label, PersonalityChange, TraitVector};
use proteus_model::unit::UnixMillis;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Distance from the nearest vector of lately, beyond which a VM is far from what it was.
const FAR: f32 = 0.6;
/// Within this part of it, it is near again.
const NEAR: f32 = 0.7;
/// Vectors in a row that must be far.
const FAR_MIN: usize = 3;
/// Vectors of a minute: a vector is made of a minute of samples, so from here on nothing of before is in it.
const MINUTE: usize = 6;
/// Vectors in a row that must be near each other for a new steady way of being: a minute that is all new, and one more.
const STEADY: usize = 6;
/// Largest distance of a steady vector from the median of them.
const STEADY_DISTANCE: f32 = 0.4;
/// A VM that bears the label that it bore became something else only beyond this distance from what it was: twice the
/// clients of a busy host are no other work.
const SAME_LABEL_FAR: f32 = 1.2;
/// After so many vectors without rest, ten minutes, a departure is an anomaly.
const RESTLESS: usize = 60;
/// A departure of which nothing was seen for so long, ten minutes, is forgotten.
const UNSEEN_MAX_MS: u64 = 600_000;
/// Every so many vectors one is kept: half a minute.
const KEPT_EVERY: usize = 3;
/// How many are kept: four hours.
const KEPT: usize = 480;
/// Fewest that a VM must be known by: two minutes.
const KNOWN_MIN: usize = 4;
/// How many of them are kept over a restart.
const REMEMBERED: usize = 24;
/// Ways of being that are remembered, and how often one must have been for a habit.
const WAYS: usize = 8;
const HABIT: u32 = 3;

/// A way of being, and how often the VM went there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Way {
    vector: TraitVector,
    visits: u32,
}

/// A departure that is under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Departure {
    began_at: UnixMillis,
    /// When the last vector came.
    seen_at: UnixMillis,
    /// All vectors since, at most [`RESTLESS`].
    vectors: VecDeque<TraitVector>,
    count: usize,
    near: usize,
    told: bool,
}

/// What is kept of a watch over a restart.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChangeMemory {
    /// What the VM was lately, thinned out.
    lately: Vec<TraitVector>,
    label: Option<Label>,
    ways: Vec<Way>,
    #[serde(default)]
    departed: Option<Departure>,
}

/// Watches one VM.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChangeWatch {
    /// What it was lately, the oldest first.
    lately: VecDeque<TraitVector>,
    /// Vectors since the last one that was kept.
    since_kept: usize,
    /// Those in a row that are far: not yet a departure.
    far: Vec<(UnixMillis, TraitVector)>,
    departed: Option<Departure>,
    /// The label of what it was lately.
    label: Option<Label>,
    ways: Vec<Way>,
}

impl ChangeWatch {
    /// Goes on where another ended.
    pub fn resume(memory: ChangeMemory) -> Self {
        let ChangeMemory { lately, label, ways, departed } = memory;
        Self { lately: lately.into(), label, ways, departed, ..Self::default() }
    }

    /// What to go on with later: at most [`REMEMBERED`] vectors of lately, evenly spread, and the last of a departure.
    pub fn memory(&self) -> ChangeMemory {
        let count = self.lately.len().min(REMEMBERED);
        let place = |at: usize| at * (self.lately.len() - 1) / (count - 1).max(1);
        let lately = (0..count).filter_map(|at| self.lately.get(place(at)).copied()).collect();
        let mut departed = self.departed.clone();
        if let Some(Departure { vectors, .. }) = &mut departed {
            vectors.drain(..vectors.len().saturating_sub(REMEMBERED));
        }
        ChangeMemory { lately, label: self.label.clone(), ways: self.ways.clone(), departed }
    }

    /// Takes in the next vector, and the label that the VM bears; tells a change.
    pub fn push(
        &mut self,
        at: UnixMillis,
        vector: &TraitVector,
        label: Option<&Label>,
        labels: &Labels,
    ) -> Option<PersonalityChange> {
        if self.lately.len() < KNOWN_MIN {
            self.keep(vector, label);
            return None;
        }
        let nearest = self.lately.iter().filter_map(|was| labels.distance(vector, was)).reduce(f32::min);
        // Nothing to compare: neither near nor far.
        let nearest = nearest?;
        // What it did while nobody looked is not known: it may have been back.
        self.departed.take_if(|departure| at.0.saturating_sub(departure.seen_at.0) > UNSEEN_MAX_MS);
        if self.departed.is_none() {
            return self.is_usual(at, vector, label, nearest);
        }
        self.go_on(at, vector, label, labels, nearest)
    }

    /// Whether it is away from what it was.
    pub fn is_departed(&self) -> bool {
        self.departed.is_some()
    }

    fn is_usual(
        &mut self,
        at: UnixMillis,
        vector: &TraitVector,
        label: Option<&Label>,
        nearest: f32,
    ) -> Option<PersonalityChange> {
        if nearest <= FAR {
            self.far.clear();
            self.keep(vector, label);
            return None;
        }
        self.far.push((at, *vector));
        if self.far.len() >= FAR_MIN {
            let far = std::mem::take(&mut self.far);
            let began_at = far.first().map_or(at, |(at, _)| *at);
            let vectors: VecDeque<TraitVector> = far.into_iter().map(|(_, vector)| vector).collect();
            let (count, seen_at) = (vectors.len(), at);
            self.departed = Some(Departure { began_at, seen_at, count, vectors, near: 0, told: false });
        }
        None
    }

    fn go_on(
        &mut self,
        at: UnixMillis,
        vector: &TraitVector,
        label: Option<&Label>,
        labels: &Labels,
        nearest: f32,
    ) -> Option<PersonalityChange> {
        let mut departure = self.departed.take()?;
        (departure.count, departure.seen_at) = (departure.count + 1, at);
        departure.vectors.push_back(*vector);
        if departure.vectors.len() > RESTLESS {
            departure.vectors.pop_front();
        }
        departure.near = if nearest <= NEAR * FAR { departure.near + 1 } else { 0 };
        if departure.near >= FAR_MIN {
            // What told it is over; what was said of it once is not said again.
            let change = self.change(ChangeKind::Anomaly, at, &departure, label, labels);
            return (!departure.told).then_some(change);
        }
        let last: Vec<TraitVector> = departure.vectors.iter().rev().take(STEADY).copied().collect();
        let center = median(&last);
        let is_all_new = departure.count >= MINUTE + STEADY;
        let is_steady = last.len() == STEADY
            && last.iter().all(|one| labels.distance(one, &center).is_some_and(|d| d <= STEADY_DISTANCE));
        let is_other = label.is_some() && label != self.label.as_ref();
        if departure.near == 0 && departure.count >= MINUTE && (is_other || is_all_new && is_steady) {
            let change = self.change(ChangeKind::Shift, at, &departure, label, labels);
            let is_same = label.is_some() && !is_other && nearest <= SAME_LABEL_FAR;
            let is_habit = self.arrive(&center, labels);
            // What it was stays known where it is the same still, beside what it is now.
            if !is_same {
                self.lately.clear();
            }
            self.lately.extend(last.into_iter().rev());
            self.lately.drain(..self.lately.len().saturating_sub(KEPT));
            (self.label, self.since_kept) = (label.cloned(), 0);
            return (!is_habit && !is_same).then_some(change);
        }
        let tell = departure.count >= RESTLESS && !departure.told;
        let change = tell.then(|| self.change(ChangeKind::Anomaly, at, &departure, label, labels));
        departure.told |= tell;
        self.departed = Some(departure);
        change
    }

    fn change(
        &self,
        kind: ChangeKind,
        told_at: UnixMillis,
        departure: &Departure,
        label: Option<&Label>,
        labels: &Labels,
    ) -> PersonalityChange {
        let lately: Vec<TraitVector> = self.lately.iter().copied().collect();
        let before = median(&lately);
        // The vector of it that is farthest from before, for an anomaly may be over.
        let all = departure.vectors.iter().map(|one| (labels.distance(one, &before).unwrap_or(0.0), one));
        let farthest = all.max_by(|a, b| a.0.total_cmp(&b.0)).map_or(before, |(_, one)| *one);
        PersonalityChange {
            kind,
            began_at: departure.began_at,
            told_at,
            from: self.label.clone(),
            to: if kind == ChangeKind::Shift { label.cloned() } else { self.label.clone() },
            evidence: labels.moved(&before, &farthest),
        }
    }

    /// Notes that the VM went to this way of being; whether that is a habit of it.
    fn arrive(&mut self, vector: &TraitVector, labels: &Labels) -> bool {
        let known = self
            .ways
            .iter_mut()
            .find(|way| labels.distance(&way.vector, vector).is_some_and(|d| d <= STEADY_DISTANCE));
        if let Some(way) = known {
            way.visits += 1;
            return way.visits > HABIT;
        }
        if self.ways.len() >= WAYS
            && let Some(least) = (0..self.ways.len()).min_by_key(|at| self.ways[*at].visits)
        {
            self.ways.remove(least);
        }
        self.ways.push(Way { vector: *vector, visits: 1 });
        false
    }

    fn keep(&mut self, vector: &TraitVector, label: Option<&Label>) {
        self.label = label.cloned();
        self.since_kept += 1;
        if self.since_kept < KEPT_EVERY && self.lately.len() >= KNOWN_MIN {
            return;
        }
        self.since_kept = 0;
        if self.lately.len() >= KEPT {
            self.lately.pop_front();
        }
        self.lately.push_back(*vector);
    }
}

#[cfg(test)]
mod tests;
