//! Plans: asks the node what is and what can be, and lets the brain say what to do. Changes nothing.

use crate::control::{Control, ControlError, key};
use crate::vm::VmRecord;
use proteus_brain::plan::{
    Subject, Wishes, compose, compose_fresh_vmm, compose_rollback, wishes, with_snapshot,
};
use proteus_model::capability::CapabilityReport;
use proteus_model::execution::{State, Version};
use proteus_model::plan::Plan;
use proteus_model::profile::Profile;
use proteus_model::setting::{Knob, KnobKind, Setting};
use proteus_protocol::api::v1::DifferenceView;
use std::sync::Arc;

impl Control {
    /// What can be done to a VM live.
    pub async fn capabilities(&self, record: &VmRecord) -> Result<CapabilityReport, ControlError> {
        let report = self.node.capabilities(record.id).await;
        self.on_node(record, report).await
    }

    /// A VM as planning needs it. It must run: what it can do live is asked of it.
    async fn subject(&self, record: &VmRecord) -> Result<Subject, ControlError> {
        self.check_runs(record, "what it can do live is asked of it").await?;
        let capabilities = self.capabilities(record).await?;
        let target = self.node.read(record.id, &Knob::Memory).await.ok();
        let hot = self.node.read(record.id, &Knob::HotMemory).await.ok();
        let plugged = match hot {
            Some(Setting::HotMemory { plugged }) => plugged,
            _ => proteus_model::unit::Bytes::ZERO,
        };
        let measured = self.node.measure(record.id).await.unwrap_or_default();
        let (available, resident) = (measured.guest_available, measured.counters.resident);
        let memory = match (target, available) {
            (Some(Setting::Memory { target }), Some(available)) => {
                Some((target.saturating_add(plugged), available))
            }
            _ => None,
        };
        Ok(Subject {
            id: record.id,
            name: record.intent.name.clone(),
            intent: record.intent.clone(),
            version: record.version,
            generation: record.generation,
            capabilities,
            memory,
            resident,
        })
    }

    /// The same plan after a snapshot of disks and RAM.
    pub async fn plan_with_snapshot(&self, plan: Plan) -> Result<Plan, ControlError> {
        let record = self.vm_of(plan.vm).await?;
        Ok(with_snapshot(plan, &self.subject(&record).await?))
    }

    /// The values of the knobs, as far as they can be read.
    async fn read_all(
        &self,
        record: &VmRecord,
        knobs: impl Iterator<Item = Knob>,
    ) -> (Vec<Setting>, Vec<String>) {
        let (mut values, mut notes) = (Vec::new(), Vec::new());
        for knob in knobs {
            match self.node.read(record.id, &knob).await {
                Ok(setting) => values.push(setting),
                Err(error) => notes.push(format!("{knob} could not be read: {error}")),
            }
        }
        (values, notes)
    }

    /// What to say where `wish` is for a knob that somebody else changed since Proteus set it: such a knob is not
    /// turned, because Proteus does not fight an administrator.
    fn meddled(record: &VmRecord, wish: &Setting, now: &[Setting]) -> Option<String> {
        let knob = wish.knob();
        let ours = record.managed.iter().find(|setting| setting.knob() == knob)?;
        let found = now.iter().find(|setting| setting.knob() == knob)?;
        if moves_by_itself(knob.kind()) || ours.holds_in(found) || wish.holds_in(found) {
            return None;
        }
        Some(format!("{knob}: somebody else changed it from {ours} to {found}; left alone"))
    }

    /// Takes out what somebody else changed.
    fn leave_alone(record: &VmRecord, wishes: &mut Wishes, now: &[Setting]) {
        let Wishes { settings, notes, .. } = wishes;
        settings.retain(|wish| {
            let note = Self::meddled(record, &wish.setting, now);
            let keep = note.is_none();
            notes.extend(note);
            keep
        });
    }

    /// The plan that gives a VM a profile.
    pub async fn plan_profile(
        self: &Arc<Self>,
        vm: &str,
        profile: &Profile,
        digest: &str,
    ) -> Result<Plan, ControlError> {
        let record = self.settled_vm(vm).await?;
        let subject = self.subject(&record).await?;
        let mut wishes = wishes(profile, &subject);
        let (now, unread) =
            self.read_all(&record, wishes.settings.iter().map(|wish| wish.setting.knob())).await;
        Self::leave_alone(&record, &mut wishes, &now);
        let mut plan = compose(profile, digest, &subject, wishes, &now);
        plan.notes.extend(unread);
        Ok(plan)
    }

