//! What the node holds of a VM: over a reboot of its guest, a stop and a start, a clock that is set, and where its history
//! cannot be opened at first; and what of a guest's word is not believed.

use super::watched::Opened;
use super::*;
use proteus_brain::telemetry::Fault;
use proteus_model::telemetry::{
    Bucket, CpuObserved, DiskLatencies, METRICS, Metric, ProcessObserved, Summary, Tier,
};
use proteus_model::unit::{Millis, UnixMillis};
use proteus_model::vm::{Boot, VmCounters, VmIntent};
use proteus_protocol::guest::v1::sample::PROCESSES_MAX;

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
    let mut watched = Watched::unkept();
    watched.hear_guest(UnixMillis(1), 1, &word(90_000_000, 8_000_000, 5_000));
    // What a process used before it was first seen is not known to be of now.
    watched.hear_guest(UnixMillis(2), 2, &word(60_000, 500, 900_000));
    watched.hear_guest(UnixMillis(3), 3, &word(70_000, 6_500, 400_000));
    let list = watched.applications.list();
    assert_eq!((list[0].starts, list[0].cpu), (1, Millis(400)), "{list:?}");
}

/// A moment in 2026, at the beginning of ten minutes.
const BEGIN: u64 = 1_790_000_400_000;

/// One with its history open.
fn opened(seat: &Seat) -> Watched {
    let mut watched = Watched::default();
    assert!(watched.wants_history(0) && !watched.wants_history(0), "one opens it");
    watched.take_up(seat, 0, Opened::open(seat));
    watched
}

/// Looks at it once in each of these seconds. `off_ms`: how far its wall clock is off.
fn run(watched: &mut Watched, seat: &Seat, seconds: std::ops::Range<u64>, off_ms: i64) {
    for second in seconds {
        let at = UnixMillis((BEGIN + second * 1000).saturating_add_signed(off_ms));
        let counters =
            VmCounters { vcpu_run_ns: Some(second * 250_000_000), vcpus: Some(2), ..VmCounters::default() };
        watched.look(seat, at, second * 1000, &counters);
    }
}

fn kept(seat: &Seat, tier: usize) -> Vec<(u64, u16)> {
    let (buckets, _) = history::read(&history_path(&seat.dir), tier, UnixMillis(BEGIN + 86_400_000)).unwrap();
    buckets.iter().map(|bucket| (bucket.begins_at.0 - BEGIN, bucket.readings)).collect()
}

#[test]
fn a_stop_and_a_start_within_ten_minutes_lose_neither_half() {
    let dir = tempfile::tempdir().unwrap();
    let seat = seat(dir.path());
    let mut watched = opened(&seat);
    run(&mut watched, &seat, 0..315, 0);
    watched.end(&seat);
    assert_eq!(kept(&seat, 2), [(0, 315)]);
    // In the middle of a minute, twenty seconds after the stop.
    run(&mut watched, &seat, 335..605, 0);
    assert_eq!(kept(&seat, 2), [(0, 580)]);
    assert_eq!(kept(&seat, 1)[5], (300_000, 40), "the minute in which it was stopped");
    let [bucket] = &history::read(&history_path(&seat.dir), 2, UnixMillis(BEGIN + 86_400_000)).unwrap().0[..]
    else {
        panic!()
    };
    let cpu = bucket.summaries[Metric::Cpu as usize].unwrap();
    assert!((cpu.mean - 250.0).abs() < 1.0, "{cpu:?}");
}

#[test]
fn a_clock_that_is_set_a_little_loses_no_half() {
    let dir = tempfile::tempdir().unwrap();
    let seat = seat(dir.path());
    let mut watched = opened(&seat);
    run(&mut watched, &seat, 0..300, 0);
    run(&mut watched, &seat, 300..605, 5_000);
    let ten = kept(&seat, 2);
    assert!(ten.len() == 1 && ten[0].1 >= 590, "{ten:?}");
    assert_eq!(watched.faults().of(Fault::ClockForward), 1);
}

#[test]
fn a_history_that_cannot_be_opened_is_tried_again_and_then_has_what_was_held() {
    let dir = tempfile::tempdir().unwrap();
    let seat = seat(&dir.path().join("later"));
    let mut watched = opened(&seat);
    assert!(watched.history().is_none());
    run(&mut watched, &seat, 0..35, 0);
    assert!(!watched.wants_history(35_000), "it is not tried all the time");
    assert!(watched.wants_history(60_000));
    watched.take_up(&seat, 60_000, Opened::open(&seat));
    run(&mut watched, &seat, 60..75, 0);
    std::fs::create_dir(&seat.dir).unwrap();
    assert!(watched.wants_history(120_000));
    watched.take_up(&seat, 120_000, Opened::open(&seat));
    assert_eq!(kept(&seat, 0), [(0, 10), (10_000, 10), (20_000, 10), (30_000, 5), (60_000, 10)]);
    run(&mut watched, &seat, 120..135, 0);
    assert_eq!(kept(&seat, 0).len(), 7);
    // However long there is none, what is held is bounded.
    std::fs::remove_dir_all(&seat.dir).unwrap();
    let mut watched = opened(&seat);
    run(&mut watched, &seat, 0..3_000, 0);
    std::fs::create_dir(&seat.dir).unwrap();
    watched.take_up(&seat, 3_000_000, Opened::open(&seat));
    assert!((40..=64).contains(&(kept(&seat, 0).len() + kept(&seat, 1).len() + kept(&seat, 2).len())));
}

