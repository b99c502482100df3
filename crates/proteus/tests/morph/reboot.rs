//! What a guest does by itself: it reboots, panics, reboots while Proteus is down, and fills its host's disk. Its
//! services and settings come back without anybody asking, and nothing of it is lost.

use crate::server::{Server, wait_for};
use crate::steps::image_dir;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Settings that only the guest has, one that a service must be up for, and one of the host.
const FIT: &str = "
name: fit
version: 1.0.0
resources: { vcpus: { preferred: 1500m } }
application_priorities: { nginx: high }
tuning: { sysctl: { vm.swappiness: 10 } }
verify:
  health: [ { http: { port: 80, path: /, status: 200 } } ]
  window: { before: 1s, after: 1s }
";

/// Longest time until an emulated guest is up again on a busy host.
const LIMIT: Duration = Duration::from_secs(240);

/// A file system so small that a guest fills it; unmounted at the end, also of a test that fails.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(at: &'a Path) -> Self {
        std::fs::create_dir(at).unwrap();
        let words = ["-t", "tmpfs", "-o", "size=8m,mode=755", "tmpfs"];
        assert!(Command::new("mount").args(words).arg(at).status().unwrap().success());
        Self(at)
    }

    fn grow(&self) {
        let words = ["-o", "remount,size=64m"];
        assert!(Command::new("mount").args(words).arg(self.0).status().unwrap().success());
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        // Lazy: a VMM of a test that failed may have a file open.
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

fn exec(server: &Server, line: &str) -> String {
    server.cli(&["vm", "exec", "web", "--", "/bin/sh", "-c", line]).ok().stdout.trim().to_owned()
}

/// How often the audit log tells of `action`.
fn told(server: &Server, action: &str) -> usize {
    let audit = server.ask(&["audit"]);
    assert_eq!(audit["intact"], json!(true));
    audit["entries"].as_array().unwrap().iter().filter(|entry| entry["action"] == action).count()
}

fn answers(server: &Server, address: &str) -> bool {
    let space = server.instance.namespace();
    let words = ["netns", "exec", &space, "curl", "-sS", "-f", "-m", "5", "-o", "/dev/null", address];
    Command::new("ip").args(words).output().unwrap().status.success()
}

/// Everything is as it was, and said so once more than before.
fn is_back(server: &Server, address: &str, reboots: usize) {
    wait_for("the reboot in the audit log", LIMIT, || (told(server, "vm.rebooted") == reboots).then_some(()));
    wait_for("nginx", LIMIT, || answers(server, address).then_some(()));
    let restored = || (told(server, "vm.restore") == reboots).then_some(());
    wait_for("its settings", LIMIT, restored);
    let audit = server.ask(&["audit"]);
    let mut restores =
        audit["entries"].as_array().unwrap().iter().filter(|entry| entry["action"] == "vm.restore");
    assert_eq!(restores.next_back().unwrap()["evidence"]["failed"], json!([]));
    assert_eq!(server.get("/api/v1/vms/web/differences"), json!([]));
    assert_eq!(exec(server, "cat /proc/sys/vm/swappiness"), "10");
    assert_eq!(exec(server, "cat /sys/devices/system/cpu/online"), "0-1");
    let again = server.ask(&["morph", "plan", "web", "--profile", "fit"]);
    assert_eq!((&again["steps"], &again["notes"]), (&json!([]), &json!([])), "{again}");
}

#[test]
#[ignore = "boots a guest: ./test runs it"]
fn a_guest_that_reboots_panics_or_fills_its_disk_comes_back_whole() {
    let mut server = Server::start();
    let at = server.dir.path().join("small");
    let small = Small::mount(&at);
    let disk = at.join("data.raw");
    std::fs::File::create(&disk).unwrap().set_len(32 << 20).unwrap();
    let images = image_dir();
    let (guest, image) = (images.join("small"), images.join("nginx.erofs"));
    let disk = format!("data={}", disk.display());
    let words =
        ["vm", "create", "web", "--guest", guest.to_str().unwrap(), "--image", image.to_str().unwrap()];
    let words = [&words[..], &["--memory", "256MiB", "--vcpus-max", "2", "--disk", &disk]].concat();
    server.cli(&words).ok();
    let view = server.ask(&["vm", "start", "web", "--wait"]);
    let (address, pid) = (view["address"].as_str().unwrap().to_owned(), view["pid"].clone());
    let profile = server.dir.path().join("fit.yaml");
    std::fs::write(&profile, FIT).unwrap();
    server.cli(&["profile", "push", profile.to_str().unwrap()]).ok();
    server.cli(&["morph", "apply", "web", "--profile", "fit"]).ok();

    // It reboots; it panics.
    for (number, how) in [(1, "b"), (2, "c")] {
        // Later than the answer: the guest that gives it is the one that goes.
        exec(&server, &format!("(sleep 1; echo {how} >/proc/sysrq-trigger) >/dev/null 2>&1 &"));
        is_back(&server, &address, number);
    }
    // It reboots while nobody looks.
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let before = exec(&server, boot);
    exec(&server, "(sleep 1; echo b >/proc/sysrq-trigger) >/dev/null 2>&1 &");
    server.kill();
    wait_for("nginx to go", LIMIT, || (!answers(&server, &address)).then_some(()));
    server.start_again();
    is_back(&server, &address, 3);
    assert_ne!(exec(&server, boot), before);
    fill_disk(&server, &small);
    assert_eq!(server.ask(&["vm", "show", "web"])["vm"]["pid"], pid, "another VMM");
    server.cli(&["vm", "stop", "web"]).ok();
    server.cli(&["vm", "delete", "web"]).ok();
    drop(small);
    assert_eq!(server.terminate(Duration::from_secs(30)), Some(0));
    assert_eq!(server.instance.leftovers(), Vec::<String>::new());
}

fn fill_disk(server: &Server, small: &Small<'_>) {
    let disk = exec(server, "grep -lx data /sys/block/*/serial | cut -d / -f 4");
    // Around the cache: what QEMU did not take is what the guest is told of.
    let fill = format!("dd if=/dev/zero of=/dev/{disk} bs=1M count=16 oflag=direct; echo $? >/tmp/filled");
    exec(server, &format!("({fill}) >/dev/null 2>&1 &"));
    let show = || server.ask(&["vm", "show", "web"])["vm"].clone();
    let halted =
        wait_for("the guest to stand still", LIMIT, || Some(show()).filter(|vm| vm["halted"] != Value::Null));
    let why = "disk data: there is no space left for it on the host";
    assert_eq!((&halted["power"], &halted["halted"]), (&json!("paused"), &json!(why)));
    wait_for("the audit log to tell", LIMIT, || (told(server, "vm.halted") == 1).then_some(()));
    let shown = server.cli(&["vm", "show", "web"]).ok().stdout;
    assert!(shown.contains(&format!("it stands still: {why}")), "{shown}");
    let refused = server.cli(&["vm", "start", "web"]);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    assert!(refused.stderr.contains(why), "{}", refused.stderr);
    println!("{}", refused.stderr);
    small.grow();
    server.cli(&["vm", "start", "web"]).ok();
    wait_for("the guest to go on", LIMIT, || (show()["power"] == json!("running")).then_some(()));
    let filled = || Some(exec(server, "cat /tmp/filled 2>/dev/null")).filter(|code| !code.is_empty());
    assert_eq!(wait_for("what the guest wrote", LIMIT, filled), "0", "a write was lost");
    wait_for("the audit log to tell", LIMIT, || (told(server, "vm.resumed") == 1).then_some(()));
}
