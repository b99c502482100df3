//! Everything that must pass before a merge, one step after the other, with a summary. Must never skip a step
//! without saying so and why.

use crate::tidy;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// How a step ended.
enum Outcome {
    Passed,
    Failed,
    /// And why.
    Skipped(String),
}

struct Step {
    name: &'static str,
    outcome: Outcome,
    seconds: f64,
}

/// Runs all steps, also after one has failed; fails if one did.
pub fn run(root: &Path, quick: bool) -> Result<()> {
    let mut steps = Vec::new();
    let mut counted = None;
    let mut step = |name: &'static str, work: &mut dyn FnMut() -> Result<Outcome>| {
        println!("\n== {name}");
        let start = Instant::now();
        let outcome = work().unwrap_or_else(|error| {
            println!("error: {error:#}");
            Outcome::Failed
        });
        steps.push(Step { name, outcome, seconds: start.elapsed().as_secs_f64() });
    };
    step("fmt", &mut || cargo(root, &["fmt", "--all", "--check"]));
    step("clippy", &mut || cargo(root, &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]));
    step("tidy", &mut || tidy::run(root, false).map(|()| Outcome::Passed));
    step("deny", &mut || deny(root, &["bans", "licenses", "sources"]));
    step("advisories", &mut || advisories(root));
    // The schemas are compared by tests of their crates: see `openapi`.
    step("tests", &mut || {
        let (outcome, line) = tests(root, quick)?;
        counted = line;
        Ok(outcome)
    });
    summary(root, &steps, counted.as_deref())
}

