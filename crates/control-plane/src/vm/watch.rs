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

    /// One look at each: gives back what VMs held that ended, and sees to guests that started anew or stand still. One
    /// that does not answer is looked at for as long as that takes, and keeps nobody from looking at the others again.
    pub async fn look_at_vms(self: &Arc<Self>) -> Result<(), ControlError> {
        let vms = self.admitted().await?;
        let control = self.clone();
        let look = move |vm, _| {
            let control = control.clone();
            async move { control.see_to(vm).await }
        };
        self.watches.at_all(self, &vms, LOOK, look).await;
        Ok(())
    }

    async fn see_to(self: &Arc<Self>, vm: VmId) {
        if !self.runs(vm).await {
            if let Err(error) = self.withdraw_if_stopped(vm).await {
                tracing::warn!(%vm, %error, "what it held is not given back yet");
            }
        } else if let Err(error) = self.look_at(vm).await {
            tracing::debug!(%vm, %error, "not looked at");
        }
    }

    /// Looks once more for a VM that could not be taken up, and ends what was cut short of it.
    async fn find_again(self: &Arc<Self>, vm: VmId) -> Result<(), ControlError> {
        self.node.find_again(vm).await?;
        let ended = self.end_cut_short_restore(&self.vm_of(vm).await?).await?;
        if let Some(record) = ended.filter(|record| record.restoring) {
            self.restore_in_background(record);
        }
        Ok(())
    }

    async fn look_at(self: &Arc<Self>, vm: VmId) -> Result<(), ControlError> {
        self.find_again(vm).await?;
        if let Some(record) = self.notice_reboot(vm).await? {
            self.restore_in_background(record);
        }
        self.notice_halt(vm).await
    }
}
