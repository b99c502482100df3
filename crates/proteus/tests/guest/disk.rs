//! Overlays and seeds: seen in the guest, private on the host, gone with the VM, and never at the owner's cost.

use crate::server::Server;
use crate::{image_dir, inside};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

const USER_DATA: &str = "#cloud-config\nhostname: seeded\nchpasswd: { list: 'root:not-to-be-shown' }\n";

fn kernel_name(server: &Server, serial: &str) -> String {
    let found = ["vda", "vdb"]
        .into_iter()
        .find(|disk| inside(server, "web", &["/bin/cat", &format!("/sys/block/{disk}/serial")]) == serial);
    format!("/dev/{}", found.unwrap_or_else(|| panic!("no disk {serial}")))
}

fn first_word(server: &Server, disk: &str) -> String {
    inside(server, "web", &["/bin/busybox", "head", "-c", "4", disk])
}

fn check_seed(server: &Server, id: &str) {
    let seed = kernel_name(server, "cidata");
    let at = |skip: &str, count: &str| {
        let from = format!("if={seed}");
        let (skip, count) = (format!("skip={skip}"), format!("count={count}"));
        inside(server, "web", &["/bin/busybox", "dd", &from, "bs=1", &skip, &count])
    };
    // ECMA-119, 8.4: in sector 16, the identifier at byte 1, the volume's name, padded, at byte 40.
    assert_eq!((at("32769", "5"), at("32808", "32")), ("CD001".to_owned(), "CIDATA".to_owned()));
    let whole = inside(server, "web", &["/bin/busybox", "strings", &seed]);
    for line in USER_DATA.lines().chain([&*format!("instance-id: {id}"), "local-hostname: web"]) {
        assert!(whole.lines().any(|found| found == line), "{line} is not on the seed:\n{whole}");
    }
    let to = format!("of={seed}");
    let write = ["vm", "exec", "web", "--", "/bin/busybox", "dd", "if=/proc/version", &to];
    assert_ne!(server.cli(&write).code, 0, "the guest wrote to its seed");
}

fn check_private(place: &Path) {
    for name in ["data.qcow2", "seed.iso"] {
        let about = std::fs::metadata(place.join(name)).unwrap();
        assert_eq!(about.mode() & 0o777, 0o600, "{name}");
        assert!(about.uid() >= 70_000, "{name} belongs to {}", about.uid());
    }
}

#[test]
#[ignore = "boots a guest: ./test runs it"]
fn an_overlay_and_a_seed_are_the_vms_own() {
    let server = Server::start();
    let (base, seed) = (server.dir.path().join("base.raw"), server.dir.path().join("user.yaml"));
    let mut content = vec![0u8; 8 << 20];
    content[..4].copy_from_slice(b"base");
    std::fs::write(&base, &content).unwrap();
    std::fs::write(&seed, USER_DATA).unwrap();
    let (guest, disk) = (image_dir().join("small"), format!("data={},overlay", base.display()));
    let words = ["vm", "create", "web", "--guest", guest.to_str().unwrap(), "--memory", "256MiB"];
    let more = ["--disk", &disk, "--user-data", seed.to_str().unwrap()];
    let view = server.ask(&words.into_iter().chain(more).collect::<Vec<_>>());
    let id = view["id"].as_str().unwrap().to_owned();
    let place = server.state().join("vms").join(&id);
    server.cli(&["vm", "start", "web", "--wait"]).ok();
    check_private(&place);
    check_seed(&server, &id);

    assert_eq!(inside(&server, "web", &["uname", "-s"]), "Linux", "a program by its name alone");
    let given = Command::new(env!("CARGO_BIN_EXE_proteus"))
        .args([
            "--state",
            server.state().to_str().unwrap(),
            "vm",
            "exec",
            "-i",
            "web",
            "--",
            "/bin/busybox",
            "wc",
            "-c",
        ])
        .stdin(File::open(&seed).unwrap())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&given.stdout).trim(), USER_DATA.len().to_string(), "{given:?}");
    let unknown = server.cli(&["vm", "exec", "web", "--", "no-such-program"]);
    assert!(unknown.code == 127 && unknown.stderr.contains("not found"), "{}", unknown.stderr);

    let data = kernel_name(&server, "data");
    assert_eq!(first_word(&server, &data), "base");
    let write = format!("of={data}");
    inside(&server, "web", &["/bin/busybox", "dd", "if=/proc/version", &write, "bs=512", "conv=fsync"]);
    assert_eq!(first_word(&server, &data), "Linu");
    server.cli(&["vm", "stop", "web"]).ok();
    server.cli(&["vm", "start", "web", "--wait"]).ok();
    assert_eq!(first_word(&server, &data), "Linu", "a stop lost what the guest wrote");
    assert!(std::fs::read(&base).unwrap() == content, "the guest wrote to the base");

    // Whoever may look sees neither passwords nor keys, nor does the audit log.
    let shown = [&["vm", "show", "web"][..], &["vm", "list"], &["audit"]].map(|words| server.ask(words));
    assert!(shown.iter().all(|view| !view.to_string().contains("not-to-be-shown")), "{shown:?}");
    server.cli(&["vm", "stop", "web"]).ok();
    server.cli(&["vm", "delete", "web"]).ok();
    assert!(!place.exists(), "files of the VM stay");
    assert!(base.exists() && seed.exists(), "the owner's files are gone");
}

