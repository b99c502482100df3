//! What the collectors of a guest found, as it travels. A collector looks rarely and costs more than a sample: at
//! connections, files, configuration, what applications tell. The guest is not trusted: each part is bounded, cleaned
//! and checked where it becomes the model's own type. Only counts leave a guest, never the content of a file.

mod configuration;

mod connection;

mod endpoint;

mod file;

mod library;

mod limit;

mod load;

mod user;

pub use configuration::{
    Aspect, AspectStatus, Author, CHANGES_MAX, Change, Configuration, NAME_CHANGED_BYTES_MAX,
    VALUE_CHANGED_BYTES_MAX,
};
pub use connection::{Connections, FLOWS_MAX, Flow, FlowDirection, SERVED_MAX, Served};
pub use endpoint::{ENDPOINTS_MAX, Endpoint, METRICS_MAX};
pub use file::{FileKind, Files, KindCount, SIZES, SensitiveClass, SensitiveCount};
pub use library::{LIBRARY_ROWS_MAX, LibraryCalls, LibraryClass};
pub use load::{CallClass, GPUS_MAX, Gpu, LOGS_MAX, LogRate, SystemCalls};
pub use user::{Consent, RELEASES_MAX, Release, Users};

use limit::{clean, counter, list};
use proteus_model::telemetry as model;
use proteus_model::unit::{Bytes, UnixMillis};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::sample::SampleError;

/// Most collectors that are told of.
pub const COLLECTORS_MAX: usize = 16;

/// A collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each means what its namesake in the model means")]
pub enum Collector {
    Connections,
    Calls,
    Logs,
    Gpus,
    Endpoints,
    Files,
    Configuration,
    Users,
    Libraries,
    /// Of a newer agent or host: ignored.
    #[serde(other)]
    Unknown,
}

/// What the guest is asked to collect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CollectPolicy {
    /// Those that are switched off.
    pub off: Vec<Collector>,
    /// Whether the owner of the VM wants to know of its users; they must consent inside the guest as well.
    pub users: bool,
    /// Whether the owner of the VM wants calls of libraries to be counted, which costs programs that call them.
    pub libraries: bool,
    /// Where applications tell of themselves in the OpenMetrics format, as `http://127.0.0.1:9100/metrics`.
    pub endpoints: Vec<String>,
    /// Thousandths of a core that agent and collectors may use together; 5 without.
    pub budget_permille: Option<u32>,
}

/// How a collector fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each means what its namesake in the model means")]
pub enum CollectorState {
    On,
    Off,
    Shed,
    Unsupported,
    #[serde(other)]
    Unknown,
}

/// One collector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct CollectorStatus {
    pub name: Collector,
    pub state: CollectorState,
    #[serde(default)]
    pub why: String,
    /// CPU time that it took so far.
    pub cpu_us: u64,
    /// Whole rounds so far.
    pub runs: u64,
}

/// What was found at a moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found<T> {
    /// The guest's clock when it was found.
    pub at_ms: u64,
    /// What.
    pub value: T,
}

/// All that the collectors found last. A part that is absent was not found: the collector is off, shed, cannot work in
/// this guest, or has not come round yet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct Findings {
    /// Drawn when the collectors start: sequence numbers of another one begin anew.
    pub instance: String,
    /// The guest's clock when this is told: what was found is as old as it is before that.
    pub now_ms: u64,
    pub collectors: Vec<CollectorStatus>,
    /// Time over which the costs below were counted.
    pub watched_ms: u64,
    /// CPU time of agent and collectors over that time.
    pub cpu_us: u64,
    /// Memory of agent and collectors now.
    pub resident: Option<u64>,
    pub connections: Option<Found<Connections>>,
    pub calls: Option<Found<SystemCalls>>,
    pub logs: Option<Found<Vec<LogRate>>>,
    pub gpus: Option<Found<Vec<Gpu>>>,
    pub endpoints: Option<Found<Vec<Endpoint>>>,
    pub files: Option<Found<Files>>,
    pub configuration: Option<Found<Configuration>>,
    pub users: Option<Found<Users>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub libraries: Option<Found<LibraryCalls>>,
}

