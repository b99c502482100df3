//! Fuzz target of the history file, for the stable toolchain: mutates real histories. No bytes may panic, show a value
//! that was not written into this history, or make its file grow. A short run by default;
//! `PROTEUS_FUZZ_ITERATIONS=100000` for a long one, `PROTEUS_FUZZ_SEED=…` to repeat one.

use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

#[path = "../../../../../tests/support/random.rs"]
mod random;

use random::{Random, number};

const ITERATIONS: u64 = 150;
const BEGIN: u64 = 1_790_000_400_000;

fn vm(number: u128) -> VmId {
    VmId::from_bits(number << 96)
}

/// Buckets of every tier from the same moment on, anywhere in their rings and over their ends.
fn written(random: &mut Random, from: u64) -> Vec<(usize, Bucket)> {
    let mut all = Vec::new();
    for (tier, kind) in Tier::ALL.into_iter().enumerate() {
        let step = kind.step_s * 1000;
        let first = BEGIN / step + from % kind.slots;
        for number in 0..8 + random.next() % 8 {
            let mut summaries = [None; METRICS];
            for summary in &mut summaries {
                let mut values = [0; 4].map(|_: i32| (random.next() % 1_000_000) as f32 / 16.0);
                values.sort_by(f32::total_cmp);
                let [min, p50, p95, max] = values;
                *summary = (random.below(4) > 0).then_some(Summary { min, p50, p95, max, mean: p50 });
            }
            let begins_at = UnixMillis((first + number) * step);
            all.push((tier, Bucket { begins_at, readings: 1 + random.below(600) as u16, summaries }));
        }
    }
    all
}

fn history(path: &Path, vm: VmId, buckets: &[(usize, Bucket)]) -> Vec<u8> {
    let (history, _) = History::open(path, vm).unwrap();
    buckets.iter().for_each(|(tier, bucket)| history.put(*tier, bucket).unwrap());
    history.export().unwrap()
}

/// Where something is in a file that is mostly holes.
fn somewhere(random: &mut Random, bytes: &[u8]) -> usize {
    let at = random.below(bytes.len());
    let next = bytes[at..].iter().position(|byte| *byte != 0).map_or(0, |next| at + next);
    // Beside what there is too.
    (next + random.below(8)).saturating_sub(4).min(bytes.len().saturating_sub(1))
}

fn mutate(random: &mut Random, data: &mut Vec<u8>, other: &[u8], layout: &Layout) {
    for _ in 0..=random.below(4) {
        if data.is_empty() {
            return data.extend(&other[..random.below(other.len())]);
        }
        let (at, bytes) = (somewhere(random, data), layout.slot_bytes());
        match random.below(10) {
            0 => data[at] ^= 1 << random.below(8),
            1 => data[at] = random.next() as u8,
            2 => data.truncate(at),
            3 => drop(data.drain(at..(at + random.below(400)).min(data.len()))),
            4 => drop(data.splice(at..at, (0..random.below(300)).map(|_| random.next() as u8))),
            // A block of the disk that went to the wrong place, or is of another file.
            5 | 6 => {
                let from = if random.below(3) > 0 { other.to_vec() } else { data.clone() };
                let (block, length) = (somewhere(random, &from) & !0xFFF, 4096 << random.below(4));
                let part = &from[block..(block + length).min(from.len())];
                let to = if random.below(3) > 0 { block } else { at & !0xFFF };
                if let Some(place) = data.get_mut(to..to + part.len()) {
                    place.copy_from_slice(part);
                }
            }
            // A whole slot in another's place, of its own ring or another.
            7 | 8 => {
                let slot_at = |at: usize| {
                    let rings = [0, 1, 2].map(|tier| layout.ring_at(tier) as usize);
                    let ring = rings.into_iter().rev().find(|ring| *ring <= at);
                    ring.map(|ring| ring + (at - ring) / bytes * bytes)
                };
                if let (Some(from), Some(to)) = (slot_at(at), slot_at(somewhere(random, data)))
                    && let Some(slot) = data.get(from..from + bytes).map(<[u8]>::to_vec)
                    && let Some(place) = data.get_mut(to..to + bytes)
                {
                    place.copy_from_slice(&slot);
                }
            }
            // Sizes that cannot be, in the heading.
            _ => {
                let size = [u32::MAX, 4096, 4073, 0, 1 << 31][random.below(5)];
                if let Some(place) = data.get_mut(20..24) {
                    place.copy_from_slice(&size.to_le_bytes());
                }
            }
        }
    }
}

/// What is shown must be what was written, each once.
fn check(found: &Found, written: &Found) {
    for (tier, buckets) in found.buckets.iter().enumerate() {
        assert!(buckets.windows(2).all(|pair| pair[0].begins_at < pair[1].begins_at), "out of order");
        let made_up = buckets.iter().find(|bucket| !written.buckets[tier].contains(bucket));
        assert!(made_up.is_none(), "tier {tier}: {made_up:?}");
    }
}

