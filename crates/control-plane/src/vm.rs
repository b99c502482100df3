//! The VMs: made, started, stopped, removed. A VM's record is its truth; the node's seat follows from it.

mod ended;

mod forget;

mod halt;

mod power;

mod reboot;

mod rename;

mod restore;

mod start;

mod watch;

pub(crate) use power::not_running;

use crate::act::Announced;
use crate::audit::AuditRecord;
use crate::control::{Control, ControlError, ControlEvent, key};
use crate::record::{RecordError, TRIES, Versioned};
use crate::snapshot::GoingBack;
use crate::store::Rev;
use proteus_model::execution::Version;
use proteus_model::id::{Generation, MorphId, VmId, VmName};
use proteus_model::seed::SeedIntent;
use proteus_model::setting::Setting;
use proteus_model::unit::{Millis, UnixMillis};
use proteus_model::vm::{DiskIntent, PowerState, StopObserved, VmIntent, VmObserved};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::Path;

/// What helps with a seed that cannot be.
const SEED_HINT: &str = "`cloud-init schema --config-file FILE` checks more than Proteus does";

/// What is kept of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// Which.
    pub id: VmId,
    /// What its owner asked for.
    pub intent: VmIntent,
    /// When it was made.
    pub created_at: UnixMillis,
    /// Whether it shall run.
    pub wanted: bool,
    /// While it is started: whether it was to run before, which is so again if that fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted_before: Option<bool>,
    /// Rises with each committed morph.
    pub version: u64,
    /// Rises with each morph begun.
    pub generation: Generation,
    /// The profile that it has, as `name@version`.
    pub profile: Option<String>,
    /// Every knob that Proteus manages on it, as Proteus left it.
    pub managed: Vec<Setting>,
    /// The morph that holds it.
    pub morph: Option<MorphId>,
    /// Whether it was taken out of Proteus's hands.
    #[serde(default)]
    pub disarmed: bool,
    /// Where it was: whether a morph that ran then stays where it is, and is not undone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disarmed_hold: bool,
    /// Who took it out of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disarmed_by: Option<String>,
    /// Whether it was started and its managed knobs are still to be turned to where they were.
    #[serde(default)]
    pub restoring: bool,
    /// Rises with each start: tells the restore of this one from one that is left of the last.
    #[serde(default)]
    pub starts: u64,
    /// The snapshot that it is being put back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub going_back: Option<GoingBack>,
    /// It is a template: what its clones' disks are. It never runs again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Vec<DiskIntent>>,
    /// The template that it began from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloned_from: Option<VmId>,
    /// A clone that is being made: until that is over nobody was told of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cloning: bool,
}

impl VmRecord {
    /// A VM that does not run yet and is as its owner asked.
    pub(crate) fn new(id: VmId, intent: VmIntent, created_at: UnixMillis) -> Self {
        Self {
            id,
            intent,
            created_at,
            wanted: false,
            wanted_before: None,
            version: 0,
            generation: Generation::default(),
            profile: None,
            managed: Vec::new(),
            morph: None,
            disarmed: false,
            disarmed_hold: false,
            disarmed_by: None,
            restoring: false,
            starts: 0,
            going_back: None,
            template: None,
            cloned_from: None,
            cloning: false,
        }
    }
}

impl Control {
    /// The VM of this name or id. A name comes first: VMs made by earlier versions may be named like an id, and a
    /// command for such a VM must never reach another.
    pub(crate) async fn find_vm(&self, name: &str) -> Result<Versioned<VmRecord>, ControlError> {
        let named = match name.parse::<VmName>() {
            Ok(name) => self.records.get::<VmId>(&key::vm_name(&name)).await?.map(|found| found.value),
            Err(_) => None,
        };
        let unknown = || ControlError::NotFound { kind: "VM", name: name.chars().take(80).collect() };
        let id = named.or_else(|| name.parse().ok()).ok_or_else(unknown)?;
        self.records.get(&key::vm(id)).await?.ok_or_else(unknown)
    }

    /// The VM of this id, whatever others are named.
    pub(crate) async fn find_vm_of(&self, id: VmId) -> Result<Versioned<VmRecord>, ControlError> {
        let unknown = || ControlError::NotFound { kind: "VM", name: id.to_string() };
        self.records.get(&key::vm(id)).await?.ok_or_else(unknown)
    }

