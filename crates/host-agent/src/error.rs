//! What the parts of this host refuse, in the node API's words.

use crate::guest::GuestError;
use crate::seat::SeatError;
use proteus_hypervisor::driver::DriverError;
use proteus_hypervisor::network::UplinkError;
use proteus_protocol::cause::chain;
use proteus_protocol::guest::v1::ErrorCode;
use proteus_protocol::node::v1::{NodeError, NodeErrorCode};

pub(crate) fn driver_error(error: DriverError) -> NodeError {
    let code = match &error {
        DriverError::NotRunning { .. } => NodeErrorCode::NotRunning,
        DriverError::Unsupported { .. } | DriverError::NoAbility { .. } => NodeErrorCode::Unsupported,
        DriverError::UnknownSnapshot { .. } => NodeErrorCode::NotFound,
        DriverError::SnapshotExists { .. } | DriverError::Halted { .. } | DriverError::Lost { .. } => {
            NodeErrorCode::Conflict
        }
        DriverError::OutOfRange { .. } => NodeErrorCode::OutOfRange,
        DriverError::Stalled { .. } => NodeErrorCode::Stalled,
        DriverError::Vmm { .. } | DriverError::Host { .. } | DriverError::Tool(_) => NodeErrorCode::Failed,
    };
    let hint = match &error {
        DriverError::Halted { .. } => "; mend that, then start it once more: nothing of it is lost",
        DriverError::Lost { .. } => "; it is looked for again and again, and `vm stop` ends it",
        _ => "",
    };
    NodeError::new(code, chain(&error) + hint)
}

pub(crate) fn seat_error(error: SeatError) -> NodeError {
    let code = match &error {
        SeatError::Clash(_) => NodeErrorCode::FileInUse,
        SeatError::File { .. }
        | SeatError::Damaged { .. }
        | SeatError::Full
        | SeatError::User(_)
        | SeatError::SlotUnknown { .. } => NodeErrorCode::Failed,
    };
    let told = NodeError::new(code, chain(&error));
    match error {
        SeatError::SlotUnknown { .. } => told.with_hint(
            "mend its seat.json, or remove that folder once no process of its VM runs; then start Proteus again",
        ),
        _ => told,
    }
}

pub(crate) fn guest_error(error: GuestError) -> NodeError {
    let code = match &error {
        GuestError::Refused { code: ErrorCode::Unsupported, .. } => NodeErrorCode::Unsupported,
        GuestError::Refused { code: ErrorCode::Invalid, .. } => NodeErrorCode::OutOfRange,
        GuestError::TimedOut(_) | GuestError::Refused { code: ErrorCode::Timeout, .. } => {
            NodeErrorCode::Stalled
        }
        GuestError::NoChannel | GuestError::Open(_) | GuestError::Closed(_) | GuestError::Confused => {
            NodeErrorCode::Guest
        }
        // It answers: nothing is wrong with the agent.
        GuestError::Refused { .. } => NodeErrorCode::Failed,
    };
    NodeError::new(code, chain(&error))
}

pub(crate) fn uplink_error(error: UplinkError) -> NodeError {
    match &error {
        UplinkError::Refused { what, hint } => {
            NodeError::new(NodeErrorCode::Unsupported, format!("{what}; {hint}"))
        }
        UplinkError::Tool(_) | UplinkError::Host { .. } => {
            NodeError::new(NodeErrorCode::Failed, chain(&error))
        }
    }
}
