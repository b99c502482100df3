//! The rounds of a fuzz target whose input is text or bytes: each is made from its own seed, a panic is told with what
//! repeats it, and a target that never takes or never refuses anything fails. Shared by the tests of several crates, which
//! name it by its path.

#[path = "random.rs"]
mod random;

pub use random::Random;

use random::number;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `PROTEUS_FUZZ_ITERATIONS` rounds, `iterations` where that is not set. `take` says whether the input was taken; it
/// panics where what was taken is wrong.
pub fn run<T: AsRef<[u8]>>(iterations: u64, make: impl Fn(&mut Random) -> T, take: impl Fn(&T) -> bool) {
    let seed = number("PROTEUS_FUZZ_SEED", 0x5EED);
    let iterations = number("PROTEUS_FUZZ_ITERATIONS", iterations);
    println!("PROTEUS_FUZZ_SEED={seed} PROTEUS_FUZZ_ITERATIONS={iterations}");
    let (mut taken, mut refused) = (0u64, 0u64);
    for round in 0..iterations {
        let input = make(&mut Random::of_round(seed, round));
        // Nothing of a round is used after its panic.
        let outcome = catch_unwind(AssertUnwindSafe(|| take(&input)));
        let repeat = format!("PROTEUS_FUZZ_SEED={} PROTEUS_FUZZ_ITERATIONS=1", seed.wrapping_add(round));
        match outcome.unwrap_or_else(|_| panic!("{repeat}: {:?}", String::from_utf8_lossy(input.as_ref()))) {
            true => taken += 1,
            false => refused += 1,
        }
    }
    println!("{taken} taken, {refused} refused");
    // Mutations that never or always destroy the input would prove little.
    assert!(iterations < 1000 || (taken > iterations / 20 && refused > iterations / 20));
}
