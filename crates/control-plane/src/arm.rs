//! Disarm: takes a VM, a host or the fleet out of Proteus's hands. No forward step begins after it; a running morph
//! is undone, or held where it is. Guests keep running.

use crate::abort::AbortHow;
use crate::control::{Control, ControlError, key};
use crate::record::{Batch, RecordError, TRIES};
use crate::vm::VmRecord;
use proteus_model::id::{MorphId, VmId};
use proteus_model::unit::UnixMillis;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Key of the record that is there while the fleet is disarmed. One host is its whole fleet until there are more.
const FLEET: &str = "disarmed/fleet";

/// Who disarmed, and when.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Disarmed {
    /// Who.
    pub actor: String,
    /// When.
    pub at: UnixMillis,
}

/// What is disarmed or armed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "scope")]
pub enum ArmScope {
    /// Everything.
    Fleet,
    /// One VM, by name or id.
    Vm {
        /// Its name or id.
        vm: String,
    },
}

impl Control {
    /// Refuses where a forward step may not begin.
    pub(crate) async fn check_armed(&self, vm: VmId) -> Result<(), ControlError> {
        if self.records.get::<Disarmed>(FLEET).await?.is_some() {
            return Err(ControlError::Disarmed { scope: "the fleet".into() });
        }
        match self.records.get::<VmRecord>(&key::vm(vm)).await? {
            Some(found) if found.value.disarmed => {
                Err(ControlError::Disarmed { scope: format!("the VM {}", found.value.intent.name) })
            }
            _ => Ok(()),
        }
    }

    /// Whether the fleet is disarmed, and by whom.
    pub async fn fleet_disarmed(&self) -> Result<Option<Disarmed>, ControlError> {
        Ok(self.records.get(FLEET).await?.map(|found| found.value))
    }

    /// Changes and tells it; again where somebody else changed the same in between.
    async fn set_armed(&self, scope: &ArmScope, armed: bool, actor: &str) -> Result<(), ControlError> {
        let action = if armed { "arm" } else { "disarm" };
        match scope {
            ArmScope::Vm { vm } => {
                let subject = format!("vm/{vm}");
                let entry = |_: &VmRecord| self.entry(actor, action, &subject, "asked for", json!({}));
                let id = self.vm(vm).await?.id;
                self.change_record(id, entry, |record| record.disarmed = !armed).await?;
                Ok(())
            }
            ArmScope::Fleet => {
                for _ in 0..TRIES {
                    let entry = self.entry(actor, action, "fleet", "asked for", json!({}));
                    match self.commit_audited(self.fleet_batch(armed, actor).await?, entry).await {
                        Err(ControlError::Record(RecordError::Conflict { .. })) => {}
                        other => return other.map(drop),
                    }
                }
                Err(RecordError::Conflict { key: FLEET.into() }.into())
            }
        }
    }

    async fn fleet_batch(&self, armed: bool, actor: &str) -> Result<Batch, ControlError> {
        let batch = self.records.batch();
        Ok(match (self.records.get::<Disarmed>(FLEET).await?, armed) {
            (Some(found), true) => batch.delete(FLEET, found.rev)?,
            (None, false) => {
                let disarmed = Disarmed { actor: actor.to_owned(), at: self.now() };
                batch.relief().put(FLEET, &disarmed, None)?
            }
            (Some(_), false) => batch.relief(),
            (None, true) => batch,
        })
    }

    /// Disarms. Running morphs in the scope are undone (`hold`: parked where they are). How many were told.
    pub async fn disarm(&self, scope: &ArmScope, hold: bool, actor: &str) -> Result<usize, ControlError> {
        let only = match scope {
            ArmScope::Fleet => None,
            ArmScope::Vm { vm } => Some(self.vm(vm).await?.id),
        };
        let how = if hold { AbortHow::Hold } else { AbortHow::Undo };
        // Told before, so that none is undone for being disarmed that is to be held; and after, for those that
        // began in between.
        let mut told = self.tell_running(only, how).await?;
        self.set_armed(scope, false, actor).await?;
        told.extend(self.tell_running(only, how).await?);
        Ok(told.len())
    }

    async fn tell_running(
        &self,
        only: Option<VmId>,
        how: AbortHow,
    ) -> Result<BTreeSet<MorphId>, ControlError> {
        let mut told = BTreeSet::new();
        for morph in self.morphs().await? {
            if only.is_none_or(|vm| vm == morph.plan.vm)
                && let Some(abort) = self.abort_of(morph.id)
            {
                abort.ask(how);
                told.insert(morph.id);
            }
        }
        Ok(told)
    }

    /// Arms again. VMs that were started meanwhile get their settings back.
    pub async fn arm(self: &Arc<Self>, scope: &ArmScope, actor: &str) -> Result<(), ControlError> {
        self.set_armed(scope, true, actor).await?;
        for record in self.vms().await?.into_iter().filter(|record| record.restoring) {
            self.restore_in_background(record);
        }
        Ok(())
    }
}
