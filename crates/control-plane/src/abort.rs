//! How a running morph is told to stop.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::watch;

/// How a morph is told to stop: it looks between steps, and is woken out of a window.
#[derive(Debug, Clone)]
pub struct Abort(Arc<watch::Sender<Option<AbortHow>>>);

/// What to do with a morph that is stopped. Written down when it is asked for, until the morph ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AbortHow {
    /// Undo it.
    Undo,
    /// Leave it where it is, for an operator.
    Hold,
}

impl AbortHow {
    /// As an operator says it.
    pub(crate) fn of(hold: bool) -> Self {
        if hold { Self::Hold } else { Self::Undo }
    }
}

impl Default for Abort {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Abort {
    /// Tells it to stop.
    pub fn ask(&self, how: AbortHow) {
        self.0.send_replace(Some(how));
    }

    /// What it was told, if anything.
    pub(crate) fn asked(&self) -> Option<AbortHow> {
        *self.0.borrow()
    }

    /// Waits until it is told to stop.
    pub(crate) async fn wait(&self) {
        // It cannot be closed: the sender is ours.
        let _ = self.0.subscribe().wait_for(Option::is_some).await;
    }
}
