//! One VM as it is judged, look by look: its traits, its label, what is usual for it, and what came of each look. Must
//! never judge the same minute twice.

use super::PersonalityRecord;
use super::change::ChangeWatch;
use super::label::{LabelWatch, Labels, Programs};
use super::traits::{TRAIT_BUCKETS, traits};
use proteus_model::personality::{ChangeKind, Judgement, Labelled, TraitVector};
use proteus_model::telemetry::{Application, Bucket, Tier};
use proteus_model::unit::UnixMillis;
use std::collections::VecDeque;

/// Vectors of lately that a label is learned from: two minutes.
const LATELY: usize = 12;

/// What was seen of a VM lately.
#[derive(Debug, Clone, Copy)]
pub struct Lately<'a> {
    /// Short buckets, the oldest first.
    pub buckets: &'a [Bucket],
    /// Its vCPUs, by its host.
    pub vcpus: u32,
    /// Its programs, where its guest is heard.
    pub applications: Option<&'a [Application]>,
}

/// One VM, as it is judged.
#[derive(Debug)]
pub struct Judged {
    /// What is kept of it.
    pub record: PersonalityRecord,
    /// The label that it bears.
    pub label: LabelWatch,
    /// What is usual for it.
    pub change: ChangeWatch,
    /// Begin of the last bucket that was judged.
    bucket: Option<UnixMillis>,
    /// The vectors of lately, the oldest first.
    pub lately: VecDeque<TraitVector>,
    /// The last judgement with all that is known, and by the host alone.
    pub judgements: Option<[Judgement; 2]>,
    /// When it was written down last, for whoever does that.
    pub kept_at: UnixMillis,
    /// Whether something was told since then, for the same.
    pub is_unkept: bool,
}

/// What one look told.
#[derive(Debug, Default, PartialEq)]
pub struct Told {
    /// It bears another label.
    pub label: bool,
    /// It is not what it was.
    pub change: Option<ChangeKind>,
}

impl Judged {
    /// Goes on where a record ends.
    pub fn resume(record: PersonalityRecord, at: UnixMillis) -> Self {
        Self {
            label: LabelWatch::resume(record.label().cloned()),
            change: ChangeWatch::resume(record.usual.clone()),
            bucket: None,
            lately: VecDeque::new(),
            judgements: None,
            record,
            kept_at: at,
            is_unkept: false,
        }
    }

    /// Whether there was anything to judge yet.
    pub fn was_looked_at(&self) -> bool {
        self.bucket.is_some()
    }

    /// All that is to be kept, as of now. What people consent to is not: it must be gone when they do so no longer, and
    /// the guest tells it again.
    pub fn memory(&mut self) -> PersonalityRecord {
        self.record.usual = self.change.memory();
        let mut kept = self.record.clone();
        kept.forget_users();
        kept
    }

    /// Judges the last minute.
    pub fn look(&mut self, at: UnixMillis, recent: &Lately<'_>, labels: &Labels) -> Told {
        let buckets = unbroken(recent.buckets);
        let newest = buckets.last().map(|bucket| bucket.begins_at);
        if newest.is_none() || newest == self.bucket {
            return Told::default();
        }
        self.bucket = newest;
        if let Some(applications) = recent.applications {
            self.record.used(at, applications);
        }
        let vector = traits(buckets, recent.vcpus);
        if vector.known().next().is_none() {
            return Told::default();
        }
        let programs: Option<Programs> =
            recent.applications.map(|all| all.iter().map(|app| (app.name.clone(), app.cpu_share)).collect());
        let whole = labels.judge(&vector, programs.as_ref());
        let host = labels.judge(&vector.of_host(), None);
        self.lately.push_back(vector);
        self.lately.drain(..self.lately.len().saturating_sub(LATELY));
        self.record.judged(at, &vector);
        let mut told = Told::default();
        if self.label.push(whole.label.as_ref()) {
            self.record.labelled(Labelled { since: at, label: self.label.borne().cloned() });
            told.label = true;
        }
        self.judgements = Some([whole, host]);
        if let Some(change) = self.change.push(at, &vector, self.label.borne(), labels) {
            told.change = Some(change.kind);
            self.record.changed(change);
        }
        told
    }
}

/// The buckets at the end that follow each other without a gap, at most a minute.
fn unbroken(buckets: &[Bucket]) -> &[Bucket] {
    let step = Tier::ALL[0].step_s * 1000;
    let follows = |pair: &&[Bucket]| pair[1].begins_at.0 == pair[0].begins_at.0 + step;
    let pairs = buckets.windows(2).rev().take_while(follows).count();
    let length = (pairs + 1).min(TRAIT_BUCKETS).min(buckets.len());
    &buckets[buckets.len() - length..]
}

#[cfg(test)]
mod tests;
