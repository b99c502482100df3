//! The morph saga: carries out a plan on a VM, one journaled move at a time, and ends it committed, rolled back or
//! parked, whatever happens on the way. Must never act before the move that announces the act is journaled.
//!
//! validate → reserve → steps → verify → commit; from anywhere before the commit: undo in reverse → release.

mod journal;

mod recovery;

mod reservation;

mod step;

use crate::abort::{Abort, AbortHow, Told};
use crate::audit::AuditRecord;
use crate::control::{Control, ControlError, ControlEvent, key};
use crate::record::{RecordError, TRIES, Versioned};
use crate::verification::{names, windows};
use crate::vm::VmRecord;
use journal::Journal;
use proteus_model::execution::{Event, LeftAlone, Morph, State};
use proteus_model::id::MorphId;
use proteus_model::plan::{Goal, Plan};
use proteus_model::setting::Setting;
use proteus_model::unit::Millis;
use proteus_model::verification::{Baseline, VerificationReport};
use proteus_model::vm::{BootObserved, PowerState};
use serde_json::json;
use std::sync::PoisonError;
use std::time::Instant;

/// Why a saga leaves the forward path.
enum Stop {
    /// Undo, for this reason.
    GiveUp(String),
    /// Park, for this reason.
    Park(String),
    /// Proteus ends: it stays where it is, and the next start takes it up.
    Leave,
    /// The journal itself failed: nothing more may be done; it is taken up again later.
    Broken(ControlError),
}

impl From<ControlError> for Stop {
    fn from(error: ControlError) -> Self {
        Self::Broken(error)
    }
}

impl Control {
    /// The morph of `plan` as it would begin: refused as beginning it would be, or reserving what it needs, and
    /// nothing is written.
    pub async fn check_morph(&self, plan: Plan, actor: &str) -> Result<Morph, ControlError> {
        let (morph, Versioned { value: record, .. }) = self.new_morph(plan, actor).await?;
        self.check_runs(&record, "its knobs are turned while it runs").await?;
        self.check_reservation(&record, &morph).await?;
        Ok(morph)
    }

    /// A morph of `plan`, and its VM's record as it was read.
    async fn new_morph(&self, plan: Plan, actor: &str) -> Result<(Morph, Versioned<VmRecord>), ControlError> {
        self.check_armed(plan.vm).await?;
        let found = self.find_vm_of(plan.vm).await?;
        let record = &found.value;
        Self::check_no_morph(record)?;
        if (record.version, record.generation) != (plan.base_version, plan.base_generation) {
            return Err(ControlError::Conflict {
                what: format!("{} has changed since the plan was made", record.intent.name),
                hint: "plan again".into(),
            });
        }
        // A plan comes from outside: what is written down of it names the VM as it is called.
        let plan = Plan { vm_name: record.intent.name.clone(), ..plan };
        let morph = Morph {
            id: MorphId::from_bits(self.records.fresh()),
            plan,
            state: State::Planned,
            generation: record.generation.next(),
            actor: actor.to_owned(),
            began_at: self.now(),
            ended_at: None,
            boot: BootObserved::default(),
            before: Vec::new(),
            baseline: None,
            steps: Vec::new(),
            verification: None,
            left_alone: Vec::new(),
            reason: None,
            undo_ms: None,
        };
        Ok((morph, found))
    }

    /// Records a morph of `plan` and takes the VM in hand. It does not run yet.
    pub async fn begin_morph(&self, plan: Plan, actor: &str) -> Result<Morph, ControlError> {
        let (morph, Versioned { value: mut record, rev }) = self.new_morph(plan, actor).await?;
        (record.generation, record.morph) = (morph.generation, Some(morph.id));
        let batch = self.records.batch().put(&key::vm(record.id), &record, Some(rev))?;
        let batch = batch.put(&key::morph(morph.id), &morph, None)?;
        let subject = format!("vm/{}", record.intent.name);
        let evidence = json!({ "morph": morph.id, "goal": morph.plan.goal, "steps": morph.plan.steps.len() });
        let entry = self.entry(actor, "morph.begin", &subject, "asked for", evidence);
        self.commit_audited(batch, entry).await?;
        self.tell_morph(&morph, String::new());
        Ok(morph)
    }

