//! From a stretch of a VM's history to its trait vector. Shapes, not amounts: how large its packets are, what a second
//! of CPU does, so that a slow host and a fast one see the same. Must never take what is missing for zero.

use proteus_model::personality::{Trait, TraitVector};
use proteus_model::telemetry::{Bucket, Metric};

/// Short buckets that a vector is made of: a minute.
pub const TRAIT_BUCKETS: usize = 6;
/// Fewest of them.
pub const TRAIT_BUCKETS_MIN: usize = 3;

/// Rates below these are too little to tell a shape of: packets/s, operations/s, thousandths of a core.
const PACKETS_MIN: f32 = 2.0;
const OPERATIONS_MIN: f32 = 0.2;
const CPU_MIN: f32 = 5.0;

/// What the buckets say of a metric.
struct Stretch<'a>(&'a [Bucket]);

impl Stretch<'_> {
    /// Mean over the buckets that have it; `None`: fewer than half have.
    fn mean(&self, metric: Metric) -> Option<f32> {
        let means: Vec<f32> =
            self.0.iter().filter_map(|bucket| bucket.summaries[metric as usize]).map(|s| s.mean).collect();
        (!means.is_empty() && means.len() * 2 >= self.0.len())
            .then(|| means.iter().sum::<f32>() / means.len() as f32)
    }

    /// (95th percentile − median) of the readings, the mean over the buckets.
    fn swing(&self, metric: Metric) -> Option<f32> {
        let summaries = self.0.iter().filter_map(|bucket| bucket.summaries[metric as usize]);
        let spans: Vec<f32> = summaries.map(|s| s.p95 - s.p50).collect();
        (!spans.is_empty()).then(|| spans.iter().sum::<f32>() / spans.len() as f32)
    }
}

/// a / b where b is at least so much.
fn ratio(a: Option<f32>, b: Option<f32>, least: f32) -> Option<f32> {
    let (a, b) = (a?, b?);
    (b >= least && b > 0.0).then(|| a / b)
}

fn ln(value: Option<f32>) -> Option<f32> {
    value.filter(|value| *value > 0.0).map(f32::ln)
}

/// The trait vector of a stretch of short buckets, of a VM with so many vCPUs. Nothing is known of fewer than
/// [`TRAIT_BUCKETS_MIN`].
pub fn traits(buckets: &[Bucket], vcpus: u32) -> TraitVector {
    let mut vector = TraitVector::default();
    if buckets.len() < TRAIT_BUCKETS_MIN {
        return vector;
    }
    let stretch = Stretch(buckets);
    let of = |metric| stretch.mean(metric);
    let (cpu, overhead) = (of(Metric::Cpu), of(Metric::Overhead));
    let (packets_in, packets_out) = (of(Metric::PacketsReceived), of(Metric::PacketsSent));
    let (received, sent) = (of(Metric::Received), of(Metric::Sent));
    let (reads, writes, flushes) = (of(Metric::Reads), of(Metric::Writes), of(Metric::Flushes));
    let sum = |a: Option<f32>, b: Option<f32>| Some(a? + b?);
    let packets = sum(packets_in, packets_out);
    // Seconds of CPU in a second.
    let cores = cpu.map(|cpu| cpu / 1000.0);
    let busy = CPU_MIN / 1000.0;
    let speaks = packets.is_some_and(|packets| packets >= PACKETS_MIN);
    vector.set(Trait::CpuUse, cores.map(|cores| (cores / vcpus.max(1) as f32).min(1.0)));
    vector.set(Trait::CpuSwing, ratio(stretch.swing(Metric::Cpu), cpu, CPU_MIN));
    vector.set(Trait::Overhead, ratio(overhead, sum(cpu, overhead), 2.0 * CPU_MIN));
    vector.set(Trait::Packets, packets.map(f32::ln_1p));
    vector.set(Trait::PacketsPerCpu, ln(ratio(packets, cores, busy)));
    if speaks {
        vector.set(Trait::SentShare, ratio(sent, sum(received, sent), 0.0));
        vector.set(Trait::PacketInSize, ln(ratio(received, packets_in, PACKETS_MIN / 4.0)).map(kib));
        vector.set(Trait::PacketOutSize, ln(ratio(sent, packets_out, PACKETS_MIN / 4.0)).map(kib));
        vector.set(Trait::Answers, ln(ratio(packets_out, packets_in, PACKETS_MIN / 4.0)));
    }
    vector.set(Trait::DiskReads, of(Metric::DiskRead).map(f32::ln_1p));
    vector.set(Trait::DiskWrites, of(Metric::DiskWritten).map(f32::ln_1p));
    vector.set(Trait::ReadSize, ln(ratio(of(Metric::DiskRead), reads, OPERATIONS_MIN)));
    vector.set(Trait::WriteSize, ln(ratio(of(Metric::DiskWritten), writes, OPERATIONS_MIN)));
    vector.set(Trait::Flushes, ratio(flushes, sum(writes, flushes), OPERATIONS_MIN));
    vector.set(Trait::Switches, ln(ratio(of(Metric::Switches), cores, busy)));
    vector.set(Trait::Forks, ratio(of(Metric::Forks), cores, busy).map(f32::ln_1p));
    let share = |metric| of(metric).map(|permille| (permille / 1000.0).min(1.0));
    vector.set(Trait::WaitCpu, share(Metric::PressureCpu));
    vector.set(Trait::WaitIo, share(Metric::PressureIo));
    vector.set(Trait::WaitMemory, share(Metric::PressureMemory));
    vector
}

