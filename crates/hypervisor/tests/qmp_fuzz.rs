//! Fuzz target of the QMP decoder, for the stable toolchain: mutates real messages. No input may panic, a message
//! that is taken must be what its text says, and a good one must always be read. A short run by default;
//! `PROTEUS_FUZZ_ITERATIONS=1000000` for a long one, `PROTEUS_FUZZ_SEED=…` to repeat one.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../../tests/support/fuzz.rs"]
mod fuzz;

use fuzz::Random;
use proteus_hypervisor::qemu::qmp::{MESSAGE_BYTES_MAX, Message, decode};
use serde_json::Value;

const ITERATIONS: u64 = 20_000;

/// Lines as QEMU 7.2 sends them, and their nearest strangers.
const SEEDS: [&str; 12] = [
    r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}"#,
    r#"{"return": {}, "id": 1}"#,
    r#"{"return": {"actual": 268435456}, "id": 42}"#,
    r#"{"return": [{"thread-id": 4242, "cpu-index": 0, "target": "x86_64"}], "id": 18446744073709551615}"#,
    r#"{"id": 7, "error": {"class": "GenericError", "desc": "Bus 'rp0' does not support hotplugging"}}"#,
    r#"{"error": {"class": "GenericError", "desc": "JSON parse error, expecting value"}}"#,
    r#"{"timestamp": {"seconds": 1795269785, "microseconds": 1}, "event": "DEVICE_DELETED", "data": {"device": "img-a-0", "path": "/machine/peripheral/img-a-0"}}"#,
    r#"{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "SHUTDOWN"}"#,
    r#"{"event": "X", "return": {}, "error": {}, "QMP": {}, "id": 1}"#,
    r#"{"event": 5, "id": "seven", "return": null}"#,
    r#"{"return": "\ud83d\ude00 \u0000 \\", "id": 3}"#,
    r#"[{"return": {}, "id": 1}]"#,
];

fn mutate(random: &mut Random, data: &mut Vec<u8>) {
    for _ in 0..random.below(5) {
        let at = random.below(data.len());
        match random.below(7) {
            0 if !data.is_empty() => data[at] ^= 1 << random.below(8),
            1 if !data.is_empty() => data[at] = random.next() as u8,
            2 => data.truncate(at),
            3 => {
                let token: &[u8] =
                    [&b"\"id\":"[..], b"{", b"}", b"\"return\":", b"[", b"1e999", b"\"\\ud800\""]
                        [random.below(7)];
                data.splice(at.min(data.len())..at.min(data.len()), token.iter().copied());
            }
            4 => drop(data.drain(at.min(data.len())..(at + random.below(40)).min(data.len()))),
            5 => {
                let other = SEEDS[random.below(SEEDS.len())].as_bytes();
                data.extend(&other[random.below(other.len())..]);
            }
            _ => data.extend((0..random.below(64)).map(|_| random.next() as u8).collect::<Vec<_>>()),
        }
    }
}

/// What was taken must be in the text.
fn check(data: &[u8], message: &Message) {
    let text: Value = serde_json::from_slice(data).unwrap();
    match message {
        Message::Greeting => assert!(text.get("QMP").is_some()),
        Message::Return { id, value } => {
            assert_eq!((text["id"].as_u64(), &text["return"]), (Some(*id), value));
            assert!(text.get("error").is_none() && text.get("event").is_none_or(|e| !e.is_string()));
        }
        Message::Error { id, .. } => {
            assert!(text.get("error").is_some());
            assert_eq!(text["id"].as_u64(), *id);
        }
        Message::Event(event) => assert_eq!(text["event"].as_str(), Some(event.name.as_str())),
    }
}

#[test]
fn what_a_vmm_says() {
    let make = |random: &mut Random| {
        let mut data = SEEDS[random.below(SEEDS.len())].as_bytes().to_vec();
        mutate(random, &mut data);
        data
    };
    fuzz::run(ITERATIONS, make, |data| match decode(data) {
        Ok(message) => {
            check(data, &message);
            true
        }
        Err(error) => {
            assert!(error.to_string().len() < 1000, "an error as long as its cause");
            false
        }
    });
}

#[test]
fn bombs_are_refused() {
    let nested = format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20));
    let deep = format!("{{\"return\":{}1{},\"id\":1}}", "[".repeat(100_000), "]".repeat(100_000));
    let keys = "{\"a\":".repeat(100_000);
    for bomb in [nested, deep, keys, "x".repeat(MESSAGE_BYTES_MAX + 1), "9".repeat(MESSAGE_BYTES_MAX)] {
        assert!(decode(bomb.as_bytes()).is_err());
    }
}
