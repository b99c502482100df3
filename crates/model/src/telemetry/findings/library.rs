//! How often the programs of a guest call well-known libraries. Must never make a class that is left out look like one
//! that nobody calls.

use crate::unit::Millis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Calls of all programs, counted over short windows, one file after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LibrariesObserved {
    /// Each class of each file; a library has several files where a container brings its own.
    pub classes: Vec<LibraryClassObserved>,
    /// Files that could not be counted.
    pub unread: u32,
}

/// One class of one library, in one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LibraryClassObserved {
    /// The library, as `libssl`.
    pub library: String,
    /// What its functions are for, as `tls`.
    pub class: String,
    /// Over so long.
    pub window: Millis,
    /// Calls of those of its functions that were counted; `None`: none was.
    pub calls: Option<u64>,
    /// Functions that are called so often that they are left out for now.
    pub left_out: u32,
}

impl LibrariesObserved {
    /// Calls per second by `LIBRARY/CLASS`, over all files.
    pub fn per_second(&self) -> BTreeMap<String, f64> {
        let mut rates = BTreeMap::new();
        for one in &self.classes {
            if let Some(calls) = one.calls {
                *rates.entry(one.name()).or_default() += calls as f64 * 1e3 / one.window.0.max(1) as f64;
            }
        }
        rates
    }

    /// Functions that are left out for now, by `LIBRARY/CLASS`.
    pub fn left_out(&self) -> BTreeMap<String, u32> {
        let mut all: BTreeMap<String, u32> = BTreeMap::new();
        for one in self.classes.iter().filter(|one| one.left_out > 0) {
            let sum = all.entry(one.name()).or_default();
            *sum = sum.saturating_add(one.left_out);
        }
        all
    }
}

impl LibraryClassObserved {
    fn name(&self) -> String {
        format!("{}/{}", self.library, self.class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_of_files_add_up_and_what_is_left_out_is_no_zero() {
        let row = |class: &str, window: u64, calls: Option<u64>, left_out: u32| LibraryClassObserved {
            library: "libz".to_owned(),
            class: class.to_owned(),
            window: Millis(window),
            calls,
            left_out,
        };
        let classes = vec![
            row("compression", 500, Some(100), 0),
            row("compression", 100, Some(5), 0),
            row("other", 500, None, 2),
            row("other", 500, None, 1),
        ];
        let seen = LibrariesObserved { classes, unread: 0 };
        assert_eq!(seen.per_second(), BTreeMap::from([("libz/compression".to_owned(), 250.0)]));
        assert_eq!(seen.left_out(), BTreeMap::from([("libz/other".to_owned(), 3)]));
    }
}