fn summary(root: &Path, steps: &[Step], counted: Option<&str>) -> Result<()> {
    println!("\n== summary");
    for step in steps {
        let (word, why) = match &step.outcome {
            Outcome::Passed => ("passed", String::new()),
            Outcome::Failed => ("FAILED", String::new()),
            Outcome::Skipped(why) => ("skipped", format!(": {why}")),
        };
        println!("{:7.1} s  {:<11} {word}{why}", step.seconds, step.name);
    }
    let failed: Vec<&str> =
        steps.iter().filter(|step| matches!(step.outcome, Outcome::Failed)).map(|step| step.name).collect();
    // `./test` ends with this line.
    if let Some(line) = counted {
        println!("\n{line}");
        std::fs::write(root.join("target/ci-summary"), format!("{line}\n"))
            .context("write target/ci-summary")?;
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn cargo(root: &Path, args: &[&str]) -> Result<Outcome> {
    let status = Command::new(env!("CARGO")).args(args).current_dir(root).status()?;
    Ok(if status.success() { Outcome::Passed } else { Outcome::Failed })
}

/// Whether cargo knows the subcommand.
fn has(root: &Path, subcommand: &str) -> bool {
    let mut command = Command::new(env!("CARGO"));
    command.args([subcommand, "--version"]).current_dir(root).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn deny(root: &Path, checks: &[&str]) -> Result<Outcome> {
    if !has(root, "deny") {
        return Ok(Outcome::Skipped(
            "cargo-deny is not installed; `cargo install cargo-deny --locked`".into(),
        ));
    }
    cargo(root, &[&["deny", "check"], checks].concat())
}

/// Known holes in dependencies; only where the database of them can be had.
fn advisories(root: &Path) -> Result<Outcome> {
    if !has(root, "deny") {
        return Ok(Outcome::Skipped("cargo-deny is not installed".into()));
    }
    let mut fetch = Command::new(env!("CARGO"));
    fetch.args(["deny", "fetch", "db"]).current_dir(root).env("GIT_TERMINAL_PROMPT", "0");
    let fetched = fetch.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if !fetched.success() {
        return Ok(Outcome::Skipped("the advisory database is not reachable from here".into()));
    }
    cargo(root, &["deny", "check", "--disable-fetch", "advisories"])
}

/// Runs the tests; gives also the line with their count.
fn tests(root: &Path, quick: bool) -> Result<(Outcome, Option<String>)> {
    let nextest = has(root, "nextest");
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root).stdin(Stdio::null());
    if nextest {
        command.args(["nextest", "run", "--workspace", "--no-fail-fast"]);
        // Tests that boot a guest are marked as ignored, so that `cargo test` is quick.
        if !quick {
            command.args(["--run-ignored", "all"]);
        }
    } else {
        println!(
            "cargo-nextest is not installed: running `cargo test` (no time limits, one process per file)"
        );
        command.args(["test", "--workspace", "--no-fail-fast", "--", "--test-threads", "2"]);
        if !quick {
            command.arg("--include-ignored");
        }
    }
    // nextest writes to stderr, cargo's own harness to stdout.
    if nextest {
        command.stderr(Stdio::piped())
    } else {
        command.stdout(Stdio::piped())
    };
    let mut child = command.spawn().context("start the tests")?;
    let lines: Box<dyn BufRead> = match (child.stderr.take(), child.stdout.take()) {
        (Some(pipe), _) => Box::new(BufReader::new(pipe)),
        (None, Some(pipe)) => Box::new(BufReader::new(pipe)),
        (None, None) => bail!("the tests' output is not there"),
    };
    let mut count = Count::default();
    let mut out = std::io::stdout().lock();
    for line in lines.split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        writeln!(out, "{line}")?;
        count.take(&line);
    }
    drop(out);
    let status = child.wait()?;
    let outcome = if status.success() { Outcome::Passed } else { Outcome::Failed };
    Ok((outcome, count.line()))
}

/// The number of tests, as the runner says it.
#[derive(Default)]
struct Count {
    /// nextest's own line.
    nextest: Option<String>,
    /// Passed, failed, ignored of cargo's harness, over all its test programs.
    harness: Option<[u64; 3]>,
}

impl Count {
    fn take(&mut self, line: &str) {
        // `     Summary [   1.234s] 12 tests run: 12 passed, 0 skipped`
        if line.trim_start().starts_with("Summary [") && line.contains("run:") {
            self.nextest = line.split_once(']').map(|(_, rest)| rest.trim().to_owned());
        }
        // `test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s`
        if let Some((_, rest)) = line.split_once("test result: ") {
            let numbers = rest.split("; ").map(|part| {
                let part = part.rsplit(". ").next().unwrap_or(part);
                part.split(' ').next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0)
            });
            let sums = self.harness.get_or_insert_default();
            for (sum, number) in sums.iter_mut().zip(numbers) {
                *sum += number;
            }
        }
    }

    fn line(&self) -> Option<String> {
        let of_harness = |[passed, failed, ignored]: [u64; 3]| {
            let failed_text = if failed > 0 { format!("{failed} failed, ") } else { String::new() };
            format!("{} tests run: {passed} passed, {failed_text}{ignored} skipped", passed + failed)
        };
        self.nextest.clone().or_else(|| self.harness.map(of_harness))
    }
}

#[cfg(test)]
mod tests {
    use super::Count;

    fn counted(lines: &[&str]) -> Option<String> {
        let mut count = Count::default();
        lines.iter().for_each(|line| count.take(line));
        count.line()
    }

    #[test]
    fn the_count_of_nextest_is_its_own_line() {
        let lines =
            ["   PASS [ 0.1s] x", "     Summary [   1.234s] 12 tests run: 11 passed, 1 failed, 2 skipped"];
        assert_eq!(counted(&lines).as_deref(), Some("12 tests run: 11 passed, 1 failed, 2 skipped"));
        assert_eq!(counted(&["nothing"]), None);
    }

    #[test]
    fn the_counts_of_cargos_harness_are_summed() {
        let one =
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        let two = "test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(counted(&[one]).as_deref(), Some("3 tests run: 3 passed, 1 skipped"));
        assert_eq!(counted(&[one, two]).as_deref(), Some("9 tests run: 7 passed, 2 failed, 1 skipped"));
    }
}
