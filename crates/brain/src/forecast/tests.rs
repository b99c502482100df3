//! Made-up VMs, looked ahead.

use super::*;
use crate::random::Random;
use crate::tree::Training;

/// A VM that is busier by day, with noise that now and then is a burst.
fn daily(seed: u64, days: usize) -> Vec<Option<f32>> {
    let mut random = Random::new(seed);
    let level = 10.0 + 30.0 * random.share() as f32;
    let sample = |at: usize| {
        let turn = (at % 288) as f32 / 288.0 * std::f32::consts::TAU;
        let burst = if random.share() < 0.02 { 25.0 * random.share() as f32 } else { 0.0 };
        Some((level * (1.0 + 0.5 * turn.sin()) + 4.0 * random.share() as f32 + burst).min(100.0))
    };
    (0..days * 288).map(sample).collect()
}

fn training() -> PriorTraining {
    let forest = Training { trees: 15, leaves: 8, leaf_examples: 40, rate: 0.2, ..Training::default() };
    PriorTraining { moments: 4000, forest: Some(forest), seed: 1 }
}

fn fleet() -> Vec<Vec<Option<f32>>> {
    (0..8).map(|seed| daily(seed, 9)).collect()
}

#[test]
fn what_comes_is_the_highest_of_the_window_and_unknown_where_too_little_was_measured() {
    let mut random = Random::new(3);
    let series: Vec<Option<f32>> =
        (0..300).map(|_| (random.share() < 0.7).then(|| (random.below(40)) as f32)).collect();
    for window in [1, 2, 6, 24] {
        let fast = coming(&series, window);
        for (at, fast) in fast.into_iter().enumerate() {
            let slow = series.get(at + 1..=at + window).and_then(|window_of| {
                let known: Vec<f32> = window_of.iter().flatten().copied().collect();
                (2 * known.len() >= window).then(|| known.into_iter().reduce(f32::max)).flatten()
            });
            assert_eq!(fast, slow, "{window} {at}");
        }
    }
}

#[test]
fn a_prior_is_the_same_again_and_comes_back_from_text() {
    let prior = learn_prior(&fleet(), &training()).unwrap();
    assert_eq!(learn_prior(&fleet(), &training()).unwrap(), prior);
    assert!(prior.is_sound() && Prior::plain().is_sound());
    let text = serde_json::to_string(&prior).unwrap();
    assert_eq!(serde_json::from_str::<Prior>(&text).unwrap(), prior);
    let mut broken = prior;
    broken.cells[1][1].lifts[0] = Lift::Plus(f32::NAN);
    assert!(!broken.is_sound());
    assert!(learn_prior(&[], &training()).is_err());
}

#[test]
fn quantiles_are_passed_about_as_often_as_they_say_by_a_vm_that_nobody_learned_from() {
    for prior in [Prior::plain(), learn_prior(&fleet(), &training()).unwrap()] {
        let series = daily(77, 40);
        let came = HORIZONS.map(|horizon| coming(&series, horizon.samples as usize));
        let mut forecaster = Forecaster::new(&prior);
        let mut beyond = [[0u32; SHARES.len()]; HORIZONS.len()];
        let mut count = [0u32; HORIZONS.len()];
        for (at, sample) in series.iter().enumerate() {
            forecaster.push(at as u64, *sample, &prior);
            let said = forecaster.forecast(&prior).unwrap();
            for horizon in 0..HORIZONS.len() {
                assert!(said[horizon].windows(2).all(|pair| pair[0] <= pair[1]), "{said:?}");
                // The first ten days it learns.
                if let (Some(came), true) = (came[horizon][at], at > 10 * 288) {
                    count[horizon] += 1;
                    for (share, beyond) in beyond[horizon].iter_mut().enumerate() {
                        *beyond += u32::from(came > said[horizon][share]);
                    }
                }
            }
        }
        for horizon in 0..4 {
            let share = |of: usize| f64::from(beyond[horizon][of]) / f64::from(count[horizon]);
            let name = HORIZONS[horizon].name;
            assert!((0.05..0.16).contains(&share(1)), "{name}: beyond p90 {}", share(1));
            assert!(share(2) < 0.035, "{name}: beyond p99 {}", share(2));
            let (passed, own) = forecaster.coverage(horizon);
            assert!(passed > 100 && own[1] < passed / 5, "{passed} {own:?}");
        }
    }
}

#[test]
fn what_was_not_measured_is_no_zero_and_what_is_late_changes_nothing() {
    let prior = Prior::plain();
    let mut forecaster = Forecaster::new(&prior);
    assert_eq!(forecaster.forecast(&prior), None);
    for number in 0..288 {
        forecaster.push(number, Some(50.0), &prior);
    }
    let known = forecaster.clone();
    forecaster.push(100, Some(0.0), &prior);
    assert_eq!((forecaster.forecast(&prior), forecaster.track()), (known.forecast(&prior), known.track()));
    // Two hours of silence: it is where it was.
    for number in 288..312 {
        forecaster.push(number, None, &prior);
    }
    let said = forecaster.forecast(&prior).unwrap();
    assert!(said[1][0] > 40.0 && said[1][2] < 90.0, "{said:?}");
    assert_eq!(
        forecaster.coverage(0).0,
        known.coverage(0).0,
        "a window that nobody measured taught something"
    );
    // After three hours nobody knows.
    forecaster.push(350, None, &prior);
    assert_eq!(forecaster.forecast(&prior), None);
    forecaster.push(351, Some(f32::NAN), &prior);
    assert_eq!(forecaster.forecast(&prior), None);
    forecaster.push(u64::MAX / 2, Some(20.0), &prior);
    assert!(forecaster.forecast(&prior).is_some_and(|said| said[0][1] >= 20.0));
}
