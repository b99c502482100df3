//! How a running morph is told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// How a morph is told to stop: it looks between steps and between looks.
#[derive(Debug, Clone, Default)]
pub struct Abort(Arc<AtomicU8>);

/// What to do with a morph that is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortHow {
    /// Undo it.
    Undo,
    /// Leave it where it is, for an operator.
    Hold,
}

impl Abort {
    /// Tells it to stop.
    pub fn ask(&self, how: AbortHow) {
        let word = match how {
            AbortHow::Undo => 1,
            AbortHow::Hold => 2,
        };
        self.0.store(word, Ordering::SeqCst);
    }

    /// What it was told, if anything.
    pub(crate) fn asked(&self) -> Option<AbortHow> {
        match self.0.load(Ordering::SeqCst) {
            1 => Some(AbortHow::Undo),
            2 => Some(AbortHow::Hold),
            _ => None,
        }
    }
}
