//! What a real VM uses, as the host sees it: there without an agent's word, there after Proteus was killed, and with
//! gaps where nobody looked. Must never take Proteus's word for load that the test did not make itself.

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

#[test]
#[ignore = "boots a guest: ./test runs it"]
fn what_a_vm_uses_is_measured_kept_over_a_kill_and_never_made_up() {
    let mut server = Server::start();
    let images = image_dir();
    let (guest, image) = (images.join("small"), images.join("nginx.erofs"));
    let words = ["vm", "create", "web", "--guest", guest.to_str().unwrap(), "--memory", "256MiB"];
    let words = words.into_iter().chain(["--image", image.to_str().unwrap()]);
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
    server.cli(&["vm", "delete", "web"]).ok();
    assert_eq!(server.cli(&["vm", "history", "web"]).code, 3);
}
