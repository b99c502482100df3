//! TCP connections: who talks to whom, how much, and how far away that is. The kernel lists its sockets by netlink,
//! some hundred at a time; which program has a socket is in `/proc`, so many processes at a time. Sockets of other
//! network namespaces are not seen. Must never look into what is said.

mod diag;

mod owner;

use super::endpoint::{Listener, Listeners};
use super::{Collect, Step, found};
use diag::{Dump, State, Tcp};
use owner::Owners;
use proteus_protocol::guest::v1::findings::{
    Collector, Connections as Told, FLOWS_MAX, Findings, Flow, FlowDirection, SERVED_MAX, Served,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Most established sockets that are read in one look.
const SOCKETS_MAX: usize = 16_384;

/// Where a round is.
#[derive(Default)]
enum Phase {
    #[default]
    Begin,
    Dump(Dump),
    Owners(Owners),
}

/// The connections of this guest.
#[derive(Default)]
pub struct Connections {
    phase: Phase,
    sockets: Vec<Tcp>,
    unread: u32,
    /// Where the programs that listen are put down, for those who ask them.
    listeners: Listeners,
}

/// What a flow is of.
type Key = (u8, u16, IpAddr, Option<String>, Option<String>);

/// The value below which this share of them lies.
fn quantile(sorted: &[u32], share: f64) -> Option<u32> {
    sorted.get((sorted.len().checked_sub(1)? as f64 * share).round() as usize).copied()
}

/// How many connections each program serves, by all flows: the few that are told are those that carried most. One whose
/// program was not found is in none.
fn served(flows: &[Flow]) -> Vec<Served> {
    let mut all = BTreeMap::<&str, u32>::new();
    for flow in flows {
        let server = match flow.direction {
            FlowDirection::Inbound => &flow.application,
            FlowDirection::Local => &flow.peer_application,
            FlowDirection::Outbound => &None,
        };
        if let Some(server) = server {
            let connections = all.entry(server).or_default();
            *connections = connections.saturating_add(flow.connections);
        }
    }
    let one =
        |(application, connections): (&str, u32)| Served { application: application.to_owned(), connections };
    let mut served: Vec<Served> = all.into_iter().map(one).collect();
    served.sort_by_key(|one| std::cmp::Reverse(one.connections));
    served.truncate(SERVED_MAX);
    served
}

/// Puts sockets and their programs together.
fn told(sockets: &[Tcp], unread: u32, program: impl Fn(u32) -> Option<String>) -> Told {
    let listening: Vec<&Tcp> = sockets.iter().filter(|tcp| tcp.state == State::Listening).collect();
    let ports: BTreeSet<u16> = listening.iter().map(|tcp| tcp.port).collect();
    let listener =
        |port: u16| listening.iter().find(|tcp| tcp.port == port).and_then(|tcp| program(tcp.inode));
    let own: BTreeSet<IpAddr> = sockets.iter().map(|tcp| tcp.address).collect();
    let mut flows: BTreeMap<Key, (Flow, u64, u64)> = BTreeMap::new();
    let mut times = Vec::new();
    let established: Vec<&Tcp> = sockets.iter().filter(|tcp| tcp.state == State::Established).collect();
    for tcp in &established {
        let is_local = tcp.peer.is_loopback() || own.contains(&tcp.peer);
        let is_served = ports.contains(&tcp.port);
        let direction = match (is_local, is_served) {
            // The other end of it is in the list as well.
            (true, true) => continue,
            (true, false) => FlowDirection::Local,
            (false, true) => FlowDirection::Inbound,
            (false, false) => FlowDirection::Outbound,
        };
        if !is_local {
            times.extend(tcp.rtt_us);
        }
        let port = if is_served { tcp.port } else { tcp.peer_port };
        let application = if is_served { listener(port) } else { program(tcp.inode) };
        let peer_application = if is_local { listener(port) } else { None };
        let key = (direction as u8, port, tcp.peer, application.clone(), peer_application.clone());
        let (flow, rtt_sum, rtt_count) = flows.entry(key).or_insert_with(|| {
            let (connections, sent, received, rtt_us) = (0, 0, 0, None);
            let peer = tcp.peer;
            let flow = Flow {
                direction,
                port,
                peer,
                application,
                peer_application,
                connections,
                sent,
                received,
                rtt_us,
            };
            (flow, 0, 0)
        });
        flow.connections += 1;
        flow.sent = flow.sent.saturating_add(tcp.sent.unwrap_or(0));
        flow.received = flow.received.saturating_add(tcp.received.unwrap_or(0));
        *rtt_sum += u64::from(tcp.rtt_us.unwrap_or(0));
        *rtt_count += u64::from(tcp.rtt_us.is_some());
    }
    let mean = |(flow, sum, count): (Flow, u64, u64)| Flow {
        rtt_us: sum.checked_div(count).and_then(|mean| u32::try_from(mean).ok()),
        ..flow
    };
    let mut flows: Vec<Flow> = flows.into_values().map(mean).collect();
    flows.sort_by_key(|flow| std::cmp::Reverse((flow.sent.saturating_add(flow.received), flow.connections)));
    let served = served(&flows);
    flows.truncate(FLOWS_MAX);
    times.sort_unstable();
    Told {
        established: u32::try_from(established.len()).unwrap_or(u32::MAX).saturating_add(unread),
        listening: u32::try_from(listening.len()).unwrap_or(u32::MAX),
        unread,
        rtt_p50_us: quantile(&times, 0.5),
        rtt_p95_us: quantile(&times, 0.95),
        retransmitted: established.iter().map(|tcp| u64::from(tcp.retransmitted.unwrap_or(0))).sum(),
        flows,
        served: Some(served),
    }
}

/// The programs that listen, with their addresses.
fn listeners(sockets: &[Tcp], program: impl Fn(u32) -> Option<String>) -> Vec<Listener> {
    let listening = sockets.iter().filter(|tcp| tcp.state == State::Listening);
    let address = |tcp: &Tcp| SocketAddr::new(tcp.address, tcp.port);
    listening
        .filter_map(|tcp| Some(Listener { program: program(tcp.inode)?, address: address(tcp) }))
        .collect()
}

impl Connections {
    /// Puts down in `listeners` who listens.
    pub fn new(listeners: Listeners) -> Self {
        Self { listeners, ..Self::default() }
    }

    fn dump(&mut self, mut dump: Dump) -> (Phase, Step) {
        let (sockets, unread) = (&mut self.sockets, &mut self.unread);
        let taken =
            dump.take_some(|tcp| if sockets.len() < SOCKETS_MAX { sockets.push(tcp) } else { *unread += 1 });
        match taken {
            Ok(true) => (Phase::Owners(Owners::list(self.sockets.iter().map(|tcp| tcp.inode))), Step::More),
            Ok(false) => (Phase::Dump(dump), Step::More),
            Err(_) => (Phase::Begin, Step::Done),
        }
    }
}

impl Collect for Connections {
    fn name(&self) -> Collector {
        Collector::Connections
    }

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn missing(&mut self) -> Option<String> {
        if !matches!(self.phase, Phase::Begin) {
            return None;
        }
        let error = Dump::begin().err()?;
        Some(format!(
            "ask the kernel for its sockets: {error}: the modules inet_diag and tcp_diag are needed"
        ))
    }

    fn step(&mut self, findings: &mut Findings) -> Step {
        let (phase, step) = match std::mem::take(&mut self.phase) {
            Phase::Begin => {
                (self.sockets, self.unread) = (Vec::new(), 0);
                match Dump::begin() {
                    Ok(dump) => (Phase::Dump(dump), Step::More),
                    Err(_) => (Phase::Begin, Step::Done),
                }
            }
            Phase::Dump(dump) => self.dump(dump),
            Phase::Owners(mut owners) => match owners.take_some() {
                true => {
                    findings.connections = found(told(&self.sockets, self.unread, |inode| owners.of(inode)));
                    *self.listeners.borrow_mut() = Some(listeners(&self.sockets, |inode| owners.of(inode)));
                    self.sockets = Vec::new();
                    (Phase::Begin, Step::Done)
                }
                false => (Phase::Owners(owners), Step::More),
            },
        };
        self.phase = phase;
        step
    }

    fn forget(&mut self) {
        // Who listened then may be another now: nobody is asked by an old list.
        *self.listeners.borrow_mut() = None;
        *self = Self::new(self.listeners.clone());
    }
}

#[cfg(test)]
mod tests;
