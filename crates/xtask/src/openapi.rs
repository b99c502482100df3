//! Writes the checked-in schemas anew, by the tests that compare them. Must never know how a schema is made.

use anyhow::{Result, ensure};
use std::path::Path;
use std::process::Command;

/// Tests that write a schema: package, which of its programs, name; and the word in the environment that tells them.
const WRITERS: [(&str, &[&str], &str, &str); 2] = [
    ("proteus-control-plane", &["--lib"], "the_checked_in_document_is_current", "PROTEUS_UPDATE"),
    ("proteus-model", &["--test", "profile_shipped"], "the_published_schema_is_current", "UPDATE_EXPECT"),
];

/// Writes them all.
pub fn write(root: &Path) -> Result<()> {
    for (package, program, test, word) in WRITERS {
        let mut command = Command::new(env!("CARGO"));
        command.args(["test", "--quiet", "--package", package]).args(program).arg(test);
        command.env(word, "1").current_dir(root);
        ensure!(command.status()?.success(), "{test} of {package} failed");
    }
    let mut look = Command::new("git");
    look.args(["status", "--short", "--", "openapi"]).current_dir(root);
    ensure!(look.status()?.success(), "git status failed");
    Ok(())
}
