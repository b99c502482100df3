//! Labels that people teach: a VM is pointed at and named, and what it was lately becomes a prototype. Must never learn
//! from a VM that is in the middle of a change.

use crate::control::{Control, ControlError, key};
use crate::record::Versioned;
use proteus_brain::personality::label::shipped;
use proteus_brain::personality::traits::median;
use proteus_model::personality::{Label, Prototype};
use proteus_model::unit::UnixMillis;
use proteus_protocol::api::v1::LabelView;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;

/// Fewest looks that a label is learned from: half a minute.
const LOOKS_MIN: usize = 3;
/// Programs that use at least so much of a VM's CPU are a part of what it is.
const SHARE_MIN: f32 = 0.1;
/// Most prototypes of a label: all of them are forgotten in one commit.
const TAUGHT_MAX: usize = 48;
/// Most prototypes that are taught in all.
const TAUGHT_IN_ALL_MAX: usize = 256;

/// A prototype that was taught.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Taught {
    pub prototype: Prototype,
    /// Who taught it.
    pub by: String,
    /// When.
    pub at: UnixMillis,
}

impl Control {
    /// Those that can be read; `proteus doctor` names the others.
    pub(super) async fn taught(&self) -> Result<Vec<(String, Versioned<Taught>)>, ControlError> {
        let (taught, damaged) = self.records.list_readable(key::PROTOTYPES).await?;
        for error in damaged {
            tracing::warn!(%error, "a prototype that was taught is left out");
        }
        Ok(taught)
    }

    /// Learns a label from a VM as it is now. `dry_run`: only says whether it could be.
    pub async fn teach(
        &self,
        vm: &str,
        label: Label,
        dry_run: bool,
        actor: &str,
    ) -> Result<LabelView, ControlError> {
        let record = self.vm(vm).await?;
        let name = &record.intent.name;
        let conflict = |what: String, hint: &str| ControlError::Conflict { what, hint: hint.into() };
        let (lately, departed, programs) = {
            let vms = self.personalities.vms();
            let judged = vms.get(&record.id);
            let lately: Vec<_> = judged.iter().flat_map(|judged| judged.lately.iter().copied()).collect();
            let applications = judged.and_then(|judged| judged.record.applications.as_ref());
            let most = applications.iter().flat_map(|(_, all)| all).filter(|app| app.cpu_share >= SHARE_MIN);
            let programs: Vec<String> = most.map(|app| app.name.clone()).collect();
            (lately, judged.is_some_and(|judged| judged.change.is_departed()), programs)
        };
        if lately.len() < LOOKS_MIN {
            let hint = "a label is learned from a VM that has run for a minute under its usual work";
            return Err(conflict(format!("too little is known of {name} yet"), hint));
        }
        if departed {
            let hint = "`proteus vm show VM --personality` tells when it has come to rest";
            return Err(conflict(format!("{name} is becoming something else just now"), hint));
        }
        let taught = self.taught().await?;
        let own = taught.iter().filter(|(_, taught)| taught.value.prototype.label == label).count();
        if own >= TAUGHT_MAX || taught.len() >= TAUGHT_IN_ALL_MAX {
            let what = format!(
                "{own} prototypes of {label} and {} in all are taught, and the most are {TAUGHT_MAX} and {TAUGHT_IN_ALL_MAX}",
                taught.len()
            );
            return Err(conflict(
                what,
                "`proteus personality forget LABEL` forgets what was taught of a label",
            ));
        }
        let traits = median(&lately);
        let at = self.now();
        if !dry_run {
            let evidence = json!({ "label": label, "looks": lately.len(), "traits": traits.known().count() });
            let prototype =
                Prototype { label: label.clone(), source: format!("VM {name}"), traits, programs };
            let taught = Taught { prototype, by: actor.to_owned(), at };
            let entry = self.vm_entry(actor, "personality.teach", &record, evidence);
            let batch = self.records.batch().put(&key::prototype(self.records.fresh()), &taught, None)?;
            self.commit_audited(batch, entry).await?;
            *self.personalities.labels() = None;
        }
        let all = self.known_labels().await?;
        let found = all.into_iter().find(|known| known.label == label.as_str());
        Ok(found.unwrap_or(LabelView { label: label.into(), sources: Vec::new(), taught: 0 }))
    }

    /// All labels that VMs are known by, in order.
    pub async fn known_labels(&self) -> Result<Vec<LabelView>, ControlError> {
        let mut all: BTreeMap<String, LabelView> = BTreeMap::new();
        let mut add = |prototype: Prototype, taught: usize| {
            let label = String::from(prototype.label);
            let known = LabelView { label: label.clone(), sources: Vec::new(), taught: 0 };
            let view = all.entry(label).or_insert(known);
            view.sources.push(prototype.source);
            view.taught += taught;
        };
        shipped().into_iter().for_each(|prototype| add(prototype, 0));
        for (_, taught) in self.taught().await? {
            add(taught.value.prototype, 1);
        }
        Ok(all.into_values().collect())
    }

    /// Forgets what was taught of a label; what shipped with Proteus stays. How many prototypes that were.
    pub async fn forget_label(
        &self,
        label: &Label,
        dry_run: bool,
        actor: &str,
    ) -> Result<usize, ControlError> {
        let mut own = self.taught().await?;
        own.retain(|(_, taught)| taught.value.prototype.label == *label);
        if own.is_empty() {
            return Err(ControlError::NotFound { kind: "taught label", name: label.to_string() });
        }
        if dry_run {
            return Ok(own.len());
        }
        let batch = own
            .iter()
            .try_fold(self.records.batch(), |batch, (key, taught)| batch.delete(key, taught.rev))?;
        let evidence = json!({ "prototypes": own.len() });
        let entry = self.entry(actor, "personality.forget", &format!("label/{label}"), "asked for", evidence);
        self.commit_audited(batch, entry).await?;
        *self.personalities.labels() = None;
        Ok(own.len())
    }
}
