//! Gives a VM that was started the settings that its last morph left it with: a fresh VMM and a fresh guest know
//! nothing of them. Until that is done, its record says so, and no plan is made: what is not restored yet would look
//! like somebody else's change.

use super::VmRecord;
use crate::control::{Control, ControlError, key};
use crate::record::RecordError;
use proteus_model::capability::Ability;
use proteus_model::id::VmId;
use proteus_model::setting::{KnobKind, Setting};
use proteus_model::unit::Millis;
use proteus_model::vm::PowerState;
use proteus_protocol::node::v1::NodeError;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for the agent of a VM whose settings are to be restored.
const AGENT_LIMIT: Duration = Duration::from_secs(300);
/// How often it is looked for.
const AGENT_POLL: Duration = Duration::from_millis(200);
/// Longest wait for services whose processes have settings: PostgreSQL makes its database first, a minute when emulated.
const SERVICES_LIMIT: Millis = Millis(300_000);
/// Longest time that a plan waits for it.
const PLAN_LIMIT: Duration = Duration::from_secs(60);

impl Control {
    /// Restores the settings of a VM that was started, in a task of its own.
    pub(crate) fn restore_in_background(self: &Arc<Self>, record: VmRecord) {
        let control = self.clone();
        self.spawn(async move {
            if let Err(error) = control.restore_settings(&record, AGENT_LIMIT).await {
                tracing::warn!(vm = %record.intent.name, %error, "settings not restored");
            }
        });
    }

    /// Turns every managed knob of the VM to where its record says; which are not there, and why. Waits for its agent
    /// up to `limit`. Ends early when Proteus ends, when the VM is taken out of its hands, and when it stops.
    pub(crate) async fn restore_settings(
        &self,
        record: &VmRecord,
        limit: Duration,
    ) -> Result<Vec<String>, ControlError> {
        if !self.agent_came(record, limit).await? {
            return Ok(Vec::new());
        }
        let all: Vec<&Setting> = record.managed.iter().collect();
        let mut failed = self.give_back(record, &all).await?;
        if !failed.is_empty() {
            let stopped = self.stopped();
            // Of processes that are still to come: a service may take longer to start than its agent.
            // Cancel-safe: both only wait.
            tokio::select! {
                waited = self.node.wait_brought_up(record.id, SERVICES_LIMIT) => waited?,
                () = stopped.cancelled() => return Ok(Vec::new()),
            }
            let left: Vec<&Setting> = failed.iter().map(|(setting, _)| *setting).collect();
            failed = self.give_back(record, &left).await?;
        }
        let failed: Vec<String> =
            failed.into_iter().map(|(setting, why)| in_words(record, setting, why)).collect();
        self.note_restored(record, &failed).await?;
        self.tell_vm(record, "restored");
        Ok(failed)
    }

    /// Turns knobs to where they were; those that cannot be, and why.
    async fn give_back<'a>(
        &self,
        record: &VmRecord,
        settings: &[&'a Setting],
    ) -> Result<Vec<(&'a Setting, NodeError)>, ControlError> {
        let mut failed = Vec::new();
        for setting in settings {
            self.check_armed(record.id).await?;
            let now = self.node.read(record.id, &setting.knob()).await;
            if now.is_ok_and(|now| setting.holds_in(&now)) {
                continue;
            }
            if let Err(error) = self.node.apply(record.id, setting, record.generation).await {
                failed.push((*setting, error));
            }
        }
        Ok(failed)
    }

    /// Waits until what turns the knobs inside is there. `false`: there is nothing to restore any more, or Proteus
    /// ends; after its next start this goes on.
    async fn agent_came(&self, record: &VmRecord, limit: Duration) -> Result<bool, ControlError> {
        let stopped = self.stopped();
        let kinds: Vec<KnobKind> = record.managed.iter().map(|setting| setting.knob().kind()).collect();
        let start = Instant::now();
        while start.elapsed() < limit {
            let found = self.vm_of(record.id).await?;
            if !found.restoring || found.starts != record.starts {
                return Ok(false);
            }
            let report = self.node.capabilities(record.id).await?;
            if kinds.iter().all(|kind| !kind.in_guest() || report.look_up(Ability::Knob(*kind)).is_ok()) {
                break;
            }
            // Cancel-safe: both only wait.
            tokio::select! {
                () = tokio::time::sleep(AGENT_POLL) => {}
                () = stopped.cancelled() => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Writes down that the settings are restored, and what could not be.
    pub(crate) async fn note_restored(
        &self,
        record: &VmRecord,
        failed: &[String],
    ) -> Result<(), ControlError> {
        let evidence = json!({ "settings": record.managed.len(), "failed": failed });
        loop {
            let mut found = self.find_vm_of(record.id).await?;
            // Another start has a restore of its own.
            if found.value.starts != record.starts {
                return Ok(());
            }
            found.value.restoring = false;
            let batch = self.records.batch().put(&key::vm(record.id), &found.value, Some(found.rev))?;
            let entry = self.vm_entry("proteus", "vm.restore", record, evidence.clone());
            match self.commit_audited(batch, entry).await {
                // The record was changed in between: read again.
                Err(ControlError::Record(RecordError::Conflict { .. })) => {}
                other => return other.map(|_| ()),
            }
        }
    }

    /// Waits until a VM that was started has its settings again.
    pub(crate) async fn settled_vm(self: &Arc<Self>, name: &str) -> Result<VmRecord, ControlError> {
        let start = Instant::now();
        // What is gone with the last boot of its guest is nobody else's change either.
        let vm = self.vm(name).await?.id;
        if self.runs(vm).await
            && let Some(record) = self.notice_reboot(vm).await?
        {
            // As after a start: the guest may take longer to come up than a plan waits.
            self.restore_in_background(record);
        }
        loop {
            let record = self.vm(name).await?;
            let waits = record.restoring && self.check_armed(record.id).await.is_ok();
            if !waits || !self.runs(record.id).await {
                return Ok(record);
            }
            if start.elapsed() >= PLAN_LIMIT {
                return Err(ControlError::Conflict {
                    what: format!(
                        "{} was started, and its settings are still being restored",
                        record.intent.name
                    ),
                    hint: format!(
                        "its agent must come up first: `proteus vm console {}` shows how far the guest is",
                        record.intent.name
                    ),
                });
            }
            tokio::time::sleep(AGENT_POLL).await;
        }
    }

    /// Whether a VM runs, or may: where its host cannot tell, it is not taken for stopped.
    pub async fn runs(&self, vm: VmId) -> bool {
        self.told_power(vm).await.map_or(true, |power| power != PowerState::Stopped)
    }
}

/// What could not be turned to where it was, and why.
fn in_words(record: &VmRecord, setting: &Setting, why: NodeError) -> String {
    format!("{}: {}", setting.knob(), ControlError::from(why).named(record))
}
