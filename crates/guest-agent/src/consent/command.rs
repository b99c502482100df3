//! `proteus-guest consent`: a person inside the guest says what may be told, and sees what is. Must never print who
//! somebody is: only what would be sent.

use super::Store;
use crate::failure::Failure;
use crate::telemetry::collector::wall_ms;
use proteus_protocol::guest::v1::findings::{Consent, Users};
use std::process::ExitCode;

/// For a command that is none.
const WRONG: u8 = 2;

const HELP: &str = "\
What of this machine's people may be told to its owner, through Proteus

Usage: proteus-guest consent COMMAND

Commands:
  show      Say whether it is allowed, what would be sent, and what that protects
  give      Allow it from now on, on behalf of the people of this machine
  withdraw  Allow it no more; all that was released is erased, here and at the host

Run it as root. The owner of the VM must have asked for it as well; without both, nothing is collected.
Exit codes: 0 done, 1 failed, 2 no such command
";

const MODEL: &str = "\
What is released: once a week, how many login sessions began in each hour of the day (UTC), and how many in all.
No name, address or terminal, and nothing of what anybody did.

What protects it: to each hour, two-sided geometric noise is added (differential privacy, epsilon = 1 a release, for
the presence of ONE session): whether a single session took place makes any release at most 2.72 times as likely.
Each release is drawn once and then only repeated. After 8 releases under one consent nothing new is told.

What it does not protect: one person with many sessions. Somebody who logs in n times a week is protected by
epsilon = n a week only; habits of a person who is here daily show. Over 8 releases epsilon adds up to 8 for what
stays the same. A new consent has a budget of its own, which adds to that of the one before. A disk that is put back
to before a release draws it again.
";

/// What `show` prints.
fn shown(users: &Users) -> Result<String, Failure> {
    let json = serde_json::to_string(users).map_err(|e| Failure::invalid(&e))?;
    let state = match users.consent {
        Consent::Given if users.budget_spent >= users.budget => {
            "Consent: given. The budget is spent; nothing new is told until it is given anew."
        }
        Consent::Given => "Consent: given.",
        Consent::Withdrawn => "Consent: not given. The host is told to erase what it has.",
    };
    let (spent, budget) = (users.budget_spent, users.budget);
    Ok(format!(
        "{state}\nBudget: {spent} of {budget} releases spent.\n\nWould be sent next:\n{json}\n\n{MODEL}"
    ))
}

fn perform(word: &str, store: &Store, now_ms: u64) -> Option<Result<String, Failure>> {
    Some(match word {
        "--help" | "-h" | "help" => Ok(HELP.to_owned()),
        "show" => store.told(now_ms).and_then(|users| shown(&users)),
        "give" => store.give(now_ms).map(|is_new| {
            let begins = "Consent is given from now on. `proteus-guest consent show` says what is sent.\n";
            if is_new { begins } else { "Consent was given before, and its budget is not spent.\n" }
                .to_owned()
        }),
        "withdraw" => store.withdraw().map(|()| {
            "Consent is withdrawn. All releases are erased here; the host is told to erase its own.\n"
                .to_owned()
        }),
        _ => return None,
    })
}

/// Does what the words say.
pub fn run(words: &[String]) -> ExitCode {
    let [word] = words else {
        eprint!("{HELP}");
        return ExitCode::from(WRONG);
    };
    let needs_root = ["show", "give", "withdraw"].contains(&word.as_str());
    if needs_root && !rustix::process::geteuid().is_root() {
        eprintln!("proteus-guest: consent is given, shown and withdrawn as root");
        return ExitCode::FAILURE;
    }
    match perform(word, &Store::default(), wall_ms()) {
        Some(Ok(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Some(Err(failure)) => {
            eprintln!("proteus-guest: {failure}");
            ExitCode::FAILURE
        }
        None => {
            eprint!("proteus-guest: there is no such command\n\n{HELP}");
            ExitCode::from(WRONG)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Guest;
    use super::*;

    #[test]
    fn a_person_gives_sees_and_withdraws() {
        let guest = Guest::new("command");
        let say = |word: &str| perform(word, &guest.store, 1_000).unwrap().unwrap();
        assert!(say("show").starts_with("Consent: not given."));
        assert!(say("give").contains("from now on"));
        assert!(say("give").contains("before"));
        let shown = say("show");
        let sent = serde_json::to_string(&guest.store.told(1_000).unwrap()).unwrap();
        assert!(shown.contains("\"consent\":\"given\"") && shown.lines().any(|line| line == sent), "{shown}");
        assert!(shown.contains("0 of 8") && shown.contains("does not protect"));
        assert!(say("withdraw").contains("erased"));
        assert!(say("show").starts_with("Consent: not given."));
        assert!(say("--help").contains("withdraw") && perform("gvie", &guest.store, 0).is_none());
    }
}
