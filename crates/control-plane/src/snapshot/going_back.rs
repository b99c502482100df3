//! How a restore ends, also where a crash came between: what became of it is told by the VMM that the VM has, which is
//! another one once the old one's guest is given up. Must never restore again by itself: what a guest did since would
//! be lost.
//!
//! ```text
//!   vm.snapshot.restore --> going back --vm.snapshot.restored-------> over: another VMM
//!                            |   ^    `--vm.snapshot.restore_failed-> over: the same one, or none
//!                            `---' cut short by a crash: the host carries it through where it had begun
//! ```

use crate::audit::AuditRecord;
use crate::control::{Control, ControlError};
use crate::vm::VmRecord;
use proteus_model::id::SnapshotName;
use proteus_model::vm::PowerState;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A restore that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoingBack {
    /// To which snapshot.
    pub snapshot: SnapshotName,
    /// Who asked for it.
    pub actor: String,
    /// The VMM that the VM had before.
    pub vmm: Option<String>,
    /// Whether settings were still being given back before.
    pub restoring: bool,
}

impl Control {
    /// Writes down that a VM went back. Where that fails it did all the same, and the next start of Proteus writes it.
    pub(super) async fn note_gone_back(&self, record: &VmRecord, why: &str, evidence: Value) {
        let actor = actor_of(record);
        let entry = |record: &VmRecord| AuditRecord {
            why: why.to_owned(),
            ..self.vm_entry(&actor, "vm.snapshot.restored", record, evidence.clone())
        };
        if let Err(error) = self.change_record(record.id, entry, |record| record.going_back = None).await {
            tracing::warn!(vm = %record.intent.name, %error, "not written down that it was restored");
        }
    }

    /// Writes down that a restore failed. Settings that were still being given back before it are so again, where the
    /// VM runs; else its next start gives them back.
    pub(super) async fn note_not_gone_back(&self, record: &VmRecord, why: &str) -> Option<VmRecord> {
        let (actor, runs) = (actor_of(record), self.runs(record.id).await);
        let snapshot = record.going_back.as_ref().map(|going| going.snapshot.clone());
        let entry = |record: &VmRecord| AuditRecord {
            why: why.to_owned(),
            ..self.vm_entry(&actor, "vm.snapshot.restore_failed", record, json!({ "snapshot": snapshot }))
        };
        let as_before = |record: &mut VmRecord| {
            record.restoring = runs && record.going_back.take().is_some_and(|going| going.restoring);
        };
        match self.change_record(record.id, entry, as_before).await {
            Ok(record) => Some(record),
            Err(error) => {
                tracing::warn!(vm = %record.intent.name, %error, "not written down that a restore failed");
                None
            }
        }
    }

    /// Ends a restore that a crash cut short, once its host can tell what became of it. The record as it is then;
    /// `None`: there was nothing to end, or not yet.
    pub(crate) async fn end_cut_short_restore(
        &self,
        record: &VmRecord,
    ) -> Result<Option<VmRecord>, ControlError> {
        if record.going_back.is_none() {
            return Ok(None);
        }
        // One that is no crash's is waited for.
        let _turn = self.in_hand(record.id).await;
        let record = self.vm_of(record.id).await?;
        let Some(going) = record.going_back.clone() else { return Ok(None) };
        match self.told_power(record.id).await? {
            // It is looked for again.
            PowerState::Hung | PowerState::Unknown => return Ok(None),
            PowerState::Stopped => {
                let why = "Proteus stopped in the middle of it, and the VM does not run any more";
                self.note_not_gone_back(&record, why).await;
            }
            PowerState::Running | PowerState::Paused if self.node.vmm(record.id).await? == going.vmm => {
                let why = "Proteus stopped before it began: the VM is as it was";
                self.note_not_gone_back(&record, why).await;
            }
            PowerState::Running | PowerState::Paused => {
                let why = "Proteus stopped in the middle of it, and it was carried through since";
                self.note_gone_back(&record, why, json!({ "snapshot": going.snapshot })).await;
            }
        }
        self.vm_of(record.id).await.map(Some)
    }
}

fn actor_of(record: &VmRecord) -> String {
    record.going_back.as_ref().map_or_else(|| "proteus".to_owned(), |going| going.actor.clone())
}
