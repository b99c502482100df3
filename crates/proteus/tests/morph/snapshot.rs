//! Snapshots through the command line, on a real guest with nginx and a qcow2 disk: refused where they would leave a
//! disk out, taken before a morph, and gone back to after it with the record's settings in force.

use crate::server::Server;
use crate::steps::image_dir;
use expect_test::expect;
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::process::Command;

/// Changes how the VM is built: another vCPU; and settings that only the guest has.
const FIT: &str = "
name: fit
version: 1.0.0
resources: { vcpus: { preferred: 2 } }
tuning: { sysctl: { vm.swappiness: 10 } }
verify:
  health: [ { http: { port: 80, path: /, status: 200 } } ]
  window: { before: 1s, after: 1s }
";

fn create(server: &Server, name: &str, disk: Option<&str>) {
    let images = image_dir();
    let (guest, image) = (images.join("small"), images.join("nginx.erofs"));
    let mut words = vec!["vm", "create", name, "--guest", guest.to_str().unwrap(), "--memory", "256MiB"];
    words.extend(["--vcpus-max", "2", "--image", image.to_str().unwrap()]);
    words.extend(disk.iter().flat_map(|disk| ["--disk", disk]));
    server.cli(&words).ok();
}

fn exec(server: &Server, line: &str) -> String {
    server.cli(&["vm", "exec", "web", "--", "/bin/sh", "-c", line]).ok().stdout.trim().to_owned()
}

fn serves(server: &Server) {
    let view = server.ask(&["vm", "show", "web"]);
    let (space, address) = (server.instance.namespace(), view["vm"]["address"].as_str().unwrap().to_owned());
    let words = ["netns", "exec", &space, "curl", "-sS", "-m", "30", &address];
    let page = Command::new("ip").args(words).output().unwrap();
    assert!(page.status.success(), "{}", String::from_utf8_lossy(&page.stderr));
}

#[test]
#[ignore = "boots a guest: ./test runs it"]
fn an_owner_goes_back_to_before_a_morph() {
    let mut server = Server::start();
    let raw = server.dir.path().join("data.raw");
    std::fs::File::create(&raw).unwrap().set_len(1 << 20).unwrap();
    let qcow2 = server.dir.path().join("data.qcow2");
    let made =
        Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&qcow2).arg("256M").status();
    assert!(made.unwrap().success());
    std::os::unix::fs::chown(&qcow2, Some(4711), Some(4712)).unwrap();
    refused(&server, &format!("data={}", raw.display()));

    create(&server, "web", Some(&format!("data={}", qcow2.display())));
    server.cli(&["vm", "start", "web", "--wait"]).ok();
    let profile = server.dir.path().join("fit.yaml");
    std::fs::write(&profile, FIT).unwrap();
    server.cli(&["profile", "push", profile.to_str().unwrap()]).ok();
    exec(&server, "echo before >/tmp/marker");
    let swappiness = exec(&server, "cat /proc/sys/vm/swappiness");
    let plan = server.cli(&["morph", "plan", "web", "--profile", "fit", "--snapshot"]).ok().stdout;
    println!("{plan}");
    assert!(plan.contains("1. snapshot before-morph-1: disks and RAM, up to "), "{plan}");
    let morph = server.cli(&["morph", "apply", "web", "--profile", "fit", "--snapshot"]).ok().stdout;
    println!("{morph}");
    assert!(morph.contains("the snapshot before-morph-1 of step 1 stays"), "{morph}");
    exec(&server, "echo after >/tmp/marker");
    assert_eq!(exec(&server, "cat /sys/devices/system/cpu/online"), "0-1");
    assert_ne!(swappiness, "10");

    let unsure = server.cli(&["vm", "snapshot", "restore", "web", "before-morph-1"]);
    assert_eq!((unsure.code, exec(&server, "cat /tmp/marker").as_str()), (2, "after"));
    assert!(unsure.stderr.contains("Lost: ") && unsure.stderr.contains("--yes"), "{}", unsure.stderr);
    println!("{}", unsure.stderr);
    let done = server.cli(&["vm", "snapshot", "restore", "web", "before-morph-1", "--yes"]).ok();
    println!("{}", done.stdout);
    assert_eq!(exec(&server, "cat /tmp/marker"), "before");
    // Version 1 is in force, though the guest is from before it.
    assert_eq!(exec(&server, "cat /sys/devices/system/cpu/online"), "0-1");
    assert_eq!(exec(&server, "cat /proc/sys/vm/swappiness"), "10");
    assert_eq!(server.get("/api/v1/vms/web/differences"), json!([]));
    serves(&server);
    // Rolled back to version 0, and gone back once more: the record wins again.
    server.cli(&["morph", "apply", "web", "--fresh-vmm"]).ok();
    let taken = server.cli(&["vm", "snapshot", "create", "web"]).ok().stdout;
    println!("{taken}");
    let all = server.ask(&["vm", "snapshot", "list", "web"]);
    let names: Vec<&Value> = all.as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["before-morph-1", "snapshot-1"]);
    print!("{}", server.cli(&["vm", "snapshot", "list", "web"]).ok().stdout);
    server.cli(&["morph", "rollback", "web", "--to", "0"]).ok();
    server.cli(&["vm", "snapshot", "restore", "web", "snapshot-1", "--yes"]).ok();
    assert_eq!(exec(&server, "cat /proc/sys/vm/swappiness"), swappiness);
    assert_eq!(server.get("/api/v1/vms/web/differences"), json!([]));
    serves(&server);
    // Proteus dies and is started again: it finds the restored guest.
    server.kill();
    server.start_again();
    assert_eq!(exec(&server, "cat /tmp/marker"), "before");
    end(server, &qcow2);
}

