//! What is kept of a VM's snapshots beside its disks: how the VM was built then. Written whole, so that a crash
//! leaves the old book or the new one.

use crate::driver::{DriverError, Seat};
use crate::qemu::command_line::Plugged;
use crate::whole;
use proteus_model::id::SnapshotName;
use proteus_model::snapshot::Snapshot;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;

/// A snapshot and the VM that it fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub snapshot: Snapshot,
    /// Versioned machine type: state of one does not fit another.
    pub machine: String,
    pub plugged: Plugged,
}

/// All snapshots of a VM, oldest first.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Book {
    pub kept: Vec<Kept>,
}

fn path(seat: &Seat) -> PathBuf {
    seat.dir.join("snapshots.json")
}

impl Book {
    pub(super) fn load(seat: &Seat) -> Result<Self, DriverError> {
        let path = path(seat);
        let read = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other,
        };
        let book = read.and_then(|text| serde_json::from_slice(&text).map_err(io::Error::other));
        book.map_err(DriverError::host(format!("read {}", path.display())))
    }

    pub(super) fn save(&self, seat: &Seat) -> Result<(), DriverError> {
        let path = path(seat);
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other);
        let written = text.and_then(|text| whole::write(&path, &text));
        written.map_err(DriverError::host(format!("write {}", path.display())))
    }

    pub(super) fn find(&self, name: &SnapshotName) -> Option<&Kept> {
        self.kept.iter().find(|kept| kept.snapshot.name == *name)
    }
}