    /// Runs a morph to its end. Where Proteus ends in one of its windows, it is left there.
    pub async fn run_morph(&self, id: MorphId) -> Result<Morph, ControlError> {
        let abort = Abort::default();
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(id, abort.clone());
        let outcome = self.drive(id, &abort).await;
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if let Ok(morph) = &outcome
            && morph.state.is_terminal()
            && !self.runs(morph.plan.vm).await
        {
            // It was stopped while the morph held its place.
            self.withdraw_if_stopped(morph.plan.vm).await?;
        }
        outcome
    }

    async fn drive(&self, id: MorphId, abort: &Abort) -> Result<Morph, ControlError> {
        // Told before a crash; unless it was told something else since.
        if let Some(how) = self.abort_asked(id).await?
            && abort.asked().is_none()
        {
            abort.ask(Told::abort(how));
        }
        let mut journal = Journal::open(self, id).await?;
        while !journal.morph().state.is_terminal() {
            let stop = match self.advance(&mut journal, abort).await {
                Ok(()) => continue,
                Err(stop) => stop,
            };
            match stop {
                Stop::GiveUp(reason) => self.give_up(&mut journal, reason).await?,
                Stop::Park(reason) => {
                    let steps = turned(journal.morph());
                    self.park(&mut journal, reason, steps).await?;
                }
                Stop::Leave => {
                    let (morph, state) = (journal.morph(), journal.morph().state.word());
                    tracing::info!(morph = %id, vm = %morph.plan.vm_name, state, "left for the next start");
                    break;
                }
                Stop::Broken(error) => return Err(error),
            }
        }
        Ok(journal.into_morph())
    }

    /// One move.
    async fn advance(&self, journal: &mut Journal<'_>, abort: &Abort) -> Result<(), Stop> {
        let forward = match journal.morph().state {
            State::Planned
            | State::Validated
            | State::Reserved
            | State::Applying { .. }
            | State::Verifying => true,
            State::Committing
            | State::Undoing { .. }
            | State::Releasing
            | State::Committed
            | State::RolledBack
            | State::Parked => false,
        };
        if forward {
            self.check_may_go_on(journal, abort).await?;
        }
        match journal.morph().state {
            State::Planned => self.validate(journal).await,
            State::Validated => self.reserve(journal).await,
            State::Reserved => self.begin_steps(journal, abort).await,
            State::Applying { step } => self.apply_step(journal, step).await,
            State::Verifying => self.verify(journal, abort).await,
            State::Committing => Ok(self.settle(journal).await?),
            State::Undoing { step } => self.undo_step(journal, step).await,
            State::Releasing => Ok(self.release(journal).await?),
            State::Committed | State::RolledBack | State::Parked => Ok(()),
        }
    }

    /// An abort or a disarm is honoured before any forward move (design, invariant 10).
    async fn check_may_go_on(&self, journal: &Journal<'_>, abort: &Abort) -> Result<(), Stop> {
        let told = match abort.asked() {
            Some(told) => told,
            None => match self.disarmed(journal.morph().plan.vm).await? {
                Some((_, told)) => told,
                None => return Ok(()),
            },
        };
        match told.how {
            AbortHow::Undo => Err(Stop::GiveUp(told.undone())),
            AbortHow::Hold if turned(journal.morph()) == 0 => {
                Err(Stop::GiveUp(format!("{} before anything was changed", told.held())))
            }
            AbortHow::Hold => Err(Stop::Park(told.held())),
        }
    }

    /// The plan must still fit the VM; the before-value of every knob is journaled.
    async fn validate(&self, journal: &mut Journal<'_>) -> Result<(), Stop> {
        let vm = journal.morph().plan.vm;
        let generation = journal.morph().generation;
        let node = |error: proteus_protocol::node::v1::NodeError| Stop::GiveUp(error.message);
        self.node.fence(vm, generation).await.map_err(node)?;
        let boot = self.node.boot(vm).await.map_err(node)?;
        let mut before = Vec::new();
        for knob in journal.morph().plan.knobs() {
            before.push(self.node.read(vm, &knob).await.map_err(node)?);
        }
        journal.move_on(Event::Validated, |morph| (morph.boot, morph.before) = (boot, before)).await?;
        Ok(())
    }