    /// The plan that leads back to an earlier version of a VM.
    pub async fn plan_rollback(self: &Arc<Self>, vm: &str, number: u64) -> Result<Plan, ControlError> {
        let record = self.settled_vm(vm).await?;
        let version = self.records.get::<Version>(&key::version(record.id, number)).await?;
        let missing = || ControlError::NotFound { kind: "version", name: format!("{number} of {vm}") };
        let version = version.ok_or_else(missing)?.value;
        let subject = self.subject(&record).await?;
        let mut settings = self.settings_at(&record, &version).await?;
        let (now, unread) = self.read_all(&record, settings.iter().map(Setting::knob)).await;
        let mut notes = unread;
        settings.retain(|wish| {
            let note = Self::meddled(&record, wish, &now);
            let keep = note.is_none();
            notes.extend(note);
            keep
        });
        let mut plan = compose_rollback(&subject, &version, &settings, &now);
        plan.notes.extend(notes);
        Ok(plan)
    }

    /// What every knob that was ever managed was at `version`: the version's own value, else the value that the
    /// first later morph found.
    async fn settings_at(&self, record: &VmRecord, version: &Version) -> Result<Vec<Setting>, ControlError> {
        let mut settings = version.settings.clone();
        for later in self.versions(record).await?.into_iter().filter(|v| v.number > version.number) {
            let Some(id) = later.morph else { continue };
            let morph = self.morph(id).await?;
            for before in morph.before {
                if settings.iter().all(|known| known.knob() != before.knob()) {
                    settings.push(before);
                }
            }
        }
        Ok(settings)
    }

    /// The versions of a VM, oldest first.
    pub async fn versions(&self, record: &VmRecord) -> Result<Vec<Version>, ControlError> {
        let all = self.records.list::<Version>(&format!("version/{}/", record.id)).await?;
        Ok(all.into_iter().map(|(_, version)| version.value).collect())
    }

    /// Where a VM differs from its record: managed knobs that read otherwise, and, where its last morph was undone,
    /// knobs of that morph that do not read as before it.
    pub async fn differences(&self, vm: &str) -> Result<Vec<DifferenceView>, ControlError> {
        let record = self.vm(vm).await?;
        self.check_answers(&record).await?;
        let mut expected = record.managed.clone();
        let last = self.morphs().await?.into_iter().find(|morph| morph.plan.vm == record.id);
        if let Some(morph) = last.filter(|morph| morph.state == State::RolledBack) {
            let left = |setting: &Setting| morph.left_alone.iter().any(|left| left.knob == setting.knob());
            for before in morph.before.iter().filter(|before| !left(before)) {
                if expected.iter().all(|known| known.knob() != before.knob()) {
                    expected.push(before.clone());
                }
            }
        }
        let mut differences = Vec::new();
        for recorded in expected {
            let found = self.node.read(record.id, &recorded.knob()).await;
            let found = self.on_node(&record, found).await?;
            if !recorded.holds_in(&found) {
                differences.push(DifferenceView { knob: recorded.knob(), recorded, found });
            }
        }
        Ok(differences)
    }

    /// The plan that puts a new VMM process under a VM.
    pub async fn plan_fresh_vmm(self: &Arc<Self>, vm: &str) -> Result<Plan, ControlError> {
        let record = self.settled_vm(vm).await?;
        Ok(compose_fresh_vmm(&self.subject(&record).await?))
    }
}

/// Knobs whose value a guest moves without anybody turning them: a balloon deflates under pressure, a restarted
/// service has threads with fresh priorities, a restarted guest has its vCPUs of the start.
pub(crate) fn moves_by_itself(kind: KnobKind) -> bool {
    match kind {
        KnobKind::Memory | KnobKind::HotMemory | KnobKind::Priority | KnobKind::Vcpus => true,
        KnobKind::CpuCap
        | KnobKind::CpuWeight
        | KnobKind::DiskLimit
        | KnobKind::NicRate
        | KnobKind::NetworkPolicy
        | KnobKind::Image
        | KnobKind::Sysctl
        | KnobKind::Thp
        | KnobKind::IoScheduler
        | KnobKind::AppPolicy => false,
    }
}