    /// The record of the VM of this id.
    pub(crate) async fn vm_of(&self, id: VmId) -> Result<VmRecord, ControlError> {
        Ok(self.find_vm_of(id).await?.value)
    }

    /// The record of a VM.
    pub async fn vm(&self, name: &str) -> Result<VmRecord, ControlError> {
        Ok(self.find_vm(name).await?.value)
    }

    /// All VMs, by name.
    pub async fn vms(&self) -> Result<Vec<VmRecord>, ControlError> {
        let mut all: Vec<VmRecord> =
            self.records.list("vm/").await?.into_iter().map(|(_, record)| record.value).collect();
        all.sort_by(|a, b| a.intent.name.cmp(&b.intent.name));
        Ok(all)
    }

    /// How a VM is.
    pub async fn observe_vm(&self, record: &VmRecord) -> Result<VmObserved, ControlError> {
        Ok(self.node.observe(record.id).await?)
    }

    pub(crate) fn tell_vm(&self, record: &VmRecord, what: &'static str) {
        self.tell(ControlEvent::Vm { at: self.now(), vm: record.intent.name.clone(), what });
    }

    /// The record that a VM would begin with: refused as making it would be, and nothing is written.
    pub async fn check_new_vm(&self, intent: VmIntent) -> Result<VmRecord, ControlError> {
        let invalid = |e: proteus_model::vm::IntentError| ControlError::Invalid {
            what: e.to_string(),
            hint: "see `proteus vm create --help`".into(),
        };
        intent.validate().map_err(invalid)?;
        if let Some(Err(problem)) = intent.seed.as_ref().map(SeedIntent::check) {
            return Err(ControlError::Invalid { what: problem.to_string(), hint: SEED_HINT.into() });
        }
        self.check_name_free(&intent.name).await?;
        self.check_fits(&intent).await?;
        self.node.check_files(&intent).await?;
        Ok(VmRecord::new(VmId::from_bits(self.records.fresh()), intent, self.now()))
    }

    /// Refuses a name that a VM has, or that reads as an id. It may be taken right after: the record's commit looks
    /// again.
    pub(crate) async fn check_name_free(&self, name: &VmName) -> Result<(), ControlError> {
        check_no_id(name)?;
        match self.records.get::<VmId>(&key::vm_name(name)).await? {
            Some(_) => Err(name_taken(name)),
            None => Ok(()),
        }
    }

    /// Makes a VM. It does not run yet.
    pub async fn create_vm(&self, intent: VmIntent, actor: &str) -> Result<VmRecord, ControlError> {
        let record = self.check_new_vm(intent).await?;
        let _turn = self.in_hand(record.id).await;
        let evidence = json!({ "intent": record.intent.without_secrets() });
        let rev = self.keep_new(&record, self.vm_entry(actor, "vm.create", &record, evidence)).await?;
        if let Err(error) = self.node.create(record.id, &record.intent).await {
            let mut entry = self.vm_entry(actor, "vm.delete", &record, json!({}));
            entry.why = format!("it could not be made: {error}");
            self.forget(&record, rev, entry).await?;
            return Err(error.into());
        }
        self.tell_vm(&record, "created");
        Ok(record)
    }

    /// Writes the first record of a VM; refused where its name is taken.
    pub(crate) async fn keep_new(&self, record: &VmRecord, entry: AuditRecord) -> Result<Rev, ControlError> {
        let first = Version {
            number: 0,
            goal: None,
            morph: None,
            at: self.now(),
            profile: record.profile.clone(),
            settings: record.managed.clone(),
        };
        let batch = self
            .records
            .batch()
            .put(&key::vm(record.id), record, None)?
            .put(&key::vm_name(&record.intent.name), &record.id, None)?
            .put(&key::version(record.id, 0), &first, None)?;
        match self.commit_audited(batch, entry).await {
            Err(ControlError::Record(RecordError::Conflict { .. })) => Err(name_taken(&record.intent.name)),
            other => other,
        }
    }

    /// What the audit log says of an act on a VM.
    pub(crate) fn vm_entry(
        &self,
        actor: &str,
        action: &str,
        record: &VmRecord,
        evidence: serde_json::Value,
    ) -> AuditRecord {
        self.entry(actor, action, &format!("vm/{}", record.intent.name), "asked for", evidence)
    }

