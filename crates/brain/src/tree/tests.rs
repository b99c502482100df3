//! What is learned, and that it is learned again.

use super::*;

fn training() -> Training {
    Training { trees: 60, leaf_examples: 10, ..Training::default() }
}

/// Yes where one of two features is high, and not both; the third says nothing.
fn either(seed: u64, count: usize) -> Examples {
    let (mut random, mut examples) = (Random::new(seed), Examples::new(3));
    for _ in 0..count {
        let row = [random.share() as f32, random.share() as f32, random.share() as f32];
        examples.push(&row, (row[0] > 0.5) != (row[1] > 0.5));
    }
    examples
}

fn right(forest: &Forest, examples: &Examples) -> f64 {
    let fits = |at: &usize| (forest.score(examples.row(*at)) > 0.0) == (examples.answers[*at] > 0.5);
    (0..examples.len()).filter(fits).count() as f64 / examples.len() as f64
}

#[test]
fn what_needs_two_features_together_is_learned_and_holds_on_others() {
    let forest = learn(&either(1, 4000), &Training { feature_share: 1.0, ..training() }).unwrap();
    let share = right(&forest, &either(2, 2000));
    assert!(share > 0.95, "{share}");
}

#[test]
fn the_same_examples_and_seed_give_the_same_forest_whatever_it_went_through() {
    let examples = either(3, 1000);
    let forest = learn(&examples, &training()).unwrap();
    assert_eq!(learn(&examples, &training()).unwrap(), forest);
    assert_ne!(learn(&examples, &Training { seed: 2, ..training() }).unwrap(), forest);
    let text = serde_json::to_string(&forest).unwrap();
    let back: Forest = serde_json::from_str(&text).unwrap();
    assert_eq!(back, forest);
    assert!(back.is_sound());
}

#[test]
fn what_was_not_measured_is_a_value_of_its_own() {
    let mut examples = Examples::new(1);
    for at in 0..400 {
        examples.push(&[if at % 2 == 0 { f32::NAN } else { at as f32 }], at % 2 == 0);
    }
    let forest = learn(&examples, &training()).unwrap();
    assert!(forest.score(&[f32::NAN]) > 0.0);
    assert!([-1e9, 0.0, 1.0, 399.0, 1e9].iter().all(|value| forest.score(&[*value]) < 0.0));
}

#[test]
fn one_kind_of_answer_teaches_nothing() {
    let mut examples = Examples::new(1);
    assert_eq!(learn(&examples, &training()).unwrap_err(), LearnError::OneKind { yes: 0, all: 0 });
    examples.push(&[1.0], true);
    assert_eq!(learn(&examples, &training()).unwrap_err(), LearnError::OneKind { yes: 1, all: 1 });
    let mut nothing = Examples::new(0);
    nothing.push(&[], true);
    nothing.push(&[], false);
    assert_eq!(learn(&nothing, &training()).unwrap_err(), LearnError::Features(0));
}

#[test]
fn a_forest_that_leads_nowhere_or_round_in_circles_is_not_sound() {
    let good = learn(&either(4, 500), &training()).unwrap();
    let with = |nodes: Vec<Node>| Forest { trees: vec![nodes], ..good.clone() };
    let split = |left, right| Node::Split { feature: 0, below: 0.5, left, right };
    let leaf = Node::Leaf(1.0);
    assert!(with(vec![split(1, 2), leaf, leaf]).is_sound());
    for bad in [
        vec![],
        vec![split(0, 1), leaf],
        vec![split(1, 3), leaf, leaf],
        vec![Node::Split { feature: 3, below: 0.5, left: 1, right: 2 }, leaf, leaf],
        vec![Node::Leaf(f32::NAN)],
    ] {
        assert!(!with(bad.clone()).is_sound(), "{bad:?}");
    }
}

#[test]
fn a_quantile_is_learned_as_it_depends_on_the_features_and_holds_on_others() {
    // Between 0 and as much as the first feature says: its 90th percentile is 0.9 of that.
    let draw = |seed: u64| {
        let (mut random, mut examples) = (Random::new(seed), Examples::new(2));
        for _ in 0..6000 {
            let row = [random.share() as f32 * 10.0, random.share() as f32];
            examples.push_number(&row, row[0] * random.share() as f32);
        }
        examples
    };
    let training = Training { trees: 60, leaves: 6, feature_share: 1.0, leaf_examples: 100, ..training() };
    let forest = learn_quantile(&draw(1), 0.9, &training).unwrap();
    let others = draw(2);
    let below = |at: &usize| others.answers[*at] <= forest.score(others.row(*at));
    let share = (0..others.len()).filter(below).count() as f64 / others.len() as f64;
    assert!((0.87..=0.93).contains(&share), "{share}");
    let (low, high) = (forest.score(&[2.0, 0.5]), forest.score(&[9.0, 0.5]));
    assert!((1.3..2.4).contains(&low) && (7.0..9.2).contains(&high), "{low} {high}");
    assert!(matches!(learn_quantile(&Examples::new(1), 0.5, &training), Err(LearnError::Few(0))));
}

#[test]
fn a_quantile_is_the_least_value_that_enough_are_not_above() {
    let of = |share| quantile(&mut [4.0, 1.0, 3.0, 2.0], share);
    assert_eq!([of(0.0), of(0.25), of(0.5), of(0.51), of(1.0)], [1.0, 1.0, 2.0, 3.0, 4.0]);
    assert_eq!(quantile(&mut [], 0.5), 0.0);
}