/// The node goes on with whatever it finds.
fn live_on(path: &Path, data: &[u8], size: u64, written: &Found) {
    std::fs::write(path, data).unwrap();
    let (history, aside) = History::open(path, vm(1)).unwrap();
    assert_eq!(aside.is_some(), Heading::decode(data).is_err());
    check(&history.read().unwrap(), written);
    let begins_at = Tier::ALL[0].begin_of(UnixMillis(BEGIN + 50 * 86_400_000));
    let bucket = Bucket { begins_at, readings: 10, summaries: [None; METRICS] };
    history.put(0, &bucket).unwrap();
    assert!(history.read().unwrap().buckets[0].contains(&bucket), "what is put in is not there");
    assert!(std::fs::metadata(path).unwrap().len() <= size.max(data.len() as u64), "it grows");
    aside.into_iter().for_each(|aside| std::fs::remove_file(aside).unwrap());
}

#[test]
fn a_history_of_any_bytes() {
    let seed = number("PROTEUS_FUZZ_SEED", 0x5EED);
    let iterations = number("PROTEUS_FUZZ_ITERATIONS", ITERATIONS);
    println!("PROTEUS_FUZZ_SEED={seed} PROTEUS_FUZZ_ITERATIONS={iterations}");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let layout = Heading::own(vm(1)).layout(0);
    let full = HEADING_BYTES as u64
        + Tier::ALL.iter().map(|tier| tier.slots).sum::<u64>() * layout.slot_bytes() as u64;
    let (mut shown, mut refused) = (0u64, 0u64);
    for round in 0..iterations {
        let mut random = Random::of_round(seed, round);
        let (own, other) = (path("own"), path("other"));
        let from = random.next();
        let (ours, theirs) = (written(&mut random, from), written(&mut random, from));
        let (whole, foreign) = (history(&own, vm(1), &ours), history(&other, vm(2), &theirs));
        let before = decode(&whole).unwrap().1;
        let mut data = whole;
        mutate(&mut random, &mut data, &foreign, &layout);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let taken = decode(&data);
            if let Ok((of, found)) = &taken
                && *of == vm(1)
            {
                check(found, &before);
            }
            // A whole heading of another's begins another's history, also one that was cut.
            if Heading::decode(&data).map_or(true, |(heading, _)| heading.vm == vm(1)) {
                live_on(&path("mutated"), &data, full, &before);
            }
            taken.is_ok()
        }));
        let repeat = format!("PROTEUS_FUZZ_SEED={} PROTEUS_FUZZ_ITERATIONS=1", seed.wrapping_add(round));
        match outcome.unwrap_or_else(|_| panic!("{repeat}")) {
            true => shown += 1,
            false => refused += 1,
        }
        for name in ["own", "other"] {
            std::fs::remove_file(path(name)).unwrap();
        }
    }
    println!("{shown} shown, {refused} refused");
    // Mutations that never or always destroy the heading would prove little.
    assert!(iterations < 100 || (shown > iterations / 20 && refused > iterations / 20));
}

/// With a checksum that is right: somebody made it so. Nothing that reads it further on may break.
#[test]
fn a_slot_that_somebody_made_is_taken_only_in_order() {
    let (_, sum) = Heading::own(vm(1)).encode().unwrap();
    let layout = Heading::own(vm(1)).layout(sum);
    let seed = number("PROTEUS_FUZZ_SEED", 0x5EED);
    let mut taken = 0;
    for round in 0..number("PROTEUS_FUZZ_ITERATIONS", 20_000) {
        let mut random = Random::of_round(seed, round);
        let tier = random.below(3);
        let Tier { step_s, slots } = Tier::ALL[tier];
        let number =
            [BEGIN / (step_s * 1000), u64::MAX / (step_s * 1000), random.next() >> 16][random.below(3)];
        let begins_at = UnixMillis(number.wrapping_mul(step_s * 1000));
        let (slot, summaries) = (begins_at.0 / (step_s * 1000) % slots, [None; METRICS]);
        let mut bytes = layout.encode(tier, &Bucket { begins_at, readings: random.next() as u16, summaries });
        let body = bytes.len() - 4;
        let mut all = layout.scale.unpack(&bytes[10..body]);
        for _ in 0..random.below(3) {
            let at = random.below(METRICS) * VALUES;
            let mut codes = [0; VALUES].map(|_: i32| random.next() as u16 & layout.scale.missing());
            if random.below(2) == 0 {
                codes.sort_unstable();
                codes[4] = codes[2];
            }
            all[at..at + VALUES].copy_from_slice(&codes);
        }
        let mut packed = Vec::new();
        layout.scale.pack(all.into_iter(), &mut packed);
        bytes[10..body].copy_from_slice(&packed);
        let sum = layout.checksum(tier, &bytes[..body]);
        bytes[body..].copy_from_slice(&sum.to_le_bytes());
        let Ok(Some(bucket)) = layout.decode(tier, slot, &bytes) else { continue };
        taken += 1;
        assert!(bucket.begins_at < MOMENT_END);
        for summary in bucket.summaries.iter().flatten() {
            let Summary { min, p50, p95, max, mean } = *summary;
            assert!(0.0 <= min && min <= p50 && p50 <= p95 && p95 <= max && max < 2e12, "{summary:?}");
            assert!(min <= mean && mean <= max, "{summary:?}");
        }
        let pooled = proteus_brain::telemetry::pool(bucket.begins_at, &[bucket.clone(), bucket]);
        assert!(pooled.summaries.iter().flatten().all(|summary| summary.max.is_finite()));
    }
    assert!(taken > 0);
}
