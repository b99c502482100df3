//! `proteus-lab classify`: into which quarter of what a VM has does its next day fall: 0-25, 25-50, 50-75, 75-100 % of its
//! CPU, by mean, 95th percentile and most?
//!
//! A trace's VMs are put into two halves: one is learned on, the other only tested on. Nothing is chosen: the forests are
//! as the brain's defaults make them, one for each class against all others.

use crate::ClassifyOptions;
use crate::report::Figure;
use crate::trace::{Load, read_loads};
use anyhow::{Context, Result, ensure};
use proteus_brain::random::Random;
use proteus_brain::tree::{Examples, Forest, LearnError, Training, learn};

const DAY_S: u64 = 86_400;
/// A day of fewer samples, three quarters of those five minutes apart, is not known.
const SAMPLES_MIN: usize = 216;
const CLASSES: usize = 4;
/// What of a day is asked for.
const TARGETS: [&str; 3] = ["avg", "p95", "max"];
/// Days of before that are looked at.
const WEEK: usize = 7;
const FEATURES: usize = 22;

/// A day of a VM, percent of its CPU.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Day {
    number: u64,
    /// As [`TARGETS`].
    values: [f32; 3],
    least: f32,
    median: f32,
    spread: f32,
    /// Means of its last hour and of its last six.
    last: [f32; 2],
}

fn mean(loads: &[Load]) -> f32 {
    loads.iter().map(|load| load.percent).sum::<f32>() / loads.len() as f32
}

/// The days that are known, in order.
fn days(loads: &[Load]) -> Vec<Day> {
    let mut all = Vec::new();
    for part in loads.chunk_by(|a, b| a.at_s / DAY_S == b.at_s / DAY_S) {
        if part.len() < SAMPLES_MIN {
            continue;
        }
        let mut sorted: Vec<f32> = part.iter().map(|load| load.percent).collect();
        sorted.sort_by(f32::total_cmp);
        let rank =
            |share: f32| sorted[((sorted.len() as f32 * share).ceil() as usize).clamp(1, sorted.len()) - 1];
        let average = mean(part);
        let squares = part.iter().map(|load| (load.percent - average).powi(2)).sum::<f32>();
        let last = |samples: usize| mean(&part[part.len() - samples..]);
        all.push(Day {
            number: part[0].at_s / DAY_S,
            values: [average, rank(0.95), rank(1.0)],
            least: rank(0.0),
            median: rank(0.5),
            spread: (squares / part.len() as f32).sqrt(),
            last: [last(12), last(72)],
        });
    }
    all
}

fn class_of(percent: f32) -> usize {
    ((percent / 25.0) as usize).min(CLASSES - 1)
}

/// What is known at the end of a day; `before` are the known days before it, the oldest first.
fn features(day: &Day, before: &[Day]) -> [f32; FEATURES] {
    let mut row = [f32::NAN; FEATURES];
    row[..3].copy_from_slice(&day.values);
    row[3..6].copy_from_slice(&[day.least, day.median, day.spread]);
    row[6..8].copy_from_slice(&day.last);
    // The next day's place in the week; 1970 began on a Thursday.
    row[8] = ((day.number + 1 + 3) % 7) as f32;
    let ago = |days: u64| before.iter().rev().find(|other| other.number + days == day.number);
    if let Some(day_before) = ago(1) {
        row[9..12].copy_from_slice(&day_before.values);
    }
    // The same day of the week as the next one.
    if let Some(week_before) = ago(6) {
        row[12..15].copy_from_slice(&week_before.values);
    }
    let recent: Vec<&Day> = before.iter().filter(|other| other.number + WEEK as u64 > day.number).collect();
    for (target, most) in row[15..18].iter_mut().enumerate() {
        *most = recent.iter().map(|day| day.values[target]).fold(day.values[target], f32::max);
    }
    for (target, usual) in row[18..21].iter_mut().enumerate() {
        let sum: f32 = recent.iter().map(|day| day.values[target]).sum();
        *usual = (sum + day.values[target]) / (recent.len() + 1) as f32;
    }
    row[21] = recent.len() as f32;
    row
}

/// A day, what it was, and what the next one is, by target.
struct Case {
    row: [f32; FEATURES],
    now: [usize; 3],
    next: [usize; 3],
}

fn cases(days: &[Day]) -> Vec<Case> {
    let classes = |day: &Day| day.values.map(class_of);
    let pairs = days.windows(2).enumerate().filter(|(_, pair)| pair[1].number == pair[0].number + 1);
    let case = |(at, pair): (usize, &[Day])| Case {
        row: features(&pair[0], &days[..at]),
        now: classes(&pair[0]),
        next: classes(&pair[1]),
    };
    pairs.map(case).collect()
}

/// A forest for each class; `None`: there was nothing to learn of it.
fn learn_classes(cases: &[Case], target: usize, seed: u64) -> Result<[Option<Forest>; CLASSES]> {
    let training = Training { seed, ..Training::default() };
    let mut forests = [const { None }; CLASSES];
    for (class, forest) in forests.iter_mut().enumerate() {
        let mut examples = Examples::new(FEATURES);
        cases.iter().for_each(|case| examples.push(&case.row, case.next[target] == class));
        *forest = match learn(&examples, &training) {
            Ok(learned) => Some(learned),
            Err(LearnError::OneKind { .. }) => None,
            Err(error) => return Err(error).context("learn a class"),
        };
    }
    // Else the last class would be told of every day.
    ensure!(forests.iter().any(Option::is_some), "all days that are learned on are of one class");
    Ok(forests)
}

