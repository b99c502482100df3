//! Tests of the merging of two sources. Must never wait or read a clock.

use super::*;
use proteus_model::telemetry::{CpuObserved, DiskObserved, MemoryObserved, NicObserved, PressureObserved};
use proteus_model::unit::Millis;

fn host(run_ms: u64, read: u64) -> VmCounters {
    VmCounters {
        vcpu_run_ns: Some(run_ms * 1_000_000),
        vcpu_wait_ns: Some(0),
        vmm_run_ns: Some((run_ms + run_ms / 10) * 1_000_000),
        resident: Some(Bytes::mib(64)),
        disk_read: Some(read),
        disk_reads: Some(read / 4096),
        disk_writes: Some(0),
        disk_flushes: Some(0),
        disk_took_ns: Some(read / 4096 * 250_000),
        ..VmCounters::default()
    }
}

fn guest(sequence: u64, busy_ms: u64) -> GuestSample {
    let cpu = CpuObserved { user_us: busy_ms * 1000, switches: Some(busy_ms * 10), ..CpuObserved::default() };
    let memory =
        MemoryObserved { total: Bytes::mib(256), available: Bytes::mib(200), ..MemoryObserved::default() };
    let mut sample = GuestSample { sequence, cpu: Some(cpu), memory: Some(memory), ..GuestSample::default() };
    sample.pressure.cpu_some =
        Some(PressureObserved { total_us: busy_ms * 500, ..PressureObserved::default() });
    sample
}

/// Both sources at once.
fn merge(merger: &mut Merger, at_ms: u64, host: &VmCounters, guest: Option<&GuestSample>) -> Reading {
    let mut reading = merger.count(at_ms, host);
    if let Some(sample) = guest {
        reading.fill(&merger.hear(at_ms, sample));
    }
    reading
}

#[test]
fn a_first_look_has_levels_and_the_next_one_rates() {
    let mut merger = Merger::default();
    let first = merge(&mut merger, 0, &host(100, 0), Some(&guest(1, 100)));
    assert_eq!(first.get(Metric::Memory), Some(64.0));
    assert_eq!(first.get(Metric::GuestMemory), Some(56.0));
    assert_eq!(first.get(Metric::Cpu), None, "no rate of one look");
    let next = merge(&mut merger, 2_000, &host(1100, 4096 * 8), Some(&guest(2, 1100)));
    assert_eq!(next.get(Metric::Cpu), Some(500.0));
    assert_eq!(next.get(Metric::Overhead), Some(50.0));
    assert_eq!(next.get(Metric::DiskRead), Some(16.0));
    assert_eq!(next.get(Metric::Reads), Some(4.0));
    assert_eq!(next.get(Metric::DiskLatency), Some(250.0));
    assert_eq!(next.get(Metric::PressureCpu), Some(250.0));
    assert_eq!(next.get(Metric::Switches), Some(5000.0));
    assert_eq!(next.get(Metric::Received), None, "what nobody counted is missing");
    assert_eq!(merger.faults().counted().count(), 0);
}

#[test]
fn a_counter_that_begins_anew_tells_no_rate_and_the_others_do() {
    let mut merger = Merger::default();
    merge(&mut merger, 0, &host(5000, 100_000), None);
    let reading = merge(&mut merger, 1_000, &host(5100, 10), None);
    assert_eq!(reading.get(Metric::DiskRead), None);
    assert_eq!(reading.get(Metric::Cpu), Some(100.0));
    assert!(merger.faults().of(Fault::Reset) >= 1);
    let reading = merge(&mut merger, 2_000, &host(5200, 10 + 10_240), None);
    assert_eq!(reading.get(Metric::DiskRead), Some(10.0), "from then on it does again");
}

