//! Snapshots of VMs as their owners meet them: taken by hand or as the first step of a morph, listed with what the
//! VM's record said then, restored only when asked for. Must never restore by itself.

mod going_back;

pub use going_back::GoingBack;

use crate::control::{Control, ControlError, key};
use crate::record::{Batch, Versioned};
use crate::vm::{VmRecord, not_running};
use proteus_model::capability::Ability;
use proteus_model::id::{MorphId, SnapshotName};
use proteus_model::snapshot::{Snapshot, SnapshotOrigin};
use proteus_model::unit::Millis;
use proteus_model::vm::PowerState;
use proteus_protocol::node::v1::{NodeError, NodeErrorCode, StepCost};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for the agent of a restored guest: it runs already, and only its channel is new.
const AGENT_LIMIT: Duration = Duration::from_secs(60);

/// A snapshot with what the VM's record said when it was taken; `None`: Proteus ended before it wrote that down.
pub type Seen = (Snapshot, Option<SnapshotOrigin>);

/// What a restore came to.
#[derive(Debug, Clone)]
pub struct Restored {
    /// What it cost.
    pub cost: StepCost,
    /// Managed settings that were looked at and turned back to the record where they differed.
    pub settings: usize,
    /// Those that are not as recorded, and why.
    pub failed: Vec<String>,
}

fn origin_key(record: &VmRecord, name: &SnapshotName) -> String {
    format!("snapshot/{}/{name}", record.id)
}

fn origin_of(record: &VmRecord, name: &SnapshotName, actor: &str, morph: Option<MorphId>) -> SnapshotOrigin {
    SnapshotOrigin {
        name: name.clone(),
        version: record.version,
        profile: record.profile.clone(),
        actor: actor.to_owned(),
        morph,
    }
}

fn parse(name: &str) -> Result<SnapshotName, ControlError> {
    name.parse().map_err(|e: proteus_model::id::NameError| ControlError::Invalid {
        what: e.to_string(),
        hint: "choose a name of that form".into(),
    })
}

impl Control {
    /// A VM that runs and that no morph holds.
    async fn free_vm(&self, vm: &str) -> Result<Versioned<VmRecord>, ControlError> {
        let found = self.find_vm(vm).await?;
        Self::check_no_morph(&found.value)?;
        match self.told_power(found.value.id).await? {
            power @ (PowerState::Stopped | PowerState::Hung) => {
                Err(not_running(&found.value, power, "a snapshot holds RAM"))
            }
            PowerState::Running | PowerState::Paused | PowerState::Unknown => Ok(found),
        }
    }

    /// A VM's snapshots, oldest first.
    pub async fn snapshots(&self, vm: &str) -> Result<Vec<Seen>, ControlError> {
        let record = self.vm(vm).await?;
        let mut all = Vec::new();
        for snapshot in self.node.snapshots(record.id).await? {
            let origin = self.records.get::<SnapshotOrigin>(&origin_key(&record, &snapshot.name)).await?;
            all.push((snapshot, origin.map(|found| found.value)));
        }
        Ok(all)
    }

    async fn find_snapshot(&self, vm: &str, name: &SnapshotName) -> Result<Seen, ControlError> {
        let found = self.snapshots(vm).await?.into_iter().find(|(snapshot, _)| snapshot.name == *name);
        found.ok_or_else(|| ControlError::NotFound { kind: "snapshot", name: format!("{name} of {vm}") })
    }

    /// A name that no snapshot of a VM has; without one: `snapshot-1`, `snapshot-2`, …
    async fn free_name(&self, record: &VmRecord, name: Option<&str>) -> Result<SnapshotName, ControlError> {
        let vm = &record.intent.name;
        let taken = self.node.snapshots(record.id).await?;
        let free = || {
            let names = (1..=taken.len() + 1).map(|number| format!("snapshot-{number}"));
            names.into_iter().find(|name| taken.iter().all(|known| known.name.as_str() != name))
        };
        let name = parse(&name.map(str::to_owned).or_else(free).unwrap_or_default())?;
        if taken.iter().any(|known| known.name == name) {
            return Err(ControlError::Conflict {
                what: format!("{vm} has a snapshot {name} already"),
                hint: format!("choose another name, or `proteus vm snapshot delete {vm} {name}` first"),
            });
        }
        Ok(name)
    }

