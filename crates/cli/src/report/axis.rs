//! The axes of a plot: where round values and round times are, and how they are written. Must never round a value to
//! one that reads as another: a tick has as many digits as its distance to the next.

use crate::output::moment;
use proteus_model::unit::UnixMillis;

/// Most ticks of a time axis.
const TIMES_MAX: u64 = 8;
/// Distances of ticks of a time axis, s: from ten seconds to sixteen days.
const TIME_STEPS_S: [u64; 18] = [
    10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 345_600,
    691_200, 1_382_400,
];

/// A stretch of time that all plots of a page share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// Where it begins, ms.
    pub begin: u64,
    /// Where it ends, ms; later than that.
    pub end: u64,
}

/// A place on an axis and its name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    /// 0 to 1.
    pub at: f64,
    /// As it is written.
    pub name: String,
}

impl Span {
    /// Where a moment is, 0 to 1. `None`: outside.
    pub fn place(self, at: u64) -> Option<f64> {
        let inside = (self.begin..=self.end).contains(&at);
        inside.then(|| (at - self.begin) as f64 / (self.end - self.begin).max(1) as f64)
    }

    /// In words, UTC.
    pub fn words(self) -> String {
        let (begin, end) = (moment(UnixMillis(self.begin)), moment(UnixMillis(self.end)));
        format!("{begin} to {end} UTC")
    }

    /// Round times. A midnight is written as its day, all else as the time of its day.
    pub fn ticks(self) -> Vec<Tick> {
        let length = (self.end - self.begin) / 1000;
        let step = TIME_STEPS_S.into_iter().find(|step| length / step < TIMES_MAX);
        let step = step.unwrap_or((length / TIMES_MAX).max(1)) * 1000;
        let first = self.begin.div_ceil(step) * step;
        let times = (first..=self.end).step_by(usize::try_from(step).unwrap_or(usize::MAX));
        let name = |at: u64| {
            let text = moment(UnixMillis(at));
            match (at % 86_400_000, step < 60_000) {
                (0, _) => text[5..10].to_owned(),
                (_, true) => text[11..19].to_owned(),
                (_, false) => text[11..16].to_owned(),
            }
        };
        times.filter_map(|at| Some(Tick { at: self.place(at)?, name: name(at) })).collect()
    }
}

/// How values of a metric are shown: what they are divided by, and in what they are then.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measure {
    /// What a value as measured is divided by.
    pub divisor: f64,
    /// What it is in then.
    pub unit: &'static str,
}

impl Measure {
    /// For values in `unit` up to `most`.
    pub fn of(unit: &str, most: f32) -> Self {
        let (divisor, unit) = match unit {
            "m" => (1000.0, "CPUs"),
            "‰" => (10.0, "%"),
            "MiB" if most >= 4096.0 => (1024.0, "GiB"),
            "MiB" => (1.0, "MiB"),
            "KiB/s" if most >= 1024.0 => (1024.0, "MiB/s"),
            "KiB/s" => (1.0, "KiB/s"),
            "µs" if most >= 1000.0 => (1000.0, "ms"),
            "µs" => (1.0, "µs"),
            "/s" => (1.0, "per s"),
            "M/s" if most >= 1000.0 => (1000.0, "billion per s"),
            "M/s" => (1.0, "million per s"),
            _ => (1.0, ""),
        };
        Self { divisor, unit }
    }

    /// A value with three digits that tell something, without its unit.
    pub fn number(self, value: f32) -> String {
        match f64::from(value) / self.divisor {
            0.0 => "0".to_owned(),
            value if value >= 100.0 => format!("{value:.0}"),
            value if value >= 10.0 => format!("{value:.1}"),
            value if value >= 0.01 => format!("{value:.2}"),
            value => format!("{value:.4}"),
        }
    }

    /// A value with its unit, which stays beside it.
    pub fn told(self, value: f32) -> String {
        format!("{}\u{a0}{}", self.number(value), self.unit)
    }
}

/// An axis of values, from zero to a round value that is not below `most`; its end is as measured, not divided.
pub(super) fn values(measure: Measure, most: f32) -> (f64, Vec<Tick>) {
    let most = (f64::from(most) / measure.divisor).max(1e-3);
    let rough = most / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|round| round * power).find(|step| *step >= rough);
    let step = step.unwrap_or(power * 10.0);
    let count = (most / step).ceil().clamp(1.0, 5.0);
    let top = step * count;
    let digits = (0..6).find(|digits| {
        let scaled = step * 10f64.powi(*digits);
        (scaled - scaled.round()).abs() < 1e-6
    });
    let digits = digits.unwrap_or(6) as usize;
    let tick = |index: u32| {
        let value = step * f64::from(index);
        Tick { at: value / top, name: format!("{value:.digits$}") }
    };
    (top * measure.divisor, (0..=count as u32).map(tick).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(ticks: &[Tick]) -> Vec<&str> {
        ticks.iter().map(|tick| tick.name.as_str()).collect()
    }

    #[test]
    fn ticks_of_values_are_round_and_hold_the_most() {
        let told = |unit, most| {
            let (top, ticks) = values(Measure::of(unit, most), most);
            assert!(top >= f64::from(most), "{top} {most}");
            names(&ticks).join(" ")
        };
        assert_eq!(told("m", 930.0), "0.00 0.25 0.50 0.75 1.00");
        assert_eq!(told("‰", 10.0), "0.00 0.25 0.50 0.75 1.00");
        assert_eq!(told("MiB", 260.0), "0 100 200 300");
        assert_eq!(told("MiB", 9000.0), "0.0 2.5 5.0 7.5 10.0");
        assert_eq!(told("/s", 0.0), "0.00000 0.00025 0.00050 0.00075 0.00100");
        assert_eq!(told("KiB/s", 3e9).split(' ').count(), 4);
    }

    #[test]
    fn ticks_of_time_are_round_and_a_midnight_is_a_day() {
        let span = |begin, length| Span { begin, end: begin + length };
        // 2026-09-21 14:20:00
        let begin = 1_790_000_400_000;
        assert_eq!(
            names(&span(begin, 60_000).ticks()),
            ["14:20:00", "14:20:10", "14:20:20", "14:20:30", "14:20:40", "14:20:50", "14:21:00"]
        );
        assert_eq!(
            names(&span(begin + 1, 3_600_000).ticks()),
            ["14:30", "14:40", "14:50", "15:00", "15:10", "15:20"]
        );
        let two_days = span(begin, 2 * 86_400_000).ticks();
        assert_eq!(names(&two_days), ["09-22", "12:00", "09-23", "12:00"]);
        assert!(span(begin, 400 * 86_400_000).ticks().len() <= 10);
        assert_eq!(span(begin, 1000).place(begin + 1500), None);
    }
}
