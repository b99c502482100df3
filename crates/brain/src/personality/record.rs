//! What is kept of a VM's personality, bounded. Must never hold what only a person may tell.

use super::change::ChangeMemory;
use proteus_model::id::VmId;
use proteus_model::personality::{ChangeKind, Label, Labelled, PersonalityChange, TraitVector};
use proteus_model::telemetry::{Application, CollectIntent, Collector, Findings, FlowBegun};
use proteus_model::unit::UnixMillis;
use serde::{Deserialize, Serialize};

/// Labels and changes that are kept, the latest of each.
const KEPT: usize = 64;

/// One VM's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PersonalityRecord {
    /// Since when it is watched.
    pub since: UnixMillis,
    /// When it was last judged.
    pub at: Option<UnixMillis>,
    /// How often.
    pub looks: u64,
    /// Its last trait vector; what was not measured is not in it.
    pub traits: TraitVector,
    /// What was usual for it.
    #[serde(default)]
    pub usual: ChangeMemory,
    /// The labels that it bore, the oldest first.
    pub labels: Vec<Labelled>,
    /// Shifts and anomalies, the oldest first.
    pub changes: Vec<PersonalityChange>,
    /// How many shifts and anomalies were told, in all.
    pub told: [u64; 2],
    /// Its programs, and when they were heard of.
    pub applications: Option<(UnixMillis, Vec<Application>)>,
    /// Whom it spoke to in about the last hour by the host's count, and when that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<(UnixMillis, Vec<FlowBegun>)>,
    /// What the collectors inside it found last, and when they told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings: Option<(UnixMillis, Findings)>,
    /// The template that its first label is from.
    pub inherited_from: Option<VmId>,
}

impl PersonalityRecord {
    /// One of which nothing is known yet.
    pub fn new(since: UnixMillis) -> Self {
        Self {
            since,
            at: None,
            looks: 0,
            traits: TraitVector::default(),
            usual: ChangeMemory::default(),
            labels: Vec::new(),
            changes: Vec::new(),
            told: [0; 2],
            applications: None,
            flows: None,
            findings: None,
            inherited_from: None,
        }
    }

    /// A clone is at first what its template was. What the template went through is not the clone's.
    pub fn inherited(at: UnixMillis, template: VmId, of: Option<Self>) -> Self {
        let label = of.as_ref().and_then(Self::label).cloned();
        let mut record = Self::new(at);
        if label.is_some() {
            record.labelled(Labelled { since: at, label });
            record.inherited_from = Some(template);
        }
        record
    }

    /// The label that it bears.
    pub fn label(&self) -> Option<&Label> {
        self.labels.last()?.label.as_ref()
    }

    pub(super) fn judged(&mut self, at: UnixMillis, vector: &TraitVector) {
        self.at = Some(at);
        self.looks += 1;
        self.traits = *vector;
    }

    /// Keeps what its collectors found. Whether something of before is to be gone everywhere now.
    pub fn found(&mut self, at: UnixMillis, findings: Findings) -> bool {
        self.findings = Some((at, findings));
        false
    }

    /// Forgets what was found by collectors that are switched off.
    pub fn forget_collected(&mut self, intent: &CollectIntent) {
        let Some((_, findings)) = &mut self.findings else { return };
        for name in &intent.off {
            match name {
                Collector::Connections => findings.connections = None,
                Collector::Calls => findings.calls = None,
                Collector::Logs => findings.logs = None,
                Collector::Gpus => findings.gpus = None,
                Collector::Endpoints => findings.endpoints = None,
                Collector::Files | Collector::Configuration | Collector::Users => {}
            }
        }
    }

    pub(super) fn labelled(&mut self, labelled: Labelled) {
        self.labels.push(labelled);
        self.labels.drain(..self.labels.len().saturating_sub(KEPT));
    }

    pub(super) fn changed(&mut self, change: PersonalityChange) {
        self.told[usize::from(change.kind == ChangeKind::Anomaly)] += 1;
        self.changes.push(change);
        self.changes.drain(..self.changes.len().saturating_sub(KEPT));
    }
}
