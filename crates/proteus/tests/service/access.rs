//! Who may do what, and over which way.

use crate::server::{Server, free_port, open_dir, proteus};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

fn token(server: &Server, name: &str, role: &str) -> String {
    server.cli(&["token", "create", name, "--role", role]).ok().stdout.trim().to_owned()
}

#[test]
fn a_token_does_what_its_role_allows_until_it_is_revoked() {
    let server = Server::start();
    let (viewer, operator) = (token(&server, "eye", "viewer"), token(&server, "hand", "operator"));
    let admin = token(&server, "boss", "admin");
    let code = |answer: (u16, String)| {
        let body: Value = serde_json::from_str(&answer.1).unwrap_or_default();
        (answer.0, body["code"].as_str().unwrap_or_default().to_owned())
    };
    let ask = |method: &str, path: &str, token: Option<&str>| code(server.tcp(method, path, token, b"{}"));
    let is = |status: u16, word: &str| (status, word.to_owned());
    let table = [
        ("GET", "/api/v1/vms", None, is(401, "unauthenticated")),
        ("GET", "/api/v1/vms", Some("proteus-wrong"), is(401, "unauthenticated")),
        ("GET", "/api/v1/vms", Some(viewer.as_str()), is(200, "")),
        ("GET", "/metrics", None, is(401, "unauthenticated")),
        ("GET", "/metrics", Some(&viewer), is(200, "")),
        ("POST", "/api/v1/vms", Some(&viewer), is(403, "forbidden")),
        ("POST", "/api/v1/vms", Some(&operator), is(422, "invalid")),
        ("DELETE", "/api/v1/vms/x", Some(&viewer), is(403, "forbidden")),
        ("POST", "/api/v1/vms/x/exec", Some(&viewer), is(403, "forbidden")),
        ("GET", "/api/v1/vms/x/console", Some(&viewer), is(403, "forbidden")),
        ("POST", "/api/v1/vms/x/plan", Some(&viewer), is(422, "invalid")),
        ("POST", "/api/v1/disarm", Some(&operator), is(403, "forbidden")),
        ("GET", "/api/v1/tokens", Some(&operator), is(403, "forbidden")),
        ("GET", "/api/v1/tokens", Some(&admin), is(200, "")),
    ];
    for (method, path, token, expected) in table {
        assert_eq!(ask(method, path, token), expected, "{method} {path} with {token:?}");
    }
    let listing = server.tcp("GET", "/api/v1/tokens", Some(&admin), b"").1;
    assert!(!listing.contains("secret") && !listing.contains("digest"), "{listing}");
    let url = format!("http://127.0.0.1:{}", server.port);
    let refused = proteus(&["--server", &url, "--token", &viewer, "disarm"]);
    assert_eq!(refused.code, 8, "{}", refused.stderr);
    let said = "error: this takes the role admin, the token has viewer\n  hint: whoever may: `proteus token create NAME \
                --role admin`, as root on the host or as admin\n";
    assert_eq!(refused.stderr, said);
    server.cli(&["token", "revoke", "eye"]).ok();
    assert_eq!(ask("GET", "/api/v1/vms", Some(&viewer)), is(401, "unauthenticated"));
    assert_eq!(proteus(&["--server", &url, "--token", &viewer, "vm", "list"]).code, 8);
    let audit = server.ask(&["audit"]).to_string();
    assert!(audit.contains("token.revoke") && !audit.contains(&viewer), "{audit}");
    // Only root may open the socket that asks for no token.
    use std::os::unix::fs::PermissionsExt;
    let socket = std::fs::metadata(server.state().join("proteus.sock")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
}

#[test]
fn an_operator_gives_no_file_of_the_host_to_a_guest() {
    let server = Server::start();
    let hand = token(&server, "hand", "operator");
    let boss = token(&server, "boss", "admin");
    let (images, outside) = (server.state().join("images"), server.dir.path().join("secret.raw"));
    std::fs::create_dir_all(&images).unwrap();
    let shared = images.join("disk.raw");
    for path in [&shared, &outside] {
        std::fs::write(path, "x").unwrap();
    }
    // A way out of the folder is no way in.
    let link = images.join("link.raw");
    std::os::unix::fs::symlink(&outside, &link).unwrap();
    let create = |token: &str, name: &str, path: &Path, how: &str| {
        let mut disk = json!({ "name": "root", "path": path, "format": "raw" });
        if !how.is_empty() {
            disk[how] = json!(true);
        }
        let intent = json!({ "name": name, "vcpus": 1, "vcpus_max": 1, "memory": 268_435_456u64,
            "memory_max": 268_435_456u64, "boot": { "from": "firmware" }, "disks": [disk] });
        server.tcp("POST", "/api/v1/vms", Some(token), intent.to_string().as_bytes()).0
    };
    for how in ["", "overlay", "read_only"] {
        assert_eq!(create(&hand, "a", &outside, how), 403, "{how} outside");
        assert_eq!(create(&hand, "a", &link, how), 403, "{how} by a link");
    }
    assert_eq!(create(&hand, "a", &shared, ""), 403, "what all share would be written to");
    assert_eq!(create(&hand, "a", &shared, "read_only"), 200);
    assert_eq!(create(&boss, "b", &outside, ""), 200);
}

fn openssl(dir: &Path, words: &str) {
    let output = Command::new("openssl").current_dir(dir).args(words.split(' ')).output();
    let output = output.expect("the program openssl makes the certificates of this test");
    assert!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, and a certificate of it for localhost.
fn certificates(dir: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(dir, &format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=ca -days 2"));
    openssl(dir, &format!("req {key} -keyout key.pem -out request.pem -subj /CN=localhost"));
    std::fs::write(dir.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    let sign = "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2";
    openssl(dir, &format!("{sign} -extfile names"));
}

#[test]
fn tls_is_needed_beyond_loopback_and_works_end_to_end() {
    let dir = open_dir();
    let state = dir.path().join("other");
    let address = format!("0.0.0.0:{}", free_port());
    let bare = proteus(&["--state", state.to_str().unwrap(), "serve", "--listen", &address]);
    assert_eq!(bare.code, 1);
    assert_eq!(
        bare.stderr,
        format!("error: {address} is not a loopback address: give --tls-cert and --tls-key\n")
    );
    assert!(!state.exists(), "refused, and yet it took the folder");
    certificates(dir.path());
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    let server = Server::start_with(&["--tls-cert", &cert, "--tls-key", &key]);
    let secret = token(&server, "far", "viewer");
    let url = format!("https://localhost:{}", server.port);
    let far = |words: &[&str]| {
        let all: Vec<&str> =
            ["--server", &url, "--token", &secret].into_iter().chain(words.iter().copied()).collect();
        proteus(&all)
    };
    let listed = far(&["--ca", &file("ca.pem"), "--output", "json", "vm", "list"]).ok();
    assert_eq!(listed.json(), json!([]));
    let strange = far(&["vm", "list"]);
    assert_eq!(strange.code, 7, "a server of an unknown authority was trusted: {}", strange.stdout);
    let other = open_dir();
    certificates(other.path());
    let other_ca = other.path().join("ca.pem").display().to_string();
    assert_eq!(far(&["--ca", &other_ca, "vm", "list"]).code, 7);
    let plain = proteus(&["--server", &format!("http://localhost:{}", server.port), "vm", "list"]);
    assert_ne!(plain.code, 0, "plain HTTP was answered on a TLS port");
}