#[test]
fn no_rate_is_told_over_a_gap_a_repeat_or_backwards() {
    let mut merger = Merger::default();
    merge(&mut merger, 10_000, &host(100, 0), None);
    for (at, fault) in [(10_000, Fault::Repeated), (9_000, Fault::Late), (100_000, Fault::Gap)] {
        let reading = merge(&mut merger, at, &host(200, 0), None);
        assert_eq!(reading.get(Metric::Cpu), None, "{fault:?}");
        assert_eq!(merger.faults().of(fault), 1, "{fault:?}");
    }
    let reading = merge(&mut merger, 101_000, &host(300, 0), None);
    assert_eq!(reading.get(Metric::Cpu), Some(100.0));
}

#[test]
fn the_hosts_count_wins_and_a_lying_guest_is_told_apart() {
    let (mut honest, mut liar) = (Merger::default(), Merger::default());
    for second in 0..60 {
        let at = second * 1000;
        let counters = host(second * 500, 0);
        merge(&mut honest, at, &counters, Some(&guest(second, second * 490)));
        let reading = merge(&mut liar, at, &counters, Some(&guest(second, second * 50)));
        if second > 0 {
            assert_eq!(reading.get(Metric::Cpu), Some(500.0));
        }
    }
    let (honest, liar) = (honest.disagreement(), liar.disagreement());
    assert_eq!(honest.compared, 59);
    assert!(honest.cpu.unwrap() < 0.05 && liar.cpu.unwrap() > 0.8, "{honest:?} {liar:?}");
}

#[test]
fn disks_links_and_steal_of_a_guest_are_held_against_what_the_host_counts() {
    let (mut honest, mut liar, mut emulated) = (Merger::default(), Merger::default(), Merger::default());
    let disk = |name: &str, serial: Option<&str>, read: u64, written: u64| DiskObserved {
        name: name.to_owned(),
        serial: serial.map(str::to_owned),
        read: Bytes(read),
        written: Bytes(written),
        ..DiskObserved::default()
    };
    let nic = |name: &str, received: u64, sent: u64| NicObserved {
        name: name.to_owned(),
        received: Bytes(received),
        sent: Bytes(sent),
        ..NicObserved::default()
    };
    for second in 1..60 {
        let counters = VmCounters {
            vcpu_wait_ns: Some(second * 200_000_000),
            disk_written: Some(second << 20),
            net_to_guest: Some(second << 18),
            net_from_guest: Some(second << 20),
            ..host(second * 10, second << 20)
        };
        let word = |disks: u64, links: u64, steal_us: u64| {
            let mut word = guest(second, second * 10);
            word.cpu.as_mut().unwrap().steal_us = steal_us;
            // A volume on the disk and a bridge of the guest's own count what was counted.
            let volume = disk("dm-0", None, second << 20, second << 22);
            word.disks = Some(vec![disk("vda", Some("root"), disks, disks), volume]);
            word.nics = Some(vec![nic("enp0s2", links / 4, links), nic("docker0", second << 24, 0)]);
            word
        };
        let right = word(second << 20, second << 20, second * 200_000);
        merge(&mut honest, second * 1000, &counters, Some(&right));
        merge(&mut liar, second * 1000, &counters, Some(&word(second << 10, second << 23, second * 900_000)));
        merge(&mut emulated, second * 1000, &counters, Some(&word(second << 20, second << 20, 0)));
    }
    let (honest, liar, emulated) = (honest.disagreement(), liar.disagreement(), emulated.disagreement());
    let off: Vec<_> = honest.others().collect();
    assert_eq!(off, [("steal", 0.0), ("disks", 0.0), ("links", 0.0)]);
    assert!(liar.others().count() == 3 && liar.others().all(|(_, off)| off > 0.9), "{liar:?}");
    assert_eq!((emulated.steal, emulated.disks), (None, Some(0.0)), "what is never counted is not compared");
    // The CPU was used too little to be compared.
    assert_eq!((honest.cpu, honest.compared), (None, 0));
}

