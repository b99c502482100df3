//! Limits as simple policies set them.

use super::{Sum, windows};
use crate::forecast::rule::Decayed;
use crate::series::Series;
use std::collections::VecDeque;
use std::fmt;

/// What a policy looks at; windows are in samples of five minutes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    Last,
    Most(usize),
    MeanAndDeviations(usize, f32),
    Vpa(f64),
    Autopilot(f64),
}

/// A rule and what it is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    pub rule: Rule,
    pub factor: f32,
}

/// All rules.
pub const POLICIES: [Rule; 34] = [
    Rule::Last,
    Rule::Most(6),
    Rule::Most(12),
    Rule::Most(24),
    Rule::Most(36),
    Rule::Most(72),
    Rule::Most(144),
    Rule::Most(288),
    Rule::MeanAndDeviations(6, 2.0),
    Rule::MeanAndDeviations(6, 3.0),
    Rule::MeanAndDeviations(6, 6.0),
    Rule::MeanAndDeviations(12, 2.0),
    Rule::MeanAndDeviations(12, 3.0),
    Rule::MeanAndDeviations(12, 4.0),
    Rule::MeanAndDeviations(12, 6.0),
    Rule::MeanAndDeviations(36, 2.0),
    Rule::MeanAndDeviations(36, 3.0),
    Rule::MeanAndDeviations(36, 4.0),
    Rule::MeanAndDeviations(36, 6.0),
    Rule::MeanAndDeviations(288, 2.0),
    Rule::MeanAndDeviations(288, 3.0),
    Rule::MeanAndDeviations(288, 4.0),
    Rule::MeanAndDeviations(288, 6.0),
    Rule::Vpa(0.5),
    Rule::Vpa(0.9),
    Rule::Vpa(0.95),
    Rule::Vpa(0.98),
    Rule::Vpa(0.99),
    Rule::Vpa(1.0),
    Rule::Autopilot(0.9),
    Rule::Autopilot(0.95),
    Rule::Autopilot(0.97),
    Rule::Autopilot(0.98),
    Rule::Autopilot(0.99),
];

/// What each may be multiplied with.
pub const FACTORS: [f32; 8] = [1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.5, 2.0];

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rule {
            Rule::Last => write!(f, "last")?,
            Rule::Most(samples) => write!(f, "max {} min", samples * 5)?,
            Rule::MeanAndDeviations(samples, times) => write!(f, "mean {} min + {times} sd", samples * 5)?,
            Rule::Vpa(share) => write!(f, "VPA p{}", share * 100.0)?,
            Rule::Autopilot(share) => write!(f, "Autopilot-like p{}", share * 100.0)?,
        }
        write!(f, " x{}", self.factor)
    }
}

/// Slack and violations of a rule with each of the [`FACTORS`], both as shares.
pub fn outcomes(test: &[&Series], rule: Rule) -> [(f64, f64); FACTORS.len()] {
    let mut sums = [Sum::default(); FACTORS.len()];
    for one in test {
        let mut recent: VecDeque<f32> = VecDeque::new();
        let mut vpa = Decayed::new(288.0, false);
        let mut autopilot = Decayed::new(144.0, true);
        let mut pushed = 0;
        for (at, came) in windows(&one.samples) {
            for sample in one.samples[pushed..at].iter().flatten() {
                recent.push_front(*sample);
                recent.truncate(288);
                match rule {
                    Rule::Vpa(_) => vpa.push(*sample),
                    Rule::Autopilot(_) => autopilot.push(*sample),
                    _ => {}
                }
            }
            pushed = at;
            let said = match rule {
                Rule::Last => recent.front().copied().unwrap_or(0.0),
                Rule::Most(samples) => recent.iter().take(samples).copied().fold(0.0, f32::max),
                Rule::MeanAndDeviations(samples, times) => {
                    let of = recent.iter().take(samples);
                    let n = of.len().max(1) as f32;
                    let mean = of.clone().sum::<f32>() / n;
                    let square = of.map(|sample| (sample - mean).powi(2)).sum::<f32>() / n;
                    mean + times * square.sqrt()
                }
                Rule::Vpa(share) => vpa.quantile(share),
                Rule::Autopilot(share) => autopilot.quantile(share),
            };
            for (sum, factor) in sums.iter_mut().zip(FACTORS) {
                sum.add(said * factor, &came);
            }
        }
    }
    sums.map(|sum| sum.slack_and_violations())
}
