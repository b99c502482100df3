//! Simple rules, as others use them: each says one number, which one constant for each window and quantile lifts.

use proteus_brain::forecast::{HORIZONS, Lift, SHARES, Said, best_lift, coming};
use std::collections::VecDeque;

/// Names of the rules.
pub const RULES: [&str; 8] =
    ["last", "max 30 min", "max 3 h", "max 24 h", "max so far", "VPA p95", "VPA p99", "Autopilot-like p98"];

/// The constants of all of them.
pub type Rules = [[[Lift; RULES.len()]; SHARES.len()]; HORIZONS.len()];

const DAY: usize = 288;
const BUCKETS: usize = 72;

/// A histogram whose weights halve in `half_life` samples; with `by_load` a sample weighs as much as it uses.
#[derive(Debug, Clone)]
struct Decayed {
    held: [f64; BUCKETS],
    weight: f64,
    half_life: f64,
    by_load: bool,
}

impl Decayed {
    fn new(half_life: f64, by_load: bool) -> Self {
        Self { held: [0.0; BUCKETS], weight: 1.0, half_life, by_load }
    }

    /// First bucket 1 %, each 5 % wider than the one before, as the Vertical Pod Autoscaler's.
    fn push(&mut self, sample: f32) {
        let at = (1.0 + f64::from(sample) * 0.05).ln() / 1.05f64.ln();
        self.weight *= (1.0 / self.half_life).exp2();
        let load = if self.by_load { f64::from(sample).max(1e-3) } else { 1.0 };
        self.held[(at.max(0.0) as usize).min(BUCKETS - 1)] += self.weight * load;
        if self.weight > 1e100 {
            self.held.iter_mut().for_each(|held| *held /= self.weight);
            self.weight = 1.0;
        }
    }

    fn quantile(&self, share: f64) -> f32 {
        let mut left = share * self.held.iter().sum::<f64>();
        for (at, held) in self.held.iter().enumerate() {
            left -= held;
            if left <= 0.0 {
                return ((1.05f64.powi(at as i32 + 1) - 1.0) / 0.05) as f32;
            }
        }
        0.0
    }
}

/// What the rules have seen of one VM.
#[derive(Debug, Clone)]
pub struct Words {
    recent: VecDeque<Option<f32>>,
    most: f32,
    vpa: Decayed,
    autopilot: Decayed,
    said: [f32; RULES.len()],
}

impl Default for Words {
    fn default() -> Self {
        Self {
            recent: VecDeque::new(),
            most: 0.0,
            vpa: Decayed::new(DAY as f64, false),
            autopilot: Decayed::new(DAY as f64 / 2.0, true),
            said: [0.0; RULES.len()],
        }
    }
}

impl Words {
    pub fn push(&mut self, sample: Option<f32>) {
        self.recent.push_front(sample);
        self.recent.truncate(DAY);
        if let Some(sample) = sample {
            self.most = self.most.max(sample);
            self.vpa.push(sample);
            self.autopilot.push(sample);
        }
        let most = |samples: usize| self.recent.iter().take(samples).flatten().copied().fold(0.0, f32::max);
        let last = self.recent.iter().flatten().next().copied().unwrap_or(0.0);
        self.said = [
            last,
            most(6).max(last),
            most(36).max(last),
            most(DAY),
            self.most,
            self.vpa.quantile(0.95),
            self.vpa.quantile(0.99),
            self.autopilot.quantile(0.98),
        ];
    }

    /// What a rule says, not lifted.
    pub fn said(&self, rule: usize) -> f32 {
        self.said[rule]
    }
}

/// The constants that give the least loss on a fleet, of "so much more" and "so many times".
pub fn calibrated(fleet: &[Vec<Option<f32>>]) -> Rules {
    let all: usize = fleet.iter().map(Vec::len).sum();
    let every = (all / 200_000).max(1);
    let mut rules = [[[Lift::Plus(0.0); RULES.len()]; SHARES.len()]; HORIZONS.len()];
    for (horizon, of) in HORIZONS.into_iter().enumerate() {
        // What each said, and what came.
        let mut cases: Vec<([f32; RULES.len()], f32)> = Vec::new();
        for series in fleet {
            let (came, mut words) = (coming(series, of.samples as usize), Words::default());
            for (at, (sample, came)) in series.iter().zip(came).enumerate() {
                words.push(*sample);
                if let (Some(came), true) = (came, at >= super::FIRST && at % every == 0) {
                    cases.push((words.said, came));
                }
            }
        }
        for (place, share) in SHARES.into_iter().enumerate() {
            for (rule, lift) in rules[horizon][place].iter_mut().enumerate() {
                let said = |(said, came): &([f32; RULES.len()], f32)| Said {
                    said: said[rule],
                    came: *came,
                    weight: 1.0,
                };
                *lift = best_lift(&cases.iter().map(said).collect::<Vec<_>>(), share).0;
            }
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_say_what_they_saw_and_nothing_of_what_was_not_measured() {
        let mut words = Words::default();
        for at in 0..400 {
            words.push((at % 3 > 0).then_some(if at == 10 { 90.0 } else { 20.0 }));
        }
        // Last, and maxima of half an hour, three hours, a day; since the begin it was 90 once.
        assert_eq!(words.said[..5], [20.0, 20.0, 20.0, 20.0, 90.0]);
        assert!(words.said[5..].iter().all(|said| (20.0..23.0).contains(said)), "{:?}", words.said);
    }

    #[test]
    fn each_rule_gets_the_constant_that_serves_it_best() {
        // A VM that is always the same: nothing is to be added.
        let fleet: Vec<Vec<Option<f32>>> = vec![vec![Some(30.0); 600]];
        let lifts = calibrated(&fleet);
        for lift in lifts[1].iter().flat_map(|rules| &rules[..5]) {
            assert!((lift.of(30.0) - 30.0).abs() < 1e-3, "{lift:?}");
        }
    }
}
