//! Names of files and modules, and how a file begins.

use super::Finding;
use super::source::Source;

/// Names that say nothing.
const EMPTY_NAMES: [&str; 8] =
    ["util", "utils", "helper", "helpers", "common", "manager", "managers", "misc"];
/// Modules of the flow's stages.
const STAGES: [&str; 7] =
    ["telemetry", "personality", "forecast", "decision", "plan", "execution", "verification"];
/// Crates that take part in stages.
const IN_THE_FLOW: [&str; 6] = ["model", "brain", "guest-agent", "host-agent", "control-plane", "twin"];

/// Checks a file.
pub fn check(source: &Source) -> Vec<Finding> {
    let path = &source.path;
    let mut findings = Vec::new();
    let mut tell = |line: usize, what: String| findings.push(Finding::new(path, line, what));
    let parts: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
    if parts.last() == Some(&"mod") {
        tell(1, "no mod.rs: `foo.rs` beside `foo/`".to_owned());
    }
    for part in parts.iter().filter(|part| EMPTY_NAMES.contains(part)) {
        tell(1, format!("`{part}` says nothing: name what it is"));
    }
    if !source.text.starts_with("//!") {
        tell(1, "opens with `//!`: what it is, and what it must never do".to_owned());
    }
    if let ["crates", package, "src", inside @ ..] = parts.as_slice() {
        let at_top = |stage: &&str| inside.first() == Some(stage) && IN_THE_FLOW.contains(package);
        for (depth, part) in inside.iter().enumerate().filter(|(_, part)| STAGES.contains(part)) {
            if depth > 0 || !at_top(part) {
                tell(1, format!("`{part}` is the name of a stage of the flow: only for its module"));
            }
        }
        for (line, code, _) in source.lines() {
            let Some(stage) = STAGES.iter().find(|stage| declares(code, stage)) else { continue };
            // A module in a file of its own was looked at by its path.
            if code.contains('{') {
                tell(line, format!("`{stage}` is the name of a stage of the flow: only for its module"));
            }
        }
    }
    findings
}

/// Whether the line declares the module.
fn declares(code: &str, module: &str) -> bool {
    let mut words = code.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty());
    words.any(|word| word == "mod") && words.next() == Some(module)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        check(&Source::new(path, text)).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn good_names_pass() {
        assert!(found("crates/brain/src/plan.rs", "//! Plans.\n").is_empty());
        assert!(found("crates/brain/src/plan/resource.rs", "//! Plans.\nfn plan() {}\n").is_empty());
        assert!(found("crates/cli/src/argument.rs", "//! Words.\nuse x::plan::Plan;\n").is_empty());
    }

    #[test]
    fn bad_names_are_told_with_their_place() {
        let found_in = |path| found(path, "//! A file.\n");
        assert_eq!(
            found_in("crates/a/tests/b/mod.rs"),
            ["crates/a/tests/b/mod.rs:1: no mod.rs: `foo.rs` beside `foo/`"]
        );
        assert!(found_in("crates/a/src/utils/x.rs")[0].contains("`utils` says nothing"));
        assert!(found_in("crates/cli/src/plan.rs")[0].contains("stage"));
        assert!(found_in("crates/brain/src/x/forecast.rs")[0].contains("stage"));
        assert!(found("crates/brain/src/x.rs", "use a;\n")[0].contains("opens with"));
        let inline = found("crates/cli/src/x.rs", "//! A.\nmod decision {}\n");
        assert!(inline[0].starts_with("crates/cli/src/x.rs:2: `decision`"), "{inline:?}");
    }
}
