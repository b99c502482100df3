//! Templates and clones: each a VM of its own from its first moment on the network, whatever befalls the others.

use crate::server::{Server, proteus, wait_for};
use crate::{image_dir, inside, serves};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Takes memory from a clone, by its balloon, and turns a few knobs more.
const SMALLER: &str = "
name: smaller
version: 1.0.0
resources: { memory: { preferred: 160MiB }, vcpus: { preferred: 1500m } }
tuning: { sysctl: { vm.swappiness: 7 } }
verify:
  health: [ { http: { port: 80, path: /, status: 200 } } ]
  window: { before: 1s, after: 1s }
";
/// The template had slot 0.
const TEMPLATE_MAC: &str = "52:50:52:00:00:00";
/// A file in the guests' memory, and on the template's disk.
const MARK: &str = "/tmp/mark";

/// How `/proc/net/if_inet6` writes the address that a link makes of its own (RFC 4291, appendix A).
fn ipv6_of(mac: &str) -> String {
    let bytes: Vec<u8> = mac.split(':').map(|part| u8::from_str_radix(part, 16).unwrap()).collect();
    let [a, b, c, d, e, f] = bytes[..] else { panic!("{mac}") };
    format!("fe80000000000000{:02x}{b:02x}{c:02x}fffe{d:02x}{e:02x}{f:02x}", a ^ 2)
}

fn digest(path: &Path) -> Vec<u8> {
    Sha256::digest(std::fs::read(path).unwrap()).to_vec()
}

struct Bench {
    server: Server,
    disk: PathBuf,
    saved: PathBuf,
    mark: String,
}

fn mark_of(server: &Server, vm: &str) -> String {
    inside(server, vm, &["/bin/busybox", "sha256sum", MARK])
}

fn word_on_disk(server: &Server, vm: &str) -> String {
    inside(server, vm, &["/bin/busybox", "head", "-c", "4", "/dev/vda"])
}

impl Bench {
    /// A template with nginx, a disk, a mark in its memory and an identity to lose.
    fn begin() -> Self {
        let (server, images) = (Server::start(), image_dir());
        let disk = server.dir.path().join("data.raw");
        std::fs::write(&disk, vec![b'-'; 4 << 20]).unwrap();
        let (guest, image) = (images.join("small"), images.join("nginx.erofs"));
        let data = format!("data={}", disk.display());
        let words = ["vm", "create", "base", "--guest", guest.to_str().unwrap(), "--memory", "256MiB"];
        let more = ["--vcpus-max", "2", "--image", image.to_str().unwrap(), "--disk", &data];
        let view = server.ask(&words.into_iter().chain(more).collect::<Vec<_>>());
        let saved = server.state().join("vms").join(view["id"].as_str().unwrap()).join("template");
        let begun = Instant::now();
        server.cli(&["vm", "start", "base", "--wait"]).ok();
        println!("boot: {} ms", begun.elapsed().as_millis());
        let script = "dd if=/dev/urandom of=/tmp/mark bs=64k count=128 2>/dev/null; echo base | dd of=/dev/vda \
            conv=fsync,notrunc 2>/dev/null; echo 00000000000000000000000000000000 > /etc/machine-id";
        inside(&server, "base", &["/bin/busybox", "sh", "-c", script]);
        let mark = mark_of(&server, "base");
        let early = server.cli(&["vm", "clone", "base", "one"]);
        assert!(early.code == 4 && early.stderr.contains("is no template"), "{}", early.stderr);
        let begun = Instant::now();
        server.cli(&["vm", "template", "base"]).ok();
        println!("template: {} ms", begun.elapsed().as_millis());
        let again = server.cli(&["vm", "start", "base"]);
        assert!(again.code == 4 && again.stderr.contains("never runs again"), "{}", again.stderr);
        let taken = server.cli(&["vm", "clone", "base", "base", "--dry-run"]);
        assert!(taken.code == 4 && taken.stderr.contains("there is a VM base already"), "{}", taken.stderr);
        let free = server.cli(&["vm", "clone", "base", "one", "--dry-run"]).ok().stdout;
        assert_eq!(free, "would start one from base, with 256 MiB\n");
        Self { server, disk, saved, mark }
    }

