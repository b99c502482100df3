//! Why a request could not be met: a kind that the host can act on, and a sentence for people. Must always name
//! the operation that failed.

use proteus_protocol::cause::chain;
use proteus_protocol::guest::v1::{ErrorCode, Reply};
use std::error::Error;
use std::fmt::Display;

/// Why a request could not be met.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The kind.
    pub code: ErrorCode,
    /// The operation and the whole chain of causes.
    pub message: String,
}

impl Failure {
    /// Of a kind, in words.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The request is malformed or out of range.
    pub fn invalid(source: &dyn Error) -> Self {
        Self::new(ErrorCode::Invalid, chain(source))
    }

    /// There is no such thing.
    pub fn not_found(what: impl Display) -> Self {
        Self::new(ErrorCode::NotFound, format!("{what} is not in this guest"))
    }

    /// It cannot be done here.
    pub fn unsupported(what: impl Display) -> Self {
        Self::new(ErrorCode::Unsupported, what.to_string())
    }

    /// Somebody else is at it.
    pub fn busy(what: impl Display) -> Self {
        Self::new(ErrorCode::Busy, what.to_string())
    }

    /// It was written, and reads back as something else.
    pub fn not_effective(what: impl Display, wanted: impl Display, found: impl Display) -> Self {
        Self::new(ErrorCode::NotEffective, format!("{what} was set to {wanted} and reads back as {found}"))
    }

    /// The kernel refused an operation.
    pub fn system(operation: impl Display, source: &dyn Error) -> Self {
        Self::new(ErrorCode::System, format!("{operation}: {}", chain(source)))
    }

    /// As an answer.
    pub fn into_reply(self) -> Reply {
        Reply::Error { code: self.code, message: self.message }
    }
}
