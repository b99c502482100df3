//! All VMs of one libvirt, round by round: who came, who went, what each is. Must never drop a VM because libvirt did
//! not answer: only an answer without it does that.

use crate::domstats::{Domain, Listing};
use crate::place::{Kept, Place};
use crate::text::shown;
use crate::vm::{Happened, Vm};
use anyhow::Result;
use proteus_brain::personality::label::{Labels, shipped};
use proteus_brain::personality::{PersonalityRecord, Told};
use proteus_model::id::VmId;
use proteus_model::personality::{ChangeKind, UNKNOWN};
use proteus_model::unit::UnixMillis;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// How often what is known is written where nothing was told.
const KEEP_EVERY_MS: u64 = 600_000;
/// How often what is old is looked for.
const PRUNE_EVERY_MS: u64 = 24 * 3_600_000;

/// Something that is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub at: UnixMillis,
    /// Which VM.
    pub id: VmId,
    /// Its name.
    pub vm: String,
    /// `appeared`, `renamed`, `began`, `ended`, `gone`, `label`, `shift`, `anomaly`.
    pub event: &'static str,
    /// Its label, its state, or its name of before.
    pub detail: String,
}

/// How the rounds went.
#[derive(Debug, Clone, Default)]
pub struct Rounds {
    /// Those that brought an answer.
    pub done: u64,
    /// Those that did not.
    pub failed: u64,
    /// When the last answer came.
    pub at: Option<UnixMillis>,
    /// How long the last round took, ms: the answer, and what was made of it.
    pub took_ms: [u64; 2],
    /// Lines and sections of answers that were not understood or not believed.
    pub strange: u64,
    /// Why the last round failed, if it did.
    pub error: Option<String>,
}

/// All VMs.
pub struct Fleet {
    /// What VMs are known by.
    pub labels: Labels,
    /// Which libvirt.
    pub uri: String,
    /// How the rounds went.
    pub rounds: Rounds,
    /// `None`: nothing is kept.
    place: Option<Place>,
    vms: BTreeMap<VmId, Vm>,
    pruned_at: UnixMillis,
    /// Those of which nothing can be kept, which was told.
    unkept: BTreeSet<VmId>,
}

impl Fleet {
    /// No VM yet.
    pub fn new(uri: String, place: Option<Place>) -> Self {
        Self {
            labels: Labels::new(&shipped()),
            uri,
            rounds: Rounds::default(),
            place,
            vms: BTreeMap::new(),
            pruned_at: UnixMillis(0),
            unkept: BTreeSet::new(),
        }
    }

    /// All VMs, by id.
    pub fn vms(&self) -> impl Iterator<Item = &Vm> {
        self.vms.values()
    }

    /// Where things are kept.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// A VM by its name, its UUID or its id.
    pub fn vm(&self, word: &str) -> Option<&Vm> {
        find(self.vms.values(), word, |vm| (vm.domain.id, &vm.domain.name))
    }

    /// Takes in an answer of libvirt; `at` by the wall clock, `steady_ms` by the steady one.
    pub fn take(&mut self, listing: Listing, at: UnixMillis, steady_ms: u64) -> Vec<Event> {
        self.rounds.strange += listing.strange;
        let there: BTreeSet<VmId> = listing.domains.iter().map(|domain| domain.id).collect();
        let mut events = self.part(&there, at);
        for domain in listing.domains {
            self.look(domain, at, steady_ms, &mut events);
        }
        if let Some(place) =
            self.place.as_ref().filter(|_| at.0.saturating_sub(self.pruned_at.0) > PRUNE_EVERY_MS)
        {
            place.prune(at, |id| there.contains(&id));
            self.pruned_at = at;
        }
        events
    }

    fn look(&mut self, domain: Domain, at: UnixMillis, steady_ms: u64, events: &mut Vec<Event>) {
        let id = domain.id;
        if !self.vms.contains_key(&id) {
            match self.open(&domain, at) {
                Ok((vm, before)) => {
                    events.push(event(&vm, at, "appeared", domain.state.word().to_owned()));
                    if let Some(before) = before.filter(|before| *before != domain.name) {
                        events.push(event(&vm, at, "renamed", before));
                    }
                    self.vms.insert(id, vm);
                }
                Err(error) => {
                    if self.unkept.insert(id) {
                        tracing::warn!(vm = %shown(&domain.name), error = %format!("{error:#}"), "it is not watched");
                    }
                    return;
                }
            }
        }
        let Some(vm) = self.vms.get_mut(&id) else { return };
        let (happened, told) = vm.look(at, steady_ms, domain, &self.labels);
        events.extend(happened.iter().map(|what| told_of(vm, at, what)));
        if told.label {
            let label = vm.judged.label.borne().map_or_else(|| UNKNOWN.to_owned(), ToString::to_string);
            events.push(event(vm, at, "label", label));
        }
        if let Some(kind) = told.change {
            let label = vm.judged.label.borne().map_or_else(|| UNKNOWN.to_owned(), ToString::to_string);
            let what = if kind == ChangeKind::Shift { "shift" } else { "anomaly" };
            events.push(event(vm, at, what, label));
        }
        let due = keep_slot(id, at) != keep_slot(id, vm.judged.kept_at);
        if told != Told::default() || !happened.is_empty() || due {
            self.keep(id, at);
        }
    }

