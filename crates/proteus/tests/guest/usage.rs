//! What a real VM uses, as the host sees it: there without an agent's word, there after Proteus was killed, and with
//! gaps where nobody looked. Must never take Proteus's word for load that the test did not make itself.

use crate::program;
use crate::server::{Server, wait_for};
use crate::{image_dir, inside, serves};
use serde_json::Value;
use std::time::Duration;

/// Longest wait for what the host looks at once a second, times what a loaded machine takes.
const LIMIT: Duration = Duration::from_secs(120);

fn now(server: &Server) -> Value {
    serde_json::from_str(
        server.cli(&["--output", "json", "vm", "watch", "web", "--count", "1"]).ok().stdout.trim(),
    )
    .unwrap()
}

fn value(usage: &Value, metric: &str) -> Option<f64> {
    usage["values"][metric]["value"].as_f64()
}

fn steps(server: &Server) -> Vec<Value> {
    let history = server.ask(&["vm", "history", "web", "--step", "10s"]);
    assert_eq!(history["damaged"], 0);
    history["buckets"].as_array().unwrap().clone()
}

/// The record says how fast the memory changes, and of what the processor counts either how much or why not.
fn it_is_in_the_record(server: &Server) {
    let performance = wait_for("a whole minute", LIMIT, || {
        let shown = server.ask(&["vm", "show", "web", "--personality"]);
        let part = &shown["record"]["PerformanceMetrics"];
        part["value"]["dirty_rate"].is_object().then(|| part.clone())
    });
    assert_eq!(performance["value"]["dirty_rate"]["unit"], "KiB/s", "{performance}");
    let missing = performance["missing"].as_array().unwrap();
    let missing: Vec<&str> = missing.iter().filter_map(Value::as_str).collect();
    let why = missing.iter().find(|line| line.contains("hardware counters are not supported here"));
    let counted = ["instructions", "cycles", "cache_misses"];
    for metric in counted {
        let is_there = performance["value"][metric]["p50"].as_f64().is_some_and(|rate| rate > 0.0);
        assert!(is_there || why.is_some_and(|why| why.contains(metric)), "{performance}");
    }
    println!("PerformanceMetrics: {performance}");
    let both = counted[..2].iter().all(|metric| performance["value"][metric].is_object());
    assert_eq!(performance["value"]["instructions_per_cycle"].is_object(), both, "{performance}");
}

/// Load that this test makes is seen for what it is: pages out of the guest, a busy CPU and memory that is written.
fn a_load_is_seen(server: &Server, address: &str) -> Value {
    // Its memory was looked at while it booted, or not yet: it rests when it is next.
    let resting = wait_for("a look at the memory of a guest at rest", LIMIT, || {
        value(&now(server), "dirty_rate").filter(|rate| *rate < 2_000.0)
    });
    // The same 16 MiB over and over, so that no more of its memory changes in a second than that.
    let write = "while :; do /bin/busybox dd if=/dev/urandom of=/written bs=1M count=16 conv=notrunc; done";
    let busy = format!("/bin/busybox timeout 150 /bin/busybox sh -c '{write}' >/dev/null 2>&1 </dev/null &");
    let busy = ["/bin/busybox", "sh", "-c", busy.as_str()];
    inside(server, "web", &busy);
    let loaded = wait_for("the load", LIMIT, || {
        assert!(serves(server, address));
        let usage = now(server);
        let sent = value(&usage, "sent").unwrap_or_default();
        (value(&usage, "cpu").unwrap_or_default() > 500.0 && sent > 0.2).then_some(usage)
    });
    let dirty = wait_for("a look at the memory that is written", LIMIT, || {
        value(&now(server), "dirty_rate").filter(|rate| *rate > 4_000.0)
    });
    println!("dirty rate: at rest {resting} KiB/s, writing {dirty} KiB/s");
    // 16 MiB are 64 pages of the sample, which may be 24 off (three standard deviations); and what it does besides.
    assert!(dirty > 2.0 * resting && dirty < 32_000.0, "{resting} {dirty}");
    loaded
}

