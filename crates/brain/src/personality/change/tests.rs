//! Made-up VMs that go on, become something else, stumble, find no rest, and have habits.

use super::*;
use crate::random::Random;
use proteus_model::personality::{Prototype, Trait};

const TRAITS: [Trait; 6] = [
    Trait::CpuUse,
    Trait::Packets,
    Trait::PacketsPerCpu,
    Trait::SentShare,
    Trait::PacketOutSize,
    Trait::DiskWrites,
];
const WEB: [f32; 6] = [0.4, 7.0, 7.5, 0.9, 6.8, 0.1];
const CACHE: [f32; 6] = [0.5, 8.5, 9.5, 0.45, 4.6, 0.1];
const BATCH: [f32; 6] = [0.95, 0.3, 1.0, 0.5, 4.2, 3.0];
const DATABASE: [f32; 6] = [0.6, 6.5, 7.0, 0.5, 5.2, 6.5];

fn named(name: &str) -> Label {
    name.parse().unwrap()
}

fn labels() -> Labels {
    let of = |name: &str, base: [f32; 6]| Prototype {
        label: named(name),
        source: "a test".into(),
        traits: TRAITS.into_iter().zip(base).collect::<Vec<_>>().into(),
        programs: Vec::new(),
    };
    Labels::new(&[of("web", WEB), of("cache", CACHE), of("batch", BATCH), of("database", DATABASE)])
}

/// A VM that is looked at every ten seconds, each vector of a minute.
struct Vm {
    labels: Labels,
    watch: ChangeWatch,
    random: Random,
    minute: VecDeque<[f32; 6]>,
    at: u64,
    told: Vec<(u64, PersonalityChange)>,
}

impl Vm {
    fn new(seed: u64) -> Self {
        let (labels, watch) = (labels(), ChangeWatch::default());
        Self { labels, watch, random: Random::new(seed), minute: VecDeque::new(), at: 0, told: Vec::new() }
    }

    /// So many looks at work of this kind, with noise; no label is known.
    fn work(&mut self, kind: [f32; 6], looks: usize, noise: f32) {
        for _ in 0..looks {
            let sample = kind.map(|value| value + noise * (self.random.share() as f32 - 0.5));
            self.minute.push_back(sample);
            if self.minute.len() > MINUTE {
                self.minute.pop_front();
            }
            let mut vector = TraitVector::default();
            for (column, this) in TRAITS.into_iter().enumerate() {
                let sum: f32 = self.minute.iter().map(|sample| sample[column]).sum();
                vector.set(this, Some(sum / self.minute.len() as f32));
            }
            let told = self.watch.push(UnixMillis(self.at * 10_000), &vector, None, &self.labels);
            self.told.extend(told.map(|change| (self.at, change)));
            self.at += 1;
        }
    }

    fn kinds(&self) -> Vec<ChangeKind> {
        self.told.iter().map(|(_, change)| change.kind).collect()
    }
}

#[test]
fn a_vm_that_goes_on_is_left_alone_also_where_its_load_swings() {
    for seed in 0..5 {
        let mut vm = Vm::new(seed);
        for round in 0..400 {
            // Up to four times the load, and back.
            let by = [0.0, 0.7, 1.4, 0.7][round % 4];
            let mut kind = WEB;
            (kind[0], kind[1]) = (kind[0] * (1.0 + by), kind[1] + by);
            vm.work(kind, 30, 0.3);
        }
        assert_eq!(vm.told, [], "seed {seed}");
    }
}

#[test]
fn other_work_is_a_shift_and_told_within_minutes() {
    for seed in 0..20 {
        let mut vm = Vm::new(seed);
        vm.work(WEB, 60, 0.2);
        vm.work(DATABASE, 60, 0.2);
        vm.work(BATCH, 60, 0.2);
        assert_eq!(vm.kinds(), [ChangeKind::Shift; 2], "seed {seed}: {:?}", vm.told);
        for ((at, change), began) in vm.told.iter().zip([60, 120]) {
            assert!((began..began + 24).contains(at), "seed {seed}: told at {at}, began at {began}");
            assert!(change.began_at.0 / 10_000 - began < 6);
            assert!(!change.evidence.is_empty());
        }
    }
}

#[test]
fn what_goes_by_is_an_anomaly_and_so_is_what_finds_no_rest() {
    let mut vm = Vm::new(1);
    vm.work(WEB, 60, 0.2);
    vm.work(BATCH, 7, 0.2);
    vm.work(WEB, 60, 0.2);
    assert_eq!(vm.kinds(), [ChangeKind::Anomaly], "{:?}", vm.told);
    for _ in 0..10 {
        vm.work(BATCH, 5, 0.2);
        vm.work(DATABASE, 5, 0.2);
        vm.work(CACHE, 5, 0.2);
    }
    assert_eq!(vm.kinds(), [ChangeKind::Anomaly; 2], "told once: {:?}", vm.told);
    assert!(vm.watch.is_departed());
}

