//! Another name for a VM: its id and what is known of it stay, no two have one name, and a restart knows it.

use crate::server::Server;
use serde_json::Value;
use std::collections::BTreeSet;

fn names(server: &Server) -> BTreeSet<String> {
    let all = server.ask(&["vm", "list"]);
    all.as_array().unwrap().iter().map(|vm| vm["name"].as_str().unwrap().to_owned()).collect()
}

fn create(server: &Server, name: &str) {
    let disk = server.dir.path().join(format!("{name}.raw"));
    if !disk.exists() {
        std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
    }
    let disk = format!("root={}", disk.display());
    server.cli(&["vm", "create", name, "--disk", &disk, "--memory", "128MiB"]).ok();
}

fn history(server: &Server, name: &str) -> Value {
    server.ask(&["vm", "history", name, "--step", "10m"])["buckets"].clone()
}

#[test]
fn a_vm_that_is_renamed_is_the_same_vm() {
    let mut server = Server::start();
    for name in ["one", "other"] {
        create(&server, name);
    }
    let id = server.ask(&["vm", "show", "one", "--personality"])["record"]["VMID"].clone();
    let csv = server.dir.path().join("one.csv");
    std::fs::write(&csv, "time,cpu\n2026-01-02T03:04:05Z,250\n").unwrap();
    server.cli(&["telemetry", "import", "one", csv.to_str().unwrap()]).ok();
    let known = history(&server, "one");
    assert!(!known.as_array().unwrap().is_empty());
    // Refused, and only asked for: all is as before.
    let taken = server.cli(&["vm", "rename", "one", "other"]);
    assert!(taken.code != 0 && taken.stderr.contains("there is a VM other already"), "{}", taken.stderr);
    server.cli(&["vm", "rename", "one", "two", "--dry-run"]).ok();
    assert_eq!(names(&server), BTreeSet::from(["one".to_owned(), "other".to_owned()]));
    assert_eq!(server.cli(&["vm", "rename", "nobody", "two"]).code, 3);
    server.cli(&["vm", "rename", "one", "two"]).ok();
    server.cli(&["vm", "rename", "two", "two"]).ok();
    server.kill();
    server.start_again();
    assert_eq!(names(&server), BTreeSet::from(["two".to_owned(), "other".to_owned()]));
    assert_eq!(server.ask(&["vm", "show", "two", "--personality"])["record"]["VMID"], id);
    assert_eq!(history(&server, "two"), known);
    assert_eq!(server.cli(&["vm", "show", "one"]).code, 3);
    assert_eq!(server.cli(&["audit"]).ok().stdout.matches("vm.rename").count(), 1);
    // The name is free again.
    create(&server, "three");
    server.cli(&["vm", "rename", "three", "one"]).ok();
    for name in ["one", "two", "other"] {
        server.cli(&["vm", "delete", name]).ok();
    }
}
