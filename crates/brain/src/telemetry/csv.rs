//! What another monitoring kept of a VM, as text: a heading of names, then a line for each moment. Must never take a line
//! that it does not understand for one that is empty.
//!
//! ```text
//! time,cpu,memory,sent
//! 2026-11-28T12:00:00Z,250,1024,
//! 1795867500,,1030,12.5
//! ```

use proteus_model::telemetry::{Metric, Reading};
use proteus_model::unit::UnixMillis;

/// Longest line, bytes.
const LINE_BYTES_MAX: usize = 4096;
/// Greatest value: what a history can hold. What is beyond would be shown as less than it was.
const VALUE_MAX: f32 = 1e12;
/// Beyond this a number of seconds is one of milliseconds: the year 5138.
const SECONDS_MAX: u64 = 100_000_000_000;

/// What a text has that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, {field}: expected {expected}, found {found:?}")]
pub struct CsvError {
    /// Counted from one.
    pub line: usize,
    /// Name of the column, or `heading`.
    pub field: String,
    /// What it could be.
    pub expected: String,
    /// What it is, cut off after 40 letters.
    pub found: String,
}

fn error(line: usize, field: &str, expected: impl Into<String>, found: &str) -> CsvError {
    let found = found.chars().take(40).collect();
    CsvError { line, field: field.to_owned(), expected: expected.into(), found }
}

/// Readings in the order of the lines, read one by one: of a few bytes a line there may be millions. An empty field was
/// not measured.
pub fn parse(
    text: &str,
) -> Result<impl Iterator<Item = Result<(UnixMillis, Reading), CsvError>> + '_, CsvError> {
    // What some programs begin a file with, to say that it is UTF-8.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let heading = || error(1, "heading", "`time` and names of metrics", "");
    let (names, first) = lines.next().ok_or_else(heading)?;
    let mut names = names.split(',').map(str::trim);
    match names.next() {
        Some("time") => {}
        other => return Err(error(first, "heading", "`time` first", other.unwrap_or_default())),
    }
    let mut columns: Vec<Metric> = Vec::new();
    for name in names {
        let known = || Metric::ALL.map(Metric::name).join(", ");
        let metric = Metric::named(name)
            .ok_or_else(|| error(first, "heading", format!("one of {}", known()), name))?;
        if columns.contains(&metric) {
            return Err(error(first, "heading", "each metric once", name));
        }
        columns.push(metric);
    }
    if columns.is_empty() {
        return Err(heading());
    }
    Ok(lines.map(move |(line, number)| row(line, number, &columns)))
}

fn row(line: &str, number: usize, columns: &[Metric]) -> Result<(UnixMillis, Reading), CsvError> {
    if line.len() > LINE_BYTES_MAX {
        return Err(error(number, "line", format!("at most {LINE_BYTES_MAX} bytes"), line));
    }
    let mut fields = line.split(',').map(str::trim);
    let time = fields.next().unwrap_or_default();
    let at = moment(time).ok_or_else(|| {
        error(number, "time", "seconds or milliseconds since 1970, or YYYY-MM-DDThh:mm:ssZ", time)
    })?;
    let mut reading = Reading::default();
    for metric in columns {
        let expected = || format!("a number of {} from 0 to 10^12, or nothing", metric.unit());
        let field =
            fields.next().ok_or_else(|| error(number, metric.name(), expected(), "the end of the line"))?;
        if field.is_empty() {
            continue;
        }
        let value = field.parse::<f32>().ok().filter(|value| (0.0..=VALUE_MAX).contains(value));
        reading.set(*metric, Some(value.ok_or_else(|| error(number, metric.name(), expected(), field))?));
    }
    match fields.next() {
        Some(more) => Err(error(number, "line", format!("{} fields", columns.len() + 1), more)),
        None => Ok((at, reading)),
    }
}

/// A moment, in UTC. What has a zone of its own is not understood: it would be a guess.
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
            assert_eq!(moment(text), Some(UnixMillis(seconds * 1000)), "{text}");
        }
        assert_eq!(moment("2026-11-28T18:00:00.250Z"), Some(UnixMillis(1_795_888_800_250)));
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
            assert_eq!(moment(bad), None, "{bad}");
        }
    }

    fn read(text: &str) -> Result<Vec<(UnixMillis, Reading)>, CsvError> {
        parse(text)?.collect()
    }

    #[test]
    fn lines_become_readings_and_an_empty_field_was_not_measured() {
        // As a spreadsheet writes it.
        let read = read("\u{feff}time,cpu,sent\r\n1795888800,250,\r\n\r\n1795888810,,12.5").unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].1.get(Metric::Cpu), read[0].1.get(Metric::Sent)), (Some(250.0), None));
        assert_eq!((read[1].1.get(Metric::Cpu), read[1].1.get(Metric::Sent)), (None, Some(12.5)));
    }

    #[test]
    fn what_cannot_be_read_is_named_with_line_and_field() {
        let said = |text: &str| read(text).unwrap_err().to_string();
        assert!(said("").starts_with("line 1, heading: expected `time`"));
        assert!(said("time\n5\n").contains("names of metrics"));
        assert!(said("time,cpu\n6,2e12\n").starts_with("line 2, cpu"));
        assert!(said("cpu,time\n").starts_with("line 1, heading: expected `time` first"));
        assert!(said("time,watts\n").contains("expected one of cpu, memory"));
        assert!(said("time,cpu,cpu\n").contains("each metric once"));
        assert_eq!(
            said("time,cpu\n5,1\n6,NaN\n"),
            "line 3, cpu: expected a number of m from 0 to 10^12, or nothing, found \"NaN\""
        );
        assert!(said("time,cpu\n6,-1\n").starts_with("line 2, cpu"));
        assert!(said("time,cpu\n6\n").contains("the end of the line"));
        assert!(said("time,cpu\n6,1,2\n").contains("2 fields"));
        assert!(said("time,cpu\nnow,1\n").starts_with("line 2, time"));
    }
}
