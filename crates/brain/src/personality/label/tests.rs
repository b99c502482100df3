//! Labels of made-up VMs: nearest, torn between two, like nothing, and by the programs of a guest.

use super::*;
use proptest::prelude::*;

fn label(name: &str) -> Label {
    name.parse().unwrap()
}

fn vector(values: &[(Trait, f32)]) -> TraitVector {
    values.to_vec().into()
}

/// A label's traits, moved by so much each.
fn kind(base: [f32; 6], by: f32) -> Vec<(Trait, f32)> {
    let traits = [
        Trait::CpuUse,
        Trait::Packets,
        Trait::SentShare,
        Trait::PacketOutSize,
        Trait::DiskWrites,
        Trait::Flushes,
    ];
    traits.into_iter().zip(base.map(|value| value + by)).collect()
}

const WEB: [f32; 6] = [0.5, 7.0, 0.9, 6.5, 0.0, 0.0];
const CACHE: [f32; 6] = [0.5, 9.0, 0.4, 4.5, 0.0, 0.0];
const DATABASE: [f32; 6] = [0.6, 6.0, 0.5, 5.0, 6.0, 0.5];
const IDLE: [f32; 6] = [0.0, 0.1, 0.5, 4.0, 0.0, 0.0];

fn labels() -> Labels {
    let of = |name: &str, base: [f32; 6]| {
        [-0.05, 0.05].map(|by| Prototype {
            label: label(name),
            source: "a test".into(),
            traits: kind(base, by).into(),
            programs: Vec::new(),
        })
    };
    let all = [of("web frontend", WEB), of("cache", CACHE), of("database", DATABASE), of("idle", IDLE)];
    Labels::new(&all.concat())
}

#[test]
fn each_kind_is_told_with_what_speaks_for_it() {
    let labels = labels();
    for (name, base) in [("web frontend", WEB), ("cache", CACHE), ("database", DATABASE), ("idle", IDLE)] {
        let judgement = labels.judge(&vector(&kind(base, 0.02)), None);
        assert_eq!(judgement.label, Some(label(name)), "{judgement:?}");
        assert!(judgement.confidence > 0.8 && !judgement.with_guest, "{judgement:?}");
        assert!(judgement.evidence[0].weight > 0.0, "{judgement:?}");
        assert_eq!(judgement.candidates[0].label, label(name));
    }
    let judgement = labels.judge(&vector(&kind(DATABASE, 0.0)), None);
    assert_eq!(judgement.evidence[0].of, Some(Trait::DiskWrites), "{judgement:?}");
    assert_eq!(judgement.evidence[0].seen, "KiB/s written: 402 (typical: 383)");
}

#[test]
fn what_is_between_two_or_like_nothing_is_not_known() {
    let labels = labels();
    let between: [f32; 6] = std::array::from_fn(|at| f32::midpoint(WEB[at], CACHE[at]));
    let judgement = labels.judge(&vector(&kind(between, 0.0)), None);
    assert_eq!(judgement.label, None);
    assert!(judgement.why_not.as_ref().unwrap().contains("nearly as much"), "{judgement:?}");
    let judgement = labels.judge(&vector(&kind([1.0, 30.0, 9.0, 30.0, 30.0, 9.0], 0.0)), None);
    assert!(judgement.why_not.as_ref().unwrap().contains("like nothing that is known"), "{judgement:?}");
    let judgement = labels.judge(&vector(&[(Trait::CpuUse, 0.5)]), None);
    assert_eq!((judgement.label, judgement.why_not.as_deref()), (None, Some("too little was measured")));
    let nobody = Labels::new(&[]).judge(&vector(&kind(WEB, 0.0)), None);
    assert_eq!(nobody.why_not.as_deref(), Some("too little was measured"));
}

#[test]
fn the_programs_of_a_guest_bring_a_label_nearer_and_rule_none_out() {
    let labels = labels();
    let between = vector(&kind(std::array::from_fn(|at| f32::midpoint(WEB[at], CACHE[at])), 0.0));
    let programs = Programs::from([("redis-server".to_owned(), 0.9), ("sh".to_owned(), 0.1)]);
    let judgement = labels.judge(&between, Some(&programs));
    assert_eq!(judgement.label, Some(label("cache")));
    assert!(judgement.with_guest);
    assert!(judgement.evidence.iter().any(|e| e.seen.starts_with("redis-server and the like use 90 %")));
    // A guest that lies does not make a web frontend of an idle VM.
    let lie = Programs::from([("nginx".to_owned(), 1.0), ("apache2".to_owned(), 7.0)]);
    assert_eq!(labels.judge(&vector(&kind(IDLE, 0.0)), Some(&lie)).label, Some(label("idle")));
}

