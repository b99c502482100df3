//! Any application in the OpenMetrics or Prometheus text format (OpenMetrics 1.0, section 4): one number a family, summed
//! over its labels. Labels are dropped: they may name people. Must never take a text for a number.

use super::exchange::{ExchangeError, get};
use super::{Value, Values};
use std::collections::BTreeMap;

/// Families that are kept.
const FAMILIES_MAX: usize = 256;
/// Longest name.
const NAME_BYTES_MAX: usize = 128;
/// Families of a program's own runtime, which say little of what it does.
const RUNTIMES: [&str; 4] = ["go_", "process_", "python_", "promhttp_"];

/// Asks an endpoint of this guest.
pub fn ask(url: &str) -> Result<Values, ExchangeError> {
    let (address, path) = proteus_model::telemetry::endpoint(url)
        .map_err(|_| ExchangeError::Confused("no address of this guest"))?;
    let body = get(address, path)?;
    let text = std::str::from_utf8(&body).map_err(|_| ExchangeError::Confused("not text"))?;
    let values = values(text);
    if values.is_empty() { Err(ExchangeError::Confused("no metrics")) } else { Ok(values) }
}

/// Name and number of a line such as `name{label="a b"} 12.5 1700000000 # {trace="x"} 1`.
fn sample(line: &str) -> Option<(&str, f64)> {
    let end = line.find(|letter: char| !(letter.is_ascii_alphanumeric() || matches!(letter, '_' | ':')))?;
    let (name, rest) = line.split_at(end);
    let rest = match rest.strip_prefix('{') {
        Some(labels) => labels.get(labels_end(labels)?..)?,
        None => rest,
    };
    let value = rest.split_ascii_whitespace().next()?.parse::<f64>().ok()?;
    let is_name = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.as_bytes()[0].is_ascii_digit();
    (is_name && value.is_finite()).then_some((name, value))
}

/// Where the labels end, behind their brace; a brace in quotes is none.
fn labels_end(labels: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, letter) in labels.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => return Some(at + 1),
            _ => {}
        }
    }
    None
}

fn values(text: &str) -> Values {
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let mut values = Values::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix('#') {
            let mut words = comment.split_ascii_whitespace();
            if words.next() == Some("TYPE")
                && let (Some(name), Some(kind)) = (words.next(), words.next())
                && kinds.len() < 4 * FAMILIES_MAX
            {
                kinds.insert(name, kind);
            }
            continue;
        }
        let Some((name, value)) = sample(line) else { continue };
        let Some(told) = told(name, &kinds) else { continue };
        let sum = match values.get(name) {
            Some(Value::Level(sum) | Value::Count(sum)) => sum + value,
            None if values.len() >= FAMILIES_MAX => continue,
            None => value,
        };
        values.insert(name.to_owned(), told(sum));
    }
    values
}

/// What a name's number is; `None`: it is left out.
fn told(name: &str, kinds: &BTreeMap<&str, &str>) -> Option<fn(f64) -> Value> {
    if RUNTIMES.iter().any(|begin| name.starts_with(begin))
        || name.ends_with("_bucket")
        || name.ends_with("_created")
    {
        return None;
    }
    let family = ["_total", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
    let kind = kinds.get(name).or_else(|| kinds.get(family?)).copied();
    match kind {
        Some("counter") => Some(Value::Count),
        Some("histogram" | "summary") if family.is_some() => Some(Value::Count),
        // A quantile of a summary has no sum.
        Some("histogram" | "summary" | "gaugehistogram" | "info" | "stateset") => None,
        Some(_) => Some(Value::Level),
        None if name.ends_with("_total") => Some(Value::Count),
        None => Some(Value::Level),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn families_are_summed_and_counts_are_told_apart() {
        let text = "# HELP http_requests_total All.\n# TYPE http_requests_total counter\n\
            http_requests_total{code=\"200\",who=\"a } b\"} 10\nhttp_requests_total{code=\"500\"} 2 1700000000\n\
            # TYPE queue gauge\nqueue 3\n# TYPE took histogram\ntook_bucket{le=\"1\"} 4\ntook_sum 1.5\ntook_count 4\n\
            # TYPE q summary\nq{quantile=\"0.5\"} 1\ngo_goroutines 7\nbad{x=\"1\" 3\nnan NaN\ninf +Inf\n9x 1\n# EOF\n";
        let all = values(text);
        assert_eq!(all["http_requests_total"], Value::Count(12.0));
        assert_eq!((all["queue"], all["took_sum"]), (Value::Level(3.0), Value::Count(1.5)));
        assert_eq!(
            all.keys().collect::<Vec<_>>(),
            ["http_requests_total", "queue", "took_count", "took_sum"]
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_grow_or_fail(text in "([a-z#{}\"\\\\= 0-9.\n]|TYPE|[^\n]){0,400}") {
            prop_assert!(values(&text).len() <= FAMILIES_MAX);
        }
    }

    #[test]
    fn a_page_of_a_million_families_is_cut() {
        let text: String = (0..10_000).map(|at| format!("family_{at} 1\n")).collect();
        assert_eq!(values(&text).len(), FAMILIES_MAX);
    }
}
