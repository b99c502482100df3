//! Why a command failed, and with which exit code.

use crate::argument::OutputForm;
use crate::client::ClientError;
use proteus_protocol::api::v1::ErrorBody;
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
    /// A file of the user's could not be written.
    #[error("write {path}")]
    Written {
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
    /// What is asked, other than a server of Proteus, is not there or does not answer.
    #[error("{what}")]
    Unreachable {
        /// What did not come about.
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
            Self::File { .. } | Self::Written { .. } | Self::Failed { .. } | Self::TimedOut { .. } => 1,
            Self::Unreachable { .. } | Self::Client(ClientError::Unreachable { .. }) => 7,
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

    /// Code, message, causes and hint: those of the API where it said no.
    pub fn body(&self) -> ErrorBody {
        let (code, detail, hint) = match self {
            Self::Client(ClientError::Refused { body, .. }) => return (**body).clone(),
            Self::Usage { hint, .. } => ("usage", Vec::new(), Some(hint.clone())),
            Self::Missing { hint, .. } => ("not_found", Vec::new(), Some(hint.clone())),
            Self::TimedOut { hint, .. } => ("timed_out", Vec::new(), Some(hint.clone())),
            Self::File { source, .. } => ("file", vec![source.to_string()], None),
            Self::Written { source, .. } => {
                let hint = match source.kind() {
                    std::io::ErrorKind::AlreadyExists => "name another file, or remove that one",
                    _ => "is there room, and may you write there?",
                };
                ("file", vec![source.to_string()], Some(hint.to_owned()))
            }
            Self::Failed { because, hint, .. } => ("failed", because.clone(), Some(hint.clone())),
            Self::Unreachable { because, hint, .. } => ("unreachable", because.clone(), Some(hint.clone())),
            Self::Client(ClientError::Unreachable { place, why }) => {
                ("unreachable", Vec::new(), Some(way_to(place, why).to_owned()))
            }
            Self::Client(ClientError::Address { .. }) => ("usage", Vec::new(), None),
            Self::Client(ClientError::Strange(_)) => ("failed", Vec::new(), None),
        };
        ErrorBody { code: code.to_owned(), message: self.to_string(), detail, hint }
    }
}

/// What to do about a server that was not reached.
fn way_to(place: &str, why: &str) -> &'static str {
    if why.contains("certificate") {
        "its certificate is not trusted: `--ca FILE` names the authority that signed it, and the server must show its \
         own certificate, not the authority's"
    } else if place.starts_with("https:") {
        "is it running, and does it serve TLS? one without is reached at http://, which only its own host offers"
    } else if place.starts_with("http:") {
        "is it running? one that serves TLS is reached at https://"
    } else {
        "is it running? `proteus serve` starts it; only root may use the unix socket"
    }
}

/// An error as it is written on standard error: for people, or one JSON object of the fields that the API documents.
pub fn report(body: &ErrorBody, form: OutputForm) -> String {
    if form == OutputForm::Json {
        return serde_json::to_string_pretty(body).unwrap_or_default() + "\n";
    }
    let mut text = format!("error: {}\n", body.message);
    for cause in &body.detail {
        text.push_str(&format!("  because: {cause}\n"));
    }
    if let Some(hint) = &body.hint {
        text.push_str(&format!("  hint: {hint}\n"));
    }
    text
}

/// What was typed cannot be.
pub(crate) fn usage(what: String, hint: &str) -> CommandError {
    CommandError::Usage { what, hint: hint.to_owned() }
}
