//! One resource of one VM, looked ahead: experts are mixed by how well each did lately, and what comes of it is moved
//! until it is passed as often as it should be. Must never learn from a window that was not measured.
//!
//! ```text
//! loss    S_k ← γ·S_k + pinball_τ(Y, e_k) / mean        half-life 7 days; begins with the fleet's, 48 times
//! mix     f = Σ w_k·e_k,  w_k ∝ (S_k / W + 10⁻³)⁻⁶
//! limit   L = clip(f + q·σ, 0, cap);  q ← q + η·(1[Y > L] − (1 − τ)), once the window has passed
//! ```
//! Quantile tracking: Angelopoulos, Candès & Tibshirani, "Conformal PID control for time series prediction",
//! arXiv 2307.16895, section 2. A forecast is looked back at three times in its window, so that of a day's not each
//! sample's need be held.

use super::prior::{Cell, Prior, features};
use super::{EXPERTS, HORIZONS, SHARES, Track};

/// Experts and the forest.
const VOICES: usize = EXPERTS + 1;
/// Forecasts of one window that are open at once.
const OPEN: usize = 3;
/// How many losses the fleet's word counts as.
const PSEUDO: f32 = 48.0;
const HALF_LIFE_SAMPLES: f32 = 2016.0;
/// Least loss that sets an expert apart, and how sharply it does.
const LOSS_LEAST: f32 = 1e-3;
const SHARPNESS: i32 = 6;
/// How far the calibration goes in one step.
const PACE: f32 = 0.06;
/// Least deviation, % of what the VM has.
pub(super) const DEVIATION_LEAST: f32 = 0.5;
/// Least mean that a loss is held against, the same.
pub(super) const MEAN_LEAST: f32 = 0.5;
/// Share of a window's samples that must have been measured.
const MEASURED_MIN: f32 = 0.5;

/// A forecast that waits for its window to pass.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Open {
    /// Samples that are still to come; 0: there is none.
    left: u16,
    /// Samples that came.
    came: u16,
    most: f32,
    /// What each voice said, before it is lifted; the forest's three answers follow.
    words: [f32; EXPERTS],
    forest: [f32; SHARES.len()],
    limits: [f32; SHARES.len()],
}

/// Quantiles of the highest value of each window.
pub type Quantiles = [[f32; SHARES.len()]; HORIZONS.len()];

/// One resource of one VM, looked ahead.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecaster {
    track: Track,
    losses: [[[f32; VOICES]; SHARES.len()]; HORIZONS.len()],
    weights: [f32; HORIZONS.len()],
    offsets: [[f32; SHARES.len()]; HORIZONS.len()],
    open: [[Open; OPEN]; HORIZONS.len()],
    /// Windows that passed, and how many of them went beyond each quantile.
    passed: [u32; HORIZONS.len()],
    beyond: [[u32; SHARES.len()]; HORIZONS.len()],
}

/// Samples between two forecasts that are looked back at.
fn stride(horizon: usize) -> u64 {
    HORIZONS[horizon].samples.div_ceil(OPEN as u64)
}

/// Loss of a quantile that was said to be `said`, where `came` came (Koenker & Bassett 1978).
pub fn pinball(share: f32, came: f32, said: f32) -> f32 {
    let off = came - said;
    if off >= 0.0 { share * off } else { (share - 1.0) * off }
}

/// A word of everybody: the experts', lifted, and the forest's.
fn lifted(cell: &Cell, words: &[f32; EXPERTS], forest: f32) -> [f32; VOICES] {
    let mut all = [forest; VOICES];
    for ((lifted, lift), word) in all.iter_mut().zip(&cell.lifts).zip(words) {
        *lifted = lift.of(*word);
    }
    all
}

/// All voices together, each as it did: `losses` are means. A forest that there is none of (NaN) has no voice.
pub(super) fn mixed(cell: &Cell, words: &[f32; EXPERTS], forest: f32, losses: &[f32; VOICES]) -> f32 {
    let (mut sum, mut weights) = (0.0, 0.0);
    for (voice, loss) in lifted(cell, words, forest).into_iter().zip(losses) {
        if !voice.is_nan() {
            let weight = (loss + LOSS_LEAST).powi(-SHARPNESS);
            (sum, weights) = (sum + weight * voice, weights + weight);
        }
    }
    if weights > 0.0 { sum / weights } else { 0.0 }
}

impl Forecaster {
    /// One that has seen nothing yet.
    pub fn new(prior: &Prior) -> Self {
        let mut this = Self {
            track: Track::default(),
            losses: [[[0.0; VOICES]; SHARES.len()]; HORIZONS.len()],
            weights: [PSEUDO; HORIZONS.len()],
            offsets: [[0.0; SHARES.len()]; HORIZONS.len()],
            open: [[Open::default(); OPEN]; HORIZONS.len()],
            passed: [0; HORIZONS.len()],
            beyond: [[0; SHARES.len()]; HORIZONS.len()],
        };
        for (horizon, cells) in prior.cells.iter().enumerate() {
            for (share, cell) in cells.iter().enumerate() {
                this.losses[horizon][share] = cell.losses.map(|loss| loss * PSEUDO);
                this.offsets[horizon][share] = cell.offset;
            }
        }
        this
    }

