//! A dry run says no where the act says no, in the same words; where it says yes, nothing is changed by it.

use crate::inside::{create_loader, start_loader};
use crate::server::{Ended, Server, proteus};
use std::process::Command;

/// The refusal in what was said.
fn error(ended: &Ended) -> &str {
    ended.stderr.find("error: ").map_or("", |at| &ended.stderr[at..])
}

/// Refused by the dry run as by the act.
fn refused(server: &Server, words: &[&str], dry: &[&str], code: i32, said: &str) {
    let asked: Vec<&str> = words.iter().chain(dry).copied().collect();
    let tried = server.cli(&asked);
    // A confirmation is not asked for by a dry run.
    let act: Vec<&str> = match words.contains(&"restore") {
        true => words.iter().copied().chain(["--yes"]).collect(),
        false => words.to_vec(),
    };
    let done = server.cli(&act);
    assert_eq!(done.code, code, "{words:?}: {}{}", done.stdout, done.stderr);
    assert_eq!((tried.code, error(&tried)), (done.code, error(&done)), "{words:?}");
    assert!(error(&tried).contains(said), "{words:?}: {}", error(&tried));
}

fn write(server: &Server, name: &str, text: &str) -> String {
    let path = server.dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_dry_run_is_refused_as_the_act_is() {
    let server = Server::start();
    create_loader(&server, "off");
    create_loader(&server, "on");
    start_loader(&server, "on");
    let dry = &["--dry-run"];
    for (words, code, said) in [
        (&["vm", "delete", "on"][..], 4, "on runs"),
        (&["vm", "delete", "nobody"], 3, "there is no VM nobody"),
        (&["vm", "template", "off"], 4, "off does not run"),
        (&["vm", "template", "on"], 1, "agent does not answer"),
        (&["vm", "clone", "on", "new"], 4, "on is no template"),
        (&["vm", "snapshot", "create", "off"], 4, "off does not run"),
        (&["vm", "snapshot", "create", "on"], 4, "raw, which keeps none"),
        (&["vm", "snapshot", "delete", "on", "none"], 3, "on has no snapshot none"),
        (&["vm", "snapshot", "restore", "on", "none"], 3, "on has no snapshot none"),
        (&["morph", "apply", "on", "--profile", "batch"], 4, "is not supported here"),
        (&["morph", "apply", "off", "--fresh-vmm"], 4, "off does not run"),
        (&["morph", "rollback", "on", "--to", "7"], 3, "there is no version 7"),
    ] {
        refused(&server, words, dry, code, said);
    }
    // The hint arms what is disarmed, and no more.
    server.cli(&["disarm", "--vm", "on"]).ok();
    refused(&server, &["morph", "apply", "on", "--fresh-vmm"], dry, 4, "hint: `proteus arm --vm on` lets");
    server.cli(&["arm", "--vm", "on"]).ok();
    server.cli(&["disarm"]).ok();
    refused(&server, &["morph", "apply", "on", "--fresh-vmm"], dry, 4, "hint: `proteus arm` lets");
    for words in [&["morph", "apply", "on", "--fresh-vmm"][..], &["vm", "template", "on"]] {
        refused(&server, words, dry, 4, "is disarmed");
    }
    server.cli(&["disarm", "--vm", "on"]).ok();
    let both = "hint: `proteus arm` and `proteus arm --vm on` together let";
    refused(&server, &["morph", "apply", "on", "--fresh-vmm"], dry, 4, both);
    server.cli(&["arm", "--vm", "on"]).ok();
    server.cli(&["arm"]).ok();
    let viewer = server.cli(&["token", "create", "eye"]).ok().stdout;
    let url = format!("http://127.0.0.1:{}", server.port);
    for words in [&["vm", "delete", "off"][..], &["vm", "template", "on"], &["host", "uplink", "disable"]] {
        let head = ["--server", &url, "--token", viewer.trim()];
        let asked: Vec<&str> = head.iter().chain(words).chain(dry).copied().collect();
        let tried = proteus(&asked);
        assert_eq!(tried.code, 8, "{words:?}: {}{}", tried.stdout, tried.stderr);
    }
    let told = server.cli(&["vm", "delete", "off", "--dry-run"]).ok().stdout;
    assert_eq!(told, "would delete off\n");
    assert_eq!(server.ask(&["vm", "list"]).as_array().unwrap().len(), 2, "a dry run did something");
    let audit = server.ask(&["audit"]).to_string();
    for act in ["vm.delete", "vm.snapshot", "morph.begin"] {
        assert!(!audit.contains(act), "{act}: {audit}");
    }
    server.cli(&["vm", "stop", "on", "--grace", "0ms"]).ok();
}

#[test]
fn a_dry_run_of_a_snapshot_is_refused_as_the_act_is() {
    let server = Server::start();
    let disk = server.dir.path().join("web.qcow2").display().to_string();
    assert!(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", &disk, "64M"])
            .status()
            .unwrap()
            .success()
    );
    let disk = format!("root={disk}");
    server.cli(&["vm", "create", "web", "--disk", &disk, "--memory", "128MiB"]).ok();
    server.cli(&["vm", "start", "web"]).ok();
    let dry = &["--dry-run"];
    let told = server.cli(&["vm", "snapshot", "create", "web", "--dry-run"]).ok().stdout;
    let said = "would save disks and RAM of web as snapshot-1: blackout up to ";
    assert!(told.starts_with(said) && told.ends_with(", up to 128 MiB of its disk\n"), "{told}");
    assert_eq!(server.ask(&["vm", "snapshot", "list", "web"]), serde_json::json!([]));
    server.cli(&["vm", "snapshot", "create", "web", "first"]).ok();
    refused(
        &server,
        &["vm", "snapshot", "create", "web", "first"],
        dry,
        4,
        "web has a snapshot first already",
    );
    refused(&server, &["vm", "snapshot", "create", "web", "No"], dry, 4, "is not a name");
    server.cli(&["vm", "snapshot", "restore", "web", "first", "--dry-run"]).ok();
    server.cli(&["vm", "stop", "web", "--grace", "0ms"]).ok();
    refused(&server, &["vm", "snapshot", "restore", "web", "first"], dry, 4, "web does not run");
    server.cli(&["vm", "snapshot", "delete", "web", "first", "--dry-run"]).ok();
    assert_eq!(server.ask(&["vm", "snapshot", "list", "web"]).as_array().unwrap().len(), 1);
    server.cli(&["vm", "snapshot", "delete", "web", "first"]).ok();
}

#[test]
fn a_dry_run_of_a_push_is_refused_as_the_act_is() {
    let server = Server::start();
    let good = write(&server, "good.yaml", "name: own\nversion: 1.0.0\n");
    let told = server.cli(&["profile", "push", &good, "--dry-run"]).ok().stdout;
    assert!(told.starts_with("would take own@1.0.0 (unsigned, digest "), "{told}");
    assert_eq!(server.cli(&["profile", "show", "own"]).code, 3, "a dry run took it");
    assert!(!server.ask(&["audit"]).to_string().contains("profile.push"));
    server.cli(&["profile", "push", &good]).ok();
    for (text, said) in [
        ("name: own\nversion: 1.0.0\nsummary: another\n", "own@1.0.0 is known with another text"),
        ("name: child\nversion: 1.0.0\nextends: nobody\n", "nobody"),
        ("name: ../x\nversion: 1.0.0\n", "expected a name"),
    ] {
        let file = write(&server, "bad.yaml", text);
        refused(&server, &["profile", "push", &file], &["--dry-run"], 4, said);
    }
    // Known with this very text: taken, and nothing new.
    server.cli(&["profile", "push", &good, "--dry-run"]).ok();
}
