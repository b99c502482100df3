//! The bounds of what a guest may say, for all parts. Must never let through what a part behind it would have to check
//! again.

use super::super::sample::SampleError;
pub(super) use super::super::sample::{clean, counter};

/// A list of at most `max`, each by `convert`.
pub(super) fn list<W, M>(
    field: &'static str,
    given: Vec<W>,
    max: usize,
    convert: impl Fn(W) -> Result<M, SampleError>,
) -> Result<Vec<M>, SampleError> {
    if given.len() > max {
        return Err(SampleError { field, given: given.len() as u64, expected: "a shorter list" });
    }
    given.into_iter().map(convert).collect()
}

/// A part, which is no more than the whole.
pub(super) fn no_more(field: &'static str, given: u64, whole: u64) -> Result<u64, SampleError> {
    counter(field, given)?;
    (given <= whole).then_some(given).ok_or(SampleError { field, given, expected: "no more than the whole" })
}
