//! The allocation table: who has what where. Reserved before a morph acts, settled or given back when it ends.

use crate::control::{Control, ControlError};
use crate::execution::Stop;
use crate::execution::journal::Journal;
use crate::record::Batch;
use proteus_model::execution::{Event, Morph};

impl Control {
    pub(crate) async fn reserve(&self, journal: &mut Journal<'_>) -> Result<(), Stop> {
        Ok(journal.move_on(Event::Reserved, |_| ()).await?)
    }

    pub(crate) async fn allocation_view(&self) -> Result<serde_json::Value, ControlError> {
        Ok(serde_json::Value::Null)
    }

    pub(crate) async fn close_reservation(&self, batch: Batch, _morph: &Morph) -> Result<Batch, ControlError> {
        Ok(batch)
    }
}
