//! `proteus vm watch` and `proteus vm history`: what a VM uses now, and used.

use super::{Outcome, Session};
use crate::argument::{OutputForm, VmHistory};
use crate::client::segment;
use crate::output::{moment, table};
use crate::{plot, terminal};
use proteus_model::unit::{UnixMillis, three_digits as number};
use proteus_protocol::api::v1::{BucketView, HistoryView, UsageView};
use std::fmt::Write as _;
use std::time::Duration;

/// The host looks at a VM once a second; asked more often it says the same again.
const INTERVAL: Duration = Duration::from_millis(500);
/// Widest plot.
const PLOT_WIDTH: usize = 60;

fn usage_text(vm: &str, view: &UsageView) -> String {
    let Some(at) = view.at else {
        return format!("{vm} was not looked at yet; the host looks once a second at VMs that run\n");
    };
    let row = |(name, value): (&String, &proteus_protocol::api::v1::ValueView)| {
        let source = if value.of_guest { "guest" } else { "host" };
        vec![name.clone(), number(value.value), value.unit.clone(), source.to_owned()]
    };
    let rows: Vec<_> = view.values.iter().map(row).collect();
    let mut text = format!("{vm} at {} UTC\n", moment(at));
    text.push_str(&table(&["METRIC", "NOW", "UNIT", "SAID BY"], &rows));
    for (kind, seen) in &view.disk_latencies {
        let ending = if kind == "flush" { "es" } else { "s" };
        let [p50, p95, p99] = [seen.p50_us, seen.p95_us, seen.p99_us].map(number);
        let _ = writeln!(
            text,
            "{kind}{ending} of disks in the last minute: {}, of which half took {p50} µs at most, 95 % {p95} µs, 99 % {p99} µs",
            seen.operations
        );
    }
    if let Some(off) = view.disagreement.filter(|off| *off > 0.25) {
        let _ = writeln!(text, "\nthe guest's count of its CPU time is {:.0} % off the host's", off * 100.0);
    }
    for (of, off) in view.disagreements.iter().filter(|(_, off)| **off > 0.25) {
        let _ =
            writeln!(text, "what the guest says of its {of} is {:.0} % off the host's count", off * 100.0);
    }
    for (fault, times) in &view.faults {
        let _ = writeln!(text, "samples left out: {fault}, {times} times");
    }
    text
}

fn history_text(vm: &str, view: &HistoryView) -> String {
    let (Some(first), Some(last)) = (view.buckets.first(), view.buckets.last()) else {
        return format!(
            "nothing is known of {vm} in steps of {} s yet: a step is kept once it is over\n",
            view.step_s
        );
    };
    let end = UnixMillis(last.begins_at.0 + view.step_s * 1000);
    let mut text = format!(
        "{vm}, {} to {} UTC, {} steps of {} s\n",
        moment(first.begins_at),
        moment(end),
        view.buckets.len(),
        view.step_s
    );
    let row = |(name, unit): (&String, &String)| {
        let known: Vec<_> = view.buckets.iter().filter_map(|bucket| bucket.values.get(name)).collect();
        let last = known.last()?;
        let least = known.iter().map(|summary| summary.min).fold(f32::INFINITY, f32::min);
        let most = known.iter().map(|summary| summary.max).fold(0.0f32, f32::max);
        let mean = known.iter().map(|summary| summary.mean).sum::<f32>() / known.len() as f32;
        let line = plot::line(&timeline(view, name), PLOT_WIDTH);
        Some(vec![
            name.clone(),
            number(least),
            number(mean),
            number(most),
            number(last.p50),
            unit.clone(),
            line,
        ])
    };
    let rows: Vec<_> = view.units.iter().filter_map(row).collect();
    text.push_str(&table(&["METRIC", "LEAST", "MEAN", "MOST", "LAST", "UNIT", "OVER TIME"], &rows));
    if view.damaged > 0 {
        let _ = writeln!(text, "\n{} parts of its history are damaged and left out", view.damaged);
    }
    text
}

