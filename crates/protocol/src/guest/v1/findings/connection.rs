//! Who a guest talks to, as it travels.

use super::super::sample::SampleError;
use super::limit::{clean, counter, list};
use proteus_model::telemetry as model;
use proteus_model::unit::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Most flows that are told.
pub const FLOWS_MAX: usize = 32;

/// Most programs of which it is told how many they serve.
pub const SERVED_MAX: usize = 64;

/// The TCP connections of a guest; the times are round trips as its kernel estimates them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct Connections {
    pub established: u32,
    pub listening: u32,
    pub unread: u32,
    pub rtt_p50_us: Option<u32>,
    pub rtt_p95_us: Option<u32>,
    pub retransmitted: u64,
    pub flows: Vec<Flow>,
    /// Absent from an agent of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<Vec<Served>>,
}

/// Connections that a program serves, whether their flows are told or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct Served {
    pub application: String,
    pub connections: u32,
}

/// Who began it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each means what its namesake in the model means")]
pub enum FlowDirection {
    Inbound,
    Outbound,
    Local,
}

/// Connections of one program with one address by one port of the side that listens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct Flow {
    pub direction: FlowDirection,
    pub port: u16,
    pub peer: IpAddr,
    pub application: Option<String>,
    pub peer_application: Option<String>,
    pub connections: u32,
    pub sent: u64,
    pub received: u64,
    pub rtt_us: Option<u32>,
}

impl TryFrom<Flow> for model::FlowObserved {
    type Error = SampleError;
    fn try_from(w: Flow) -> Result<Self, SampleError> {
        Ok(Self {
            direction: match w.direction {
                FlowDirection::Inbound => model::FlowDirection::Inbound,
                FlowDirection::Outbound => model::FlowDirection::Outbound,
                FlowDirection::Local => model::FlowDirection::Local,
            },
            port: w.port,
            peer: w.peer,
            application: w.application.as_deref().map(clean),
            peer_application: w.peer_application.as_deref().map(clean),
            connections: w.connections,
            sent: Bytes(counter("flow.sent", w.sent)?),
            received: Bytes(counter("flow.received", w.received)?),
            rtt_us: w.rtt_us,
        })
    }
}

/// By program; two whose names are the same once they are clean are one.
fn served(given: Vec<Served>) -> Result<BTreeMap<String, u32>, SampleError> {
    let mut all = BTreeMap::<String, u32>::new();
    for one in list("served", given, SERVED_MAX, Ok)? {
        let connections = all.entry(clean(&one.application)).or_default();
        *connections = connections.saturating_add(one.connections);
    }
    Ok(all)
}

impl TryFrom<Connections> for model::ConnectionsObserved {
    type Error = SampleError;
    fn try_from(w: Connections) -> Result<Self, SampleError> {
        Ok(Self {
            established: w.established,
            listening: w.listening,
            unread: w.unread,
            rtt_p50_us: w.rtt_p50_us,
            rtt_p95_us: w.rtt_p95_us,
            retransmitted: counter("connections.retransmitted", w.retransmitted)?,
            flows: list("flows", w.flows, FLOWS_MAX, TryInto::try_into)?,
            served: w.served.map(served).transpose()?,
        })
    }
}