#[test]
fn a_taught_label_is_known_by_the_programs_that_it_was_taught_with() {
    let mut prototypes = labels().prototypes;
    let (traits, programs) = (kind(WEB, 0.3).into(), vec!["nginx".to_owned(), "shopd".to_owned()]);
    prototypes.push(Prototype { label: label("shop"), source: "VM shop".into(), traits, programs });
    let programs = Programs::from([("nginx".to_owned(), 0.9), ("shopd".to_owned(), 0.1)]);
    let judgement = Labels::new(&prototypes).judge(&vector(&kind(WEB, 0.28)), Some(&programs));
    assert_eq!(judgement.label, Some(label("shop")), "{judgement:?}");
}

#[test]
fn a_taught_label_comes_first_where_both_are_about_as_near() {
    let all = labels().prototypes;
    let shipped = all.len();
    let shop = Prototype { label: label("shop"), traits: kind(WEB, -0.015).into(), ..all[0].clone() };
    let with = |taught: Prototype| Labels { shipped, ..Labels::new(&[all.clone(), vec![taught]].concat()) };
    let between = vector(&kind(WEB, 0.02));
    let judgement = with(shop.clone()).judge(&between, None);
    assert_eq!(judgement.label, Some(label("shop")), "{judgement:?}");
    let nearest = &judgement.candidates[0];
    assert!(nearest.label == label("web frontend") && judgement.confidence <= 0.5, "{judgement:?}");
    // Two that were taught are no nearer to each other than two that ship.
    let both = Labels { shipped: 0, ..with(shop) };
    assert_eq!(both.judge(&between, None).label, None);
    // One that is clearly nearer stays what it is.
    let far = Prototype { label: label("shop"), traits: kind(WEB, 2.0).into(), ..all[0].clone() };
    assert_eq!(with(far).judge(&between, None).label, Some(label("web frontend")));
}

#[test]
fn a_label_changes_once_three_windows_agree() {
    let (web, idle) = (label("web frontend"), label("idle"));
    let mut watch = LabelWatch::default();
    let said = [&web, &web, &idle, &web, &web, &web, &web];
    let changed: Vec<bool> = said.into_iter().map(|said| watch.push(Some(said))).collect();
    assert_eq!(changed, [false, false, false, false, false, true, false]);
    assert_eq!(watch.borne(), Some(&web));
    assert!(!watch.push(None) && !watch.push(None) && watch.push(None));
    assert_eq!(LabelWatch::resume(Some(idle.clone())).borne(), Some(&idle));
}

#[test]
fn the_shipped_prototypes_are_whole_and_each_is_what_it_says() {
    let shipped = shipped();
    let labels = Labels::new(&shipped);
    let names: Vec<&str> = labels.names().into_iter().map(Label::as_str).collect();
    assert_eq!(names, ["batch analytics", "build farm", "cache", "database", "idle", "web frontend"]);
    for prototype in &shipped {
        let seen = prototype.traits;
        assert_eq!(labels.judge(&seen, None).label, Some(prototype.label.clone()), "{}", prototype.source);
        let host = labels.judge(&seen.of_host(), None);
        assert_eq!(host.label, Some(prototype.label.clone()), "host alone: {}: {host:?}", prototype.source);
    }
    for (name, programs) in PROGRAMS {
        assert!(name.parse::<Label>().is_ok() && programs.iter().all(|program| program.len() <= 15));
    }
}

proptest! {
    #[test]
    fn whatever_is_seen_is_judged_without_nonsense(
        values in proptest::collection::vec(proptest::option::of(any::<f32>()), TRAITS),
        share in any::<f32>(),
    ) {
        let mut seen = TraitVector::default();
        for (this, value) in Trait::ALL.into_iter().zip(values) {
            seen.set(this, value);
        }
        let programs = Programs::from([("postgres".to_owned(), share)]);
        let judgement = labels().judge(&seen, Some(&programs));
        prop_assert!((0.0..=1.0).contains(&judgement.confidence));
        prop_assert!(judgement.label.is_some() != judgement.why_not.is_some());
        prop_assert!(judgement.candidates.iter().all(|c| c.distance >= 0.0 && c.distance <= DEVIATION_MAX));
    }
}

/// The work of a prototype: its source without where it was recorded.
fn work(prototype: &Prototype) -> &str {
    let source = prototype.source.trim_end_matches(", on a busy host");
    source.trim_end_matches(", full Debian")
}

/// As a VM is judged, by its host alone, whose work nobody recorded: by the prototypes of all other work.
#[test]
fn work_that_is_left_out_of_the_prototypes_is_told_by_the_others_or_not_at_all() {
    let all = shipped();
    assert!(all.len() >= 45);
    let mut unknown = Vec::new();
    for left_out in &all {
        let others: Vec<Prototype> =
            all.iter().filter(|other| work(other) != work(left_out)).cloned().collect();
        match Labels::new(&others).judge(&left_out.traits.of_host(), None).label {
            Some(label) => assert_eq!(label, left_out.label, "{}", left_out.source),
            None => unknown.push(&left_out.source),
        }
    }
    println!("not known: {unknown:?}");
    assert!(unknown.len() * 5 <= all.len(), "{unknown:?}");
}
