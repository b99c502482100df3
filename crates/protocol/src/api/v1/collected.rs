//! What the collectors inside a VM found, as the API tells it, and what is asked of them.

use proteus_model::telemetry::{
    CollectorObserved, CollectorState, ConnectionsObserved, EndpointObserved, FlowBegun, FlowDirection,
    FlowObserved, GpuObserved, LogObserved,
};
use proteus_model::unit::UnixMillis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Asks for a change of what is collected inside a VM. What is not named stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CollectorsRequest {
    /// Collectors to switch off.
    pub off: Vec<String>,
    /// Collectors to switch on again.
    pub on: Vec<String>,
    /// Whether users are to be known of, where they consent inside the guest.
    pub users: Option<bool>,
    /// Whether calls of libraries are to be counted, which costs programs that call them.
    pub libraries: Option<bool>,
    /// Endpoints in the OpenMetrics format to ask from now on, as `http://127.0.0.1:9100/metrics`, seen from inside.
    pub add_endpoints: Vec<String>,
    /// Endpoints to ask no more.
    pub remove_endpoints: Vec<String>,
    /// Thousandths of a core that agent and collectors may use together, 1 to 500.
    pub budget_permille: Option<u32>,
}

/// One collector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CollectorView {
    /// Its name.
    pub name: String,
    /// `on`, `off`, `shed` (left out for now, to keep the agent within its budget) or `unsupported`.
    pub state: String,
    /// Why it does not work; empty where it does.
    pub why: String,
    /// CPU time that it took so far, ms.
    pub cpu_ms: u64,
    /// Whole rounds so far.
    pub runs: u64,
}

impl From<&CollectorObserved> for CollectorView {
    fn from(seen: &CollectorObserved) -> Self {
        let state = match seen.state {
            CollectorState::On => "on",
            CollectorState::Off => "off",
            CollectorState::Shed => "shed",
            CollectorState::Unsupported => "unsupported",
        };
        Self {
            name: seen.name.name().to_owned(),
            state: state.to_owned(),
            why: seen.why.clone(),
            cpu_ms: seen.cpu_us / 1000,
            runs: seen.runs,
        }
    }
}

/// The collectors inside a VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CollectorsView {
    /// Name of the VM.
    pub vm: String,
    /// When they were heard last, in milliseconds since 1970; `None`: not yet.
    #[schemars(with = "Option<u64>")]
    pub at: Option<UnixMillis>,
    /// Why nothing newer is known.
    pub missing: Option<String>,
    /// Whether the owner wants to know of users, who must consent inside the guest.
    pub users: bool,
    /// Whether the owner wants calls of libraries to be counted.
    #[serde(default)]
    pub libraries: bool,
    /// Collectors that the owner switched off.
    pub off: Vec<String>,
    /// Endpoints that are asked.
    pub endpoints: Vec<String>,
    /// Thousandths of a core that both may use together.
    pub budget_permille: u32,
    /// CPU time of agent and collectors together as a share of a core.
    pub cpu_share: Option<f64>,
    /// Memory of both, bytes; the budget is 20 MB.
    pub resident: Option<u64>,
    /// Each of them.
    pub collectors: Vec<CollectorView>,
}

/// What was begun with one peer by one protocol and port in about the last ten minutes, by the host's count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BegunView {
    /// `inbound` or `outbound`.
    pub direction: String,
    /// `tcp`: connections are counted; `udp`: packets are.
    pub protocol: String,
    /// The other machine.
    pub peer: String,
    /// The port of the side that listens.
    pub port: u16,
    /// How often.
    pub begun: u64,
}

fn direction(direction: FlowDirection) -> String {
    let word = match direction {
        FlowDirection::Inbound => "inbound",
        FlowDirection::Outbound => "outbound",
        FlowDirection::Local => "local",
    };
    word.to_owned()
}

impl From<&FlowBegun> for BegunView {
    fn from(seen: &FlowBegun) -> Self {
        Self {
            direction: direction(seen.direction),
            protocol: seen.protocol.clone(),
            peer: seen.peer.to_string(),
            port: seen.port,
            begun: seen.begun,
        }
    }
}