    /// One that is seen for the first time, and the name that it had when it was seen before.
    fn open(&self, domain: &Domain, at: UnixMillis) -> Result<(Vm, Option<String>)> {
        let Some(place) = &self.place else { return Ok((Vm::open(domain.clone(), at, None, None)?, None)) };
        let dir = place.make(domain.id)?;
        let kept = place.read(domain.id).unwrap_or_else(|error| {
            tracing::warn!(vm = %shown(&domain.name), error = %format!("{error:#}"), "its record is put aside");
            place.put_aside(domain.id);
            None
        });
        let (name, record): (Option<String>, Option<PersonalityRecord>) =
            kept.map(|kept| (kept.name, kept.record)).unzip();
        Ok((Vm::open(domain.clone(), at, Some(&dir), record)?, name))
    }

    /// VMs that are no more.
    fn part(&mut self, there: &BTreeSet<VmId>, at: UnixMillis) -> Vec<Event> {
        let gone: Vec<VmId> = self.vms.keys().filter(|id| !there.contains(id)).copied().collect();
        self.unkept.retain(|id| there.contains(id));
        let mut events = Vec::new();
        for id in gone {
            if let Some(vm) = self.vms.get_mut(&id) {
                vm.end();
                events.push(told_of(vm, at, &Happened::Gone));
            }
            self.keep(id, at);
            self.vms.remove(&id);
        }
        events
    }

    /// Writes down what is known of a VM. What fails is tried again when it is due next.
    fn keep(&mut self, id: VmId, at: UnixMillis) {
        let (Some(place), Some(vm)) = (&self.place, self.vms.get_mut(&id)) else { return };
        vm.judged.kept_at = at;
        let domain = &vm.domain;
        let kept = Kept {
            id,
            name: domain.name.clone(),
            state: domain.state,
            vcpus: domain.vcpus[0],
            memory: domain.memory[0],
            at,
            record: vm.judged.memory(),
        };
        if let Err(error) = place.write(&kept) {
            tracing::warn!(vm = %shown(&kept.name), error = %format!("{error:#}"), "what was learned of it is not kept yet");
        }
    }

    /// Nobody looks any more: all that was measured is kept.
    pub fn end(&mut self, at: UnixMillis) {
        let all: Vec<VmId> = self.vms.keys().copied().collect();
        for id in all {
            if let Some(vm) = self.vms.get_mut(&id) {
                vm.end();
            }
            self.keep(id, at);
        }
    }
}

/// Which of a VM's times to keep it this moment is in. Each VM has its own, or all would be written at once.
fn keep_slot(id: VmId, at: UnixMillis) -> u64 {
    let spread = u64::from_str_radix(&id.short(), 16).unwrap_or(0) % KEEP_EVERY_MS;
    at.0.saturating_add(spread) / KEEP_EVERY_MS
}

/// The one of this name, UUID or id. A name is looked for first: it may look like an id.
pub fn find<'a, T>(
    all: impl Iterator<Item = &'a T> + Clone,
    word: &str,
    of: impl Fn(&T) -> (VmId, &String),
) -> Option<&'a T> {
    let id: Option<VmId> = word.replace('-', "").to_ascii_lowercase().parse().ok();
    let mut named = all.clone().filter(|one| of(one).1 == word);
    named.next().or_else(|| id.and_then(|id| all.clone().find(|one| of(one).0 == id)))
}

fn event(vm: &Vm, at: UnixMillis, event: &'static str, detail: String) -> Event {
    Event { at, id: vm.domain.id, vm: vm.domain.name.clone(), event, detail }
}

fn told_of(vm: &Vm, at: UnixMillis, happened: &Happened) -> Event {
    let state = vm.domain.state.word().to_owned();
    match happened {
        Happened::Appeared => event(vm, at, "appeared", state),
        Happened::Renamed(before) => event(vm, at, "renamed", before.clone()),
        Happened::Began(_) => event(vm, at, "began", state),
        Happened::Ended => event(vm, at, "ended", state),
        Happened::Gone => event(vm, at, "gone", state),
    }
}

#[cfg(test)]
mod tests;
