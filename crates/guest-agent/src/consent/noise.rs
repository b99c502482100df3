//! Two-sided geometric noise with ε = 1: −2 and 2 are as likely as each other, and a step further from 0 is e times less
//! likely. Drawn by whole numbers only, without a rounding that would tell something (Canonne, Kamath, Steinke, "The
//! Discrete Gaussian for Differential Privacy", algorithms 1 and 2). Must never be drawn from what somebody can foresee.

/// Attempts before a draw is given up: each fails in less than half of the cases.
const ATTEMPTS_MAX: usize = 128;
/// Beyond this nothing comes: its chance is e^−1000.
const NOISE_MAX: i64 = 1000;

/// A number that nobody foresees; `None`: the kernel has none.
pub fn random() -> Option<u64> {
    let mut bits = [0u8; 8];
    let got = rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty());
    (got == Ok(8)).then(|| u64::from_ne_bytes(bits))
}

/// One of 0 … `count` − 1, each as likely.
fn below(count: u64, draw: &mut impl FnMut() -> Option<u64>) -> Option<u64> {
    // What is beyond the last whole multiple would make small numbers likelier.
    let whole = u64::MAX - u64::MAX % count;
    for _ in 0..ATTEMPTS_MAX {
        let number = draw()?;
        if number < whole {
            return Some(number % count);
        }
    }
    None
}

/// True in one of e cases: the first k for which a draw of 1/k fails is odd.
fn one_of_e(draw: &mut impl FnMut() -> Option<u64>) -> Option<bool> {
    // 1/64! is no chance.
    for k in 1..64 {
        if below(k, draw)? != 0 {
            return Some(k % 2 == 1);
        }
    }
    Some(false)
}

/// The noise of one count.
pub fn two_sided(draw: &mut impl FnMut() -> Option<u64>) -> Option<i64> {
    for _ in 0..ATTEMPTS_MAX {
        let is_negative = below(2, draw)? == 1;
        let mut size = 0;
        while size < NOISE_MAX && one_of_e(draw)? {
            size += 1;
        }
        // Else 0 would come twice as often.
        if size != 0 || !is_negative {
            return Some(if is_negative { -size } else { size });
        }
    }
    None
}

/// Counts with noise, none below zero, and their sum before that: so it is not too high where many are near zero.
/// `None`: there is no randomness.
pub fn with_noise(counts: [u64; 24], draw: &mut impl FnMut() -> Option<u64>) -> Option<([u64; 24], u64)> {
    let (mut noisy, mut sum) = ([0; 24], 0i64);
    for (count, noisy) in counts.into_iter().zip(&mut noisy) {
        let with = i64::try_from(count).unwrap_or(i64::MAX).saturating_add(two_sided(draw)?);
        sum = sum.saturating_add(with);
        *noisy = u64::try_from(with).unwrap_or(0);
    }
    Some((noisy, u64::try_from(sum).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A generator with a seed: splitmix64.
    pub fn seeded(mut seed: u64) -> impl FnMut() -> Option<u64> {
        move || {
            seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            Some(mixed ^ (mixed >> 31))
        }
    }

    #[test]
    fn noise_is_symmetric_and_has_the_spread_of_epsilon_1() {
        let (mut draw, draws) = (seeded(7), 200_000u32);
        let noise: Vec<i64> = (0..draws).map(|_| two_sided(&mut draw).unwrap()).collect();
        let of =
            |value: fn(i64) -> i64| noise.iter().map(|n| value(*n)).sum::<i64>() as f64 / f64::from(draws);
        assert!(of(|n| n).abs() < 0.015, "mean {}", of(|n| n));
        // 2α/(1−α)² with α = 1/e is 1.8413.
        assert!((of(|n| n * n) - 1.8413).abs() < 0.03, "variance {}", of(|n| n * n));
        let mut histogram = BTreeMap::<i64, f64>::new();
        noise.iter().for_each(|n| *histogram.entry(*n).or_default() += 1.0);
        // (1−α)/(1+α) is 0.4621, and each step further is e times less likely.
        assert!((histogram[&0] / f64::from(draws) - 0.4621).abs() < 0.005);
        for step in 0..3 {
            for side in [1, -1] {
                let ratio = histogram[&(side * step)] / histogram[&(side * (step + 1))];
                assert!((ratio - std::f64::consts::E).abs() < 0.15, "{step} {side}: {ratio}");
            }
        }
    }

    #[test]
    fn without_randomness_nothing_is_released() {
        assert_eq!(with_noise([5; 24], &mut || None), None);
        // A source that is stuck ends.
        assert_eq!(two_sided(&mut || Some(u64::MAX)), None);
        assert!(random().is_some());
    }

    proptest! {
        #[test]
        fn one_of_n_is_below_n(count in 1..1000u64, seed in any::<u64>()) {
            prop_assert!(below(count, &mut seeded(seed)).unwrap() < count);
        }

        /// With the same draws, one session more makes one hour one higher, or leaves it at zero.
        #[test]
        fn one_session_more_is_one_more_in_one_hour(hour in 0..24usize, base in 0..50u64, seed in any::<u64>()) {
            let mut counts = [base; 24];
            let (before, _) = with_noise(counts, &mut seeded(seed)).unwrap();
            counts[hour] += 1;
            let (after, _) = with_noise(counts, &mut seeded(seed)).unwrap();
            for at in 0..24 {
                let differs = after[at] - before[at];
                prop_assert!(differs == 0 || (at == hour && differs == 1));
            }
        }
    }
}