    /// Changes the record of a VM together with the audit entry that tells of it; again where somebody else changed
    /// the record in between.
    pub(crate) async fn change_record(
        &self,
        vm: VmId,
        entry: impl Fn(&VmRecord) -> AuditRecord,
        change: impl Fn(&mut VmRecord),
    ) -> Result<VmRecord, ControlError> {
        self.change_record_over(vm, entry, change, None).await
    }

    /// The same, where that is what came of an act.
    pub(crate) async fn change_record_over(
        &self,
        vm: VmId,
        entry: impl Fn(&VmRecord) -> AuditRecord,
        change: impl Fn(&mut VmRecord),
        act: Option<&Announced>,
    ) -> Result<VmRecord, ControlError> {
        let change = |record: &mut VmRecord| {
            change(record);
            Ok(())
        };
        self.try_change_record(vm, entry, change, act).await
    }

    /// The same of a change that may be refused: then nothing is written.
    pub(crate) async fn try_change_record(
        &self,
        vm: VmId,
        entry: impl Fn(&VmRecord) -> AuditRecord,
        change: impl Fn(&mut VmRecord) -> Result<(), ControlError>,
        act: Option<&Announced>,
    ) -> Result<VmRecord, ControlError> {
        for _ in 0..TRIES {
            let Versioned { value: was, rev } = self.find_vm_of(vm).await?;
            let mut is = was.clone();
            change(&mut is)?;
            // What no longer shall run, or be touched, takes nothing: that is written on a full disk too.
            let mut batch = self.records.batch();
            if !is.wanted || is.disarmed {
                batch = batch.relief();
            }
            if is != was {
                batch = batch.put(&key::vm(vm), &is, Some(rev))?;
            }
            if let Some(act) = act {
                batch = act.over(batch)?;
            }
            match self.commit_audited(batch, entry(&is)).await {
                Err(ControlError::Record(RecordError::Conflict { .. })) => {}
                other => return other.map(|_| is),
            }
        }
        Err(RecordError::Conflict { key: key::vm(vm) }.into())
    }

    /// Stops a VM whose guest may take `grace` for it.
    pub async fn stop_vm(
        &self,
        name: &str,
        grace: Millis,
        actor: &str,
    ) -> Result<StopObserved, ControlError> {
        // A second stop may be less patient than the first.
        let _turn = self.kept(self.vm(name).await?.id).await;
        let entry = |record: &VmRecord| self.vm_entry(actor, "vm.stop", record, json!({}));
        let not_wanted = |record: &mut VmRecord| {
            (record.wanted, record.wanted_before, record.restoring) = (false, None, false);
        };
        let record = self.change_record(self.vm(name).await?.id, entry, not_wanted).await?;
        let stopped = self.node.stop(record.id, grace).await;
        let seen = stopped.map_err(|error| ControlError::from(error).named(&record))?;
        let told = async {
            self.withdraw(record.id).await?;
            let StopObserved { by_itself, answered, waited } = seen;
            let evidence = json!({ "by_itself": by_itself, "answered": answered, "waited_ms": waited });
            let entry = self.vm_entry(actor, "vm.stopped", &record, evidence);
            Ok(self.audit.append(entry).await?)
        };
        told.await.map_err(|error: ControlError| error.after(format!("{name} was stopped")))?;
        self.tell_vm(&record, "stopped");
        Ok(seen)
    }

    /// Refuses a VM that a morph holds.
    pub(crate) fn check_no_morph(record: &VmRecord) -> Result<(), ControlError> {
        match record.morph {
            None => Ok(()),
            Some(morph) => Err(ControlError::Conflict {
                what: format!("the morph {morph} holds {}", record.intent.name),
                hint: format!("wait for it, or `proteus morph abort {morph}`"),
            }),
        }
    }

    /// Refuses what stands against removing a VM, as far as its record and its host's word tell.
    async fn check_removable(&self, record: &VmRecord) -> Result<(), ControlError> {
        Self::check_no_morph(record)?;
        // Where nobody can tell, the host refuses with the reason.
        if self.node.power(record.id).await.is_ok_and(|power| power != PowerState::Stopped) {
            return Err(ControlError::Conflict {
                what: format!("{} runs", record.intent.name),
                hint: format!("`proteus vm stop {}` first", record.intent.name),
            });
        }
        self.check_no_clones(record).await
    }

