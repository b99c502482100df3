//! Templates and their clones: a VM is saved once, others begin from it in a moment. A clone has its template's
//! profile and settings, and nothing of its identity. Must never remove a template whose clones still read its disks.

use crate::control::{Control, ControlError};
use crate::record::Versioned;
use crate::vm::{VmRecord, not_given_back};
use proteus_model::id::{VmId, VmName};
use proteus_model::vm::{PowerState, VmIntent};
use proteus_protocol::node::v1::NodeErrorCode;
use serde_json::{Value, json};
use std::sync::Arc;

impl Control {
    /// Refuses what stands against making a VM a template, as far as its record and its host's word tell.
    async fn check_savable(&self, record: &VmRecord) -> Result<(), ControlError> {
        Self::check_no_morph(record)?;
        if let Some(template) = record.cloned_from {
            // It stays for as long as there are clones of it.
            let template = self.vm_of(template).await.map(|of| of.intent.name.to_string());
            let of = template.map(|name| format!(", of {name}")).unwrap_or_default();
            return Err(ControlError::Conflict {
                what: format!("{} is a clone itself{of}", record.intent.name),
                hint: "make a template of a VM that booted".into(),
            });
        }
        self.check_armed(record.id).await?;
        self.check_runs(record, "clones begin with what it has in memory").await
    }

    /// Refused as making the VM a template would be, and nothing is changed.
    pub async fn check_template(&self, name: &str) -> Result<VmRecord, ControlError> {
        let record = self.vm(name).await?;
        if record.template.is_none() {
            self.check_savable(&record).await?;
            let said = self.node.check_template(record.id).await;
            self.on_node(&record, said).await?;
        }
        Ok(record)
    }

    /// Makes a running VM a template. It ends, and never runs again.
    pub async fn make_template(&self, name: &str, actor: &str) -> Result<VmRecord, ControlError> {
        let _turn = self.in_hand(self.vm(name).await?.id).await;
        let record = self.vm(name).await?;
        if record.template.is_some() {
            return Ok(record);
        }
        let vm = &record.intent.name;
        self.check_savable(&record).await?;
        let begun = self.vm_entry(actor, "vm.template", &record, json!({}));
        let act = self.announce(begun, "vm.template_cut_short").await?;
        let saving = async {
            let saved = self.node.save_template(record.id).await;
            self.on_node(&record, saved).await
        };
        let disks = self.act(&act, saving, actor, "vm.template_failed", &record).await?;
        let entry = |record: &VmRecord| self.vm_entry(actor, "vm.template_made", record, json!({}));
        let made = |record: &mut VmRecord| {
            record.template = Some(disks.clone());
            (record.wanted, record.intent.autostart) = (false, false);
        };
        let told = async {
            let value = self.change_record_over(record.id, entry, made, Some(&act)).await?;
            self.withdraw(value.id).await?;
            Ok(value)
        };
        let done = |error: ControlError| {
            // The node knows by now that it is one, and says so again.
            error.after(format!("{vm} was saved and ended")).or_again(&format!("proteus vm template {vm}"))
        };
        let value = told.await.map_err(done)?;
        self.tell_vm(&value, "made a template");
        Ok(value)
    }

    /// The record that a clone would begin with: refused as starting it would be, and nothing is written.
    pub async fn check_clone(&self, template: &str, name: VmName) -> Result<VmRecord, ControlError> {
        self.new_clone(&self.vm(template).await?, name).await
    }

    /// What is to be done with a VM that is no template, so that there are clones of it: each next act is one that is
    /// taken once those before it are done.
    async fn way_to_clones(&self, record: &VmRecord) -> Result<String, ControlError> {
        let vm = &record.intent.name;
        if record.cloned_from.is_some() {
            return Ok("it is a clone itself: make a template of a VM that booted, and clone that".into());
        }
        let template = format!("`proteus vm template {vm}` makes it one; it ends then");
        Ok(match self.told_power(record.id).await? {
            PowerState::Running | PowerState::Unknown => template,
            PowerState::Stopped | PowerState::Paused => {
                format!("`proteus vm start {vm} --wait` first, then {template}")
            }
            PowerState::Hung => {
                format!(
                    "it hangs: `proteus vm stop {vm}`, then `proteus vm start {vm} --wait`, then {template}"
                )
            }
        })
    }

