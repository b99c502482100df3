//! How often a guest's programs call well-known libraries, as it travels.

use super::super::sample::SampleError;
use super::limit::{counter, list};
use super::load::window;
use proteus_model::telemetry as model;
use serde::{Deserialize, Serialize};

/// Most rows that are told: sixteen files of up to five functions each.
pub const LIBRARY_ROWS_MAX: usize = 80;
/// Longest name of a library or a class.
const NAME_BYTES_MAX: usize = 32;
/// Most functions of one class of a library.
const FUNCTIONS_MAX: u32 = 64;

/// Calls of libraries, counted over windows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct LibraryCalls {
    pub classes: Vec<LibraryClass>,
    pub unread: u32,
}

/// One class of one library, in one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct LibraryClass {
    pub library: String,
    pub class: String,
    pub window_ms: u64,
    pub calls: Option<u64>,
    #[serde(default)]
    pub left_out: u32,
}

/// A name as those of libraries and classes are: short, and nothing that is markup anywhere.
fn name(field: &'static str, given: String) -> Result<String, SampleError> {
    let is_one = (1..=NAME_BYTES_MAX).contains(&given.len())
        && given.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_+.".contains(&b));
    let expected = "1 to 32 bytes of a-z, 0-9, -, _, + and .";
    is_one.then_some(given).ok_or(SampleError { field, given: 0, expected })
}

impl TryFrom<LibraryClass> for model::LibraryClassObserved {
    type Error = SampleError;
    fn try_from(w: LibraryClass) -> Result<Self, SampleError> {
        if w.left_out > FUNCTIONS_MAX {
            let (field, expected) = ("library.left_out", "at most 64");
            return Err(SampleError { field, given: w.left_out.into(), expected });
        }
        Ok(Self {
            library: name("library.library", w.library)?,
            class: name("library.class", w.class)?,
            window: window("library.window_ms", w.window_ms)?,
            calls: w.calls.map(|calls| counter("library.calls", calls)).transpose()?,
            left_out: w.left_out,
        })
    }
}

impl TryFrom<LibraryCalls> for model::LibrariesObserved {
    type Error = SampleError;
    fn try_from(w: LibraryCalls) -> Result<Self, SampleError> {
        let classes = list("libraries", w.classes, LIBRARY_ROWS_MAX, TryInto::try_into)?;
        Ok(Self { classes, unread: w.unread })
    }
}
