//! Servers that are none, slow, hostile or of another opinion.

use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream as Tcp};

const SPAN: Span = Span { from_s: 1000, until_s: 1120, step_s: 60 };
const LIMIT: Millis = Millis(20_000);

fn no_tls() -> Result<Arc<dyn Connect>, CommandError> {
    Err(usage("no TLS".to_owned(), "none"))
}

/// Takes one connection, reads what is asked and gives `answer` its turn. The port, and the thread that gives what was
/// asked.
fn serve(answer: impl FnOnce(&mut Tcp) + Send + 'static) -> (u16, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        let mut byte = [0];
        while !asked.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            asked.push(byte[0]);
        }
        answer(&mut stream);
        String::from_utf8(asked).unwrap()
    });
    (port, thread)
}

fn ask(url: &str, token: Option<&str>, limit: Millis) -> Result<Answer, CommandError> {
    let prometheus = Prometheus::new(url, token, limit, no_tls)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(prometheus.range("up{a=\"b c\"}", SPAN))
}

/// What is said of a server that answers so: message, causes and hint.
fn said_of(status: &str, headers: &str, body: &str) -> String {
    let text = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len());
    let (port, thread) = serve(move |stream| stream.write_all(text.as_bytes()).unwrap());
    let error = ask(&format!("http://127.0.0.1:{port}"), None, LIMIT).unwrap_err();
    thread.join().unwrap();
    said(&error)
}

fn said(error: &CommandError) -> String {
    let body = error.body();
    format!("{} | {} | {}", body.message, body.detail.join(" | "), body.hint.unwrap_or_default())
}

#[test]
fn it_is_asked_as_it_wants_to_be() {
    let body = r#"{"status":"success","warnings":["half"],"data":{"resultType":"matrix","result":[{"metric":{"a":"b"},"values":[[1060,"5"]]}]}}"#;
    let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let (port, thread) = serve(move |stream| stream.write_all(text.as_bytes()).unwrap());
    let answer = ask(&format!("http://127.0.0.1:{port}/behind/"), Some("secret"), LIMIT).unwrap();
    assert_eq!(answer.series.unwrap().points, [(1060, 5.0)]);
    assert_eq!(answer.warnings, ["half"]);
    let asked = thread.join().unwrap().to_lowercase();
    let line = "get /behind/api/v1/query_range?query=up%7ba%3d%22b%20c%22%7d&start=1000&end=1120&step=60&timeout=20000ms ";
    assert!(asked.starts_with(line), "{asked}");
    assert!(asked.contains("\r\nauthorization: bearer secret\r\n"), "{asked}");
    assert!(asked.contains(&format!("\r\nhost: 127.0.0.1:{port}\r\n")), "{asked}");
}

#[test]
fn who_is_no_prometheus_or_says_no_is_told_with_a_hint() {
    let page = said_of("200 OK", "", "<!DOCTYPE html><p>Welcome");
    assert!(page.contains("a web page") && page.contains("is it a Prometheus?"), "{page}");
    let none = said_of("404 Not Found", "", "404 page not found");
    assert!(none.contains("status 404 Not Found") && none.contains("has a path"), "{none}");
    let bad = r#"{"status":"error","errorType":"bad_data","error":"1:3: parse error: unexpected"}"#;
    let bad = said_of("400 Bad Request", "", bad);
    assert!(bad.contains("| bad_data: 1:3: parse error: unexpected | it was asked for up{"), "{bad}");
    assert!(bad.ends_with("check `--match` and `--query`"), "{bad}");
    let who = said_of("401 Unauthorized", "", "Unauthorized");
    assert!(who.contains("401") && who.contains("--prometheus-token-file"), "{who}");
    let away = said_of("302 Found", "Location: http://169.254.169.254/\r\n", "");
    assert!(away.contains("redirects are not followed") && away.contains("sends us elsewhere"), "{away}");
    let away = said_of("301 Moved Permanently", "Location: http://other/\r\n", "");
    assert!(away.contains("to http://other/"), "{away}");
    let two = r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"i":"a"}},{"metric":{"i":"b"}}]}}"#;
    let two = said_of("200 OK", "", two);
    assert!(two.contains("differ in i (\"a\", \"b\")") && two.contains("--match"), "{two}");
    let lying = said_of("500 Oops", "", r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#);
    assert!(lying.contains("500"), "{lying}");
}

