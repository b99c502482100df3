//! Flows made of made-up sockets. Must never depend on who this machine talks to.

use super::*;

fn tcp(state: State, port: u16, peer: [u8; 4], peer_port: u16, inode: u32) -> Tcp {
    let address = if peer[0] == 127 { [127, 0, 0, 1] } else { [10, 0, 0, 2] };
    Tcp {
        state,
        address: address.into(),
        port,
        peer: peer.into(),
        peer_port,
        inode,
        rtt_us: (state == State::Established).then_some(1000 * u32::from(peer[3])),
        retransmitted: Some(1),
        sent: Some(100),
        received: Some(10),
    }
}

#[test]
fn flows_are_told_by_who_began_them_and_local_ones_once() {
    let sockets = [
        tcp(State::Listening, 80, [0, 0, 0, 0], 0, 1),
        tcp(State::Listening, 6379, [0, 0, 0, 0], 0, 2),
        tcp(State::Established, 80, [10, 0, 0, 7], 40_000, 3),
        tcp(State::Established, 80, [10, 0, 0, 7], 40_001, 4),
        tcp(State::Established, 50_000, [10, 0, 0, 9], 443, 5),
        tcp(State::Established, 50_001, [127, 0, 0, 1], 6379, 6),
        tcp(State::Established, 6379, [127, 0, 0, 1], 50_001, 7),
    ];
    let programs = ["nginx", "redis", "nginx", "nginx", "curl", "php"];
    let told = told(&sockets, 3, |inode| programs.get(inode as usize - 1).map(|name| (*name).to_owned()));
    assert_eq!((told.established, told.listening, told.unread, told.retransmitted), (8, 2, 3, 5));
    assert_eq!((told.rtt_p50_us, told.rtt_p95_us), (Some(7000), Some(9000)));
    let seen: Vec<_> = told
        .flows
        .iter()
        .map(|flow| {
            (flow.direction, flow.port, flow.application.as_deref(), flow.peer_application.as_deref())
        })
        .collect();
    assert_eq!(told.flows[0].connections, 2);
    assert_eq!((told.flows[0].sent, told.flows[0].rtt_us), (200, Some(7000)));
    assert_eq!(seen[0], (FlowDirection::Inbound, 80, Some("nginx"), None));
    assert!(seen.contains(&(FlowDirection::Outbound, 443, Some("curl"), None)));
    assert!(seen.contains(&(FlowDirection::Local, 6379, Some("php"), Some("redis"))));
    assert_eq!(seen.len(), 3);
}

#[test]
fn what_a_program_serves_does_not_depend_on_the_flows_that_are_told() {
    let mut sockets = vec![
        tcp(State::Listening, 80, [0, 0, 0, 0], 0, 1),
        tcp(State::Listening, 81, [0, 0, 0, 0], 0, 9),
        tcp(State::Established, 81, [10, 0, 0, 9], 40_000, 10),
        tcp(State::Established, 50_001, [127, 0, 0, 1], 80, 6),
        tcp(State::Established, 50_000, [10, 0, 0, 9], 443, 5),
    ];
    sockets.extend((0..100).map(|peer| tcp(State::Established, 80, [10, 0, 1, peer], 40_000, 3)));
    let told = told(&sockets, 0, |inode| (inode < 9).then(|| format!("program {inode}")));
    assert_eq!(told.flows.len(), FLOWS_MAX);
    let wanted = Served { application: "program 1".to_owned(), connections: 101 };
    assert_eq!(told.served, Some(vec![wanted]));
}

#[test]
fn what_is_not_known_of_a_round_trip_is_missing() {
    let mut socket = tcp(State::Established, 50_000, [10, 0, 0, 9], 443, 5);
    socket.rtt_us = None;
    let told = told(&[socket], 0, |_| None);
    assert_eq!((told.rtt_p50_us, told.flows[0].rtt_us), (None, None));
}

#[test]
fn a_round_ends_on_this_machine() {
    let (mut connections, mut findings) = (Connections::default(), Findings::default());
    for _ in 0..10_000 {
        if connections.step(&mut findings) == Step::Done {
            break;
        }
    }
    assert!(findings.connections.is_some());
    assert!(connections.sockets.is_empty());
    assert!(connections.listeners.borrow().is_some());
    connections.forget();
    assert!(connections.listeners.borrow().is_none());
}
