//! Pages in Markdown: links lead to files that are there, and tests that a page names as its proof exist.

use super::Finding;
use std::collections::BTreeSet;

/// Names of all functions in the code.
pub fn function_names(codes: impl Iterator<Item = impl AsRef<str>>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for code in codes {
        for (at, word) in code.as_ref().match_indices("fn ") {
            let rest = &code.as_ref()[at + word.len()..];
            names.insert(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    names
}

/// Checks a page. `exists` is asked for paths in the repository.
pub fn check(
    path: &str,
    text: &str,
    functions: &BTreeSet<String>,
    exists: &dyn Fn(&str) -> bool,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
    let mut fenced = false;
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for target in links(line) {
            let file = target.split('#').next().unwrap_or(target);
            if !file.is_empty() && !file.contains(':') && !exists(&joined(dir, file)) {
                findings.push(Finding::new(path, at + 1, format!("leads nowhere: {target}")));
            }
        }
        for name in quoted(line).filter(|name| is_test_name(name) && !functions.contains(*name)) {
            findings.push(Finding::new(path, at + 1, format!("there is no test `{name}`")));
        }
    }
    findings
}

/// Targets of the links in a line.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("](").filter_map(|(at, mark)| line[at + mark.len()..].split(')').next())
}

/// What stands between backticks.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Tests are sentences: four words or more. Nothing else that a page quotes looks so.
fn is_test_name(word: &str) -> bool {
    word.matches('_').count() >= 3
        && word.starts_with(|c: char| c.is_ascii_lowercase())
        && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Path of `file` seen from `dir`.
fn joined(dir: &str, file: &str) -> String {
    let mut parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty()).collect();
    for part in file.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            other => parts.push(other),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let functions = function_names(["async fn it_does_what_it_says() {}"].iter());
        let exists = |path: &str| ["docs/flow/a.md", "crates/b.rs"].contains(&path);
        check("docs/flow/x.md", text, &functions, &exists).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn links_lead_to_files() {
        let good = "[a](a.md) [b](../../crates/b.rs#x) [c](https://example.org/) [d](#here)";
        assert!(found(good).is_empty());
        assert_eq!(found("x\n[a](b.md)"), ["docs/flow/x.md:2: leads nowhere: b.md"]);
        assert!(found("```\n[a](b.md)\n```").is_empty());
    }

    #[test]
    fn tests_that_are_named_exist() {
        assert!(found("`it_does_what_it_says`, `skip_this`, `cargo test it_is_not_one`").is_empty());
        assert_eq!(
            found("`it_does_something_else`"),
            ["docs/flow/x.md:1: there is no test `it_does_something_else`"]
        );
    }
}
