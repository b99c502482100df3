//! `proteus telemetry import VM --prometheus URL`: what a Prometheus knows of a VM, read here and given to Proteus as a
//! CSV is. Must never give part of it: all is read before anything is sent.

use super::Session;
use crate::argument::{FromPrometheus, When};
use crate::client::segment;
use crate::error::{CommandError, usage};
use crate::file::{name_of, read_bounded};
use crate::output::moment;
use crate::output::now;
use crate::prometheus::answer::{AnswerError, Labels, Span, differing};
use crate::prometheus::query::{Query, probe, questions, spans, without_ends};
use crate::prometheus::server::Prometheus;
use proteus_model::telemetry::{Metric, Reading, Tier};
use proteus_model::unit::{Bytes, Millis, UnixMillis};
use proteus_protocol::api::v1::{IMPORT_BYTES_MAX, VmView};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

/// Largest token.
const TOKEN_BYTES_MAX: u64 = 16 << 10;
/// Longest span of a rate: a day.
const WINDOW_MAX: Millis = Millis(86_400_000);
/// Longest wait for one answer: an hour.
const TIMEOUT_MAX: Millis = Millis(3_600_000);

/// What was read so far: readings by their second.
#[derive(Default)]
struct Known {
    readings: BTreeMap<u64, Reading>,
    /// Whose the questions of a set are.
    of: Option<Labels>,
    warnings: BTreeSet<String>,
    absurd: u64,
}

/// The stretch of time that is meant, in seconds.
fn stretch(from: &FromPrometheus, now_s: u64) -> Result<(u64, u64), CommandError> {
    let second = |when: When| when.at(UnixMillis(now_s * 1000)).0 / 1000;
    let until = from.until.map_or(now_s, second).min(now_s);
    let since = second(from.since);
    if since >= until {
        let what = format!("expected --since before --until, found {} and {}", shown(since), shown(until));
        return Err(usage(what, "as in `--since 30d` or `--since 2026-11-01T00:00:00Z --until 2d`"));
    }
    // What is older has no place in a history.
    let longest = Tier::ALL[2].span_ms() / 1000;
    Ok((since.max(until.saturating_sub(longest)), until))
}

fn shown(second: u64) -> String {
    moment(UnixMillis(second.saturating_mul(1000)))
}

fn token_of(path: &Path) -> Result<String, CommandError> {
    let bytes = read_bounded(path, TOKEN_BYTES_MAX)?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    match text.trim() {
        "" => Err(usage(
            format!("{}: expected a token, found none", name_of(path)),
            "is it the file that you mean?",
        )),
        token => Ok(token.to_owned()),
    }
}

/// The text that the import of Proteus reads.
fn csv(readings: &BTreeMap<u64, Reading>) -> Vec<u8> {
    let there = |metric: &Metric| readings.values().any(|reading| reading.get(*metric).is_some());
    let columns: Vec<Metric> = Metric::ALL.into_iter().filter(there).collect();
    let mut text = "time".to_owned();
    // Writing into a String cannot fail.
    for metric in &columns {
        let _ = write!(text, ",{metric}");
    }
    for (second, reading) in readings {
        let _ = write!(text, "\n{second}");
        for metric in &columns {
            text.push(',');
            if let Some(value) = reading.get(*metric) {
                let _ = write!(text, "{value}");
            }
        }
    }
    text.push('\n');
    text.into_bytes()
}

impl Known {
    /// The values of a question over a stretch of time.
    async fn ask(
        &mut self,
        prometheus: &Prometheus,
        query: &Query,
        span: Span,
        of: &mut Option<Labels>,
    ) -> Result<Vec<(u64, f32)>, CommandError> {
        let answer = prometheus.range(&query.expression, span).await?;
        self.warnings.extend(answer.warnings);
        let Some(series) = answer.series else { return Ok(Vec::new()) };
        let whose = if query.own { of } else { &mut self.of };
        match whose {
            Some(other) if *other != series.labels => {
                let differ = differing([&*other, &series.labels].into_iter());
                return Err(CommandError::Failed {
                    what: format!("what Prometheus at {} has is not of one machine", prometheus.name()),
                    because: vec![AnswerError::Many { count: 2, differ }.to_string()],
                    hint: "name it with `--match 'LABEL=\"VALUE\"'`, or the time that it was so with `--since` and \
                           `--until`"
                        .to_owned(),
                });
            }
            _ => *whose = Some(series.labels),
        }
        self.absurd += series.absurd;
        Ok(series.points)
    }
}

impl Session {
    fn progress(&self, line: std::fmt::Arguments<'_>) {
        self.aside(&format!("{line}\n"));
    }

