//! What a morph holds in the allocation table: reserved before it acts, settled or given back in the commit that
//! ends it.

use super::Stop;
use super::journal::Journal;
use crate::allocation::{TABLE, amount, no_room};
use crate::control::{Control, ControlError};
use crate::record::{Batch, RecordError, TRIES};
use crate::vm::VmRecord;
use proteus_model::allocation::{Amount, Reservation};
use proteus_model::execution::{Event, Morph, State};
use proteus_model::plan::Change;
use std::collections::BTreeMap;

/// What the VM will have when the morph is done.
fn amount_after(record: &VmRecord, morph: &Morph) -> Amount {
    let steps = morph.plan.steps.iter().filter_map(|step| match &step.change {
        Change::Set { to, .. } => Some(to),
        Change::ReplaceVmm | Change::Snapshot { .. } => None,
    });
    // Later ones win: first what is managed, then what the plan found as asked, then what it changes.
    amount(record, &record.managed.iter().chain(&morph.plan.already).chain(steps).collect::<Vec<_>>())
}

impl Control {
    /// Refuses a morph that the host has no room for. Writes nothing.
    pub(super) async fn check_reservation(
        &self,
        record: &VmRecord,
        morph: &Morph,
    ) -> Result<(), ControlError> {
        let ((host, _), (mut table, _)) = (self.host().await?, self.table().await?);
        // One that is not in the table gets its place when the morph begins.
        if !table.vms().contains_key(&record.id) {
            return Ok(());
        }
        let after = BTreeMap::from([(host, amount_after(record, morph))]);
        let reservation = Reservation { vm: record.id, generation: morph.generation, after };
        table.reserve(morph.id, reservation).map_err(no_room)
    }

    /// Reserves what the morph needs, in the commit that moves it on.
    pub(super) async fn reserve(&self, journal: &mut Journal<'_>) -> Result<(), Stop> {
        let record = self.vm_of(journal.morph().plan.vm).await?;
        self.admit(&record).await.map_err(|error| Stop::GiveUp(error.to_string()))?;
        let (host, _) = self.host().await?;
        for _ in 0..TRIES {
            let (mut table, rev) = self.table().await?;
            let morph = journal.morph();
            let after = BTreeMap::from([(host.clone(), amount_after(&record, morph))]);
            let reservation = Reservation { vm: record.id, generation: morph.generation, after };
            table.reserve(morph.id, reservation).map_err(|error| Stop::GiveUp(error.to_string()))?;
            let moved =
                journal.move_on_with(Event::Reserved, |_| (), |batch| batch.put(TABLE, &table, rev)).await;
            match moved {
                Err(ControlError::Record(RecordError::Conflict { key })) if key == TABLE => {}
                other => return Ok(other?),
            }
        }
        Err(Stop::Broken(RecordError::Conflict { key: TABLE.into() }.into()))
    }

    /// Adds the end of a morph's reservation to the commit that ends the morph.
    pub(super) async fn close_reservation(&self, batch: Batch, morph: &Morph) -> Result<Batch, ControlError> {
        let (mut table, rev) = self.table().await?;
        if !table.reservations().contains_key(&morph.id) {
            return Ok(batch);
        }
        let closed = match morph.state {
            State::Committed => table.settle(morph.id),
            State::Parked => table.hold(morph.id),
            _ => table.release(morph.id),
        };
        closed.map_err(|error| ControlError::Conflict {
            what: format!("the reservation of {} could not be closed: {error}", morph.id),
            hint: "this is a defect of Proteus; `proteus allocation show` shows the table".into(),
        })?;
        Ok(batch.put(TABLE, &table, rev)?)
    }
}
