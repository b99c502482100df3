//! Gradient-boosted decision trees, for yes-or-no questions ([`learn`]) and for quantiles of a number
//! ([`learn_quantile`]), asked by [`Forest::score`]. Must give the same forest for the same examples and seed.
//!
//! Friedman, "Greedy function approximation: a gradient boosting machine", Annals of Statistics 29(5), 2001, with the
//! second-order gain of Chen & Guestrin, "XGBoost", KDD 2016, equation 7, and the histograms and leaf-wise growth of
//! Ke et al., "LightGBM", NIPS 2017. Of quantiles the slopes are those of the pinball loss, and a leaf is the quantile of
//! what its examples have left (Friedman 2001, algorithm 3, with another quantile than the median).

mod bin;

mod grow;

use crate::random::Random;
use bin::Bins;
use grow::{Ground, grow};
use serde::{Deserialize, Serialize};

/// A tree is a list of nodes; the first is its root.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Node {
    /// Below, or missing: `left`; else `right`.
    Split { feature: u16, below: f32, left: u16, right: u16 },
    /// What this tree adds to the score.
    Leaf(f32),
}

/// Trees whose answers are added up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Forest {
    base: f32,
    features: usize,
    trees: Vec<Vec<Node>>,
}

/// How to learn.
#[derive(Debug, Clone, PartialEq)]
pub struct Training {
    /// Trees, one after the other.
    pub trees: usize,
    /// Leaves of a tree, at most.
    pub leaves: usize,
    /// Share of a tree's answer that is taken.
    pub rate: f64,
    /// Share of the features that a tree may ask for.
    pub feature_share: f64,
    /// Share of the examples that a tree sees.
    pub example_share: f64,
    /// Fewest examples in a leaf.
    pub leaf_examples: usize,
    /// Pull of every leaf towards 0 (λ of XGBoost, equation 2).
    pub pull: f64,
    /// Where chance begins.
    pub seed: u64,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            trees: 200,
            leaves: 31,
            rate: 0.08,
            feature_share: 0.5,
            example_share: 0.7,
            leaf_examples: 100,
            pull: 5.0,
            seed: 1,
        }
    }
}

/// Examples to learn from: rows of the same length, each with its answer. NaN is "not measured".
#[derive(Debug, Clone, Default)]
pub struct Examples {
    features: usize,
    values: Vec<f32>,
    /// Of a yes-or-no question 1 and 0.
    answers: Vec<f32>,
}

impl Examples {
    /// None yet, of rows with so many features.
    pub fn new(features: usize) -> Self {
        Self { features, ..Self::default() }
    }

    /// Adds one that says yes or no. Panics where the row is of another length: that is a bug.
    pub fn push(&mut self, row: &[f32], answer: bool) {
        self.push_number(row, f32::from(u8::from(answer)));
    }

    /// Adds one whose answer is a number. Panics where the row is of another length: that is a bug.
    pub fn push_number(&mut self, row: &[f32], answer: f32) {
        assert_eq!(row.len(), self.features, "rows of one length");
        self.values.extend_from_slice(row);
        self.answers.push(answer);
    }

    /// Takes all of another list.
    pub fn append(&mut self, other: &Self) {
        assert_eq!(other.features, self.features, "rows of one length");
        self.values.extend_from_slice(&other.values);
        self.answers.extend_from_slice(&other.answers);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    fn row(&self, at: usize) -> &[f32] {
        &self.values[at * self.features..(at + 1) * self.features]
    }
}

/// Why nothing could be learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LearnError {
    /// All answers are the same, or there is none.
    #[error("{yes} of {all} examples say yes: expected some of each kind")]
    OneKind {
        /// Examples that say yes.
        yes: usize,
        /// All of them.
        all: usize,
    },
    /// There is nothing to learn a number from.
    #[error("{0} examples: expected at least twice as many as a leaf must have")]
    Few(usize),
    /// More features than a node can name.
    #[error("{0} features: expected 1 to 65535")]
    Features(usize),
}

fn probability(score: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(score)).exp())
}

/// What a forest gives less of, the better it is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Loss {
    /// Of the log-odds of "yes".
    Logistic,
    /// Of a quantile: (τ − 1[y < q]) · (y − q).
    Pinball(f32),
}

impl Loss {
    /// First and second derivative at a score.
    fn slope(self, score: f32, answer: f32) -> (f64, f64) {
        match self {
            Self::Logistic => {
                let p = probability(score);
                (p - f64::from(answer), (p * (1.0 - p)).max(1e-9))
            }
            // It has no curvature: each example counts as much.
            Self::Pinball(share) => (f64::from(if answer < score { 1.0 - share } else { -share }), 1.0),
        }
    }
}

