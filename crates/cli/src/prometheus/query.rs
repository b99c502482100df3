//! Which questions bring a VM's metrics, and over which stretches of time. Must never add up what is of several
//! machines: each question keeps the labels by which they would be told apart.

use super::answer::Span;
use proteus_model::telemetry::{Metric, Tier};
use proteus_model::unit::Millis;
use std::str::FromStr;

/// Most moments of one request: a Prometheus refuses more than 11 000.
const POINTS_MAX: u64 = 10_000;
/// How many moments are asked for to see whether a question is of one series.
const PROBED: u64 = 60;
/// Longest matcher and expression, bytes.
const MATCHER_BYTES_MAX: usize = 1024;
const QUERY_BYTES_MAX: usize = 4096;
/// Hardware of a guest, and not what is laid over it: that would count twice.
const DISKS: &str = r#"device!~"(dm-|md|loop|ram|zram|nbd|sr|fd).*""#;
const LINKS: &str = r#"device!~"lo|(veth|docker|br-|virbr|vnet|tap|tun|wg|bond|team|dummy|cni|cali|flannel|kube|lxc|podman|ovs).*""#;

/// A condition on a label: `instance="10.0.0.5:9100"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    label: String,
    written: String,
}

impl FromStr for Matcher {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || "expected LABEL=\"VALUE\", or with !=, =~ or !~".to_owned();
        let text = text.trim();
        let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).ok_or_else(bad)?;
        let (label, rest) = text.split_at(end);
        let whole = !label.is_empty() && !label.starts_with(|c: char| c.is_ascii_digit());
        if !whole || label == "__name__" || text.len() > MATCHER_BYTES_MAX {
            return Err(bad());
        }
        let rest = rest.trim_start();
        let operator = ["=~", "!~", "!=", "="].into_iter().find(|operator| rest.starts_with(operator));
        let operator = operator.ok_or_else(bad)?;
        let value = rest[operator.len()..].trim();
        // A shell takes quotes away that were not quoted themselves.
        let written = match value.strip_prefix('"') {
            Some(value) => value.strip_suffix('"').ok_or_else(bad)?.to_owned(),
            None => value.replace('\\', "\\\\"),
        };
        let mut escaped = false;
        for c in written.chars() {
            match (escaped, c) {
                (false, '"') => return Err(format!("{}: one condition each", bad())),
                (_, c) if c.is_control() => return Err(bad()),
                (false, '\\') => escaped = true,
                _ => escaped = false,
            }
        }
        if escaped {
            return Err(bad());
        }
        Ok(Self { label: label.to_owned(), written: format!("{label}{operator}\"{written}\"") })
    }
}

/// A question of one's own: `METRIC=PROMQL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnQuery {
    /// What it brings.
    pub metric: Metric,
    /// Its words.
    pub expression: String,
}

impl FromStr for OwnQuery {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, expression) = text
            .split_once('=')
            .ok_or("expected METRIC=PROMQL, as in memory=node_memory_Active_bytes/1048576")?;
        let known = || format!("expected one of {}, then =", Metric::ALL.map(Metric::name).join(", "));
        let metric = Metric::named(name.trim()).ok_or_else(known)?;
        let expression = expression.trim().to_owned();
        if expression.is_empty() || expression.len() > QUERY_BYTES_MAX {
            return Err(format!("expected an expression of 1 to {QUERY_BYTES_MAX} bytes"));
        }
        Ok(Self { metric, expression })
    }
}

/// What gathers the metrics that the questions are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Source {
    /// Prometheus's node exporter inside the guest: CPU, memory, disks, links, pressure, as the guest counts them.
    NodeExporter,
    /// The /metrics of a Proteus, of this VM by its name unless a matcher on `vm` is given.
    Proteus,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// What it brings.
    pub metric: Metric,
    /// In PromQL.
    pub expression: String,
    /// Whether it was typed, and so must bring something.
    pub own: bool,
    /// Over how many seconds a rate is told, where that is known.
    pub rate_s: Option<u64>,
}