    /// What is known of it.
    pub fn track(&self) -> &Track {
        &self.track
    }

    /// Windows that passed, and how many of them went beyond each quantile: by window.
    pub fn coverage(&self, horizon: usize) -> (u32, [u32; SHARES.len()]) {
        (self.passed[horizon], self.beyond[horizon])
    }

    /// Takes in sample `number`, % of what the VM has: [`Track::push`]. One that is late changes nothing.
    pub fn push(&mut self, number: u64, sample: Option<f32>, prior: &Prior) {
        let before = self.track.next();
        let gap = if self.track.seen() > 0 { number.saturating_sub(before) } else { 0 };
        if !self.track.push(number, sample) {
            return;
        }
        for horizon in 0..HORIZONS.len() {
            for at in 0..OPEN {
                self.pass(horizon, at, gap, sample, prior);
            }
            if number.is_multiple_of(stride(horizon)) {
                self.open(horizon, prior);
            }
        }
    }

    fn pass(&mut self, horizon: usize, at: usize, gap: u64, sample: Option<f32>, prior: &Prior) {
        let open = &mut self.open[horizon][at];
        if open.left == 0 {
            return;
        }
        let gone = u16::try_from(gap).unwrap_or(u16::MAX);
        if gone < open.left {
            open.left -= gone + 1;
            if let Some(sample) = sample {
                (open.most, open.came) = (open.most.max(sample), open.came + 1);
            }
        } else {
            open.left = 0;
        }
        if open.left > 0 {
            return;
        }
        let open = *open;
        if f32::from(open.came) >= MEASURED_MIN * HORIZONS[horizon].samples as f32 {
            self.learn(horizon, &open, prior);
        }
    }

    fn learn(&mut self, horizon: usize, open: &Open, prior: &Prior) {
        let keep = (-(stride(horizon) as f32) / HALF_LIFE_SAMPLES).exp2();
        let scale = 1.0 / self.track.mean().max(MEAN_LEAST);
        self.weights[horizon] = self.weights[horizon] * keep + 1.0;
        self.passed[horizon] = self.passed[horizon].saturating_add(1);
        for (share, quantile) in SHARES.into_iter().enumerate() {
            let voices = lifted(&prior.cells[horizon][share], &open.words, open.forest[share]);
            let heard =
                self.losses[horizon][share].iter_mut().zip(voices).filter(|(_, voice)| !voice.is_nan());
            for (loss, voice) in heard {
                *loss = *loss * keep + pinball(quantile, open.most, voice) * scale;
            }
            let is_beyond = open.most > open.limits[share];
            self.beyond[horizon][share] += u32::from(is_beyond);
            let missed = f32::from(u8::from(is_beyond)) - (1.0 - quantile);
            self.offsets[horizon][share] += PACE * missed * (stride(horizon) as f32).sqrt();
        }
    }

    fn open(&mut self, horizon: usize, prior: &Prior) {
        let Some((words, forest)) = self.said(horizon, prior) else { return };
        let limits = self.limits(horizon, &words, &forest, prior);
        let place = (self.track.next() / stride(horizon)) as usize % OPEN;
        self.open[horizon][place] =
            Open { left: HORIZONS[horizon].samples as u16, came: 0, most: 0.0, words, forest, limits };
    }

    /// What each voice says now, the experts not yet lifted.
    fn said(&self, horizon: usize, prior: &Prior) -> Option<([f32; EXPERTS], [f32; SHARES.len()])> {
        let words = self.track.words(horizon)?;
        let mut said = [f32::NAN; SHARES.len()];
        for (said, cell) in said.iter_mut().zip(&prior.cells[horizon]) {
            if let Some(forest) = &cell.forest
                && let Some((row, base)) = features(&self.track, horizon)
            {
                *said = (base + forest.score(&row)).max(0.0);
            }
        }
        Some((words, said))
    }

    fn deviation(&self) -> f32 {
        self.track.deviation().max(DEVIATION_LEAST)
    }

    fn limits(
        &self,
        horizon: usize,
        words: &[f32; EXPERTS],
        forest: &[f32; SHARES.len()],
        prior: &Prior,
    ) -> [f32; SHARES.len()] {
        let mut limits = [0.0f32; SHARES.len()];
        for (share, limit) in limits.iter_mut().enumerate() {
            let losses = self.losses[horizon][share].map(|loss| loss / self.weights[horizon]);
            let mixed = mixed(&prior.cells[horizon][share], words, forest[share], &losses);
            *limit = (mixed + self.offsets[horizon][share] * self.deviation()).max(0.0);
        }
        // A higher quantile is not below a lower one.
        for share in 1..limits.len() {
            limits[share] = limits[share].max(limits[share - 1]);
        }
        limits
    }

    /// Quantiles of the highest value of each window from now on; `None`: nothing was measured in the last three hours.
    pub fn forecast(&self, prior: &Prior) -> Option<Quantiles> {
        let mut all = [[0.0; SHARES.len()]; HORIZONS.len()];
        for (horizon, quantiles) in all.iter_mut().enumerate() {
            let (words, forest) = self.said(horizon, prior)?;
            *quantiles = self.limits(horizon, &words, &forest, prior);
        }
        Some(all)
    }
}
