//! The way of one VM's figures into its history, without a node behind it: for whoever watches VMs that Proteus does not
//! run, or measures what that way costs. Must never take another way than the node's own.

use super::history::{self, HistoryError};
use super::history_path;
use super::watched::{Opened, Watched, make_durable};
use crate::clock::now;
use proteus_brain::telemetry::Faults;
use proteus_hypervisor::driver::Seat;
use proteus_model::id::{VmId, VmName};
use proteus_model::telemetry::{Bucket, GuestSample, Reading};
use proteus_model::unit::{Bytes, UnixMillis};
use proteus_model::vm::{Boot, VmCounters, VmIntent};
use proteus_protocol::guest::v1::Sample;
use std::path::Path;

/// Why a history could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the history of the VM cannot be read")]
pub struct IntakeError(#[source] HistoryError);

/// What the node holds of one VM that it watches.
pub struct Intake {
    seat: Seat,
    watched: Watched,
}

/// A VM of which nothing counts but its name and its folder.
fn seat(dir: &Path, vm: VmId, name: VmName) -> Seat {
    Seat {
        id: vm,
        slot: 0,
        dir: dir.to_owned(),
        intent: VmIntent::new(name, Boot::Firmware, Bytes::ZERO),
        attached: Vec::new(),
        furnished: false,
        newborn: false,
        user: None,
    }
}

impl Intake {
    /// Opens the history in a folder, making it where there is none.
    pub fn open(dir: &Path, vm: VmId, name: VmName) -> Self {
        let seat = seat(dir, vm, name);
        let mut watched = Watched::default();
        watched.take_up(&seat, 0, Opened::open(&seat));
        Self { watched, seat }
    }

    /// One that keeps nothing beyond the last minute.
    pub fn unkept(vm: VmId, name: VmName) -> Self {
        Self { watched: Watched::unkept(), seat: seat(Path::new(""), vm, name) }
    }

    /// Takes in what the host counted.
    pub fn look(&mut self, at: UnixMillis, steady_ms: u64, counters: &VmCounters) {
        if self.watched.wants_history(steady_ms) {
            self.watched.take_up(&self.seat, steady_ms, Opened::open(&self.seat));
        }
        self.watched.look(&self.seat, at, steady_ms, counters);
    }

    /// Takes in what the guest said; `false`: it cannot be.
    pub fn hear(&mut self, at: UnixMillis, steady_ms: u64, said: Sample) -> bool {
        let Ok(word) = GuestSample::try_from(said) else {
            self.watched.merger.refuse(1);
            return false;
        };
        self.watched.hear_guest(at, steady_ms, &word);
        true
    }

    /// The VM does not run any more, or nobody looks at it any more: what is open is closed and kept.
    pub fn end(&mut self) {
        if let Some(history) = self.watched.end(&self.seat) {
            make_durable(&history, &self.seat);
        }
    }

    /// What is counted next is a beginning: the VM has a new VMM, or other devices.
    pub fn begin_anew(&mut self) {
        self.watched.begin_anew();
    }

    /// The short buckets of the last minute, the oldest first.
    pub fn recent(&self) -> Vec<Bucket> {
        self.watched.recent.iter().cloned().collect()
    }

    /// What was measured last, and when; `None`: nothing since it began to run.
    pub fn last(&self) -> Option<(UnixMillis, Reading)> {
        self.watched.last
    }

    /// What was wrong with what came so far.
    pub fn faults(&self) -> Faults {
        self.watched.faults()
    }

    /// The buckets of one resolution in the history in a folder, the oldest first, and how many of it are damaged.
    pub fn history(dir: &Path, tier: usize) -> Result<(Vec<Bucket>, u64), IntakeError> {
        history::read(&history_path(dir), tier, now()).map_err(IntakeError)
    }

    /// The whole history in a folder as a file that a Proteus takes in; `None`: there is none.
    pub fn export(dir: &Path) -> Result<Option<Vec<u8>>, IntakeError> {
        let path = history_path(dir);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|source| HistoryError::File { doing: "read", path, source }),
        };
        let whole = bytes.and_then(|bytes| history::decode(&bytes).map(|_| bytes));
        whole.map(Some).map_err(IntakeError)
    }
}