/// The questions of a set whose labels match, rates being over `window`; those of one's own stand in their places.
pub fn questions(
    source: Option<Source>,
    vm: &str,
    matchers: &[Matcher],
    window: Millis,
    own: &[OwnQuery],
) -> Vec<Query> {
    let mut conditions: Vec<String> = matchers.iter().map(|matcher| matcher.written.clone()).collect();
    if source == Some(Source::Proteus) && matchers.iter().all(|matcher| matcher.label != "vm") {
        conditions.push(format!("vm=\"{}\"", vm.replace('\\', "\\\\").replace('"', "\\\"")));
    }
    let asking = Asking { conditions: conditions.join(","), window };
    let set = match source {
        Some(Source::NodeExporter) => asking.node_exporter(),
        Some(Source::Proteus) => asking.proteus(),
        None => Vec::new(),
    };
    let mut all: Vec<Query> = set
        .into_iter()
        .filter(|(metric, _)| own.iter().all(|own| own.metric != *metric))
        .map(|(metric, expression)| {
            // Levels are of a moment, and a latency is of what was done, however long that went on.
            let level = matches!(
                metric,
                Metric::Memory | Metric::GuestMemory | Metric::DiskLatency | Metric::DirtyRate
            );
            let rate_s = (!level).then_some(window.0.div_ceil(1000));
            Query { metric, expression, own: false, rate_s }
        })
        .collect();
    all.extend(own.iter().map(|OwnQuery { metric, expression }| Query {
        metric: *metric,
        expression: expression.clone(),
        own: true,
        rate_s: None,
    }));
    all.sort_by_key(|query| query.metric);
    all
}

struct Asking {
    conditions: String,
    window: Millis,
}

impl Asking {
    fn select(&self, name: &str, condition: &str) -> String {
        let all = [condition, &self.conditions].into_iter().filter(|part| !part.is_empty());
        format!("{name}{{{}}}", all.collect::<Vec<_>>().join(","))
    }

    /// What is left of a machine when its devices are added up.
    fn sum(by: &str, what: &str) -> String {
        format!("sum by ({by}) ({what})")
    }

    fn rate(&self, by: &str, name: &str, condition: &str) -> String {
        Self::sum(by, &format!("rate({}[{}ms])", self.select(name, condition), self.window.0))
    }

