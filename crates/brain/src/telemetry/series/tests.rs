//! Tests of buckets in the order of time. Must never wait or read a clock.

use super::*;
use proptest::prelude::*;
use proteus_model::telemetry::Metric;

fn reading(cpu: f32) -> Reading {
    let mut reading = Reading::default();
    reading.set(Metric::Cpu, Some(cpu));
    reading
}

/// A moment in 2026, at the beginning of ten minutes.
const BEGIN: u64 = 1_790_000_400_000;

fn cpu(bucket: &Bucket) -> Summary {
    bucket.summaries[Metric::Cpu as usize].unwrap()
}

fn run(series: &mut Series, seconds: std::ops::Range<u64>) -> Vec<Closed> {
    let mut closed = Vec::new();
    for second in seconds {
        let at = BEGIN + second * 1000;
        closed.extend(series.push(UnixMillis(at), at, &reading(second as f32)));
    }
    closed
}

#[test]
fn ten_seconds_make_a_bucket_six_a_minute_ten_minutes_one_more() {
    assert_eq!(BEGIN % 600_000, 0);
    let mut series = Series::default();
    let closed = run(&mut series, 0..601);
    let count = |tier: usize| closed.iter().filter(|c| c.tier == tier).count();
    assert_eq!((count(0), count(1), count(2)), (60, 10, 1));
    let first = &closed[0].bucket;
    assert_eq!((first.begins_at, first.readings), (UnixMillis(BEGIN), 10));
    assert_eq!(cpu(first), Summary { min: 0.0, p50: 4.0, p95: 9.0, max: 9.0, mean: 4.5 });
    assert_eq!(first.summaries[Metric::Memory as usize], None, "missing is missing");
    let whole = &closed.last().unwrap().bucket;
    let summary = cpu(whole);
    assert_eq!((whole.begins_at, whole.readings), (UnixMillis(BEGIN), 600));
    assert_eq!((summary.min, summary.max, summary.mean), (0.0, 599.0, 299.5));
    // Pooled twice: within a part's width of the exact ones.
    assert!((summary.p50 - 299.5).abs() < 10.0 && (summary.p95 - 569.5).abs() < 10.0, "{summary:?}");
}

#[test]
fn who_begins_again_closes_the_same_long_buckets() {
    let mut whole = Series::default();
    let expected: Vec<Closed> = run(&mut whole, 0..601).into_iter().filter(|c| c.tier > 0).collect();
    // Killed after each bucket in turn: only what was closed is in the history.
    for cut in 1..60 {
        let mut first = Series::default();
        let before = run(&mut first, 0..cut * 10 + 1);
        let tail = |tier: usize| -> Vec<Bucket> {
            before.iter().filter(|c| c.tier == tier).map(|c| c.bucket.clone()).collect()
        };
        let at = UnixMillis(BEGIN + cut * 10_000);
        let mut second = Series::resume(at, [&tail(0), &tail(1)]);
        let after = run(&mut second, cut * 10..601);
        let long: Vec<Closed> = before.into_iter().chain(after).filter(|c| c.tier > 0).collect();
        assert_eq!(long, expected, "cut after bucket {cut}");
    }
}

#[test]
fn what_is_late_repeated_or_of_the_future_is_counted_and_left_out() {
    let mut series = Series::default();
    let now = UnixMillis(BEGIN + 60_000);
    let mut place = |at: u64| series.place(UnixMillis(BEGIN + at), now, &reading(1.0)).len();
    place(1_000);
    place(1_000);
    place(500);
    place(66_000);
    assert_eq!(place(30_000), 1, "the first bucket");
    let faults = series.faults();
    assert_eq!((faults.of(Fault::Repeated), faults.of(Fault::Late), faults.of(Fault::Future)), (1, 1, 1));
    assert_eq!(series.flush().iter().map(|c| u64::from(c.bucket.readings)).collect::<Vec<_>>(), [1, 2, 2]);
}

#[test]
fn a_clock_that_is_set_ends_what_is_open_and_is_counted() {
    let mut series = Series::default();
    series.push(UnixMillis(BEGIN + 100_000), 5_000, &reading(1.0));
    // An hour back, as a host whose clock was wrong.
    let closed = series.push(UnixMillis(BEGIN - 3_500_000), 6_000, &reading(2.0));
    assert_eq!(closed.iter().map(|c| c.tier).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(series.faults().of(Fault::ClockBack), 1);
    let closed = series.push(UnixMillis(BEGIN + 101_000), 7_000, &reading(3.0));
    assert_eq!(closed.len(), 3);
    assert_eq!(series.faults().of(Fault::ClockForward), 1);
    // A host that slept: both clocks went on together, and nothing was set.
    series.push(UnixMillis(BEGIN + 10_101_000), 10_007_000, &reading(3.0));
    assert_eq!(series.faults().of(Fault::ClockForward), 1);
}

proptest! {
    /// Whatever comes in whatever order, buckets are whole, in order of time, and no reading is counted twice.
    #[test]
    fn any_times_make_ordered_buckets(steps in proptest::collection::vec((0u64..200_000, 0.0f32..1e9), 1..200)) {
        let mut series = Series::default();
        let now = UnixMillis(BEGIN + 40_000_000);
        let (mut at, mut closed, mut taken) = (BEGIN, Vec::new(), 0u64);
        for (step, value) in steps {
            // One in some goes back.
            at = if step % 17 == 0 { at.saturating_sub(step) } else { at + step };
            closed.extend(series.place(UnixMillis(at), now, &reading(value)));
            taken += 1;
        }
        closed.extend(series.flush());
        let refused: u64 = series.faults().counted().map(|(_, times)| times).sum();
        for (tier, kind) in Tier::ALL.into_iter().enumerate() {
            let own: Vec<&Bucket> = closed.iter().filter(|c| c.tier == tier).map(|c| &c.bucket).collect();
            prop_assert!(own.windows(2).all(|pair| pair[0].begins_at < pair[1].begins_at));
            prop_assert_eq!(own.iter().map(|b| u64::from(b.readings)).sum::<u64>(), taken - refused);
            for bucket in own {
                prop_assert_eq!(bucket.begins_at, kind.begin_of(bucket.begins_at));
                let s = cpu(bucket);
                prop_assert!(s.min <= s.p50 && s.p50 <= s.p95 && s.p95 <= s.max && s.min <= s.mean && s.mean <= s.max);
            }
        }
    }
}
