//! How long operations on a VM's disks took over about the last minute, from counts that only rise. Must never tell of a
//! stretch of which the beginning is not known.

use proteus_model::telemetry::{DiskLatencies, LatencySeen};
use std::collections::{BTreeMap, VecDeque};

/// What is told is of so long, ms, as far as it was looked at.
const OVER_MS: u64 = 60_000;
/// Looks that are at hand: more than a minute has at ten seconds each.
const LOOKS_MAX: usize = 16;
/// Of what was looked at last longer ago than that nothing is told, and after such a gap it begins anew, ms.
const STALE_MS: u64 = 60_000;

/// The looks of about the last minute at one VM's disks.
#[derive(Debug, Clone, Default)]
pub struct LatencyWatch(VecDeque<(u64, DiskLatencies)>);

impl LatencyWatch {
    /// Takes in the counts as they are at a moment of the host's steady clock.
    pub fn hear(&mut self, at_ms: u64, seen: &DiskLatencies) {
        let goes_on = self.0.back().is_none_or(|(then, before)| {
            at_ms.saturating_sub(*then) <= STALE_MS && seen.since(before).is_some()
        });
        if !goes_on {
            // Another VMM, or a disk that was unplugged.
            self.0.clear();
        }
        self.0.push_back((at_ms, *seen));
        // The first stays the last that is a minute old.
        while self.0.get(1).is_some_and(|(at, _)| at_ms.saturating_sub(*at) >= OVER_MS)
            || self.0.len() > LOOKS_MAX
        {
            self.0.pop_front();
        }
    }

    /// The next look is a beginning.
    pub fn begin_anew(&mut self) {
        self.0.clear();
    }

    /// By kind (`read`, `write`, `flush`) how long those of the last minute took; a kind of which there were none is not in
    /// it.
    pub fn last_minute(&self, at_ms: u64) -> BTreeMap<String, LatencySeen> {
        let ends = self.0.front().zip(self.0.back());
        let ends = ends.filter(|(_, (last, _))| at_ms.saturating_sub(*last) <= STALE_MS);
        let Some(grown) = ends.and_then(|((_, before), (_, now))| now.since(before)) else {
            return BTreeMap::new();
        };
        let kinds = [("read", &grown.reads), ("write", &grown.writes), ("flush", &grown.flushes)];
        kinds.into_iter().filter_map(|(kind, all)| Some((kind.to_owned(), LatencySeen::of(all)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(fast: u64, slow: u64) -> DiskLatencies {
        let mut all = DiskLatencies::default();
        // Of 50 to 100 µs, and of 10 to 20 ms.
        (all.reads.0[1], all.reads.0[8]) = (fast, slow);
        all
    }

    #[test]
    fn only_what_came_in_the_last_minute_counts() {
        let mut watch = LatencyWatch::default();
        // Slow ones long ago, then fast ones, a hundred each ten seconds.
        for look in 0..=20u64 {
            watch.hear(look * 10_000, &reads(look * 100, 500));
        }
        let seen = watch.last_minute(200_000);
        assert_eq!((seen.len(), seen["read"].operations), (1, 600), "none was written");
        assert!((50.0..=100.0).contains(&seen["read"].p99_us), "{seen:?}");
        assert!(watch.0.len() <= LOOKS_MAX);
        watch.hear(210_000, &reads(2_100, 600));
        let seen = watch.last_minute(210_000)["read"];
        assert!(seen.p50_us < 100.0 && (10_000.0..=20_000.0).contains(&seen.p99_us), "{seen:?}");
        assert!(watch.last_minute(300_000).is_empty(), "that is no more the last minute");
    }

    #[test]
    fn a_vmm_that_began_anew_and_a_gap_are_no_rise() {
        let mut watch = LatencyWatch::default();
        watch.hear(0, &reads(900, 0));
        watch.hear(10_000, &reads(5, 0));
        assert!(watch.last_minute(10_000).is_empty());
        watch.hear(20_000, &reads(8, 0));
        assert_eq!(watch.last_minute(20_000)["read"].operations, 3);
        watch.hear(200_000, &reads(5_000, 0));
        assert!(watch.last_minute(200_000).is_empty());
    }
}
