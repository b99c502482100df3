//! One VM as it is watched: from a domain's counters to its history and its personality, on the node's own way. Must
//! never tell a rate from one start of a VM to another, or over a change of its devices.

use crate::domstats::{Domain, Shape, State};
use proteus_brain::personality::label::Labels;
use proteus_brain::personality::{Judged, Lately, PersonalityRecord, Told};
use proteus_host_agent::telemetry::Intake;
use proteus_model::id::{NameError, VmId, VmName};
use proteus_model::unit::UnixMillis;
use proteus_model::vm::VmCounters;
use std::path::Path;

/// What a VM went through since it was looked at before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// It is seen for the first time, or again.
    Appeared,
    /// It has another name; this was its name.
    Renamed(String),
    /// It runs; before it was so.
    Began(State),
    /// It does not run any more.
    Ended,
    /// It is no more: undefined, or moved to another host.
    Gone,
}

/// One VM.
pub struct Vm {
    /// As libvirt told it last.
    pub domain: Domain,
    /// When.
    pub at: UnixMillis,
    /// What it is observed to be.
    pub judged: Judged,
    intake: Intake,
    /// What the last sums were of.
    shape: Shape,
    /// CPU time of its process when it was looked at last, and the most that was its own beside the vCPUs, ns.
    base: (Option<u64>, u64),
    running: bool,
}

/// A name that the node's own logs may have.
fn short_name(vm: VmId) -> Result<VmName, NameError> {
    format!("libvirt-{}", vm.short()).parse()
}

impl Vm {
    /// One whose history is in a folder; `None`: nothing of it is kept.
    pub fn open(
        domain: Domain,
        at: UnixMillis,
        dir: Option<&Path>,
        record: Option<PersonalityRecord>,
    ) -> Result<Self, NameError> {
        let name = short_name(domain.id)?;
        let intake = match dir {
            Some(dir) => Intake::open(dir, domain.id, name),
            None => Intake::unkept(domain.id, name),
        };
        let judged = Judged::resume(record.unwrap_or_else(|| PersonalityRecord::new(at)), at);
        Ok(Self { domain, at, judged, intake, shape: Shape::default(), base: (None, 0), running: false })
    }

    /// The way of its figures.
    pub fn intake(&self) -> &Intake {
        &self.intake
    }

    /// Takes in how it is now; `at` by the wall clock, `steady_ms` by the steady one.
    pub fn look(
        &mut self,
        at: UnixMillis,
        steady_ms: u64,
        domain: Domain,
        labels: &Labels,
    ) -> (Vec<Happened>, Told) {
        let mut happened = Vec::new();
        self.at = at;
        let before = std::mem::replace(&mut self.domain, domain);
        if before.name != self.domain.name {
            happened.push(Happened::Renamed(before.name));
        }
        if !self.domain.state.runs() {
            // What libvirt did not say of this round is no end.
            if self.running && self.domain.state != State::Unknown {
                self.end();
                happened.push(Happened::Ended);
            }
            return (happened, Told::default());
        }
        if !self.running {
            self.running = true;
            happened.push(Happened::Began(before.state));
        }
        let mut counters = self.domain.counters.clone();
        if self.began_anew(&counters) {
            self.begin_anew();
        }
        let mut shape = self.domain.shape.clone();
        shape.fill(std::mem::take(&mut self.shape));
        self.shape = shape;
        self.take_in(at, steady_ms, &mut counters);
        let buckets = self.intake.recent();
        let vcpus = self.domain.vcpus[0].unwrap_or(1).max(1);
        let seen = Lately { buckets: &buckets, vcpus, applications: None };
        (happened, self.judged.look(at, &seen, labels))
    }

    /// Whether these counters are not those of before: its process is another, or its devices are.
    fn began_anew(&self, counters: &VmCounters) -> bool {
        let less = counters.vmm_run_ns.zip(self.base.0).is_some_and(|(now, before)| now < before);
        less || !self.domain.shape.goes_on(&self.shape)
    }

    fn begin_anew(&mut self) {
        self.intake.begin_anew();
        (self.shape, self.base) = (Shape::default(), (None, 0));
    }

    fn take_in(&mut self, at: UnixMillis, steady_ms: u64, counters: &mut VmCounters) {
        self.base.0 = counters.vmm_run_ns.or(self.base.0);
        if let (Some(vmm), Some(vcpus)) = (counters.vmm_run_ns, counters.vcpu_run_ns) {
            // Libvirt reads the two one after the other, in hundredths of a second: what is between them only seems to
            // fall.
            self.base.1 = self.base.1.max(vmm.saturating_sub(vcpus));
            counters.vmm_run_ns = vcpus.checked_add(self.base.1);
        }
        self.intake.look(at, steady_ms, counters);
    }

    /// It does not run any more, or nobody looks at it any more: all that was measured is kept.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.running) {
            self.intake.end();
            self.begin_anew();
        }
    }
}

#[cfg(test)]
mod tests;