#[test]
fn what_is_of_the_future_is_not_told_and_hides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let seat = seat(dir.path());
    let bucket = |tier: usize, at: UnixMillis, cpu: f32| {
        let mut summaries = [None; METRICS];
        summaries[Metric::Cpu as usize] = Some(Summary { min: cpu, p50: cpu, p95: cpu, max: cpu, mean: cpu });
        Bucket { begins_at: Tier::ALL[tier].begin_of(at), readings: 600, summaries }
    };
    let now = now();
    let (history, _) = History::open(&history_path(&seat.dir), seat.id).unwrap();
    // By a clock that was forty days ahead; and one of now in the same place, sixty days before that.
    let future = UnixMillis(now.0 + 40 * 86_400_000);
    let past = UnixMillis(future.0 - Tier::ALL[2].span_ms());
    history.put(2, &bucket(2, future, 900.0)).unwrap();
    history.put(2, &bucket(2, now, 5.0)).unwrap();
    let read = || history::read(&history_path(&seat.dir), 2, now).unwrap().0;
    assert_eq!(read().len(), 1, "{:?}", read());
    assert_eq!(
        history::read(&history_path(&seat.dir), 2, future).unwrap().0.len(),
        2,
        "it stays in its place"
    );
    history.put_unless_newer(2, &bucket(2, past, 7.0), future).unwrap();
    assert_eq!(read().len(), 1, "by that clock it is newer");
    history.put_unless_newer(2, &bucket(2, past, 7.0), now).unwrap();
    assert_eq!(read().len(), 2, "it gives way to one of before");
}

#[test]
fn how_many_cpus_a_guest_says_it_has_changes_nothing() {
    let seat = seat(std::path::Path::new(""));
    let mut watched = Watched::unkept();
    run(&mut watched, &seat, 0..45, 0);
    let before = watched.recent(&seat, 45_000);
    let cpu = CpuObserved { online: 4096, ..CpuObserved::default() };
    watched.hear_guest(UnixMillis(BEGIN), 45_000, &GuestSample { cpu: Some(cpu), ..word(90_000, 500, 1) });
    let after = watched.recent(&seat, 45_000);
    assert!(before.applications.is_none() && after.applications.is_some(), "it was heard");
    assert_eq!((before.vcpus, after.vcpus), (2, 2));
    let traits = |seen: &RecentObserved| {
        proteus_brain::personality::traits::traits(&seen.buckets, seen.vcpus).of_host()
    };
    assert!(traits(&before).known().next().is_some());
    assert_eq!(traits(&before), traits(&after));
    // A VM that nobody counted yet has those that it was built with.
    assert_eq!(Watched::unkept().recent(&seat, 0).vcpus, seat.intent.vcpus);
}

#[test]
fn a_word_that_cannot_be_is_counted() {
    let name = "web".parse().unwrap();
    let mut intake = Intake::unkept(VmId::from_bits(7), name);
    let processes = Some(vec![Default::default(); PROCESSES_MAX + 1]);
    let lie = Sample { processes, ..Sample::default() };
    assert!(!intake.hear(UnixMillis(BEGIN), 1, lie));
    assert_eq!(intake.faults().of(Fault::Refused), 1);
    let telemetry = Telemetry::new();
    telemetry.refuse(VmId::from_bits(8), 1);
    assert!(telemetry.seen(VmId::from_bits(8)).is_none(), "one that is not watched is not taken up");
    telemetry.watched(VmId::from_bits(7));
    telemetry.refuse(VmId::from_bits(7), 2);
    assert_eq!(telemetry.seen(VmId::from_bits(7)).unwrap().faults.get("refused"), Some(&2));
}

#[test]
fn latencies_of_the_last_minute_are_told_and_none_of_a_vm_that_ended() {
    let seat = seat(std::path::Path::new(""));
    let mut watched = Watched::unkept();
    let told = |reads: u64| {
        let mut all = DiskLatencies::default();
        all.reads.0[4] = reads;
        VmCounters { disk_latencies: Some(all), ..VmCounters::default() }
    };
    watched.hear_disks(10_000, &told(50));
    watched.hear_disks(20_000, &told(80));
    let seen = watched.seen(21_000).disk_latencies;
    assert_eq!((seen.len(), seen["read"].operations), (1, 30));
    assert!((500.0..=1_000.0).contains(&seen["read"].p50_us), "{seen:?}");
    watched.end(&seat);
    assert!(watched.seen(22_000).disk_latencies.is_empty());
}
