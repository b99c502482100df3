//! Another name for a VM. Its id stays, and with it all that is known of it: versions, morphs, history, personality,
//! snapshots. Its guest keeps its host name, and a VMM that runs goes by the old one until the next start. Must never
//! leave a VM without a name, or two with one.

use super::VmRecord;
use crate::control::{Control, ControlError, key};
use crate::record::{RecordError, TRIES, Versioned};
use proteus_model::id::{VmId, VmName};
use serde_json::json;

impl Control {
    /// Gives a VM another name. `dry_run`: only says whether it could have it.
    pub async fn rename_vm(
        &self,
        vm: &str,
        to: &VmName,
        dry_run: bool,
        actor: &str,
    ) -> Result<VmRecord, ControlError> {
        let id = self.vm(vm).await?.id;
        let _turn = self.in_hand(id).await;
        for _ in 0..TRIES {
            let Versioned { value: was, rev } = self.find_vm_of(id).await?;
            let from = was.intent.name.clone();
            if from == *to {
                return Ok(was);
            }
            Self::check_no_morph(&was)?;
            self.check_name_free(to).await?;
            if dry_run {
                return Ok(was);
            }
            let old = key::vm_name(&from);
            let missing = || ControlError::NotFound { kind: "VM", name: from.to_string() };
            let named = self.records.get::<VmId>(&old).await?.ok_or_else(missing)?;
            let mut is = was.clone();
            is.intent.name = to.clone();
            let batch = self
                .records
                .batch()
                .put(&key::vm(id), &is, Some(rev))?
                .put(&key::vm_name(to), &id, None)?
                .delete(&old, named.rev)?;
            let entry = self.vm_entry(actor, "vm.rename", &was, json!({ "from": from, "to": to }));
            match self.commit_audited(batch, entry).await {
                Err(ControlError::Record(RecordError::Conflict { .. })) => continue,
                other => drop(other?),
            }
            // Where this fails only its host's log calls it by the old name.
            if let Err(error) = self.node.rename(id, to).await {
                tracing::warn!(vm = %to, %error, "its host still calls it {from}");
            }
            self.tell_vm(&is, "renamed");
            return Ok(is);
        }
        Err(RecordError::Conflict { key: key::vm(id) }.into())
    }
}
