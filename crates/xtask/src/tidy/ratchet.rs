//! The list of what was too large when its rule came. A number in it may shrink and never grow; each line says why
//! it is there. Form: `RULE PATH[:FUNCTION] NUMBER REASON`.

use super::Finding;
use super::size::{Measured, Rule};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Where the list is.
pub const PATH: &str = "crates/xtask/ratchet.txt";

const HEAD: &str = "\
# What was too large when its rule came (`cargo xtask tidy`). Numbers may shrink, never grow; no new lines without
# a reason that a reviewer accepts. `cargo xtask tidy --tighten` writes down what has become smaller.
# RULE PATH[:FUNCTION] NUMBER REASON
";

/// One allowance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    line: usize,
    count: usize,
    reason: String,
}

/// Allowances by rule and by what they are for.
pub type Allowed = BTreeMap<(Rule, String), Entry>;

/// What came of a comparison.
pub struct Verdict {
    pub findings: Vec<Finding>,
    /// How many numbers may be lowered.
    pub shrunk: usize,
    /// The list with them lowered.
    pub tightened: String,
}

/// Reads the list.
pub fn parse(text: &str) -> Result<Allowed> {
    let mut allowed = Allowed::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let place = format!("{PATH}:{}", at + 1);
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let [rule, what, count, reason] = words[..] else {
            anyhow::bail!("{place}: expected RULE PATH[:FUNCTION] NUMBER REASON");
        };
        let rule = Rule::ALL.into_iter().find(|r| r.word() == rule);
        let rule = rule.with_context(|| format!("{place}: the rules are file, function and sleep"))?;
        let count = count.parse().with_context(|| format!("{place}: {count} is not a number"))?;
        let entry = Entry { line: at + 1, count, reason: reason.to_owned() };
        let twice = allowed.insert((rule, what.to_owned()), entry).is_some();
        ensure!(!twice, "{place}: {what} stands here twice");
    }
    Ok(allowed)
}

fn key(measured: &Measured) -> (Rule, String) {
    let what = match measured.item.as_str() {
        "" => measured.path.clone(),
        item => format!("{}:{item}", measured.path),
    };
    (measured.rule, what)
}

/// Holds what was measured against the limits and the list.
pub fn compare(measured: &[Measured], allowed: &Allowed) -> Verdict {
    // Two functions of one name in a file share an allowance: the larger counts.
    let mut largest: BTreeMap<(Rule, String), &Measured> = BTreeMap::new();
    for one in measured {
        let entry = largest.entry(key(one)).or_insert(one);
        if one.count > entry.count {
            *entry = one;
        }
    }
    let mut verdict = Verdict { findings: Vec::new(), shrunk: 0, tightened: HEAD.to_owned() };
    for (key, one) in &largest {
        let most = allowed.get(key).map_or(one.rule.limit(), |entry| entry.count.max(one.rule.limit()));
        if one.count > most {
            verdict.findings.push(Finding::new(&one.path, one.line, one.rule.complaint(one.count, most)));
        }
    }
    for ((rule, what), entry) in allowed {
        let now = largest.get(&(*rule, what.clone())).map_or(0, |one| one.count);
        verdict.shrunk += usize::from(now < entry.count);
        if now > rule.limit() {
            let least = now.min(entry.count);
            // Writing to a String cannot fail.
            let _ = writeln!(verdict.tightened, "{} {what} {least} {}", rule.word(), entry.reason);
        }
        if entry.reason.trim().is_empty() {
            verdict.findings.push(Finding::new(PATH, entry.line, "without a reason"));
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(rule: Rule, item: &str, count: usize) -> Measured {
        Measured { rule, path: "a.rs".into(), item: item.into(), line: 7, count }
    }

    fn complaints(list: &str, measured: &[Measured]) -> Vec<String> {
        compare(measured, &parse(list).unwrap()).findings.iter().map(Finding::to_string).collect()
    }

    #[test]
    fn what_is_listed_may_not_grow() {
        let list = "function a.rs:f 90 a table\n";
        assert!(complaints(list, &[measured(Rule::Function, "f", 90)]).is_empty());
        assert!(complaints(list, &[measured(Rule::Function, "g", 70)]).is_empty());
        let found = complaints(list, &[measured(Rule::Function, "f", 91), measured(Rule::Function, "g", 71)]);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], "a.rs:7: function of 91 lines, 90 at most: split it");
        assert!(!complaints("", &[measured(Rule::Sleep, "", 1)]).is_empty());
    }

    #[test]
    fn tightening_lowers_numbers_and_drops_what_is_within_its_limit() {
        let list = "file a.rs 900 reason one\nfunction a.rs:f 90 reason two\nsleep a.rs 2 reason three\n";
        let now = [measured(Rule::File, "", 850), measured(Rule::Function, "f", 60)];
        let verdict = compare(&now, &parse(list).unwrap());
        assert_eq!(verdict.shrunk, 3);
        assert_eq!(verdict.tightened, format!("{HEAD}file a.rs 850 reason one\n"));
    }

    #[test]
    fn a_list_that_cannot_be_read_names_its_line() {
        for (list, expected) in [
            ("\nfile a.rs 1", "ratchet.txt:2: expected"),
            ("size a.rs 1 x", "the rules are"),
            ("file a.rs x y", "x is not a number"),
            ("file a.rs 1 x\nfile a.rs 2 x", "ratchet.txt:2: a.rs stands here twice"),
        ] {
            let error = format!("{:#}", parse(list).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