#[test]
fn who_is_not_there_slow_or_does_not_end_holds_nothing_up() {
    // Bound and not listened to for longer than this line: nobody is there then.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let gone = said(&ask(&format!("http://127.0.0.1:{port}"), None, LIMIT).unwrap_err());
    assert!(gone.contains("not reachable") && gone.contains("refused"), "{gone}");
    // Says nothing until we hang up.
    let (port, thread) = serve(|stream| drop(stream.read(&mut [0])));
    let slow = said(&ask(&format!("http://127.0.0.1:{port}"), None, Millis(100)).unwrap_err());
    assert!(slow.contains("did not answer within 100 ms") && slow.contains("--timeout"), "{slow}");
    thread.join().unwrap();
    // A body that goes on until we hang up.
    let (port, thread) = serve(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"status\":\"").unwrap();
        while stream.write_all(&[b'x'; 65536]).is_ok() {}
    });
    let endless = said(&ask(&format!("http://127.0.0.1:{port}"), None, LIMIT).unwrap_err());
    assert!(endless.contains("larger than 16 MiB"), "{endless}");
    thread.join().unwrap();
    // Headers that go on.
    let (port, thread) = serve(|stream| {
        let begun = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while begun.is_ok() && stream.write_all(&[b'x'; 65536]).is_ok() {}
    });
    let headers = said(&ask(&format!("http://127.0.0.1:{port}"), None, LIMIT).unwrap_err());
    assert!(headers.contains("did not answer"), "{headers}");
    thread.join().unwrap();
    // Less than was announced.
    let (port, thread) = serve(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"status\"").unwrap()
    });
    let cut = said(&ask(&format!("http://127.0.0.1:{port}"), None, LIMIT).unwrap_err());
    assert!(cut.contains("cut short"), "{cut}");
    thread.join().unwrap();
    let cut = said_of("200 OK", "", "{\"status\":\"succ");
    assert!(cut.contains("cut short after 15 bytes"), "{cut}");
    // No HTTP at all.
    let (port, thread) = serve(|stream| stream.write_all(b"SSH-2.0-x\r\n").unwrap());
    let other = said(&ask(&format!("http://127.0.0.1:{port}"), None, LIMIT).unwrap_err());
    assert!(other.contains("did not answer") && other.contains("is it a Prometheus"), "{other}");
    thread.join().unwrap();
}

#[test]
fn an_address_is_one_or_is_refused() {
    let name = |url: &str| Prometheus::new(url, None, LIMIT, no_tls).map(|prometheus| prometheus.name());
    assert_eq!(name("http://a").unwrap(), "http://a:80");
    assert_eq!(name("http://a:9090/").unwrap(), "http://a:9090");
    assert_eq!(name("http://[::1]/p/q/").unwrap(), "http://[::1]:80/p/q");
    for bad in
        ["", "a:9090", "ftp://a", "http://", "http:///x", "http://a/?x=1", "http://a b", "http://a\r\nX: y"]
    {
        assert!(name(bad).is_err(), "{bad:?}");
    }
    assert_eq!(name("https://a").unwrap_err().to_string(), "no TLS");
    let password = said(&name("http://user:secret@a:9090").unwrap_err());
    assert!(!password.contains("secret") && password.contains("--prometheus-token-file"), "{password}");
    assert!(Prometheus::new("http://a", Some("x\ny"), LIMIT, no_tls).is_err());
}
