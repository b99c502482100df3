//! What fuzz targets of this program share: a short run by default, `PROTEUS_FUZZ_ITERATIONS=1000000` for a long one,
//! `PROTEUS_FUZZ_SEED=…` to repeat one.

#[path = "../../../tests/support/fuzz.rs"]
mod support;

pub use support::{Random, run};

/// Damages what is whole: bits, cuts, repetitions, and pieces that mean something.
pub fn mutate(random: &mut Random, data: &mut Vec<u8>, pieces: &[&[u8]]) {
    for _ in 0..random.below(6) {
        let at = random.below(data.len() + 1);
        let end = (at + random.below(40)).min(data.len());
        match random.below(8) {
            0 => data.truncate(at),
            1 => drop(data.drain(at..end)),
            2 => data.extend_from_within(at..end),
            3 => data.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
            4 => data.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.next() as u8),
            5 => drop(data.splice(at..end, (0..random.below(20)).map(|_| random.next() as u8))),
            6 => drop(data.splice(at..end, pieces[random.below(pieces.len())].iter().copied())),
            _ => drop(data.splice(at..at, pieces[random.below(pieces.len())].iter().copied())),
        }
    }
}
