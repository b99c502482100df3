//! Numbers that look random and are the same for the same seed: what is learned, or decided, can be learned and
//! decided again. Never for secrets.

/// SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, figure 17).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Begins from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 where that is 0. Not exactly even, by less than `end` / 2^64.
    pub fn below(&mut self, end: usize) -> usize {
        // The product of two 64-bit numbers, of which the upper half is below `end`.
        ((u128::from(self.bits()) * end as u128) >> 64) as usize
    }

    /// A number in 0..1.
    pub fn share(&mut self) -> f64 {
        // 53 bits: what an f64 holds exactly.
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Puts a list into another order (Fisher–Yates).
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_and_every_number_comes() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..1000).map(|_| random.below(7)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        for number in 0..7 {
            let count = draw(3).iter().filter(|drawn| **drawn == number).count();
            // 1000/7 = 143, standard deviation 11: five of them.
            assert!((88..=198).contains(&count), "{number}: {count}");
        }
        let mut list: Vec<usize> = (0..50).collect();
        Random::new(4).shuffle(&mut list);
        assert!(list.iter().enumerate().any(|(at, item)| at != *item));
        list.sort_unstable();
        assert_eq!(list, (0..50).collect::<Vec<_>>());
        assert!((0..100).all(|_| (0.0..1.0).contains(&Random::new(5).share())));
        assert_eq!(Random::new(6).below(0), 0);
    }
}
