//! `proteus-lab rightsize`: every half hour a limit for the next one. *Slack* is the mean of (limit − use) / limit over all
//! samples, *violations* are half hours with a sample above the limit. A limit is at least 1 % of what a VM has. Use above
//! the limit counts as the limit: else a limit that is far too low would make up for many that are too high.
//!
//! Ours: the forecaster's quantiles of the next half hour's highest value say where it will be and how far that scatters;
//! how far beyond, in that scatter, is counted on VMs that the forecaster did not learn from. Of all limits the one is taken
//! for which `−use / limit + λ · P(violation)` is least; λ is the one with which the VMs that are learned on keep to the
//! violations that are allowed. Nothing is chosen on test VMs, but for the rows "best of N simple policies", which are the
//! least slack of any that kept to them there.

mod policy;

use crate::RightsizeOptions;
use crate::report::Figure;
use crate::series::{Series, read_sets};
use anyhow::{Context, Result};
use policy::{POLICIES, Policy, Rule};
use proteus_brain::forecast::{Forecaster, Prior, PriorTraining, learn_prior};

/// Samples of a half hour, and before the first limit.
const WINDOW: usize = 6;
const FIRST: usize = 12;
/// Least limit, %.
const LEAST: f32 = 1.0;
/// Violations that are allowed.
const ALLOWED: [f64; 2] = [0.02, 0.05];
/// What is aimed at on the VMs that are learned on: others are a little different.
const AIM: f64 = 0.93;
/// The half hour among the forecaster's windows.
const HALF_HOUR: usize = 1;
/// By how far a forecast scatters, in parts of itself: groups that are counted apart.
const GROUPS: [f32; 4] = [0.3, 0.8, 2.0, f32::INFINITY];
/// Points of a distribution.
const POINTS: usize = 400;

/// A half hour, what was forecast of it, and what came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    /// Median of its highest value, and from there to the 99th percentile.
    middle: f32,
    scatter: f32,
    came: Came,
}

impl Case {
    fn group(&self) -> usize {
        let ratio = self.scatter / self.middle.max(0.5);
        GROUPS.iter().position(|end| ratio < *end).unwrap_or(GROUPS.len() - 1)
    }
}

/// What came of a half hour.
#[derive(Debug, Clone, Copy)]
struct Came {
    most: f32,
    /// NaN: not measured.
    samples: [f32; WINDOW],
}

impl Came {
    fn known(&self) -> impl Iterator<Item = f32> {
        self.samples.into_iter().filter(|sample| !sample.is_nan())
    }

    fn mean(&self) -> f32 {
        self.known().sum::<f32>() / self.known().count().max(1) as f32
    }
}

/// Slack, samples, violations and half hours under one way to set limits.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    slack: f64,
    samples: u64,
    beyond: u64,
    windows: u64,
}

impl Sum {
    fn add(&mut self, limit: f32, came: &Came) {
        let limit = limit.max(LEAST);
        for sample in came.known() {
            self.slack += f64::from(1.0 - (sample / limit).min(1.0));
            self.samples += 1;
        }
        self.beyond += u64::from(came.most > limit);
        self.windows += 1;
    }

    /// Both as shares.
    fn slack_and_violations(&self) -> (f64, f64) {
        (self.slack / self.samples.max(1) as f64, self.beyond as f64 / self.windows.max(1) as f64)
    }
}

/// The half hours of a VM: their begins, and what came.
fn windows(samples: &[Option<f32>]) -> impl Iterator<Item = (usize, Came)> {
    (FIRST..samples.len().saturating_sub(WINDOW - 1)).step_by(WINDOW).filter_map(|at| {
        let samples = std::array::from_fn(|place| samples[at + place].unwrap_or(f32::NAN));
        let came = Came { most: 0.0, samples };
        let most = came.known().reduce(f32::max)?;
        Some((at, Came { most, ..came }))
    })
}

fn cases(series: &[&Series], prior: &Prior) -> Vec<Case> {
    let mut all = Vec::new();
    for one in series {
        let mut forecaster = Forecaster::new(prior);
        let mut pushed = 0;
        for (at, came) in windows(&one.samples) {
            while pushed < at {
                forecaster.push(pushed as u64, one.samples[pushed], prior);
                pushed += 1;
            }
            let Some(said) = forecaster.forecast(prior) else { continue };
            let [middle, _, high] = said[HALF_HOUR];
            let scatter = (high - middle).max(0.25 + 0.02 * middle);
            all.push(Case { middle, scatter, came });
        }
    }
    all
}

/// How far beyond the middle, in scatters, and the mean use in middles: by group.
struct Beyond {
    points: Vec<[f32; POINTS]>,
    use_of: Vec<f32>,
}

