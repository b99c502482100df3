//! How it begins: with a folder that is named in any way, or not at all, and then nothing is left.

use crate::server::Server;
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
