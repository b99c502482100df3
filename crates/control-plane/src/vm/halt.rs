//! Notices guests that stand still though nobody holds them: a disk of theirs has no space left on the host, or
//! failed. Told once each time, in the log, to whoever watches and in the audit log; `vm start` lets them go on.

use crate::control::{Control, ControlError};
use proteus_model::id::VmId;
use serde_json::json;

impl Control {
    /// Looks whether a VM that runs stands still, and tells it where that is news.
    pub(crate) async fn notice_halt(&self, vm: VmId) -> Result<(), ControlError> {
        let halted = self.node.halted(vm).await?;
        if !self.seen.halts.is_news(vm, halted.is_some()) {
            return Ok(());
        }
        let record = self.vm_of(vm).await?;
        let (action, what, why) = match halted {
            Some(why) => ("vm.halted", "halted", why),
            None => ("vm.resumed", "resumed", "it runs again".into()),
        };
        tracing::warn!(vm = %record.intent.name, %why, "{what}");
        self.tell_vm(&record, what);
        let mut entry = self.vm_entry("proteus", action, &record, json!({}));
        entry.why = why;
        self.audit.append(entry).await?;
        Ok(())
    }
}