    async fn new_clone(&self, source: &VmRecord, name: VmName) -> Result<VmRecord, ControlError> {
        let Some(disks) = source.template.clone() else {
            return Err(ControlError::Conflict {
                what: format!("{} is no template", source.intent.name),
                hint: self.way_to_clones(source).await?,
            });
        };
        self.check_name_free(&name).await?;
        let intent = VmIntent { name, disks, autostart: false, ..source.intent.clone() };
        let mut record = VmRecord::new(VmId::from_bits(self.records.fresh()), intent, self.now());
        record.cloned_from = Some(source.id);
        record.cloning = true;
        record.profile = source.profile.clone();
        record.managed = source.managed.clone();
        record.wanted = true;
        record.restoring = !record.managed.is_empty();
        Ok(record)
    }

    /// Starts a new VM from a template.
    pub async fn clone_vm(
        self: &Arc<Self>,
        template: &str,
        name: VmName,
        actor: &str,
    ) -> Result<VmRecord, ControlError> {
        let _stays = self.kept(self.vm(template).await?.id).await;
        let source = self.vm(template).await?;
        let record = self.new_clone(&source, name).await?;
        let _turn = self.in_hand(record.id).await;
        let evidence = json!({ "template": source.intent.name });
        let rev = self.keep_new(&record, self.vm_entry(actor, "vm.clone", &record, evidence)).await?;
        let started = match self.admit(&record).await {
            Ok(()) => {
                self.node.start_clone(source.id, record.id, &record.intent).await.map_err(ControlError::from)
            }
            Err(error) => Err(error),
        };
        let times = match started {
            Ok(times) => times,
            Err(error) => {
                self.withdraw(record.id).await?;
                let mut entry = self.vm_entry(actor, "vm.delete", &record, json!({}));
                entry.why = format!("it could not be started: {error}");
                self.forget(&record, rev, entry).await?;
                return Err(error);
            }
        };
        let evidence = json!({ "ran_after_ms": times.ran, "own_after_ms": times.own });
        self.note_cloned(&record, actor, evidence).await;
        self.tell_vm(&record, "cloned");
        if record.restoring {
            self.restore_in_background(record.clone());
        }
        Ok(record)
    }

    /// Writes down that a clone is whole. Where that fails it runs all the same, and the next start of Proteus writes it.
    async fn note_cloned(&self, record: &VmRecord, actor: &str, evidence: Value) {
        let entry = |record: &VmRecord| self.vm_entry(actor, "vm.cloned", record, evidence.clone());
        if let Err(error) = self.change_record(record.id, entry, |record| record.cloning = false).await {
            tracing::warn!(vm = %record.intent.name, %error, "not written down that it was cloned");
        }
    }

    /// Removes clones whose making a crash cut short: nobody was told of them. What cannot be removed now is at the
    /// next start of Proteus.
    pub(crate) async fn remove_cut_short(&self) -> Result<(), ControlError> {
        for record in self.vms().await?.into_iter().filter(|record| record.cloning) {
            let removed = match self.node.is_whole(record.id).await {
                Ok(true) => {
                    self.note_cloned(&record, "proteus", json!({})).await;
                    continue;
                }
                Ok(false) => self.remove_clone(&record).await,
                // It did not come to have a place.
                Err(error) if error.code == NodeErrorCode::NotFound => self.remove_clone(&record).await,
                Err(error) => Err(error.into()),
            };
            match removed {
                Ok(()) => tracing::warn!(vm = %record.intent.name, "a clone that was cut short is removed"),
                Err(error) => {
                    tracing::warn!(vm = %record.intent.name, %error, "a clone that was cut short is not removed yet");
                }
            }
        }
        Ok(())
    }

    async fn remove_clone(&self, record: &VmRecord) -> Result<(), ControlError> {
        let _turn = self.in_hand(record.id).await;
        let left = self.node.delete(record.id).await?;
        self.withdraw(record.id).await?;
        let Versioned { value, rev } = self.find_vm_of(record.id).await?;
        let mut entry = self.vm_entry("proteus", "vm.clone_failed", &value, not_given_back(&left));
        entry.why = "its making was cut short: clone again".into();
        self.forget(&value, rev, entry).await
    }

    /// Refuses while a VM is there that began from this one.
    pub(crate) async fn check_no_clones(&self, record: &VmRecord) -> Result<(), ControlError> {
        let clones: Vec<String> = self
            .vms()
            .await?
            .into_iter()
            .filter(|other| other.cloned_from == Some(record.id))
            .map(|other| other.intent.name.to_string())
            .collect();
        if clones.is_empty() {
            return Ok(());
        }
        Err(ControlError::Conflict {
            what: format!(
                "{} is the template of {}: their disks lie over its own",
                record.intent.name,
                clones.join(", ")
            ),
            hint: "delete those first".into(),
        })
    }
}
