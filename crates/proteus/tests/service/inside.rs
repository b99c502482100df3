//! Programs and consoles of VMs by the command line: what is told of them, and what is there when the VM has ended.

use crate::loader;
use crate::server::{Server, exchange, wait_for};
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Longest wait for a boot sector to say something: under a second, and an emulated one under load sixty times that.
const WORD_LIMIT: Duration = Duration::from_secs(60);

/// A VM that says `ready`, and ends by itself when something is typed.
pub fn create_loader(server: &Server, name: &str) {
    let disk = server.dir.path().join(format!("{name}.raw"));
    std::fs::write(&disk, loader::disk()).unwrap();
    let disk = format!("root={}", disk.display());
    server.cli(&["vm", "create", name, "--disk", &disk, "--memory", "128MiB"]).ok();
}

/// Starts it, and waits for its word.
pub fn start_loader(server: &Server, name: &str) {
    server.cli(&["vm", "start", name]).ok();
    wait_ready(server, name);
}

/// Waits for the word of one that is started.
pub fn wait_ready(server: &Server, name: &str) {
    wait_for("the loader's word", WORD_LIMIT, || {
        // What it said before it ended may still be there.
        let runs = server.ask(&["vm", "show", name])["vm"]["power"] == "running";
        (runs && server.cli(&["vm", "console", name, "--dump"]).stdout.contains("ready")).then_some(())
    });
}

