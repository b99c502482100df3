//! Whether a change may stay: what was measured after it against what was normal before it.
//!
//! A measure counts as harm when its mean after the change is over the profile's limit *and* exceeds the mean
//! before by more than the noise: three standard errors of the difference (Welch, 1947), taken from the
//! stretches of both windows, and never less than a floor that a human would call "the same".

use proteus_model::profile::promise::{PerformanceLimits, Verify};
use proteus_model::unit::Permille;
use proteus_model::verification::{Baseline, Comparison, PROBE_LATENCY, Stretch, VerificationReport};

/// Standard errors by which the mean must have risen.
const ERRORS_MIN: f64 = 3.0;
/// Rise in permille that is never harm: 2 % of the time.
const RISE_MIN_PERMILLE: f64 = 20.0;
/// Rise of latency that is never harm, in µs: one scheduling period of a capped guest.
const RISE_MIN_LATENCY_US: f64 = 20_000.0;

struct Measure {
    name: &'static str,
    of: fn(&Stretch) -> Option<f64>,
    limit: Option<f64>,
    rise_min: f64,
}

fn permille(value: Option<Permille>) -> Option<f64> {
    value.map(|p| f64::from(p.0))
}

fn measures(limits: Option<&PerformanceLimits>) -> Vec<Measure> {
    let share = |name, of, limit: Option<Permille>| Measure {
        name,
        of,
        limit: limit.map(|p| f64::from(p.0)),
        rise_min: RISE_MIN_PERMILLE,
    };
    vec![
        share("psi_cpu", |s| permille(s.psi_cpu), limits.and_then(|l| l.psi_cpu)),
        share("psi_memory", |s| permille(s.psi_memory), limits.and_then(|l| l.psi_memory)),
        share("psi_io", |s| permille(s.psi_io), limits.and_then(|l| l.psi_io)),
        share("run_delay", |s| permille(s.run_delay), limits.and_then(|l| l.run_delay)),
        share("throttled", |s| permille(s.throttled), limits.and_then(|l| l.throttled)),
        Measure {
            name: PROBE_LATENCY,
            of: |s| s.probe_latency_us.map(|us| us as f64),
            limit: limits.and_then(|l| l.probe_latency).map(|ms| ms.0 as f64 * 1000.0),
            rise_min: RISE_MIN_LATENCY_US,
        },
    ]
}

