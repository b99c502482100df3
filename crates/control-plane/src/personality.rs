//! What each VM is observed to be: every ten seconds the last minute of every VM that runs is judged, and what came of
//! it is kept. Must never ask anything of a VM, nor take a guest's word for more than advice.

mod collect;

mod teach;

mod view;

use crate::check;
use crate::control::{Control, ControlError, ControlEvent, key};
use crate::record::{RecordError, Records, TRIES, Versioned};
use crate::store::StoreError;
use crate::vm::VmRecord;
use proteus_brain::personality::label::Labels;
use proteus_brain::personality::{Judged, Lately, PersonalityRecord, Told};
use proteus_model::id::VmId;
use proteus_model::personality::{ChangeKind, Label, TraitVector, UNKNOWN};
use proteus_model::telemetry::FlowsBegun;
use proteus_model::unit::UnixMillis;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often VMs are judged: as often as a short bucket ends.
const JUDGE_EVERY: Duration = Duration::from_secs(10);
/// How often what is known is written where nothing was told.
const KEEP_EVERY_MS: u64 = 600_000;

/// How often, at most, where something was told: a guest that becomes something else again and again fills no disk.
const KEEP_TOLD_MS: u64 = 30_000;

/// Whether so long has passed since, or the clock was set back: then nobody knows.
fn is_due(since: UnixMillis, now: UnixMillis, every_ms: u64) -> bool {
    now < since || now.0 - since.0 >= every_ms
}

/// What was seen of a VM so long ago is no more what is, ms: the host looks at flows every half minute.
const SEEN_LATELY_MS: u64 = 90_000;

/// What of a VM's record is of now. What is absent is not known.
#[derive(Debug, Default)]
pub(crate) struct LatelySeen {
    pub(crate) traits: Option<TraitVector>,
    pub(crate) flows: Option<FlowsBegun>,
}

/// All VMs, as they are judged.
#[derive(Default)]
pub(crate) struct Personalities {
    vms: Mutex<HashMap<VmId, Judged>>,
    /// How the asking of agents goes. Locked after `vms` where both are.
    asking: Mutex<HashMap<VmId, collect::Asking>>,
    /// `None`: not read yet.
    labels: Mutex<Option<Arc<Labels>>>,
}

impl Personalities {
    fn vms(&self) -> MutexGuard<'_, HashMap<VmId, Judged>> {
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asking(&self) -> MutexGuard<'_, HashMap<VmId, collect::Asking>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn labels(&self) -> MutexGuard<'_, Option<Arc<Labels>>> {
        self.labels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The VM is no more.
    pub(crate) fn forget(&self, vm: VmId) {
        self.vms().remove(&vm);
        self.asking().remove(&vm);
    }

    /// The label that a VM bears, and how often it changed, of each kind; `None`: it was not judged since Proteus began.
    pub(crate) fn shown(&self, vm: VmId) -> Option<(Option<Label>, [u64; 2])> {
        let vms = self.vms();
        let judged = vms.get(&vm)?;
        Some((judged.label.borne().cloned(), judged.record.told))
    }

    /// What of a VM's record is of now, as its traits and whom it speaks to: what is older is not told.
    pub(crate) fn lately(&self, vm: VmId, now: UnixMillis) -> LatelySeen {
        let vms = self.vms();
        let Some(judged) = vms.get(&vm) else { return LatelySeen::default() };
        let is_new = |at: UnixMillis| !is_due(at, now, SEEN_LATELY_MS);
        let record = &judged.record;
        let flows = record.flows.as_ref().filter(|(at, _)| is_new(*at));
        LatelySeen {
            traits: record.at.filter(|at| is_new(*at)).map(|_| record.traits),
            flows: flows.map(|(_, all)| FlowsBegun { all: all.clone(), full: record.flows_full }),
        }
    }
}

/// Names records of personalities and taught prototypes that cannot be read.
pub(crate) async fn unreadable(records: &Records, found: &mut Vec<String>) -> Result<(), StoreError> {
    check::unreadable::<PersonalityRecord>(records, "personality/", found).await?;
    check::unreadable::<teach::Taught>(records, key::PROTOTYPES, found).await
}

impl Control {
    /// Judges all VMs now and again until Proteus ends.
    pub fn watch_personalities(self: &Arc<Self>) {
        let (control, stopped) = (self.clone(), self.stopped());
        self.spawn(async move {
            while tokio::time::timeout(JUDGE_EVERY, stopped.cancelled()).await.is_err() {
                if let Err(error) = control.judge_all().await {
                    tracing::warn!(%error, "VMs are not judged for now");
                }
            }
            control.keep_all_personalities().await;
        });
    }