    fn node_exporter(&self) -> Vec<(Metric, String)> {
        let by = "instance, job";
        let rate = |name: &str, condition: &str| self.rate(by, name, condition);
        let level = |name: &str| Self::sum(by, &self.select(name, ""));
        let took = format!(
            "({} + {})",
            rate("node_disk_read_time_seconds_total", DISKS),
            rate("node_disk_write_time_seconds_total", DISKS)
        );
        let done = format!(
            "({} + {})",
            rate("node_disk_reads_completed_total", DISKS),
            rate("node_disk_writes_completed_total", DISKS)
        );
        vec![
            // Waiting and stolen time is not used.
            (
                Metric::Cpu,
                format!("1000 * {}", rate("node_cpu_seconds_total", r#"mode!~"idle|iowait|steal""#)),
            ),
            (Metric::DiskRead, format!("{} / 1024", rate("node_disk_read_bytes_total", DISKS))),
            (Metric::DiskWritten, format!("{} / 1024", rate("node_disk_written_bytes_total", DISKS))),
            (Metric::Received, format!("{} / 1024", rate("node_network_receive_bytes_total", LINKS))),
            (Metric::Sent, format!("{} / 1024", rate("node_network_transmit_bytes_total", LINKS))),
            (Metric::Reads, rate("node_disk_reads_completed_total", DISKS)),
            (Metric::Writes, rate("node_disk_writes_completed_total", DISKS)),
            (Metric::Flushes, rate("node_disk_flush_requests_total", DISKS)),
            // Nothing by nothing, where no operation was done, is NaN: not measured.
            (Metric::DiskLatency, format!("1e6 * {took} / {done}")),
            (Metric::PacketsReceived, rate("node_network_receive_packets_total", LINKS)),
            (Metric::PacketsSent, rate("node_network_transmit_packets_total", LINKS)),
            (
                Metric::GuestMemory,
                format!(
                    "({} - {}) / 1048576",
                    level("node_memory_MemTotal_bytes"),
                    level("node_memory_MemAvailable_bytes")
                ),
            ),
            (Metric::PressureCpu, format!("1000 * {}", rate("node_pressure_cpu_waiting_seconds_total", ""))),
            (
                Metric::PressureMemory,
                format!("1000 * {}", rate("node_pressure_memory_waiting_seconds_total", "")),
            ),
            (Metric::PressureIo, format!("1000 * {}", rate("node_pressure_io_waiting_seconds_total", ""))),
            (Metric::Switches, rate("node_context_switches_total", "")),
            (Metric::Forks, rate("node_forks_total", "")),
        ]
    }

    fn proteus(&self) -> Vec<(Metric, String)> {
        let by = "instance, job, vm";
        let rate = |name: &str, condition: &str| self.rate(by, &format!("proteus_vm_{name}"), condition);
        let share = |name: &str, condition: &str| format!("1000 * {}", rate(name, condition));
        let kib = |name: &str, condition: &str| format!("{} / 1024", rate(name, condition));
        let done = rate("disk_operations_total", r#"kind=~"read|write|flush""#);
        vec![
            (Metric::Cpu, share("cpu_seconds_total", "")),
            (
                Metric::Memory,
                format!("{} / 1048576", Self::sum(by, &self.select("proteus_vm_resident_bytes", ""))),
            ),
            (Metric::DiskRead, kib("disk_bytes_total", r#"kind="read""#)),
            (Metric::DiskWritten, kib("disk_bytes_total", r#"kind="write""#)),
            (Metric::Received, kib("network_bytes_total", r#"direction="receive""#)),
            (Metric::Sent, kib("network_bytes_total", r#"direction="transmit""#)),
            (Metric::Reads, rate("disk_operations_total", r#"kind="read""#)),
            (Metric::Writes, rate("disk_operations_total", r#"kind="write""#)),
            (Metric::Flushes, rate("disk_operations_total", r#"kind="flush""#)),
            (Metric::DiskLatency, format!("1e6 * {} / {done}", rate("disk_seconds_total", ""))),
            (Metric::PacketsReceived, rate("network_packets_total", r#"direction="receive""#)),
            (Metric::PacketsSent, rate("network_packets_total", r#"direction="transmit""#)),
            (Metric::RunDelay, share("run_delay_seconds_total", "")),
            (Metric::Throttled, share("throttled_seconds_total", "")),
            (
                Metric::Overhead,
                format!(
                    "clamp_min(1000 * ({} - {}), 0)",
                    rate("process_cpu_seconds_total", ""),
                    rate("cpu_seconds_total", "")
                ),
            ),
            (Metric::PressureCpu, share("guest_stalled_seconds_total", r#"on="cpu""#)),
            (Metric::PressureMemory, share("guest_stalled_seconds_total", r#"on="memory""#)),
            (Metric::PressureIo, share("guest_stalled_seconds_total", r#"on="io""#)),
            (Metric::Instructions, format!("{} / 1e6", rate("instructions_total", ""))),
            (Metric::Cycles, format!("{} / 1e6", rate("cycles_total", ""))),
            (Metric::CacheMisses, rate("cache_misses_total", "")),
            (
                Metric::DirtyRate,
                format!("{} / 1024", Self::sum(by, &self.select("proteus_vm_dirty_bytes_per_second", ""))),
            ),
        ]
    }
}

/// The stretches that are asked for, oldest first, so fine as a history keeps them: its shortest step as far back as
/// that reaches, and its middle one before, so that also of the longest there are ten values each.
pub fn spans(since_s: u64, until_s: u64) -> Vec<Span> {
    let [fine, middle, _] = Tier::ALL;
    let aligned = |second: u64, step: u64| second.div_ceil(step) * step;
    let seam = aligned(until_s.saturating_sub(fine.span_ms() / 1000), middle.step_s).max(since_s);
    let mut all = Vec::new();
    let coarse = seam.checked_sub(1).filter(|last| since_s <= *last);
    let coarse = coarse.map(|last| (since_s, last, middle.step_s));
    for (from, until_s, step_s) in coarse.into_iter().chain([(seam, until_s, fine.step_s)]) {
        let mut from_s = aligned(from, step_s);
        while from_s <= until_s {
            let last = until_s.min(from_s + (POINTS_MAX - 1) * step_s);
            all.push(Span { from_s, until_s: last, step_s });
            from_s += POINTS_MAX * step_s;
        }
    }
    all
}

/// A rate's values without those at the ends of a stretch in which there were samples: a Prometheus divides what little
/// it has there by the whole window, and so tells too little. At the end of the last span nothing ends. A stretch without
/// samples that is shorter than the window is not seen: there the rate goes on, and tells too little as well.
pub fn without_ends(points: &[(u64, f32)], window_s: u64, spans: &[Span]) -> Vec<(u64, f32)> {
    let step_s = |at: u64| {
        let span = spans.iter().find(|span| at <= span.until_s);
        span.map_or(Tier::ALL[1].step_s, |span| span.step_s)
    };
    let until_s = spans.last().map_or(0, |span| span.until_s);
    let mut whole = Vec::new();
    for run in points.chunk_by(|a, b| b.0 - a.0 <= step_s(a.0).max(step_s(b.0))) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let goes_on = last.0 + step_s(last.0) >= until_s;
        let is_whole = |at: u64| at >= first.0 + window_s && (goes_on || at + window_s <= last.0);
        whole.extend(run.iter().filter(|(at, _)| is_whole(*at)));
    }
    whole
}

/// A coarse look over all of that, by which it is seen whether a question is of one series before much is read.
pub fn probe(since_s: u64, until_s: u64) -> Span {
    Span {
        from_s: since_s,
        until_s,
        step_s: (until_s.saturating_sub(since_s) / PROBED).max(Tier::ALL[1].step_s),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matcher_cannot_be_more_than_one_condition() {
        let written = |text: &str| text.parse::<Matcher>().map(|matcher| matcher.written);
        for (text, expected) in [
            (r#"instance="10.0.0.5:9100""#, r#"instance="10.0.0.5:9100""#),
            ("instance=10.0.0.5:9100", r#"instance="10.0.0.5:9100""#),
            (r#" job =~ "node|vm" "#, r#"job=~"node|vm""#),
            (r#"a!="x\"y""#, r#"a!="x\"y""#),
            (r"a=\", r#"a="\\""#),
            (r#"a="""#, r#"a="""#),
        ] {
            assert_eq!(written(text).as_deref(), Ok(expected), "{text}");
        }
        for bad in [
            "",
            "instance",
            "=\"a\"",
            "1a=\"b\"",
            r#"a="b",c="d""#,
            r#"a="b"} or vector(1)"#,
            r#"a=b"} or x{c="d"#,
            r#"a="b\"#,
            "a=\"b\nc\"",
            "__name__=\"up\"",
            "a>\"b\"",
        ] {
            assert!(written(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn questions_keep_apart_what_is_of_several_machines_and_ones_own_come_first() {
        let matchers = ["instance=\"a:9100\"".parse().unwrap()];
        let own = ["memory=x{y=\"z\"} / 1048576".parse().unwrap(), "cpu=1".parse().unwrap()];
        let window = Millis(120_000);
        let all = questions(Some(Source::NodeExporter), "web", &matchers, window, &own);
        let first = Query { metric: Metric::Cpu, expression: "1".into(), own: true, rate_s: None };
        assert_eq!(all[0], first);
        let rates = |metric| all.iter().find(|query| query.metric == metric).unwrap().rate_s;
        assert_eq!((rates(Metric::Sent), rates(Metric::GuestMemory)), (Some(120), None));
        assert_eq!(all[1].expression, "x{y=\"z\"} / 1048576");
        assert_eq!(
            all.iter().find(|query| query.metric == Metric::PressureIo).unwrap().expression,
            "1000 * sum by (instance, job) (rate(node_pressure_io_waiting_seconds_total{instance=\"a:9100\"}[120000ms]))"
        );
        for source in [Source::NodeExporter, Source::Proteus] {
            let all = questions(Some(source), "web", &matchers, window, &[]);
            assert!(all.is_sorted_by(|a, b| a.metric < b.metric), "each metric once, in order");
            for Query { expression, .. } in &all {
                assert_eq!(
                    expression.matches("instance=\"a:9100\"").count(),
                    expression.matches('{').count()
                );
                assert_eq!(
                    expression.matches("sum by (instance, job").count(),
                    expression.matches('{').count()
                );
                let by_name = expression.matches("vm=\"web\"").count();
                assert_eq!(by_name > 0, source == Source::Proteus, "{expression}");
            }
        }
        let of_vm = ["vm=\"old\"".parse().unwrap()];
        let all = questions(Some(Source::Proteus), "web", &of_vm, window, &[]);
        assert!(all.iter().all(|query| !query.expression.contains("web")));
        assert!("watts=up".parse::<OwnQuery>().unwrap_err().contains("guest_memory"));
        assert!("cpu= ".parse::<OwnQuery>().is_err() && "cpu".parse::<OwnQuery>().is_err());
    }

    #[test]
    fn at_a_gap_a_rate_is_not_known() {
        let points = |seconds: &[u64]| seconds.iter().map(|at| (*at, 1.0)).collect::<Vec<_>>();
        let run: Vec<u64> = (0..=10).map(|minute| minute * 60).collect();
        let minutes = |until_s: u64| vec![Span { from_s: 0, until_s, step_s: 60 }];
        let kept = |until_s| {
            without_ends(&points(&run), 120, &minutes(until_s)).iter().map(|(at, _)| *at).collect::<Vec<_>>()
        };
        assert_eq!(kept(10_000), (2..=8).map(|minute| minute * 60).collect::<Vec<_>>());
        assert_eq!(kept(630), (2..=10).map(|minute| minute * 60).collect::<Vec<_>>());
        // Two stretches, each too short.
        assert_eq!(without_ends(&points(&[0, 60, 180, 240]), 120, &minutes(10_000)), []);
        assert_eq!(without_ends(&[], 120, &[]), []);
        // Where points are ten seconds apart, forty without one are a gap.
        let fine = [Span { from_s: 0, until_s: 600, step_s: 10 }];
        let seconds: Vec<u64> = (0..=600).step_by(10).filter(|at| !(310..=340).contains(at)).collect();
        let kept: Vec<u64> = without_ends(&points(&seconds), 120, &fine).iter().map(|(at, _)| *at).collect();
        let expected: Vec<u64> = (120..=180).chain(470..=600).filter(|at| at % 10 == 0).collect();
        assert_eq!(kept, expected);
    }

    #[test]
    fn stretches_are_whole_in_order_and_below_what_a_server_refuses() {
        for (since, until) in [
            (0, 0),
            (1_700_000_000, 1_700_000_001),
            (1_700_000_000, 1_700_003_599),
            (1_700_000_003, 1_700_400_017),
            (1_700_000_000, 1_705_184_000),
        ] {
            let all = spans(since, until);
            let mut seconds = Vec::new();
            for span in &all {
                assert!((1..=POINTS_MAX).contains(&span.points()), "{span:?}");
                assert_eq!(span.from_s % span.step_s, 0);
                seconds.extend((0..span.points()).map(|point| span.from_s + point * span.step_s));
            }
            assert!(seconds.is_sorted_by(|a, b| a < b), "{since} {until}");
            assert!(seconds.iter().all(|second| (since..=until).contains(second)));
            assert!(seconds.windows(2).all(|pair| pair[1] - pair[0] <= 60), "a gap");
            assert!(seconds.last().is_none_or(|last| until - last < 10), "{since} {until}");
            assert!((1..=PROBED + 1).contains(&probe(since, until).points()));
        }
        // 60 days less two hours by minutes, then by ten seconds: ten requests of each metric.
        assert_eq!(spans(1_700_000_000, 1_705_184_000).len(), 10);
        assert_eq!(spans(5, 3), []);
    }
}
