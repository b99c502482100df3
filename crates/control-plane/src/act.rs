//! Acts on VMs that are told of twice in the audit log: before they begin, and what came of them. Must never act on
//! what is not announced, nor say that nothing was changed where something was.

use crate::audit::{Appended, AuditError, AuditRecord};
use crate::control::{Control, ControlError};
use crate::record::{Batch, RecordError, Versioned};
use crate::store::{Commit, Guard, Key, Rev};
use crate::vm::VmRecord;
use proteus_model::id::OpId;
use proteus_model::unit::UnixMillis;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// What helps where an act's outcome could not be written down.
const UNTOLD_HINT: &str =
    "`proteus audit` shows that it was begun; free space on the file system of the state folder";

/// Key of what is announced and not over, before the number of the entry that tells of it.
const PREFIX: &str = "announced/";
/// What is said of an act whose end nobody saw.
const CUT_SHORT: &str = "Proteus ended before it was over; look what became of it";

fn key(began: u64) -> String {
    format!("{PREFIX}{began:020}")
}

/// An act that is announced and not over.
#[derive(Serialize, Deserialize)]
struct AnnouncedRow {
    at: UnixMillis,
    actor: String,
    subject: String,
    /// What is done where Proteus ends before it: the action of the entry that closes it.
    cut_short: String,
}

/// An act that was announced. Whatever tells of its end ends it in the same commit: then it is told once.
pub(crate) struct Announced {
    /// Number of the audit entry that tells of it.
    pub began: u64,
    rev: Rev,
}

impl Announced {
    /// The changes that come with the end of the act. They are written on a full disk too: it is done already.
    pub(crate) fn over(&self, batch: Batch) -> Result<Batch, RecordError> {
        batch.relief().delete(&key(self.began), self.rev)
    }
}

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
    /// Writes down what is about to be done. Where that cannot be written, nothing may be done: unlike what tells of
    /// a thing done, it gets nothing of the space that is kept for a full disk. `cut_short`: how it is told that it was
    /// begun and nobody saw its end.
    pub(crate) async fn announce(
        &self,
        entry: AuditRecord,
        cut_short: &str,
    ) -> Result<Announced, ControlError> {
        let AuditRecord { at, actor, subject, .. } = entry.clone();
        let row = AnnouncedRow { at, actor, subject, cut_short: cut_short.to_owned() };
        let bytes =
            serde_json::to_vec(&row).map_err(|e| RecordError::Damaged { key: key(0), why: e.to_string() })?;
        let with = |began| {
            let key = Key::new(key(began))?;
            // Each try is an operation of its own.
            Ok(Commit::new(OpId::from_bits(0)).guard(Guard::Absent(key.clone())).put(key, bytes.clone()))
        };
        match self.audit.append_numbered(entry, with).await? {
            Appended::Written { entry, rev } => Ok(Announced { began: entry.seq, rev }),
            Appended::Conflict(_) => Err(AuditError::Contended.into()),
        }
    }

    /// Closes what the last process announced and did not see the end of. How many acts that were.
    pub async fn close_cut_short(&self) -> Result<usize, ControlError> {
        let left = self.records.list::<AnnouncedRow>(PREFIX).await?;
        for (key, Versioned { value: row, rev }) in &left {
            let began = key.strip_prefix(PREFIX).and_then(|number| number.parse::<u64>().ok());
            let evidence = json!({ "began": began, "began_at": row.at });
            let entry = self.entry(&row.actor, &row.cut_short, &row.subject, CUT_SHORT, evidence);
            self.commit_audited(self.records.batch().relief().delete(key, *rev)?, entry).await?;
        }
        Ok(left.len())
    }

    /// Writes down that an act failed, and why.
    pub(crate) async fn tell_failed(&self, batch: Batch, entry: AuditRecord, why: &str) {
        let subject = entry.subject.clone();
        let entry = AuditRecord { why: why.to_owned(), ..entry };
        if let Err(error) = self.commit_audited(batch, entry).await {
            tracing::warn!(of = %subject, %error, "not written down that an act failed");
        }
    }

    /// Does what was announced; what failed is written down as `failed`, with the reason.
    pub(crate) async fn act<T, E: Into<ControlError>>(
        &self,
        announced: &Announced,
        act: impl Future<Output = Result<T, E>>,
        actor: &str,
        failed: &str,
        record: &VmRecord,
    ) -> Result<T, ControlError> {
        let error = match act.await {
            Ok(done) => return Ok(done),
            Err(error) => error.into().named(record),
        };
        let entry = self.vm_entry(actor, failed, record, json!({ "began": announced.began }));
        match announced.over(self.records.batch()) {
            Ok(batch) => self.tell_failed(batch, entry, &error.to_string()).await,
            Err(error) => {
                tracing::warn!(vm = %record.intent.name, %error, "not written down that an act failed")
            }
        }
        Err(error)
    }
}
