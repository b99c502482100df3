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
    // Load that this test makes: pages out of the guest, and a CPU that is busy inside.
    let busy = [
        "/bin/busybox",
        "sh",
        "-c",
        "/bin/busybox timeout 60 /bin/busybox sh -c 'while :; do :; done' >/dev/null 2>&1 &",
    ];
    inside(&server, "web", &busy);
    let loaded = wait_for("the load", LIMIT, || {
        assert!(serves(&server, &address));
        let usage = now(&server);
        let sent = value(&usage, "sent").unwrap_or_default();
        (value(&usage, "cpu").unwrap_or_default() > 500.0 && sent > 0.2).then_some(usage)
    });
    assert_eq!(loaded["values"]["cpu"]["of_guest"], false);
    assert_eq!(loaded["values"]["guest_memory"]["of_guest"], true);
    program::what_a_program_writes_is_known(&server, "web");
    program::calls_of_libraries_are_counted_where_they_are_wanted(&server, "web");
    // Kept: killed, the next Proteus knows what was.
    let kept = wait_for("a bucket with the load", LIMIT, || {
        steps(&server)
            .into_iter()
            .find(|step| step["values"]["cpu"]["max"].as_f64().unwrap_or_default() > 500.0)
    });
    server.kill();
    server.start_again();
    assert!(steps(&server).contains(&kept), "what was kept is gone");
    let before = steps(&server).len();
    wait_for("a bucket after the kill", LIMIT, || (steps(&server).len() > before).then_some(()));
    // A VM that does not run uses nothing that is known, and its history is there; of one that is gone nothing is.
    server.cli(&["vm", "stop", "web", "--grace", "30s"]).ok();
    let last = wait_for("the end of its history", LIMIT, || {
        let (first, second) = (steps(&server), steps(&server));
        (first.len() == second.len()).then_some(first.len())
    });
    assert!(last >= before);
    it_travels(&server);
    server.cli(&["vm", "delete", "web"]).ok();
    assert_eq!(server.cli(&["vm", "history", "web"]).code, 3);
}
