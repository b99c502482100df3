//! Looks at the VMs again and again: at what became of them by themselves, without anybody asking.

use crate::control::{Control, ControlError};
use proteus_model::id::VmId;
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(5);

impl Control {
    /// Looks until Proteus ends.
    pub fn watch_vms(self: &Arc<Self>) {
        let (control, stopped) = (self.clone(), self.stopped());
        self.spawn(async move {
            while tokio::time::timeout(LOOK, stopped.cancelled()).await.is_err() {
                if let Err(error) = control.look_at_vms().await {
                    tracing::warn!(%error, "not all VMs could be looked at");
                }
            }
        });
    }

    /// One look: gives back what VMs held that ended, and sees to guests that started anew or stand still.
    pub async fn look_at_vms(self: &Arc<Self>) -> Result<(), ControlError> {
        self.clear_ended().await?;
        for vm in self.admitted().await? {
            if let Err(error) = self.look_at(vm).await {
                tracing::debug!(%vm, %error, "not looked at");
            }
        }
        Ok(())
    }

    async fn look_at(self: &Arc<Self>, vm: VmId) -> Result<(), ControlError> {
        self.node.find_again(vm).await?;
        if let Some(record) = self.notice_reboot(vm).await? {
            self.restore_in_background(record);
        }
        self.notice_halt(vm).await
    }
}
