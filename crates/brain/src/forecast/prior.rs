//! What a fleet teaches before a VM has said anything: by how much each expert is to be raised, how well each does, how
//! far the calibration usually goes, and forests that see more than any expert. Must say nothing of a VM that it learned
//! from.

use super::{EXPERTS, HORIZONS, SHARES, Track};
use crate::tree::Forest;
use serde::{Deserialize, Serialize};

/// How an expert's word becomes a quantile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lift {
    /// That many times.
    Times(f32),
    /// That much more, % of what the VM has.
    Plus(f32),
}

impl Lift {
    /// The word, lifted; never below zero.
    pub fn of(self, word: f32) -> f32 {
        match self {
            Self::Times(factor) => word * factor,
            Self::Plus(more) => (word + more).max(0.0),
        }
    }
}

/// What is known of a quantile of a window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// By how much each expert is lifted.
    pub lifts: [Lift; EXPERTS],
    /// The mean loss of each, lifted, as a share of the mean use; of the forest last.
    pub losses: [f32; EXPERTS + 1],
    /// Where the calibration begins, in deviations.
    pub offset: f32,
    /// What the highest value is beyond the highest of three hours; `None`: there is none.
    pub forest: Option<Forest>,
}

impl Cell {
    /// Of what no fleet taught anything: [`Prior::plain`].
    pub(super) fn plain(share: usize) -> Self {
        Self {
            lifts: [Lift::Times([1.0, 1.15, 1.3][share]); EXPERTS],
            losses: [1.0; EXPERTS + 1],
            offset: 0.0,
            forest: None,
        }
    }
}

/// What a fleet teaches of one resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prior {
    /// By window and quantile.
    pub cells: [[Cell; SHARES.len()]; HORIZONS.len()],
}

impl Prior {
    /// Of a resource that no fleet taught anything of: no expert is better than another, and each is lifted as
    /// autoscalers do it by habit, by 15 % (Vertical Pod Autoscaler's margin) and twice that.
    pub fn plain() -> Self {
        Self { cells: std::array::from_fn(|_| std::array::from_fn(Cell::plain)) }
    }

    /// Whether it can be asked: one that was read may be anything.
    pub fn is_sound(&self) -> bool {
        let lift = |lift: &Lift| match lift {
            Lift::Times(by) => by.is_finite() && *by >= 0.0,
            Lift::Plus(by) => by.is_finite(),
        };
        self.cells.iter().flatten().all(|cell| {
            cell.lifts.iter().all(lift)
                && cell.losses[..EXPERTS].iter().all(|loss| loss.is_finite() && *loss >= 0.0)
                && (cell.losses[EXPERTS] >= 0.0 || cell.forest.is_none())
                && cell.offset.is_finite()
                && cell
                    .forest
                    .as_ref()
                    .is_none_or(|forest| forest.is_sound() && forest.features() == FEATURES)
        })
    }
}

/// Numbers that a forest is asked with.
pub const FEATURES: usize = 20;

/// What a forest is asked with, and what its answer is added to; `None`: nothing was measured lately.
pub fn features(track: &Track, horizon: usize) -> Option<([f32; FEATURES], f32)> {
    let words = track.words(horizon)?;
    let mut row = [f32::NAN; FEATURES];
    row[..EXPERTS].copy_from_slice(&words);
    let more = track.more();
    row[EXPERTS..EXPERTS + more.len()].copy_from_slice(&more);
    Some((row, words[2]))
}
