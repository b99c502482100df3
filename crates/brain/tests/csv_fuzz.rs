//! Fuzz target of histories as CSV, for the stable toolchain: mutates real ones. No text may panic, a value that is taken
//! must be in the text, and what becomes of it must be in order. A short run by default;
//! `PROTEUS_FUZZ_ITERATIONS=1000000` for a long one, `PROTEUS_FUZZ_SEED=…` to repeat one.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "a test may be told how long to run")]

#[path = "../../../tests/support/fuzz.rs"]
mod fuzz;

use fuzz::Random;
use proteus_brain::telemetry::{Series, csv};
use proteus_model::telemetry::{Bucket, Metric, Reading};
use proteus_model::unit::UnixMillis;

const ITERATIONS: u64 = 10_000;
/// The reader's own time: 2026-11-28T12:00:00Z.
const NOW: UnixMillis = UnixMillis(1_795_867_200_000);

const SEEDS: [&str; 6] = [
    "time,cpu,memory,sent\n2026-11-28T11:00:00Z,250,1024,\n1795864000,,1030,12.5\n1795864800500,1,2,3\n",
    "\u{feff}time,cpu\r\n1795860000,5\r\n1795860010,7\r\n\r\n1795860020,9\r\n",
    "time, cpu , disk_latency\n2024-02-29 23:59:59.999Z, 1e3 , 0.25\n2026-01-01T00:00:00Z,,\n",
    "time,cpu\n1795860000,1\n1795860600,2\n1795861200,3\n1795867205,4\n1795867206,5\n",
    "time,forks,pressure_io\n0,0,1000\n1,1e12,0\n9999-12-31T23:59:59Z,3,4\n",
    "\"time\",\"cpu\"\n\"1795860000\",\"1,5\"\n",
];

const PIECES: [&str; 34] = [
    ",",
    "\n",
    "\r\n",
    "\r",
    "\"",
    ";",
    "\t",
    "\u{feff}",
    "\0",
    "NaN",
    "inf",
    "-inf",
    "infinity",
    "-1",
    "-0",
    "1e39",
    "1e400",
    "1e-400",
    "1e12",
    "2e12",
    "0x10",
    "1_000",
    "\u{0661}",
    "+5",
    "Z",
    "T",
    "2023-02-29T00:00:00Z",
    "2026-11-28T12:00:00+01:00",
    "9999-12-31T23:59:59.999999999999999999999Z",
    "2016-12-31T23:59:60Z",
    "18446744073709551615",
    "99999999999999999999999999",
    "cpu",
    "time",
];

