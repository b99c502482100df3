//! What the house style says and the compiler cannot check: who imports whom, names, sizes, words that have no
//! place outside tests. What was too large when its rule came stands in `ratchet.txt` and may only shrink. Must
//! never change a file, except that one.

mod document;

mod import;

mod name;

mod ratchet;

mod size;

mod source;

mod text;

use anyhow::{Context, Result, bail};
use source::Source;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    path: String,
    /// Counted from 1.
    line: usize,
    what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// Checks everything; prints what it finds.
pub fn run(root: &Path, tighten: bool) -> Result<()> {
    let paths = tracked(root)?;
    let mut findings = import::check(&import::crates(root)?);
    let (mut sources, mut pages) = (Vec::new(), Vec::new());
    for path in &paths {
        // Images and other bytes that are no text are none of ours.
        let Ok(text) = std::fs::read_to_string(root.join(path)) else { continue };
        findings.extend(text::check(path, &text));
        if path.ends_with(".rs") {
            sources.push(Source::new(path, &text));
        } else if path.ends_with(".md") {
            pages.push((path, text));
        }
    }
    let functions = document::function_names(sources.iter().map(|source| &source.code));
    for (path, text) in &pages {
        findings.extend(document::check(path, text, &functions, &|path| root.join(path).exists()));
    }
    let test_files: BTreeSet<String> = sources.iter().flat_map(Source::test_modules).collect();
    let mut measured = Vec::new();
    for source in &mut sources {
        if test_files.contains(&source.path) {
            source.mark_test();
        }
        findings.extend(name::check(source));
        findings.extend(text::check_source(source));
        measured.extend(size::measure(source));
    }
    let path = root.join(ratchet::PATH);
    let allowed = ratchet::parse(&std::fs::read_to_string(&path).unwrap_or_default())?;
    let verdict = ratchet::compare(&measured, &allowed);
    findings.extend(verdict.findings);
    if tighten {
        std::fs::write(&path, verdict.tightened).with_context(|| format!("write {}", path.display()))?;
    }
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("tidy: {} findings", findings.len());
    }
    let may_shrink = if verdict.shrunk > 0 && !tighten {
        format!(
            "; {} numbers in {} may be lowered: cargo xtask tidy --tighten",
            verdict.shrunk,
            ratchet::PATH
        )
    } else {
        String::new()
    };
    println!("tidy: {} files, {} of them Rust{may_shrink}", paths.len(), sources.len());
    Ok(())
}

/// Files that git knows, and new ones that it does not ignore.
fn tracked(root: &Path) -> Result<Vec<String>> {
    let mut command = Command::new("git");
    command.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let output = command.output().context("run git")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let exists = |path: &&str| !path.is_empty() && root.join(path).is_file();
    Ok(text.split('\0').filter(exists).map(str::to_owned).collect())
}