    async fn begin_steps(&self, journal: &mut Journal<'_>, abort: &Abort) -> Result<(), Stop> {
        if journal.morph().plan.steps.is_empty() {
            return Ok(journal.move_on(Event::StepsDone, |_| ()).await?);
        }
        let plan = &journal.morph().plan;
        let verify = plan.verify.clone();
        let (vm, window) = (plan.vm, windows(verify.as_ref()).0);
        let watched = self.watch(vm, verify.as_ref(), window, abort, |_| false).await;
        self.check_may_go_on(journal, abort).await?;
        let watched = watched.ok_or(Stop::Leave)?;
        self.check_still_the_same(journal.morph()).await?;
        let baseline = Baseline { stretches: watched.stretches, unhealthy_before: names(&watched.unhealthy) };
        let keep = |morph: &mut Morph| morph.baseline = Some(baseline);
        Ok(journal.move_on(Event::StepBegun { step: 0 }, keep).await?)
    }

    async fn verify(&self, journal: &mut Journal<'_>, abort: &Abort) -> Result<(), Stop> {
        let morph = journal.morph();
        let verify = morph.plan.verify.clone();
        let baseline = morph.baseline.clone().unwrap_or_default();
        if morph.plan.steps.is_empty() {
            // What was not changed is not judged.
            return Ok(journal.move_on(Event::Verified, |_| ()).await?);
        }
        let window = windows(verify.as_ref()).1;
        let enough = |looks: &[_]| proteus_brain::verification::is_plain_harm(&baseline, looks);
        let watched = self.watch(morph.plan.vm, verify.as_ref(), window, abort, enough).await;
        self.check_may_go_on(journal, abort).await?;
        let watched = watched.ok_or(Stop::Leave)?;
        // Where nothing is measured any more nothing shows harm.
        self.check_still_the_same(journal.morph()).await?;
        let unhealthy = names(&watched.unhealthy);
        let mut report =
            proteus_brain::verification::judge(verify.as_ref(), &baseline, &watched.stretches, &unhealthy);
        for name in &mut report.unhealthy {
            if let Some(failed) = watched.unhealthy.iter().find(|failed| failed.name == *name) {
                *name = format!("{name}: {}", failed.detail);
            }
        }
        let reason = (!report.passed).then(|| in_words(&report));
        match reason {
            None => Ok(journal.move_on(Event::Verified, |morph| morph.verification = Some(report)).await?),
            Some(reason) => {
                journal.note(|morph| morph.verification = Some(report));
                Err(Stop::GiveUp(reason))
            }
        }
    }

    /// A step is taken, and a window counts, only in the guest that the plan was checked in, running.
    async fn check_still_the_same(&self, morph: &Morph) -> Result<(), Stop> {
        if let Ok(seen) = self.node.observe(morph.plan.vm).await {
            match seen.power {
                PowerState::Stopped => return Err(Stop::GiveUp("the VM does not run any more".into())),
                PowerState::Hung => return Err(Stop::GiveUp("the VM's VMM does not answer".into())),
                PowerState::Running | PowerState::Paused | PowerState::Unknown => {}
            }
            if let Some(why) = seen.halted {
                return Err(Stop::GiveUp(format!("the VM stands still: {why}")));
            }
        }
        self.check_boot(morph).await
    }

    async fn check_boot(&self, morph: &Morph) -> Result<(), Stop> {
        match self.has_rebooted(morph).await {
            Ok(true) => Err(Stop::GiveUp("its guest started anew by itself".into())),
            // Where its host cannot tell, the step itself will.
            Ok(false) | Err(_) => Ok(()),
        }
    }