    /// The snapshot as it would be, and how long the guest would stand still at most: refused as taking it would be,
    /// and nothing is changed.
    pub async fn check_snapshot(
        &self,
        vm: &str,
        name: Option<&str>,
        actor: &str,
    ) -> Result<(Seen, Millis), ControlError> {
        let record = self.free_vm(vm).await?.value;
        let name = self.free_name(&record, name).await?;
        let report = self.capabilities(&record).await?;
        let blackout = match report.look_up(Ability::Snapshot) {
            Ok((_, blackout)) => blackout,
            Err(why) => {
                let message = format!("snapshot is not supported here: {why}");
                return Err(NodeError::new(NodeErrorCode::Unsupported, message).into());
            }
        };
        // More than it takes now it may take by then, up to all that it could have.
        let ram = record.intent.memory_max;
        let origin = origin_of(&record, &name, actor, None);
        Ok(((Snapshot { name, at: self.now(), ram }, Some(origin)), blackout))
    }

    /// Takes a snapshot by hand; without a name: `snapshot-1`, `snapshot-2`, …
    pub async fn create_snapshot(
        &self,
        vm: &str,
        name: Option<&str>,
        actor: &str,
    ) -> Result<(Seen, StepCost), ControlError> {
        let _turn = self.in_hand(self.vm(vm).await?.id).await;
        let record = self.free_vm(vm).await?.value;
        let name = self.free_name(&record, name).await?;
        let entry =
            |action: &str, evidence: serde_json::Value| self.vm_entry(actor, action, &record, evidence);
        let begun = entry("vm.snapshot.create", json!({ "snapshot": name }));
        let act = self.announce(begun, "vm.snapshot.create_cut_short").await?;
        let taking = self.node.create_snapshot(record.id, &name, record.generation);
        let cost = self.act(&act, taking, actor, "vm.snapshot.create_failed", &record).await?;
        let evidence = json!({ "began": act.began, "snapshot": name, "blackout_ms": cost.blackout_ms });
        let told = async {
            let batch = self.origin_batch(&record, &name, actor, None).await?;
            let batch = act.over(batch)?;
            self.commit_audited(batch, entry("vm.snapshot.created", evidence)).await
        };
        let done = |error: ControlError| error.after(format!("the snapshot {name} of {vm} was taken"));
        told.await.map_err(done)?;
        let seen = self.find_snapshot(vm, &name).await?;
        Ok((seen, cost))
    }

    /// What writes down what the record said when a snapshot was taken.
    pub(crate) async fn origin_batch(
        &self,
        record: &VmRecord,
        name: &SnapshotName,
        actor: &str,
        morph: Option<MorphId>,
    ) -> Result<Batch, ControlError> {
        let origin = origin_of(record, name, actor, morph);
        let key = origin_key(record, name);
        // One of a snapshot that is gone may have stayed.
        let old = self.records.get::<SnapshotOrigin>(&key).await?.map(|found| found.rev);
        Ok(self.records.batch().put(&key, &origin, old)?)
    }

    /// How many settings would be compared with the record after a restore: refused as that would be, and nothing is
    /// changed.
    pub async fn check_restore(&self, vm: &str, name: &str) -> Result<usize, ControlError> {
        self.find_snapshot(vm, &parse(name)?).await?;
        Ok(self.free_vm(vm).await?.value.managed.len())
    }

