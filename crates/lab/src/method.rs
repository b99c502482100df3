//! Ways to score each sample of a series by how much it looks like another VM's: ours, and the baselines beside it.

use proteus_brain::personality::shift::{REFERENCE_SAMPLES_MIN, ShiftModel, ShiftWatch};
use proteus_model::personality::Usage;

/// One way. A fresh one for each series.
pub trait Method {
    /// Another one that has seen the same.
    fn fork(&self) -> Box<dyn Method + '_>;

    /// Takes the next sample; its score, NaN while too little is known.
    fn push(&mut self, usage: &Usage) -> f32;
}

/// Ours.
pub struct Proteus<'a> {
    pub model: &'a ShiftModel,
    pub watch: ShiftWatch,
}

impl Method for Proteus<'_> {
    fn fork(&self) -> Box<dyn Method + '_> {
        Box::new(Self { model: self.model, watch: self.watch.clone() })
    }

    fn push(&mut self, usage: &Usage) -> f32 {
        self.watch.score_next(usage, self.model).unwrap_or(f32::NAN)
    }
}

fn scaled(usage: &Usage) -> [f32; 6] {
    usage.0.map(|value| value.map_or(f32::NAN, f32::ln_1p))
}

/// Largest of what is there.
fn largest(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(f32::NAN, f32::max)
}

/// How far the latest sample is from the one before: what persistence would have foretold.
#[derive(Clone, Default)]
pub struct Persistence {
    seen: usize,
    last: Option<[f32; 6]>,
}

impl Method for Persistence {
    fn fork(&self) -> Box<dyn Method + '_> {
        Box::new(self.clone())
    }

    fn push(&mut self, usage: &Usage) -> f32 {
        let now = scaled(usage);
        let before = self.last.replace(now);
        self.seen += 1;
        match before {
            Some(before) if self.seen > REFERENCE_SAMPLES_MIN => {
                largest((0..6).map(|at| (now[at] - before[at]).abs()))
            }
            _ => f32::NAN,
        }
    }
}

/// Largest distance of a dimension from its median of the last day, in robust standard deviations (median and MAD).
#[derive(Clone, Default)]
pub struct RobustZ {
    rows: Vec<[f32; 6]>,
    centre: [(f32, f32); 6],
}

/// Rows of the last day, and refreshed once an hour: as ours is.
const DAY: usize = 288;
const HOUR: usize = 12;

fn median(values: &mut [f32]) -> f32 {
    values.sort_unstable_by(f32::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f32::NAN)
}

impl Method for RobustZ {
    fn fork(&self) -> Box<dyn Method + '_> {
        Box::new(self.clone())
    }

    fn push(&mut self, usage: &Usage) -> f32 {
        let now = scaled(usage);
        let seen = self.rows.len();
        if seen >= DAY && (seen - DAY).is_multiple_of(HOUR) {
            for (at, centre) in self.centre.iter_mut().enumerate() {
                let mut values: Vec<f32> = self.rows[seen - DAY..].iter().map(|row| row[at]).collect();
                let middle = median(&mut values);
                let mut apart: Vec<f32> = values.iter().map(|value| (value - middle).abs()).collect();
                // 1.4826: the MAD of a normal distribution is its standard deviation divided by that.
                *centre = (middle, (median(&mut apart) * 1.4826).max(0.05));
            }
        }
        self.rows.push(now);
        if seen < DAY {
            return f32::NAN;
        }
        largest((0..6).map(|at| (now[at] - self.centre[at].0).abs() / self.centre[at].1))
    }
}

/// How far the last six samples lie, all of them, outside of the range of the last seven days (first to 99th
/// percentile), summed over the dimensions.
#[derive(Clone, Default)]
pub struct RangeNovelty {
    rows: Vec<[f32; 6]>,
    range: [(f32, f32); 6],
}

const WINDOW: usize = 6;

impl Method for RangeNovelty {
    fn fork(&self) -> Box<dyn Method + '_> {
        Box::new(self.clone())
    }

    fn push(&mut self, usage: &Usage) -> f32 {
        self.rows.push(scaled(usage));
        let Some(before) = self.rows.len().checked_sub(WINDOW).filter(|before| *before >= DAY) else {
            return f32::NAN;
        };
        if (before - DAY).is_multiple_of(HOUR) {
            for (at, range) in self.range.iter_mut().enumerate() {
                let past = &self.rows[before.saturating_sub(7 * DAY)..before];
                let mut values: Vec<f32> = past.iter().map(|row| row[at]).collect();
                values.sort_unstable_by(f32::total_cmp);
                *range = (values[values.len() / 100], values[values.len() * 99 / 100]);
            }
        }
        let out = |at: usize| {
            let values = self.rows[before..].iter().map(|row| row[at]);
            let (low, high) =
                values.fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
            (low - self.range[at].1).max(0.0) + (self.range[at].0 - high).max(0.0)
        };
        (0..6).map(out).filter(|out| !out.is_nan()).sum()
    }
}

/// Page–Hinkley on each dimension, in both directions: cumulated deviation from the running mean, less a drift that
/// is allowed, above its least so far. Begun again once it was large, or it would stay so.
#[derive(Clone, Default)]
pub struct PageHinkley {
    seen: usize,
    mean: [f32; 6],
    up: [f32; 6],
    down: [f32; 6],
}

impl Method for PageHinkley {
    fn fork(&self) -> Box<dyn Method + '_> {
        Box::new(self.clone())
    }

    fn push(&mut self, usage: &Usage) -> f32 {
        /// Drift that is allowed at each sample, in units of ln.
        const DRIFT: f32 = 0.1;
        /// Weight of a sample in the running mean: a day.
        const WEIGHT: f32 = 1.0 / 288.0;
        let now = scaled(usage);
        self.seen += 1;
        let weight = WEIGHT.max(1.0 / self.seen as f32);
        for (at, now) in now.into_iter().enumerate().filter(|(_, now)| !now.is_nan()) {
            let apart = now - self.mean[at];
            self.mean[at] += weight * apart;
            self.up[at] = (self.up[at] + apart - DRIFT).max(0.0);
            self.down[at] = (self.down[at] - apart - DRIFT).max(0.0);
        }
        let score = largest((0..6).map(|at| self.up[at].max(self.down[at])));
        if self.seen > REFERENCE_SAMPLES_MIN { score } else { f32::NAN }
    }
}
