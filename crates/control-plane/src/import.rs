//! Histories that are brought to a VM from elsewhere. What they are is the node's to read.

use crate::control::{Control, ControlError};
use proteus_protocol::node::v1::ImportObserved;
use serde_json::json;

impl Control {
    /// Takes a history in, and tells so. `dry_run`: only says what it has.
    pub async fn import_history(
        &self,
        vm: &str,
        bytes: &[u8],
        dry_run: bool,
        actor: &str,
    ) -> Result<ImportObserved, ControlError> {
        let record = self.vm(vm).await?;
        // Read whole before anything is told: a file that is none is refused without a trace.
        let seen = self.node.import_history(record.id, bytes, true).await?;
        if dry_run {
            return Ok(seen);
        }
        let evidence = json!({ "bytes": bytes.len(), "buckets": seen.buckets });
        self.audit.append(self.vm_entry(actor, "vm.history.import", &record, evidence)).await?;
        Ok(self.node.import_history(record.id, bytes, false).await?)
    }
}