/// How long reads and writes of a disk took, past the guest's caches: in the usage, in the record and as a histogram.
fn latencies_of_disks_are_told(server: &Server) {
    let find = "for d in /sys/block/vd*; do case $(/bin/busybox cat $d/serial) in data) echo /dev/${d##*/};; esac; done";
    let disk = inside(server, "web", &["/bin/busybox", "sh", "-c", find]);
    let disk = disk.trim();
    assert!(disk.starts_with("/dev/vd"), "{disk:?}");
    let busy = format!(
        "/bin/busybox timeout 60 /bin/busybox sh -c 'while :; do echo 3 >/proc/sys/vm/drop_caches; \
         /bin/busybox dd if={disk} of=/dev/null bs=65536 count=100; \
         /bin/busybox dd if=/dev/zero of={disk} bs=65536 count=10 conv=fsync,notrunc; /bin/busybox sleep 1; done' \
         >/dev/null 2>&1 </dev/null &"
    );
    inside(server, "web", &["/bin/busybox", "sh", "-c", &busy]);
    let seen = wait_for("latencies of the last minute", LIMIT, || {
        let seen = now(server)["disk_latencies"].clone();
        let enough = |kind: &str| seen[kind]["operations"].as_u64().is_some_and(|count| count >= 5);
        (enough("read") && enough("write")).then_some(seen)
    });
    for kind in ["read", "write"] {
        let [p50, p99] = ["p50_us", "p99_us"].map(|name| seen[kind][name].as_f64().unwrap());
        assert!(p50 > 0.0 && p50 <= p99 && p99 <= 1e7, "{seen}");
    }
    println!("latencies of disks: {seen}");
    let shown = server.ask(&["vm", "show", "web", "--personality"]);
    let read = &shown["record"]["PerformanceMetrics"]["value"]["read_latency_last_minute"];
    assert!(read["p99"].as_f64() >= read["p50"].as_f64() && read["unit"] == "µs", "{read}");
    let page = server.page("/metrics");
    let row = |le: &str| {
        let begin =
            format!("proteus_vm_disk_latency_seconds_bucket{{vm=\"web\",kind=\"read\",le=\"{le}\"}} ");
        let found = page.lines().find_map(|line| line.strip_prefix(&begin)?.parse::<u64>().ok());
        found.unwrap_or_else(|| panic!("{begin} is not in {page}"))
    };
    assert!(row("+Inf") > 0 && row("0.00005") <= row("10") && row("10") <= row("+Inf"));
}

/// As a file, to another VM, whole or not at all.
fn it_travels(server: &Server) {
    let dir = server.dir.path();
    let file = dir.join("web.history");
    let out = file.to_str().unwrap();
    server.cli(&["telemetry", "export", "web", "-o", out]).ok();
    assert_eq!(server.cli(&["telemetry", "export", "web", "-o", out]).code, 1, "it wrote over a file");
    let guest = image_dir().join("small");
    server.ask(&["vm", "create", "other", "--guest", guest.to_str().unwrap(), "--memory", "256MiB"]);
    let of_other = || server.ask(&["vm", "history", "other", "--step", "10s"])["buckets"].clone();
    server.cli(&["telemetry", "import", "other", out, "--dry-run"]).ok();
    assert_eq!(of_other(), serde_json::json!([]), "a dry run took something in");
    server.cli(&["telemetry", "import", "other", out]).ok();
    assert_eq!(of_other(), Value::Array(steps(server)));
    // CSV beside it; and what is refused leaves all as it was.
    let csv = dir.join("other.csv");
    std::fs::write(&csv, "time,cpu\n2026-01-02T03:04:05Z,250\n").unwrap();
    server.cli(&["telemetry", "import", "other", csv.to_str().unwrap()]).ok();
    let long = || server.ask(&["vm", "history", "other", "--step", "10m"])["buckets"].clone();
    let taken = long();
    assert!(
        taken.as_array().unwrap().iter().any(|step| step["begins_at"] == 1_767_322_800_000u64),
        "{taken}"
    );
    std::fs::write(&csv, "time,cpu\n2026-01-02T04:04:05Z,250\n2026-01-02T04:04:15Z,plenty\n").unwrap();
    let refused = server.cli(&["telemetry", "import", "other", csv.to_str().unwrap()]);
    assert!(refused.code != 0 && refused.stderr.contains("line 3, cpu"), "{}", refused.stderr);
    assert_eq!(long(), taken);
    server.cli(&["vm", "delete", "other"]).ok();
}