    async fn give_up(&self, journal: &mut Journal<'_>, reason: String) -> Result<(), ControlError> {
        let reason = by_name(journal.morph(), &reason);
        let begun = journal.morph().plan.steps.len().checked_sub(1);
        let last = match journal.morph().state {
            State::Applying { step } => Some(step),
            State::Verifying | State::Committing => begun,
            State::Planned
            | State::Validated
            | State::Reserved
            | State::Undoing { .. }
            | State::Releasing
            | State::Committed
            | State::RolledBack
            | State::Parked => None,
        };
        tracing::info!(morph = %journal.morph().id, vm = %journal.morph().plan.vm_name, %reason, "morph given up");
        journal.began_undo = Some(Instant::now());
        journal.move_on(Event::GiveUp { last }, |morph| morph.reason = Some(reason)).await
    }

    /// Parks it, with the first `steps` turned.
    async fn park(
        &self,
        journal: &mut Journal<'_>,
        reason: String,
        steps: usize,
    ) -> Result<(), ControlError> {
        let reason = by_name(journal.morph(), &reason);
        tracing::error!(morph = %journal.morph().id, vm = %journal.morph().plan.vm_name, %reason, "morph parked");
        let keep = |morph: &mut Morph| morph.reason = Some(reason);
        match steps {
            0 => journal.finish(Event::Park, keep, None).await,
            // The record says what the VM has now, and a rollback leads out of it.
            steps => {
                let after = move |record: &VmRecord, morph: &Morph| record_parked(record, morph, steps);
                journal.finish(Event::Park, keep, Some(&after)).await
            }
        }
    }

    /// What the audit log says of a morph that ended.
    pub(crate) fn end_entry(&self, morph: &Morph) -> AuditRecord {
        let evidence = json!({
            "morph": morph.id, "goal": morph.plan.goal, "outcome": morph.state.word(), "steps": morph.steps,
            "verification": morph.verification, "left_alone": morph.left_alone, "undo_ms": morph.undo_ms,
        });
        let why = morph.reason.clone().unwrap_or_else(|| "verified".into());
        let subject = format!("vm/{}", morph.plan.vm_name);
        self.entry(&morph.actor, "morph.end", &subject, &why, evidence)
    }

    /// A morph's record.
    pub async fn morph(&self, id: MorphId) -> Result<Morph, ControlError> {
        let found = self.records.get::<Morph>(&key::morph(id)).await?;
        found
            .map(|found| found.value)
            .ok_or_else(|| ControlError::NotFound { kind: "morph", name: id.to_string() })
    }

    /// All morphs, newest first.
    pub async fn morphs(&self) -> Result<Vec<Morph>, ControlError> {
        let mut all: Vec<Morph> =
            self.records.list("morph/").await?.into_iter().map(|(_, record)| record.value).collect();
        all.sort_by_key(|morph| std::cmp::Reverse((morph.began_at, morph.id)));
        Ok(all)
    }

    /// What a morph was told that is to stop.
    async fn abort_asked(&self, id: MorphId) -> Result<Option<AbortHow>, ControlError> {
        Ok(self.records.get::<AbortHow>(&key::abort(id)).await?.map(|found| found.value))
    }

    /// Stops a running morph. Written down first: it holds over a crash.
    pub async fn abort_morph(&self, id: MorphId, how: AbortHow, actor: &str) -> Result<Morph, ControlError> {
        for _ in 0..TRIES {
            let found = self.records.get::<Morph>(&key::morph(id)).await?;
            let Versioned { value: morph, rev } =
                found.ok_or_else(|| ControlError::NotFound { kind: "morph", name: id.to_string() })?;
            let Some(abort) = self.abort_of(id).filter(|_| !morph.state.is_terminal()) else {
                return Err(ControlError::Conflict {
                    what: format!("the morph {id} is {}", morph.state.word()),
                    hint: "only a running morph can be aborted; `proteus morph rollback` goes back a version"
                        .into(),
                });
            };
            let told = self.records.get::<AbortHow>(&key::abort(id)).await?.map(|found| found.rev);
            let batch = self.records.batch().relief().put(&key::abort(id), &how, told)?;
            let batch = batch.only_if(&key::morph(id), Some(rev))?;
            let subject = format!("vm/{}", morph.plan.vm_name);
            let entry = self.entry(actor, "morph.abort", &subject, "asked for", json!({ "morph": id }));
            match self.commit_audited(batch, entry).await {
                // It moved on in between, or somebody else told it too.
                Err(ControlError::Record(RecordError::Conflict { .. })) => {}
                Err(error) => return Err(error),
                Ok(_) => {
                    abort.ask(Told::abort(how));
                    return Ok(morph);
                }
            }
        }
        Err(RecordError::Conflict { key: key::morph(id) }.into())
    }

