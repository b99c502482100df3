//! Fuzz target of what guests say of themselves, for the stable toolchain: words of any numbers, between counts of the
//! host. No word may panic, become a value that cannot be, or change what the host counted. A short run by default;
//! `PROTEUS_FUZZ_ITERATIONS=1000000` for a long one, `PROTEUS_FUZZ_SEED=…` to repeat one.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "a test may be told how long to run")]

#[path = "../../../tests/support/random.rs"]
mod random;

use proteus_brain::telemetry::Merger;
use proteus_model::telemetry::{
    CpuObserved, DiskObserved, GuestSample, MemoryObserved, Metric, NicObserved, PressureObserved, Reading,
};
use proteus_model::unit::{Bytes, Permille};
use proteus_model::vm::{MEMORY_MAX, VmCounters};
use random::{Random, number};
use std::panic::catch_unwind;

const ITERATIONS: u64 = 5_000;

/// A number of the kinds that break arithmetic.
fn any(random: &mut Random) -> u64 {
    let near = random.next() % 5;
    match random.below(8) {
        0 => near,
        1 => u64::MAX - near,
        2 => (1 << 62) - near,
        3 => (1 << 53) + near,
        4 => 1 << random.below(64),
        _ => random.next() % 1_000_000_000,
    }
}

fn maybe(random: &mut Random) -> Option<u64> {
    (random.below(4) > 0).then(|| any(random))
}

fn word(random: &mut Random) -> GuestSample {
    let pressure = |random: &mut Random| {
        (random.below(4) > 0).then(|| PressureObserved {
            avg10: Permille(random.next() as u32),
            avg60: Permille(random.next() as u32),
            total_us: any(random),
        })
    };
    let mut sample = GuestSample { sequence: any(random), ..GuestSample::default() };
    sample.pressure.cpu_some = pressure(random);
    sample.pressure.memory_some = pressure(random);
    sample.pressure.io_some = pressure(random);
    sample.cpu = (random.below(4) > 0).then(|| CpuObserved {
        user_us: any(random),
        system_us: any(random),
        idle_us: any(random),
        steal_us: any(random),
        switches: maybe(random),
        forks: maybe(random),
        ..CpuObserved::default()
    });
    sample.memory = (random.below(4) > 0).then(|| MemoryObserved {
        total: Bytes(any(random)),
        available: Bytes(any(random)),
        ..MemoryObserved::default()
    });
    sample.disks = (random.below(4) > 0).then(|| {
        let disk = |random: &mut Random| DiskObserved {
            serial: Some("d".to_owned()),
            read: Bytes(any(random)),
            written: Bytes(any(random)),
            ..DiskObserved::default()
        };
        (0..random.below(3)).map(|_| disk(random)).collect()
    });
    sample.nics = (random.below(4) > 0).then(|| {
        let (received, sent) = (Bytes(any(random)), Bytes(any(random)));
        vec![NicObserved { name: "eth0".to_owned(), received, sent, ..NicObserved::default() }]
    });
    sample
}

fn check(reading: &Reading) {
    for metric in Metric::ALL {
        let Some(value) = reading.get(metric) else { continue };
        assert!(metric.is_of_guest(), "a guest's word for {metric}");
        let most = match metric {
            Metric::GuestMemory => (MEMORY_MAX.0 >> 20) as f32,
            Metric::Switches | Metric::Forks => 1e9,
            _ => 1000.0,
        };
        assert!((0.0..=most).contains(&value), "{metric}: {value}");
    }
}

fn host(second: u64) -> VmCounters {
    let vcpu_run_ns = Some(second * 700_000_000);
    VmCounters {
        vcpu_run_ns,
        resident: Some(Bytes::mib(64)),
        vcpu_wait_ns: Some(second * 300_000_000),
        disk_read: Some(second << 20),
        disk_written: Some(second),
        net_to_guest: Some(second << 20),
        net_from_guest: Some(second),
        ..VmCounters::default()
    }
}

/// One VM over some time: with a guest that says anything, the host's count is what it is without.
fn run(random: &mut Random) {
    let (mut merger, mut alone) = (Merger::default(), Merger::default());
    let mut at_ms = 0;
    for second in 1..20 {
        at_ms += 1 + random.next() % 3_000;
        let counted = merger.count(at_ms, &host(second));
        assert_eq!(counted, alone.count(at_ms, &host(second)), "the guest changed the host's count");
        for _ in 0..random.below(3) {
            // Also of a moment that was before.
            let heard_at = at_ms.saturating_sub(random.next() % 100);
            check(&merger.hear(heard_at, &word(random)));
        }
    }
    let off = merger.disagreement();
    assert!(
        off.cpu.into_iter().chain(off.others().map(|(_, off)| off)).all(|off| (0.0..=10.0).contains(&off))
    );
}

#[test]
fn a_guest_that_says_anything() {
    let seed = number("PROTEUS_FUZZ_SEED", 0x5EED);
    let iterations = number("PROTEUS_FUZZ_ITERATIONS", ITERATIONS);
    println!("PROTEUS_FUZZ_SEED={seed} PROTEUS_FUZZ_ITERATIONS={iterations}");
    for round in 0..iterations {
        let outcome = catch_unwind(|| run(&mut Random::of_round(seed, round)));
        let repeat = seed.wrapping_add(round);
        outcome.unwrap_or_else(|_| panic!("PROTEUS_FUZZ_SEED={repeat} PROTEUS_FUZZ_ITERATIONS=1"));
    }
}
