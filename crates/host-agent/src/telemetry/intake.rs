//! The way of one VM's figures into its history, without a VM behind it: for whoever measures what that way costs. Must
//! never take another way than the node's own.

use super::Watched;
use proteus_hypervisor::driver::Seat;
use proteus_model::id::{VmId, VmName};
use proteus_model::telemetry::GuestSample;
use proteus_model::unit::{Bytes, UnixMillis};
use proteus_model::vm::{Boot, VmCounters, VmIntent};
use proteus_protocol::guest::v1::Sample;
use std::path::Path;

/// What the node holds of one VM that it watches.
pub struct Intake {
    seat: Seat,
    watched: Watched,
}

impl Intake {
    /// Opens the history in a folder, making it where there is none.
    pub fn open(dir: &Path, vm: VmId, name: VmName) -> Self {
        let intent = VmIntent::new(name, Boot::Firmware, Bytes::ZERO);
        let seat = Seat {
            id: vm,
            slot: 0,
            dir: dir.to_owned(),
            intent,
            attached: Vec::new(),
            furnished: false,
            newborn: false,
            user: None,
        };
        Self { watched: Watched::open(&seat), seat }
    }

    /// Takes in what the host counted.
    pub fn look(&mut self, at: UnixMillis, steady_ms: u64, counters: &VmCounters) {
        self.watched.look(&self.seat, at, steady_ms, counters);
    }

    /// Takes in what the guest said; `false`: it cannot be.
    pub fn hear(&mut self, at: UnixMillis, steady_ms: u64, said: Sample) -> bool {
        let Ok(word) = GuestSample::try_from(said) else { return false };
        self.watched.hear_guest(at, steady_ms, &word);
        true
    }
}