#[test]
#[ignore = "boots a guest: ./test runs it"]
fn what_a_vm_uses_is_measured_kept_over_a_kill_and_never_made_up() {
    let mut server = Server::start();
    let images = image_dir();
    let path = |name: &str| images.join(name).to_str().unwrap().to_owned();
    let (guest, nginx, redis) = (path("small"), path("nginx.erofs"), path("redis.erofs"));
    let disk = program::disk(server.dir.path());
    let words = ["vm", "create", "web", "--guest", &guest, "--memory", "256MiB"];
    let words = words.into_iter().chain(["--image", &nginx, "--image", &redis, "--disk", &disk]);
    server.ask(&words.collect::<Vec<_>>());
    assert!(server.cli(&["vm", "watch", "web", "--count", "1"]).ok().stdout.contains("not looked at yet"));
    server.cli(&["vm", "start", "web", "--wait"]).ok();
    let address = server.ask(&["vm", "show", "web"])["vm"]["address"].as_str().unwrap().to_owned();
    // Without load: levels and rates from the host's own books, and what the agent said.
    let idle = wait_for("a whole look", LIMIT, || {
        let usage = now(&server);
        let all = [
            "cpu",
            "memory",
            "sent",
            "packets_sent",
            "run_delay",
            "disk_read",
            "guest_memory",
            "pressure_cpu",
        ];
        all.iter().all(|metric| value(&usage, metric).is_some()).then_some(usage)
    });
    assert!(value(&idle, "memory").unwrap() > 30.0, "{idle}");
    assert!(value(&idle, "gpu").is_none());
    let loaded = a_load_is_seen(&server, &address);
    it_is_in_the_record(&server);
    assert_eq!(loaded["values"]["cpu"]["of_guest"], false);
    assert_eq!(loaded["values"]["guest_memory"]["of_guest"], true);
    program::what_a_program_writes_is_known(&server, "web");
    // The guest's word of its disks is held against what its VMM counts of them: they move the same.
    let off = wait_for("both counts of its disks", LIMIT, || now(&server)["disagreements"]["disks"].as_f64());
    println!("disks: the guest's count is {off} of the host's off it; {}", now(&server)["disagreements"]);
    assert!(off < 0.25, "{off}");
    program::calls_of_libraries_are_counted_where_they_are_wanted(&server, "web");
    latencies_of_disks_are_told(&server);
    // Kept: killed, the next Proteus knows what was.
    let kept = wait_for("a bucket with the load", LIMIT, || {
        steps(&server)
            .into_iter()
            .find(|step| step["values"]["cpu"]["max"].as_f64().unwrap_or_default() > 500.0)
    });
    // Where it was looked at, and nowhere else: once a minute.
    let of_memory = steps(&server).iter().filter(|step| step["values"]["dirty_rate"].is_object()).count();
    assert!(of_memory > 0 && of_memory * 2 <= steps(&server).len(), "{of_memory}");
    server.kill();
    server.start_again();
    assert!(steps(&server).contains(&kept), "what was kept is gone");
    let before = steps(&server).len();
    wait_for("a bucket after the kill", LIMIT, || (steps(&server).len() > before).then_some(()));
    // A VM that does not run uses nothing that is known, and its history is there; of one that is gone nothing is.
    server.cli(&["vm", "stop", "web", "--grace", "30s"]).ok();
    // What was open is closed with the next look, and from then on nothing is known of now.
    wait_for("the end of its history", LIMIT, || now(&server)["at"].is_null().then_some(()));
    assert!(steps(&server).len() >= before);
    it_travels(&server);
    server.cli(&["vm", "delete", "web"]).ok();
    assert_eq!(server.cli(&["vm", "history", "web"]).code, 3);
}
