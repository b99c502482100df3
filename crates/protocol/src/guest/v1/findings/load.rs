//! How often a guest's programs call its kernel and write to logs, and its graphics processors, as they travel.

use super::super::sample::SampleError;
use super::limit::{clean, counter, list};
use proteus_model::telemetry as model;
use proteus_model::unit::{Millis, Permille};
use serde::{Deserialize, Serialize};

/// Most classes of system calls that are told.
pub const CLASSES_MAX: usize = 16;
/// Most services whose logs are told of.
pub const LOGS_MAX: usize = 32;
/// Most graphics processors that are told of.
pub const GPUS_MAX: usize = 16;

/// System calls of all programs, counted over a window.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct SystemCalls {
    pub window_ms: u64,
    pub classes: Vec<CallClass>,
}

/// One class of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct CallClass {
    pub name: String,
    pub calls: u64,
}

/// What a service wrote to its log over a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct LogRate {
    pub service: String,
    pub window_ms: u64,
    pub lines: u64,
    pub errors: Option<u64>,
}

/// A graphics processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct Gpu {
    pub address: String,
    pub device: String,
    pub driver: Option<String>,
    pub busy_permille: Option<u32>,
    pub missing: Option<String>,
}

impl TryFrom<CallClass> for (String, u64) {
    type Error = SampleError;
    fn try_from(w: CallClass) -> Result<Self, SampleError> {
        Ok((clean(&w.name), counter("calls", w.calls)?))
    }
}

/// A window of none tells of nothing, and one of a year is no window.
pub(super) fn window(field: &'static str, given: u64) -> Result<Millis, SampleError> {
    let within = (1..=31_536_000_000).contains(&given);
    within.then_some(Millis(given)).ok_or(SampleError { field, given, expected: "1 ms to a year" })
}

impl TryFrom<SystemCalls> for model::CallsObserved {
    type Error = SampleError;
    fn try_from(w: SystemCalls) -> Result<Self, SampleError> {
        let window = window("calls.window_ms", w.window_ms)?;
        let classes = list("calls.classes", w.classes, CLASSES_MAX, TryInto::try_into)?;
        Ok(Self { window, classes: classes.into_iter().collect() })
    }
}

impl TryFrom<LogRate> for model::LogObserved {
    type Error = SampleError;
    fn try_from(w: LogRate) -> Result<Self, SampleError> {
        Ok(Self {
            service: clean(&w.service),
            window: window("log.window_ms", w.window_ms)?,
            lines: counter("log.lines", w.lines)?,
            errors: w.errors.map(|count| counter("log.errors", count)).transpose()?,
        })
    }
}

impl TryFrom<Gpu> for model::GpuObserved {
    type Error = SampleError;
    fn try_from(w: Gpu) -> Result<Self, SampleError> {
        if let Some(given) = w.busy_permille.filter(|busy| *busy > 1000) {
            let (field, expected) = ("gpu.busy_permille", "0 to 1000");
            return Err(SampleError { field, given: given.into(), expected });
        }
        Ok(Self {
            address: clean(&w.address),
            device: clean(&w.device),
            driver: w.driver.as_deref().map(clean),
            busy: w.busy_permille.map(Permille),
            missing: w.missing.as_deref().map(clean),
        })
    }
}
