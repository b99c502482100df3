//! Gradient-boosted decision trees for yes-or-no questions: learned from examples by [`learn`], asked by
//! [`Forest::score`]. Must give the same forest for the same examples and seed.
//!
//! Friedman, "Greedy function approximation: a gradient boosting machine", Annals of Statistics 29(5), 2001, with the
//! second-order gain of Chen & Guestrin, "XGBoost", KDD 2016, equation 7, and the histograms and leaf-wise growth of
//! Ke et al., "LightGBM", NIPS 2017.

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
    answers: Vec<bool>,
}

impl Examples {
    /// None yet, of rows with so many features.
    pub fn new(features: usize) -> Self {
        Self { features, ..Self::default() }
    }

    /// Adds one. Panics where the row is of another length: that is a bug.
    pub fn push(&mut self, row: &[f32], answer: bool) {
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
    /// More features than a node can name.
    #[error("{0} features: expected 1 to 65535")]
    Features(usize),
}

fn probability(score: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(score)).exp())
}

/// Learns from examples.
pub fn learn(examples: &Examples, training: &Training) -> Result<Forest, LearnError> {
    let (all, yes) = (examples.len(), examples.answers.iter().filter(|yes| **yes).count());
    if yes == 0 || yes == all {
        return Err(LearnError::OneKind { yes, all });
    }
    if examples.features == 0 || examples.features > usize::from(u16::MAX) {
        return Err(LearnError::Features(examples.features));
    }
    let bins = Bins::of(examples);
    let base = (yes as f32 / (all - yes) as f32).ln();
    let mut forest = Forest { base, features: examples.features, trees: Vec::new() };
    let mut scores = vec![base; all];
    let mut random = Random::new(training.seed);
    let mut features: Vec<usize> = (0..examples.features).collect();
    let asked =
        ((examples.features as f64 * training.feature_share).ceil() as usize).clamp(1, examples.features);
    let mut slopes = vec![(0.0, 0.0); all];
    for _ in 0..training.trees {
        for ((slope, score), answer) in slopes.iter_mut().zip(&scores).zip(&examples.answers) {
            let p = probability(*score);
            *slope = (p - f64::from(u8::from(*answer)), (p * (1.0 - p)).max(1e-9));
        }
        random.shuffle(&mut features);
        let rows: Vec<u32> = (0..all as u32).filter(|_| random.share() < training.example_share).collect();
        let ground = Ground { bins: &bins, slopes: &slopes, features: &features[..asked], training };
        let tree = grow(&ground, rows);
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
    /// Log-odds that the answer is yes. Panics where the row is of another length than those learned from: a bug.
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
