//! What applications tell of themselves: nginx, redis and PostgreSQL, found by the sockets that they listen on, and
//! endpoints in the OpenMetrics format that the owner names. Each is asked over loopback, with bounds on time and size;
//! none is asked for more than its own counters. Must never ask another machine, nor keep a word of an answer that is no
//! number.

mod exchange;

mod nginx;

mod openmetrics;

mod postgresql;

mod redis;

use super::{Collect, Step, found};
use exchange::{Exchange, ExchangeError};
use proteus_protocol::guest::v1::findings::{
    CollectPolicy, Collector, ENDPOINTS_MAX, Endpoint, Findings, METRICS_MAX,
};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// PostgreSQL's own sockets, as Debian places them.
const POSTGRES_SOCKETS: &str = "/run/postgresql";
/// How often a round waits for the first list of sockets.
const WAITS: u32 = 3;
const WAIT: Duration = Duration::from_secs(5);

/// So long one is left alone that showed nothing: asked at each round it would write an error into its log at each.
const REST: Duration = Duration::from_secs(3600);

/// A program that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its name.
    pub program: String,
    /// Where.
    pub address: SocketAddr,
}

/// The programs that listen, as the connections' collector saw them last; `None`: it did not look yet.
pub type Listeners = Rc<RefCell<Option<Vec<Listener>>>>;

/// One number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// As it is.
    Level(f64),
    /// What only rises: told as a rate per second.
    Count(f64),
}

/// What an application told.
pub type Values = BTreeMap<String, Value>;

/// Whom to ask, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Nginx(SocketAddr),
    Redis(SocketAddr),
    Postgres(SocketAddr),
    PostgresSocket(PathBuf),
    OpenMetrics(String),
}

/// Counts of a target, and when they were read.
type Counts = (Instant, BTreeMap<String, f64>);

/// The applications of this guest.
pub struct Endpoints {
    listeners: Listeners,
    named: Vec<String>,
    left: Option<Vec<Target>>,
    told: Vec<Endpoint>,
    before: BTreeMap<Target, Counts>,
    /// Which of its usual places a server showed its state at last.
    paths: BTreeMap<SocketAddr, usize>,
    /// How many places were looked at already of the one that is asked.
    tried: usize,
    /// Those that showed nothing: until when they are left alone, and why.
    resting: BTreeMap<Target, (Instant, String)>,
    waits: u32,
}

impl Target {
    fn kind(&self) -> &'static str {
        match self {
            Self::Nginx(_) => "nginx",
            Self::Redis(_) => "redis",
            Self::Postgres(_) | Self::PostgresSocket(_) => "postgresql",
            Self::OpenMetrics(_) => "openmetrics",
        }
    }

    fn address(&self) -> String {
        match self {
            Self::Nginx(address) | Self::Redis(address) | Self::Postgres(address) => address.to_string(),
            Self::PostgresSocket(path) => path.display().to_string(),
            Self::OpenMetrics(url) => url.clone(),
        }
    }
}

/// Where a socket that listens on any address is reached from inside.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// PostgreSQL's own sockets in a folder.
fn postgres_sockets(folder: &Path) -> Vec<PathBuf> {
    let mut sockets = Vec::new();
    crate::procfs::each_entry(folder, |name, _| {
        let name = name.to_string_lossy();
        if name.strip_prefix(".s.PGSQL.").is_some_and(|port| port.parse::<u16>().is_ok()) {
            sockets.push(folder.join(name.as_ref()));
        }
    });
    sockets.sort_unstable();
    sockets
}

/// Whom to ask: each application once for each of its ports.
fn targets(listeners: &[Listener], sockets: Vec<PathBuf>, named: &[String]) -> Vec<Target> {
    let mut all: Vec<Target> = named.iter().cloned().map(Target::OpenMetrics).collect();
    let has_sockets = !sockets.is_empty();
    all.extend(sockets.into_iter().map(Target::PostgresSocket));
    let mut seen = Vec::new();
    for listener in listeners {
        let address = reachable(listener.address);
        let target = match listener.program.as_str() {
            "nginx" if address.port() != 443 => Target::Nginx(address),
            "redis-server" | "valkey-server" => Target::Redis(address),
            "postgres" if !has_sockets => Target::Postgres(address),
            _ => continue,
        };
        let id = (target.kind(), address.port());
        if !seen.contains(&id) {
            seen.push(id);
            all.push(target);
        }
    }
    all.truncate(ENDPOINTS_MAX);
    all
}

/// Levels as they are, and the rates of what was counted before as well. A count that fell began anew: it has no rate.
fn metrics(values: &Values, before: Option<&Counts>, now: Instant) -> BTreeMap<String, f64> {
    let mut metrics = BTreeMap::new();
    for (name, value) in values {
        match value {
            Value::Level(level) => drop(metrics.insert(name.clone(), *level)),
            Value::Count(count) => {
                let Some((at, counts)) = before else { continue };
                let seconds = now.saturating_duration_since(*at).as_secs_f64();
                let rise = counts.get(name).map(|before| count - before).filter(|rise| *rise >= 0.0);
                if let Some(rise) = rise.filter(|_| seconds > 0.0) {
                    metrics.insert(format!("{name}_per_second"), rise / seconds);
                }
            }
        }
    }
    metrics.retain(|_, value| value.is_finite());
    while metrics.len() > METRICS_MAX {
        metrics.pop_last();
    }
    metrics
}

