//! What a VM will need: quantiles of the highest value of the next window, for five windows, of one resource of one VM.
//! Online, from the first samples on. Must never use a sample of after the moment that it speaks of.

mod track;

mod prior;

mod forecaster;

mod calibrate;

pub use calibrate::{PriorTraining, Said, best_lift, coming, learn_prior};
pub use forecaster::{Forecaster, Quantiles, pinball};
pub use prior::{Cell, Lift, Prior};
pub use track::{EXPERTS, NAMES, Track};

/// Length of a sample, s.
pub const STEP_S: u64 = 300;

/// A window that is looked ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// In words.
    pub name: &'static str,
    /// How many samples of [`STEP_S`].
    pub samples: u64,
}

/// All of them.
pub const HORIZONS: [Horizon; 5] = [
    Horizon { name: "5m", samples: 1 },
    Horizon { name: "30m", samples: 6 },
    Horizon { name: "2h", samples: 24 },
    Horizon { name: "6h", samples: 72 },
    Horizon { name: "24h", samples: 288 },
];

/// The quantiles that are told.
pub const SHARES: [f32; 3] = [0.5, 0.9, 0.99];

#[cfg(test)]
mod tests;