fn mutate(random: &mut Random, text: &mut String) {
    for _ in 0..random.below(6) {
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let at = places[random.below(places.len())];
        let end = places[random.below(places.len())].max(at).min(at + 24);
        let end = (end..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap();
        match random.below(6) {
            0 => text.truncate(at),
            1 => drop(text.drain(at..end)),
            2 | 3 => text.replace_range(at..end, PIECES[random.below(PIECES.len())]),
            4 => text.insert_str(at, PIECES[random.below(PIECES.len())]),
            _ => text.push_str(SEEDS[random.below(SEEDS.len())]),
        }
    }
}

fn parse(text: &str) -> Result<Vec<(UnixMillis, Reading)>, csv::CsvError> {
    csv::parse(text)?.collect()
}

/// What was taken must be in the text, line by line.
fn check_text(text: &str, readings: &[(UnixMillis, Reading)]) {
    let mut lines = text.trim_start_matches('\u{feff}').lines().filter(|line| !line.trim().is_empty());
    let names: Vec<&str> = lines.next().unwrap().split(',').map(str::trim).collect();
    assert_eq!(lines.clone().count(), readings.len());
    for (line, (_, reading)) in lines.zip(readings) {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        assert_eq!(fields.len(), names.len());
        for metric in Metric::ALL {
            let field = names.iter().position(|name| *name == metric.name()).map(|at| fields[at]);
            let value = field.filter(|field| !field.is_empty()).map(|field| field.parse::<f32>().unwrap());
            assert_eq!(reading.get(metric), value, "{line}");
            assert!(value.is_none_or(|value| (0.0..=1e12).contains(&value)), "{line}");
        }
    }
}

/// What becomes of it is in order, and nothing of it is made up.
fn check_buckets(readings: &[(UnixMillis, Reading)]) {
    let mut series = Series::default();
    let mut closed: Vec<_> =
        readings.iter().flat_map(|(at, reading)| series.place(*at, NOW, reading)).collect();
    closed.extend(series.flush());
    for Bucket { begins_at, readings: count, summaries } in closed.iter().map(|closed| &closed.bucket) {
        assert!(*count > 0 && begins_at.0 <= NOW.0 + 5_000, "{begins_at:?}");
        for (column, summary) in summaries.iter().enumerate() {
            let Some(s) = summary else { continue };
            assert!(s.min <= s.p50 && s.p50 <= s.p95 && s.p95 <= s.max, "{s:?}");
            assert!(s.min <= s.mean && s.mean <= s.max, "{s:?}");
            for end in [s.min, s.max] {
                assert!(readings.iter().any(|(_, reading)| reading.0[column] == Some(end)), "{s:?}");
            }
        }
    }
}

#[test]
fn a_csv_of_any_text() {
    let make = |random: &mut Random| {
        let mut text = SEEDS[random.below(SEEDS.len())].to_owned();
        mutate(random, &mut text);
        text
    };
    fuzz::run(ITERATIONS, make, |text| match parse(text) {
        Ok(readings) => {
            check_text(text, &readings);
            check_buckets(&readings);
            true
        }
        Err(error) => {
            assert!(error.line <= text.lines().count().max(1), "{error}");
            assert!(error.to_string().len() < 1000, "an error as long as its cause");
            false
        }
    });
}

/// Days of each year one after the other, beside the arithmetic of the reader.
#[test]
fn every_day_of_a_calendar_is_where_it_is() {
    let read = |text: &str| parse(&format!("time,cpu\n{text},1\n")).map(|read| read[0].0.0);
    let mut days = 0u64;
    for year in 1970u64..=9999 {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        for (month, length) in
            [31, 28 + u64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31].iter().enumerate()
        {
            let month = month + 1;
            for (day, well) in [(0, false), (1, true), (*length, true), (*length + 1, false)] {
                let at = read(&format!("{year:04}-{month:02}-{day:02}T00:00:00.5Z"));
                let expected = (days + day).checked_sub(1).map(|days| days * 86_400_000 + 500);
                assert_eq!(at.ok(), expected.filter(|_| well), "{year}-{month}-{day}");
            }
            days += length;
        }
    }
    for fraction in 0..1000 {
        let whole = read(&format!("2026-11-28T12:00:00.{fraction:03}Z")).unwrap();
        assert_eq!(whole, NOW.0 + fraction, "{fraction}");
        let finer = read(&format!("2026-11-28T12:00:00.{fraction:03}999Z")).unwrap();
        assert_eq!(finer, NOW.0 + fraction, "{fraction}");
    }
}

#[test]
fn what_is_huge_is_refused_in_few_words() {
    let long = "1".repeat(64 << 20);
    let comma = ",".repeat(1 << 20);
    for text in [
        format!("time,cpu\n5,{long}\n"),
        format!("time,cpu\n{long}"),
        format!("time,{long}\n5,1\n"),
        long.clone(),
        format!("time,cpu\n5,1{comma}\n"),
        format!("time,cpu{comma}\n5,1\n"),
    ] {
        let error = parse(&text).unwrap_err();
        assert!(error.to_string().len() < 1000);
    }
    // Nothing is held of what was read before: a line is a few bytes, and a reading a hundred.
    let many = format!("time,cpu\n{}", "1,\n".repeat(1 << 20));
    assert_eq!(csv::parse(&many).unwrap().filter(Result::is_ok).count(), 1 << 20);
}