fn refused(server: &Server, raw: &str) {
    create(server, "bare", None);
    create(server, "raw", Some(raw));
    let mut seen = String::new();
    for vm in ["bare", "raw"] {
        let stopped = server.cli(&["vm", "snapshot", "create", vm]);
        assert_eq!(stopped.code, 4);
        server.cli(&["vm", "start", vm]).ok();
        let refused = server.cli(&["vm", "snapshot", "create", vm]);
        seen.push_str(&refused.seen(server.dir.path()));
        let applied = server.cli(&["morph", "apply", vm, "--fresh-vmm", "--snapshot"]);
        assert_eq!(applied.code, 4, "{}", applied.stderr);
        assert!(applied.stderr.contains("snapshot is not supported here"), "{}", applied.stderr);
        server.cli(&["vm", "stop", vm, "--grace", "1ms"]).ok();
    }
    expect![[r#"
        error: snapshot is not supported here: the VM has no writable disk, and its RAM is kept in one; create it with `--disk data=FILE.qcow2` (`qemu-img create -f qcow2 FILE.qcow2 1G` makes an empty one)
        exit 4
        error: snapshot is not supported here: the disk data is raw, which keeps none, and would be left out; with the VM stopped, `qemu-img convert -O qcow2` makes it a qcow2
        exit 4
    "#]].assert_eq(&seen);
    for (words, code) in [
        (["vm", "snapshot", "restore", "raw", "nothing"].as_slice(), 3),
        (&["vm", "snapshot", "delete", "raw", "nothing"], 3),
        (&["vm", "snapshot", "list", "nobody"], 3),
        (&["vm", "snapshot", "create", "raw", "Not a name"], 4),
    ] {
        let ended = server.cli(words);
        assert_eq!(ended.code, code, "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("hint: "), "{words:?}: {}", ended.stderr);
    }
}

fn end(mut server: Server, disk: &std::path::Path) {
    server.cli(&["vm", "snapshot", "delete", "web", "before-morph-1", "--dry-run"]).ok();
    server.cli(&["vm", "stop", "web"]).ok();
    server.cli(&["vm", "snapshot", "delete", "web", "before-morph-1"]).ok();
    // What is left inside the owner's disk goes with the VM.
    assert_ne!(std::fs::metadata(disk).unwrap().uid(), 4711, "the VMM's user has the disk of its VM");
    server.cli(&["vm", "delete", "web"]).ok();
    let owner = std::fs::metadata(disk).unwrap();
    assert_eq!((owner.uid(), owner.gid()), (4711, 4712), "the disk is its owner's again");
    let held = Command::new("qemu-img").args(["snapshot", "-l"]).arg(disk).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&held.stdout), "");
    assert_eq!(server.ask(&["audit"])["intact"], json!(true));
    assert_eq!(server.terminate(std::time::Duration::from_secs(30)), Some(0));
    assert_eq!(server.instance.leftovers(), Vec::<String>::new());
}
