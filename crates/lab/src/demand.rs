//! `proteus-lab forecast`: quantiles of the highest value of the next window, by the brain's forecaster and by simple
//! rules, each of which has the one constant that served it best on the VMs that are learned on.
//!
//! Every moment of a test VM from its first hour on is one forecast. *Violation*: how many windows went beyond it.
//! *Reservation*: the sum of what is kept free, against what somebody who knew would keep. *Throttled*: what of the demand
//! lies above. *p95 of VMs*: the violation of the VM that 95 % are not worse than. Nothing is chosen on test VMs, but for
//! the row "best rule in hindsight", which says so.

mod rule;

use crate::ForecastOptions;
use crate::report::Figure;
use crate::series::{Series, Set, read_sets};
use anyhow::{Context, Result};
use proteus_brain::forecast::{
    Forecaster, HORIZONS, Prior, PriorTraining, SHARES, coming, learn_prior, pinball,
};
use rule::{RULES, Rules, Words};

/// Samples of a VM before the first forecast: an hour.
const FIRST: usize = 12;
/// How a share is named.
const SHARE_NAMES: [&str; SHARES.len()] = ["p50", "p90", "p99"];
/// The forecaster and the rules.
const METHODS: usize = RULES.len() + 1;

/// What came of one method's forecasts of one window and quantile.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    count: u64,
    beyond: u64,
    loss: f64,
    kept: f64,
    known: f64,
    demand: f64,
    throttled: f64,
}

impl Tally {
    fn add(&mut self, share: f32, said: f32, came: f32, window: &[Option<f32>]) {
        self.count += 1;
        self.beyond += u64::from(came > said);
        self.loss += f64::from(pinball(share, came, said));
        self.kept += f64::from(said);
        self.known += f64::from(came);
        for sample in window.iter().flatten() {
            self.demand += f64::from(*sample);
            self.throttled += f64::from((sample - said).max(0.0));
        }
    }

    fn take(&mut self, other: &Self) {
        self.count += other.count;
        self.beyond += other.beyond;
        self.loss += other.loss;
        self.kept += other.kept;
        self.known += other.known;
        self.demand += other.demand;
        self.throttled += other.throttled;
    }

    fn violation(&self) -> f64 {
        self.beyond as f64 / self.count.max(1) as f64
    }
}

/// By window, quantile and method.
type Tallies = [[[Tally; METHODS]; SHARES.len()]; HORIZONS.len()];

fn of_vm(series: &Series, prior: &Prior, lifts: &Rules, every: usize) -> Box<Tallies> {
    let mut all: Box<Tallies> = Box::new([[[Tally::default(); METHODS]; SHARES.len()]; HORIZONS.len()]);
    let came = HORIZONS.map(|horizon| coming(&series.samples, horizon.samples as usize));
    let (mut forecaster, mut words) = (Forecaster::new(prior), Words::default());
    for (at, sample) in series.samples.iter().enumerate() {
        forecaster.push(at as u64, *sample, prior);
        words.push(*sample);
        if at < FIRST || at % every != 0 {
            continue;
        }
        let Some(said) = forecaster.forecast(prior) else { continue };
        for (horizon, of) in HORIZONS.into_iter().enumerate() {
            let Some(came) = came[horizon][at] else { continue };
            let window = &series.samples[at + 1..=at + of.samples as usize];
            for (place, share) in SHARES.into_iter().enumerate() {
                let tallies = &mut all[horizon][place];
                tallies[0].add(share, said[horizon][place], came, window);
                for (rule, tally) in tallies[1..].iter_mut().enumerate() {
                    let said = lifts[horizon][place][rule].of(words.said(rule));
                    tally.add(share, said, came, window);
                }
            }
        }
    }
    all
}

/// Of all test VMs: the sum, and by VM the violation.
struct Outcome {
    sum: Box<Tallies>,
    by_vm: Vec<Box<Tallies>>,
}

