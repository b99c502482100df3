//! What the collectors of a guest found: what is looked at rarely, because it costs more than a sample. The guest's own
//! word, so advice. Must never hold the content of a file, nor what only a person may tell.

mod configuration;

mod file;

mod library;

mod user;

pub use configuration::{
    AspectObserved, ChangeAuthor, ConfigurationAspect, ConfigurationChange, ConfigurationObserved,
};
pub use file::{FileKind, FileKindObserved, FilesObserved, SensitiveClass, SensitiveObserved};
pub use library::{LibrariesObserved, LibraryClassObserved};
pub use user::{Consent, SessionsReleased, UsersObserved};

use super::super::unit::{Bytes, Millis, Permille, UnixMillis};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

impl Findings {
    /// When a part was found, by the clock of a host that heard of it at `heard_at`: the guest's clock may be wrong.
    pub fn found_at<T>(&self, part: &Found<T>, heard_at: UnixMillis) -> UnixMillis {
        UnixMillis(heard_at.0.saturating_sub(self.now.0.saturating_sub(part.at.0)))
    }

    /// How a collector fares.
    pub fn collector(&self, name: Collector) -> Option<&CollectorObserved> {
        self.collectors.iter().find(|collector| collector.name == name)
    }

    /// CPU time of agent and collectors as a share of a core, 0–1 and more; `None`: it was not watched yet.
    pub fn cpu_share(&self) -> Option<f64> {
        (self.watched_ms > 0).then(|| self.cpu_us as f64 / 1e3 / self.watched_ms as f64)
    }
}

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
    /// Calls of well-known libraries by class, where the owner asks for them.
    Libraries,
}

impl Collector {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Connections,
        Self::Calls,
        Self::Logs,
        Self::Gpus,
        Self::Endpoints,
        Self::Files,
        Self::Configuration,
        Self::Users,
        Self::Libraries,
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
            Self::Libraries => "libraries",
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
    /// Whether calls of libraries are to be counted, which costs programs that call them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub libraries: bool,
    /// Where applications tell of themselves in the OpenMetrics format, as the guest sees it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// Thousandths of a core that agent and collectors may use together; [`COLLECT_BUDGET`] without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Permille>,
}

/// Why something cannot be collected so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectError {
    /// The budget is none.
    #[error("a budget of {0} ‰ of a core: expected 1 to 500")]
    Budget(u32),
    /// There are too many.
    #[error("{0} endpoints: expected at most {ENDPOINTS_MAX}")]
    TooMany(usize),
    /// It is no address of the guest itself.
    #[error(
        "endpoint {0:?}: expected http://, a loopback address such as 127.0.0.1, a port and a path, 256 bytes at most"
    )]
    Malformed(String),
}

/// Address and path of an endpoint such as `http://127.0.0.1:9100/metrics`; port 80 and path `/metrics` where they are
/// not said.
pub fn endpoint(text: &str) -> Result<(SocketAddr, &str), CollectError> {
    let malformed = || CollectError::Malformed(text.chars().take(256).collect());
    let rest = text.strip_prefix("http://").filter(|_| text.len() <= 256).ok_or_else(malformed)?;
    let (host, path) = rest.find('/').map_or((rest, "/metrics"), |at| rest.split_at(at));
    if path.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err(malformed());
    }
    let host =
        host.strip_prefix("localhost").map_or_else(|| host.to_owned(), |port| format!("127.0.0.1{port}"));
    let address = host.parse::<SocketAddr>().ok();
    let address = address.or_else(|| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        Some(SocketAddr::new(bare.parse().ok()?, 80))
    });
    address
        .filter(|address| address.ip().is_loopback() && address.port() > 0)
        .map(|address| (address, path))
        .ok_or_else(malformed)
}

/// What agent and collectors may use together where nothing else is wished: 0.5 % of a core.
pub const COLLECT_BUDGET: Permille = Permille(5);
/// The most that may be wished.
pub const COLLECT_BUDGET_MAX: Permille = Permille(500);

/// Most endpoints that are asked in one VM.
pub const ENDPOINTS_MAX: usize = 16;

impl CollectIntent {
    /// Whether nothing was said.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// Fails where the budget is none, where an endpoint is not one of the guest itself, or where there are too many: what an agent asks must
    /// never lead out of its guest.
    pub fn check(&self) -> Result<(), CollectError> {
        if let Some(given) = self.budget.filter(|budget| budget.0 == 0 || *budget > COLLECT_BUDGET_MAX) {
            return Err(CollectError::Budget(given.0));
        }
        if self.endpoints.len() > ENDPOINTS_MAX {
            return Err(CollectError::TooMany(self.endpoints.len()));
        }
        self.endpoints.iter().try_for_each(|text| endpoint(text).map(drop))
    }
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
    /// The guest's clock when it told this.
    pub now: UnixMillis,
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
    /// What applications tell of themselves.
    pub endpoints: Option<Found<Vec<EndpointObserved>>>,
    /// Files.
    pub files: Option<Found<FilesObserved>>,
    /// How the configuration changes.
    pub configuration: Option<Found<ConfigurationObserved>>,
    /// What people do.
    pub users: Option<Found<UsersObserved>>,
    /// Calls of libraries.
    pub libraries: Option<Found<LibrariesObserved>>,
    /// Parts that the host did not believe, and why: what the guest said there cannot be.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, String>,
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
    /// Connections that each program serves, of all flows, also of those that are not told; a socket whose program was
    /// not found is in none. `None`: the agent does not tell.
    #[serde(default)]
    pub served: Option<BTreeMap<String, u32>>,
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

/// An application that was asked about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointObserved {
    /// `nginx`, `redis`, `postgresql` or `openmetrics`.
    pub kind: String,
    /// Where it was asked.
    pub address: String,
    /// Why it told nothing.
    pub missing: Option<String>,
    /// What it told, by name: levels as they are, what it counts as a rate per second. Never NaN or infinite.
    pub metrics: BTreeMap<String, f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_one_of_the_guest_itself() {
        let ok = |text: &str| {
            endpoint(text).map(|(address, path)| (address.to_string(), path.to_owned())).unwrap()
        };
        assert_eq!(ok("http://127.0.0.1:9100/metrics"), ("127.0.0.1:9100".into(), "/metrics".into()));
        assert_eq!(ok("http://localhost:8080"), ("127.0.0.1:8080".into(), "/metrics".into()));
        assert_eq!(ok("http://[::1]:1/a?b=c"), ("[::1]:1".into(), "/a?b=c".into()));
        assert_eq!(ok("http://127.0.0.1"), ("127.0.0.1:80".into(), "/metrics".into()));
        for bad in [
            "",
            "127.0.0.1:1",
            "https://127.0.0.1/",
            "http://192.0.2.1/",
            "http://example/",
            "http://127.0.0.1:0/",
            "http://127.0.0.1:1/a b",
            "http://127.0.0.1:1/\r\nX:1",
            "http://127.0.0.1:99999/",
        ] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_guest_with_a_wrong_clock_does_not_make_its_findings_old() {
        let findings = Findings { now: UnixMillis(5_000), ..Findings::default() };
        let part = Found { at: UnixMillis(4_000), value: () };
        assert_eq!(findings.found_at(&part, UnixMillis(1_000_000)), UnixMillis(999_000));
        let of_the_future = Found { at: UnixMillis(9_000), value: () };
        assert_eq!(findings.found_at(&of_the_future, UnixMillis(1_000_000)), UnixMillis(1_000_000));
    }
}
