//! Memory of guests on the host: what a kill of Proteus left is given back, and what a VM has stays its own.

use crate::server::Server;
use std::collections::BTreeSet;
use std::path::Path;

fn files(dir: &Path) -> BTreeSet<String> {
    let all = std::fs::read_dir(dir).unwrap();
    all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn memory_of_no_vm_is_given_back_and_that_of_one_that_runs_stays() {
    let mut server = Server::start();
    let ids = ["runs", "ended"].map(|name| {
        let disk = server.dir.path().join(format!("{name}.raw"));
        std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
        let disk = format!("root={}", disk.display());
        let view = server.ask(&["vm", "create", name, "--disk", &disk, "--memory", "128MiB"]);
        view["id"].as_str().unwrap().to_owned()
    });
    let pid = server.ask(&["vm", "start", "runs"])["pid"].clone();
    let memory = Path::new("/dev/shm").join(server.instance.namespace());
    let own = files(&memory);
    assert_eq!(own, ["ram", "hot"].map(|part| format!("{}.{part}", ids[0])).into());
    server.kill();
    // Of a VM that does not run, and of one that nobody knows: a start, and a clone, that were cut short.
    for id in [ids[1].as_str(), "00000000000000000000000000000007"] {
        for part in ["ram", "hot"] {
            std::fs::write(memory.join(format!("{id}.{part}")), vec![1; 4096]).unwrap();
        }
    }
    server.start_again();
    assert_eq!(files(&memory), own);
    let view = server.ask(&["vm", "show", "runs"])["vm"].clone();
    assert_eq!((&view["power"], &view["pid"]), (&"running".into(), &pid));
    server.cli(&["vm", "stop", "runs", "--grace", "0ms"]).ok();
    assert!(files(&memory).is_empty());
}