impl From<Collector> for Option<model::Collector> {
    fn from(w: Collector) -> Self {
        Some(match w {
            Collector::Connections => model::Collector::Connections,
            Collector::Calls => model::Collector::Calls,
            Collector::Logs => model::Collector::Logs,
            Collector::Gpus => model::Collector::Gpus,
            Collector::Endpoints => model::Collector::Endpoints,
            Collector::Files => model::Collector::Files,
            Collector::Configuration => model::Collector::Configuration,
            Collector::Users => model::Collector::Users,
            Collector::Libraries => model::Collector::Libraries,
            Collector::Unknown => return None,
        })
    }
}

impl From<model::Collector> for Collector {
    fn from(m: model::Collector) -> Self {
        match m {
            model::Collector::Connections => Self::Connections,
            model::Collector::Calls => Self::Calls,
            model::Collector::Logs => Self::Logs,
            model::Collector::Gpus => Self::Gpus,
            model::Collector::Endpoints => Self::Endpoints,
            model::Collector::Files => Self::Files,
            model::Collector::Configuration => Self::Configuration,
            model::Collector::Users => Self::Users,
            model::Collector::Libraries => Self::Libraries,
        }
    }
}

/// `None`: a collector or a state of a newer agent.
fn status(w: CollectorStatus) -> Result<Option<model::CollectorObserved>, SampleError> {
    let Some(name) = Option::<model::Collector>::from(w.name) else { return Ok(None) };
    let state = match w.state {
        CollectorState::On => model::CollectorState::On,
        CollectorState::Off => model::CollectorState::Off,
        CollectorState::Shed => model::CollectorState::Shed,
        CollectorState::Unsupported => model::CollectorState::Unsupported,
        CollectorState::Unknown => return Ok(None),
    };
    let (cpu_us, runs) = (counter("collector.cpu_us", w.cpu_us)?, counter("collector.runs", w.runs)?);
    Ok(Some(model::CollectorObserved { name, state, why: clean(&w.why), cpu_us, runs }))
}

/// A part: its moment and its value, by `convert`. One that is out of bounds is left out alone, and named with the reason.
fn found<W, M>(
    refused: &mut BTreeMap<String, String>,
    name: model::Collector,
    w: Option<Found<W>>,
    convert: impl FnOnce(W) -> Result<M, SampleError>,
) -> Option<model::Found<M>> {
    let Found { at_ms, value } = w?;
    let part = counter("found.at_ms", at_ms)
        .and_then(|at_ms| Ok(model::Found { at: UnixMillis(at_ms), value: convert(value)? }));
    let why = |SampleError { field, given, expected }| format!("{field} is {given}, expected {expected}");
    part.map_err(|error| refused.insert(name.name().to_owned(), why(error))).ok()
}

impl TryFrom<Findings> for model::Findings {
    type Error = SampleError;
    fn try_from(w: Findings) -> Result<Self, SampleError> {
        use model::Collector;
        let collectors = list("collectors", w.collectors, COLLECTORS_MAX, status)?;
        let mut refused = BTreeMap::new();
        let no = &mut refused;
        let logs = |all| list("logs", all, load::LOGS_MAX, TryInto::try_into);
        let endpoints = |all| list("endpoints", all, ENDPOINTS_MAX, TryInto::try_into);
        let gpus = |all| list("gpus", all, load::GPUS_MAX, TryInto::try_into);
        let mut all = Self {
            instance: clean(&w.instance),
            now: UnixMillis(counter("now_ms", w.now_ms)?),
            collectors: collectors.into_iter().flatten().collect(),
            watched_ms: counter("watched_ms", w.watched_ms)?,
            cpu_us: counter("cpu_us", w.cpu_us)?,
            resident: w.resident.map(|bytes| counter("resident", bytes)).transpose()?.map(Bytes),
            connections: found(no, Collector::Connections, w.connections, TryInto::try_into),
            calls: found(no, Collector::Calls, w.calls, TryInto::try_into),
            logs: found(no, Collector::Logs, w.logs, logs),
            endpoints: found(no, Collector::Endpoints, w.endpoints, endpoints),
            gpus: found(no, Collector::Gpus, w.gpus, gpus),
            files: found(no, Collector::Files, w.files, TryInto::try_into),
            configuration: found(no, Collector::Configuration, w.configuration, TryInto::try_into),
            users: found(no, Collector::Users, w.users, TryInto::try_into),
            libraries: found(no, Collector::Libraries, w.libraries, TryInto::try_into),
            refused: BTreeMap::new(),
        };
        all.refused = refused;
        Ok(all)
    }
}

#[cfg(test)]
mod tests;
