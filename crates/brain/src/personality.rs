//! From what a VM does to what it is: the second stage. Must never take what is missing for zero.

pub mod change;

pub mod configuration;

pub mod label;

mod reference;

pub mod shift;

pub mod traits;

mod record;

mod judged;

pub mod portrait;

pub use judged::{Judged, Lately, Told};
pub use record::{CHANGES_KEPT, PersonalityRecord};
pub use reference::Reference;

use proteus_model::personality::{Dimension, Usage};

/// How many dimensions there are.
pub const DIMENSIONS: usize = Dimension::ALL.len();

/// A sample on the scale that all comparing is done on: ln(1 + x) of each dimension, so that twice as much is as far
/// anywhere. NaN is "not measured".
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row([f32; DIMENSIONS]);

impl From<&Usage> for Row {
    fn from(usage: &Usage) -> Self {
        // What is negative or no number was not measured: whoever sent it made it up.
        let scaled = |value: Option<f32>| match value {
            Some(value) if value >= 0.0 && value.is_finite() => value.ln_1p(),
            _ => f32::NAN,
        };
        Self(usage.0.map(scaled))
    }
}

impl Row {
    /// Value of a dimension in its own unit; `None`: not measured.
    fn natural(scaled: f32) -> Option<f32> {
        (!scaled.is_nan()).then(|| scaled.exp_m1())
    }
}