fn choose(forests: &[Option<Forest>; CLASSES], row: &[f32]) -> usize {
    let score =
        |class: &usize| forests[*class].as_ref().map_or(f32::NEG_INFINITY, |forest| forest.score(row));
    (0..CLASSES).max_by(|a, b| score(a).total_cmp(&score(b))).unwrap_or(0)
}

/// Percent that are right, and the mean over classes of the percent of each that are found.
fn judge(pairs: &[(usize, usize)]) -> (f64, f64) {
    let right = |of: &dyn Fn(usize) -> bool| {
        let there = pairs.iter().filter(|(_, is)| of(*is)).count();
        let found = pairs.iter().filter(|(told, is)| of(*is) && told == is).count();
        (there > 0).then(|| 100.0 * found as f64 / there as f64)
    };
    let recalls: Vec<f64> = (0..CLASSES).filter_map(|class| right(&|is| is == class)).collect();
    (right(&|_| true).unwrap_or(f64::NAN), recalls.iter().sum::<f64>() / recalls.len() as f64)
}

/// Names of what is told of a target.
const METRICS: [[&str; 2]; 3] = [
    ["avg accuracy", "avg macro-recall"],
    ["p95 accuracy", "p95 macro-recall"],
    ["max accuracy", "max macro-recall"],
];

/// The trace of the folder.
pub fn run(options: &ClassifyOptions) -> Result<Vec<Figure>> {
    let vms = read_loads(&options.data)?;
    let mut all: Vec<Vec<Case>> = vms.values().map(|loads| cases(&days(loads))).collect();
    Random::new(options.seed).shuffle(&mut all);
    let tested: Vec<Case> = all.split_off(all.len() / 2).into_iter().flatten().collect();
    let learned: Vec<Case> = all.into_iter().flatten().collect();
    ensure!(!learned.is_empty() && !tested.is_empty(), "too few VMs with days one after the other");
    eprintln!("{} VMs, {} days to learn on, {} to test on", vms.len(), learned.len(), tested.len());
    let mut figures = Vec::new();
    for (target, name) in TARGETS.into_iter().enumerate() {
        eprintln!("{name}: learning");
        let forests = learn_classes(&learned, target, options.seed)?;
        let told = |of: &dyn Fn(&Case) -> usize| -> Vec<(usize, usize)> {
            tested.iter().map(|case| (of(case), case.next[target])).collect()
        };
        let methods = [
            ("proteus", told(&|case| choose(&forests, &case.row))),
            ("persistence", told(&|case| case.now[target])),
        ];
        for (method, pairs) in methods {
            let (accuracy, recall) = judge(&pairs);
            for (metric, value) in METRICS[target].into_iter().zip([accuracy, recall]) {
                figures.push(Figure {
                    bench: "classify",
                    dataset: "bitbrains-rnd".to_owned(),
                    resource: "cpu",
                    horizon: "1d",
                    method: method.to_owned(),
                    metric,
                    value,
                    unit: "%",
                    n: pairs.len(),
                    seed: options.seed,
                });
            }
        }
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(number: u64, percent: f32, samples: usize) -> Vec<Load> {
        (0..samples as u64).map(|at| Load { at_s: number * DAY_S + at * 300, percent }).collect()
    }

    #[test]
    fn a_day_is_one_of_which_enough_is_known_and_only_the_next_one_is_next() {
        let loads =
            [day(4, 10.0, 288), day(5, 30.0, 288), day(6, 90.0, 100), day(7, 60.0, 288), day(8, 120.0, 288)];
        let days = days(&loads.concat());
        assert_eq!(days.iter().map(|day| day.number).collect::<Vec<_>>(), [4, 5, 7, 8]);
        assert_eq!(days[1].values, [30.0; 3]);
        let cases = cases(&days);
        let classes: Vec<_> = cases.iter().map(|case| (case.now[0], case.next[2])).collect();
        assert_eq!(classes, [(0, 1), (2, 3)]);
        // Nothing of the next day is known, and a day before that is not known is missing.
        assert_eq!(&cases[0].row[..3], [10.0; 3]);
        assert!(cases[1].row[9].is_nan() && cases[1].row[15] == 60.0);
    }

    #[test]
    fn quarters_begin_where_they_say() {
        for (percent, class) in
            [(0.0, 0), (24.99, 0), (25.0, 1), (50.0, 2), (75.0, 3), (100.0, 3), (130.0, 3)]
        {
            assert_eq!(class_of(percent), class, "{percent}");
        }
    }

    #[test]
    fn what_is_right_is_told_of_all_and_of_each_class() {
        assert_eq!(judge(&[(0, 0), (0, 0), (0, 0), (0, 1)]), (75.0, 50.0));
    }

    #[test]
    fn what_can_be_known_is_learned_the_same_each_time() {
        let mut random = Random::new(5);
        let levels = [10.0, 40.0, 60.0, 90.0];
        // A level that is always followed by the next one: persistence is never right.
        let case = |_| {
            let now = random.below(CLASSES);
            let mut row = [f32::NAN; FEATURES];
            row[0] = levels[now];
            Case { row, now: [now; 3], next: [(now + 1) % CLASSES; 3] }
        };
        let cases: Vec<Case> = (0..4000).map(case).collect();
        let (learned, tested) = cases.split_at(2000);
        let forests = learn_classes(learned, 0, 1).unwrap();
        assert!(tested.iter().all(|case| choose(&forests, &case.row) == case.next[0]));
        assert_eq!(forests, learn_classes(learned, 0, 1).unwrap());
    }
}
