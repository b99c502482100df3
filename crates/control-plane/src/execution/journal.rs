//! A morph's journal: its record, written whole at each move and guarded by its revision, so that no two processes
//! can drive one morph. The last move frees the VM in the same commit.

use crate::abort::AbortHow;
use crate::allocation::TABLE;
use crate::control::{Control, ControlError, key};
use crate::record::{Batch, RecordError, Records, TRIES, Versioned};
use crate::store::Rev;
use crate::vm::VmRecord;
use proteus_model::execution::{Event, Morph, State, Version};
use proteus_model::id::MorphId;
use std::time::Instant;

/// What a VM's record becomes at the end of a morph.
pub(super) type After<'a> = &'a (dyn Fn(&VmRecord, &Morph) -> VmRecord + Send + Sync);

pub(crate) struct Journal<'a> {
    control: &'a Control,
    morph: Morph,
    rev: Rev,
    /// When the undo began in this process.
    pub(crate) began_undo: Option<Instant>,
}

/// A batch for a move to where `next` is. A morph that cannot go on for want of space can still be undone.
fn batch_of(records: &Records, next: &Morph) -> Batch {
    match next.state {
        State::Undoing { .. } | State::Releasing | State::RolledBack | State::Parked => {
            records.batch().relief()
        }
        State::Planned
        | State::Validated
        | State::Reserved
        | State::Applying { .. }
        | State::Verifying
        | State::Committing
        | State::Committed => records.batch(),
    }
}

impl<'a> Journal<'a> {
    pub(crate) async fn open(control: &'a Control, id: MorphId) -> Result<Journal<'a>, ControlError> {
        let found = control.records.get::<Morph>(&key::morph(id)).await?;
        let Versioned { value, rev } =
            found.ok_or_else(|| ControlError::NotFound { kind: "morph", name: id.to_string() })?;
        Ok(Self { control, morph: value, rev, began_undo: None })
    }

    pub(crate) fn morph(&self) -> &Morph {
        &self.morph
    }

    pub(crate) fn into_morph(self) -> Morph {
        self.morph
    }

    /// Changes the record in memory; the next move writes it.
    pub(crate) fn note(&mut self, change: impl FnOnce(&mut Morph)) {
        change(&mut self.morph);
    }

    fn after(&self, event: Event, change: impl FnOnce(&mut Morph)) -> Result<Morph, ControlError> {
        let mut next = self.morph.clone();
        change(&mut next);
        next.state = next.state.next(event).map_err(|illegal| ControlError::Conflict {
            what: illegal.to_string(),
            hint: "this is a defect of Proteus; the morph's record shows what happened".into(),
        })?;
        Ok(next)
    }

    fn moved(&mut self, next: Morph, rev: Rev) {
        self.morph = next;
        self.rev = rev;
        let detail = match self.morph.state {
            State::Applying { step } | State::Undoing { step } => {
                format!("step {} of {}", step + 1, self.morph.plan.steps.len())
            }
            _ => self.morph.reason.clone().unwrap_or_default(),
        };
        self.control.tell_morph(&self.morph, detail);
    }

    /// Moves on, durably.
    pub(crate) async fn move_on(
        &mut self,
        event: Event,
        change: impl FnOnce(&mut Morph),
    ) -> Result<(), ControlError> {
        self.move_on_with(event, change, Ok).await
    }

    /// Moves on, with more in the same commit.
    pub(crate) async fn move_on_with(
        &mut self,
        event: Event,
        change: impl FnOnce(&mut Morph),
        more: impl FnOnce(Batch) -> Result<Batch, RecordError>,
    ) -> Result<(), ControlError> {
        let next = self.after(event, change)?;
        let records = &self.control.records;
        let batch = more(batch_of(records, &next).put(&key::morph(next.id), &next, Some(self.rev))?)?;
        let rev = records.commit(batch).await?;
        self.moved(next, rev);
        Ok(())
    }

    /// The last move: the morph ends, the VM is free, where it is not as before it has a new version, and the audit
    /// log tells of it; all in one commit.
    pub(crate) async fn finish(
        &mut self,
        event: Event,
        change: impl FnOnce(&mut Morph),
        changed: Option<After<'_>>,
    ) -> Result<(), ControlError> {
        let ended_at = self.control.now();
        let next = self.after(event, |morph| {
            change(morph);
            morph.ended_at = Some(ended_at);
        })?;
        for _ in 0..TRIES {
            match self.commit_end(&next, changed).await {
                // The table or the VM's record was changed by somebody else: read again. Not so the morph's own.
                Err(ControlError::Record(RecordError::Conflict { key })) if key != key::morph(next.id) => {}
                Err(error) => return Err(error),
                Ok(rev) => {
                    self.moved(next, rev);
                    return Ok(());
                }
            }
        }
        Err(RecordError::Conflict { key: TABLE.into() }.into())
    }

    async fn commit_end(&self, next: &Morph, changed: Option<After<'_>>) -> Result<Rev, ControlError> {
        let records = &self.control.records;
        let mut batch = batch_of(records, next).put(&key::morph(next.id), next, Some(self.rev))?;
        if let Some(found) = records.get::<VmRecord>(&key::vm(next.plan.vm)).await?
            && found.value.morph == Some(next.id)
        {
            let record = match changed {
                Some(after) => after(&found.value, next),
                None => VmRecord { morph: None, ..found.value },
            };
            batch = batch.put(&key::vm(record.id), &record, Some(found.rev))?;
            if changed.is_some() {
                let version = Version {
                    number: record.version,
                    goal: Some(next.plan.goal.clone()),
                    morph: Some(next.id),
                    at: next.ended_at.unwrap_or_default(),
                    profile: record.profile.clone(),
                    settings: record.managed.clone(),
                };
                batch = batch.put(&key::version(record.id, record.version), &version, None)?;
            }
        }
        // What it was told goes with it; what it is told from here on comes too late.
        let told = key::abort(next.id);
        batch = match records.get::<AbortHow>(&told).await? {
            Some(found) => batch.delete(&told, found.rev)?,
            None => batch.only_if(&told, None)?,
        };
        batch = self.control.close_reservation(batch, next).await?;
        self.control.commit_audited(batch, self.control.end_entry(next)).await
    }
}