#[test]
#[ignore = "boots a guest: ./test runs it"]
fn a_disk_with_a_loader_of_its_own_is_booted() {
    let mut server = Server::start();
    let disk = server.dir.path().join("own.raw");
    std::fs::write(&disk, crate::loader::disk()).unwrap();
    let disk = format!("root={}", disk.display());
    server.cli(&["vm", "create", "own", "--memory", "128MiB", "--disk", &disk]).ok();
    server.cli(&["vm", "start", "own"]).ok();
    crate::server::wait_for("the loader's word", std::time::Duration::from_secs(60), || {
        let seen = server.cli(&["vm", "console", "own", "--dump"]).ok().stdout;
        seen.contains("ready").then_some(())
    });
    // It knows no power button.
    server.cli(&["vm", "stop", "own", "--grace", "10ms"]).ok();
    server.cli(&["vm", "delete", "own"]).ok();
    assert_eq!(server.terminate(std::time::Duration::from_secs(30)), Some(0));
    assert_eq!(server.instance.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "boots a guest: ./test runs it"]
fn a_service_keeps_its_data_on_the_disk_of_its_name() {
    let server = Server::start();
    let disk = server.dir.path().join("redis.ext4");
    std::fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    let (images, file) = (image_dir(), disk.clone());
    let disk = format!("redis-data={}", disk.display());
    let (guest, image) = (images.join("small"), images.join("redis.erofs"));
    let words = ["vm", "create", "web", "--guest", guest.to_str().unwrap(), "--memory", "256MiB"];
    let more = ["--image", image.to_str().unwrap(), "--disk", &disk];
    server.ask(&words.into_iter().chain(more).collect::<Vec<_>>());
    // Empty: that is told at once, and with what mends it.
    let refused = server.cli(&["vm", "start", "web", "--wait"]);
    assert!(refused.code == 1 && refused.stderr.contains("must hold ext4"), "{}", refused.stderr);
    server.cli(&["vm", "stop", "web", "--grace", "0s"]).ok();
    assert!(std::process::Command::new("mkfs.ext4").arg("-q").arg(&file).status().unwrap().success());
    server.cli(&["vm", "start", "web", "--wait"]).ok();
    let redis = |argv: &[&str]| {
        let words = ["vm", "exec", "web", "--service", "redis", "--", "/usr/bin/redis-cli"];
        let words: Vec<&str> = words.into_iter().chain(argv.iter().copied()).collect();
        server.cli(&words).ok().stdout.trim().to_owned()
    };
    assert_eq!(redis(&["set", "word", "kept"]), "OK");
    assert_eq!(redis(&["save"]), "OK");
    server.cli(&["vm", "stop", "web", "--grace", "0s"]).ok();
    server.cli(&["vm", "start", "web", "--wait"]).ok();
    assert_eq!(redis(&["get", "word"]), "kept");
    server.cli(&["vm", "stop", "web"]).ok();
    server.cli(&["vm", "delete", "web"]).ok();
}