    pub(crate) fn tell_morph(&self, morph: &Morph, detail: String) {
        self.tell(ControlEvent::Morph {
            at: self.now(),
            morph: morph.id,
            vm: morph.plan.vm_name.clone(),
            state: morph.state.word(),
            detail,
        });
    }
}

/// What a node, which knows VMs by their ids only, said of the morph's VM, as people know that.
fn by_name(morph: &Morph, said: &str) -> String {
    said.replace(&morph.plan.vm.to_string(), morph.plan.vm_name.as_str())
}

/// Why verification failed, in one line.
fn in_words(report: &VerificationReport) -> String {
    let harms = report.comparisons.iter().filter(|comparison| comparison.harm);
    let harms = harms.map(|c| format!("{} {}", c.measure, c.why));
    let checks = report.unhealthy.iter().map(|check| format!("health check failed: {check}"));
    harms.chain(checks).collect::<Vec<_>>().join("; ")
}

/// Steps, from the first, whose knobs are turned.
fn turned(morph: &Morph) -> usize {
    match morph.state {
        // Announced, and not begun: a morph is only stopped before its next act.
        State::Applying { step } => step,
        State::Verifying | State::Committing | State::Committed => morph.plan.steps.len(),
        // What could not be undone counts as turned: where it is not so, it shows as a difference.
        State::Undoing { step } => step + 1,
        State::Planned
        | State::Validated
        | State::Reserved
        | State::Releasing
        | State::RolledBack
        | State::Parked => 0,
    }
}

/// What a VM's record becomes when a morph is parked after so many steps: it has no profile whole.
fn record_parked(record: &VmRecord, morph: &Morph, steps: usize) -> VmRecord {
    let mut partly = morph.clone();
    partly.plan.steps.truncate(steps);
    VmRecord { profile: None, ..record_after(record, &partly) }
}

/// What the VM's record becomes when a morph is committed.
fn record_after(record: &VmRecord, morph: &Morph) -> VmRecord {
    let mut next = record.clone();
    next.version += 1;
    next.morph = None;
    match &morph.plan.goal {
        Goal::Profile { label, .. } => next.profile = Some(label.clone()),
        Goal::Version { profile, .. } => next.profile.clone_from(profile),
        Goal::FreshVmm => {}
    }
    let left: Vec<_> = morph.left_alone.iter().map(|LeftAlone { knob, .. }| knob.clone()).collect();
    for step in &morph.plan.steps {
        if let proteus_model::plan::Change::Set { to, .. } = &step.change {
            let knob = to.knob();
            if !left.contains(&knob) {
                next.managed.retain(|setting| setting.knob() != knob);
                next.managed.push(to.clone());
            }
        }
    }
    for setting in &morph.plan.already {
        // Also where somebody else turned it there.
        next.managed.retain(|known| known.knob() != setting.knob() || known == setting);
        if !next.managed.contains(setting) {
            next.managed.push(setting.clone());
        }
    }
    next
}

/// Whether a VM is after a morph what its record says before it: then there is no new version of it.
fn changes_nothing(record: &VmRecord, morph: &Morph) -> bool {
    let after = record_after(record, morph);
    let same =
        |a: &[Setting], b: &[Setting]| a.len() == b.len() && a.iter().all(|setting| b.contains(setting));
    morph.plan.steps.is_empty() && after.profile == record.profile && same(&after.managed, &record.managed)
}

/// Milliseconds since `start`.
fn since(start: Instant) -> Millis {
    Millis::from(start.elapsed())
}
