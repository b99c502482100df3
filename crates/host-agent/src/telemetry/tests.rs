//! What the node holds of a VM: over a reboot of its guest, and where only some of its history can be kept.

use super::*;
use proteus_model::telemetry::ProcessObserved;
use proteus_model::vm::{Boot, VmIntent};

fn seat(dir: &std::path::Path) -> Seat {
    Seat {
        id: VmId::from_bits(7),
        slot: 0,
        dir: dir.to_owned(),
        intent: VmIntent::new("web".parse().unwrap(), Boot::Firmware, Bytes::ZERO),
        attached: Vec::new(),
        furnished: false,
        newborn: false,
        user: None,
    }
}

/// A word of a guest that runs for so long, with one process.
fn word(uptime: u64, started_ticks: u64, cpu_us: u64) -> GuestSample {
    let process = ProcessObserved {
        pid: 9,
        started_ticks,
        name: "nginx".to_owned(),
        cpu_us,
        resident: Bytes::mib(1),
        threads: 1,
        read: None,
        written: None,
    };
    GuestSample { uptime: Some(Millis(uptime)), processes: Some(vec![process]), ..GuestSample::default() }
}

#[test]
fn a_guest_that_started_anew_by_itself_is_counted_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut watched = Watched::open(&seat(dir.path()));
    watched.hear_guest(UnixMillis(1), 1, &word(90_000_000, 8_000_000, 5_000));
    // What a process used before it was first seen is not known to be of now.
    watched.hear_guest(UnixMillis(2), 2, &word(60_000, 500, 900_000));
    watched.hear_guest(UnixMillis(3), 3, &word(70_000, 6_500, 400_000));
    let list = watched.applications.list();
    assert_eq!((list[0].starts, list[0].cpu), (1, Millis(400)), "{list:?}");
}
