//! `cargo xtask`: the repository's own tools. Must never be needed to use Proteus, only to work on it.

mod ci;

mod openapi;

mod tidy;

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask COMMAND

  tidy             check what style.md says and the compiler cannot
  tidy --tighten   the same, and write down what has become smaller
  openapi          write the checked-in schemas anew
  ci               everything that must pass before a merge
  ci --quick       the same without real guests";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = root().and_then(|root| match words[..] {
        ["tidy"] => tidy::run(&root, false),
        ["tidy", "--tighten"] => tidy::run(&root, true),
        ["openapi"] => openapi::write(&root),
        ["ci"] => ci::run(&root, false),
        ["ci", "--quick"] => ci::run(&root, true),
        _ => bail!("{USAGE}"),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The repository's folder.
fn root() -> Result<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = own.parent().and_then(Path::parent).context("xtask is not in crates/xtask")?;
    Ok(root.to_owned())
}
