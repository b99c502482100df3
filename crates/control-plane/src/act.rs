//! Acts on VMs that are told of twice in the audit log: before they begin, and what came of them. Must never act on
//! what is not announced, nor say that nothing was changed where something was.

use crate::audit::{Appended, AuditRecord};
use crate::control::{Control, ControlError};
use crate::vm::VmRecord;
use serde_json::json;

/// What helps where an act's outcome could not be written down.
const UNTOLD_HINT: &str =
    "`proteus audit` shows that it was begun; free space on the file system of the state folder";

impl ControlError {
    /// This error, met when `done` was done already.
    pub(crate) fn after(self, done: impl Into<String>) -> Self {
        Self::Untold { done: done.into(), hint: UNTOLD_HINT.into(), source: Box::new(self) }
    }

    /// With one more thing to do about it, where an act's outcome could not be written down.
    pub(crate) fn or_again(self, command: &str) -> Self {
        match self {
            Self::Untold { done, hint, source } => {
                Self::Untold { done, hint: format!("{hint}, then `{command}` again"), source }
            }
            other => other,
        }
    }
}

impl Control {
    /// Writes down what is about to be done; the number of the entry. Where that cannot be written, nothing may be
    /// done: unlike what tells of a thing done, it gets nothing of the space that is kept for a full disk.
    pub(crate) async fn announce(&self, entry: AuditRecord) -> Result<u64, ControlError> {
        let batch = self.records.batch();
        match self.audit.append_with(entry, batch.as_commit().clone()).await? {
            Appended::Written { entry, .. } => Ok(entry.seq),
            Appended::Conflict(failed) => Err(batch.conflict(&failed).into()),
        }
    }

    /// Does what was announced; what failed is written down as `failed`, with the reason.
    pub(crate) async fn act<T, E: Into<ControlError>>(
        &self,
        act: impl Future<Output = Result<T, E>>,
        actor: &str,
        failed: &str,
        record: &VmRecord,
    ) -> Result<T, ControlError> {
        let error = match act.await {
            Ok(done) => return Ok(done),
            Err(error) => error.into().named(record),
        };
        let entry = self.vm_entry(actor, failed, record, json!({}));
        if let Err(untold) = self.audit.append(AuditRecord { why: error.to_string(), ..entry }).await {
            tracing::warn!(vm = %record.intent.name, error = %untold, "not written down that an act failed");
        }
        Err(error)
    }
}
