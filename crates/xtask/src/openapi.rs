//! Writes the checked-in schemas anew, by the tests that compare them. Must never know how a schema is made.

use anyhow::{Result, ensure};
use std::path::Path;
use std::process::Command;

/// Tests that write a schema, and the word in the environment that tells them to.
const WRITERS: [(&str, &str, &str); 2] = [
    ("proteus-control-plane", "the_checked_in_document_is_current", "PROTEUS_UPDATE"),
    ("proteus-model", "the_published_schema_is_current", "UPDATE_EXPECT"),
];

/// Writes them all.
pub fn write(root: &Path) -> Result<()> {
    for (package, test, word) in WRITERS {
        let mut command = Command::new(env!("CARGO"));
        command.args(["test", "--quiet", "--package", package, test]).env(word, "1").current_dir(root);
        ensure!(command.status()?.success(), "{test} of {package} failed");
    }
    let mut look = Command::new("git");
    look.args(["status", "--short", "--", "openapi"]).current_dir(root);
    ensure!(look.status()?.success(), "git status failed");
    Ok(())
}
