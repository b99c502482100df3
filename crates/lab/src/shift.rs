//! `proteus-lab shift`: whole VMs are swapped at a random sample, all dimensions at once; noticed within six samples?
//!
//! A trace's VMs are put into two halves. One half is learned on: all of its VMs teach the forest, and every method's
//! threshold is chosen on the scores of all of them, for which a forest is asked that has learned on the others
//! (cross-validation by VM). The other half is only tested on.

use crate::Options;
use crate::method::{Method, PageHinkley, Persistence, Proteus, RangeNovelty, RobustZ};
use crate::report::Figure;
use crate::trace::{Trace, read_all};
use anyhow::{Context, Result, ensure};
use proteus_brain::personality::shift::{
    QUIET_SAMPLES, REFERENCE_SAMPLES_MIN, ShiftModel, ShiftTraining, ShiftWatch, alarms, learn_shift,
    threshold_for,
};
use proteus_brain::random::Random;
use proteus_model::personality::Usage;
use std::collections::BTreeMap;

/// A swap counts as noticed within so many samples: half an hour of five minutes.
const NOTICED_WITHIN: usize = 6;
/// False alarms per VM and week at which thresholds are chosen. Below 1, for chosen on some VMs it must hold on others.
const CHOSEN_AT: f64 = 0.8;
const METHODS: [&str; 5] = ["proteus", "range-novelty", "robust-z", "page-hinkley", "persistence"];

fn method<'a>(name: &str, model: &'a ShiftModel) -> Box<dyn Method + 'a> {
    match name {
        "range-novelty" => Box::new(RangeNovelty::default()),
        "robust-z" => Box::new(RobustZ::default()),
        "page-hinkley" => Box::new(PageHinkley::default()),
        "persistence" => Box::new(Persistence::default()),
        _ => Box::new(Proteus { model, watch: ShiftWatch::default() }),
    }
}

/// A VM that becomes another one.
struct Splice<'a> {
    at: usize,
    /// What it is from then on.
    strange: &'a [Usage],
}

/// The splices of each VM of a half, by their samples.
fn splices<'a>(half: &'a [Vec<Usage>], each: usize, random: &mut Random) -> Vec<Vec<Splice<'a>>> {
    let mut all: Vec<Vec<Splice<'_>>> = Vec::new();
    for (vm, series) in half.iter().enumerate() {
        let mut own = Vec::new();
        let room = series.len().checked_sub(REFERENCE_SAMPLES_MIN + 2 * NOTICED_WITHIN);
        for room in std::iter::repeat_n(room, each).flatten() {
            let at = REFERENCE_SAMPLES_MIN + NOTICED_WITHIN + random.below(room);
            let other = random.below(half.len());
            let last = half[other].len().checked_sub(NOTICED_WITHIN).filter(|_| other != vm);
            // The rest of the other: from the same sample on, where it is as long.
            let Some(begin) = last.map(|last| at.min(last)) else { continue };
            own.push(Splice { at, strange: &half[other][begin..begin + NOTICED_WITHIN] });
        }
        own.sort_by_key(|splice| splice.at);
        all.push(own);
    }
    all
}

/// What a method scored.
struct Scored {
    /// Each sample of the VM as it is.
    steady: Vec<f32>,
    /// The samples of each splice.
    spliced: Vec<(usize, Vec<f32>)>,
}

impl Scored {
    fn of(mut method: Box<dyn Method + '_>, series: &[Usage], splices: &[Splice<'_>]) -> Self {
        let (mut steady, mut spliced) = (Vec::with_capacity(series.len()), Vec::new());
        let mut next = splices.iter().peekable();
        for (at, usage) in series.iter().enumerate() {
            while let Some(splice) = next.next_if(|splice| splice.at == at) {
                let mut other = method.fork();
                spliced.push((at, splice.strange.iter().map(|usage| other.push(usage)).collect()));
            }
            steady.push(method.push(usage));
        }
        Self { steady, spliced }
    }

    /// How many splices are noticed: an alarm is raised within it, and is not one that was raised before.
    fn noticed(&self, threshold: f32) -> usize {
        let told = |(at, scores): &&(usize, Vec<f32>)| {
            let mut quiet = quiet_after(&self.steady[..*at], threshold);
            scores.iter().any(|score| {
                let told = quiet == 0 && *score >= threshold;
                quiet = quiet.saturating_sub(1);
                told
            })
        };
        self.spliced.iter().filter(told).count()
    }
}

/// Samples for which a VM stays quiet after these.
fn quiet_after(scores: &[f32], threshold: f32) -> usize {
    scores.iter().fold(0, |quiet: usize, score| match quiet {
        0 if *score >= threshold => QUIET_SAMPLES - 1,
        quiet => quiet.saturating_sub(1),
    })
}