#[test]
fn absurd_and_repeated_words_of_a_guest_are_left_out_and_counted() {
    let mut merger = Merger::default();
    let said = guest(1, 1000);
    merge(&mut merger, 0, &host(0, 0), Some(&said));
    let mut absurd = guest(2, 1000);
    absurd.memory.as_mut().unwrap().available = Bytes::mib(1 << 20);
    absurd.pressure.cpu_some.as_mut().unwrap().total_us = u64::MAX;
    absurd.cpu.as_mut().unwrap().switches = Some(u64::MAX);
    absurd.cpu.as_mut().unwrap().user_us = u64::MAX;
    absurd.cpu.as_mut().unwrap().system_us = 1;
    let reading = merge(&mut merger, 1_000, &host(900, 0), Some(&absurd));
    for metric in [Metric::GuestMemory, Metric::PressureCpu, Metric::Switches] {
        assert_eq!(reading.get(metric), None, "{metric}");
    }
    assert_eq!(reading.get(Metric::Cpu), Some(900.0));
    assert_eq!(merger.faults().of(Fault::Absurd), 3);
    // The same word again is no new one.
    let reading = merge(&mut merger, 2_000, &host(1800, 0), Some(&absurd));
    assert_eq!(reading.get(Metric::Switches), None);
    assert_eq!(merger.faults().of(Fault::Repeated), 1);
}

#[test]
fn what_is_counted_more_rarely_has_its_rate_when_it_is_counted() {
    let mut merger = Merger::default();
    let cheap = |second: u64| VmCounters { vcpu_run_ns: Some(second * 200_000_000), ..VmCounters::default() };
    merge(&mut merger, 0, &host(0, 0), None);
    for second in 1..10 {
        let reading = merge(&mut merger, second * 1000, &cheap(second), None);
        assert_eq!(reading.get(Metric::Cpu), Some(200.0));
        assert_eq!(reading.get(Metric::DiskRead), None);
    }
    let reading = merge(&mut merger, 10_000, &host(2000, 102_400), None);
    assert_eq!((reading.get(Metric::Cpu), reading.get(Metric::DiskRead)), (Some(200.0), Some(10.0)));
}

#[test]
fn what_the_processor_counts_has_its_rate_and_is_missing_where_it_does_not() {
    let mut merger = Merger::default();
    let counted = |second: u64| VmCounters {
        instructions: Some(second * 3_000_000_000),
        cycles: Some(second * 2_000_000_000),
        ..host(second * 500, 0)
    };
    merge(&mut merger, 0, &counted(1), None);
    let reading = merge(&mut merger, 1_000, &counted(2), None);
    let of = |reading: &Reading| Metric::OF_HARDWARE.map(|metric| reading.get(metric));
    assert_eq!(of(&reading), [Some(3000.0), Some(2000.0), None]);
    // A look at which it was not known, and one over both stretches.
    assert_eq!(of(&merge(&mut merger, 2_000, &host(1500, 0), None)), [None; 3]);
    let reading = merge(&mut merger, 3_000, &counted(4), None);
    assert_eq!(of(&reading), [Some(3000.0), Some(2000.0), None]);
    // Another process counts from nothing.
    let reading = merge(&mut merger, 4_000, &counted(0), None);
    assert_eq!(of(&reading), [None; 3]);
}

#[test]
fn a_sample_of_pages_stands_for_all_of_them() {
    let seen =
        |sampled, changed, ms| DirtyObserved { sampled, changed, memory: Bytes::mib(256), over: Millis(ms) };
    assert_eq!(dirty_rate(&seen(1024, 1024, 1_000)), Some(256.0 * 1024.0));
    assert_eq!(dirty_rate(&seen(1024, 1, 1_000)), Some(256.0));
    assert_eq!(dirty_rate(&seen(1024, 1, 2_000)), Some(128.0));
    assert_eq!(dirty_rate(&seen(1024, 0, 1_000)), Some(0.0), "that nothing changed was measured");
    for (sampled, changed, ms) in [(0, 0, 1_000), (10, 11, 1_000), (10, 1, 0), (10, 1, 60_001)] {
        assert_eq!(dirty_rate(&seen(sampled, changed, ms)), None, "{changed} of {sampled} in {ms} ms");
    }
}