/// ln(KiB) as ln(bytes).
fn kib(value: f32) -> f32 {
    value + 1024f32.ln()
}

/// The median of each trait over those vectors that have it; missing where fewer than half have.
pub fn median(vectors: &[TraitVector]) -> TraitVector {
    let mut all = TraitVector::default();
    for this in Trait::ALL {
        let mut values: Vec<f32> = vectors.iter().filter_map(|vector| vector.get(this)).collect();
        if values.len() * 2 >= vectors.len().max(1) {
            all.set(this, middle(&mut values));
        }
    }
    all
}

/// The median; `None` of nothing.
pub(super) fn middle(values: &mut [f32]) -> Option<f32> {
    values.sort_unstable_by(f32::total_cmp);
    let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some(f32::midpoint(*low, *high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proteus_model::telemetry::{METRICS, Summary};
    use proteus_model::unit::UnixMillis;

    /// Short buckets of these values, all alike.
    fn buckets(count: usize, values: &[(Metric, f32)]) -> Vec<Bucket> {
        let mut summaries = [None; METRICS];
        for (metric, value) in values {
            summaries[*metric as usize] =
                Some(Summary { min: *value, p50: *value, p95: *value, max: *value, mean: *value });
        }
        let bucket = |at: u64| Bucket { begins_at: UnixMillis(at * 10_000), readings: 10, summaries };
        (0..count as u64).map(bucket).collect()
    }

    #[test]
    fn shapes_do_not_depend_on_the_amount() {
        let at = |load: f32| {
            traits(
                &buckets(
                    6,
                    &[
                        (Metric::Cpu, 100.0 * load),
                        (Metric::Received, 10.0 * load),
                        (Metric::Sent, 90.0 * load),
                        (Metric::PacketsReceived, 100.0 * load),
                        (Metric::PacketsSent, 100.0 * load),
                        (Metric::Switches, 500.0 * load),
                    ],
                ),
                1,
            )
        };
        let (one, five) = (at(1.0), at(5.0));
        for this in [
            Trait::PacketsPerCpu,
            Trait::SentShare,
            Trait::PacketInSize,
            Trait::PacketOutSize,
            Trait::Answers,
            Trait::Switches,
        ] {
            let (a, b) = (one.get(this).unwrap(), five.get(this).unwrap());
            assert!((a - b).abs() < 1e-4, "{this}: {a} and {b}");
        }
        assert!((Trait::PacketOutSize.natural(one.get(Trait::PacketOutSize).unwrap()) - 921.6).abs() < 0.5);
        assert!((one.get(Trait::SentShare).unwrap() - 0.9).abs() < 1e-6);
    }

    #[test]
    fn what_has_no_shape_or_was_not_measured_is_missing() {
        let quiet = traits(
            &buckets(6, &[(Metric::Cpu, 1.0), (Metric::PacketsReceived, 0.1), (Metric::PacketsSent, 0.0)]),
            2,
        );
        assert!(quiet.get(Trait::PacketInSize).is_none() && quiet.get(Trait::PacketsPerCpu).is_none());
        assert!(quiet.get(Trait::Packets).is_some() && quiet.get(Trait::DiskReads).is_none());
        assert_eq!(traits(&buckets(2, &[(Metric::Cpu, 1.0)]), 1), TraitVector::default());
        let vectors = [quiet, TraitVector::default(), TraitVector::default()];
        assert_eq!(median(&vectors), TraitVector::default());
        assert_eq!(median(&[]), TraitVector::default());
        assert_eq!(middle(&mut [3.0, 1.0, 2.0, 4.0]), Some(2.5));
    }
}
