//! Two Proteus on one host: their VMs' processes never have the same user, and a place from before keeps its own.

use crate::server::Server;
use serde_json::Value;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

/// Makes a VM that needs no guest; the file of its place.
fn create(server: &Server, name: &str) -> PathBuf {
    let disk = server.dir.path().join(format!("{name}.raw"));
    std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
    let disk = format!("root={}", disk.display());
    let view = server.ask(&["vm", "create", name, "--disk", &disk, "--memory", "128MiB"]);
    server.state().join("vms").join(view["id"].as_str().unwrap()).join("seat.json")
}

/// Starts a VM; the user of its process and of its disk.
fn start(server: &Server, name: &str) -> u32 {
    let view = server.ask(&["vm", "start", name]);
    let of = |path: String| std::fs::metadata(path).unwrap().uid();
    let user = of(format!("/proc/{}", view["pid"]));
    assert_eq!(of(server.dir.path().join(format!("{name}.raw")).display().to_string()), user);
    user
}

fn stop(server: &Server, name: &str) {
    server.cli(&["vm", "stop", name, "--grace", "0ms"]).ok();
}

#[test]
fn two_instances_give_their_vms_users_of_their_own() {
    let (one, mut two) = (Server::start(), Server::start());
    create(&one, "a");
    let place = create(&two, "b");
    let (user, other) = (start(&one, "a"), start(&two, "b"));
    assert_ne!(user, other);
    stop(&two, "b");
    // For life, also when the service begins anew.
    assert_eq!(two.terminate(Duration::from_secs(30)), Some(0));
    two.start_again();
    assert_eq!(start(&two, "b"), other);
    stop(&two, "b");

    // A place as it was written before there was a table: the user of its slot.
    assert_eq!(two.terminate(Duration::from_secs(30)), Some(0));
    let mut seat: Value = serde_json::from_slice(&std::fs::read(&place).unwrap()).unwrap();
    assert_eq!(seat["user"], other);
    assert_eq!(
        seat.as_object_mut().unwrap().remove("user").and_then(|user| user.as_u64()),
        Some(other.into())
    );
    std::fs::write(&place, seat.to_string()).unwrap();
    two.start_again();
    assert_eq!(u64::from(start(&two, "b")), 70_000 + seat["slot"].as_u64().unwrap());
    stop(&two, "b");
    stop(&one, "a");
}
