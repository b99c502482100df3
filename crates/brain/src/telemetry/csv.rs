//! What another monitoring kept of a VM, as text: a heading of names, then a line for each moment. Must never take a line
//! that it does not understand for one that is empty.
//!
//! ```text
//! time,cpu,memory,sent
//! 2026-11-28T12:00:00Z,250,1024,
//! 1795867500,,1030,12.5
//! ```

use proteus_model::telemetry::{Metric, Reading};
use proteus_model::unit::{UnitError, UnixMillis};

/// Longest line, bytes.
const LINE_BYTES_MAX: usize = 4096;
/// Greatest value: what a history can hold. What is beyond would be shown as less than it was.
const VALUE_MAX: f32 = 1e12;

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
    let at: UnixMillis =
        time.parse().map_err(|wrong: UnitError| error(number, "time", wrong.expected, time))?;
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

#[cfg(test)]
mod tests {
    use super::*;

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
