//! `proteus store`: backup and check of the state. A Proteus that serves has it for itself and is asked for a backup;
//! else it is opened here.

use anyhow::{Context, Result, bail};
use proteus_cli::argument::{Cli, OutputForm, Store};
use proteus_cli::client::Client;
use proteus_cli::error::CommandError;
use proteus_cli::terminal;
use proteus_control_plane::store::embedded::Embedded;
use proteus_control_plane::store::{Store as _, StoreError};
use proteus_protocol::api::v1::BackupView;
use serde_json::json;
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why a check is refused, and what can be done.
const SERVES: &str = "check the state: stop Proteus first, or check a backup \
    (`proteus store backup DIR/proteus.db`, then `proteus --state DIR store check`)";

/// Runs the command.
pub async fn store(cli: &Cli, command: &Store) -> Result<u8> {
    // Opening would make it, and an empty state is always whole.
    if !cli.state.join("proteus.db").is_file() {
        bail!("there is no state in {} (`--state DIR` names another folder)", cli.state.display());
    }
    let store = match (Embedded::open(&cli.state, None), command) {
        (Err(StoreError::InUse { .. }), Store::Backup { to }) => return ask(cli, to.as_deref()).await,
        (opened @ Err(StoreError::InUse { .. }), Store::Check) => opened.context(SERVES)?,
        (opened, _) => opened.context("open the state")?,
    };
    let code = match command {
        Store::Backup { to } => {
            let to = match to {
                Some(to) => to.clone(),
                None => {
                    let dir = cli.state.join("backups");
                    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
                    made.with_context(|| format!("make {}", dir.display()))?;
                    dir.join(format!("proteus-{}.db", store.rev().await?.0))
                }
            };
            store.backup(&to).await?;
            told(cli, &to);
            0
        }
        Store::Check => {
            let report = store.check().await?;
            let whole = report.problems.is_empty();
            match cli.output {
                OutputForm::Json => {
                    terminal::say(format_args!(
                        "{}",
                        json!({ "whole": whole, "rev": report.rev, "problems": report.problems })
                    ));
                }
                OutputForm::Text if whole => {
                    terminal::say(format_args!("the state is whole, at {}", report.rev))
                }
                OutputForm::Text => {
                    terminal::say(format_args!("the state is damaged:\n{}", report.problems.join("\n")))
                }
            }
            u8::from(!whole)
        }
    };
    store.close().await;
    Ok(code)
}

fn told(cli: &Cli, path: &Path) {
    match cli.output {
        OutputForm::Json => terminal::say(format_args!("{}", json!({ "path": path }))),
        OutputForm::Text => terminal::say(format_args!("wrote {}", path.display())),
    }
}

/// Asks the Proteus that serves for a backup, and takes it to where it is wanted.
async fn ask(cli: &Cli, to: Option<&Path>) -> Result<u8> {
    let asked: Result<BackupView, _> = Client::local(&cli.state).post("/store/backup", &json!({})).await;
    let made = match asked {
        Ok(view) => view.path,
        Err(error) => {
            let error = CommandError::from(error);
            terminal::write_aside(&error.report());
            return Ok(error.exit_code());
        }
    };
    let path = match to {
        Some(to) => take(&made, to)?,
        None => made,
    };
    told(cli, &path);
    Ok(0)
}

/// Moves a backup, over the border of a file system too; nothing is written over.
fn take(made: &Path, to: &Path) -> Result<PathBuf> {
    let copied = File::options().write(true).create_new(true).mode(0o600).open(to).and_then(|mut copy| {
        std::io::copy(&mut File::open(made)?, &mut copy)?;
        copy.sync_all()
    });
    copied.with_context(|| format!("write {} (the backup is {})", to.display(), made.display()))?;
    std::fs::remove_file(made).with_context(|| format!("remove {}", made.display()))?;
    Ok(to.to_owned())
}