fn evaluate(test: &[&Series], prior: &Prior, lifts: &Rules, every: usize) -> Outcome {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let by_vm: Vec<Box<Tallies>> = std::thread::scope(|scope| {
        let part = |first: usize| {
            let own: Vec<&Series> = test.iter().skip(first).step_by(threads).copied().collect();
            scope.spawn(move || own.iter().map(|one| of_vm(one, prior, lifts, every)).collect::<Vec<_>>())
        };
        let parts: Vec<_> = (0..threads).map(part).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap_or_default()).collect()
    });
    let mut sum: Box<Tallies> = Box::new([[[Tally::default(); METHODS]; SHARES.len()]; HORIZONS.len()]);
    for vm in &by_vm {
        for (horizon, shares) in vm.iter().enumerate() {
            for (share, methods) in shares.iter().enumerate() {
                for (method, tally) in methods.iter().enumerate() {
                    sum[horizon][share][method].take(tally);
                }
            }
        }
    }
    Outcome { sum, by_vm }
}

fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let rank = (values.len() as f64 * share).ceil() as usize;
    values.get(rank.clamp(1, values.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

fn figures(set: &Set, outcome: &Outcome, seed: u64) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (horizon, of) in HORIZONS.into_iter().enumerate() {
        for (share, name) in SHARE_NAMES.into_iter().enumerate() {
            let methods = &outcome.sum[horizon][share];
            if methods[0].count == 0 {
                continue;
            }
            let mut put = |method: String, metric: &'static str, value: f64, unit: &'static str, n: u64| {
                figures.push(Figure {
                    bench: "forecast",
                    dataset: set.dataset.to_owned(),
                    resource: set.resource,
                    horizon: of.name,
                    method: format!("{method} {name}"),
                    metric,
                    value,
                    unit,
                    n: n as usize,
                    seed,
                });
            };
            for (method, tally) in methods.iter().enumerate() {
                let called = if method == 0 { "proteus".to_owned() } else { RULES[method - 1].to_owned() };
                let enough =
                    outcome.by_vm.iter().map(|vm| &vm[horizon][share][method]).filter(|one| one.count > 0);
                let by_vm = quantile(enough.map(Tally::violation).collect(), 0.95);
                let n = tally.count;
                put(called.clone(), "pinball", tally.loss / n as f64, "% of VM", n);
                put(called.clone(), "violation", 100.0 * tally.violation(), "%", n);
                put(called.clone(), "violation p95 of VMs", 100.0 * by_vm, "%", outcome.by_vm.len() as u64);
                put(called.clone(), "reservation", tally.kept / tally.known, "x oracle", n);
                put(called, "throttled", 100.0 * tally.throttled / tally.demand, "% of demand", n);
            }
            let best =
                methods[1..].iter().map(|tally| tally.loss / tally.count as f64).fold(f64::MAX, f64::min);
            put("best rule in hindsight".to_owned(), "pinball", best, "% of VM", methods[0].count);
            let own = methods[0].loss / methods[0].count as f64;
            put(
                "proteus".to_owned(),
                "pinball against best rule",
                100.0 * (own / best - 1.0),
                "%",
                methods[0].count,
            );
        }
    }
    figures
}

/// Runs it.
pub fn run(options: &ForecastOptions) -> Result<Vec<Figure>> {
    let mut all = Vec::new();
    for set in read_sets(&options.data)? {
        if options.dataset.as_ref().is_some_and(|wanted| *wanted != set.dataset) {
            continue;
        }
        let split = set.split(options.seed);
        eprintln!("{} {}: {}", set.dataset, set.resource, split.how);
        let fleet: Vec<Vec<Option<f32>>> = split.train.iter().map(|one| one.samples.clone()).collect();
        let mut training = PriorTraining { seed: options.seed, ..PriorTraining::default() };
        if options.no_forest {
            training.forest = None;
        }
        let prior = learn_prior(&fleet, &training)
            .with_context(|| format!("learn from {} VMs of {}", fleet.len(), set.dataset))?;
        let lifts = rule::calibrated(&fleet);
        let outcome = evaluate(&split.test, &prior, &lifts, options.every.max(1));
        all.extend(figures(&set, &outcome, options.seed));
    }
    Ok(all)
}
