//! What a Prometheus answers to a range query, read from bytes of anybody's. Must never panic, show a value that is
//! not in the bytes, or take NaN, a stale marker or an infinity for a number.

use super::tame;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Greatest value that a history can hold: what is beyond is not a value of any VM.
const VALUE_MAX: f64 = 1e12;
/// How many labels, and values of each, are named where series differ.
const NAMED_MAX: usize = 3;
/// Letters of somebody else's text in a message.
const SAID_MAX: usize = 300;
/// Letters of a label.
const LABEL_MAX: usize = 60;
/// Warnings that are passed on.
const WARNINGS_MAX: usize = 5;

/// A stretch of time, in seconds since 1970, and how fine: its first and last moment are both in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first moment.
    pub from_s: u64,
    /// No moment is later.
    pub until_s: u64,
    /// From one moment to the next; not zero.
    pub step_s: u64,
}

impl Span {
    /// How many moments it has.
    pub fn points(self) -> u64 {
        self.until_s.checked_sub(self.from_s).map_or(0, |whole| whole / self.step_s.max(1) + 1)
    }
}

/// Labels of a series, by their names.
pub type Labels = BTreeMap<String, String>;

/// The one series of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What it is of.
    pub labels: Labels,
    /// Seconds since 1970, rising, and finite values from 0 to 10^12.
    pub points: Vec<(u64, f32)>,
    /// How many values were left out, being below zero or beyond 10^12.
    pub absurd: u64,
}

/// An answer that could be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// `None`: nothing matched.
    pub series: Option<Series>,
    /// What the server warned of, as that a part of its data was not there.
    pub warnings: Vec<String>,
}

/// Why an answer brought nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It ends in the middle.
    #[error("its answer is cut short after {0} bytes")]
    Cut(usize),
    /// A page for people: something else listens there.
    #[error("its answer is a web page")]
    Page,
    /// It is something else.
    #[error("its answer is not one of Prometheus: {0}")]
    Strange(String),
    /// It said no, in its own words.
    #[error("{kind}: {message}")]
    Said {
        /// As `bad_data`.
        kind: String,
        /// Its words.
        message: String,
    },
    /// More than one series: whose values they are is not known.
    #[error("expected one series, found {count}, which differ in {}", differ.join("; "))]
    Many {
        /// How many.
        count: usize,
        /// The labels in which they differ, each with some of its values.
        differ: Vec<String>,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Whole {
    status: String,
    data: Option<Data>,
    error_type: Option<String>,
    error: Option<String>,
    warnings: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    metric: Labels,
    // A series of histograms has none.
    values: Option<Vec<(f64, String)>>,
}

fn strange(what: impl Into<String>) -> AnswerError {
    AnswerError::Strange(what.into())
}

fn unreadable(body: &[u8], error: &serde_json::Error) -> AnswerError {
    match body.trim_ascii_start().first() {
        Some(b'<') => AnswerError::Page,
        None => strange("it is empty"),
        Some(_) if error.is_eof() => AnswerError::Cut(body.len()),
        // What serde says of it quotes the bytes.
        Some(_) => strange(tame(&error.to_string(), SAID_MAX)),
    }
}

/// Reads the answer to a query over `asked`.
pub fn parse(body: &[u8], asked: Span) -> Result<Answer, AnswerError> {
    let whole: Whole = serde_json::from_slice(body).map_err(|error| unreadable(body, &error))?;
    if whole.status != "success" {
        let said = |text: Option<String>, or: &str| tame(text.as_deref().unwrap_or(or), SAID_MAX);
        return Err(match whole.status.as_str() {
            "error" => AnswerError::Said {
                kind: said(whole.error_type, "error"),
                message: said(whole.error, "it does not say why"),
            },
            other => strange(format!("its status is {:?}", tame(other, LABEL_MAX))),
        });
    }
    let data = whole.data.ok_or_else(|| strange("it has no data"))?;
    if data.result_type != "matrix" {
        return Err(strange(format!("it is a {}, not a matrix", tame(&data.result_type, LABEL_MAX))));
    }
    let warnings: Vec<String> = whole.warnings.unwrap_or_default();
    let warnings = warnings.iter().take(WARNINGS_MAX).map(|text| tame(text, SAID_MAX)).collect();
    let count = data.result.len();
    let mut rows = data.result;
    let series = match (rows.pop(), rows.is_empty()) {
        (None, _) => None,
        (Some(row), true) => Some(series(row, asked)?),
        (Some(last), false) => {
            rows.push(last);
            return Err(AnswerError::Many { count, differ: differing(rows.iter().map(|row| &row.metric)) });
        }
    };
    Ok(Answer { series, warnings })
}

/// The labels in which these differ, each with some of its values.
pub fn differing<'a>(all: impl Iterator<Item = &'a Labels> + Clone) -> Vec<String> {
    let names: BTreeSet<&String> = all.clone().flat_map(BTreeMap::keys).collect();
    let mut differ = Vec::new();
    for name in names {
        let mut values: BTreeSet<Option<&String>> = BTreeSet::new();
        for labels in all.clone() {
            values.insert(labels.get(name));
            // One more than are named, so that it is known that there are more.
            if values.len() > NAMED_MAX {
                break;
            }
        }
        if values.len() < 2 {
            continue;
        }
        if differ.len() == NAMED_MAX {
            differ.push("and more".to_owned());
            break;
        }
        let words = values.iter().take(NAMED_MAX);
        let words = words
            .map(|value| value.map_or("none".to_owned(), |value| format!("\"{}\"", tame(value, LABEL_MAX))));
        let more = if values.len() > NAMED_MAX { ", …" } else { "" };
        differ.push(format!("{} ({}{more})", tame(name, LABEL_MAX), words.collect::<Vec<_>>().join(", ")));
    }
    if differ.is_empty() {
        differ.push("nothing".to_owned());
    }
    differ
}