/// Lets it end by itself.
pub fn end_loader(server: &Server, name: &str) {
    let stream = UnixStream::connect(server.state().join("proteus.sock")).unwrap();
    let path = format!("/api/v1/vms/{name}/console");
    let (status, said) = exchange(stream, "POST", &path, None, br#"{"text":"x"}"#).unwrap();
    assert_eq!(status, 200, "{said}");
    wait_for("the end of the VM", WORD_LIMIT, || {
        (server.ask(&["vm", "show", name])["vm"]["power"] == "stopped").then_some(())
    });
}

fn entries(server: &Server, action: &str) -> Vec<Value> {
    let all = server.ask(&["audit"])["entries"].as_array().unwrap().clone();
    all.into_iter().filter(|entry| entry["action"] == action).collect()
}

#[test]
fn a_console_is_an_object_is_audited_and_is_there_after_the_end() {
    let mut server = Server::start();
    create_loader(&server, "web");
    start_loader(&server, "web");
    let dump = server.ask(&["vm", "console", "web", "--dump"]);
    assert_eq!((&dump["text"], &dump["ended"]), (&json!("ready\r\n"), &json!(false)));
    assert_eq!(dump["next"], json!(7));
    let endless = server.cli(&["--output", "json", "vm", "console", "web"]);
    assert!(endless.code == 2 && endless.stderr.contains("--dump"), "{}", endless.stderr);
    assert_eq!(entries(&server, "vm.console"), Vec::<Value>::new(), "a look was taken for typing");

    let mut console = Command::new(env!("CARGO_BIN_EXE_proteus"))
        .args(["--state", server.state().to_str().unwrap(), "vm", "console", "web"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the console to be open", WORD_LIMIT, || entries(&server, "vm.console").pop());
    console.stdin.as_mut().unwrap().write_all(b"not-to-be-shown\n").unwrap();
    wait_for("the end of the console", WORD_LIMIT, || console.try_wait().unwrap());
    let ended = console.wait_with_output().unwrap();
    let (shown, aside) = (String::from_utf8(ended.stdout).unwrap(), String::from_utf8(ended.stderr).unwrap());
    assert!(ended.status.success() && shown == "ready\r\nbye\r\n", "{shown}{aside}");
    assert!(aside.ends_with("web has ended\n"), "{aside}");

    let left = wait_for("the console to be left", Duration::from_secs(30), || {
        entries(&server, "vm.console_ended").pop()
    });
    let opened = entries(&server, "vm.console").pop().unwrap();
    assert_eq!((&opened["actor"], &opened["subject"]), (&json!("root"), &json!("vm/web")));
    assert_eq!((&left["actor"], &left["evidence"]["began"]), (&json!("root"), &opened["seq"]));
    assert_eq!(left["evidence"]["bytes"], json!(16));
    assert!(!server.ask(&["audit"]).to_string().contains("not-to-be-shown"));

    // What it said last may tell why it ended.
    assert_eq!(server.cli(&["vm", "console", "web", "--dump"]).ok().stdout, "ready\r\nbye\r\n");
    assert_eq!(server.ask(&["vm", "console", "web", "--dump"])["ended"], json!(true));
    assert_eq!(server.terminate(Duration::from_secs(30)), Some(0));
    server.start_again();
    let gone = server.cli(&["vm", "console", "web", "--dump"]);
    let said = "error: web does not run\n  hint: `proteus vm start web` first: it has to run for this\n";
    assert_eq!((gone.code, gone.stderr.as_str()), (4, said));
    // Started again it says only what it says now.
    start_loader(&server, "web");
    assert_eq!(server.cli(&["vm", "console", "web", "--dump"]).ok().stdout, "ready\r\n");
    server.cli(&["vm", "stop", "web", "--grace", "0ms"]).ok();
}

#[test]
fn a_program_that_cannot_run_is_told_with_its_words_and_the_limit_of_its_time() {
    let server = Server::start();
    create_loader(&server, "web");
    let late = server.cli(&["vm", "exec", "web", "--timeout", "700s", "--", "sleep", "650"]);
    assert_eq!(
        late.seen(server.dir.path()),
        "error: timeout: expected more than 0 ms and at most 10 min, found 700 s\n  hint: begin what takes longer in \
         the background, as in `proteus vm exec VM -- sh -c 'PROGRAM >FILE 2>&1 &'`, and look at FILE later\nexit 4\n"
    );
    assert_eq!(entries(&server, "vm.exec"), Vec::<Value>::new());
    let stopped = server.cli(&["vm", "exec", "web", "--", "rm", "-r", "/srv/data"]);
    // For programs the same, with the same exit code.
    let json = server.cli(&["--output", "json", "vm", "show", "nobody"]);
    let body: Value = serde_json::from_str(&json.stderr).unwrap();
    assert_eq!((json.code, json.stdout.as_str(), &body["code"]), (3, "", &json!("not_found")));
    assert_eq!(body["message"], "there is no VM nobody");
    assert!(body["hint"].is_string() && body["detail"].is_array(), "{body}");
    let words = server.cli(&["vm", "shwo", "--output", "json"]);
    let body: Value = serde_json::from_str(&words.stderr).unwrap();
    assert_eq!((words.code, &body["code"]), (2, &json!("usage")));
    assert_eq!(stopped.code, 4, "{}", stopped.stderr);
    let (begun, failed) = (entries(&server, "vm.exec"), entries(&server, "vm.exec_failed"));
    let argv = json!(["/bin/sh", "-c", "exec \"$@\"", "sh", "rm", "-r", "/srv/data"]);
    assert_eq!((&begun[0]["evidence"]["argv"], begun.len()), (&argv, 1));
    assert_eq!(
        (&failed[0]["why"], &failed[0]["evidence"]["began"]),
        (&json!("web does not run"), &begun[0]["seq"])
    );
    let help = server.cli(&["vm", "exec", "--help"]).ok().stdout;
    assert!(
        help.contains("audit log") && help.contains("No secret") && help.contains("standard input"),
        "{help}"
    );
}

#[test]
fn an_audit_log_says_what_it_does_not_show() {
    let server = Server::start();
    let secret = server.cli(&["token", "create", "t", "--role", "admin"]).ok().stdout;
    // What ships was taken in, and the token made.
    let begun = server.ask(&["audit"])["entries"].as_array().unwrap().len();
    for _ in 0..211 - begun {
        assert_eq!(server.tcp("POST", "/api/v1/arm", Some(secret.trim()), b"{}").0, 200);
    }
    let all = server.ask(&["audit", "--limit", "1000"]);
    assert_eq!((all["entries"].as_array().unwrap().len(), &all["earlier"]), (211, &json!(0)));
    let shown = server.ask(&["audit"]);
    assert_eq!((shown["entries"].as_array().unwrap().len(), &shown["earlier"]), (200, &json!(11)));
    let text = server.cli(&["audit"]).ok().stdout;
    let said = "\n11 earlier entries are not shown; `proteus audit --before 12` goes on with them, --limit takes up to \
                1000 at once\n\nthe chain of hashes holds\n";
    assert!(text.ends_with(said), "{text}");
    let rest = server.ask(&["audit", "--before", "12"]);
    assert_eq!(
        (&rest["earlier"], &rest["entries"]),
        (&json!(0), &json!(all["entries"].as_array().unwrap()[..11]))
    );
    let few = server.ask(&["audit", "--before", "12", "--limit", "2"]);
    assert_eq!((&few["entries"][0]["seq"], &few["earlier"]), (&json!(10), &json!(9)));
    let text = server.cli(&["audit", "--limit", "1000"]).ok().stdout;
    assert!(!text.contains("not shown") && text.ends_with("\n\nthe chain of hashes holds\n"), "{text}");
    assert_eq!(server.cli(&["audit", "--limit", "1001"]).code, 2);
}