#[test]
fn what_is_done_again_and_again_becomes_a_habit() {
    let mut vm = Vm::new(2);
    vm.work(WEB, 60, 0.2);
    for _ in 0..10 {
        vm.work(BATCH, 60, 0.2);
        vm.work(WEB, 60, 0.2);
    }
    let shifts = vm.kinds().len();
    assert_eq!(shifts, 2 * HABIT as usize, "{:?}", vm.kinds());
}

#[test]
fn what_was_usual_and_habits_are_known_after_a_restart() {
    let mut vm = Vm::new(3);
    vm.work(WEB, 60, 0.2);
    for _ in 0..4 {
        vm.work(BATCH, 60, 0.2);
        vm.work(WEB, 60, 0.2);
    }
    let told = vm.told.len();
    let text = serde_json::to_string(&vm.watch.memory()).unwrap();
    assert!(text.len() < 20_000, "{}", text.len());
    vm.watch = ChangeWatch::resume(serde_json::from_str(&text).unwrap());
    vm.work(BATCH, 60, 0.2);
    vm.work(WEB, 60, 0.2);
    assert_eq!(vm.told.len(), told, "a habit was told: {:?}", vm.told);
    vm.watch = ChangeWatch::resume(vm.watch.memory());
    vm.work(DATABASE, 60, 0.2);
    assert_eq!(vm.told.len(), told + 1);
}

#[test]
fn a_departure_outlives_a_restart_and_not_a_time_that_nobody_saw() {
    for unseen in [0, 90] {
        let mut vm = Vm::new(5);
        vm.work(WEB, 60, 0.2);
        vm.work(BATCH, 9, 0.2);
        assert!(vm.watch.is_departed());
        let text = serde_json::to_string(&vm.watch.memory()).unwrap();
        assert!(text.len() < 20_000, "{}", text.len());
        vm.watch = ChangeWatch::resume(serde_json::from_str(&text).unwrap());
        let (gone, began) = (vm.at, vm.at - 9);
        vm.at += unseen;
        vm.work(BATCH, 30, 0.2);
        let [(at, change)] = &vm.told[..] else { panic!("{:?}", vm.told) };
        assert_eq!(change.kind, ChangeKind::Shift);
        let begin = if unseen == 0 { began..=gone } else { gone + unseen..=gone + unseen + 3 };
        assert!(begin.contains(&(change.began_at.0 / 10_000)), "{at} {change:?}");
    }
}

#[test]
fn a_label_that_others_bear_makes_a_shift_sooner() {
    let (web, cache) = (named("web"), named("cache"));
    let labels = labels();
    let vector = |kind: [f32; 6]| TraitVector::from(TRAITS.into_iter().zip(kind).collect::<Vec<_>>());
    let mut watch = ChangeWatch::default();
    let mut at = 0;
    let mut push = |watch: &mut ChangeWatch, kind, label: &Label| {
        at += 10_000;
        watch.push(UnixMillis(at), &vector(kind), Some(label), &labels)
    };
    for _ in 0..12 {
        assert_eq!(push(&mut watch, WEB, &web), None);
    }
    let told: Vec<_> = (0..12).filter_map(|_| push(&mut watch, CACHE, &cache)).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].from.as_ref(), told[0].to.as_ref()), (Some(&web), Some(&cache)));
    assert_eq!((told[0].told_at.0 - told[0].began_at.0) / 10_000, 5);
}

#[test]
fn a_vm_of_the_same_label_is_something_else_only_where_it_is_far_from_what_it_was() {
    let (web, labels) = (named("web"), labels());
    let vector = |kind: [f32; 6]| TraitVector::from(TRAITS.into_iter().zip(kind).collect::<Vec<_>>());
    let told = |by: f32| {
        let mut watch = ChangeWatch::default();
        let moved = WEB.map(|value| value + by);
        let all = std::iter::repeat_n(WEB, 20).chain(std::iter::repeat_n(moved, 40));
        let looks = all.enumerate().map(|(at, kind)| (UnixMillis(at as u64 * 10_000), vector(kind)));
        looks.filter_map(|(at, vector)| watch.push(at, &vector, Some(&web), &labels)).count()
    };
    let distance = |by: f32| labels.distance(&vector(WEB), &vector(WEB.map(|value| value + by))).unwrap();
    assert!(distance(0.25) > FAR && distance(0.25) < SAME_LABEL_FAR, "{}", distance(0.25));
    assert_eq!((told(0.25), told(3.0)), (0, 1), "{} {}", distance(0.25), distance(3.0));
}

#[test]
fn nothing_is_told_where_too_little_is_known() {
    let mut watch = ChangeWatch::default();
    for at in 0..100 {
        assert_eq!(watch.push(UnixMillis(at), &TraitVector::default(), None, &labels()), None);
    }
}
