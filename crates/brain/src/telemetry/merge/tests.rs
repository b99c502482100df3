use super::*;
use proteus_model::telemetry::{CpuObserved, MemoryObserved, PressureObserved};

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
    let memory = MemoryObserved { total: Bytes::mib(256), available: Bytes::mib(200), ..MemoryObserved::default() };
    let mut sample = GuestSample { sequence, cpu: Some(cpu), memory: Some(memory), ..GuestSample::default() };
    sample.pressure.cpu_some = Some(PressureObserved { total_us: busy_ms * 500, ..PressureObserved::default() });
    sample
}

fn look<'a>(at_ms: u64, host: &'a VmCounters, guest: Option<(u64, &'a GuestSample)>) -> Look<'a> {
    Look { at_ms, host: Some(host), guest }
}

#[test]
fn a_first_look_has_levels_and_the_next_one_rates() {
    let mut merger = Merger::default();
    let first = merger.merge(look(0, &host(100, 0), Some((0, &guest(1, 100)))));
    assert_eq!(first.get(Metric::Memory), Some(64.0));
    assert_eq!(first.get(Metric::GuestMemory), Some(56.0));
    assert_eq!(first.get(Metric::Cpu), None, "no rate of one look");
    let next = merger.merge(look(2_000, &host(1100, 4096 * 8), Some((2_000, &guest(2, 1100)))));
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
    merger.merge(look(0, &host(5000, 100_000), None));
    let reading = merger.merge(look(1_000, &host(5100, 10), None));
    assert_eq!(reading.get(Metric::DiskRead), None);
    assert_eq!(reading.get(Metric::Cpu), Some(100.0));
    assert!(merger.faults().of(Fault::Reset) >= 1);
    let reading = merger.merge(look(2_000, &host(5200, 10 + 10_240), None));
    assert_eq!(reading.get(Metric::DiskRead), Some(10.0), "from then on it does again");
}

#[test]
fn no_rate_is_told_over_a_gap_a_repeat_or_backwards() {
    let mut merger = Merger::default();
    merger.merge(look(10_000, &host(100, 0), None));
    for (at, fault) in [(10_000, Fault::Repeated), (9_000, Fault::Late), (100_000, Fault::Gap)] {
        let reading = merger.merge(look(at, &host(200, 0), None));
        assert_eq!(reading.get(Metric::Cpu), None, "{fault:?}");
        assert_eq!(merger.faults().of(fault), 1, "{fault:?}");
    }
    let reading = merger.merge(look(101_000, &host(300, 0), None));
    assert_eq!(reading.get(Metric::Cpu), Some(100.0));
}

#[test]
fn the_hosts_count_wins_and_a_lying_guest_is_told_apart() {
    let (mut honest, mut liar) = (Merger::default(), Merger::default());
    for second in 0..60 {
        let at = second * 1000;
        let counters = host(second * 500, 0);
        honest.merge(look(at, &counters, Some((at, &guest(second, second * 490)))));
        let reading = liar.merge(look(at, &counters, Some((at, &guest(second, second * 50)))));
        if second > 0 {
            assert_eq!(reading.get(Metric::Cpu), Some(500.0));
        }
    }
    let (honest, liar) = (honest.disagreement(), liar.disagreement());
    assert_eq!(honest.compared, 59);
    assert!(honest.cpu.unwrap() < 0.05 && liar.cpu.unwrap() > 0.8, "{honest:?} {liar:?}");
}

#[test]
fn absurd_and_stale_words_of_a_guest_are_left_out_and_counted() {
    let mut merger = Merger::default();
    let said = guest(1, 1000);
    merger.merge(look(0, &host(0, 0), Some((0, &said))));
    let mut absurd = guest(2, 1000);
    absurd.memory.as_mut().unwrap().available = Bytes::mib(1 << 20);
    absurd.pressure.cpu_some.as_mut().unwrap().total_us = u64::MAX;
    absurd.cpu.as_mut().unwrap().switches = Some(u64::MAX);
    absurd.cpu.as_mut().unwrap().user_us = u64::MAX;
    absurd.cpu.as_mut().unwrap().system_us = 1;
    let reading = merger.merge(look(1_000, &host(900, 0), Some((1_000, &absurd))));
    for metric in [Metric::GuestMemory, Metric::PressureCpu, Metric::Switches] {
        assert_eq!(reading.get(metric), None, "{metric}");
    }
    assert_eq!(reading.get(Metric::Cpu), Some(900.0));
    assert_eq!(merger.faults().of(Fault::Absurd), 3);
    // The same word again is no new one; one that is old is none at all.
    let reading = merger.merge(look(2_000, &host(1800, 0), Some((1_000, &absurd))));
    assert_eq!(reading.get(Metric::Switches), None);
    merger.merge(look(9_000, &host(1900, 0), Some((1_000, &absurd))));
    assert_eq!(merger.faults().of(Fault::Stale), 1);
}
