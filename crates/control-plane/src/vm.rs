//! The VMs: made, started, stopped, removed. A VM's record is its truth; the node's seat follows from it.

use crate::control::{Control, ControlError, ControlEvent, key};
use crate::record::Versioned;
use proteus_model::capability::Ability;
use proteus_model::execution::Version;
use proteus_model::id::{Generation, MorphId, VmId, VmName};
use proteus_model::setting::{KnobKind, Setting};
use proteus_model::unit::{Millis, UnixMillis};
use proteus_model::vm::{PowerState, VmIntent, VmObserved};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for the agent of a VM whose settings are to be restored.
const AGENT_LIMIT: Duration = Duration::from_secs(300);
/// How often it is looked for.
const AGENT_POLL: Duration = Duration::from_millis(200);

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
}

impl Control {
    /// The VM of this name or id.
    pub(crate) async fn find_vm(&self, name: &str) -> Result<Versioned<VmRecord>, ControlError> {
        let unknown = || ControlError::NotFound { kind: "VM", name: name.chars().take(80).collect() };
        let id = match name.parse::<VmId>() {
            Ok(id) => id,
            Err(_) => {
                let name: VmName = name.parse().map_err(|_| unknown())?;
                self.records.get::<VmId>(&key::vm_name(&name)).await?.ok_or_else(unknown)?.value
            }
        };
        self.records.get(&key::vm(id)).await?.ok_or_else(unknown)
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

    fn tell_vm(&self, record: &VmRecord, what: &'static str) {
        self.tell(ControlEvent::Vm { at: self.now(), vm: record.intent.name.clone(), what });
    }

    /// Makes a VM. It does not run yet.
    pub async fn create_vm(&self, intent: VmIntent, actor: &str) -> Result<VmRecord, ControlError> {
        let invalid = |e: proteus_model::vm::IntentError| ControlError::Invalid {
            what: e.to_string(),
            hint: "see `proteus vm create --help`".into(),
        };
        intent.validate().map_err(invalid)?;
        check_files(&intent)?;
        let record = VmRecord {
            id: VmId::from_bits(self.records.fresh()),
            intent,
            created_at: self.now(),
            wanted: false,
            version: 0,
            generation: Generation::default(),
            profile: None,
            managed: Vec::new(),
            morph: None,
            disarmed: false,
        };
        let first = Version {
            number: 0,
            goal: None,
            morph: None,
            at: self.now(),
            profile: None,
            settings: Vec::new(),
        };
        let batch = self
            .records
            .batch()
            .put(&key::vm(record.id), &record, None)?
            .put(&key::vm_name(&record.intent.name), &record.id, None)?
            .put(&key::version(record.id, 0), &first, None)?;
        match self.records.commit(batch).await {
            Err(crate::record::RecordError::Conflict { .. }) => {
                return Err(ControlError::Conflict {
                    what: format!("there is a VM {} already", record.intent.name),
                    hint: "choose another name, or delete that VM first".into(),
                });
            }
            other => other?,
        };
        self.node.create(record.id, &record.intent).await?;
        self.note(actor, "vm.create", &record, json!({ "intent": record.intent })).await?;
        self.tell_vm(&record, "created");
        Ok(record)
    }

    async fn note(
        &self,
        actor: &str,
        action: &str,
        record: &VmRecord,
        evidence: serde_json::Value,
    ) -> Result<(), ControlError> {
        let subject = format!("vm/{}", record.intent.name);
        self.write_audit(actor, action, &subject, "asked for", evidence).await
    }

    async fn set_wanted(&self, name: &str, wanted: bool) -> Result<VmRecord, ControlError> {
        let Versioned { mut value, rev } = self.find_vm(name).await?;
        if value.wanted != wanted {
            value.wanted = wanted;
            self.records.commit(self.records.batch().put(&key::vm(value.id), &value, Some(rev))?).await?;
        }
        Ok(value)
    }

    /// Starts a VM, and gives it back the settings that its last morph left it with: a fresh VMM and a fresh guest
    /// know nothing of them.
    pub async fn start_vm(self: &Arc<Self>, name: &str, actor: &str) -> Result<VmRecord, ControlError> {
        let ran =
            self.observe_vm(&self.vm(name).await?).await.is_ok_and(|seen| seen.power != PowerState::Stopped);
        let record = self.set_wanted(name, true).await?;
        self.admit(&record).await?;
        self.node.create(record.id, &record.intent).await?;
        let started = self.node.start(record.id).await;
        if started.is_err() {
            self.withdraw(record.id).await?;
        }
        started?;
        self.note(actor, "vm.start", &record, json!({})).await?;
        self.tell_vm(&record, "started");
        if !ran && !record.managed.is_empty() {
            let (control, restored) = (self.clone(), record.clone());
            self.spawn(async move {
                if let Err(error) = control.restore_settings(&restored, AGENT_LIMIT).await {
                    tracing::warn!(vm = %restored.intent.name, %error, "settings not restored");
                }
            });
        }
        Ok(record)
    }

    /// Turns every managed knob of a VM that has just started, or went back to a snapshot, to where its record
    /// says; which are not there, and why. Waits for its agent up to `limit`. Ends early when Proteus ends, when
    /// the VM is taken out of its hands, and when a morph takes over.
    pub(crate) async fn restore_settings(
        &self,
        record: &VmRecord,
        limit: Duration,
    ) -> Result<Vec<String>, ControlError> {
        let stopped = self.stopped();
        let kinds: Vec<KnobKind> = record.managed.iter().map(|setting| setting.knob().kind()).collect();
        let start = Instant::now();
        while start.elapsed() < limit {
            let report = self.node.capabilities(record.id).await?;
            if kinds.iter().all(|kind| !kind.in_guest() || report.look_up(Ability::Knob(*kind)).is_ok()) {
                break;
            }
            // Cancel-safe: both only wait.
            tokio::select! {
                () = tokio::time::sleep(AGENT_POLL) => {}
                () = stopped.cancelled() => return Ok(Vec::new()),
            }
        }
        let mut failed = Vec::new();
        for setting in &record.managed {
            self.check_armed(record.id).await?;
            let now = self.node.read(record.id, &setting.knob()).await;
            if now.is_ok_and(|now| setting.holds_in(&now)) {
                continue;
            }
            if let Err(error) = self.node.apply(record.id, setting, record.generation).await {
                failed.push(format!("{}: {error}", setting.knob()));
            }
        }
        self.tell_vm(record, "restored");
        let evidence = json!({ "settings": record.managed.len(), "failed": failed });
        self.note("proteus", "vm.restore", record, evidence).await?;
        Ok(failed)
    }

    /// Stops a VM. `true`: the guest went by itself.
    pub async fn stop_vm(&self, name: &str, grace: Millis, actor: &str) -> Result<bool, ControlError> {
        let record = self.set_wanted(name, false).await?;
        let by_itself = self.node.stop(record.id, grace).await?;
        self.withdraw(record.id).await?;
        self.note(actor, "vm.stop", &record, json!({ "by_itself": by_itself })).await?;
        self.tell_vm(&record, "stopped");
        Ok(by_itself)
    }

    /// Removes a stopped VM with everything that Proteus made for it.
    pub async fn delete_vm(&self, name: &str, actor: &str) -> Result<(), ControlError> {
        let Versioned { value, rev } = self.find_vm(name).await?;
        if let Some(morph) = value.morph {
            return Err(ControlError::Conflict {
                what: format!("the morph {morph} holds the VM"),
                hint: format!("wait for it, or `proteus morph abort {morph}`"),
            });
        }
        if self.node.observe(value.id).await.is_ok_and(|seen| seen.power != PowerState::Stopped) {
            return Err(ControlError::Conflict {
                what: format!("{} runs", value.intent.name),
                hint: format!("`proteus vm stop {}` first", value.intent.name),
            });
        }
        self.node.delete(value.id).await?;
        let name_key = key::vm_name(&value.intent.name);
        let mut batch = self.records.batch().delete(&key::vm(value.id), rev)?;
        if let Some(named) = self.records.get::<VmId>(&name_key).await? {
            batch = batch.delete(&name_key, named.rev)?;
        }
        self.records.commit(batch).await?;
        self.withdraw(value.id).await?;
        self.note(actor, "vm.delete", &value, json!({})).await?;
        self.tell_vm(&value, "deleted");
        Ok(())
    }

    /// Starts what shall run and does not: after the host or Proteus started. What failed, by name.
    pub async fn start_wanted(self: &Arc<Self>) -> Result<Vec<(VmName, ControlError)>, ControlError> {
        let mut failed = Vec::new();
        for record in self.vms().await? {
            let name = record.intent.name.clone();
            let observed = self.node.observe(record.id).await;
            let runs = observed.is_ok_and(|seen| seen.power != PowerState::Stopped);
            if !runs
                && record.intent.autostart
                && record.wanted
                && let Err(error) = self.start_vm(name.as_str(), "autostart").await
            {
                failed.push((name, error));
            }
        }
        Ok(failed)
    }
}

/// The files of a VM must be there: better said now than by QEMU later.
fn check_files(intent: &VmIntent) -> Result<(), ControlError> {
    let boot = match &intent.boot {
        proteus_model::vm::Boot::Kernel { kernel, initrd, .. } => {
            vec![("boot.kernel", kernel), ("boot.initrd", initrd)]
        }
        proteus_model::vm::Boot::Firmware => Vec::new(),
    };
    let disks = intent.disks.iter().map(|disk| ("disks", &disk.path));
    let images = intent.images.iter().map(|image| ("images", &image.path));
    for (field, path) in boot.into_iter().chain(disks).chain(images) {
        if !path.is_file() {
            return Err(ControlError::Invalid {
                what: format!("{field}: there is no file {}", path.display()),
                hint: "give the path of an existing file; `proteus image build` makes guests and images"
                    .into(),
            });
        }
    }
    Ok(())
}