/// The largest value of each step, with gaps where nothing is known.
fn timeline(view: &HistoryView, name: &str) -> Vec<Option<f32>> {
    let mut values: Vec<Option<f32>> = Vec::new();
    let mut before: Option<&BucketView> = None;
    for bucket in &view.buckets {
        if let Some(before) = before {
            let steps = (bucket.begins_at.0 - before.begins_at.0) / (view.step_s * 1000);
            // A gap is as wide as a plot at most.
            values.extend((1..steps.min(PLOT_WIDTH as u64)).map(|_| None));
        }
        values.push(bucket.values.get(name).map(|summary| summary.max));
        before = Some(bucket);
    }
    values
}

impl Session {
    /// Until it is interrupted, or so many times.
    pub(super) async fn watch(&self, vm: &str, count: Option<u32>) -> Outcome {
        let path = format!("/vms/{}/usage", segment(vm));
        let mut left = count;
        let mut shown: Option<UnixMillis> = None;
        while left != Some(0) {
            let view: UsageView = self.client.get(&path).await?;
            if view.at.is_none() || view.at != shown {
                shown = view.at;
                left = left.map(|left| left - 1);
                match self.form {
                    // A line for each look, for programs.
                    OutputForm::Json => {
                        let line = serde_json::to_string(&view).unwrap_or_default();
                        terminal::say(format_args!("{line}"));
                    }
                    OutputForm::Text => terminal::write(&(usage_text(vm, &view) + "\n")),
                }
            }
            if left != Some(0) {
                tokio::time::sleep(INTERVAL).await;
            }
        }
        Ok(0)
    }

    pub(super) async fn usage_history(&self, history: &VmHistory) -> Outcome {
        let VmHistory { vm, step, metrics } = history;
        let metrics = segment(&metrics.join(","));
        let path = format!("/vms/{}/history?step_s={}&metrics={metrics}", segment(vm), step.seconds());
        let view: HistoryView = self.client.get(&path).await?;
        self.print(&view, || history_text(vm, &view));
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::{from_value, json};

    #[test]
    fn a_history_is_shown_with_its_gaps_and_what_is_missing_is_not_shown() {
        let bucket = |step: u64, cpu: f32| {
            json!({"begins_at": 1_790_000_400_000u64 + step * 60_000, "readings": 60,
                "values": {"cpu": {"min": cpu / 2.0, "p50": cpu, "p95": cpu, "max": cpu, "mean": cpu}}})
        };
        let view: HistoryView = from_value(json!({
            "step_s": 60, "damaged": 1, "units": {"cpu": "m", "pressure_cpu": "‰"},
            "buckets": [bucket(0, 10.0), bucket(1, 250.0), bucket(4, 1000.0)],
        }))
        .unwrap();
        expect![[r#"
            web, 2026-09-21 14:20:00 to 2026-09-21 14:25:00 UTC, 3 steps of 60 s
            METRIC  LEAST  MEAN  MOST  LAST  UNIT  OVER TIME
            cpu     5.00   420   1000  1000  m     ▁▃  █

            1 parts of its history are damaged and left out
        "#]]
        .assert_eq(&history_text("web", &view));
        let empty = HistoryView { buckets: Vec::new(), ..view };
        assert!(history_text("web", &empty).starts_with("nothing is known of web in steps of 60 s yet"));
    }

    #[test]
    fn what_is_used_now_says_whose_word_it_is() {
        let view: UsageView = from_value(json!({
            "at": 1_790_000_400_000u64, "faults": {"reset": 2}, "disagreement": 0.5,
            "disagreements": {"disks": 0.3, "links": 0.1},
            "disk_latencies": {"read": {"operations": 40, "p50_us": 140.5, "p95_us": 900.0, "p99_us": 12_500.0}},
            "values": {"cpu": {"value": 512.4, "unit": "m", "of_guest": false},
                "guest_memory": {"value": 61.25, "unit": "MiB", "of_guest": true}},
        }))
        .unwrap();
        expect![[r#"
            web at 2026-09-21 14:20:00 UTC
            METRIC        NOW   UNIT  SAID BY
            cpu           512   m     host
            guest_memory  61.2  MiB   guest
            reads of disks in the last minute: 40, of which half took 140 µs at most, 95 % 900 µs, 99 % 12500 µs

            the guest's count of its CPU time is 50 % off the host's
            what the guest says of its disks is 30 % off the host's count
            samples left out: reset, 2 times
        "#]]
        .assert_eq(&usage_text("web", &view));
        let never = UsageView { at: None, ..view };
        assert!(usage_text("web", &never).contains("not looked at yet"));
    }
}
