//! How a running morph is told to stop.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::watch;

/// How a morph is told to stop: it looks between steps, and is woken out of a window.
#[derive(Debug, Clone)]
pub struct Abort(Arc<watch::Sender<Option<Told>>>);

/// What a morph was told, and in which words it says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub how: AbortHow,
    /// What was disarmed, and by whom; `None`: it was told by itself.
    disarmed: Option<String>,
}

impl Told {
    /// By an abort.
    pub fn abort(how: AbortHow) -> Self {
        Self { how, disarmed: None }
    }

    /// With all that is disarmed: `what` was, and by whom.
    pub fn disarm(how: AbortHow, what: String) -> Self {
        Self { how, disarmed: Some(what) }
    }

    /// Why it is undone.
    pub fn undone(&self) -> String {
        self.disarmed.clone().unwrap_or_else(|| "aborted".into())
    }

    /// Why it stays where it is.
    pub fn held(&self) -> String {
        match &self.disarmed {
            Some(what) => format!("held: {what}"),
            None => "held by an operator".into(),
        }
    }
}

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
    pub(crate) fn ask(&self, told: Told) {
        self.0.send_replace(Some(told));
    }

    /// What it was told, if anything.
    pub(crate) fn asked(&self) -> Option<Told> {
        self.0.borrow().clone()
    }

    /// Waits until it is told to stop.
    pub(crate) async fn wait(&self) {
        // It cannot be closed: the sender is ours.
        let _ = self.0.subscribe().wait_for(Option::is_some).await;
    }
}