/// Learns a yes-or-no question from examples.
pub fn learn(examples: &Examples, training: &Training) -> Result<Forest, LearnError> {
    let (all, yes) = (examples.len(), examples.answers.iter().filter(|answer| **answer > 0.5).count());
    if yes == 0 || yes == all {
        return Err(LearnError::OneKind { yes, all });
    }
    boost(examples, Loss::Logistic, (yes as f32 / (all - yes) as f32).ln(), training)
}

/// Learns a quantile of a number: `share` of the answers are to be below it, 0–1.
pub fn learn_quantile(examples: &Examples, share: f32, training: &Training) -> Result<Forest, LearnError> {
    if examples.len() < 2 * training.leaf_examples.max(1) {
        return Err(LearnError::Few(examples.len()));
    }
    let base = quantile(&mut examples.answers.clone(), share);
    boost(examples, Loss::Pinball(share), base, training)
}

/// The least of these that is not below `share` of them; 0 of none.
fn quantile(values: &mut [f32], share: f32) -> f32 {
    let rank = (values.len() as f64 * f64::from(share)).ceil() as usize;
    let place = rank.clamp(1, values.len().max(1)) - 1;
    if values.is_empty() {
        return 0.0;
    }
    *values.select_nth_unstable_by(place, f32::total_cmp).1
}

fn boost(examples: &Examples, loss: Loss, base: f32, training: &Training) -> Result<Forest, LearnError> {
    if examples.features == 0 || examples.features > usize::from(u16::MAX) {
        return Err(LearnError::Features(examples.features));
    }
    let (all, bins) = (examples.len(), Bins::of(examples));
    let mut forest = Forest { base, features: examples.features, trees: Vec::new() };
    let mut scores = vec![base; all];
    let mut random = Random::new(training.seed);
    let mut features: Vec<usize> = (0..examples.features).collect();
    let asked =
        ((examples.features as f64 * training.feature_share).ceil() as usize).clamp(1, examples.features);
    let mut slopes = vec![(0.0, 0.0); all];
    for _ in 0..training.trees {
        for ((slope, score), answer) in slopes.iter_mut().zip(&scores).zip(&examples.answers) {
            *slope = loss.slope(*score, *answer);
        }
        random.shuffle(&mut features);
        let rows: Vec<u32> = (0..all as u32).filter(|_| random.share() < training.example_share).collect();
        let ground = Ground { bins: &bins, slopes: &slopes, features: &features[..asked], training };
        let tree = match loss {
            Loss::Logistic => grow(&ground, rows, |rows| ground.step(rows)),
            Loss::Pinball(share) => grow(&ground, rows, |rows| {
                let left = |row: &u32| examples.answers[*row as usize] - scores[*row as usize];
                let mut left: Vec<f32> = rows.iter().map(left).collect();
                quantile(&mut left, share) * training.rate as f32
            }),
        };
        for (at, score) in scores.iter_mut().enumerate() {
            *score += answer(&tree, examples.row(at));
        }
        forest.trees.push(tree);
    }
    Ok(forest)
}

fn answer(tree: &[Node], row: &[f32]) -> f32 {
    let mut at = 0;
    // A child always stands behind its parent, so this ends.
    while let Some(Node::Split { feature, below, left, right }) = tree.get(at) {
        let value = row[usize::from(*feature)];
        // NaN is below nothing and not at least anything: what was not measured goes left.
        at = usize::from(if value >= *below { *right } else { *left });
    }
    match tree.get(at) {
        Some(Node::Leaf(value)) => *value,
        _ => 0.0,
    }
}

impl Forest {
    /// Log-odds that the answer is yes, or the quantile. Panics where the row is of another length than those learned from: a bug.
    pub fn score(&self, row: &[f32]) -> f32 {
        assert_eq!(row.len(), self.features, "a row as in the examples");
        self.base + self.trees.iter().map(|tree| answer(tree, row)).sum::<f32>()
    }

    /// How many features it asks for.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Whether it can be asked: a forest that was read may be anything.
    pub fn is_sound(&self) -> bool {
        self.trees.iter().all(|tree| {
            !tree.is_empty()
                && tree.iter().enumerate().all(|(at, node)| match node {
                    Node::Split { feature, left, right, .. } => {
                        let behind = |child: u16| usize::from(child) > at && usize::from(child) < tree.len();
                        usize::from(*feature) < self.features && behind(*left) && behind(*right)
                    }
                    Node::Leaf(value) => value.is_finite(),
                })
        }) && self.base.is_finite()
    }
}

#[cfg(test)]
mod tests;
