//! Programs that people run inside a VM. What was run and how it ended is in the audit log; what went in and came out
//! is not. Must never run what is not announced there.

use crate::audit::AuditRecord;
use crate::control::{Control, ControlError};
use proteus_model::unit::{Bytes, Millis};
use proteus_protocol::api::v1::{EXEC_STDIN_BYTES_MAX, EXEC_TIMEOUT_MAX};
use proteus_protocol::node::v1::{ExecIntent, ExecObserved};
use serde_json::{Value, json};

/// What the audit log keeps of a command: far more than people type, and a sixty-fourth of what an entry may hold.
const ARGV_BYTES_KEPT: usize = 4 << 10;
/// What it keeps of a service's name, and of why a program did not run: both come from outside.
const WORDS_KEPT: usize = 400;
/// Why the longest time is no limit for what is to be run.
const LONGER_HINT: &str = "begin what takes longer in the background, as in `proteus vm exec VM -- sh -c 'PROGRAM \
                           >FILE 2>&1 &'`, and look at FILE later";

/// The words of a command as the audit log keeps them. A word counts one byte more than it has, so that many empty
/// ones come to an end too; one that does not fit whole ends in `…`.
fn evidence_of(intent: &ExecIntent) -> Value {
    let (mut kept, mut room) = (Vec::new(), ARGV_BYTES_KEPT);
    let mut bytes_cut: usize = intent.argv.iter().map(String::len).sum();
    for word in &intent.argv {
        if word.len() < room {
            room -= word.len() + 1;
            bytes_cut -= word.len();
            kept.push(word.clone());
            continue;
        }
        let end = (0..room).rev().find(|end| word.is_char_boundary(*end)).unwrap_or(0);
        bytes_cut -= end;
        kept.push(format!("{}…", &word[..end]));
        break;
    }
    let words_cut = intent.argv.len() - kept.len();
    let service: Option<String> = intent.service.as_ref().map(|name| name.chars().take(WORDS_KEPT).collect());
    let mut evidence = json!({ "argv": kept, "service": service, "timeout_ms": intent.timeout });
    if !intent.stdin.is_empty() {
        evidence["stdin_bytes"] = intent.stdin.len().into();
    }
    if bytes_cut > 0 || words_cut > 0 {
        evidence["argv_cut"] = json!({ "bytes": bytes_cut, "words": words_cut });
    }
    evidence
}

/// How a program ended, in words.
fn in_words(seen: &ExecObserved, timeout: Millis) -> String {
    match (seen.exit_code, seen.signal) {
        _ if seen.timed_out => format!("its time was up, after {timeout}"),
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal} ended it"),
        (None, None) => "a signal ended it".into(),
    }
}

fn check(intent: &ExecIntent) -> Result<(), ControlError> {
    if intent.argv.first().is_none_or(String::is_empty) {
        return Err(ControlError::Invalid {
            what: "argv: expected a program, found none".into(),
            hint: "name it by its absolute path".into(),
        });
    }
    if intent.timeout == Millis(0) || intent.timeout > EXEC_TIMEOUT_MAX {
        return Err(ControlError::Invalid {
            what: format!(
                "timeout: expected more than 0 ms and at most {EXEC_TIMEOUT_MAX}, found {}",
                intent.timeout
            ),
            hint: LONGER_HINT.into(),
        });
    }
    if intent.stdin.len() > EXEC_STDIN_BYTES_MAX {
        return Err(ControlError::Invalid {
            what: format!(
                "stdin: expected at most {}, found {} bytes",
                Bytes(EXEC_STDIN_BYTES_MAX as u64),
                intent.stdin.len()
            ),
            hint: "give it in parts, each appended to a file inside".into(),
        });
    }
    Ok(())
}

/// What is said where Proteus, which may be told to at any time, does not wait for a program's end.
fn cut_short() -> ControlError {
    ControlError::Conflict {
        what: "Proteus ends, and nobody waits for the program".into(),
        hint: "look inside what became of it, once Proteus serves again".into(),
    }
}

