//! The service as a whole: what it tells, one per folder, its store, its end.

use crate::server::{Server, proteus, wait_for};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

#[test]
fn it_tells_how_it_is_and_what_happens() {
    let server = Server::start();
    assert_eq!(server.tcp("GET", "/healthz", None, b""), (200, "ok\n".into()));
    assert_eq!(server.tcp("GET", "/readyz", None, b""), (200, "ready\n".into()));
    let openapi: Value = serde_json::from_str(&server.tcp("GET", "/openapi.json", None, b"").1).unwrap();
    assert!(openapi["paths"]["/api/v1/vms/{vm}/plan"].is_object(), "{openapi}");
    let mut events = UnixStream::connect(server.state().join("proteus.sock")).unwrap();
    events.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    events.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut heard = String::new();
    let mut until = |word: &str| {
        let mut buffer = [0; 4096];
        while !heard.contains(word) {
            let count = events.read(&mut buffer).unwrap();
            assert!(count > 0, "the stream ended before {word:?}: {heard}");
            heard.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    until("text/event-stream");
    let disk = server.dir.path().join("disk.raw");
    std::fs::write(&disk, b"x").unwrap();
    server.cli(&["vm", "create", "one", "--disk", &format!("root={}", disk.display())]).ok();
    until("created");
    let taken = server.cli(&["vm", "create", "one", "--disk", &format!("root={}", disk.display())]);
    assert_eq!(taken.code, 4, "{}", taken.stderr);
    assert!(taken.stderr.contains("there is a VM one already"), "{}", taken.stderr);
    let disk = format!("root={}", disk.display());
    let tried = server.cli(&["vm", "create", "one", "--disk", &disk, "--dry-run"]);
    assert_eq!((tried.code, tried.stderr), (taken.code, taken.stderr), "a dry run is refused as the act is");
    let tried = server.cli(&["vm", "create", "two", "--disk", &disk, "--dry-run"]);
    assert_eq!(
        tried.seen(server.dir.path()),
        "error: the disk root cannot write to DIR/disk.raw: the disk root of one writes to that file\n  hint: a file \
         that a disk writes to is no other disk's: name a copy of it, or delete the other VM first; with `,overlay` \
         or `,ro` each, disks share a file\nexit 4\n"
    );
    let another = server.dir.path().join("another.raw");
    std::fs::write(&another, b"x").unwrap();
    let disk = format!("root={}", another.display());
    let tried = server.cli(&["vm", "create", "two", "--disk", &disk, "--dry-run"]).ok();
    assert_eq!(tried.stdout, "would create two\n");
    assert_eq!(server.ask(&["vm", "list"]).as_array().unwrap().len(), 1, "a dry run made a VM");
    let secret = server.cli(&["token", "create", "m"]).ok().stdout;
    let metrics = server.tcp("GET", "/metrics", Some(secret.trim()), b"").1;
    assert!(metrics.contains("proteus_vm_running{vm=\"one\"} 0"), "{metrics}");
    server.cli(&["vm", "delete", "one"]).ok();
    until("deleted");
    assert_eq!(server.ask(&["vm", "list"]), json!([]));
}

#[test]
fn a_vm_whose_place_is_damaged_is_not_shown_stopped() {
    let mut server = Server::start();
    let disk = server.dir.path().join("disk.raw");
    std::fs::write(&disk, b"x").unwrap();
    let view = server.ask(&["vm", "create", "one", "--disk", &format!("root={}", disk.display())]);
    assert_eq!((&view["power"], &view["problem"]), (&json!("stopped"), &json!(null)));
    assert_eq!(server.terminate(Duration::from_secs(30)), Some(0));
    let seat = server.state().join("vms").join(view["id"].as_str().unwrap()).join("seat.json");
    std::fs::write(&seat, b"{").unwrap();
    server.start_again();
    let why = format!(
        "{} is damaged: EOF while parsing an object at line 1 column 1; mend the file, then start Proteus again",
        seat.display()
    );
    let seen = &server.ask(&["vm", "list"])[0];
    assert_eq!((&seen["power"], &seen["problem"]), (&json!("unknown"), &json!(why)));
    assert_eq!(server.ask(&["vm", "show", "one"])["vm"], *seen);
    let told = server.cli(&["vm", "list"]).ok().stdout;
    assert!(told.contains("one   unknown  ") && told.ends_with(&format!("\n\none: {why}\n")), "{told}");
    assert_eq!(server.cli(&["vm", "show", "one"]).ok().stdout, told);
    let secret = server.cli(&["token", "create", "m"]).ok().stdout;
    let metrics = server.tcp("GET", "/metrics", Some(secret.trim()), b"").1;
    assert!(!metrics.contains("proteus_vm_running{"), "{metrics}");
}

#[test]
fn two_on_one_folder_and_a_store_in_use_are_refused_by_name() {
    let mut server = Server::start();
    let state = server.state();
    let state = state.to_str().unwrap();
    let second = proteus(&["--state", state, "serve", "--no-http"]);
    assert_eq!(second.code, 1);
    assert!(second.stderr.contains(&server.pid().to_string()), "{}", second.stderr);
    let check = proteus(&["--state", state, "store", "check"]);
    assert!(check.code == 1 && check.stderr.contains("stop Proteus first"), "{}", check.stderr);
    a_backup_while_it_serves(&server);
    // The first did not notice.
    server.cli(&["token", "create", "kept"]).ok();
    server.kill();
    let check = proteus(&["--state", state, "--output", "json", "store", "check"]).ok();
    assert_eq!(check.json()["whole"], json!(true), "after a SIGKILL");
    let copy = server.dir.path().join("copy");
    proteus(&["--state", state, "store", "backup", copy.to_str().unwrap()]).ok();
    assert!(copy.exists());
    server.start_again();
    assert!(server.ask(&["token", "list"]).to_string().contains("kept"));
}

fn a_backup_while_it_serves(server: &Server) {
    let made = server.ask(&["store", "backup"])["path"].as_str().unwrap().to_owned();
    assert!(Path::new(&made).starts_with(server.state().join("backups")), "{made}");
    assert_eq!(std::fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o600);
    let copy = server.dir.path().join("checked");
    std::fs::create_dir(&copy).unwrap();
    let file = copy.join("proteus.db").display().to_string();
    let told = server.cli(&["store", "backup", &file]).ok().stdout;
    assert_eq!(told, format!("wrote {file}\n"));
    let check = proteus(&["--state", copy.to_str().unwrap(), "--output", "json", "store", "check"]).ok();
    assert_eq!(check.json()["whole"], json!(true), "the copy");
    assert_eq!(
        std::fs::read_dir(server.state().join("backups")).unwrap().count(),
        1,
        "one was taken elsewhere"
    );
    let again = server.cli(&["store", "backup", &file]);
    assert!(again.code == 1 && again.stderr.contains("File exists"), "written over: {}", again.stderr);
    // A device that is full: what was asked for cannot be written, and no copy of it stays behind.
    let small = copy.join("small");
    std::fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4k", "none"]).arg(&small).status();
    if mounted.unwrap().success() {
        let full = server.cli(&["store", "backup", small.join("full.db").to_str().unwrap()]);
        let left = std::fs::read_dir(&small).unwrap().count();
        assert!(Command::new("umount").arg(&small).status().unwrap().success());
        assert!(full.code == 1 && full.stderr.contains("No space left"), "{}", full.stderr);
        assert_eq!(left, 0, "half a backup is left");
    }
    let kept = std::fs::read_dir(server.state().join("backups")).unwrap().count();
    assert_eq!(kept, 1, "a backup that failed is left");
    let operator = server.cli(&["token", "create", "o", "--role", "operator"]).ok().stdout;
    assert_eq!(server.tcp("POST", "/api/v1/store/backup", Some(operator.trim()), b"").0, 403);
    a_backup_of_a_named_server(server, operator.trim());
    assert!(server.ask(&["audit"]).to_string().contains("store.backup"));
}

/// The server that is named is asked, whatever the state folder of this host.
fn a_backup_of_a_named_server(server: &Server, operator: &str) {
    let admin = server.cli(&["token", "create", "a", "--role", "admin"]).ok().stdout;
    let url = format!("http://127.0.0.1:{}", server.port);
    let ask = |token: &str, words: &[&str]| {
        let head = ["--state", "/no/such", "--server", &url, "--token", token, "store"];
        proteus(&head.into_iter().chain(words.iter().copied()).collect::<Vec<_>>())
    };
    let told = ask(admin.trim(), &["backup"]).ok().stdout;
    let made =
        told.strip_prefix("wrote ").and_then(|rest| rest.strip_suffix(&format!(" on the host of {url}\n")));
    assert!(Path::new(made.unwrap()).starts_with(server.state().canonicalize().unwrap()), "{told}");
    std::fs::remove_file(made.unwrap()).unwrap();
    assert_eq!(ask(operator, &["backup"]).code, 8, "an operator made a backup");
    let here = server.dir.path().join("here.db").display().to_string();
    for (words, said) in [(&["backup", &here][..], "without FILE"), (&["check"], "leave --server")] {
        let refused = ask(admin.trim(), words);
        assert!(refused.code == 2 && refused.stderr.contains(said), "{}", refused.stderr);
    }
    assert!(!Path::new(&here).exists());
}

#[test]
fn it_ends_in_good_order_and_leaves_nothing() {
    let mut server = Server::start();
    assert!(!server.instance.leftovers().is_empty(), "the look for leftovers sees nothing of a running one");
    // An event stream and a silent connection must not hold up the end.
    let mut stream = UnixStream::connect(server.state().join("proteus.sock")).unwrap();
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 12]).unwrap();
    let silent = std::net::TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    assert_eq!(server.terminate(Duration::from_secs(20)), Some(0), "{}", server.log());
    drop(silent);
    wait_for("nothing left", Duration::from_secs(10), || {
        server.instance.leftovers().is_empty().then_some(())
    });
    assert!(!server.state().join("proteus.sock").exists());
    assert!(!server.log().contains(" WARN ") && !server.log().contains(" ERROR "), "{}", server.log());
    let away = server.cli(&["vm", "list"]);
    assert_eq!(away.code, 7);
    assert!(away.stderr.contains("`proteus serve` starts it"), "{}", away.stderr);
}
