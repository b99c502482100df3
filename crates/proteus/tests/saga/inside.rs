//! What people do inside a VM is told in the audit log: programs with all their words and their end, consoles with
//! how much was typed, and never what. The guest is played by sockets.

use crate::support::{Bench, bench, start_vm};
use proteus_control_plane::control::ControlError;
use proteus_control_plane::store::Store;
use proteus_model::id::VmId;
use proteus_model::unit::Millis;
use proteus_protocol::guest::HOST_PAYLOAD_BYTES_MAX;
use proteus_protocol::guest::frame::{Decoder, encode};
use proteus_protocol::guest::v1::{Blob, ErrorCode, ExecOutcome, GuestMessage, HostMessage, Reply, Request};
use proteus_protocol::node::v1::ExecIntent;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

fn socket(dir: &Path, vm: VmId, ending: &str) -> PathBuf {
    dir.join("sim").join(format!("{vm}.{ending}"))
}

fn outcome(exit_code: Option<i32>, signal: Option<i32>, timed_out: bool) -> Reply {
    let (stdout, stderr) = (Blob(b"out".to_vec()), Blob::default());
    Reply::Exec { outcome: ExecOutcome { exit_code, signal, timed_out, stdout, stderr, truncated: false } }
}

/// Ends each program as its last word says.
fn answer(request: &Request) -> Option<Reply> {
    Some(match request {
        Request::Hello { .. } => {
            let hello = r#"{"protocol":1,"agent_version":"0.1.0","boot_id":"b","instance":"i","kernel":"k",
                "hostname":"h","guest":"pid1","capabilities":[]}"#;
            Reply::Hello { hello: serde_json::from_str(hello).unwrap() }
        }
        Request::Exec { exec } => match exec.argv.last().map(String::as_str) {
            // Never: it is not answered.
            Some("endless") => return None,
            Some("killed") => outcome(None, Some(9), false),
            Some("late") => outcome(None, Some(9), true),
            Some("refused") => Reply::Error { code: ErrorCode::Invalid, message: "no such program".into() },
            _ => outcome(Some(3), None, false),
        },
        _ => Reply::Done,
    })
}

async fn play_agent(listener: UnixListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut decoder: Decoder<HostMessage> = Decoder::new(HOST_PAYLOAD_BYTES_MAX);
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            decoder.push(&buffer[..count]);
            while let Some(Ok(HostMessage { id, request })) = decoder.next() {
                let Some(reply) = answer(&request).map(Box::new) else { continue };
                stream
                    .write_all(&encode(&GuestMessage::Reply { id, reply }, 100_000).unwrap())
                    .await
                    .unwrap();
            }
        }
    }
}

pub(crate) async fn entries(bench: &Bench, action: &str) -> Vec<Value> {
    let all = bench.control.audit_view().await.unwrap().entries;
    all.into_iter().filter(|entry| entry["action"].as_str().unwrap().starts_with(action)).collect()
}

fn program(argv: &[&str]) -> ExecIntent {
    let argv = argv.iter().map(|word| (*word).to_owned()).collect();
    ExecIntent { argv, service: None, stdin: Vec::new(), timeout: Millis(2000) }
}

/// What a process does that is killed meanwhile: a snapshot, a program without an end, and a console that stays open.
pub(crate) async fn die_inside(bench: &Bench, dir: &Path) {
    let vm = bench.control.vm("web").await.unwrap().id;
    bench.control.create_snapshot("web", Some("one"), "test").await.unwrap();
    tokio::spawn(play_agent(UnixListener::bind(socket(dir, vm, "agent")).unwrap()));
    bench.control.exec("web", &program(&["/bin/true"]), "test").await.unwrap();
    let _console = UnixListener::bind(socket(dir, vm, "console")).unwrap();
    bench.control.type_console("web", b"x", "test").await.unwrap();
}