/// The TCP connections of a VM, by its agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionsView {
    /// When, in milliseconds since 1970.
    #[schemars(with = "u64")]
    pub at: UnixMillis,
    /// Established ones.
    pub established: u32,
    /// Sockets that listen.
    pub listening: u32,
    /// Established ones that were not looked at, because there were too many.
    pub unread: u32,
    /// Median of the round-trip times to other machines, µs.
    pub rtt_p50_us: Option<u32>,
    /// 95th percentile of the same.
    pub rtt_p95_us: Option<u32>,
    /// Segments that the established connections sent again so far.
    pub retransmitted: u64,
    /// Who talks to whom, what carried most first; at most 32.
    pub flows: Vec<FlowView>,
}

/// Connections of one program with one address by one port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowView {
    /// `inbound`, `outbound`, or `local` between two programs of the VM.
    pub direction: String,
    /// The port that listens.
    pub port: u16,
    /// The other machine.
    pub peer: String,
    /// The program of this VM; of a local one, which began it.
    pub application: Option<String>,
    /// Of a local one, the program that listens.
    pub peer_application: Option<String>,
    /// Connections now.
    pub connections: u32,
    /// Sent by those that are open, bytes.
    pub sent: u64,
    /// Received by those that are open, bytes.
    pub received: u64,
    /// Mean round-trip time, µs.
    pub rtt_us: Option<u32>,
}

impl From<&FlowObserved> for FlowView {
    fn from(seen: &FlowObserved) -> Self {
        Self {
            direction: direction(seen.direction),
            port: seen.port,
            peer: seen.peer.to_string(),
            application: seen.application.clone(),
            peer_application: seen.peer_application.clone(),
            connections: seen.connections,
            sent: seen.sent.0,
            received: seen.received.0,
            rtt_us: seen.rtt_us,
        }
    }
}

impl ConnectionsView {
    /// What was found at a moment.
    pub fn new(at: UnixMillis, seen: &ConnectionsObserved) -> Self {
        Self {
            at,
            established: seen.established,
            listening: seen.listening,
            unread: seen.unread,
            rtt_p50_us: seen.rtt_p50_us,
            rtt_p95_us: seen.rtt_p95_us,
            retransmitted: seen.retransmitted,
            flows: seen.flows.iter().map(FlowView::from).collect(),
        }
    }
}

/// What a service writes to its log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogView {
    /// Which, by the name of its log.
    pub service: String,
    /// Lines per second.
    pub lines: f64,
    /// Lines per second that speak of an error; `None`: not all of them were read.
    pub errors: Option<f64>,
}

impl From<&LogObserved> for LogView {
    fn from(seen: &LogObserved) -> Self {
        let per_second = |count: u64| count as f64 * 1e3 / seen.window.0.max(1) as f64;
        Self {
            service: seen.service.clone(),
            lines: per_second(seen.lines),
            errors: seen.errors.map(per_second),
        }
    }
}

/// A graphics processor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuView {
    /// Its place on the bus.
    pub address: String,
    /// Vendor and device.
    pub device: String,
    /// The driver that has it.
    pub driver: Option<String>,
    /// How busy it is, 0–1.
    pub busy: Option<f32>,
    /// Why that is not known.
    pub missing: Option<String>,
}

impl From<&GpuObserved> for GpuView {
    fn from(seen: &GpuObserved) -> Self {
        Self {
            address: seen.address.clone(),
            device: seen.device.clone(),
            driver: seen.driver.clone(),
            busy: seen.busy.map(|busy| busy.0 as f32 / 1000.0),
            missing: seen.missing.clone(),
        }
    }
}

/// What an application tells of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointView {
    /// `nginx`, `redis`, `postgresql` or `openmetrics`.
    pub kind: String,
    /// Where it was asked, seen from inside.
    pub address: String,
    /// Why it told nothing.
    pub missing: Option<String>,
    /// What it told: levels as they are, what it counts as a rate per second.
    pub metrics: BTreeMap<String, f64>,
}

impl From<&EndpointObserved> for EndpointView {
    fn from(seen: &EndpointObserved) -> Self {
        Self {
            kind: seen.kind.clone(),
            address: seen.address.clone(),
            missing: seen.missing.clone(),
            metrics: seen.metrics.clone(),
        }
    }
}
