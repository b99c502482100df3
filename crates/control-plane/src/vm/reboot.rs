//! Notices guests that started anew by themselves, after a reboot, a reset or a panic, and begins to give them back
//! what was set inside them: a fresh guest knows nothing of it, and without this it would look like somebody else's
//! change. Their services the node brings up. While a morph holds a VM, the morph is given up for it first.

use super::VmRecord;
use crate::control::{Control, ControlError, key};
use crate::record::{RecordError, Versioned};
use crate::store::Rev;
use proteus_model::execution::Morph;
use proteus_model::id::VmId;
use proteus_model::vm::BootObserved;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Longest word for a boot that is kept: a UUID has 36 bytes, and it is the guest that says it.
const BOOT_ID_BYTES_MAX: usize = 64;

/// The boot of its guest that a VM was seen in last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Boot {
    /// After how many starts of the VM: each start is another boot anyway.
    starts: u64,
    /// The guest kernel's word for it.
    id: String,
}

impl Control {
    async fn known_boot(&self, record: &VmRecord) -> Result<Option<Versioned<Boot>>, ControlError> {
        Ok(self.records.get::<Boot>(&key::boot(record.id)).await?)
    }

    /// Whether the guest of a morph's VM is in another boot than the one that its plan was checked in.
    pub(crate) async fn has_rebooted(&self, morph: &Morph) -> Result<bool, ControlError> {
        Ok(morph.boot.is_over(&self.node.boot(morph.plan.vm).await?))
    }

    /// Looks which boot a VM's guest is in. The VM's record, where it is another one and its settings are to be
    /// given back by the caller.
    pub(crate) async fn notice_reboot(&self, vm: VmId) -> Result<Option<VmRecord>, ControlError> {
        let record = self.vm_of(vm).await?;
        // A morph finds it out by itself, and leaves it to the next look.
        if record.morph.is_some() || !record.wanted || record.wanted_before.is_some() {
            return Ok(None);
        }
        let seen = self.node.boot(vm).await?;
        let known = self.known_boot(&record).await?;
        let current = known.as_ref().filter(|known| known.value.starts == record.starts);
        let another = match (&seen.id, current) {
            (Some(id), Some(known)) => known.value.id != shortened(id),
            _ => false,
        };
        // A reset may be told several times while the machine comes down: all that precede the restore are one.
        let rose = self.seen.reboots.rose(vm, seen.reboots) && !record.restoring;
        if rose || another {
            return self.note_reboot(vm, &seen).await;
        }
        if let (Some(id), None) = (seen.id, current) {
            self.keep_boot(&record, id, known.map(|known| known.rev)).await?;
        }
        Ok(None)
    }

    /// Keeps the first boot after a start. Where somebody else does so at the same time, the next look goes on.
    async fn keep_boot(&self, record: &VmRecord, id: String, rev: Option<Rev>) -> Result<(), ControlError> {
        let boot = Boot { starts: record.starts, id: shortened(&id) };
        let batch = self.records.batch().put(&key::boot(record.id), &boot, rev)?;
        match self.records.commit(batch).await {
            Ok(_) | Err(RecordError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes down that a guest started anew, and that its settings are to be given back. Plans that were made
    /// before it are no longer of this VM.
    async fn note_reboot(&self, vm: VmId, seen: &BootObserved) -> Result<Option<VmRecord>, ControlError> {
        let Versioned { value: mut record, rev } = self.find_vm_of(vm).await?;
        // Taken in hand or stopped since it was looked at: what is left of this is for the next look.
        if record.morph.is_some() || !record.wanted {
            self.seen.reboots.forget(vm);
            return Ok(None);
        }
        record.generation = record.generation.next();
        record.starts += 1;
        record.restoring = !record.managed.is_empty();
        let mut batch = self.records.batch().put(&key::vm(vm), &record, Some(rev))?;
        if let Some(known) = self.known_boot(&record).await? {
            batch = batch.delete(&key::boot(vm), known.rev)?;
        }
        let evidence = json!({ "boot": seen.id, "settings": record.managed.len() });
        let mut entry = self.vm_entry("proteus", "vm.rebooted", &record, evidence);
        entry.why = "its guest started anew by itself".into();
        match self.commit_audited(batch, entry).await {
            // Somebody has just changed it: the next look sees it again, for the boot that is kept is the old one.
            Err(ControlError::Record(RecordError::Conflict { .. })) => {
                self.seen.reboots.forget(vm);
                return Ok(None);
            }
            other => other?,
        };
        tracing::warn!(vm = %record.intent.name, "its guest started anew by itself");
        self.tell_vm(&record, "rebooted");
        Ok(Some(record).filter(|record| record.restoring))
    }
}

fn shortened(id: &str) -> String {
    id.chars().take(BOOT_ID_BYTES_MAX).collect()
}
