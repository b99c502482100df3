//! `proteus store`: backup and check of the state. A Proteus that serves has it for itself and is asked for a backup;
//! else it is opened here. A server that was named writes its backup on its own host.

use crate::service;
use anyhow::{Context, Result, bail};
use proteus_cli::argument::{Cli, OutputForm, Store};
use proteus_cli::client::ClientError;
use proteus_cli::error::{CommandError, report};
use proteus_cli::terminal;
use proteus_control_plane::check;
use proteus_control_plane::store::embedded::Embedded;
use proteus_control_plane::store::{Store as _, StoreError};
use proteus_protocol::api::v1::BackupView;
use serde_json::json;
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a check is refused, and what can be done.
const SERVES: &str = "check the state: stop Proteus first, or check a backup \
    (`proteus store backup DIR/proteus.db`, then `proteus --state DIR store check`)";

/// Runs the command.
pub async fn store(cli: &Cli, command: &Store) -> Result<u8> {
    if let Some(server) = &cli.server {
        let done = match command {
            Store::Backup { to } => ask_server(cli, server, to.as_deref()).await,
            Store::Check => Err(CommandError::Usage {
                what: format!("`store check` looks at a state folder of this host, not at {server}"),
                hint: "leave --server and PROTEUS_SERVER away, or check on the server's host".to_owned(),
            }),
        };
        return Ok(done.map_or_else(|error| refused(cli, error), |()| 0));
    }
    // Opening would make it, and an empty state is always whole.
    if !cli.state.join("proteus.db").is_file() {
        bail!("there is no state in {} (`--state DIR` names another folder)", cli.state.display());
    }
    let store = match (Embedded::open(&cli.state, None), command) {
        (Err(StoreError::InUse { .. }), Store::Backup { to }) => return ask(cli, to.as_deref()).await,
        (opened @ Err(StoreError::InUse { .. }), Store::Check) => opened.context(SERVES)?,
        (opened, _) => opened.context("open the state")?,
    };
    let store = Arc::new(store);
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
            let mut problems = report.problems;
            problems.extend(check::problems(store.clone(), service::entropy()).await?);
            let whole = problems.is_empty();
            match cli.output {
                OutputForm::Json => {
                    terminal::say(format_args!(
                        "{}",
                        json!({ "whole": whole, "rev": report.rev, "problems": problems })
                    ));
                }
                OutputForm::Text if whole => {
                    terminal::say(format_args!("the state is whole, at {}", report.rev))
                }
                OutputForm::Text => {
                    terminal::say(format_args!("the state is damaged:\n{}", problems.join("\n")))
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

/// A file that a backup is to be in: made before anything else, so that one that cannot be made takes nothing, and
/// taken away again unless it is finished.
struct Target {
    path: PathBuf,
    file: Option<File>,
}

impl Target {
    /// Nothing is written over.
    fn make(path: &Path) -> Result<Self> {
        let made = File::options().write(true).create_new(true).mode(0o600).open(path);
        let file = made.with_context(|| format!("write {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file: Some(file) })
    }

    /// Takes in what is at `from`, over the border of a file system too.
    fn fill(mut self, from: &Path) -> Result<PathBuf> {
        let copied = File::open(from).and_then(|mut source| {
            let file = self.file.as_mut().ok_or_else(|| std::io::Error::other("it is closed"))?;
            std::io::copy(&mut source, file)?;
            file.sync_all()
        });
        copied.with_context(|| format!("write {}", self.path.display()))?;
        self.file = None;
        Ok(self.path.clone())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Says why it was refused; the exit code.
fn refused(cli: &Cli, error: CommandError) -> u8 {
    terminal::write_aside(&report(&error.body(), cli.output));
    error.exit_code()
}

async fn make(cli: &Cli) -> Result<BackupView, ClientError> {
    crate::client(cli)?.post("/store/backup", &json!({})).await
}

/// Asks a server that was named for a backup, which stays on its host.
async fn ask_server(cli: &Cli, server: &str, to: Option<&Path>) -> Result<(), CommandError> {
    if let Some(to) = to {
        return Err(CommandError::Usage {
            what: format!("{server} cannot write its backup to {} here", to.display()),
            hint: "without FILE it writes one on its own host and says where; copy it from there".to_owned(),
        });
    }
    let path = make(cli).await?.path;
    match cli.output {
        OutputForm::Json => terminal::say(format_args!("{}", json!({ "path": path }))),
        OutputForm::Text => terminal::say(format_args!("wrote {} on the host of {server}", path.display())),
    }
    Ok(())
}

/// Asks the Proteus that serves for a backup, and takes it to where it is wanted. Where it cannot be taken there
/// nothing is left of it.
async fn ask(cli: &Cli, to: Option<&Path>) -> Result<u8> {
    let target = to.map(Target::make).transpose()?;
    let made = match make(cli).await {
        Ok(view) => view.path,
        Err(error) => return Ok(refused(cli, error.into())),
    };
    let Some(target) = target else {
        told(cli, &made);
        return Ok(0);
    };
    let taken = target.fill(&made);
    std::fs::remove_file(&made).with_context(|| format!("remove {}", made.display()))?;
    told(cli, &taken?);
    Ok(0)
}
