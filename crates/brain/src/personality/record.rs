//! What is kept of a VM's personality, bounded. Must never hold what only a person may tell.

mod usage;

pub use usage::Counted;

use super::change::ChangeMemory;
use proteus_model::id::VmId;
use proteus_model::personality::{ChangeKind, Label, Labelled, PersonalityChange, TraitVector};
use proteus_model::telemetry::{
    Application, CollectIntent, Collector, ConfigurationChange, Findings, FlowBegun, Found,
};
use proteus_model::unit::UnixMillis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Labels and changes that are kept, the latest of each.
const KEPT: usize = 64;
/// Changes of the configuration inside that are kept, the latest.
pub const CHANGES_KEPT: usize = 256;

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
    /// What of their sums is from the count that goes on, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counted: BTreeMap<String, Counted>,
    /// Whom it spoke to in about the last ten minutes by the host's count, and when that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<(UnixMillis, Vec<FlowBegun>)>,
    /// Whether there were more than the host counts at one time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flows_full: bool,
    /// What the collectors inside it found last, and when they told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings: Option<(UnixMillis, Findings)>,
    /// The history of its configuration inside, and the number of the last change that was taken in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<(String, u64)>,
    /// Its latest changes by the host's clock, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub configured: Vec<ConfigurationChange>,
    /// Changes that were told no more when it was heard.
    #[serde(default)]
    pub configured_lost: u64,
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
            counted: BTreeMap::new(),
            flows: None,
            flows_full: false,
            findings: None,
            configuration: None,
            configured: Vec::new(),
            configured_lost: 0,
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

    /// Takes in what is heard of its programs at `at`.
    pub(super) fn used(&mut self, at: UnixMillis, seen: &[Application]) {
        let (_, mut kept) = self.applications.take().unwrap_or((at, Vec::new()));
        usage::add(&mut kept, &mut self.counted, seen);
        self.applications = Some((at, kept));
    }

    /// Forgets what was told of its users, as where nobody says any more that they consent.
    pub fn forget_users(&mut self) {
        if let Some((_, findings)) = &mut self.findings {
            findings.users = None;
        }
    }

    /// Of an answer that is not kept otherwise takes what it says of users: nothing, where they have withdrawn.
    pub fn hear_users(&mut self, told: Findings) {
        let Some((_, known)) = &mut self.findings else { return };
        let (then, now) = (known.now.0, told.now.0);
        // As old as it is, by the clock of what is kept.
        known.users = told.users.map(|found| Found {
            at: UnixMillis(then.saturating_sub(now.saturating_sub(found.at.0))),
            ..found
        });
    }

    /// Keeps what its collectors found at `at`.
    pub fn found(&mut self, at: UnixMillis, mut findings: Findings) {
        if let Some(configuration) = &mut findings.configuration {
            // Kept for longer than they are told: in a list of their own.
            let changes = std::mem::take(&mut configuration.value.changes);
            let history = (configuration.value.history.clone(), configuration.value.sequence);
            self.configured(at, findings.now, history, changes);
        }
        self.findings = Some((at, findings));
    }

    /// Takes in those changes that are new, by the host's clock.
    fn configured(
        &mut self,
        at: UnixMillis,
        guest_now: UnixMillis,
        (history, sequence): (String, u64),
        changes: Vec<ConfigurationChange>,
    ) {
        let heard_at = self.findings.as_ref().map_or(UnixMillis(0), |(at, _)| *at);
        let (known, earliest) = match &self.configuration {
            // What is new came after it was heard last, whatever the guest's clock was then.
            Some((same, known)) if *same == history => (*known, heard_at),
            // Another history, as of a guest that was made anew: all of it is new.
            _ => (0, UnixMillis(0)),
        };
        let first = changes.iter().map(|change| change.sequence).find(|sequence| *sequence > known);
        self.configured_lost += first.map_or(0, |first| first - known - 1);
        let by_host =
            |moment: UnixMillis| UnixMillis(at.0.saturating_sub(guest_now.0.saturating_sub(moment.0)));
        for mut change in changes.into_iter().filter(|change| change.sequence > known) {
            (change.at, change.after) = (by_host(change.at).max(earliest), by_host(change.after));
            self.configured.push(change);
        }
        self.configured.drain(..self.configured.len().saturating_sub(CHANGES_KEPT));
        self.configuration = Some((history, sequence));
    }

    /// Forgets what was found by collectors that are switched off, and of users and libraries where nobody asks for them.
    pub fn forget_collected(&mut self, intent: &CollectIntent) {
        if intent.off.contains(&Collector::Configuration) {
            (self.configuration, self.configured) = (None, Vec::new());
        }
        let Some((_, findings)) = &mut self.findings else { return };
        if !intent.users {
            findings.users = None;
        }
        if !intent.libraries {
            findings.libraries = None;
        }
        for name in &intent.off {
            match name {
                Collector::Connections => findings.connections = None,
                Collector::Calls => findings.calls = None,
                Collector::Logs => findings.logs = None,
                Collector::Gpus => findings.gpus = None,
                Collector::Endpoints => findings.endpoints = None,
                Collector::Files => findings.files = None,
                Collector::Configuration => findings.configuration = None,
                Collector::Users => findings.users = None,
                Collector::Libraries => findings.libraries = None,
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

#[cfg(test)]
mod tests {
    use super::*;
    use proteus_model::telemetry::{ConfigurationAspect, ConfigurationObserved, Consent, UsersObserved};

    fn change(sequence: u64, at: u64) -> ConfigurationChange {
        ConfigurationChange {
            sequence,
            at: UnixMillis(at),
            after: UnixMillis(at),
            aspect: ConfigurationAspect::Packages,
            name: "nginx".to_owned(),
            from: None,
            to: Some(sequence.to_string()),
            by: None,
        }
    }

    fn configured(history: &str, changes: Vec<ConfigurationChange>) -> Findings {
        let sequence = changes.last().map_or(0, |change| change.sequence);
        let history = history.to_owned();
        let value = ConfigurationObserved { history, sequence, changes, ..ConfigurationObserved::default() };
        let now = UnixMillis(5_000);
        Findings { now, configuration: Some(Found { at: now, value }), ..Findings::default() }
    }

    #[test]
    fn each_change_is_taken_in_once_and_by_the_hosts_clock() {
        let mut record = PersonalityRecord::new(UnixMillis(0));
        record.found(UnixMillis(100_000), configured("a", vec![change(1, 3_000), change(2, 4_000)]));
        record.found(
            UnixMillis(101_000),
            configured("a", vec![change(1, 3_000), change(2, 4_000), change(3, 5_000)]),
        );
        let at: Vec<u64> = record.configured.iter().map(|change| change.at.0).collect();
        assert_eq!(at, [98_000, 99_000, 101_000]);
        record.found(UnixMillis(102_000), configured("b", vec![change(1, 5_000)]));
        assert_eq!(record.configured.len(), 4, "a guest that was made anew begins anew");
        let many = (1..=2 * CHANGES_KEPT as u64).map(|sequence| change(sequence, 5_000)).collect();
        record.found(UnixMillis(103_000), configured("c", many));
        assert_eq!(record.configured.len(), CHANGES_KEPT);
        let off = CollectIntent { off: vec![Collector::Configuration], ..CollectIntent::default() };
        record.forget_collected(&off);
        assert!(record.configured.is_empty() && record.configuration.is_none());
    }

    #[test]
    fn a_change_from_before_the_guests_clock_was_right_came_after_it_was_heard_last() {
        let mut record = PersonalityRecord::new(UnixMillis(0));
        record.found(UnixMillis(100_000), configured("a", vec![change(1, 3_000)]));
        // By its own clock it was decades ago.
        let mut late = configured("a", vec![change(4, 3_000)]);
        late.now = UnixMillis(50_000_000);
        record.found(UnixMillis(200_000), late);
        let last = record.configured.last().unwrap();
        assert_eq!((last.sequence, last.at, record.configured_lost), (4, UnixMillis(100_000), 2));
    }

    #[test]
    fn a_withdrawal_is_heard_in_any_answer() {
        let value = UsersObserved { consent: Consent::Given, ..UsersObserved::default() };
        let users = Some(Found { at: UnixMillis(4_000), value });
        let told = Findings { now: UnixMillis(5_000), users: users.clone(), ..Findings::default() };
        let mut record = PersonalityRecord::new(UnixMillis(0));
        record.hear_users(told.clone());
        assert!(record.findings.is_none(), "of users alone no record is made");
        record.found(UnixMillis(9_000), told.clone());
        record.hear_users(Findings { now: UnixMillis(6_000), ..told });
        let shown = record.findings.as_ref().unwrap().1.users.clone().unwrap();
        assert_eq!(shown.at, UnixMillis(3_000), "two seconds old");
        record.hear_users(Findings { now: UnixMillis(7_000), ..Findings::default() });
        assert!(record.findings.unwrap().1.users.is_none());
    }

    #[test]
    fn what_nobody_asks_for_is_forgotten() {
        let value = UsersObserved { consent: Consent::Given, ..UsersObserved::default() };
        let users = Some(Found { at: UnixMillis(1), value });
        let mut record = PersonalityRecord::new(UnixMillis(0));
        record.found(UnixMillis(9), Findings { users: users.clone(), ..Findings::default() });
        record.forget_collected(&CollectIntent { users: true, ..CollectIntent::default() });
        assert_eq!(record.findings.as_ref().unwrap().1.users, users);
        record.forget_collected(&CollectIntent::default());
        assert!(record.findings.unwrap().1.users.is_none());
    }
}
