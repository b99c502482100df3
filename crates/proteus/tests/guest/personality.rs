//! What a real VM is taken for: idle, then a web frontend, then a cache, over a kill of Proteus, by what real clients
//! make it do; a label that is taught; and what its clone begins with. Must never tell Proteus what the VM does.

use crate::server::{Server, wait_for};
use crate::{image_dir, serves};
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Longest wait for a label: three looks at a minute each, times what a loaded machine takes.
const LIMIT: Duration = Duration::from_secs(300);

/// A client in the guests' network that is ended with the test.
struct Client(Child);

impl Client {
    fn start(server: &Server, words: &[&str]) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &server.instance.namespace()]).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn personality(server: &Server, vm: &str) -> Value {
    server.ask(&["vm", "show", vm, "--personality"])
}

/// Waits until the VM bears this label.
fn borne(server: &Server, vm: &str, label: &str) -> Value {
    let mut last = Value::Null;
    wait_for(&format!("the label {label}"), LIMIT, || {
        last = personality(server, vm);
        (last["label"] == label).then(|| last.clone())
    })
}

/// Taught, known, forgotten.
fn a_label_of_ones_own(server: &Server) {
    // A label of one's own, learned from what it does now; forgotten, all is as before.
    // Nothing is learned of a VM that is becoming something else.
    wait_for("rest", LIMIT, || (personality(server, "vm")["departed"] == false).then_some(()));
    server.cli(&["personality", "teach", "vm", "shop", "--dry-run"]).ok();
    assert!(!server.cli(&["personality", "labels"]).ok().stdout.contains("shop"));
    server.cli(&["personality", "teach", "vm", "shop"]).ok();
    // Whether it bears that label then is told by how near the shipped ones are; it is one of the two nearest.
    wait_for("the label among the nearest", LIMIT, || {
        let view = personality(server, "vm");
        let nearest = view["judgement"]["candidates"].as_array()?;
        nearest.iter().take(2).any(|candidate| candidate["label"] == "shop").then_some(())
    });
    let audited = server.cli(&["audit"]).ok().stdout;
    assert!(audited.contains("personality.teach"), "{audited}");
    server.cli(&["personality", "forget", "shop"]).ok();
    assert_eq!(server.cli(&["personality", "forget", "shop"]).code, 3);
}

#[test]
#[ignore = "boots a guest: ./test runs it"]
fn a_vm_is_known_by_what_it_does_and_told_when_it_becomes_something_else() {
    let mut server = Server::start();
    let images = image_dir();
    let path = |name: &str| images.join(name).to_str().unwrap().to_owned();
    let (guest, nginx, redis) = (path("small"), path("nginx.erofs"), path("redis.erofs"));
    server.ask(&[
        "vm", "create", "vm", "--guest", &guest, "--memory", "256MiB", "--image", &nginx, "--image", &redis,
    ]);
    // Of a VM that never ran nothing is known, and that is said.
    let view = personality(&server, "vm");
    assert_eq!((&view["label"], &view["at"]), (&Value::Null, &Value::Null), "{view}");
    assert_eq!(view["record"]["BaseImageID"]["value"]["kernel"].as_str().unwrap().len(), 64);
    let refused = server.cli(&["personality", "teach", "vm", "shop"]);
    assert!(
        refused.code != 0 && refused.stderr.contains("too little is known of vm yet"),
        "{}",
        refused.stderr
    );
    server.cli(&["vm", "start", "vm", "--wait"]).ok();
    let address = server.ask(&["vm", "show", "vm"])["vm"]["address"].as_str().unwrap().to_owned();
    borne(&server, "vm", "idle");

    let client = Client::start(&server, &["wrk", "-t1", "-c4", "-d1h", &format!("http://{address}/")]);
    let view = borne(&server, "vm", "web frontend");
    assert_eq!(view["judgement"]["label"], "web frontend", "{view}");
    assert!(!view["judgement"]["evidence"].as_array().unwrap().is_empty());
    let traits = view["record"]["WeightedTraitVector"]["value"].as_array().unwrap();
    assert!(traits.iter().any(|one| one["name"] == "sent_share" && one["value"].as_f64().unwrap() > 0.7));
    wait_for("its programs", LIMIT, || {
        let view = personality(&server, "vm");
        let apps = view["record"]["ApplicationUsageStats"]["value"].as_array().cloned().unwrap_or_default();
        let nginx = apps.iter().find(|app| app["name"] == "nginx")?;
        (nginx["cpu_share"].as_f64()? > 0.5).then_some(())
    });
    // The host alone comes to the same.
    wait_for("the host's own word", LIMIT, || {
        (personality(&server, "vm")["host_only"]["label"] == "web frontend").then_some(())
    });
    a_label_of_ones_own(&server);
    borne(&server, "vm", "web frontend");
    // What it came from is told, or was too short to be usual: from here on this is what is usual for it.
    wait_for("what is usual", LIMIT, || (personality(&server, "vm")["departed"] == false).then_some(()));

    // Killed, the next Proteus knows what it was.
    server.kill();
    server.start_again();
    let view = personality(&server, "vm");
    assert_eq!(view["label"], "web frontend", "{view}");
    assert!(view["labels"].as_array().unwrap().len() >= 2, "{view}");
    // It becomes something else: what was usual for it is known still.
    drop(client);
    assert!(serves(&server, &address));
    let _client =
        Client::start(&server, &["redis-benchmark", "-h", &address, "-c", "5", "-l", "-q", "-t", "get,set"]);
    let view = borne(&server, "vm", "cache");
    assert_eq!(view["judgement"]["label"], "cache", "{view}");
    let shift = wait_for("the shift", LIMIT, || {
        let all = personality(&server, "vm")["changes"].as_array().cloned().unwrap();
        all.into_iter().find(|change| change["kind"] == "shift" && change["to"] == "cache")
    });
    assert_eq!(shift["from"], "web frontend", "{shift}");
    let text = server.cli(&["vm", "show", "vm", "--personality"]).ok().stdout;
    assert!(text.starts_with("vm: cache") && text.contains("UserBehaviorModel"), "{text}");
}
