//! One step of a morph, forwards and back. Both are idempotent: they look before they turn, so that a step that a
//! crash cut in half is simply taken again.

use super::journal::Journal;
use super::{Stop, changes_nothing, record_after, since};
use crate::control::{Control, ControlError};
use crate::plan::moves_by_itself;
use proteus_model::execution::{Event, LeftAlone, Morph, StepObserved};
use proteus_model::id::VmId;
use proteus_model::plan::Change;
use proteus_model::setting::{KnobKind, Setting};
use proteus_protocol::node::v1::{NodeError, NodeErrorCode, StepCost};
use std::time::Duration;

/// How often an undo is tried before an operator must look: an emulated guest under load misses one or two.
const UNDO_TRIES: u32 = 3;
/// Pause between tries.
const UNDO_PAUSE: Duration = Duration::from_millis(500);

/// How a forward step went.
enum Done {
    Turned(StepCost),
    LeftAlone(LeftAlone),
}

/// Whether `found` is on the way between two values of a knob that moves gradually.
fn is_between(a: &Setting, b: &Setting, found: &Setting) -> bool {
    let span = |x: u64, y: u64, z: u64| (x.min(y)..=x.max(y)).contains(&z);
    match (a, b, found) {
        (Setting::Memory { target: a }, Setting::Memory { target: b }, Setting::Memory { target: c })
        | (
            Setting::HotMemory { plugged: a },
            Setting::HotMemory { plugged: b },
            Setting::HotMemory { plugged: c },
        ) => span(a.0, b.0, c.0),
        (Setting::Vcpus { online: a }, Setting::Vcpus { online: b }, Setting::Vcpus { online: c }) => {
            span(u64::from(*a), u64::from(*b), u64::from(*c))
        }
        // One direction is set after the other.
        (Setting::NicRate { rate: a }, Setting::NicRate { rate: b }, Setting::NicRate { rate: c }) => {
            let one_of = |a, b, c| c == a || c == b;
            one_of(a.to_guest, b.to_guest, c.to_guest) && one_of(a.from_guest, b.from_guest, c.from_guest)
        }
        // Threads change one after the other.
        (Setting::Priority { .. }, Setting::Priority { .. }, Setting::Priority { .. }) => true,
        _ => false,
    }
}

impl Control {
    async fn turn(&self, journal: &Journal<'_>, to: &Setting) -> Result<Done, NodeError> {
        let morph = journal.morph();
        let (vm, knob) = (morph.plan.vm, to.knob());
        let found = self.node.read(vm, &knob).await?;
        let before = morph.before.iter().find(|setting| setting.knob() == knob);
        if let Some(before) = before
            && !moves_by_itself(knob.kind())
            && !before.holds_in(&found)
            && !to.holds_in(&found)
        {
            return Ok(Done::LeftAlone(LeftAlone { knob, ours: before.clone(), found }));
        }
        if to.holds_in(&found) {
            return Ok(Done::Turned(StepCost::default()));
        }
        self.node.apply(vm, to, morph.generation).await.map(Done::Turned)
    }

    /// Takes the step that was announced.
    pub(super) async fn apply_step(&self, journal: &mut Journal<'_>, step: usize) -> Result<(), Stop> {
        self.check_boot(journal.morph()).await?;
        let plan = &journal.morph().plan;
        let change = plan.steps[step].change.clone();
        let last = step + 1 == plan.steps.len();
        let done = match &change {
            Change::Set { to, .. } => self.turn(journal, to).await,
            Change::Snapshot { name, .. } => {
                let taken = self.node.create_snapshot(plan.vm, name, journal.morph().generation).await;
                if taken.is_ok() {
                    let record = self.vm_of(plan.vm).await?;
                    let morph = journal.morph();
                    let origin = self.origin_batch(&record, name, &morph.actor, Some(morph.id)).await?;
                    self.records.commit(origin).await.map_err(ControlError::from)?;
                }
                taken.map(Done::Turned)
            }
            Change::ReplaceVmm => {
                self.node.replace_vmm(plan.vm, journal.morph().generation).await.map(Done::Turned)
            }
        };
        let done =
            done.map_err(|error| Stop::GiveUp(format!("step {} failed: {}", step + 1, error.message)))?;
        let event = if last { Event::StepsDone } else { Event::StepBegun { step: step + 1 } };
        let keep = |morph: &mut Morph| match done {
            Done::Turned(cost) => {
                let StepCost { took_ms, blackout_ms } = cost;
                morph.steps.push(StepObserved { step, took_ms, blackout_ms });
            }
            Done::LeftAlone(left) => morph.left_alone.push(left),
        };
        Ok(journal.move_on(event, keep).await?)
    }

