//! What is kept of one resource of one VM, from which every expert takes its word: three hours of samples, a week of
//! hourly maxima, a decayed histogram. Bounded, and nothing in it is older than a week. Must never take a missing sample
//! for a zero.

use super::{HORIZONS, STEP_S};

/// Samples of three hours.
const RECENT: usize = 36;
/// Hours of a week.
const HOURS: usize = 168;
/// Samples of an hour.
const PER_HOUR: u64 = 3600 / STEP_S;
/// Buckets of the histogram: each 9 % wider than the one before, to 113 %.
const BUCKETS: usize = 64;
/// Least value that has a bucket of its own, % of what the VM has.
const BUCKET_FIRST: f32 = 0.5;
const BUCKET_GROWTH: f32 = 1.09;
/// Half-life of the histogram: a day.
const HALF_LIFE_SAMPLES: f32 = 288.0;
/// Weights are scaled down beyond this.
const WEIGHT_MAX: f32 = 1e20;

/// Values of half a per mille, in 16 bits; `u16::MAX` is "not measured".
const MISSING: u16 = u16::MAX;
const SCALE: f32 = 100.0;

fn code(value: f32) -> u16 {
    // Saturates: 655 % of what a VM has is no use of it.
    ((value * SCALE).round() as u16).min(MISSING - 1)
}

fn value(code: u16) -> Option<f32> {
    (code != MISSING).then(|| f32::from(code) / SCALE)
}

/// Of how many experts there is a word.
pub const EXPERTS: usize = 9;

/// Names of the experts, in their order.
pub const NAMES: [&str; EXPERTS] = [
    "last",
    "max 30 min",
    "max 3 h",
    "max 1 day",
    "max 7 days",
    "decayed p95",
    "decayed p99",
    "yesterday",
    "mean and deviation",
];

/// One resource of one VM, in percent of what the VM has.
#[derive(Debug, Clone, PartialEq)]
pub struct Track {
    recent: [u16; RECENT],
    hours: [u16; HOURS],
    histogram: [f32; BUCKETS],
    weight: f32,
    /// The next sample's number: samples of [`STEP_S`] since 1970.
    next: u64,
    /// Samples that were measured, in all.
    seen: u32,
    mean: f32,
    square: f32,
}

fn bucket(of: f32) -> usize {
    if of <= BUCKET_FIRST {
        return 0;
    }
    // As many as fit: what is beyond them is in the last.
    (1 + ((of / BUCKET_FIRST).ln() / BUCKET_GROWTH.ln()) as usize).min(BUCKETS - 1)
}

fn bucket_end(at: usize) -> f32 {
    BUCKET_FIRST * BUCKET_GROWTH.powi(at as i32)
}

impl Default for Track {
    fn default() -> Self {
        Self {
            recent: [MISSING; RECENT],
            hours: [MISSING; HOURS],
            histogram: [0.0; BUCKETS],
            weight: 1.0,
            next: 0,
            seen: 0,
            mean: 0.0,
            square: 0.0,
        }
    }
}

impl Track {
    /// Number of the next sample that is expected: samples of [`STEP_S`] since 1970.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Samples that were measured, in all.
    pub fn seen(&self) -> u32 {
        self.seen
    }

    /// Takes in sample `number`; what lies between it and the one before is missing. One that is not newer is left out,
    /// and `false` is said.
    pub fn push(&mut self, number: u64, sample: Option<f32>) -> bool {
        if self.seen > 0 && number < self.next {
            return false;
        }
        if self.seen > 0 {
            for missing in (self.next..number).take(HOURS * PER_HOUR as usize) {
                self.place(missing, None);
            }
        }
        self.place(number, sample.filter(|sample| sample.is_finite()).map(|sample| sample.max(0.0)));
        self.next = number + 1;
        true
    }

    fn place(&mut self, number: u64, sample: Option<f32>) {
        self.recent[(number % RECENT as u64) as usize] = sample.map_or(MISSING, code);
        let hour = &mut self.hours[(number / PER_HOUR % HOURS as u64) as usize];
        if number.is_multiple_of(PER_HOUR) {
            *hour = MISSING;
        }
        let Some(sample) = sample else { return };
        let most = value(*hour).map_or(sample, |most| most.max(sample));
        *hour = code(most);
        // A newer sample weighs more: 2^(1/288) times the one before, so that a day later it weighs half.
        self.weight *= (1.0 / HALF_LIFE_SAMPLES).exp2();
        self.histogram[bucket(sample)] += self.weight;
        if self.weight > WEIGHT_MAX {
            self.histogram.iter_mut().for_each(|held| *held /= self.weight);
            self.weight = 1.0;
        }
        self.seen = self.seen.saturating_add(1);
        // Over a day; the first samples are a plain mean.
        let share = (1.0 / self.seen as f32).max(1.0 / HALF_LIFE_SAMPLES);
        let off = sample - self.mean;
        self.mean += share * off;
        self.square = (1.0 - share) * (self.square + share * off * off);
    }

