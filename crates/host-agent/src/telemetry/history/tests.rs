//! Tests of histories on disk. Must never leave a file behind.

use super::*;

const BEGIN: u64 = 1_790_000_400_000;

fn vm() -> VmId {
    VmId::from_bits(7 << 96)
}

fn bucket(tier: usize, number: u64, value: f32) -> Bucket {
    let step = Tier::ALL[tier].step_s * 1000;
    let begins_at = Tier::ALL[tier].begin_of(UnixMillis(BEGIN + number * step));
    let mut summaries = [None; METRICS];
    summaries[Metric::Cpu as usize] =
        Some(Summary { min: 0.0, p50: value / 2.0, p95: value, max: value, mean: value / 2.0 });
    Bucket { begins_at, readings: 10, summaries }
}

fn open(path: &Path) -> History {
    History::open(path, vm()).unwrap().0
}

fn near(a: f32, b: f32) -> bool {
    (a - b).abs() <= b.abs() * 1e-3 + 1e-3
}

#[test]
fn values_are_kept_within_a_thousandth_and_missing_is_missing() {
    for scale in [Scale::SHORT, Scale::LONG] {
        for exponent in -2..12 {
            for digit in [1.0, 2.5, 9.9] {
                let real = digit * 10f32.powi(exponent);
                let kept = scale.value(scale.code(real)).unwrap();
                assert!((kept - real).abs() <= real * 1e-3 + 1e-3, "{real} {kept}");
            }
        }
        assert_eq!(scale.value(scale.code(0.0)), Some(0.0));
        assert_eq!(scale.value(scale.missing()), None);
        assert!(scale.value(scale.code(f32::MAX)).unwrap() >= 1e12);
    }
}

#[test]
fn codes_come_back_as_they_were_packed() {
    for scale in [Scale::SHORT, Scale::LONG] {
        for count in 0..30u16 {
            let codes: Vec<u16> = (0..count).map(|at| at.wrapping_mul(40_503) & scale.missing()).collect();
            let mut bytes = Vec::new();
            scale.pack(codes.iter().copied(), &mut bytes);
            assert_eq!(bytes.len(), scale.bytes(codes.len()));
            assert_eq!(scale.unpack(&bytes)[..codes.len()], codes);
        }
    }
}

#[test]
fn what_was_put_in_is_there_after_a_restart_and_the_oldest_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history");
    let history = open(&path);
    for (tier, kind) in Tier::ALL.into_iter().enumerate() {
        for number in 0..kind.slots + 5 {
            history.put(tier, &bucket(tier, number, number as f32)).unwrap();
        }
    }
    drop(history);
    let found = open(&path).read().unwrap();
    assert_eq!(found.damaged, 0);
    for (tier, kind) in Tier::ALL.into_iter().enumerate() {
        let buckets = &found.buckets[tier];
        assert_eq!(buckets.len() as u64, kind.slots);
        assert_eq!(buckets[0].begins_at, bucket(tier, 5, 0.0).begins_at);
        let last = buckets.last().unwrap().summaries[Metric::Cpu as usize].unwrap();
        assert!(near(last.max, (kind.slots + 4) as f32), "{last:?}");
        assert!(buckets.iter().all(|b| b.summaries[Metric::Memory as usize].is_none()));
    }
    assert!(std::fs::metadata(&path).unwrap().len() <= 3_000_000, "3 MB a VM");
}

#[test]
fn of_two_of_the_same_time_the_fuller_stays() {
    let dir = tempfile::tempdir().unwrap();
    let history = open(&dir.path().join("history"));
    let mut cut = bucket(0, 0, 1.0);
    cut.readings = 3;
    history.put(0, &bucket(0, 0, 2.0)).unwrap();
    history.put(0, &cut).unwrap();
    assert_eq!(history.read().unwrap().buckets[0][0].readings, 10);
}

#[test]
fn whatever_is_cut_or_flipped_is_missing_and_never_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let history = open(&dir.path().join("history"));
    for number in 0..20 {
        history.put(0, &bucket(0, number, number as f32)).unwrap();
    }
    let (whole, before) = (history.export().unwrap(), history.read().unwrap().buckets[0].clone());
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for cut in [0, 5, HEADING_FIXED, 100, HEADING_BYTES, used - 1, used - 100, used / 2, whole.len() - 1] {
        match decode(&whole[..cut]).unwrap_err() {
            HistoryError::Foreign(_) => assert!(cut < HEADING_BYTES, "cut at {cut}"),
            HistoryError::Cut { has, of } => assert_eq!((has, of), (cut as u64, whole.len() as u64)),
            error => panic!("{error}"),
        }
        // The node goes on with what there is of its own.
        let path = dir.path().join(format!("cut at {cut}"));
        std::fs::write(&path, &whole[..cut]).unwrap();
        let history = open(&path);
        let found = history.read().unwrap();
        assert!(found.buckets[0].iter().all(|b| before.contains(b)), "cut at {cut}");
        assert_eq!(history.export().unwrap().len(), whole.len());
    }
    let text =
        HEADING_FIXED + whole[HEADING_FIXED..HEADING_BYTES].iter().position(|byte| *byte == 0).unwrap();
    let first = HEADING_BYTES + whole[HEADING_BYTES..].iter().position(|byte| *byte != 0).unwrap();
    for at in (0..text + 20).chain(first..used).step_by(7) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        if let Ok((_, found)) = decode(&flipped) {
            let wrong = found.buckets.iter().flatten().find(|b| !before.contains(b));
            assert!(wrong.is_none(), "flipped at {at}: {wrong:?}");
        }
    }
}

