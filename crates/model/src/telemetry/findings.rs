//! What the collectors of a guest found: what is looked at rarely, because it costs more than a sample. The guest's own
//! word, so advice. Must never hold the content of a file, nor what only a person may tell.

use super::super::unit::{Bytes, Millis, Permille, UnixMillis};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// A collector inside a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Collector {
    /// TCP connections: peers, bytes, round-trip times, which programs talk to each other.
    Connections,
    /// System calls by class.
    Calls,
    /// Lines and errors in logs, by service.
    Logs,
    /// Graphics processors.
    Gpus,
    /// What applications tell of themselves.
    Endpoints,
    /// Kinds of files, and classes of what is sensitive in them.
    Files,
    /// Packages, units, kernel parameters, mounts, digests of `/etc`.
    Configuration,
    /// What people do, by their consent.
    Users,
}

impl Collector {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Connections,
        Self::Calls,
        Self::Logs,
        Self::Gpus,
        Self::Endpoints,
        Self::Files,
        Self::Configuration,
        Self::Users,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Calls => "calls",
            Self::Logs => "logs",
            Self::Gpus => "gpus",
            Self::Endpoints => "endpoints",
            Self::Files => "files",
            Self::Configuration => "configuration",
            Self::Users => "users",
        }
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the owner of a VM wants to be collected in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CollectIntent {
    /// Those that are switched off.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub off: Vec<Collector>,
    /// Whether users are to be known of, where they consent inside the guest.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub users: bool,
    /// Where applications tell of themselves in the OpenMetrics format, as the guest sees it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
}

/// How a collector fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CollectorState {
    /// It works.
    On,
    /// It is switched off.
    Off,
    /// It is left out for now, because the agent would pass its budget.
    Shed,
    /// It cannot work in this guest.
    Unsupported,
}

/// One collector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectorObserved {
    /// Which.
    pub name: Collector,
    /// How it fares.
    pub state: CollectorState,
    /// Why it does not work; empty where it does.
    pub why: String,
    /// CPU time that it took so far, µs.
    pub cpu_us: u64,
    /// Whole rounds so far.
    pub runs: u64,
}

/// What was found at a moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found<T> {
    /// When, by the guest's clock.
    pub at: UnixMillis,
    /// What.
    pub value: T,
}

/// All that was found last. A part that is absent was not found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Findings {
    /// Drawn when the collectors start.
    pub instance: String,
    /// How each collector fares.
    pub collectors: Vec<CollectorObserved>,
    /// Time over which the CPU time below was counted, ms.
    pub watched_ms: u64,
    /// CPU time of agent and collectors over that time, µs.
    pub cpu_us: u64,
    /// Memory of agent and collectors.
    pub resident: Option<Bytes>,
    /// TCP connections.
    pub connections: Option<Found<ConnectionsObserved>>,
    /// System calls.
    pub calls: Option<Found<CallsObserved>>,
    /// Logs.
    pub logs: Option<Found<Vec<LogObserved>>>,
    /// Graphics processors.
    pub gpus: Option<Found<Vec<GpuObserved>>>,
}

/// The TCP connections of a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionsObserved {
    /// Established ones.
    pub established: u32,
    /// Sockets that listen.
    pub listening: u32,
    /// Established ones beyond those that are read in one look.
    pub unread: u32,
    /// Median of the round-trip times to other machines, as the kernel estimates them, µs.
    pub rtt_p50_us: Option<u32>,
    /// 95th percentile of the same.
    pub rtt_p95_us: Option<u32>,
    /// Segments that the established connections sent again so far.
    pub retransmitted: u64,
    /// Who talks to whom, what carried most first.
    pub flows: Vec<FlowObserved>,
}

/// Who began a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowDirection {
    /// Another machine.
    Inbound,
    /// This guest.
    Outbound,
    /// A program of this guest, with another of it.
    Local,
}

/// The connections of one program with one address by one port of the side that listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowObserved {
    /// Who began them.
    pub direction: FlowDirection,
    /// The port that listens.
    pub port: u16,
    /// The other machine.
    pub peer: IpAddr,
    /// The program of this guest; of a local one, which began it.
    pub application: Option<String>,
    /// Of a local one, the program that listens.
    pub peer_application: Option<String>,
    /// Connections.
    pub connections: u32,
    /// Sent by those that are open.
    pub sent: Bytes,
    /// Received by those that are open.
    pub received: Bytes,
    /// Mean round-trip time, µs.
    pub rtt_us: Option<u32>,
}

/// System calls of all programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallsObserved {
    /// Over so long.
    pub window: Millis,
    /// How many, by class.
    pub classes: BTreeMap<String, u64>,
}

/// What a service wrote to its log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogObserved {
    /// Which, by the name of its log.
    pub service: String,
    /// Over so long.
    pub window: Millis,
    /// Lines.
    pub lines: u64,
    /// Lines that speak of an error; `None`: its lines are not text.
    pub errors: Option<u64>,
}

/// A graphics processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuObserved {
    /// Its place on the bus.
    pub address: String,
    /// Vendor and device, as hexadecimal numbers.
    pub device: String,
    /// The driver that has it.
    pub driver: Option<String>,
    /// How busy it is.
    pub busy: Option<Permille>,
    /// Why it is not known how busy it is.
    pub missing: Option<String>,
}
