//! What is kept of a VM's personality, bounded. Must never hold what only a person may tell.

use super::change::ChangeMemory;
use proteus_model::id::VmId;
use proteus_model::personality::{ChangeKind, Label, Labelled, PersonalityChange, TraitVector};
use proteus_model::telemetry::Application;
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
