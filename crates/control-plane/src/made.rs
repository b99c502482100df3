//! Which plans are Proteus's own. A plan leaves for its reader and comes back to be carried out; what was changed on
//! the way, or made elsewhere, may skip what planning looks after: memory that is in use, knobs of others, what is
//! not supported. Only digests are kept, of the newest plans, until Proteus ends.

use proteus_model::plan::Plan;
use proteus_model::profile::canonical;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Plans that are remembered: many operators' open windows.
const KEPT_MAX: usize = 4096;

/// The plans that were handed out.
#[derive(Default)]
pub(crate) struct Made(Mutex<VecDeque<[u8; 32]>>);

fn digest(plan: &Plan) -> Option<[u8; 32]> {
    let value = serde_json::to_value(plan).ok()?;
    Some(Sha256::digest(canonical::to_text(&value)).into())
}

impl Made {
    /// Remembers a plan that is handed out.
    pub(crate) fn keep(&self, plan: &Plan) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digest) = digest(plan).filter(|digest| !kept.contains(digest)) {
            kept.push_back(digest);
            if kept.len() > KEPT_MAX {
                kept.pop_front();
            }
        }
    }

    /// Whether this plan was handed out, just so.
    pub(crate) fn knows(&self, plan: &Plan) -> bool {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        digest(plan).is_some_and(|digest| kept.contains(&digest))
    }
}