impl Control {
    /// Runs a program inside a VM.
    pub async fn exec(
        &self,
        vm: &str,
        intent: &ExecIntent,
        actor: &str,
    ) -> Result<ExecObserved, ControlError> {
        check(intent)?;
        let record = self.vm(vm).await?;
        // Its agent would be waited for as long as the program may take.
        if let Err(error) = self.check_answers(&record).await {
            let entry = self.vm_entry(actor, "vm.exec_refused", &record, evidence_of(intent));
            self.audit.append(AuditRecord { why: error.to_string(), ..entry }).await?;
            return Err(error);
        }
        let begun = self.vm_entry(actor, "vm.exec", &record, evidence_of(intent));
        let act = self.announce(begun, "vm.exec_failed").await?;
        let stopped = self.stopped();
        // Cancel-safe: nobody hears of the end of a program that is not waited for any more, and that is told.
        let outcome = tokio::select! {
            seen = self.node.exec(record.id, intent) => self.on_node(&record, seen).await,
            () = stopped.cancelled() => Err(cut_short()),
        };
        let (action, why, actual) = match &outcome {
            Ok(seen) => {
                let ExecObserved { exit_code, signal, timed_out, .. } = seen;
                let actual = json!({ "exit_code": exit_code, "signal": signal, "timed_out": timed_out });
                ("vm.exec_ended", in_words(seen, intent.timeout), actual)
            }
            Err(error) => {
                ("vm.exec_failed", error.to_string().chars().take(WORDS_KEPT).collect(), Value::Null)
            }
        };
        let entry = self.vm_entry(actor, action, &record, json!({ "began": act.began }));
        let entry = AuditRecord { why, actual, ..entry };
        let told = async { self.commit_audited(act.over(self.records.batch())?, entry).await };
        match (outcome, told.await) {
            (outcome, Ok(_)) => outcome,
            (Ok(_), Err(error)) => {
                let name = &record.intent.name;
                Err(error.after(format!("the program was run in {name}")))
            }
            (Err(failed), Err(error)) => {
                tracing::warn!(vm = %record.intent.name, %error, "not written down that a program failed");
                Err(failed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent(argv: &[&str]) -> ExecIntent {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        ExecIntent { argv, service: None, stdin: Vec::new(), timeout: Millis(1000) }
    }

    #[test]
    fn a_command_is_kept_whole_up_to_a_bound_and_what_is_cut_is_told() {
        let whole = evidence_of(&intent(&["/bin/sh", "-c", "rm -r \"$1\"", "", "/srv"]));
        let expected = json!({ "argv": ["/bin/sh", "-c", "rm -r \"$1\"", "", "/srv"], "service": null,
            "timeout_ms": 1000 });
        assert_eq!(whole, expected);

        // The bound lies within a letter of two bytes.
        let long = "ü".repeat(5000);
        let cut = evidence_of(&intent(&["/bin/ab", &long, "last"]));
        let kept = cut["argv"][1].as_str().unwrap().strip_suffix('…').unwrap();
        assert!(long.starts_with(kept) && (4080..=4088).contains(&kept.len()), "{} bytes", kept.len());
        assert_eq!(cut["argv"].as_array().unwrap().len(), 2);
        assert_eq!(cut["argv_cut"], json!({ "bytes": 10_000 - kept.len() + 4, "words": 1 }));

        let empty = evidence_of(&intent(&[""; 700_000]));
        assert!(empty["argv"].as_array().unwrap().len() <= ARGV_BYTES_KEPT + 1);
        assert!(empty["argv_cut"]["words"].as_u64().unwrap() > 690_000);
    }

    #[test]
    fn a_standard_input_is_counted_and_bounded_and_not_told() {
        let of = |stdin: Vec<u8>| ExecIntent { stdin, ..intent(&["/bin/cat"]) };
        let told = evidence_of(&of(b"secret".to_vec()));
        assert_eq!(told["stdin_bytes"], 6);
        assert!(!told.to_string().contains("secret"), "{told}");
        assert!(check(&of(vec![0; EXEC_STDIN_BYTES_MAX])).is_ok());
        let Err(ControlError::Invalid { what, .. }) = check(&of(vec![0; EXEC_STDIN_BYTES_MAX + 1])) else {
            panic!("too much is taken")
        };
        assert_eq!(what, "stdin: expected at most 64 KiB, found 65537 bytes");
    }

    #[test]
    fn the_longest_time_is_told_and_how_to_do_without() {
        let of = |timeout| check(&ExecIntent { timeout, ..intent(&["/bin/true"]) });
        assert!(of(Millis(1)).is_ok() && of(EXEC_TIMEOUT_MAX).is_ok());
        for timeout in [Millis(0), Millis(EXEC_TIMEOUT_MAX.0 + 1)] {
            let Err(ControlError::Invalid { what, hint }) = of(timeout) else { panic!("{timeout} is taken") };
            assert!(what.contains("at most 10 min") && what.ends_with(&format!("found {timeout}")), "{what}");
            assert!(hint.contains("in the background"), "{hint}");
        }
        assert!(check(&intent(&[])).is_err() && check(&intent(&[""])).is_err());
    }
}
