//! Why a command failed, and with which exit code.

use crate::client::ClientError;
use std::path::PathBuf;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The server said no, or is not there.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// What was typed cannot be.
    #[error("{what}")]
    Usage {
        /// What is wrong.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// A file of the user's could not be read.
    #[error("read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is no such thing.
    #[error("{what}")]
    Missing {
        /// What there is not.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// It did not come about, and waiting longer is in vain.
    #[error("{what}")]
    Failed {
        /// What did not.
        what: String,
        /// Why.
        because: Vec<String>,
        /// What to do about it.
        hint: String,
    },
    /// It did not come about in time.
    #[error("{what}")]
    TimedOut {
        /// What did not.
        what: String,
        /// What to do about it.
        hint: String,
    },
}

impl CommandError {
    /// The exit code, as `proteus --help` lists them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => 2,
            Self::Missing { .. } => 3,
            Self::File { .. } | Self::Failed { .. } | Self::TimedOut { .. } => 1,
            Self::Client(ClientError::Unreachable { .. }) => 7,
            Self::Client(ClientError::Address { .. }) => 2,
            Self::Client(ClientError::Strange(_)) => 1,
            Self::Client(ClientError::Refused { status, .. }) => match status {
                401 | 403 => 8,
                404 => 3,
                409 | 422 | 423 => 4,
                _ => 1,
            },
        }
    }

    /// Message, causes and hint, for people.
    pub fn report(&self) -> String {
        let mut text = format!("error: {self}\n");
        let mut hint = None;
        match self {
            Self::Usage { hint: h, .. } | Self::Missing { hint: h, .. } | Self::TimedOut { hint: h, .. } => {
                hint = Some(h.clone());
            }
            Self::File { source, .. } => text.push_str(&format!("  because: {source}\n")),
            Self::Failed { because, hint: h, .. } => {
                for cause in because {
                    text.push_str(&format!("  because: {cause}\n"));
                }
                hint = Some(h.clone());
            }
            Self::Client(ClientError::Refused { body, .. }) => {
                for cause in &body.detail {
                    text.push_str(&format!("  because: {cause}\n"));
                }
                hint = body.hint.clone();
            }
            Self::Client(ClientError::Unreachable { .. }) => {
                hint = Some(
                    "is it running? `proteus serve` starts it; only root may use the unix socket".to_owned(),
                );
            }
            Self::Client(_) => {}
        }
        if let Some(hint) = hint {
            text.push_str(&format!("  hint: {hint}\n"));
        }
        text
    }
}

/// What was typed cannot be.
pub(crate) fn usage(what: String, hint: &str) -> CommandError {
    CommandError::Usage { what, hint: hint.to_owned() }
}
