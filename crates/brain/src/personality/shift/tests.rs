//! A small fleet that is made up: what it teaches, what is told of VMs that it never saw, and what never is.

use super::*;
use std::sync::OnceLock;

/// Samples of a made-up VM's life: ten days of five minutes.
const LIFE: usize = 10 * 288;

/// A VM with a level, a daily wave and noise of its own in each dimension.
fn vm(seed: u64) -> Vec<Usage> {
    let mut random = Random::new(seed);
    let levels: [f64; DIMENSIONS] = std::array::from_fn(|_| random.share() * 8.0);
    let waves: [f64; DIMENSIONS] = std::array::from_fn(|_| random.share());
    let sample = |at: usize| {
        let hour = (at as f64 / 288.0 * std::f64::consts::TAU).sin();
        let value = |dimension: usize| {
            let noise = random.share() - 0.5;
            Some(((levels[dimension] + waves[dimension] * hour + noise).exp() as f32).max(0.0))
        };
        Usage(std::array::from_fn(value))
    };
    (0..LIFE).map(sample).collect()
}

fn fleet(first: u64, count: u64) -> Vec<Vec<Usage>> {
    (first..first + count).map(vm).collect()
}

/// Learned once for all tests, with a threshold of one false alarm in ten VM-weeks, on VMs that it did not learn from.
fn model() -> &'static ShiftModel {
    static MODEL: OnceLock<ShiftModel> = OnceLock::new();
    MODEL.get_or_init(|| {
        let forest = Training { trees: 40, leaf_examples: 20, ..Training::default() };
        let training = ShiftTraining { splices: 40, steady: 10, forest };
        let mut model = learn_shift(&fleet(100, 16), &training).unwrap();
        model.threshold = threshold_for(&steady_scores(&model, 200), 1);
        model
    })
}

fn steady_scores(model: &ShiftModel, first: u64) -> Vec<Vec<f32>> {
    let scores = |vm: Vec<Usage>| {
        let mut watch = ShiftWatch::default();
        vm.iter().filter_map(|usage| watch.score_next(usage, model)).collect()
    };
    fleet(first, 8).into_iter().map(scores).collect()
}

/// When shifts are told, counted in samples.
fn told(model: &ShiftModel, life: &[Usage]) -> Vec<(usize, Shift)> {
    let mut watch = ShiftWatch::default();
    let tell = |(at, usage)| Some((at, watch.push(usage, model)?));
    life.iter().enumerate().filter_map(tell).collect()
}

#[test]
fn a_vm_that_becomes_another_is_told_within_half_an_hour_with_what_changed() {
    let (mut noticed, swaps) = (0, 12);
    for number in 0..swaps {
        let (own, other) = (vm(300 + number), vm(400 + number));
        let at = 1500;
        let life: Vec<Usage> = own[..at].iter().chain(&other[at..at + 12]).copied().collect();
        let found = told(model(), &life);
        let Some((_, shift)) = found.iter().find(|(when, _)| (at..at + 6).contains(when)) else { continue };
        noticed += 1;
        assert!(shift.score >= model().threshold);
        let strongest = shift.evidence[0];
        assert!(strongest.deviations.abs() >= shift.evidence[5].deviations.abs());
        assert!(strongest.now < strongest.range.0 || strongest.now > strongest.range.1, "{strongest:?}");
    }
    assert!(noticed >= 11, "{noticed} of {swaps}");
}

#[test]
fn a_vm_that_goes_on_is_left_in_peace() {
    let raised: usize = fleet(500, 8).iter().map(|life| told(model(), life).len()).sum();
    // Ten days each: eleven VM-weeks, at one in ten of them.
    assert!(raised <= 4, "{raised} false alarms");
}

#[test]
fn nothing_is_told_of_a_vm_that_is_hardly_known_or_not_measured() {
    let life = vm(600);
    let mut watch = ShiftWatch::default();
    let scored = life.iter().map(|usage| watch.score_next(usage, model()).is_some());
    let first = scored.take(400).position(|scored| scored);
    assert_eq!(first, Some(REFERENCE_SAMPLES_MIN + WINDOW - 1));
    let nothing = vec![Usage([None; 6]); 2000];
    assert_eq!(told(model(), &nothing), []);
}

#[test]
fn what_is_no_number_counts_as_not_measured() {
    let life: Vec<Usage> = vm(700);
    let with = |odd: Option<f32>| {
        let mut life = life.clone();
        for usage in &mut life[1000..] {
            usage.0[2] = odd;
        }
        let mut watch = ShiftWatch::default();
        life.iter().map(|usage| watch.score_next(usage, model())).collect::<Vec<_>>()
    };
    for odd in [f32::NAN, f32::INFINITY, -1.0] {
        assert_eq!(with(Some(odd)), with(None));
    }
}

#[test]
fn a_watch_remembers_no_more_than_it_must() {
    let mut watch = ShiftWatch::default();
    for usage in std::iter::repeat_with(|| vm(800)).flatten().take(20_000) {
        watch.score_next(&usage, model());
        assert!(watch.rows.len() <= 2 * REFERENCE_SAMPLES);
    }
}

#[test]
fn an_alarm_is_one_however_long_it_lasts() {
    let scores: Vec<f32> = [vec![0.0; 5], vec![2.0; 2 * QUIET_SAMPLES], vec![0.0; 5], vec![3.0]].concat();
    assert_eq!(alarms(&scores, 1.0), 3);
    assert_eq!(alarms(&scores, 2.5), 1);
    assert_eq!(alarms(&[f32::NAN, f32::NAN], 0.0), 0);
    assert_eq!(threshold_for(std::slice::from_ref(&scores), 1), 3.0);
    assert_eq!(threshold_for(&[scores], 0), f32::INFINITY);
}

#[test]
fn a_model_of_another_version_is_refused() {
    assert_eq!(model().check(), Ok(()));
    let mut examples = Examples::new(2);
    for at in 0..300 {
        examples.push(&[at as f32, 0.0], at > 150);
    }
    let other = ShiftModel { forest: learn(&examples, &Training::default()).unwrap(), threshold: 0.0 };
    assert!(other.check().unwrap_err().to_string().contains("of 2 features"));
}
