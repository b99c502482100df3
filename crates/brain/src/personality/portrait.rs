//! What a VM's history and its record tell of it, part by part. Must never tell a part without its source, its age and
//! what is missing of it.

use super::PersonalityRecord;
use super::label::Labels;
use proteus_model::personality::{Part, Performance, Traffic, Trait, TraitSeen, TraitVector};
use proteus_model::telemetry::{Bucket, Metric, Summary, Tier};
use proteus_model::unit::UnixMillis;
use std::collections::BTreeMap;

/// What "lately" is: an hour.
pub const LATELY_MS: u64 = 3_600_000;
/// Traffic that tells of its shape, KiB/s.
const TRAFFIC_MIN: f32 = 0.01;
/// Metrics of how a VM fares.
const PERFORMANCE: [Metric; 13] = [
    Metric::Cpu,
    Metric::RunDelay,
    Metric::Throttled,
    Metric::Overhead,
    Metric::DiskLatency,
    Metric::GuestMemory,
    Metric::PressureCpu,
    Metric::PressureMemory,
    Metric::PressureIo,
    Metric::Instructions,
    Metric::Cycles,
    Metric::CacheMisses,
    Metric::DirtyRate,
];

/// What the buckets have of a metric, by one of its numbers.
fn values(buckets: &[Bucket], metric: Metric, of: impl Fn(&Summary) -> f32) -> Vec<f32> {
    buckets.iter().filter_map(|bucket| bucket.summaries[metric as usize].as_ref().map(&of)).collect()
}

fn mean(values: &[f32]) -> Option<f32> {
    (!values.is_empty()).then(|| values.iter().sum::<f32>() / values.len() as f32)
}

/// The value below which this share of them lies.
fn quantile(mut values: Vec<f32>, share: f32) -> Option<f32> {
    values.sort_unstable_by(f32::total_cmp);
    let at = (values.len().checked_sub(1)? as f32 * share).round() as usize;
    values.get(at).copied()
}

fn ratio(a: Option<f32>, b: Option<f32>) -> Option<f32> {
    Some(a? / b.filter(|b| *b > 0.0)?)
}

/// When the last of them ended.
fn last(buckets: &[Bucket], tier: usize) -> Option<UnixMillis> {
    buckets.last().map(|bucket| UnixMillis(bucket.begins_at.0 + Tier::ALL[tier].step_s * 1000))
}

/// What it sends and receives, by the minutes of the last hour and the long buckets of all that is kept.
pub fn traffic(source: &str, minutes: &[Bucket], long: &[Bucket]) -> Part<Traffic> {
    let of = |metric| mean(&values(minutes, metric, |s| s.mean));
    let (Some(received), Some(sent)) = (of(Metric::Received), of(Metric::Sent)) else {
        let why = "nothing was measured in the last hour".to_owned();
        let source = source.to_owned();
        return Part { source, at: None, coverage: 0.0, value: None, missing: vec![why] };
    };
    let both = received + sent;
    let sums: Vec<f32> = minutes
        .iter()
        .filter_map(|bucket| {
            let of = |metric: Metric| bucket.summaries[metric as usize].map(|s| s.p95);
            Some(of(Metric::Received)? + of(Metric::Sent)?)
        })
        .collect();
    let mut by_hour: Vec<Vec<f32>> = vec![Vec::new(); 24];
    for bucket in long {
        let of = |metric: Metric| bucket.summaries[metric as usize].map(|s| s.mean);
        if let (Some(received), Some(sent)) = (of(Metric::Received), of(Metric::Sent)) {
            by_hour[(bucket.begins_at.0 / 3_600_000 % 24) as usize].push(received + sent);
        }
    }
    let bytes = |kib: f32, packets: Metric| Some(ratio(Some(kib), of(packets))? * 1024.0);
    let seen = |value: Option<f32>| value.filter(|_| both >= TRAFFIC_MIN);
    Part {
        source: source.to_owned(),
        at: last(minutes, 1),
        coverage: (minutes.len() as f32 / 60.0).min(1.0),
        value: Some(Traffic {
            received,
            sent,
            sent_share: seen(ratio(Some(sent), Some(both))),
            packet_in: seen(bytes(received, Metric::PacketsReceived)),
            packet_out: seen(bytes(sent, Metric::PacketsSent)),
            burstiness: seen(ratio(quantile(sums, 0.95), Some(both))),
            by_hour: by_hour.iter().map(|hour| mean(hour)).collect(),
        }),
        missing: Vec::new(),
    }
}

