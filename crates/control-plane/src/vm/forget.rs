//! Forgets a VM that is gone, and with it what only it gave a meaning: its versions, what was written down of its
//! snapshots, its morphs. What it was and what became of it stays in the audit log, whole: the begin of each morph with
//! its goal, its end with steps, verdict and reason. Must never touch that log, nor what a VM that is there can go back to.

use super::VmRecord;
use crate::audit::AuditRecord;
use crate::control::{Control, ControlError, key};
use crate::record::{Batch, RecordError};
use crate::store::Rev;
use proteus_model::execution::State;
use proteus_model::id::VmId;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Records that go in one commit: it may name 64 keys, and there are also the VM's own record, its name, and two of the
/// audit log.
const AT_ONCE: usize = 56;

/// A record of a VM, and the revision that it was read at.
struct Trace {
    key: String,
    vm: VmId,
    rev: Rev,
}

/// As much of a morph as tells whose it is, and whether it is over.
#[derive(Deserialize)]
struct MorphOf {
    plan: PlanOf,
    #[serde(flatten)]
    state: State,
}

#[derive(Deserialize)]
struct PlanOf {
    vm: VmId,
}

/// Whose a key is that has its VM after the first slash.
fn vm_of(key: &str) -> Option<VmId> {
    key.split('/').nth(1)?.parse().ok()
}

fn delete_all(batch: Batch, traces: &[Trace]) -> Result<Batch, RecordError> {
    traces.iter().try_fold(batch, |batch, trace| batch.delete(&trace.key, trace.rev))
}

impl Control {
    /// Every record that goes with a VM, of one or of all; the VMs' own records and names are not among them.
    async fn traces(&self, only: Option<VmId>) -> Result<Vec<Trace>, ControlError> {
        let mut all = Vec::new();
        for kind in ["version/", "snapshot/", "boot/", "personality/", "aside/"] {
            let prefix = match only {
                // Of some there is one record: its key ends with the VM.
                Some(vm) => format!("{kind}{vm}"),
                None => kind.to_owned(),
            };
            let found = self.records.list::<Value>(&prefix).await?;
            all.extend(
                found
                    .into_iter()
                    .filter_map(|(key, found)| Some(Trace { vm: vm_of(&key)?, key, rev: found.rev })),
            );
        }
        let told = self.records.list::<Value>("abort/").await?;
        for (key, found) in self.records.list::<MorphOf>("morph/").await? {
            let vm = found.value.plan.vm;
            // One that is not over yet has its journal written.
            if only.is_some_and(|only| only != vm) || !found.value.state.is_terminal() {
                continue;
            }
            let abort = key.replacen("morph/", "abort/", 1);
            if let Some((key, found)) = told.iter().find(|(key, _)| *key == abort) {
                all.push(Trace { key: key.clone(), vm, rev: found.rev });
            }
            all.push(Trace { key, vm, rev: found.rev });
        }
        Ok(all)
    }

    /// Removes a VM's record, which must still be at `rev`, frees its name, and removes what goes with it. Where that is
    /// more than a commit holds, the rest goes before: cut short, the VM is still there to be deleted again.
    pub(crate) async fn forget(
        &self,
        record: &VmRecord,
        rev: Rev,
        mut entry: AuditRecord,
    ) -> Result<(), ControlError> {
        let traces = self.traces(Some(record.id)).await?;
        let (before, last) = traces.split_at(traces.len().saturating_sub(AT_ONCE));
        // Each taken on a full disk too: it makes room.
        for part in before.chunks(AT_ONCE) {
            self.records.commit(delete_all(self.records.batch().relief(), part)?).await?;
        }
        let name_key = key::vm_name(&record.intent.name);
        let mut batch = self.records.batch().relief().delete(&key::vm(record.id), rev)?;
        if let Some(named) = self.records.get::<VmId>(&name_key).await? {
            batch = batch.delete(&name_key, named.rev)?;
        }
        let count = |kind: &str| traces.iter().filter(|trace| trace.key.starts_with(kind)).count();
        let forgotten = json!({ "versions": count("version/"), "snapshots": count("snapshot/"),
            "morphs": count("morph/") });
        if let Value::Object(evidence) = &mut entry.evidence {
            evidence.insert("forgotten".into(), forgotten);
        }
        self.commit_audited(delete_all(batch, last)?, entry).await?;
        self.seen.forget(record.id);
        self.personalities.forget(record.id);
        Ok(())
    }

    /// Removes what was left of VMs that are gone, as Proteus once left it. How many records that were.
    pub async fn forget_gone(&self) -> Result<usize, ControlError> {
        // These before the VMs: what belongs to one that is made meanwhile is not among them.
        let mut traces = self.traces(None).await?;
        let there: BTreeSet<VmId> = self.vms().await?.iter().map(|vm| vm.id).collect();
        traces.retain(|trace| !there.contains(&trace.vm));
        for part in traces.chunks(AT_ONCE) {
            let vms: BTreeSet<String> = part.iter().map(|trace| trace.vm.to_string()).collect();
            let evidence = json!({ "records": part.len(), "vms": vms });
            let why = "their VMs are gone";
            let entry = self.entry("proteus", "history.forget", "records", why, evidence);
            self.commit_audited(delete_all(self.records.batch().relief(), part)?, entry).await?;
        }
        Ok(traces.len())
    }
}