fn series(row: Row, asked: Span) -> Result<Series, AnswerError> {
    let values = row.values.ok_or_else(|| strange("the series is one of histograms"))?;
    if values.len() as u64 > asked.points() {
        return Err(strange(format!("{} values where {} were asked for", values.len(), asked.points())));
    }
    let (mut points, mut absurd, mut last) = (Vec::with_capacity(values.len()), 0, None);
    for (at, text) in values {
        let second = at.round();
        let within = (asked.from_s as f64..=asked.until_s as f64).contains(&second);
        if !within || last.is_some_and(|last| second <= last) {
            return Err(strange(format!("the time {at} was not asked for, or is out of order")));
        }
        last = Some(second);
        let value: f64 =
            text.parse().map_err(|_| strange(format!("{:?} is not a value", tame(&text, LABEL_MAX))))?;
        // NaN is also how a stale marker, or nothing divided by nothing, looks.
        if !value.is_finite() {
            continue;
        }
        if !(0.0..=VALUE_MAX).contains(&value) {
            absurd += 1;
            continue;
        }
        points.push((second as u64, value as f32));
    }
    Ok(Series { labels: row.metric, points, absurd })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Span = Span { from_s: 1000, until_s: 1120, step_s: 60 };

    fn matrix(result: &str) -> String {
        format!(r#"{{"status":"success","data":{{"resultType":"matrix","result":[{result}]}}}}"#)
    }

    fn said(body: &str) -> String {
        parse(body.as_bytes(), ASKED).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_number_is_missing_and_never_zero() {
        let body =
            matrix(r#"{"metric":{"job":"n"},"values":[[1000,"NaN"],[1060.0004,"2.5"],[1120,"+Inf"]]}"#);
        let series = parse(body.as_bytes(), ASKED).unwrap().series.unwrap();
        assert_eq!((series.points, series.absurd), (vec![(1060, 2.5)], 0));
        let body = matrix(r#"{"metric":{},"values":[[1000,"-1"],[1060,"0"],[1120,"2e12"]]}"#);
        let series = parse(body.as_bytes(), ASKED).unwrap().series.unwrap();
        assert_eq!((series.points, series.absurd), (vec![(1060, 0.0)], 2));
        assert_eq!(parse(matrix("").as_bytes(), ASKED).unwrap().series, None);
    }

    #[test]
    fn what_is_not_one_series_of_what_was_asked_is_refused_with_its_reason() {
        let two = matrix(
            r#"{"metric":{"instance":"a","job":"n"},"values":[]},{"metric":{"instance":"b","job":"n"},"values":[]}"#,
        );
        assert_eq!(said(&two), "expected one series, found 2, which differ in instance (\"a\", \"b\")");
        assert!(said("<!DOCTYPE html>").contains("web page"));
        assert!(said("").contains("empty"));
        assert!(said(&two[..60]).contains("cut short after 60 bytes"));
        assert!(said("[]").contains("not one of Prometheus"));
        assert!(
            said(r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#).contains("vector")
        );
        assert!(said(r#"{"status":"success"}"#).contains("no data"));
        assert_eq!(
            said("{\"status\":\"error\",\"errorType\":\"bad_data\",\"error\":\"parse \\u001b[31merror\"}"),
            "bad_data: parse \u{fffd}[31merror"
        );
        for values in
            [r#"[1180,"1"]"#, r#"[940,"1"]"#, r#"[1060,"1"],[1060,"1"]"#, r#"[1060,"1"],[1000,"1"]"#]
        {
            let body = matrix(&format!(r#"{{"metric":{{}},"values":[{values}]}}"#));
            assert!(said(&body).contains("out of order"), "{values}");
        }
        let body = matrix(r#"{"metric":{},"values":[[1000,"1"],[1001,"1"],[1002,"1"],[1003,"1"]]}"#);
        assert!(said(&body).contains("4 values where 3 were asked for"));
        assert!(
            said(&matrix(r#"{"metric":{},"values":[[1000,"many"]]}"#)).contains("\"many\" is not a value")
        );
        assert!(said(&matrix(r#"{"metric":{},"histograms":[]}"#)).contains("histograms"));
    }

    #[test]
    fn labels_that_differ_are_named_in_few_words() {
        let labels = |at: usize| -> Labels {
            (0..9).map(|name| (format!("l{name}"), format!("{at}{}", "x".repeat(1000)))).collect()
        };
        let all: Vec<Labels> = (0..100).map(labels).collect();
        let said = differing(all.iter()).join("; ");
        assert!(said.len() < 900 && said.ends_with("and more"), "{said}");
        let one: Labels = [("a".to_owned(), "x".to_owned())].into();
        assert_eq!(differing([&one, &Labels::new()].into_iter()), ["a (none, \"x\")"]);
    }
}