/// Instructions in a cycle, in the minutes of the last hour. `None`: the host's processor does not count them.
pub fn per_cycle(minutes: &[Bucket]) -> Option<Performance> {
    let of = |bucket: &Bucket, metric: Metric| bucket.summaries[metric as usize].map(|s| s.mean);
    let ratios: Vec<f32> = minutes
        .iter()
        .filter_map(|bucket| ratio(of(bucket, Metric::Instructions), of(bucket, Metric::Cycles)))
        .collect();
    Some(Performance { p50: quantile(ratios.clone(), 0.5)?, p95: quantile(ratios, 0.95)? })
}

/// How it fared in the minutes of the last hour. `never`: what is not measured of it at all, and why.
pub fn performance(
    source: &str,
    minutes: &[Bucket],
    never: &BTreeMap<Metric, String>,
) -> Part<BTreeMap<Metric, Performance>> {
    let mut all = BTreeMap::new();
    let mut missing = Vec::new();
    for metric in PERFORMANCE {
        let p50 = quantile(values(minutes, metric, |s| s.mean), 0.5);
        let p95 = quantile(values(minutes, metric, |s| s.p95), 0.95);
        match (p50, p95) {
            (Some(p50), Some(p95)) => drop(all.insert(metric, Performance { p50, p95 })),
            _ if never.contains_key(&metric) => {}
            _ if metric.is_of_guest() => missing.push(format!("{metric}: no agent was heard")),
            _ => missing.push(format!("{metric}: was not measured in the last hour")),
        }
    }
    // One line for all that is missing for the same reason.
    let mut whys = BTreeMap::<&str, Vec<&str>>::new();
    for metric in PERFORMANCE.iter().filter(|metric| !all.contains_key(metric)) {
        never.get(metric).into_iter().for_each(|why| whys.entry(why).or_default().push(metric.name()));
    }
    missing.extend(whys.iter().map(|(why, metrics)| format!("{}: {why}", metrics.join(", "))));
    let coverage = all.len() as f32 / PERFORMANCE.len() as f32;
    let at = last(minutes, 1);
    Part { source: source.to_owned(), at, coverage, value: Some(all), missing }
}

/// The trait vector of its last look. `sources`: who says so where the host alone does, and where the guest does too.
pub fn trait_vector(sources: [&str; 2], record: &PersonalityRecord, labels: &Labels) -> Part<Vec<TraitSeen>> {
    let vector = record.traits;
    let seen = |(this, value): (Trait, f32)| TraitSeen {
        of: this,
        value: this.natural(value),
        deviation: labels.off_center(this, value),
        weight: labels.weight(this),
    };
    let known: Vec<TraitSeen> = vector.known().map(seen).collect();
    let missing = |this: Trait| {
        let why = if this.is_of_guest() { "no agent was heard" } else { "too little of it to tell" };
        vector.get(this).is_none().then(|| format!("{this}: {why}"))
    };
    let of_guest = vector != TraitVector::of_host(vector);
    Part {
        source: sources[usize::from(of_guest)].to_owned(),
        at: record.at,
        coverage: known.len() as f32 / Trait::ALL.len() as f32,
        missing: Trait::ALL.into_iter().filter_map(missing).collect(),
        value: Some(known),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proteus_model::telemetry::METRICS;

    fn minute(number: u64, values: &[(Metric, f32)]) -> Bucket {
        let mut summaries = [None; METRICS];
        for (metric, value) in values {
            let v = *value;
            summaries[*metric as usize] = Some(Summary { min: v, p50: v, p95: v, max: v, mean: v });
        }
        Bucket { begins_at: UnixMillis(number * 60_000), readings: 60, summaries }
    }

    #[test]
    fn instructions_in_a_cycle_are_told_where_both_are_counted() {
        use Metric::{Cycles, Instructions};
        let told = per_cycle(&[
            minute(1, &[(Instructions, 3000.0), (Cycles, 2000.0)]),
            minute(2, &[(Instructions, 9000.0)]),
            minute(3, &[(Instructions, 100.0), (Cycles, 0.0)]),
        ]);
        assert_eq!(told, Some(Performance { p50: 1.5, p95: 1.5 }));
        assert_eq!(per_cycle(&[minute(1, &[(Metric::Cpu, 5.0)])]), None);
    }

    #[test]
    fn what_is_never_measured_says_once_why() {
        let why = |metric| (metric, "not here".to_owned());
        let never = Metric::OF_HARDWARE.map(why).into();
        let part = performance("host", &[minute(1, &[(Metric::Cpu, 5.0), (Metric::DirtyRate, 0.0)])], &never);
        let of_hardware: Vec<_> = part.missing.iter().filter(|line| line.contains("not here")).collect();
        assert_eq!(of_hardware, ["instructions, cycles, cache_misses: not here"]);
        let value = part.value.unwrap();
        assert_eq!(value[&Metric::DirtyRate], Performance { p50: 0.0, p95: 0.0 }, "zero was measured");
        assert!(!value.contains_key(&Metric::Instructions));
    }
}