#[tokio::test]
async fn a_program_is_told_with_all_its_words_and_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    let vm = start_vm(&bench, dir.path(), "web").await;
    tokio::spawn(play_agent(UnixListener::bind(socket(dir.path(), vm, "agent")).unwrap()));
    let ends = [
        ("done", "vm.exec_ended", "exit code 3", json!({"exit_code": 3, "signal": null, "timed_out": false})),
        ("killed", "vm.exec_ended", "signal 9", json!({"exit_code": null, "signal": 9, "timed_out": false})),
        (
            "late",
            "vm.exec_ended",
            "its time was up, after 2 s",
            json!({"exit_code": null, "signal": 9, "timed_out": true}),
        ),
        ("refused", "vm.exec_failed", "no such program", Value::Null),
    ];
    for (last, action, why, actual) in ends {
        let argv = ["/bin/sh", "-c", "exec \"$@\"", "sh", "rm", "-r", last];
        let seen = bench.control.exec("web", &program(&argv), "token/hand").await;
        assert_eq!(seen.is_ok(), last != "refused", "{seen:?}");
        let told = entries(&bench, "vm.exec").await;
        let [.., begin, end] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((&begin["action"], &begin["actor"]), (&json!("vm.exec"), &json!("token/hand")));
        assert_eq!((&begin["subject"], &begin["evidence"]["argv"]), (&json!("vm/web"), &json!(argv)));
        assert_eq!((&end["action"], &end["evidence"]["began"]), (&json!(action), &begin["seq"]));
        assert!(end["why"].as_str().unwrap().contains(why) && end["actual"] == actual, "{end}");
    }
    // By its id too it is called by its name; what cannot be is not begun.
    bench.control.exec(&vm.to_string(), &program(&["/bin/true"]), "test").await.unwrap();
    let before = entries(&bench, "vm.exec").await;
    assert_eq!(before.last().unwrap()["subject"], "vm/web");
    let long = ExecIntent { timeout: Millis(600_001), ..program(&["/bin/true"]) };
    for refused in [&long, &program(&[])] {
        let error = bench.control.exec("web", refused, "test").await.unwrap_err();
        assert!(matches!(error, ControlError::Invalid { .. }), "{error:?}");
    }
    assert_eq!(entries(&bench, "vm.exec").await.len(), before.len());

    // One that has no end does not keep Proteus from its own.
    let (control, mut events) =
        (bench.control.clone(), bench.store.watch("audit/", bench.store.rev().await.unwrap()).await.unwrap());
    let running =
        tokio::spawn(async move { control.exec("web", &program(&["/bin/sh", "endless"]), "test").await });
    events.next().await.unwrap();
    bench.control.stop().await;
    let cut = running.await.unwrap().unwrap_err();
    assert!(cut.to_string().starts_with("Proteus ends"), "{cut}");
    let last = entries(&bench, "vm.exec").await.pop().unwrap();
    assert_eq!((&last["action"], &last["why"]), (&json!("vm.exec_failed"), &json!(cut.to_string())));
}

#[tokio::test]
async fn a_console_is_told_from_its_first_to_its_last_byte_and_not_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    let vm = start_vm(&bench, dir.path(), "web").await;
    // One without a console: nothing was opened.
    bench.control.type_console("web", b"x", "root").await.unwrap_err();
    assert_eq!(entries(&bench, "vm.console").await, Vec::<Value>::new());

    let listener = UnixListener::bind(socket(dir.path(), vm, "console")).unwrap();
    let typed = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut typed = vec![0; 14];
        stream.read_exact(&mut typed).await.unwrap();
        typed
    });
    for (actor, text) in [("root", ""), ("root", "secret\n"), ("token/hand", "öl\n"), ("root", "abc")] {
        bench.control.type_console("web", text.as_bytes(), actor).await.unwrap();
    }
    assert_eq!(typed.await.unwrap(), "secret\nöl\nabc".as_bytes());
    let opened = entries(&bench, "vm.console").await;
    let actors: Vec<_> = opened.iter().map(|entry| (&entry["actor"], &entry["action"])).collect();
    let open = json!("vm.console");
    assert_eq!(actors, [(&json!("root"), &open), (&json!("token/hand"), &open)]);

    bench.control.stop().await;
    let mut ended = entries(&bench, "vm.console_ended").await;
    ended.sort_by_key(|entry| entry["evidence"]["began"].as_u64());
    let bytes: Vec<_> = ended.iter().map(|entry| (&entry["actor"], &entry["evidence"]["bytes"])).collect();
    assert_eq!(bytes, [(&json!("root"), &json!(10)), (&json!("token/hand"), &json!(4))]);
    for (opened, ended) in opened.iter().zip(&ended) {
        assert_eq!(ended["evidence"]["began"], opened["seq"]);
        assert_eq!((&ended["evidence"]["opened_at"], &ended["subject"]), (&opened["at"], &json!("vm/web")));
    }
    let all = format!("{:?}", bench.control.audit_view().await.unwrap());
    assert!(!all.contains("secret"), "{all}");
}
