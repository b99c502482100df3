//! `proteus store`: backup and check of the state, on a Proteus that does not run.

use anyhow::{Context, Result, bail};
use proteus_cli::argument::{Cli, OutputForm, Store};
use proteus_control_plane::store::embedded::Embedded;
use serde_json::json;

/// Runs the command.
pub async fn store(cli: &Cli, command: &Store) -> Result<u8> {
    // Opening would make it, and an empty state is always whole.
    if !cli.state.join("proteus.db").is_file() {
        bail!("there is no state in {} (`--state DIR` names another folder)", cli.state.display());
    }
    let store = Embedded::open(&cli.state, None).context("open the state (stop Proteus first)")?;
    let code = match command {
        Store::Backup { to } => {
            store.backup(to).await?;
            println!("wrote {}", to.display());
            0
        }
        Store::Check => {
            let report = store.check().await?;
            let whole = report.problems.is_empty();
            match cli.output {
                OutputForm::Json => {
                    println!("{}", json!({ "whole": whole, "rev": report.rev, "problems": report.problems }));
                }
                OutputForm::Text if whole => println!("the state is whole, at {}", report.rev),
                OutputForm::Text => println!("the state is damaged:\n{}", report.problems.join("\n")),
            }
            u8::from(!whole)
        }
    };
    store.close().await;
    Ok(code)
}
