//! A real Prometheus as the source of a history: what it was given is what Proteus then knows, nothing else, and what it
//! does not know is missing. Must never leave a Prometheus behind.

use crate::server::{Server, exchange, free_port, wait_for};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs::File;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest wait for it to answer: it takes a second or two, under load many more.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// What this test gives it: three days, a value each fifteen seconds.
const SPAN_S: u64 = 3 * 86_400;
const SCRAPE_S: usize = 15;
/// In the middle of it nobody scraped for an hour.
const GAP_S: (u64, u64) = (SPAN_S / 2, SPAN_S / 2 + 3600);
/// Seconds of CPU and bytes that rise in each second, of the machine that is meant and of another.
const BUSY: [f64; 2] = [0.25, 0.75];
const SENT: f64 = 2048.0;
/// Memory in use: 100 MiB, and one more each hour.
const TOTAL: u64 = 1 << 30;

struct Prometheus {
    child: Child,
    port: u16,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn used_mib(second: u64) -> u64 {
    100 + second / 3600
}

/// What was scraped, in the text form of OpenMetrics; `second` is counted from the first.
fn samples(begin: u64) -> String {
    let seconds = || (0..=SPAN_S).step_by(SCRAPE_S).filter(|second| !(GAP_S.0..GAP_S.1).contains(second));
    let mut text = String::from("# TYPE node_cpu_seconds counter\n");
    for (instance, busy) in ["a:9100", "b:9100"].into_iter().zip(BUSY) {
        for (mode, rate) in [("user", busy), ("idle", 1.0 - busy), ("iowait", 0.125)] {
            for second in seconds() {
                let labels = format!("instance=\"{instance}\",job=\"node\",cpu=\"0\",mode=\"{mode}\"");
                let value = rate * second as f64;
                let _ = writeln!(text, "node_cpu_seconds_total{{{labels}}} {value} {}", begin + second);
            }
        }
    }
    let own = "instance=\"a:9100\",job=\"node\"";
    for (name, kind) in [("MemTotal", 0), ("MemAvailable", 1)] {
        let _ = writeln!(text, "# TYPE node_memory_{name}_bytes gauge");
        for second in seconds() {
            let value = TOTAL - kind * (used_mib(second) << 20);
            let _ = writeln!(text, "node_memory_{name}_bytes{{{own}}} {value} {}", begin + second);
        }
    }
    text.push_str("# TYPE node_network_transmit_bytes counter\n");
    for (device, rate) in [("eth0", SENT), ("lo", 1e6), ("docker0", 1e6)] {
        for second in seconds() {
            let value = rate * second as f64;
            let labels = format!("{own},device=\"{device}\"");
            let _ =
                writeln!(text, "node_network_transmit_bytes_total{{{labels}}} {value} {}", begin + second);
        }
    }
    // Not measured is what it says of this, but for one hour.
    text.push_str("# TYPE holes gauge\n");
    for second in seconds() {
        let value = if second < SPAN_S - 3600 { "NaN".to_owned() } else { "7".to_owned() };
        let _ = writeln!(text, "holes{{{own}}} {value} {}", begin + second);
    }
    text.push_str("# EOF\n");
    text
}

fn run(command: &mut Command) {
    let name = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| {
        panic!("{name}: {error}; Debian's package prometheus has it, and ./test takes it out of that")
    });
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Prometheus {
    /// One that knows these samples, and scrapes nobody.
    fn start(dir: &Path, samples: &str) -> Self {
        let (text, data) = (dir.join("samples"), dir.join("prometheus"));
        std::fs::write(&text, samples).unwrap();
        std::fs::write(dir.join("prometheus.yml"), "scrape_configs: []\n").unwrap();
        let mut blocks = Command::new("promtool");
        run(blocks.args(["tsdb", "create-blocks-from", "openmetrics", "--quiet"]).arg(&text).arg(&data));
        let port = free_port();
        let log = File::create(dir.join("prometheus.log")).unwrap();
        let child = Command::new("prometheus")
            .current_dir(dir)
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=prometheus")
            .arg("--storage.tsdb.retention.time=90d")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut prometheus = Self { child, port };
        wait_for("Prometheus", READY_LIMIT, || {
            let said = || std::fs::read_to_string(dir.join("prometheus.log")).unwrap_or_default();
            assert!(prometheus.child.try_wait().unwrap().is_none(), "{}", said());
            let to = TcpStream::connect(("127.0.0.1", port)).ok()?;
            let asked = exchange(to, "GET", "/-/ready", None, b"");
            asked.is_ok_and(|(status, _)| status == 200).then_some(())
        });
        prometheus
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

fn buckets(server: &Server, step: &str) -> Vec<Value> {
    let history = server.ask(&["vm", "history", "web", "--step", step]);
    assert_eq!(history["damaged"], 0);
    history["buckets"].as_array().unwrap().clone()
}

/// What a metric was in a bucket: mean, or nothing.
fn mean(bucket: &Value, metric: &str) -> Option<f64> {
    bucket["values"][metric]["mean"].as_f64()
}

/// As near as a history keeps a value: to a thousandth.
fn is_near(value: f64, low: f64, high: f64) -> bool {
    (low * 0.999..=high * 1.001).contains(&value)
}

/// Every bucket has what was given, and nothing that was not.
fn check(server: &Server, begin: u64) {
    let mut counts = Vec::new();
    for (step, step_s) in [("10s", 10), ("1m", 60), ("10m", 600)] {
        let all = buckets(server, step);
        for bucket in &all {
            let at = bucket["begins_at"].as_u64().unwrap() / 1000;
            // In seconds of the samples.
            let from = at.saturating_sub(begin);
            if let Some(cpu) = mean(bucket, "cpu") {
                assert!(is_near(cpu, BUSY[0] * 1000.0, BUSY[0] * 1000.0), "{step} {bucket}");
            }
            if let Some(sent) = mean(bucket, "sent") {
                assert!(is_near(sent, SENT / 1024.0, SENT / 1024.0), "{step} {bucket}");
            }
            let memory = &bucket["values"]["guest_memory"];
            if let (Some(least), Some(most)) = (memory["min"].as_f64(), memory["max"].as_f64()) {
                // A level may be as old as a Prometheus looks back: five minutes.
                let (low, high) = (used_mib(from.saturating_sub(300)) as f64, used_mib(from + step_s) as f64);
                assert!(is_near(least, low, high) && is_near(most, low, high), "{step} {bucket}");
            }
            // The hole: beyond the reach of a look back, and before what came after it.
            let in_gap = from > GAP_S.0 + 360 && from + step_s < GAP_S.1;
            assert!(!in_gap, "made up: {step} {bucket}");
            if let Some(latency) = mean(bucket, "disk_latency") {
                assert!(from + step_s >= SPAN_S - 3600 && is_near(latency, 7.0, 7.0), "{step} {bucket}");
            }
            assert_eq!(mean(bucket, "pressure_io"), None, "nobody measured that");
        }
        counts.push(all.iter().filter(|bucket| mean(bucket, "cpu").is_some()).count());
    }
    // All of the last two hours and two days is there, and all three days less the hour by ten minutes.
    assert!((700..=720).contains(&counts[0]), "{counts:?}");
    assert!((2800..=2880).contains(&counts[1]), "{counts:?}");
    let long = ((SPAN_S - 3600) / 600) as usize;
    assert!((long - 3..=long + 2).contains(&counts[2]), "{counts:?}");
}

#[test]
#[ignore = "runs a real Prometheus: ./test runs it"]
fn what_a_prometheus_knows_of_a_vm_is_known_and_what_it_does_not_is_missing() {
    let server = Server::start();
    let dir = server.dir.path().to_owned();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let begin = (now - 60 - SPAN_S) / 3600 * 3600;
    let end = begin + SPAN_S;
    let prometheus = Prometheus::start(&dir, &samples(begin));
    let disk = dir.join("disk.raw");
    std::fs::write(&disk, b"x").unwrap();
    server.cli(&["vm", "create", "web", "--disk", &format!("root={}", disk.display())]).ok();
    let (url, until) = (prometheus.url(), end.to_string());
    let import = |more: &[&str]| {
        let words = ["telemetry", "import", "web", "--prometheus", &url, "--until", &until];
        server.cli(&words.into_iter().chain(more.iter().copied()).collect::<Vec<_>>())
    };
    let of_set =
        ["--source", "node-exporter", "--match", "instance=\"a:9100\"", "--query", "disk_latency=holes"];
    // Which of the two machines is meant is not guessed, also not where sums would hide it.
    let both = import(&of_set[..2]);
    assert!(
        both.code == 1 && both.stderr.contains("differ in instance (\"a:9100\", \"b:9100\")"),
        "{}",
        both.stderr
    );
    let none = import(&["--source", "node-exporter", "--match", "instance=\"c:9100\""]);
    assert!(none.code == 3 && none.stderr.contains("has nothing that matches"), "{}", none.stderr);
    let none = import(&["--query", "cpu=nothing_of_this_name"]);
    assert!(none.code == 3 && none.stderr.contains("cpu brings no value"), "{}", none.stderr);
    let wrong = import(&["--query", "cpu=rate(x[5m]"]);
    assert!(wrong.code == 1 && wrong.stderr.contains("bad_data: "), "{}", wrong.stderr);
    let elsewhere =
        server.cli(&["telemetry", "import", "web", "--prometheus", &format!("{url}/x"), "--query", "cpu=up"]);
    assert!(elsewhere.code == 1 && elsewhere.stderr.contains("404"), "{}", elsewhere.stderr);
    let tried = import(&[&of_set[..], &["--dry-run"]].concat()).ok();
    assert!(tried.stdout.starts_with("would take in for web"), "{}", tried.stdout);
    assert!(buckets(&server, "10m").is_empty(), "a dry run took something in");
    let taken = import(&of_set).ok();
    println!("{}{}", taken.stderr, taken.stdout);
    assert!(taken.stderr.contains("not there, and so not known: disk_read"), "{}", taken.stderr);
    check(&server, begin);
    // Once more changes nothing.
    let before = buckets(&server, "10m");
    import(&of_set).ok();
    assert_eq!(buckets(&server, "10m"), before);
}

/// Labels of Proteus's metrics beside the VM's; all others have none.
const OWN_LABELS: [(&str, &str, &[&str]); 11] = [
    ("proteus_vm_disk_operations_total", "kind", &["read", "write", "flush"]),
    ("proteus_vm_disk_bytes_total", "kind", &["read", "write"]),
    ("proteus_vm_network_bytes_total", "direction", &["receive", "transmit"]),
    ("proteus_vm_guest_stalled_seconds_total", "on", &["cpu", "memory", "io"]),
    ("proteus_vm_host_stalled_seconds_total", "on", &["cpu", "memory", "io"]),
    ("proteus_vm_label", "label", &["cache"]),
    ("proteus_vm_personality_changes_total", "kind", &["shift", "anomaly"]),
    ("proteus_vm_collector_shed", "collector", &["files", "logs"]),
    ("proteus_vm_log_errors_per_second", "log", &["nginx"]),
    ("proteus_vm_guest_disagreement_ratio", "of", &["cpu", "disks", "links", "steal"]),
    ("proteus_morphs", "state", &["committed", "parked"]),
];

/// What a Prometheus that scrapes Proteus has of these metrics: half an hour, a value each fifteen seconds.
fn scraped(names: &[&str], begin: u64) -> String {
    let mut text = String::new();
    for name in names {
        let (family, kind) =
            name.strip_suffix("_total").map_or((*name, "gauge"), |family| (family, "counter"));
        let _ = writeln!(text, "# TYPE {family} {kind}");
        let own = OWN_LABELS.iter().find(|(known, ..)| known == name);
        let sets = match own {
            Some((_, label, values)) => values.iter().map(|value| format!(",{label}=\"{value}\"")).collect(),
            None => vec![String::new()],
        };
        for (vm, set) in ["web", "db"].into_iter().flat_map(|vm| sets.iter().map(move |set| (vm, set))) {
            for second in (0..=1800).step_by(SCRAPE_S) {
                let value = if kind == "counter" { second } else { 1 };
                let labels = format!("vm=\"{vm}\",instance=\"a:7313\",job=\"proteus\"{set}");
                let _ = writeln!(text, "{name}{{{labels}}} {value} {}", begin + second);
            }
        }
    }
    text + "# EOF\n"
}

/// The questions of the dashboard and of the alerts, as Grafana and Prometheus put them.
fn shipped_questions() -> Vec<String> {
    let dashboard: Value =
        serde_json::from_str(include_str!("../../../../packaging/grafana/proteus.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let filled = |text: &str| text.replace("$__rate_interval", "5m").replace("$vm", ".*");
    let mut all: Vec<String> = targets.map(|target| filled(target["expr"].as_str().unwrap())).collect();
    assert!(all.len() >= 20);
    let rules = include_str!("../../../../packaging/prometheus/proteus.rules.yml");
    // Without what it is held against: whether it fires is not asked.
    let asked = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    all.extend(
        asked.map(|expr| expr.rsplit_once(['>', '=']).unwrap().0.trim_end_matches(['=', ' ']).to_owned()),
    );
    all
}

#[test]
#[ignore = "runs a real Prometheus: ./test runs it"]
fn every_question_of_the_dashboard_and_the_alerts_finds_something() {
    let dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let (begin, questions) = (now - 2400, shipped_questions());
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let mut names: Vec<&str> = questions.iter().flat_map(|text| text.split(word)).collect();
    names.retain(|name| name.starts_with("proteus_"));
    names.sort_unstable();
    names.dedup();
    let prometheus = Prometheus::start(dir.path(), &scraped(&names, begin));
    for question in &questions {
        let coded: String = question.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = format!("/api/v1/query?time={}&query={coded}", begin + 1800);
        let to = TcpStream::connect(("127.0.0.1", prometheus.port)).unwrap();
        let (status, body) = exchange(to, "GET", &path, None, b"").unwrap();
        let said: Value = serde_json::from_str(&body).unwrap();
        let found = said["data"]["result"].as_array().map_or(0, Vec::len);
        assert!(status == 200 && found > 0, "{question}: {said}");
    }
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/prometheus/proteus.rules.yml");
    run(Command::new("promtool").args(["check", "rules", rules]));
}