    fn clone(&self, name: &str) -> Value {
        let begun = Instant::now();
        let view = self.server.ask(&["vm", "clone", "base", name]);
        println!("clone {name}: {} ms", begun.elapsed().as_millis());
        assert!(serves(&self.server, view["address"].as_str().unwrap()), "{view}");
        view
    }

    fn network(&self, argv: &[&str]) -> String {
        let space = self.server.instance.namespace();
        let output = Command::new("ip").args(["netns", "exec", &space]).args(argv).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

fn each_is_somebody(bench: &Bench) {
    let views = ["one", "two"].map(|name| bench.clone(name));
    assert_ne!(views[0]["address"], views[1]["address"]);
    let of = |what: &[&str]| ["one", "two"].map(|name| inside(&bench.server, name, what));
    let macs = of(&["/bin/cat", "/sys/class/net/eth0/address"]);
    let ids = of(&["/bin/cat", "/etc/machine-id"]);
    let random = of(&["/bin/cat", "/proc/sys/kernel/random/uuid"]);
    for pair in [&macs, &ids, &random] {
        assert_ne!(pair[0], pair[1]);
    }
    assert!(ids.iter().all(|id| id.len() == 32 && !id.starts_with("00000000")), "{ids:?}");
    assert_eq!(of(&["/bin/busybox", "hostname"]), ["one", "two"]);
    for (name, mac) in ["one", "two"].into_iter().zip(&macs) {
        let own = |addresses: &str| {
            addresses.contains(&ipv6_of(mac)) && !addresses.contains(&ipv6_of(TEMPLATE_MAC))
        };
        wait_for("an IPv6 address of its own", Duration::from_secs(20), || {
            own(&inside(&bench.server, name, &["/bin/cat", "/proc/net/if_inet6"])).then_some(())
        });
    }
    // The bridge remembers who spoke for minutes: nobody spoke as the template, which had slot 0.
    let seen = bench.network(&["bridge", "fdb", "show", "br", "pb0"]);
    assert!(macs.iter().all(|mac| seen.contains(mac.as_str())), "{macs:?}\n{seen}");
    assert!(!seen.contains(TEMPLATE_MAC), "a clone spoke as its template:\n{seen}");
    assert_eq!(["one", "two"].map(|name| mark_of(&bench.server, name)), [&*bench.mark, &bench.mark]);
}

fn one_does_not_touch_another(bench: &Bench) {
    let server = &bench.server;
    let before = digest(&bench.saved.join("ram"));
    let file = server.dir.path().join("smaller.yaml");
    std::fs::write(&file, SMALLER).unwrap();
    server.cli(&["profile", "push", file.to_str().unwrap()]).ok();
    let done = server.cli(&["morph", "apply", "one", "--profile", "smaller", "--skip-unsupported"]);
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    assert_eq!(inside(server, "one", &["/bin/cat", "/proc/sys/vm/swappiness"]), "7");
    assert_eq!(inside(server, "one", &["/bin/cat", "/sys/devices/system/cpu/online"]), "0-1");
    server.cli(&["morph", "apply", "one", "--fresh-vmm"]).ok();
    inside(server, "one", &["/bin/busybox", "sh", "-c", "echo mine | dd of=/dev/vda conv=fsync,notrunc"]);
    assert!(before == digest(&bench.saved.join("ram")), "a clone changed the template's memory");
    assert_eq!(std::fs::read(&bench.disk).unwrap()[..4], *b"base");
    bench.clone("three");
    for name in ["one", "two", "three"] {
        assert_eq!(mark_of(server, name), bench.mark, "{name}");
    }
    let words = ["one", "two", "three"].map(|name| word_on_disk(server, name));
    assert_eq!(words, ["mine", "base", "base"]);
    assert_ne!(inside(server, "two", &["/bin/cat", "/proc/sys/vm/swappiness"]), "7");
}

fn they_live_as_others_do(bench: &mut Bench) {
    assert_eq!(bench.server.terminate(Duration::from_secs(30)), Some(0));
    bench.server.start_again();
    let server = &bench.server;
    let view = server.ask(&["vm", "show", "one"])["vm"].clone();
    assert_eq!((view["power"].as_str(), view["profile"].as_str()), (Some("running"), Some("smaller@1.0.0")));
    assert!(serves(server, view["address"].as_str().unwrap()));
    // A stopped clone boots, with its own disk and its own address.
    server.cli(&["vm", "stop", "one"]).ok();
    let booted = server.ask(&["vm", "start", "one", "--wait"]);
    assert_eq!(booted["address"], view["address"]);
    assert!(serves(server, view["address"].as_str().unwrap()));
    assert_eq!(word_on_disk(server, "one"), "mine");
    // No room for one more: refused before anything is made of it.
    let free =
        server.ask(&["allocation", "show"])["free"].as_object().unwrap().values().next().unwrap().clone();
    let mib = ((free["memory"].as_u64().unwrap() >> 20) - 128) & !1;
    let guest = image_dir().join("small");
    let size = format!("{mib}MiB");
    server.cli(&["vm", "create", "big", "--guest", guest.to_str().unwrap(), "--memory", &size]).ok();
    server.cli(&["vm", "start", "big"]).ok();
    let refused = server.cli(&["vm", "clone", "base", "four"]);
    assert!(refused.code == 4 && refused.stderr.contains("hint: stop another VM"), "{}", refused.stderr);
    assert_eq!(server.cli(&["vm", "show", "four"]).code, 3);
    server.cli(&["vm", "stop", "big", "--grace", "0s"]).ok();
    server.cli(&["vm", "delete", "big"]).ok();
}

/// Killed while a clone is made: it is a clone that serves, or none; never one half made.
fn cut_short(bench: &mut Bench) {
    let state = bench.server.state().display().to_string();
    let there = bench.server.instance.processes().len();
    let places = |server: &Server| std::fs::read_dir(server.state().join("vms")).unwrap().count();
    let placed = places(&bench.server);
    let asked = std::thread::spawn(move || proteus(&["--state", &state, "vm", "clone", "base", "cut"]).code);
    wait_for("the VMM of the clone", Duration::from_secs(20), || {
        (bench.server.instance.processes().len() > there).then_some(())
    });
    bench.server.kill();
    asked.join().unwrap();
    bench.server.start_again();
    let server = &bench.server;
    let shown = server.cli(&["vm", "show", "cut"]);
    println!("cut short: exit {}", shown.code);
    if shown.code == 0 {
        let view = server.ask(&["vm", "show", "cut"])["vm"].clone();
        assert_eq!(view["power"], json!("running"));
        assert!(serves(server, view["address"].as_str().unwrap()));
    } else {
        assert_eq!(server.instance.processes().len(), there, "a clone without an identity runs");
        assert_eq!(places(server), placed, "its place is left");
        let audit = server.ask(&["audit"]);
        let last = audit["entries"].as_array().unwrap().last().unwrap();
        assert_eq!((&last["action"], &last["subject"]), (&json!("vm.clone_failed"), &json!("vm/cut")));
        bench.clone("cut");
    }
    let seen = bench.network(&["bridge", "fdb", "show", "br", "pb0"]);
    assert!(!seen.contains(TEMPLATE_MAC), "a clone spoke as its template:\n{seen}");
}

#[test]
#[ignore = "boots a guest: ./test runs it"]
fn clones_are_vms_of_their_own() {
    let mut bench = Bench::begin();
    each_is_somebody(&bench);
    one_does_not_touch_another(&bench);
    they_live_as_others_do(&mut bench);
    cut_short(&mut bench);
    let server = &mut bench.server;
    let refused = server.cli(&["vm", "delete", "base"]);
    assert!(refused.code == 4 && refused.stderr.contains("delete those first"), "{}", refused.stderr);
    for name in ["one", "two", "three", "cut"] {
        server.cli(&["vm", "stop", name, "--grace", "0s"]).ok();
        server.cli(&["vm", "delete", name]).ok();
    }
    server.cli(&["vm", "delete", "base"]).ok();
    assert!(bench.disk.exists() && !bench.saved.exists());
    assert_eq!(server.terminate(Duration::from_secs(30)), Some(0));
    assert_eq!(server.instance.leftovers(), Vec::<String>::new());
}
