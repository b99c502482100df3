//! Forgets old versions of records. A morph writes its journal some twenty times, and only the last version of a
//! record is ever read again: without this the state would grow by each morph's whole journal for ever. What is kept
//! for people is in records of its own: morphs, versions of VMs, the audit log.

use crate::control::{Control, ControlError};
use std::sync::Arc;
use std::time::Duration;

/// Commits whose versions are kept: far more than any reader that goes through pages is behind. Of 1000 VMs that are each
/// judged and written down anew, 100 KiB at most, they are 100 MiB.
const KEPT: u64 = 1000;

/// How often older ones are forgotten.
const EVERY: Duration = Duration::from_secs(60);

impl Control {
    /// Forgets versions that are older than the last `kept` commits and no longer a record's last.
    pub async fn forget_history(&self, kept: u64) -> Result<(), ControlError> {
        Ok(self.records.forget_history(kept).await?)
    }

    /// Does that now and again until Proteus ends; first removes what is left of VMs that are gone.
    pub fn keep_history_short(self: &Arc<Self>) {
        let (control, stopped) = (self.clone(), self.stopped());
        self.spawn(async move {
            match control.forget_gone().await {
                Ok(0) => {}
                Ok(records) => tracing::info!(records, "what was left of VMs that are gone is removed"),
                Err(error) => tracing::warn!(%error, "what is left of VMs that are gone stays"),
            }
            loop {
                if let Err(error) = control.forget_history(KEPT).await {
                    tracing::warn!(%error, "old versions of records are not forgotten yet");
                }
                if tokio::time::timeout(EVERY, stopped.cancelled()).await.is_ok() {
                    return;
                }
            }
        });
    }
}