    fn prometheus(&self, url: &str, from: &FromPrometheus) -> Result<Prometheus, CommandError> {
        for (word, given, most) in
            [("--window", from.window, WINDOW_MAX), ("--timeout", from.timeout, TIMEOUT_MAX)]
        {
            if given.0 == 0 || given.0 > most.0 {
                let what = format!("expected {word} of 1 ms to {most}, found {given}");
                return Err(usage(what, "as in 2m or 90s"));
            }
        }
        let token = from.prometheus_token_file.as_deref().map(token_of).transpose()?;
        Prometheus::new(url, token.as_deref(), from.timeout, || {
            let ca = from.prometheus_ca.clone().ok_or_else(|| {
                usage(
                    "https takes --prometheus-ca FILE: the authority that signed the server's certificate"
                        .into(),
                    "those that a Debian trusts are in /etc/ssl/certs/ca-certificates.crt",
                )
            })?;
            Ok((self.tls)(Some(ca)))
        })
    }

    /// What a Prometheus knows of a VM, as CSV.
    pub(super) async fn read_prometheus(
        &self,
        vm: &str,
        url: &str,
        from: &FromPrometheus,
    ) -> Result<Vec<u8>, CommandError> {
        let prometheus = self.prometheus(url, from)?;
        // Before much is read; and an exporter knows it by its name, whatever it is called here.
        let known: VmView = self.client.get(&format!("/vms/{}", segment(vm))).await?;
        let now_s = now().0 / 1000;
        let (since, until) = stretch(from, now_s)?;
        let asked = questions(from.source, known.name.as_str(), &from.matchers, from.window, &from.queries);
        if asked.is_empty() {
            let hint = "`--source node-exporter` or `--source proteus` know questions; your own is \
                        `--query METRIC=PROMQL`";
            return Err(usage("expected --source, --query or both, found neither".into(), hint));
        }
        let known = self.read(&prometheus, &asked, (since, until)).await?;
        let text = csv(&known.readings);
        if text.len() > IMPORT_BYTES_MAX {
            let (size, most) = (Bytes(text.len() as u64), Bytes(IMPORT_BYTES_MAX as u64));
            return Err(usage(
                format!("what was read is {size}, expected at most {most}"),
                "ask for less at once with `--since` and `--until`",
            ));
        }
        Ok(text)
    }

    async fn read(
        &self,
        prometheus: &Prometheus,
        asked: &[Query],
        (since, until): (u64, u64),
    ) -> Result<Known, CommandError> {
        let (name, parts) = (prometheus.name(), spans(since, until));
        let (from, to) = (shown(since), shown(until));
        self.progress(format_args!("reading {} metrics of {from} to {to} (UTC) from {name}", asked.len()));
        // First of all of them whether they are of one machine: that is known soon.
        let mut known = Known::default();
        for query in asked {
            known.ask(prometheus, query, probe(since, until), &mut None).await?;
        }
        known.absurd = 0;
        let mut missing = Vec::new();
        for query in asked {
            let (mut of, mut points) = (None, Vec::new());
            for span in &parts {
                points.extend(known.ask(prometheus, query, *span, &mut of).await?);
            }
            if let Some(window_s) = query.rate_s {
                points = without_ends(&points, window_s, &parts);
            }
            for (second, value) in &points {
                known.readings.entry(*second).or_default().set(query.metric, Some(*value));
            }
            match points.len() {
                0 if query.own => return Err(nothing(prometheus, query)),
                0 => missing.push(query.metric.name()),
                count => self.progress(format_args!("  {:<17} {count:>6} values", query.metric.name())),
            }
        }
        if known.readings.is_empty() {
            let what = format!("Prometheus at {name} has nothing that matches, of {from} to {to}");
            let hint = "see what `--match` must say on its page, as by `node_uname_info`; where it scrapes more rarely \
                        than each minute, `--window` must be twice as long as that";
            return Err(CommandError::Missing { what, hint: hint.to_owned() });
        }
        if !missing.is_empty() {
            self.progress(format_args!("not there, and so not known: {}", missing.join(", ")));
        }
        if known.absurd > 0 {
            self.progress(format_args!("left out: {} values below zero or beyond 10^12", known.absurd));
        }
        known.warnings.iter().for_each(|warning| self.progress(format_args!("Prometheus warns: {warning}")));
        Ok(known)
    }
}

fn nothing(prometheus: &Prometheus, query: &Query) -> CommandError {
    CommandError::Missing {
        what: format!("{} brings no value at {}", query.metric, prometheus.name()),
        hint: format!("try it on the page of the server: {}", query.expression),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_an_empty_field() {
        let mut readings = BTreeMap::<u64, Reading>::new();
        readings.entry(120).or_default().set(Metric::Sent, Some(0.0));
        readings.entry(60).or_default().set(Metric::Cpu, Some(12.5));
        assert_eq!(csv(&readings), b"time,cpu,sent\n60,12.5,\n120,,0\n");
    }
}
