//! Disarm: takes a VM, a host or the fleet out of Proteus's hands. No forward step begins after it; a running morph
//! is undone, or held where it is: which of the two is written down with it, so that it holds over a crash. Guests keep
//! running.

use crate::abort::{Abort, AbortHow, Told};
use crate::control::{Control, ControlError, key};
use crate::record::{Batch, RecordError, TRIES};
use crate::vm::VmRecord;
use proteus_model::id::{MorphId, VmId, VmName};
use proteus_model::unit::UnixMillis;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, PoisonError};

/// Key of the record that is there while the fleet is disarmed. One host is its whole fleet until there are more.
const FLEET: &str = "disarmed/fleet";

/// Who disarmed, and when.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Disarmed {
    /// Who.
    pub actor: String,
    /// When.
    pub at: UnixMillis,
    /// Whether running morphs stay where they are, and are not undone.
    #[serde(default)]
    pub hold: bool,
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

/// What is disarmed that a VM is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DisarmedScope {
    /// All VMs.
    Fleet,
    /// That VM alone.
    Vm(VmName),
    /// All VMs, and that one for itself too.
    Both(VmName),
}

impl DisarmedScope {
    /// That it was disarmed, and by whom, where that is known.
    fn disarmed_by(&self, actor: Option<&str>) -> String {
        let what = match self {
            Self::Fleet | Self::Both(_) => "the fleet".to_owned(),
            Self::Vm(name) => format!("the VM {name}"),
        };
        match actor {
            Some(actor) => format!("{what} was disarmed by {actor}"),
            None => format!("{what} was disarmed"),
        }
    }

    /// What lets forward steps begin again.
    pub(crate) fn way_back(&self) -> String {
        match self {
            Self::Fleet => "`proteus arm` lets forward steps begin again".to_owned(),
            Self::Vm(name) => format!("`proteus arm --vm {name}` lets forward steps begin again"),
            Self::Both(name) => {
                format!("`proteus arm` and `proteus arm --vm {name}` together let forward steps begin again")
            }
        }
    }
}

impl fmt::Display for DisarmedScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fleet => f.write_str("the fleet is disarmed"),
            Self::Vm(name) => write!(f, "the VM {name} is disarmed"),
            Self::Both(name) => write!(f, "the fleet is disarmed, and the VM {name} for itself too"),
        }
    }
}

impl Control {
    /// What is disarmed that a VM is in, and what a morph that runs on it is told by that. Where fleet and VM are,
    /// holding wins: what is left as it is can still be undone.
    pub(crate) async fn disarmed(&self, vm: VmId) -> Result<Option<(DisarmedScope, Told)>, ControlError> {
        let fleet = self.records.get::<Disarmed>(FLEET).await?.map(|found| found.value);
        let record = self.records.get::<VmRecord>(&key::vm(vm)).await?.map(|found| found.value);
        let record = record.filter(|record| record.disarmed);
        let hold = fleet.as_ref().is_some_and(|fleet| fleet.hold)
            || record.as_ref().is_some_and(|record| record.disarmed_hold);
        let (scope, actor) = match (fleet, record) {
            (Some(fleet), Some(record)) => (DisarmedScope::Both(record.intent.name), Some(fleet.actor)),
            (Some(fleet), None) => (DisarmedScope::Fleet, Some(fleet.actor)),
            (None, Some(record)) => (DisarmedScope::Vm(record.intent.name), record.disarmed_by),
            (None, None) => return Ok(None),
        };
        let told = Told::disarm(AbortHow::of(hold), scope.disarmed_by(actor.as_deref()));
        Ok(Some((scope, told)))
    }

    /// Refuses where a forward step may not begin.
    pub(crate) async fn check_armed(&self, vm: VmId) -> Result<(), ControlError> {
        match self.disarmed(vm).await? {
            Some((scope, _)) => Err(ControlError::Disarmed { scope }),
            None => Ok(()),
        }
    }

    /// Whether the fleet is disarmed, and by whom.
    pub async fn fleet_disarmed(&self) -> Result<Option<Disarmed>, ControlError> {
        Ok(self.records.get(FLEET).await?.map(|found| found.value))
    }

