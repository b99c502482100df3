//! What the removal of a VM could not give back is told to whoever asked for it.

use crate::server::Server;

#[test]
fn what_a_removal_could_not_give_back_is_told() {
    let server = Server::start();
    let dir = server.dir.path();
    for name in ["moved", "again", "whole"] {
        let disk = dir.join(format!("{name}.raw"));
        std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
        let disk = format!("root={}", disk.display());
        server.ask(&["vm", "create", name, "--disk", &disk, "--memory", "128MiB"]);
        server.cli(&["vm", "start", name]).ok();
        server.cli(&["vm", "stop", name, "--grace", "0ms"]).ok();
    }
    for name in ["moved", "again"] {
        std::fs::rename(dir.join(format!("{name}.raw")), dir.join(format!("{name}.elsewhere"))).unwrap();
    }
    let told = server.cli(&["vm", "delete", "moved"]).ok().stdout;
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, "deleted moved"), "{told}");
    let gone = |name: &str| {
        format!("{} of user 0 is not there any more; if it was moved: ", dir.join(name).display())
    };
    assert!(lines[1].starts_with(&format!("not given back: {}", gone("moved.raw"))), "{told}");
    assert!(lines[1].contains("chown 0:0"), "{told}");
    let told = server.ask(&["vm", "delete", "again"]);
    assert_eq!((&told["deleted"], &told["vm"]), (&true.into(), &"again".into()));
    let left = told["not_given_back"].as_array().unwrap();
    assert!(left.len() == 1 && left[0].as_str().unwrap().starts_with(&gone("again.raw")), "{told}");
    let told = server.ask(&["vm", "delete", "whole"]);
    assert_eq!(told["not_given_back"], serde_json::json!([]));
}
