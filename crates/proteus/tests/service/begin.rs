//! How it begins: with a folder that is named in any way, or not at all, and then nothing is left.

use crate::server::{Server, instance_of, open_dir, proteus};
use std::path::Path;
use std::time::Duration;

#[test]
fn a_relative_state_folder_serves_vms() {
    let mut server = Server::start();
    assert_eq!(server.terminate(Duration::from_secs(30)), Some(0));
    server.start_again_at(Path::new("./state"));
    let disk = server.dir.path().join("a.raw");
    std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
    let disk = format!("root={}", disk.display());
    let view = server.ask(&["vm", "create", "a", "--disk", &disk, "--memory", "128MiB"]);
    server.cli(&["vm", "start", "a"]).ok();
    let users = std::fs::read_to_string("/run/proteus-users.json").unwrap();
    let place = server.state().canonicalize().unwrap().join("vms").join(view["id"].as_str().unwrap());
    assert!(users.contains(&format!("{:?}", place.display().to_string())), "{users}");
    // The same folder named in full: the VM that runs is found again.
    server.kill();
    server.start_again();
    assert_eq!(server.ask(&["vm", "show", "a"])["vm"]["power"], "running");
    server.cli(&["vm", "stop", "a", "--grace", "0ms"]).ok();
}

#[test]
fn what_cannot_begin_leaves_nothing() {
    let dir = open_dir();
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let instance = instance_of(&state);
    let [empty, vms] = [dir.path().join("empty.pem"), state.join("vms")];
    std::fs::write(&empty, "").unwrap();
    let (state, empty) = (state.to_str().unwrap(), empty.to_str().unwrap());
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let refused = |words: &[&str], said: &str| {
        let head = ["--state", state, "serve"];
        let ended = proteus(&head.into_iter().chain(words.iter().copied()).collect::<Vec<_>>());
        assert!(ended.code == 1 && ended.stderr.contains(said), "{words:?}: {}", ended.stderr);
        assert_eq!(instance.leftovers(), Vec::<String>::new(), "{words:?}: {}", ended.stderr);
        assert!(!Path::new(state).join("proteus.sock").exists(), "{words:?}");
        ended.stderr
    };
    let opened = "guests run on";
    for (words, said) in [
        (&["--listen", &address][..], format!("listen at {address}")),
        (
            &["--listen", "127.0.0.1:0", "--tls-cert", empty, "--tls-key", empty],
            "there is no certificate in".to_owned(),
        ),
        (&["--listen", "127.0.0.1:0", "--tls-cert", "/no/such", "--tls-key", empty], "/no/such".to_owned()),
    ] {
        let told = refused(words, &said);
        assert!(!told.contains(opened), "the host was opened: {told}");
        let busy = told.contains("in use");
        assert_eq!(busy, told.contains("hint: name another address with `--listen"), "{told}");
    }
    // What is found only later: the host is given back.
    std::fs::write(&vms, "no folder").unwrap();
    let told = refused(&["--no-http"], &vms.display().to_string());
    assert!(told.contains(opened), "{told}");
}

#[test]
fn a_second_one_is_told_what_to_do() {
    let server = Server::start();
    let state = server.state().display().to_string();
    let second = proteus(&["--state", &state, "serve", "--no-http"]);
    let said = format!("another Proteus (pid {}) has the state folder", server.pid());
    assert!(second.code == 1 && second.stderr.contains(&said), "{}", second.stderr);
    assert!(second.stderr.contains("hint: stop that one, or name another folder"), "{}", second.stderr);
}
