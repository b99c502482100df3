//! What applications tell of themselves, as it travels.

use super::super::sample::SampleError;
use super::limit::clean;
use proteus_model::telemetry as model;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most endpoints that are told of.
pub const ENDPOINTS_MAX: usize = 32;
/// Most metrics of one.
pub const METRICS_MAX: usize = 64;

/// An application that was asked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct Endpoint {
    pub kind: String,
    pub address: String,
    pub missing: Option<String>,
    pub metrics: BTreeMap<String, f64>,
}

impl TryFrom<Endpoint> for model::EndpointObserved {
    type Error = SampleError;
    fn try_from(w: Endpoint) -> Result<Self, SampleError> {
        if w.metrics.len() > METRICS_MAX {
            let (field, given) = ("endpoint.metrics", w.metrics.len() as u64);
            return Err(SampleError { field, given, expected: "at most 64" });
        }
        // What is no number is missing.
        let finite = w.metrics.into_iter().filter(|(_, value)| value.is_finite());
        Ok(Self {
            kind: clean(&w.kind),
            address: clean(&w.address),
            missing: w.missing.as_deref().map(clean),
            metrics: finite.map(|(name, value)| (clean(&name), value)).collect(),
        })
    }
}