/// Scores all VMs of a half, on all cores.
fn score_all(
    name: &str,
    model: &ShiftModel,
    half: &[Vec<Usage>],
    splices: &[Vec<Splice<'_>>],
) -> Vec<Scored> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let score = |vm: usize| {
        let own = splices.get(vm).map_or(&[][..], Vec::as_slice);
        (vm, Scored::of(method(name, model), &half[vm], own))
    };
    let mut all: Vec<(usize, Scored)> = std::thread::scope(|scope| {
        let share = |first: usize| (first..half.len()).step_by(threads).map(score).collect::<Vec<_>>();
        let running: Vec<_> = (0..threads).map(|first| scope.spawn(move || share(first))).collect();
        running.into_iter().flat_map(|thread| thread.join().expect("scoring does not panic")).collect()
    });
    all.sort_by_key(|(vm, _)| *vm);
    all.into_iter().map(|(_, scored)| scored).collect()
}

/// Parts into which the half that is learned on is put: a forest is asked only of VMs that it has not seen.
const FOLDS: usize = 4;

struct Halves {
    learned: Vec<Vec<Usage>>,
    tested: Vec<Vec<Usage>>,
}

fn halves(trace: &Trace, random: &mut Random) -> Halves {
    let mut ids: Vec<&String> = trace.vms.keys().collect();
    random.shuffle(&mut ids);
    let take = |ids: &[&String]| ids.iter().map(|id| trace.vms[*id].clone()).collect();
    let (learned, tested) = ids.split_at(ids.len() / 2);
    Halves { learned: take(learned), tested: take(tested) }
}

/// The VMs of a fold, or those of all others.
fn fold(half: &[Vec<Usage>], number: usize, others: bool) -> Vec<Vec<Usage>> {
    let wanted = |at: &usize| (at % FOLDS == number) != others;
    (0..half.len()).filter(wanted).map(|at| half[at].clone()).collect()
}

/// What each method scores on VMs that it has not learned on.
fn unseen(half: &[Vec<Usage>], training: &ShiftTraining) -> Result<BTreeMap<&'static str, Vec<Vec<f32>>>> {
    let mut scores = BTreeMap::<&str, Vec<Vec<f32>>>::new();
    for number in 0..FOLDS {
        eprintln!("fold {} of {FOLDS}", number + 1);
        let model = learn_shift(&fold(half, number, true), training)?;
        let chosen = fold(half, number, false);
        for name in METHODS {
            let steady = score_all(name, &model, &chosen, &[]).into_iter().map(|scored| scored.steady);
            scores.entry(name).or_default().extend(steady);
        }
    }
    Ok(scores)
}

fn weeks(half: &[Vec<Usage>], trace: &Trace) -> f64 {
    half.iter().map(|vm| vm.len().saturating_sub(REFERENCE_SAMPLES_MIN) as f64).sum::<f64>() / trace.weekly
}

fn evaluate(trace: &Trace, options: &Options) -> Result<Vec<Figure>> {
    let mut random = Random::new(options.seed);
    let Halves { learned, tested } = halves(trace, &mut random);
    ensure!(learned.len() > FOLDS, "{} has too few VMs to part them", trace.name);
    let mut training = ShiftTraining::default();
    training.forest.seed = options.seed;
    eprintln!("{}: learning on {} VMs", trace.name, learned.len());
    let unseen = unseen(&learned, &training).with_context(|| format!("learn on {}", trace.name))?;
    let model = learn_shift(&learned, &training).with_context(|| format!("learn on {}", trace.name))?;
    let splices = splices(&tested, options.splices, &mut random);
    let mut figures = Vec::new();
    for name in METHODS {
        eprintln!("{}: {name} on {} VMs", trace.name, tested.len());
        let threshold = threshold_for(&unseen[name], (weeks(&learned, trace) * CHOSEN_AT) as usize);
        let scored = score_all(name, &model, &tested, &splices);
        let raised: usize = scored.iter().map(|vm| alarms(&vm.steady, threshold)).sum();
        let found: usize = scored.iter().map(|vm| vm.noticed(threshold)).sum();
        let swaps: usize = scored.iter().map(|vm| vm.spliced.len()).sum();
        let figure = |metric, value, unit, n| Figure {
            bench: "shift",
            dataset: trace.name.clone(),
            resource: "all",
            horizon: "30m",
            method: name.to_owned(),
            metric,
            value,
            unit,
            n,
            seed: options.seed,
        };
        figures.push(figure("noticed", 100.0 * found as f64 / swaps.max(1) as f64, "%", swaps));
        figures.push(figure("false alarms", raised as f64 / weeks(&tested, trace), "/VM-week", tested.len()));
    }
    Ok(figures)
}

/// All traces of the folder.
pub fn run(options: &Options) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for trace in read_all(&options.data)? {
        let vms = trace.vms.len();
        eprintln!(
            "{}: {vms} VMs, seed {}: {} to learn on, {} to test on",
            trace.name,
            options.seed,
            vms / 2,
            vms - vms / 2
        );
        figures.extend(evaluate(&trace, options)?);
    }
    Ok(figures)
}

#[cfg(test)]
mod tests;
