//! Starts VMs. What is wanted is written down before the act, and with it what was wanted before: a start that fails
//! gives that back, also where a crash came between.
//!
//! ```text
//!   wanted: w --vm.start--> wanted: yes, before: w --vm.started-----> wanted: yes
//!                                    |   ^     `----vm.start_failed--> wanted: w
//!                                    `---' cut short by a crash: tried again where it starts by itself, else given up
//! ```

use super::VmRecord;
use super::power::not_running;
use crate::audit::AuditRecord;
use crate::control::{Control, ControlError};
use proteus_model::id::{VmId, VmName};
use proteus_model::vm::PowerState;
use proteus_protocol::node::v1::NodeErrorCode;
use serde_json::json;
use std::sync::Arc;

impl Control {
    /// Starts a VM, and gives it back the settings that its last morph left it with: a fresh VMM and a fresh guest
    /// know nothing of them.
    pub async fn start_vm(self: &Arc<Self>, name: &str, actor: &str) -> Result<VmRecord, ControlError> {
        let _turn = self.in_hand(self.vm(name).await?.id).await;
        let known = self.vm(name).await?;
        if known.template.is_some() {
            return Err(ControlError::Conflict {
                what: format!("{} is a template and never runs again", known.intent.name),
                hint: format!("`proteus vm clone {} NAME` starts a VM from it", known.intent.name),
            });
        }
        // Where nobody can tell whether it runs, as with a damaged place, nothing begins.
        let power = self.told_power(known.id).await?;
        if power == PowerState::Hung {
            return Err(not_running(&known, power, ""));
        }
        let ran = power != PowerState::Stopped;
        if !ran {
            // It was stopped under the morph, which is about to end; what it left the VM with is restored after that.
            if let Some(morph) = known.morph {
                return Err(ControlError::Conflict {
                    what: format!("the morph {morph} holds {}", known.intent.name),
                    hint: format!("wait for its end, or `proteus morph abort {morph}`"),
                });
            }
            self.seen.forget(known.id);
        }
        let entry = |record: &VmRecord| self.vm_entry(actor, "vm.start", record, json!({}));
        let begin = |record: &mut VmRecord| {
            // One that a crash cut short knows better what was before.
            record.wanted_before.get_or_insert(record.wanted);
            record.wanted = true;
            // Where it ran, a restore may end at this moment: what the record says of it stays.
            if !ran {
                record.restoring = !record.managed.is_empty();
                record.starts += 1;
            }
        };
        let record = self.change_record(known.id, entry, begin).await?;
        if let Err(error) = self.start_recorded(&record).await {
            let error = error.named(&record);
            self.give_up_start(&record, actor, &format!("it could not be started: {error}")).await;
            return Err(error);
        }
        self.note_started(&record, actor).await;
        self.tell_vm(&record, "started");
        if record.restoring && !ran {
            self.restore_in_background(record.clone());
        }
        Ok(record)
    }

    /// Whether a VM runs, as its host tells it; one without a place there does not.
    pub(crate) async fn told_power(&self, vm: VmId) -> Result<PowerState, ControlError> {
        match self.node.power(vm).await {
            Err(error) if matches!(error.code, NodeErrorCode::NotFound | NodeErrorCode::NotRunning) => {
                Ok(PowerState::Stopped)
            }
            other => Ok(other?),
        }
    }

    async fn start_recorded(&self, record: &VmRecord) -> Result<(), ControlError> {
        self.admit(record).await?;
        self.node.create(record.id, &record.intent).await?;
        Ok(self.node.start(record.id).await?)
    }

    /// Writes down that a start is over. Where that fails the VM runs all the same, and the next start of Proteus
    /// writes it.
    async fn note_started(&self, record: &VmRecord, actor: &str) {
        let entry = |record: &VmRecord| self.vm_entry(actor, "vm.started", record, json!({}));
        if let Err(error) = self.change_record(record.id, entry, |record| record.wanted_before = None).await {
            tracing::warn!(vm = %record.intent.name, %error, "not written down that it was started");
        }
    }

    /// Gives back what a start took that failed or was cut short: the VM's place in the table, and what was wanted
    /// before. What cannot be given back now is at the next start of Proteus.
    async fn give_up_start(&self, record: &VmRecord, actor: &str, why: &str) {
        let runs = self.runs(record.id).await;
        let withdrawn = if runs { Ok(()) } else { self.withdraw(record.id).await };
        let entry = |record: &VmRecord| AuditRecord {
            why: why.to_owned(),
            ..self.vm_entry(actor, "vm.start_failed", record, json!({}))
        };
        let as_before = |record: &mut VmRecord| {
            record.wanted = record.wanted_before.take().unwrap_or(record.wanted);
            record.restoring &= runs;
        };
        if let Err(error) = withdrawn.and(self.change_record(record.id, entry, as_before).await.map(|_| ())) {
            tracing::warn!(vm = %record.intent.name, %error, "what a failed start took is not given back yet");
        }
    }

    /// Starts what shall run and does not, one after the other, and goes on giving back settings where that was cut
    /// short: after the host or Proteus started. What a morph holds is left to its end. What failed, by name.
    pub async fn start_wanted(self: &Arc<Self>) -> Result<Vec<(VmName, ControlError)>, ControlError> {
        self.clear_ended().await?;
        let stopped = self.stopped();
        let mut failed = Vec::new();
        for record in self.vms().await?.into_iter().filter(|record| record.morph.is_none()) {
            if stopped.is_cancelled() {
                break;
            }
            let (name, wanted) = (record.intent.name.clone(), record.wanted);
            let outcome = self.start_if_wanted(record).await;
            failed.extend(outcome.err().filter(|_| wanted).map(|error| (name, error)));
        }
        Ok(failed)
    }

    /// The same for one VM.
    pub(crate) async fn start_if_wanted(self: &Arc<Self>, record: VmRecord) -> Result<(), ControlError> {
        let record = self.end_cut_short_restore(&record).await?.unwrap_or(record);
        let runs = self.told_power(record.id).await? != PowerState::Stopped;
        let cut_short = record.wanted_before.is_some();
        if runs && cut_short {
            self.note_started(&record, "proteus").await;
        }
        if runs && record.restoring {
            self.restore_in_background(record);
        } else if !runs && record.wanted && record.intent.autostart {
            self.start_vm(record.intent.name.as_str(), "autostart").await?;
        } else if !runs && cut_short {
            let _turn = self.in_hand(record.id).await;
            let record = self.vm_of(record.id).await?;
            // Its owner may have started it meanwhile.
            if record.wanted_before.is_some() && self.told_power(record.id).await? == PowerState::Stopped {
                let why = "it was cut short, and the VM does not start by itself";
                self.give_up_start(&record, "proteus", why).await;
            }
        }
        Ok(())
    }
}
