//! Notices VMs that ended by themselves, as a guest that powers off or a VMM that dies, and gives back what they held:
//! their memory on the host and their place in the allocation table. They are not started again by this.

use crate::control::{Control, ControlError};
use proteus_model::id::VmId;
use proteus_model::unit::Millis;
use serde_json::json;

impl Control {
    /// Gives back what a VM holds, if it does not run.
    pub(crate) async fn withdraw_if_stopped(&self, vm: VmId) -> Result<(), ControlError> {
        let _turn = self.in_hand(vm).await;
        if self.runs(vm).await {
            return Ok(());
        }
        // What is left of it on the host; a VM that is gone whole, or is no longer known, has nothing.
        let _ = self.node.stop(vm, Millis(0)).await;
        if !self.admitted().await?.contains(&vm) {
            return Ok(());
        }
        match self.vm_of(vm).await {
            // One whose start or making was cut short did not come to run; what becomes of that is told by itself.
            Ok(record) if record.wanted_before.is_none() && !record.cloning => {
                let mut entry = self.vm_entry("proteus", "vm.ended", &record, json!({}));
                entry.why = "it does not run any more".into();
                if self.withdraw_told(vm, entry).await? {
                    self.tell_vm(&record, "ended");
                }
                Ok(())
            }
            Ok(_) | Err(_) => self.withdraw(vm).await,
        }
    }

    /// Gives back what VMs hold that do not run: those that ended by themselves, and what a crash left.
    pub async fn clear_ended(&self) -> Result<(), ControlError> {
        for vm in self.admitted().await? {
            if !self.runs(vm).await {
                self.withdraw_if_stopped(vm).await?;
            }
        }
        Ok(())
    }
}
