//! Whatever is wrong with a request, the answer is the documented body: code, message, causes and a hint.

use crate::server::{Server, exchange};
use proteus_protocol::api::v1::ErrorBody;
use std::net::TcpStream;

/// Method, path, headers and body; status, code, and what the message says.
type Case<'a> = (&'a str, &'a str, &'a str, &'a [u8], u16, &'a str, &'a str);

/// A request with headers of its own; status, headers and body.
fn ask(server: &Server, method: &str, path: &str, token: &str, headers: &str, body: &[u8]) -> (u16, String) {
    let stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    exchange(stream, method, path, Some(&format!("{token}{headers}")), body).unwrap()
}

#[test]
fn every_refusal_has_the_documented_body() {
    let server = Server::start();
    let secret = server.cli(&["token", "create", "t", "--role", "admin"]).ok().stdout.trim().to_owned();
    let large = vec![b' '; 3 << 20];
    let xml = "\r\nContent-Type: text/xml";
    let table: [Case<'_>; 22] = [
        // Queries.
        ("GET", "/vms/x/console?from=abc", "", b"", 400, "invalid", "from"),
        ("GET", "/vms/x/services?wait_ms=-1", "", b"", 400, "invalid", "wait_ms"),
        ("POST", "/vms?dry_run=maybe", "", b"{}", 400, "invalid", "dry_run"),
        ("DELETE", "/vms/x?dry_run=", "", b"", 400, "invalid", "dry_run"),
        ("DELETE", "/vms/x?dryrun=true", "", b"", 400, "invalid", "\"dryrun\" is nothing"),
        ("POST", "/vms/x/stop?dry_run=true", "", b"{}", 400, "invalid", "\"dry_run\" is nothing"),
        ("GET", "/audit?limit=x", "", b"", 400, "invalid", "limit"),
        ("GET", "/audit?limit=0", "", b"", 422, "invalid", "expected 1 to 1000, found 0"),
        ("GET", "/audit?limit=1001", "", b"", 422, "invalid", "expected 1 to 1000, found 1001"),
        // Paths.
        ("GET", "/vms/%ff", "", b"", 400, "invalid", "UTF-8"),
        ("DELETE", "/vms/a%c3/snapshots/b", "", b"", 400, "invalid", "UTF-8"),
        ("GET", "/nothing", "", b"", 404, "not_found", "there is nothing at /api/v1/nothing"),
        ("POST", "/nothing/%ff", "", b"", 404, "not_found", "there is nothing at"),
        ("GET", "/vms/nobody", "", b"", 404, "not_found", "there is no VM nobody"),
        // Methods.
        ("PUT", "/vms", "", b"{}", 405, "invalid", "/api/v1/vms does not take PUT"),
        ("PATCH", "/vms/x/plan", "", b"", 405, "invalid", "/api/v1/vms/x/plan does not take PATCH"),
        ("DELETE", "/audit", "", b"", 405, "invalid", "does not take DELETE"),
        // Bodies.
        ("POST", "/profiles", "", &large, 413, "invalid", "the body is larger than 2 MiB"),
        ("POST", "/vms", "", b"{", 422, "invalid", "the body is not what was expected"),
        ("POST", "/vms", "", b"\xff", 422, "invalid", "the body is not what was expected"),
        ("POST", "/vms", xml, b"<vm/>", 422, "invalid", "the body is not what was expected"),
        ("POST", "/morphs", xml, b"", 422, "invalid", "the body is not what was expected"),
    ];
    for (method, path, headers, body, status, code, said) in table {
        let path = format!("/api/v1{path}");
        let (found, text) = ask(&server, method, &path, &secret, headers, body);
        assert_eq!(found, status, "{method} {path}: {text}");
        let told: ErrorBody =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{method} {path}: {e}: {text:?}"));
        assert_eq!(told.code, code, "{method} {path}: {told:?}");
        assert!(told.message.contains(said), "{method} {path}: {told:?}");
        assert!(told.hint.is_some_and(|hint| !hint.is_empty()), "{method} {path} has no hint");
    }
    for (method, path, hint) in [
        ("PUT", "/api/v1/vms", "it takes GET and POST"),
        ("PATCH", "/api/v1/vms/x/plan", "it takes POST"),
        ("DELETE", "/api/v1/audit", "it takes GET"),
        ("POST", "/api/v1/vms/x", "it takes GET and DELETE"),
        ("POST", "/metrics", "it takes GET"),
        ("POST", "/healthz", "it takes GET"),
    ] {
        let (status, text) = ask(&server, method, path, &secret, "", b"");
        let told: ErrorBody = serde_json::from_str(&text).unwrap();
        assert_eq!((status, told.hint.as_deref()), (405, Some(hint)), "{method} {path}: {text}");
    }
    for (token, status) in [("proteus-wrong", 401), ("", 401)] {
        let (found, text) = ask(&server, "GET", "/api/v1/vms/%ff", token, "", b"");
        let told: ErrorBody = serde_json::from_str(&text).unwrap();
        assert_eq!((found, told.code.as_str()), (status, "unauthenticated"));
    }
    // Which methods there are is also where HTTP has it.
    let stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    let allowed = head(stream, "PUT", "/api/v1/vms").to_lowercase();
    assert!(allowed.contains("allow: get,head,post") && allowed.contains("application/json"), "{allowed}");
}

/// The head of an answer.
fn head(mut stream: TcpStream, method: &str, path: &str) -> String {
    use std::io::{Read, Write};
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split("\r\n\r\n").next().unwrap_or_default().to_owned()
}
