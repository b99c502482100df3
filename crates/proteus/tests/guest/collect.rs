//! What the collectors inside a real VM find, by real clients of real applications; what is switched off and is then
//! gone; and collectors that are killed and come back. Must never believe a rate that no client made.

use crate::server::{Server, wait_for};
use crate::{connect, image_dir, inside, serves};
use serde_json::Value;
use std::time::Duration;

/// Longest wait for a round of what is looked at once a minute, times what a loaded machine takes.
const LIMIT: Duration = Duration::from_secs(300);

fn record(server: &Server) -> Value {
    server.ask(&["vm", "show", "web", "--personality"])["record"].clone()
}

fn collectors(server: &Server) -> Value {
    server.ask(&["vm", "collectors", "web"])
}

fn state<'a>(view: &'a Value, name: &str) -> &'a str {
    let all = view["collectors"].as_array().unwrap();
    all.iter().find(|one| one["name"] == name).map_or("", |one| one["state"].as_str().unwrap())
}

/// What an application of a kind tells.
fn told(record: &Value, kind: &str, metric: &str) -> Option<f64> {
    let all = record["ApplicationMetrics"]["value"].as_array()?;
    all.iter().find(|one| one["kind"] == kind)?["metrics"][metric].as_f64()
}

fn start(server: &Server) -> String {
    let images = image_dir();
    let path = |name: &str| images.join(name).to_str().unwrap().to_owned();
    let (guest, nginx, redis) = (path("small"), path("nginx.erofs"), path("redis.erofs"));
    let words = [
        "vm", "create", "web", "--guest", &guest, "--memory", "384MiB", "--image", &nginx, "--image", &redis,
    ];
    server.ask(&words);
    // More than usual: where others share the host's CPUs, an emulated guest pays for their time too.
    server.cli(&["vm", "collectors", "web", "--budget", "200"]).ok();
    server.cli(&["vm", "start", "web", "--wait"]).ok();
    server.ask(&["vm", "show", "web"])["vm"]["address"].as_str().unwrap().to_owned()
}

/// Each part of the record that a collector finds, while a client asks for pages.
fn it_is_found(server: &Server, address: &str) {
    let found = wait_for("what collectors find", LIMIT, || {
        (0..20).for_each(|_| assert!(serves(server, address)));
        let record = record(server);
        // The host looks at flows twice a minute; the first look begins to count.
        let begun = record["NetworkTrafficProfile"]["value"]["begun"].as_array().cloned().unwrap_or_default();
        let pages = begun.iter().find(|flow| flow["port"] == 80 && flow["direction"] == "inbound");
        let counted = pages.is_some_and(|flow| flow["begun"].as_u64().unwrap() >= 20);
        let asked = counted && told(&record, "nginx", "requests_per_second").is_some_and(|rate| rate > 0.5);
        let calls = record["ApiCallFrequency"]["value"]["all"].as_f64().is_some_and(|rate| rate > 0.0);
        let all =
            asked && calls && told(&record, "redis", "used_memory_bytes").is_some_and(|bytes| bytes > 1e5);
        all.then_some(record)
    });
    assert_eq!(found["ApplicationMetrics"]["source"], "guest");
    let logs = found["LogActivity"]["value"].as_array().unwrap();
    assert!(logs.iter().any(|log| log["service"] == "nginx"), "{logs:?}");
    let connections = &found["NetworkTrafficProfile"]["value"]["connections"];
    assert!(connections["listening"].as_u64().unwrap() >= 2, "{connections}");
    let missing = found["GraphicsProcessors"]["missing"].to_string();
    assert!(missing.contains("no graphics processor is passed through"), "{missing}");
    let seen = collectors(server);
    assert_eq!([state(&seen, "calls"), state(&seen, "gpus")], ["on", "unsupported"], "{seen}");
    assert!(
        seen["cpu_share"].as_f64().unwrap() > 0.0 && seen["resident"].as_u64().unwrap() < 20_000_000,
        "{seen}"
    );
}

/// A connection that stays is a session of its program.
fn a_session_is_seen(server: &Server, address: &str) {
    let client = connect(server, address, 6379).unwrap();
    wait_for("the session", LIMIT, || {
        let programs = record(server)["ApplicationUsageStats"]["value"].as_array()?.clone();
        let redis = programs.into_iter().find(|one| one["name"] == "redis-server")?;
        (redis["sessions"].as_u64()? >= 1).then_some(())
    });
    drop(client);
}

#[test]
#[ignore = "boots a guest: ./test runs it"]
fn what_collectors_find_is_shown_with_its_cost_and_gone_when_they_are_off() {
    let server = Server::start();
    let address = start(&server);
    it_is_found(&server, &address);
    a_session_is_seen(&server, &address);
    // Off: forgotten at once, and it stays so over the next rounds; other collectors go on.
    let dry = server.cli(&["vm", "collectors", "web", "--off", "calls", "--dry-run"]).ok();
    assert!(dry.stdout.contains("nothing is changed"), "{}", dry.stdout);
    assert!(record(&server)["ApiCallFrequency"]["value"].is_object(), "a dry run switched it off");
    server.cli(&["vm", "collectors", "web", "--off", "calls"]).ok();
    assert!(record(&server)["ApiCallFrequency"]["value"].is_null());
    wait_for("the collector off", LIMIT, || (state(&collectors(&server), "calls") == "off").then_some(()));
    assert!(record(&server)["ApiCallFrequency"]["value"].is_null());
    assert!(server.cli(&["audit"]).ok().stdout.contains("vm.collectors"));
    let unknown = server.cli(&["vm", "collectors", "web", "--off", "dreams"]);
    assert!(unknown.code != 0 && unknown.stderr.contains("one of connections"), "{}", unknown.stderr);
    let outside = server.cli(&["vm", "collectors", "web", "--endpoint", "http://192.0.2.1/metrics"]);
    assert!(outside.code != 0 && outside.stderr.contains("loopback"), "{}", outside.stderr);
    // Killed: the agent goes on, and so do they, with what they were told before.
    let kill = "for p in /proc/[0-9]*; do case $(/bin/busybox tr '\\0' ' ' <$p/cmdline) in *' collect ') \
        /bin/busybox kill -9 ${p#/proc/};; esac; done 2>/dev/null; echo done";
    let rounds = |view: &Value| {
        view["collectors"].as_array().map_or(0, |all| all.iter().filter_map(|one| one["runs"].as_u64()).sum())
    };
    let before: u64 = rounds(&collectors(&server));
    inside(&server, "web", &["/bin/busybox", "sh", "-c", kill]);
    wait_for("collectors of before to end", LIMIT, || (rounds(&collectors(&server)) < before).then_some(()));
    wait_for("collectors that were started anew", LIMIT, || {
        let seen = collectors(&server);
        (state(&seen, "endpoints") == "on" && rounds(&seen) > 0).then_some(())
    });
    assert_eq!(state(&collectors(&server), "calls"), "off");
    server.cli(&["vm", "collectors", "web", "--on", "calls"]).ok();
    wait_for("the collector on again", LIMIT, || {
        record(&server)["ApiCallFrequency"]["value"].is_object().then_some(())
    });
    let page = server.page("/metrics");
    for family in
        ["proteus_vm_agent_cpu_ratio{", "proteus_vm_system_calls_per_second{", "proteus_vm_application{"]
    {
        assert!(page.contains(family), "{family} is not in {page}");
    }
    server.cli(&["vm", "stop", "web", "--grace", "30s"]).ok();
    server.cli(&["vm", "delete", "web"]).ok();
}
