//! Fuzz target of what a Prometheus answers, for the stable toolchain: mutates real answers. No bytes may panic, a value
//! that is taken must be in the bytes and of the time that was asked for, and what is said must be short and plain. A
//! short run by default; `PROTEUS_FUZZ_ITERATIONS=1000000` for a long one, `PROTEUS_FUZZ_SEED=…` to repeat one.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "a test may be told how long to run")]

#[path = "../../../tests/support/fuzz.rs"]
mod fuzz;

use fuzz::Random;
use proteus_cli::prometheus::answer::{Answer, AnswerError, Span, parse};

const ITERATIONS: u64 = 10_000;
const ASKED: Span = Span { from_s: 1_795_860_000, until_s: 1_795_860_240, step_s: 60 };

const SEEDS: [&str; 7] = [
    r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"instance":"a:9100","job":"node"},"values":[[1795860000,"250"],[1795860060,"0.5"],[1795860120.001,"NaN"],[1795860180,"1e3"]]}]}}"#,
    r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#,
    r#"{"status":"success","warnings":["some of it is not there"],"data":{"resultType":"matrix","result":[{"metric":{},"values":[[1795860240,"7"]]}]}}"#,
    r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"i":"a"},"values":[]},{"metric":{"i":"b","j":"c"},"values":[]}]}}"#,
    r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": 1:9: parse error: unclosed left parenthesis"}"#,
    r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1795860000,"1"]}]}}"#,
    "<!DOCTYPE html><html><head><title>Welcome</title></head></html>",
];

const PIECES: [&[u8]; 32] = [
    b"\"NaN\"",
    b"\"+Inf\"",
    b"\"-Inf\"",
    b"\"-0\"",
    b"\"1e400\"",
    b"\"1e12\"",
    b"\"2e12\"",
    b"\"1e-46\"",
    b"\"0x10\"",
    b"\"infinity\"",
    b"\"\"",
    b"\"\\u001b[2J\"",
    b"\"\\ud800\"",
    b"1795860060",
    b"1795859999",
    b"1795860241",
    b"1e308",
    b"1e999",
    b"-1",
    b"null",
    b"[]",
    b"{}",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b",",
    b"\\",
    b"\0",
    b"\xff\xfe",
    b"\xe2\x80\xae",
    b"\"status\":\"success\",",
    b"\"values\":[[1795860000,\"1\"]],",
    b"{\"metric\":{\"i\":\"z\"},\"values\":[[1795860000,\"1\"]]},",
    b"[1795860000,\"5\"],",
];

fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..random.below(6) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(24)).min(bytes.len());
        let piece = PIECES[random.below(PIECES.len())];
        match random.below(6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => drop(bytes.splice(at..end, piece.iter().copied())),
            3 => drop(bytes.splice(at..at, piece.iter().copied())),
            4 if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).unwrap(),
            _ => bytes.extend_from_slice(SEEDS[random.below(SEEDS.len())].as_bytes()),
        }
    }
}

/// What was taken is in the bytes, of the time that was asked for, in order, and a number.
fn check(bytes: &[u8], answer: &Answer) {
    let text = String::from_utf8_lossy(bytes);
    let Some(series) = &answer.series else { return };
    assert!(series.points.len() as u64 <= ASKED.points());
    assert!(series.points.is_sorted_by(|a, b| a.0 < b.0), "{series:?}");
    for (second, value) in &series.points {
        assert!((ASKED.from_s..=ASKED.until_s).contains(second), "{series:?}");
        assert!((0.0..=1e12).contains(value), "{series:?}");
        // Somewhere it is written between quotes; escapes inside a number are none that a server writes.
        let written =
            text.split('"').any(|word| word.parse::<f64>().is_ok_and(|found| found as f32 == *value));
        assert!(written || text.contains("\\u"), "{value} is made up");
    }
}

fn check_words(error: &AnswerError) {
    let said = error.to_string();
    assert!(said.len() < 3000, "an error as long as its cause: {}", said.len());
    let hostile = |c: char| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(!said.chars().any(hostile), "{said:?}");
}

#[test]
fn an_answer_of_any_bytes() {
    let make = |random: &mut Random| {
        let mut bytes = SEEDS[random.below(SEEDS.len())].as_bytes().to_vec();
        mutate(random, &mut bytes);
        bytes
    };
    fuzz::run(ITERATIONS, make, |bytes| match parse(bytes, ASKED) {
        Ok(answer) => {
            check(bytes, &answer);
            true
        }
        Err(error) => {
            check_words(&error);
            false
        }
    });
}

/// Cut anywhere, it is said to be cut, or is refused; never is part of it taken.
#[test]
fn an_answer_that_is_cut_anywhere() {
    for whole in SEEDS {
        for end in 1..whole.len() {
            let error = parse(&whole.as_bytes()[..end], ASKED).unwrap_err();
            let page = whole.starts_with('<');
            assert!(matches!(error, AnswerError::Cut(_)) != page, "{end}: {error}");
        }
    }
}