    /// Changes and tells it; again where somebody else changed the same in between. `Some`: disarmed, and what becomes
    /// of running morphs.
    async fn set_armed(
        &self,
        scope: &ArmScope,
        disarmed: Option<AbortHow>,
        actor: &str,
    ) -> Result<(), ControlError> {
        let hold = disarmed == Some(AbortHow::Hold);
        let (action, evidence) = match disarmed {
            Some(_) => ("disarm", json!({ "hold": hold })),
            None => ("arm", json!({})),
        };
        match scope {
            ArmScope::Vm { vm } => {
                let subject = format!("vm/{vm}");
                let entry = |_: &VmRecord| self.entry(actor, action, &subject, "asked for", evidence.clone());
                let id = self.vm(vm).await?.id;
                let change = |record: &mut VmRecord| {
                    (record.disarmed, record.disarmed_hold) = (disarmed.is_some(), hold);
                    record.disarmed_by = disarmed.map(|_| actor.to_owned());
                };
                self.change_record(id, entry, change).await?;
                Ok(())
            }
            ArmScope::Fleet => {
                for _ in 0..TRIES {
                    let entry = self.entry(actor, action, "fleet", "asked for", evidence.clone());
                    match self.commit_audited(self.fleet_batch(disarmed, actor).await?, entry).await {
                        Err(ControlError::Record(RecordError::Conflict { .. })) => {}
                        other => return other.map(drop),
                    }
                }
                Err(RecordError::Conflict { key: FLEET.into() }.into())
            }
        }
    }

    async fn fleet_batch(&self, disarmed: Option<AbortHow>, actor: &str) -> Result<Batch, ControlError> {
        let batch = self.records.batch();
        let found = self.records.get::<Disarmed>(FLEET).await?;
        Ok(match (found, disarmed) {
            (Some(found), None) => batch.delete(FLEET, found.rev)?,
            (None, None) => batch,
            (Some(found), Some(how)) if AbortHow::of(found.value.hold) == how => batch.relief(),
            // The last word counts.
            (found, Some(how)) => {
                let hold = how == AbortHow::Hold;
                let disarmed = Disarmed { actor: actor.to_owned(), at: self.now(), hold };
                batch.relief().put(FLEET, &disarmed, found.map(|found| found.rev))?
            }
        })
    }

    /// Disarms. Running morphs in the scope are undone (`hold`: parked where they are). How many were told.
    pub async fn disarm(&self, scope: &ArmScope, hold: bool, actor: &str) -> Result<usize, ControlError> {
        let (only, what) = match scope {
            ArmScope::Fleet => (None, DisarmedScope::Fleet),
            ArmScope::Vm { vm } => {
                let record = self.vm(vm).await?;
                (Some(record.id), DisarmedScope::Vm(record.intent.name))
            }
        };
        let how = AbortHow::of(hold);
        // Written down before any is told: what was told and not written down would be undone after a crash. One that
        // looks by itself in between finds the same there.
        let mut running = self.running_on(only).await?;
        self.set_armed(scope, Some(how), actor).await?;
        // And those that began in between.
        running.extend(self.running_on(only).await?);
        let mut told = BTreeSet::new();
        for (id, abort) in running {
            abort.ask(Told::disarm(how, what.disarmed_by(Some(actor))));
            told.insert(id);
        }
        Ok(told.len())
    }

    /// The morphs that run in this process, of all VMs or of one.
    async fn running_on(&self, only: Option<VmId>) -> Result<Vec<(MorphId, Abort)>, ControlError> {
        let all: Vec<(MorphId, Abort)> = {
            let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.iter().map(|(id, abort)| (*id, abort.clone())).collect()
        };
        let mut fitting = Vec::new();
        for (id, abort) in all {
            if only.is_none() || only == Some(self.morph(id).await?.plan.vm) {
                fitting.push((id, abort));
            }
        }
        Ok(fitting)
    }

    /// Arms again. VMs that were started meanwhile get their settings back.
    pub async fn arm(self: &Arc<Self>, scope: &ArmScope, actor: &str) -> Result<(), ControlError> {
        self.set_armed(scope, None, actor).await?;
        for record in self.vms().await?.into_iter().filter(|record| record.restoring) {
            self.restore_in_background(record);
        }
        Ok(())
    }
}