    /// Refused as removing the VM would be, and nothing is changed.
    pub async fn check_delete(&self, name: &str) -> Result<(), ControlError> {
        let record = self.vm(name).await?;
        self.check_removable(&record).await?;
        Ok(self.node.check_delete(record.id).await?)
    }

    /// Removes a stopped VM with everything that Proteus made for it. Files of its owner's that could not be given back,
    /// and what to do about them.
    pub async fn delete_vm(&self, name: &str, actor: &str) -> Result<Vec<String>, ControlError> {
        let _turn = self.in_hand(self.vm(name).await?.id).await;
        let Versioned { value, rev } = self.find_vm(name).await?;
        self.check_removable(&value).await?;
        // Taken on a full disk too: it makes room.
        self.audit.append(self.vm_entry(actor, "vm.delete", &value, json!({}))).await?;
        let left = match self.node.delete(value.id).await {
            Ok(left) => left,
            Err(error) => {
                let entry = self.vm_entry(actor, "vm.delete_failed", &value, json!({}));
                self.tell_failed(self.records.batch().relief(), entry, &error.to_string()).await;
                return Err(error.into());
            }
        };
        let evidence = not_given_back(&left);
        let told = async {
            self.forget(&value, rev, self.vm_entry(actor, "vm.deleted", &value, evidence)).await?;
            self.withdraw(value.id).await
        };
        let done = |error: ControlError| {
            let again = format!("proteus vm delete {name}");
            // The next one finds nothing of it on the host, and could not tell this any more.
            let left: String = left.iter().map(|what| format!("; not given back: {what}")).collect();
            error.after(format!("{name} was removed from the host{left}")).or_again(&again)
        };
        told.await.map_err(done)?;
        self.tell_vm(&value, "deleted");
        Ok(left)
    }
}

impl Control {
    /// Refuses files of the host that are not for everybody. A VM's disk becomes its guest's to read, and where it is
    /// no overlay to write: whoever may name any file of the host would have it.
    pub(crate) fn check_may_name(&self, intent: &VmIntent) -> Result<(), ControlError> {
        let shared = self.shared_files.get().and_then(|dir| dir.canonicalize().ok());
        let is_shared = |path: &Path| {
            let whole = path.canonicalize().ok();
            whole.zip(shared.as_deref()).is_some_and(|(whole, shared)| whole.starts_with(shared))
        };
        let refused = |what: String| {
            ControlError::Forbidden {
            what,
            hint: "a token of the role operator makes VMs of what `proteus image build` made, and overlays over its \
                   disks; any other file of the host takes the role admin"
                .into(),
        }
        };
        let own = intent.disks.iter().find(|disk| !disk.overlay && !disk.read_only);
        if let Some(disk) = own {
            return Err(refused(format!("disks: {} would be the guest's to write to", disk.path.display())));
        }
        match intent.files().find(|file| !is_shared(file.path)) {
            Some(file) => {
                Err(refused(format!("{}: {} is not for everybody", file.field, file.path.display())))
            }
            None => Ok(()),
        }
    }
}

/// What the audit log says of files that a VM's removal could not give back.
pub(crate) fn not_given_back(left: &[String]) -> serde_json::Value {
    if left.is_empty() { json!({}) } else { json!({ "not_given_back": left }) }
}

/// Refuses a name that reads as an id: it could hide the VM that has that id. Not in the name's own parser, so that
/// records of VMs that were named so before stay readable.
fn check_no_id(name: &VmName) -> Result<(), ControlError> {
    match name.as_str().parse::<VmId>() {
        Ok(_) => Err(ControlError::Invalid {
            what: format!("name: {name} reads as the id of a VM"),
            hint: "choose a name that is not 32 hex digits".into(),
        }),
        Err(_) => Ok(()),
    }
}

fn name_taken(name: &VmName) -> ControlError {
    ControlError::Conflict {
        what: format!("there is a VM {name} already"),
        hint: "choose another name, or delete that VM first".into(),
    }
}