impl Beyond {
    fn of(cases: &[Case]) -> Self {
        let (mut points, mut use_of) = (Vec::new(), Vec::new());
        for group in 0..GROUPS.len() {
            let own: Vec<&Case> = cases.iter().filter(|case| case.group() == group).collect();
            let all: Vec<&Case> = if own.len() < POINTS { cases.iter().collect() } else { own };
            let mut off: Vec<f32> =
                all.iter().map(|case| (case.came.most - case.middle) / case.scatter).collect();
            off.sort_unstable_by(f32::total_cmp);
            let point = |at: usize| off.get(off.len() * at / POINTS).copied().unwrap_or(0.0);
            points.push(std::array::from_fn(point));
            let (used, middle) = all.iter().fold((0.0, 0.0), |sum: (f64, f64), case| {
                (sum.0 + f64::from(case.came.mean()), sum.1 + f64::from(case.middle))
            });
            use_of.push((used / middle.max(1e-6)) as f32);
        }
        Self { points, use_of }
    }

    fn limit(&self, case: &Case, price: f32) -> f32 {
        let group = case.group();
        let expected = (case.middle * self.use_of[group]).max(0.05);
        let mut best = (f32::INFINITY, LEAST);
        for (at, off) in self.points[group].iter().enumerate() {
            let limit = (case.middle + off * case.scatter).max(LEAST);
            let beyond = 1.0 - (at as f32 + 1.0) / POINTS as f32;
            let cost = price * beyond - (expected / limit).min(1.0);
            if cost < best.0 {
                best = (cost, limit);
            }
        }
        best.1
    }
}

/// Slack and violations, both as shares.
fn outcome(cases: &[Case], limit: impl Fn(&Case) -> f32) -> (f64, f64) {
    let mut sum = Sum::default();
    cases.iter().for_each(|case| sum.add(limit(case), &case.came));
    sum.slack_and_violations()
}

/// The least price of a violation with which no more come than are aimed at.
fn price(cases: &[Case], beyond: &Beyond, aim: f64) -> f32 {
    let (mut low, mut high) = (1e-3f32, 1e4f32);
    for _ in 0..40 {
        let middle = (low * high).sqrt();
        if outcome(cases, |case| beyond.limit(case, middle)).1 > aim { low = middle } else { high = middle }
    }
    high
}

/// What every simple policy comes to on these VMs: slack, violations.
fn simple(test: &[&Series]) -> Vec<(Policy, f64, f64)> {
    let of = |rule: &Rule| {
        let outcomes = policy::outcomes(test, *rule);
        let rule = *rule;
        let one = move |(factor, (slack, beyond))| (Policy { rule, factor }, slack, beyond);
        policy::FACTORS.into_iter().zip(outcomes).map(one)
    };
    POLICIES.iter().flat_map(of).collect()
}

/// Runs it.
pub fn run(options: &RightsizeOptions) -> Result<Vec<Figure>> {
    let mut all = Vec::new();
    for set in read_sets(&options.data)? {
        if options.dataset.as_ref().is_some_and(|wanted| *wanted != set.dataset) {
            continue;
        }
        let split = set.split(options.seed);
        eprintln!("{} {}: {}", set.dataset, set.resource, split.how);
        let of = |series: &[&Series]| -> Vec<Vec<Option<f32>>> {
            series.iter().map(|one| one.samples.clone()).collect()
        };
        let training = PriorTraining { seed: options.seed, ..PriorTraining::default() };
        let learn = |series: &[&Series]| {
            learn_prior(&of(series), &training)
                .with_context(|| format!("learn from {} VMs of {}", series.len(), set.dataset))
        };
        // Each half of the VMs that are learned on is looked ahead at by what the other taught.
        let (one, other): (Vec<_>, Vec<_>) = split.train.iter().enumerate().partition(|(at, _)| at % 2 == 0);
        let [one, other] =
            [one, other].map(|half| half.into_iter().map(|(_, series)| *series).collect::<Vec<_>>());
        let mut known = cases(&one, &learn(&other)?);
        known.extend(cases(&other, &learn(&one)?));
        let (beyond, test) = (Beyond::of(&known), cases(&split.test, &learn(&split.train)?));
        let simple = simple(&split.test);
        for allowed in ALLOWED {
            let price = price(&known, &beyond, allowed * AIM);
            let (slack, violated) = outcome(&test, |case| beyond.limit(case, price));
            let mut put = |method: String, metric: &'static str, value: f64| {
                all.push(Figure {
                    bench: "rightsize",
                    dataset: set.dataset.to_owned(),
                    resource: set.resource,
                    horizon: "30m",
                    method,
                    metric,
                    value: 100.0 * value,
                    unit: "%",
                    n: test.len(),
                    seed: options.seed,
                });
            };
            let percent = (allowed * 100.0).round();
            put(format!("proteus at {percent} %"), "slack", slack);
            put(format!("proteus at {percent} %"), "violations", violated);
            let within = simple.iter().filter(|(_, _, beyond)| *beyond <= allowed);
            if let Some((policy, slack, beyond)) = within.min_by(|a, b| a.1.total_cmp(&b.1)) {
                let name = format!("best simple at {percent} %: {policy}");
                put(name.clone(), "slack", *slack);
                put(name, "violations", *beyond);
            }
        }
    }
    Ok(all)
}
