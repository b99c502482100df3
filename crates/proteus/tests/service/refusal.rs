//! What is refused, and in which words.

use crate::server::{Server, open_dir, proteus};
use expect_test::expect;
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

#[test]
fn bodies_and_paths_that_cannot_be() {
    let server = Server::start();
    let secret = server.cli(&["token", "create", "t", "--role", "admin"]).ok().stdout.trim().to_owned();
    let ask = |method: &str, path: &str, body: &[u8]| server.tcp(method, path, Some(&secret), body);
    for body in [&b"{"[..], b"[]", b"{\"a\":1}", b"\xff\xfe", b"null", &b"[".repeat(100_000)] {
        let (status, text) = ask("POST", "/api/v1/vms", body);
        assert_eq!(status, 422, "{text}");
        assert!(text.contains("the body is not what was expected"), "{text}");
    }
    let (status, text) = ask("POST", "/api/v1/profiles", &vec![b' '; 64 << 20]);
    assert_eq!(status, 413, "64 MiB: {text}");
    for path in ["/", "/api/v1/nothing", "/api/v2/vms", "/api/v1/vms/%2e%2e%2f%2e%2e/x", "/../etc/passwd"] {
        let (status, text) = ask("GET", path, b"");
        assert_eq!(status, 404, "{path}: {text}");
        let body: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(body["code"], json!("not_found"), "{path}");
    }
    for name in ["nobody", "..%2F..%2Fetc", "%00", "a%0Ab", &"x".repeat(5000)] {
        let (status, text) = ask("GET", &format!("/api/v1/vms/{name}"), b"");
        assert_eq!(status, 404, "{name}: {text}");
    }
    assert_eq!(ask("PUT", "/api/v1/vms", b"{}").0, 405);
    let unknown = ask("POST", "/api/v1/disarm", br#"{"vmm": "x"}"#);
    assert!(unknown.0 == 422 && unknown.1.contains("unknown field `vmm`"), "{unknown:?}");
    for list in [&b"[]"[..], b" [ ]", b"[null]"] {
        let (status, text) = ask("POST", "/api/v1/disarm", list);
        assert!(status == 422 && text.contains("expected an object, found a list"), "{status} {text}");
    }
    for path in ["/api/v1/disarm", "/api/v1/arm"] {
        let (status, text) = ask("POST", path, b"");
        assert!(status == 422 && text.contains("expected an object, found nothing"), "{status} {text}");
    }
    assert_eq!(server.ask(&["host", "show"])["disarmed_by"], Value::Null);
    assert_eq!(server.tcp("GET", "/healthz", None, b""), (200, "ok\n".into()));
    // Nothing of this stopped it or was taken.
    assert_eq!(server.ask(&["vm", "list"]), json!([]));
}

#[test]
fn vms_that_cannot_be() {
    let server = Server::start();
    let file = server.dir.path().join("disk.raw");
    std::fs::write(&file, b"x").unwrap();
    let disk = format!("data={}", file.display());
    let mut text = String::new();
    let words: [&[&str]; 10] = [
        &["vm", "create", "../x", "--disk", &disk],
        &["vm", "create", "x", "--guest", "/no/such"],
        &["vm", "create", "x"],
        &["vm", "create", "x", "--disk", &disk, "--memory", "8MiB"],
        &["vm", "create", "x", "--disk", &disk, "--memory", "999999TiB"],
        &["vm", "create", "x", "--disk", &disk, "--vcpus", "300"],
        &["vm", "create", "x", "--disk", &disk, "--disk", &disk],
        &["vm", "create", "x", "--disk", "../a=/etc/passwd"],
        &["vm", "start", "nobody"],
        &["morph", "plan", "nobody", "--profile", "batch"],
    ];
    for words in words {
        text.push_str(&server.cli(words).seen(server.dir.path()));
        text.push('\n');
    }
    expect![[r#"
        error: invalid value '../x' for '<NAME>': VM name "../x" is not a name: expected 1 to 63 of a-z, 0-9 and '-', beginning with a letter or digit

        For more information, try '--help'.
        exit 2

        error: --guest /no/such: there is no vmlinuz in it
          hint: give a folder that `proteus image build small` or `debian` made
        exit 2

        error: disks: expected a disk to boot from, found none
          hint: see `proteus vm create --help`
        exit 4

        error: memory: expected 96 MiB to memory_max, at most 16 TiB, found 8 MiB of 8 MiB
          hint: see `proteus vm create --help`
        exit 4

        error: memory: expected 96 MiB to memory_max, at most 16 TiB, found 999999 TiB of 999999 TiB
          hint: see `proteus vm create --help`
        exit 4

        error: vcpus: expected 1 to vcpus_max, which is at most 255, found 300 of 300
          hint: see `proteus vm create --help`
        exit 4

        error: disks, images: expected names that differ, found data twice
          hint: see `proteus vm create --help`
        exit 4

        error: --disk "../a=/etc/passwd": expected NAME=FILE
          hint: as in --disk root=/srv/web.qcow2, or with ,overlay ,ro ,raw or ,qcow2 after it
        exit 2

        error: there is no VM nobody
          hint: `proteus vm list` shows what there is
        exit 3

        error: there is no VM nobody
          hint: `proteus vm list` shows what there is
        exit 3

    "#]].assert_eq(&text);
    assert_eq!(server.ask(&["vm", "list"]), json!([]));
}

#[test]
fn overlays_and_seeds_that_cannot_be() {
    let server = Server::start();
    let dir = server.dir.path();
    let write = |name: &str, text: &str| {
        std::fs::write(dir.join(name), text).unwrap();
        dir.join(name).display().to_string()
    };
    let closed = write("closed.raw", "x");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o600)).unwrap();
    let open = write("open.raw", "x");
    let (closed, open, no_image) = (
        format!("root={closed},overlay"),
        format!("root={open}"),
        format!("root={},overlay", write("a.qcow2", "x")),
    );
    let (plain, bad) =
        (write("plain.yaml", "hostname: a\n"), write("bad.yaml", "#cloud-config\na: [1\nb: 2\n"));
    let (good, list) = (write("good.yaml", "#cloud-config\n"), write("list.yaml", "- a\n"));
    let words: [&[&str]; 8] = [
        &["--disk", &closed],
        &["--disk", &no_image],
        &["--disk", &open, "--user-data", &plain],
        &["--disk", &open, "--user-data", &bad],
        &["--disk", &open, "--user-data", &good, "--meta-data", &list],
        &["--disk", &open, "--meta-data", &good],
        &["--disk", &open, "--user-data", "/no/such.yaml"],
        &["--disk", &open, "--user-data", "/dev/zero"],
    ];
    let mut text = String::new();
    for words in words {
        let all: Vec<&str> = ["vm", "create", "x"].into_iter().chain(words.iter().copied()).collect();
        text.push_str(&server.cli(&all).seen(dir));
        text.push('\n');
    }
    what_is_said_of_them().assert_eq(&text);
    // Refused for its disk, so that nothing of it is left: the name is free, and so is its place.
    assert_eq!(server.ask(&["vm", "list"]), json!([]));
    let places = std::fs::read_dir(server.state().join("vms")).unwrap().count();
    assert_eq!(places, 0);
}

fn what_is_said_of_them() -> expect_test::Expect {
    expect![[r#"
        error: disks: each VM has a user of its own, who may not reach DIR/closed.raw
          hint: chmod o+r DIR/closed.raw
        exit 4

        error: DIR/a.qcow2: its name says qcow2, its content does not
          hint: if it is a raw disk, say so: --disk NAME=FILE,raw
        exit 2

        error: DIR/plain.yaml:1:1: user-data: expected `#cloud-config` or `#!` at its beginning, found "hostname: a" (put `#cloud-config` alone on the first line; cloud-init ignores the file else)
          hint: see https://cloudinit.readthedocs.io
        exit 2

        error: DIR/bad.yaml:3:2: user-data: expected YAML, found illegal placement of ':' indicator
          hint: see https://cloudinit.readthedocs.io
        exit 2

        error: DIR/list.yaml:1:1: meta-data: expected a map of YAML, as in `key: value`, found a list
          hint: see https://cloudinit.readthedocs.io
        exit 2

        error: the following required arguments were not provided:
          --user-data <FILE>

        Usage: proteus vm create --user-data <FILE> --disk <NAME=FILE[,overlay|,ro]> --meta-data <FILE> <NAME>

        For more information, try '--help'.
        exit 2

        error: read /no/such.yaml
          because: No such file or directory (os error 2)
        exit 1

        error: /dev/zero: expected a regular file, found a device
          hint: name a file, or give `-` and pipe the text into standard input
        exit 2

    "#]]
}

fn validate(dir: &Path, name: &str, text: &[u8]) -> String {
    let file = dir.join(name);
    std::fs::write(&file, text).unwrap();
    proteus(&["profile", "validate", file.to_str().unwrap()]).seen(dir)
}

#[test]
fn profiles_that_cannot_be() {
    let dir = open_dir();
    let good = "name: a\nversion: 1.0.0\n";
    let mut text = String::new();
    let documents = [
        ("good.yaml", good.to_owned()),
        ("path.yaml", "name: ../../etc\nversion: 1.0.0\n".to_owned()),
        ("field.yaml", format!("{good}commands: [reboot]\n")),
        (
            "weights.yaml",
            format!("{good}resource_weights: {{ cpu: 0.9, memory: 0.9, network: 0, storage_io: 0 }}\n"),
        ),
        ("order.yaml", format!("{good}resources: {{ vcpus: {{ min: 4, preferred: 2 }} }}\n")),
        ("sysctl.yaml", format!("{good}tuning: {{ sysctl: {{ kernel.core_pattern: \"|/bin/sh\" }} }}\n")),
        ("alias.yaml", format!("{good}labels: {{ a: &a x, b: *a }}\n")),
        ("bad.json", "{\"name\": \"a\",}".to_owned()),
        ("ending.txt", good.to_owned()),
        ("empty.yaml", String::new()),
    ];
    for (name, document) in documents {
        text.push_str(&validate(dir.path(), name, document.as_bytes()));
        text.push('\n');
    }
    let nested = format!("{good}labels: {}{}", "{a: ".repeat(10_000), "}".repeat(10_000));
    text.push_str(&validate(dir.path(), "nested.yaml", nested.as_bytes()));
    text.push_str(&validate(dir.path(), "big.yaml", &vec![b'#'; 64 << 20]));
    expect![[r#"
        the profile is valid
        exit 0

        DIR/path.yaml:1:7: name: expected a name: 1 to 63 of a-z, 0-9 and '-', beginning with a letter or digit, found "../../etc"
        exit 1

        DIR/field.yaml:3:1: commands: expected one of name, version, summary, labels, extends, traits, resources, resource_weights, application_priorities, behavioral_rules, network_policy, components, tuning, sla, security, verify, cost, found an unknown field
        exit 1

        DIR/weights.yaml:3:19: resource_weights: expected weights that sum to 1.0, found a sum of 1.8 (take away 0.8)
        exit 1

        DIR/order.yaml:3:42: resources.vcpus.preferred: expected at least min, which is 4, found 2
        exit 1

        DIR/sysctl.yaml:3:21: tuning.sysctl.kernel.core_pattern: expected a kernel parameter under vm., net., fs. or kernel.sched_, as in vm.swappiness, found "kernel.core_pattern"
        exit 1

        DIR/alias.yaml:3:14: document: expected a value, found an anchor (remove the &name; anchors are not read, and text that begins with & needs quotes)
        exit 1

        DIR/bad.json:1:14: document: expected an item after ',', found "}" (JSON allows no comma before the end)
        exit 1

        the profile is valid
        exit 0

        DIR/empty.yaml:1:1: document: expected a profile, found an empty text
        exit 1

        DIR/nested.yaml:3:133: document: expected at most 32 levels of nesting, found more
        exit 1
        error: DIR/big.yaml: expected at most 1048576 bytes (1 MiB), found 67108864 (64 MiB)
          hint: is it the file that you mean?
        exit 2
    "#]].assert_eq(&text);
}

#[test]
fn profiles_that_are_no_files() {
    let dir = open_dir();
    let mut text = String::new();
    let pipe = dir.path().join("pipe.yaml");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let folder = dir.path().display().to_string();
    for word in ["/dev/zero", &pipe.display().to_string(), &folder, "/no/such.yaml", "-"] {
        text.push_str(&proteus(&["profile", "validate", word]).seen(dir.path()));
    }
    text.push_str(&proteus(&["profile", "push", &pipe.display().to_string()]).seen(dir.path()));
    expect![[r#"
        error: /dev/zero: expected a regular file, found a device
          hint: name a file, or give `-` and pipe the text into standard input
        exit 2
        error: DIR/pipe.yaml: expected a regular file, found a pipe
          hint: name a file, or give `-` and pipe the text into standard input
        exit 2
        error: DIR: expected a regular file, found a folder
          hint: name a file, or give `-` and pipe the text into standard input
        exit 2
        error: read /no/such.yaml
          because: No such file or directory (os error 2)
        exit 1
        standard input:1:1: document: expected a profile, found an empty text
        exit 1
        error: DIR/pipe.yaml: expected a regular file, found a pipe
          hint: name a file, or give `-` and pipe the text into standard input
        exit 2
    "#]]
    .assert_eq(&text);
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let nowhere = tempfile::tempdir().unwrap();
    let state = nowhere.path().to_str().unwrap();
    let lists = ["--state", state, "vm", "list"];
    for (words, codes) in [(&["completion", "bash"][..], &[0][..]), (&["doctor"], &[0, 1]), (&lists, &[7])] {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_proteus"));
        let child =
            child.args(words).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = child.spawn().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        let code = child.wait().unwrap().code().unwrap();
        assert!(codes.contains(&code), "{words:?} ended with {code}");
    }
    let whole = proteus(&["completion", "bash"]).ok();
    let mut bash =
        std::process::Command::new("bash").args(["-n"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(whole.stdout.as_bytes()).unwrap();
    assert!(bash.wait().unwrap().success(), "bash does not read it");
    assert!(whole.stdout.contains("rollback"));
}

#[test]
fn a_name_that_reads_as_an_id_is_refused() {
    let server = Server::start();
    let disk = server.dir.path().join("disk.raw");
    std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
    let disk = format!("root={}", disk.display());
    let first = server.ask(&["vm", "create", "web", "--disk", &disk, "--memory", "128MiB"]);
    let id = first["id"].as_str().unwrap();
    let other = "0123456789abcdef0123456789abcdef";
    for name in [id, other] {
        let told = server.cli(&["vm", "create", name, "--disk", &disk, "--memory", "128MiB"]);
        assert!(told.code != 0 && told.stderr.contains("reads as the id of a VM"), "{}", told.stderr);
        assert!(told.stderr.contains("hint: choose a name that is not 32 hex digits"), "{}", told.stderr);
    }
    // An id still finds its VM, and a name with fewer digits is a name.
    assert_eq!(server.ask(&["vm", "show", id])["vm"]["name"], "web");
    let second = server.dir.path().join("second.raw");
    std::fs::write(&second, vec![0; 1 << 20]).unwrap();
    let (disk, short) = (format!("root={}", second.display()), &other[..31]);
    server.cli(&["vm", "create", short, "--disk", &disk, "--memory", "128MiB"]).ok();
    assert_eq!(server.ask(&["vm", "show", short])["vm"]["name"], short);
}

#[test]
fn an_image_without_what_it_says_of_itself_is_refused_with_a_way_out() {
    let server = Server::start();
    let image = server.dir.path().join("bare.erofs");
    std::fs::write(&image, "x").unwrap();
    let image = image.display().to_string();
    let told = server.cli(&["vm", "create", "web", "--image", &image]);
    assert!(told.code == 1 && told.stderr.contains("`proteus image build` writes both"), "{}", told.stderr);
}