#[test]
fn a_file_that_is_none_is_put_aside_and_told_and_a_clones_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history");
    std::fs::write(&path, b"#!/bin/sh\n").unwrap();
    let (history, aside) = History::open(&path, vm()).unwrap();
    assert_eq!(std::fs::read(aside.unwrap()).unwrap(), b"#!/bin/sh\n");
    history.put(0, &bucket(0, 3, 5.0)).unwrap();
    drop(history);
    let other = VmId::from_bits(8 << 96);
    let (clone, aside) = History::open(&path, other).unwrap();
    assert_eq!((aside, clone.read().unwrap().buckets[0].len()), (None, 1));
    assert_eq!(decode(&clone.export().unwrap()).unwrap().0, other);
}

#[test]
fn a_history_of_fewer_columns_is_read_by_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history");
    let heading =
        Heading { metrics: vec!["sent".into(), "of later".into(), "cpu".into()], ..Heading::own(vm()) };
    let old = History::make(&path, &heading).unwrap();
    old.put(0, &bucket(0, 3, 5.0)).unwrap();
    drop(old);
    let found = open(&path).read().unwrap();
    let bucket = &found.buckets[0][0];
    assert!(near(bucket.summaries[Metric::Cpu as usize].unwrap().max, 5.0));
    assert_eq!(bucket.summaries[Metric::Sent as usize], None);
}

/// With the 21 columns that they had.
#[test]
fn a_history_of_the_version_before_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history");
    let metrics: Vec<String> = Metric::ALL[..=Metric::Forks as usize].iter().map(|m| m.to_string()).collect();
    assert_eq!(metrics.len(), 21);
    for version in [1, 2] {
        let heading = Heading { version, metrics: metrics.clone(), ..Heading::own(vm()) };
        let old = History::make(&path, &heading).unwrap();
        assert_eq!(old.layout.slot_bytes(), 224);
        old.put(0, &bucket(0, 3, 5.0)).unwrap();
        old.put(2, &bucket(2, 7, 900_000.0)).unwrap();
        drop(old);
        let (history, aside) = History::open(&path, vm()).unwrap();
        let found = history.read().unwrap();
        assert_eq!((aside, found.damaged), (None, 0));
        for (tier, number, value) in [(0, 3, 5.0), (2, 7, 900_000.0)] {
            let [kept] = &found.buckets[tier][..] else { panic!("{found:?}") };
            let cpu = kept.summaries[Metric::Cpu as usize].unwrap();
            assert_eq!(kept.begins_at, bucket(tier, number, value).begins_at);
            assert!(near(cpu.p50, value / 2.0) && near(cpu.max, value), "{cpu:?}");
            assert_eq!(kept.summaries[Metric::DirtyRate as usize], None, "missing is not zero");
        }
        assert_eq!(Heading::decode(&history.export().unwrap()).unwrap().0, Heading::own(vm()));
    }
}

#[test]
fn a_slot_of_another_history_or_ring_is_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (open(&dir.path().join("ours")), dir.path().join("theirs"));
    let theirs = History::open(&theirs, VmId::from_bits(8 << 96)).unwrap().0;
    theirs.put(0, &bucket(0, 3, 5.0)).unwrap();
    let mut mixed = theirs.export().unwrap();
    mixed[..HEADING_BYTES].copy_from_slice(&ours.export().unwrap()[..HEADING_BYTES]);
    let (_, found) = decode(&mixed).unwrap();
    assert_eq!((found.buckets.iter().flatten().count(), found.damaged), (0, 1));
    let slot = ours.layout.encode(0, &bucket(1, 3, 5.0));
    let place = bucket(1, 3, 5.0).begins_at.0 / (Tier::ALL[1].step_s * 1000) % Tier::ALL[1].slots;
    assert_eq!(ours.layout.decode(1, place, &slot), Err(()), "it is of the ring of tier 0");
}