/// Mean and variance of the mean (sample variance / n); `None` where there is no value.
fn mean(values: &[f64]) -> Option<(f64, f64)> {
    if values.is_empty() {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let spread = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    let variance = if values.len() > 1 { spread / (n - 1.0) } else { 0.0 };
    Some((mean, variance / n))
}

fn compare(measure: &Measure, before: &[Stretch], after: &[Stretch]) -> Comparison {
    let values = |stretches: &[Stretch]| -> Vec<f64> { stretches.iter().filter_map(measure.of).collect() };
    let (was, is) = (mean(&values(before)), mean(&values(after)));
    let mut comparison = Comparison {
        measure: measure.name.to_owned(),
        before: was.map(|(mean, _)| mean),
        noise: was.map(|(_, of_mean)| (of_mean * values(before).len() as f64).sqrt()),
        after: is.map(|(mean, _)| mean),
        limit: measure.limit,
        harm: false,
        why: String::new(),
    };
    let Some(limit) = measure.limit else {
        comparison.why = "the profile sets no limit".into();
        return comparison;
    };
    let Some((is, is_variance)) = is else {
        comparison.why = "not measured after the change".into();
        return comparison;
    };
    if is <= limit {
        comparison.why = "within the limit".into();
        return comparison;
    }
    let Some((was, was_variance)) = was else {
        // Nothing to compare with: the limit alone decides.
        comparison.harm = true;
        comparison.why = "over the limit, and not measured before".into();
        return comparison;
    };
    let rise_min = (ERRORS_MIN * (was_variance + is_variance).sqrt()).max(measure.rise_min);
    comparison.harm = is - was > rise_min;
    comparison.why = if comparison.harm {
        let (rise, noise) = (comparison.told_difference(is - was), comparison.told_difference(rise_min));
        format!("over the limit, and {rise} above before where {noise} could be noise")
    } else {
        "over the limit, but no more above before than noise".into()
    };
    comparison
}

/// Judges a change. `unhealthy_after`: the checks that failed at the end of the window, by name.
pub fn judge(
    verify: Option<&Verify>,
    baseline: &Baseline,
    after: &[Stretch],
    unhealthy_after: &[String],
) -> VerificationReport {
    let limits = verify.and_then(|verify| verify.performance.as_ref());
    let comparisons: Vec<Comparison> =
        measures(limits).iter().map(|measure| compare(measure, &baseline.stretches, after)).collect();
    let unhealthy: Vec<String> =
        unhealthy_after.iter().filter(|name| !baseline.unhealthy_before.contains(name)).cloned().collect();
    let passed = unhealthy.is_empty() && comparisons.iter().all(|comparison| !comparison.harm);
    VerificationReport { passed, unhealthy, comparisons }
}

/// Looks in a row at which a check must fail to be plain harm.
const PLAIN_LOOKS: usize = 3;

/// Whether harm is so plain that waiting for the rest of the window would only prolong it: one health check that
/// held before failed at each of the last three looks. `looks`: the checks that failed at each, by name.
pub fn is_plain_harm(baseline: &Baseline, looks: &[Vec<String>]) -> bool {
    let Some(from) = looks.len().checked_sub(PLAIN_LOOKS) else { return false };
    let (first, others) = (&looks[from], &looks[from + 1..]);
    first.iter().any(|name| {
        !baseline.unhealthy_before.contains(name) && others.iter().all(|look| look.contains(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proteus_model::unit::Millis;

    fn stretches(throttled: &[u32]) -> Vec<Stretch> {
        let one = |&t| Stretch { length: Millis(500), throttled: Some(Permille(t)), ..Stretch::default() };
        throttled.iter().map(one).collect()
    }

    fn verify(limit: u32) -> Verify {
        let limits = PerformanceLimits { throttled: Some(Permille(limit)), ..no_limits() };
        Verify { health: Vec::new(), performance: Some(limits), window: None }
    }

    fn no_limits() -> PerformanceLimits {
        PerformanceLimits {
            psi_cpu: None,
            psi_memory: None,
            psi_io: None,
            run_delay: None,
            throttled: None,
            probe_latency: None,
        }
    }

    fn judged(before: &[u32], after: &[u32], limit: u32) -> bool {
        let baseline = Baseline { stretches: stretches(before), unhealthy_before: Vec::new() };
        judge(Some(&verify(limit)), &baseline, &stretches(after), &[]).passed
    }

    #[test]
    fn harm_is_over_the_limit_and_over_the_noise() {
        assert!(!judged(&[0, 0, 0, 0], &[600, 620, 610, 640], 300), "plain harm passed");
        assert!(judged(&[0, 0, 0, 0], &[200, 220, 210, 240], 300), "within the limit failed");
        assert!(judged(&[610, 590, 640, 600], &[620, 600, 630, 610], 300), "no worse than before failed");
        assert!(judged(&[100, 900, 200, 800], &[900, 300, 800, 400], 300), "noise counted as harm");
    }

    #[test]
    fn what_is_said_of_harm_has_units() {
        let why = |before: &[Stretch], after: &[Stretch], limits: PerformanceLimits| {
            let baseline = Baseline { stretches: before.to_vec(), unhealthy_before: Vec::new() };
            let verify = Verify { health: Vec::new(), performance: Some(limits), window: None };
            let report = judge(Some(&verify), &baseline, after, &[]);
            let harm = report.comparisons.into_iter().find(|c| c.harm).unwrap();
            format!("{} {}", harm.measure, harm.why)
        };
        let throttled = PerformanceLimits { throttled: Some(Permille(300)), ..no_limits() };
        assert_eq!(
            why(&stretches(&[6, 6]), &stretches(&[900, 900]), throttled),
            "throttled over the limit, and 89.4 percentage points above before where 2.0 percentage points could \
             be noise"
        );
        let slow = |us| Stretch { probe_latency_us: Some(us), ..Stretch::default() };
        let latency = PerformanceLimits { probe_latency: Some(Millis(100)), ..no_limits() };
        assert_eq!(
            why(&[slow(1_500)], &[slow(250_000)], latency),
            "probe_latency over the limit, and 248.5 ms above before where 20.0 ms could be noise"
        );
    }

    #[test]
    fn missing_is_not_zero_and_not_harm() {
        let baseline = Baseline { stretches: stretches(&[0, 0]), unhealthy_before: Vec::new() };
        let report = judge(Some(&verify(300)), &baseline, &[Stretch::default()], &[]);
        assert!(report.passed);
        let throttled = report.comparisons.iter().find(|c| c.measure == "throttled").unwrap();
        assert_eq!(throttled.after, None);
    }

    #[test]
    fn a_check_that_failed_before_does_not_speak_against_the_change() {
        let baseline = Baseline { stretches: Vec::new(), unhealthy_before: vec!["tcp 80".into()] };
        assert!(judge(None, &baseline, &[], &["tcp 80".into()]).passed);
        assert!(!judge(None, &baseline, &[], &["tcp 81".into()]).passed);
    }

    #[test]
    fn plain_harm_is_one_check_that_held_before_and_fails_three_times_running() {
        let look = |failed: &[&str]| failed.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let plain = |looks: &[&[&str]]| {
            let baseline = Baseline { stretches: Vec::new(), unhealthy_before: look(&["tcp 1"]) };
            is_plain_harm(&baseline, &looks.iter().map(|failed| look(failed)).collect::<Vec<_>>())
        };
        assert!(!plain(&[&["tcp 2"], &["tcp 2"]]), "two looks are no three");
        assert!(!plain(&[&["tcp 1"], &["tcp 1"], &["tcp 1"]]), "it failed before");
        assert!(!plain(&[&["tcp 2"], &["tcp 3"], &["tcp 2"]]), "each time another one");
        assert!(!plain(&[&["tcp 2"], &["tcp 2"], &["tcp 2"], &[]]), "it holds again");
        assert!(plain(&[&[], &["tcp 1", "tcp 2"], &["tcp 2"], &["tcp 2", "tcp 3"]]), "another failed before");
    }
}