    /// Turns the knob back, unless somebody else has turned it since.
    async fn turn_back(
        &self,
        vm: VmId,
        journal: &Journal<'_>,
        ours: &Setting,
    ) -> Result<Option<LeftAlone>, NodeError> {
        let morph = journal.morph();
        let knob = ours.knob();
        let Some(before) = morph.before.iter().find(|setting| setting.knob() == knob) else {
            return Ok(None);
        };
        let found = self.node.read(vm, &knob).await?;
        if before.holds_in(&found) {
            return Ok(None);
        }
        let is_ours =
            ours.holds_in(&found) || is_between(before, ours, &found) || knob.kind() == KnobKind::Vcpus;
        if !is_ours {
            return Ok(Some(LeftAlone { knob, ours: ours.clone(), found }));
        }
        self.node.apply(vm, before, morph.generation).await.map(|_| None)
    }

    /// What was set inside the last boot of a guest is gone with it, but for what was set while it started anew.
    async fn is_gone_with_its_boot(&self, morph: &Morph, ours: &Setting) -> bool {
        if !ours.knob().kind().in_guest() || !self.has_rebooted(morph).await.unwrap_or(false) {
            return false;
        }
        let found = self.node.read(morph.plan.vm, &ours.knob()).await;
        !found.is_ok_and(|found| ours.holds_in(&found))
    }

    /// Takes a step back.
    pub(super) async fn undo_step(&self, journal: &mut Journal<'_>, step: usize) -> Result<(), Stop> {
        let vm = journal.morph().plan.vm;
        let already_left = |setting: &Setting, journal: &Journal<'_>| {
            journal.morph().left_alone.iter().any(|left| left.knob == setting.knob())
        };
        let change = journal.morph().plan.steps[step].change.clone();
        let mut left = None;
        if let Change::Set { to, .. } = &change
            && !already_left(to, journal)
        {
            let mut tries = 0;
            left = loop {
                tries += 1;
                if self.is_gone_with_its_boot(journal.morph(), to).await {
                    break None;
                }
                match self.turn_back(vm, journal, to).await {
                    Ok(left) => break left,
                    // A VM that does not run has no knobs: it starts as it was.
                    Err(error) if error.code == NodeErrorCode::NotRunning => break None,
                    Err(error) if tries == UNDO_TRIES => {
                        let reason = format!("step {} could not be undone: {}", step + 1, error.message);
                        return Err(Stop::Park(reason));
                    }
                    Err(error) => {
                        tracing::warn!(%vm, step, %error, "undo tried again");
                        tokio::time::sleep(UNDO_PAUSE).await;
                    }
                }
            };
        }
        let keep = |morph: &mut Morph| morph.left_alone.extend(left);
        Ok(journal.move_on(Event::StepUndone { step }, keep).await?)
    }

    /// All is undone: gives back what was reserved and frees the VM.
    pub(super) async fn release(&self, journal: &mut Journal<'_>) -> Result<(), ControlError> {
        let undo_ms = journal.began_undo.map(since);
        journal.finish(Event::Released, |morph| morph.undo_ms = undo_ms, None).await
    }

    /// All is verified: the VM's record becomes what the VM is.
    pub(super) async fn settle(&self, journal: &mut Journal<'_>) -> Result<(), ControlError> {
        // Nobody else changes what is compared while the morph holds the VM.
        let record = self.vm_of(journal.morph().plan.vm).await?;
        if changes_nothing(&record, journal.morph()) {
            let reason = format!("nothing changes: all is so already, and version {} stays", record.version);
            return journal.finish(Event::Recorded, |morph| morph.reason = Some(reason), None).await;
        }
        journal.finish(Event::Recorded, |_| (), Some(&record_after)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proteus_model::setting::NicRate;
    use proteus_model::unit::BytesPerSec;

    #[test]
    fn a_link_rate_that_was_cut_short_is_ours_and_another_is_not() {
        let rate = |to_guest: Option<u64>, from_guest: Option<u64>| Setting::NicRate {
            rate: NicRate { to_guest: to_guest.map(BytesPerSec), from_guest: from_guest.map(BytesPerSec) },
        };
        let (before, ours) = (rate(None, Some(5)), rate(Some(20), Some(20)));
        for (found, between) in [
            (rate(Some(20), Some(5)), true),
            (rate(None, Some(20)), true),
            (rate(Some(7), Some(5)), false),
            (rate(Some(20), None), false),
        ] {
            assert_eq!(is_between(&before, &ours, &found), between, "{found:?}");
        }
    }
}
