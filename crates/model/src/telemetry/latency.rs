//! How long operations on a VM's disks took, as counts by bounds of time. Must never hold a time that was made up: beyond
//! the last bound it is only known that an operation took longer.

use serde::{Deserialize, Serialize};

/// Upper bounds of what is counted apart, µs: 1, 2, 5 of each power of ten from 50 µs, as a fast disk answers, to 10 s.
pub const LATENCY_BOUNDS_US: [u64; 17] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000,
    2_000_000, 5_000_000, 10_000_000,
];
/// One for each bound, and one for what took longer.
pub const LATENCY_BINS: usize = LATENCY_BOUNDS_US.len() + 1;

/// Operations of one kind by how long they took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latencies(pub [u64; LATENCY_BINS]);

impl Latencies {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, bin| sum.saturating_add(*bin))
    }

    /// Adds those of another disk.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(bin, more)| *bin = bin.saturating_add(more));
    }

    /// What came since `before`; `None`: one of the counts is less, so its owner began anew.
    pub fn since(&self, before: &Self) -> Option<Self> {
        let mut grown = Self::default();
        for (bin, (now, before)) in grown.0.iter_mut().zip(self.0.iter().zip(before.0)) {
            *bin = now.checked_sub(before)?;
        }
        Some(grown)
    }

    /// Below which time this share of them lies, µs, taken as evenly spread between two bounds; beyond the last bound
    /// that bound. `None`: there are none.
    pub fn quantile_us(&self, share: f64) -> Option<f32> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let wanted = (share.clamp(0.0, 1.0) * count as f64).max(f64::MIN_POSITIVE);
        let (mut so_far, mut low) = (0.0, 0);
        for (bin, high) in self.0.iter().zip(LATENCY_BOUNDS_US) {
            let here = *bin as f64;
            if here > 0.0 && so_far + here >= wanted {
                return Some((low as f64 + (high - low) as f64 * (wanted - so_far) / here) as f32);
            }
            (so_far, low) = (so_far + here, high);
        }
        Some(low as f32)
    }
}

/// Operations on a VM's disks, all of them together, since each of them began to be counted so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskLatencies {
    /// Reads.
    pub reads: Latencies,
    /// Writes.
    pub writes: Latencies,
    /// Flushes of a disk's cache.
    pub flushes: Latencies,
}

impl DiskLatencies {
    /// What came since `before`; `None`: they began anew.
    pub fn since(&self, before: &Self) -> Option<Self> {
        Some(Self {
            reads: self.reads.since(&before.reads)?,
            writes: self.writes.since(&before.writes)?,
            flushes: self.flushes.since(&before.flushes)?,
        })
    }
}

/// How long operations of one kind took over about the last minute.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LatencySeen {
    /// How many there were.
    pub operations: u64,
    /// The median, µs.
    pub p50_us: f32,
    /// The 95th percentile, µs.
    pub p95_us: f32,
    /// The 99th percentile, µs.
    pub p99_us: f32,
}

impl LatencySeen {
    /// `None`: there were none.
    pub fn of(seen: &Latencies) -> Option<Self> {
        let [p50_us, p95_us, p99_us] = [0.5, 0.95, 0.99].map(|share| seen.quantile_us(share));
        Some(Self { operations: seen.count(), p50_us: p50_us?, p95_us: p95_us?, p99_us: p99_us? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bins: &[(usize, u64)]) -> Latencies {
        let mut all = Latencies::default();
        bins.iter().for_each(|(bin, count)| all.0[*bin] = *count);
        all
    }

    #[test]
    fn quantiles_lie_between_the_bounds_of_their_bins_and_none_is_made_up() {
        assert!(LATENCY_BOUNDS_US.windows(2).all(|pair| pair[0] < pair[1]));
        // 90 between 100 and 200 µs, 9 between 1 and 2 ms, one beyond all bounds.
        let all = of(&[(2, 90), (5, 9), (LATENCY_BINS - 1, 1)]);
        let p50 = all.quantile_us(0.5).unwrap();
        assert!((150.0..160.0).contains(&p50), "{p50}");
        assert!((1_000.0..=2_000.0).contains(&all.quantile_us(0.99).unwrap()));
        assert_eq!(all.quantile_us(1.0), Some(10_000_000.0), "it is known to have taken no less");
        assert_eq!((Latencies::default().quantile_us(0.5), all.count()), (None, 100));
        assert!(all.quantile_us(0.0).unwrap() >= 100.0);
        let seen = LatencySeen::of(&all).unwrap();
        assert!(seen.p50_us <= seen.p95_us && seen.p95_us <= seen.p99_us && seen.operations == 100);
    }

    #[test]
    fn what_came_since_is_told_unless_it_began_anew() {
        let (before, now) = (of(&[(1, 5)]), of(&[(1, 7), (3, 2)]));
        assert_eq!(now.since(&before), Some(of(&[(1, 2), (3, 2)])));
        assert_eq!(before.since(&now), None);
    }
}
