//! Version 1 of the guest channel's messages. Frozen: a change of meaning is a new version; a new field must be
//! optional, and unknown fields, requests and events are ignored or answered with `unsupported`.
//!
//! The host sends [`HostMessage`]; the guest answers each with one [`GuestMessage::Reply`] of the same id, in any
//! order, and sends [`GuestMessage::Event`] unasked. Whatever changes something answers with what it read back.

pub mod blob;

pub mod findings;

pub mod request;

pub mod sample;

pub mod service;

pub mod setting;

#[cfg(test)]
mod tests;

pub use blob::Blob;
pub use findings::{CollectPolicy, Findings};
pub use request::{
    ExecOutcome, ExecRequest, HelloReply, HelloRequest, ImageMounted, LinkIdentity, NetworkSettings,
    ProcessFound, ProcessReply, Request, Shutdown, UnitReply,
};
pub use sample::Sample;
pub use service::{ServiceManifest, ServiceStatus};
pub use setting::{Knob, Setting};

use serde::{Deserialize, Serialize};

/// The version that this module speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// What the host sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostMessage {
    /// Chosen by the host, comes back in the reply.
    pub id: u64,
    /// What it wants.
    pub request: Request,
}

/// What the guest sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum GuestMessage {
    /// The answer to a request.
    Reply {
        /// The request's id.
        id: u64,
        /// The answer.
        reply: Box<Reply>,
    },
    /// Something that the host did not ask for.
    Event {
        /// What happened.
        event: Event,
    },
    /// Sent by a newer agent; ignore it.
    #[serde(other)]
    Unknown,
}

/// Something that the host did not ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The agent has (re)opened the channel. Same content as the answer to `hello`.
    Hello {
        /// Who it is.
        hello: HelloReply,
    },
    /// A service changed its state.
    Service {
        /// The service after the change.
        status: ServiceStatus,
    },
    /// The guest is going down, by whoever's wish.
    ShuttingDown {
        /// How it will end.
        shutdown: Shutdown,
    },
    /// Sent by a newer agent; ignore it.
    #[serde(other)]
    Unknown,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// Done, and there is nothing more to say.
    Done,
    /// To `ping`.
    Pong {
        /// The guest's time since boot.
        uptime_ms: u64,
    },
    /// To `hello`.
    Hello {
        /// Who the agent is.
        hello: HelloReply,
    },
    /// To `sample`.
    Sample {
        /// What was measured.
        sample: Box<Sample>,
    },
    /// To `collect`.
    Findings {
        /// What the collectors found so far.
        findings: Box<Findings>,
    },
    /// To `read_setting` and `apply_setting`: the value as it is now in the guest.
    Setting {
        /// Read back after the change.
        setting: Setting,
    },
    /// To `mount_image`.
    Image {
        /// What is mounted.
        image: ImageMounted,
    },
    /// To everything about a service.
    Service {
        /// How it is now.
        status: ServiceStatus,
    },
    /// To `services`.
    Services {
        /// All that the agent knows.
        services: Vec<ServiceStatus>,
    },
    /// To `process_state`.
    Process {
        /// What was found.
        process: ProcessReply,
    },
    /// To `unit_state`.
    Unit {
        /// What systemd says.
        unit: UnitReply,
    },
    /// To `exec`.
    Exec {
        /// How it ended.
        outcome: ExecOutcome,
    },
    /// The request failed, and what it was to change is as before unless the message says otherwise.
    Error {
        /// What kind of failure.
        code: ErrorCode,
        /// What failed, lower case, with the whole chain of causes.
        message: String,
    },
    /// Sent by a newer agent: treat as an error.
    #[serde(other)]
    Unknown,
}

/// Kinds of failure that a caller may treat differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request itself is malformed or out of range.
    Invalid,
    /// No such process, device, image, service or key.
    NotFound,
    /// This guest or this kernel cannot do it.
    Unsupported,
    /// Something else holds it, or it is in the middle of a change.
    Busy,
    /// It did not come about in time.
    Timeout,
    /// Written, but read back as something else.
    NotEffective,
    /// The kernel refused.
    System,
    /// A code of a newer agent.
    #[serde(other)]
    Unknown,
}
