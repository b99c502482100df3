//! Numbers for fuzz runs: the same everywhere for one seed. Shared by the tests of several crates, which name it by
//! its path.

/// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016).
pub struct Random(pub u64);

impl Random {
    /// Of one round of a run: neighbouring rounds have nothing in common.
    pub fn of_round(seed: u64, round: u64) -> Self {
        Self(seed.wrapping_add(round).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// A number of the environment: how long, or from which seed.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}