    /// Puts a VM back to a snapshot. Its record stays: what Proteus manages is turned to where the record says.
    pub async fn restore_snapshot(
        self: &Arc<Self>,
        vm: &str,
        name: &str,
        actor: &str,
    ) -> Result<Restored, ControlError> {
        let name = parse(name)?;
        let turn = self.in_hand(self.vm(vm).await?.id).await;
        let (snapshot, origin) = self.find_snapshot(vm, &name).await?;
        let Versioned { value: mut record, rev } = self.free_vm(vm).await?;
        // Plans that were made before it are no longer of this VM.
        record.generation = record.generation.next();
        let restoring = std::mem::replace(&mut record.restoring, !record.managed.is_empty());
        // The guest comes back in the boot that it was in then.
        record.starts += 1;
        let vmm = self.node.vmm(record.id).await?;
        record.going_back =
            Some(GoingBack { snapshot: name.clone(), actor: actor.to_owned(), vmm, restoring });
        let batch = self.records.batch().put(&key::vm(record.id), &record, Some(rev))?;
        let evidence = json!({ "snapshot": name, "taken_at": snapshot.at, "version": record.version,
            "version_then": origin.map(|origin| origin.version) });
        self.commit_audited(batch, self.vm_entry(actor, "vm.snapshot.restore", &record, evidence)).await?;
        let cost = match self.node.restore_snapshot(record.id, &name, record.generation).await {
            Ok(cost) => cost,
            Err(error) => {
                let error = ControlError::from(error).named(&record);
                if let Some(record) = self.note_not_gone_back(&record, &error.to_string()).await
                    && record.restoring
                {
                    // What gave them back took this for another start, and ended.
                    self.restore_in_background(record);
                }
                return Err(error);
            }
        };
        let evidence = json!({ "snapshot": name, "blackout_ms": cost.blackout_ms });
        self.note_gone_back(&record, "asked for", evidence).await;
        // A stop need not wait for a guest's agent.
        drop(turn);
        let failed = match self.restore_settings(&record, AGENT_LIMIT).await {
            Ok(failed) => failed,
            Err(ControlError::Disarmed { scope }) => {
                vec![format!("{scope}: settings inside the guest are those of the snapshot")]
            }
            Err(error) => return Err(error.after(format!("{vm} went back to {name}"))),
        };
        Ok(Restored { cost, settings: record.managed.len(), failed })
    }

    /// The VM of a snapshot: refused as forgetting that would be, and nothing is changed.
    pub async fn check_delete_snapshot(&self, vm: &str, name: &str) -> Result<VmRecord, ControlError> {
        let record = self.vm(vm).await?;
        self.find_snapshot(vm, &parse(name)?).await?;
        self.check_answers(&record).await?;
        Ok(record)
    }

    /// Forgets a snapshot.
    pub async fn delete_snapshot(&self, vm: &str, name: &str, actor: &str) -> Result<(), ControlError> {
        let _turn = self.in_hand(self.vm(vm).await?.id).await;
        let record = self.check_delete_snapshot(vm, name).await?;
        let name = parse(name)?;
        let entry = |action: &str| self.vm_entry(actor, action, &record, json!({ "snapshot": name }));
        let act = self.announce(entry("vm.snapshot.delete"), "vm.snapshot.delete_cut_short").await?;
        let deleting = self.node.delete_snapshot(record.id, &name);
        self.act(&act, deleting, actor, "vm.snapshot.delete_failed", &record).await?;
        let told = async {
            let key = origin_key(&record, &name);
            let mut batch = act.over(self.records.batch())?;
            if let Some(found) = self.records.get::<SnapshotOrigin>(&key).await? {
                batch = batch.delete(&key, found.rev)?;
            }
            self.commit_audited(batch, entry("vm.snapshot.deleted")).await
        };
        let done = |error: ControlError| error.after(format!("the snapshot {name} of {vm} was deleted"));
        told.await.map_err(done).map(drop)
    }
}