impl Endpoints {
    /// Finds applications among these.
    pub fn new(listeners: Listeners) -> Self {
        Self {
            listeners,
            named: Vec::new(),
            left: None,
            told: Vec::new(),
            before: BTreeMap::new(),
            paths: BTreeMap::new(),
            tried: 0,
            resting: BTreeMap::new(),
            waits: 0,
        }
    }

    /// Looks at one of the places of a server: each may take a second. `None`: there are more of them.
    fn ask_nginx(&mut self, address: SocketAddr) -> Option<Result<Values, ExchangeError>> {
        // Where it was seen last comes first.
        let first = self.paths.get(&address).copied().unwrap_or(0);
        let place = (first + self.tried) % nginx::PATHS.len();
        self.tried += 1;
        match nginx::ask(address, nginx::PATHS[place]) {
            Ok(Some(values)) => {
                self.paths.insert(address, place);
                Some(Ok(values))
            }
            Ok(None) if self.tried < nginx::PATHS.len() => None,
            Ok(None) => Some(Err(nginx::HIDDEN)),
            Err(error) => Some(Err(error)),
        }
    }

    /// One question; `None`: there is another one.
    fn ask(&mut self, target: &Target) -> Option<Result<Values, ExchangeError>> {
        Some(match target {
            Target::Nginx(address) => return self.ask_nginx(*address),
            Target::Redis(address) => Exchange::tcp(*address).and_then(|mut one| redis::ask(&mut one)),
            Target::Postgres(address) => {
                Exchange::tcp(*address).and_then(|mut one| postgresql::ask(&mut one))
            }
            Target::PostgresSocket(path) => {
                Exchange::unix(path).and_then(|mut one| postgresql::ask(&mut one))
            }
            Target::OpenMetrics(url) => openmetrics::ask(url),
        })
    }

    /// What one tells; `Err`: it is to be asked again.
    fn tell(&mut self, target: Target) -> Result<Endpoint, Target> {
        let (kind, address) = (target.kind().to_owned(), target.address());
        if let Some((until, why)) = self.resting.get(&target)
            && Instant::now() < *until
        {
            return Ok(Endpoint { kind, address, missing: Some(why.clone()), metrics: BTreeMap::new() });
        }
        self.resting.remove(&target);
        let Some(answer) = self.ask(&target) else { return Err(target) };
        self.tried = 0;
        let now = Instant::now();
        Ok(match answer {
            Ok(values) => {
                let metrics = metrics(&values, self.before.get(&target), now);
                let count = |(name, value): (String, Value)| match value {
                    Value::Count(count) => Some((name, count)),
                    Value::Level(_) => None,
                };
                self.before.insert(target, (now, values.into_iter().filter_map(count).collect()));
                Endpoint { kind, address, missing: None, metrics }
            }
            Err(error) => {
                self.before.remove(&target);
                let why = error.to_string();
                if error.is_lasting() {
                    self.resting.insert(target, (now + REST, why.clone()));
                }
                Endpoint { kind, address, missing: Some(why), metrics: BTreeMap::new() }
            }
        })
    }

    /// Whom to ask in this round; `None`: it is not known yet.
    fn begin(&mut self) -> Option<Vec<Target>> {
        let listeners = self.listeners.borrow();
        if listeners.is_none() && self.waits < WAITS {
            self.waits += 1;
            return None;
        }
        let known = listeners.as_deref().unwrap_or_default();
        let all = targets(known, postgres_sockets(Path::new(POSTGRES_SOCKETS)), &self.named);
        self.before.retain(|target, _| all.contains(target));
        self.resting.retain(|target, _| all.contains(target));
        self.paths.retain(|address, _| all.contains(&Target::Nginx(*address)));
        Some(all)
    }
}

impl Collect for Endpoints {
    fn name(&self) -> Collector {
        Collector::Endpoints
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn follow(&mut self, policy: &CollectPolicy) {
        // What leads out of the guest is not asked, whoever wishes it.
        let is_own = |url: &&String| proteus_model::telemetry::endpoint(url).is_ok();
        self.named = policy.endpoints.iter().filter(is_own).take(ENDPOINTS_MAX).cloned().collect();
    }

    fn step(&mut self, findings: &mut Findings) -> Step {
        let Some(left) = &mut self.left else {
            self.told.clear();
            self.left = self.begin();
            return if self.left.is_some() { Step::More } else { Step::Later(WAIT) };
        };
        if let Some(target) = left.pop() {
            match self.tell(target) {
                Ok(endpoint) => self.told.push(endpoint),
                Err(target) => self.left.get_or_insert_default().push(target),
            }
            return Step::More;
        }
        self.left = None;
        let mut told = std::mem::take(&mut self.told);
        told.sort_by(|a, b| (&a.kind, &a.address).cmp(&(&b.kind, &b.address)));
        findings.endpoints = found(told);
        Step::Done
    }

    fn forget(&mut self) {
        (self.left, self.told, self.tried) = (None, Vec::new(), 0);
        self.before.clear();
        self.paths.clear();
        self.resting.clear();
    }
}

#[cfg(test)]
mod tests;