    /// The sample so many before the last; 0: the last itself.
    fn back(&self, samples: u64) -> Option<f32> {
        let number = self.next.checked_sub(1 + samples)?;
        value(self.recent[(number % RECENT as u64) as usize])
    }

    fn most(&self, samples: u64) -> Option<f32> {
        (0..samples).filter_map(|back| self.back(back)).reduce(f32::max)
    }

    /// The highest of so many hours that end with the one of the last sample.
    fn most_of_hours(&self, hours: u64) -> Option<f32> {
        let last = self.next.checked_sub(1)? / PER_HOUR;
        let known = (0..hours.min(last + 1)).map(|back| self.hours[((last - back) % HOURS as u64) as usize]);
        known.filter_map(value).reduce(f32::max)
    }

    /// The highest of the hours, a day before, that the next `samples` fall into.
    fn yesterday(&self, samples: u64) -> Option<f32> {
        let first = (self.next / PER_HOUR).checked_sub(24)?;
        let last = (self.next + samples - 1) / PER_HOUR - 24;
        // What is to come is not known: of a day's window the last hour is today's own.
        let last = last.min(self.next.checked_sub(1)? / PER_HOUR);
        let known = (first..=last).map(|hour| self.hours[(hour % HOURS as u64) as usize]);
        known.filter_map(value).reduce(f32::max)
    }

    /// The value that so much of the decayed weight is not above.
    fn quantile(&self, share: f32) -> Option<f32> {
        let all: f32 = self.histogram.iter().sum();
        let mut left = share * all;
        if all <= 0.0 {
            return None;
        }
        for (at, held) in self.histogram.iter().enumerate() {
            left -= held;
            if left <= 0.0 {
                return Some(bucket_end(at));
            }
        }
        Some(bucket_end(BUCKETS - 1))
    }

    /// Mean of about the last day.
    pub fn mean(&self) -> f32 {
        self.mean
    }

    /// Standard deviation of about the last day.
    pub fn deviation(&self) -> f32 {
        self.square.max(0.0).sqrt()
    }

    /// What each expert takes the highest value of the next window to be, before it is calibrated, in the order of
    /// [`NAMES`]; `None`: nothing was measured lately.
    pub fn words(&self, horizon: usize) -> Option<[f32; EXPERTS]> {
        let samples = HORIZONS[horizon].samples;
        let last = (0..RECENT as u64).find_map(|back| self.back(back))?;
        let day = self.most_of_hours(24)?;
        Some([
            last,
            self.most(6).unwrap_or(last),
            self.most(RECENT as u64).unwrap_or(last),
            day,
            self.most_of_hours(HOURS as u64)?,
            self.quantile(0.95)?,
            self.quantile(0.99)?,
            self.yesterday(samples).unwrap_or(day),
            self.mean + 2.0 * self.deviation(),
        ])
    }

    /// What no expert says and a forest may ask for: mean and deviation of a day, means and spread of the last half
    /// hour, hour and three hours, the rise within the half hour, the place in the day and how long it is known.
    pub fn more(&self) -> [f32; 11] {
        let mean = |samples: u64| {
            let (mut sum, mut count) = (0.0, 0.0f32);
            for sample in (0..samples).filter_map(|back| self.back(back)) {
                (sum, count) = (sum + sample, count + 1.0);
            }
            if count > 0.0 { sum / count } else { f32::NAN }
        };
        let three = mean(RECENT as u64);
        let (mut square, mut count) = (0.0, 0.0f32);
        for sample in (0..RECENT as u64).filter_map(|back| self.back(back)) {
            (square, count) = (square + (sample - three).powi(2), count + 1.0);
        }
        let least = (0..RECENT as u64).filter_map(|back| self.back(back)).reduce(f32::min);
        let rise = self.back(0).zip(self.back(5)).map(|(now, before)| now - before);
        let day = (self.next % 288) as f32 / 288.0 * std::f32::consts::TAU;
        [
            self.mean,
            self.deviation(),
            mean(6),
            mean(12),
            three,
            (square / count.max(1.0)).sqrt(),
            least.unwrap_or(f32::NAN),
            rise.unwrap_or(f32::NAN),
            day.sin(),
            day.cos(),
            (self.seen as f32).min(2016.0),
        ]
    }
}
