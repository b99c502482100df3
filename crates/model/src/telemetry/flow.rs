//! Whom a VM speaks to, as its host counts it. Must never hold what was said.

use super::FlowDirection;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Most flows of a VM that are told, those that were begun most.
pub const FLOWS_BEGUN_MAX: usize = 64;

/// Most peers by protocol and port that are counted of a VM at one time, in each direction and each version of IP.
pub const FLOWS_COUNTED_MAX: u32 = 512;

/// What a VM begun and was begun with lately.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsBegun {
    /// With whom, what was begun most first.
    pub all: Vec<FlowBegun>,
    /// Whether there were more than are counted at one time, so that some may be missing.
    pub full: bool,
}

/// What was begun with one peer by one protocol and port, lately: of TCP connections, of UDP packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowBegun {
    /// Who began.
    pub direction: FlowDirection,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The other machine.
    pub peer: IpAddr,
    /// The port of the side that listens.
    pub port: u16,
    /// How often, since the peer was first seen; one of which nothing was seen for ten minutes is forgotten.
    pub begun: u64,
}
