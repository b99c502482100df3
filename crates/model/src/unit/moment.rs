//! A moment, read from text. Must never guess a time zone: a moment is of UTC and says so, or is refused.

use super::{UnitError, UnixMillis, refuse};
use std::str::FromStr;

/// Beyond this a number of seconds is one of milliseconds: the year 5138.
const SECONDS_MAX: u64 = 100_000_000_000;
const FORM: &str = "seconds or milliseconds since 1970, or YYYY-MM-DDThh:mm:ssZ";

impl FromStr for UnixMillis {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        moment(text).ok_or_else(|| refuse("a moment", text, FORM))
    }
}

fn moment(text: &str) -> Option<UnixMillis> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let number: u64 = text.parse().ok()?;
        return Some(UnixMillis(if number < SECONDS_MAX { number * 1000 } else { number }));
    }
    let (date, time) = text.strip_suffix('Z')?.split_once(['T', ' '])?;
    let part = |text: &str, digits: usize| {
        let whole = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
        if whole { text.parse::<u64>().ok() } else { None }
    };
    let mut of_date = date.split('-');
    let (year, month, day) =
        (part(of_date.next()?, 4)?, part(of_date.next()?, 2)?, part(of_date.next()?, 2)?);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut of_time = clock.split(':');
    let (hour, minute, second) =
        (part(of_time.next()?, 2)?, part(of_time.next()?, 2)?, part(of_time.next()?, 2)?);
    if of_date.next().is_some() || of_time.next().is_some() || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let millis = (part(fraction, fraction.len())? as f64 / 10f64.powi(i32::try_from(fraction.len()).ok()?)
        * 1000.0) as u64;
    let days = days_since_1970(year, month, day)?;
    Some(UnixMillis(((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + millis))
}

/// Civil date to days (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms"); `None`: there is no such day.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if year < 1970 || day == 0 || day > length {
        return None;
    }
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (shifted_year / 400, shifted_year % 400);
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_leap_days_too_and_zones_are_not_guessed() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2024-02-29T23:59:59Z", 1_709_251_199),
            ("2000-02-29 12:00:00Z", 951_825_600),
            ("2026-11-28T18:00:00Z", 1_795_888_800),
            ("1795888800", 1_795_888_800),
            ("1795888800000", 1_795_888_800),
        ] {
            assert_eq!(text.parse(), Ok(UnixMillis(seconds * 1000)), "{text}");
        }
        assert_eq!("2026-11-28T18:00:00.250Z".parse(), Ok(UnixMillis(1_795_888_800_250)));
        for bad in [
            "2023-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-28T24:00:00Z",
            "2026-11-28T18:00:00+01:00",
            "2026-11-28T18:00:00",
            "2026-11-28",
            "1969-12-31T23:59:59Z",
            "-5",
            "",
            "x",
        ] {
            assert!(bad.parse::<UnixMillis>().is_err(), "{bad}");
        }
    }
}