    /// One look at the last minute of every VM that runs.
    async fn judge_all(self: &Arc<Self>) -> Result<(), ControlError> {
        let labels = self.labels().await?;
        let all = self.node.recent().await?;
        self.personalities.drop_users(&all.iter().map(|recent| recent.vm).collect(), self.now());
        for recent in all {
            if !self.personalities.vms().contains_key(&recent.vm)
                && let Err(error) = self.know(recent.vm).await
            {
                tracing::warn!(vm = %recent.vm, %error, "a VM is not judged for now");
                continue;
            }
            let at = self.now();
            let (told, due) = {
                let mut vms = self.personalities.vms();
                let Some(judged) = vms.get_mut(&recent.vm) else { continue };
                let seen = Lately {
                    buckets: &recent.buckets,
                    vcpus: recent.vcpus,
                    applications: recent.applications.as_deref(),
                };
                let told = judged.look(at, &seen, &labels);
                if recent.flows.is_some() {
                    judged.record.flows.clone_from(&recent.flows);
                    judged.record.flows_full = recent.flows_full;
                }
                judged.is_unkept |= told != Told::default();
                let due = judged.is_unkept && is_due(judged.kept_at, at, KEEP_TOLD_MS)
                    || judged.was_looked_at() && is_due(judged.kept_at, at, KEEP_EVERY_MS);
                (told, due)
            };
            if recent.applications.is_some() {
                self.collect_in_background(recent.vm);
            }
            if told != Told::default() {
                self.tell_personality(recent.vm, &told).await;
            }
            if due {
                self.keep_personality(recent.vm).await;
            }
        }
        Ok(())
    }

    /// Goes on where a VM's record ends; a clone that has none begins with what its template was.
    async fn know(&self, vm: VmId) -> Result<(), ControlError> {
        let Some(known) = self.records.get::<VmRecord>(&key::vm(vm)).await? else { return Ok(()) };
        let record = match self.kept_personality(vm).await? {
            Some(kept) => kept.value,
            None => match known.value.cloned_from {
                Some(template) => {
                    let of_template = self.kept_personality(template).await?.map(|kept| kept.value);
                    PersonalityRecord::inherited(self.now(), template, of_template)
                }
                None => PersonalityRecord::new(self.now()),
            },
        };
        let judged = Judged::resume(record, self.now());
        self.personalities.vms().entry(vm).or_insert(judged);
        Ok(())
    }

    /// What is kept of a VM. What cannot be read is put aside: the VM is known anew.
    async fn kept_personality(&self, vm: VmId) -> Result<Option<Versioned<PersonalityRecord>>, ControlError> {
        match self.records.get(&key::personality(vm)).await {
            Err(error @ RecordError::Damaged { .. }) => {
                let (key, aside) = (key::personality(vm), key::personality_aside(vm));
                self.records.put_aside(&key, &aside).await?;
                tracing::warn!(%vm, %error, %aside, "what was known of a VM cannot be read and is put aside");
                Ok(None)
            }
            other => Ok(other?),
        }
    }

    async fn tell_personality(&self, vm: VmId, told: &Told) {
        let Ok(record) = self.vm_of(vm).await else { return };
        let (label, _) = self.personalities.shown(vm).unwrap_or_default();
        let label = label.map_or_else(|| UNKNOWN.to_owned(), String::from);
        if let Some(kind) = told.change {
            tracing::info!(vm = %record.intent.name, %label, "{}", kind.name());
        }
        let what = told.change.map_or("label", ChangeKind::name);
        self.tell(ControlEvent::Personality { at: self.now(), vm: record.intent.name, what, label });
    }

    /// Writes down what is known of a VM. Where that fails it is tried again with the next look that is due.
    async fn keep_personality(&self, vm: VmId) {
        if let Err(error) = self.try_keep_personality(vm).await {
            tracing::warn!(%vm, %error, "what was learned of a VM is not written down yet");
        }
    }

    async fn try_keep_personality(&self, vm: VmId) -> Result<(), ControlError> {
        let known = {
            let mut vms = self.personalities.vms();
            let Some(judged) = vms.get_mut(&vm) else { return Ok(()) };
            (judged.kept_at, judged.is_unkept) = (self.now(), false);
            judged.memory()
        };
        for tries in 1.. {
            // Only for a VM that is there: one that is deleted meanwhile leaves nothing.
            let Some(there) = self.records.get::<VmRecord>(&key::vm(vm)).await? else { break };
            let rev = self.kept_personality(vm).await?.map(|kept| kept.rev);
            let batch = self.records.batch().only_if(&key::vm(vm), Some(there.rev))?;
            match self.records.commit(batch.put(&key::personality(vm), &known, rev)?).await {
                // The VM was changed in between, as by a morph.
                Err(RecordError::Conflict { .. }) if tries < TRIES => {}
                other => return Ok(other.map(drop)?),
            }
        }
        Ok(())
    }

    async fn keep_all_personalities(&self) {
        let all: Vec<VmId> = self.personalities.vms().keys().copied().collect();
        for vm in all {
            self.keep_personality(vm).await;
        }
    }

    /// The labels that VMs are known by: those that ship and those that were taught.
    async fn labels(&self) -> Result<Arc<Labels>, ControlError> {
        if let Some(labels) = self.personalities.labels().clone() {
            return Ok(labels);
        }
        let taught = self.taught().await?.into_iter().map(|(_, taught)| taught.value.prototype);
        let labels = Arc::new(Labels::with_taught(taught));
        *self.personalities.labels() = Some(labels.clone());
        Ok(labels)
    }
}
