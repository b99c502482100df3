//! The kernel's list of TCP sockets: `NETLINK_SOCK_DIAG`, sock_diag(7), with `struct tcp_info` of linux/tcp.h. Must
//! never believe a length that leads out of what was received.

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const REQUEST_DUMP: u16 = 0x301;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `INET_DIAG_INFO`: the attribute with `tcp_info`.
const INFO: u16 = 2;
/// `1 << TCP_ESTABLISHED | 1 << TCP_LISTEN`.
const STATES: u32 = 1 << 1 | 1 << 10;
/// Messages that are taken in one step: of 32 KiB at most, about 80 sockets each.
const MESSAGES: usize = 4;
/// `struct nlmsghdr`, and `struct inet_diag_msg` behind it.
const HEADER: usize = 16;
const SOCKET: usize = 72;

/// Whether a socket listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Established,
    Listening,
}

/// A TCP socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcp {
    pub state: State,
    pub address: IpAddr,
    pub port: u16,
    pub peer: IpAddr,
    pub peer_port: u16,
    pub inode: u32,
    pub rtt_us: Option<u32>,
    pub retransmitted: Option<u32>,
    pub sent: Option<u64>,
    pub received: Option<u64>,
}

/// A listing under way: first of IPv4, then of IPv6.
pub struct Dump {
    socket: OwnedFd,
    left: Vec<u8>,
}

fn ask(family: u8) -> std::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::SOCK_DIAG))?;
    let length = HEADER + 56;
    let mut request = Vec::with_capacity(length);
    request.extend_from_slice(&(length as u32).to_ne_bytes());
    request.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    request.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    // struct inet_diag_req_v2: family, protocol, extensions, padding, states, and an id that stands for all.
    request.extend_from_slice(&[family, libc::IPPROTO_TCP as u8, 1 << (INFO - 1), 0]);
    request.extend_from_slice(&STATES.to_ne_bytes());
    request.resize(length, 0);
    send(&socket, &request, SendFlags::empty())?;
    Ok(socket)
}

impl Dump {
    /// Asks the kernel.
    pub fn begin() -> std::io::Result<Self> {
        let socket = ask(libc::AF_INET as u8)?;
        // A kernel that has no such listing says so at once.
        let mut first = [0u8; 64];
        if let Ok((got, _)) = recv(&socket, &mut first[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            refusal(&first[..got.min(first.len())])?;
        }
        Ok(Self { socket, left: vec![libc::AF_INET6 as u8] })
    }

    /// Takes some sockets; true: that was all.
    pub fn take_some(&mut self, mut take: impl FnMut(Tcp)) -> std::io::Result<bool> {
        let mut buffer = vec![0u8; 32 << 10];
        for _ in 0..MESSAGES {
            let got = match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((got, _)) => got,
                // The kernel answers while it is asked: where nothing is there, nothing comes.
                Err(Errno::AGAIN) => 0,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if got > 0 && !messages(&buffer[..got], &mut take)? {
                continue;
            }
            match self.left.pop() {
                // A kernel without IPv6 has none to tell of.
                Some(family) => self.socket = ask(family)?,
                None => return Ok(true),
            }
        }
        Ok(false)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The error that the kernel answers with, if it is one.
fn refusal(message: &[u8]) -> std::io::Result<()> {
    if u16_at(message, 4) != Some(ERROR) {
        return Ok(());
    }
    match u32_at(message, HEADER).map(|code| (code as i32).wrapping_neg()) {
        Some(code) if code > 0 => Err(std::io::Error::from_raw_os_error(code)),
        _ => Ok(()),
    }
}

/// Takes the sockets of what was received; true: the listing ends with it.
fn messages(mut bytes: &[u8], take: &mut impl FnMut(Tcp)) -> std::io::Result<bool> {
    while let Some(length) = u32_at(bytes, 0).map(|length| length as usize) {
        let Some(message) = bytes.get(..length).filter(|_| length >= HEADER) else { return Ok(true) };
        match u16_at(message, 4) {
            Some(DONE) => return Ok(true),
            Some(ERROR) => return refusal(message).map(|()| true),
            Some(BY_FAMILY) => {
                if let Some(tcp) = socket(&message[HEADER..]) {
                    take(tcp);
                }
            }
            _ => {}
        }
        // Messages begin at multiples of four.
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn address(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    if i32::from(family) == libc::AF_INET {
        let four: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
        return Some(Ipv4Addr::from(four).into());
    }
    let sixteen: [u8; 16] = bytes.get(..16)?.try_into().ok()?;
    Some(IpAddr::from(Ipv6Addr::from(sixteen)).to_canonical())
}

/// `struct inet_diag_msg` and its attributes.
fn socket(bytes: &[u8]) -> Option<Tcp> {
    let family = *bytes.first()?;
    let state = match *bytes.get(1)? {
        1 => State::Established,
        10 => State::Listening,
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let info = attribute(bytes.get(SOCKET..)?, INFO);
    // Older kernels have a shorter structure: what is beyond its end is not known.
    let number = |at| info.and_then(|info| u32_at(info, at));
    let large = |at| info.and_then(|info| u64_at(info, at));
    let is_up = state == State::Established;
    Some(Tcp {
        state,
        port: port(4)?,
        peer_port: port(6)?,
        address: address(family, bytes.get(8..24)?)?,
        peer: address(family, bytes.get(24..40)?)?,
        inode: u32_at(bytes, 68)?,
        // tcpi_rtt, tcpi_total_retrans, tcpi_bytes_acked, tcpi_bytes_received.
        rtt_us: number(68).filter(|rtt| is_up && *rtt > 0),
        retransmitted: number(100).filter(|_| is_up),
        sent: large(120).filter(|_| is_up),
        received: large(128).filter(|_| is_up),
    })
}

/// The content of the first attribute of a kind.
fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(bytes, 0)?);
        let content = bytes.get(4..length)?;
        if u16_at(bytes, 2)? == kind {
            return Some(content);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::{Random, mutate, run};
    use std::net::{TcpListener, TcpStream};

    fn all() -> Vec<Tcp> {
        let mut dump = Dump::begin().unwrap();
        let mut sockets = Vec::new();
        for _ in 0..10_000 {
            if dump.take_some(|tcp| sockets.push(tcp)).unwrap() {
                return sockets;
            }
        }
        panic!("a listing without end");
    }

    #[test]
    fn a_connection_of_this_process_is_listed_at_both_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let served = listener.accept().unwrap();
        let all = all();
        let of =
            |state, own: u16| all.iter().filter(move |tcp| tcp.state == state && tcp.port == own).count();
        assert_eq!(of(State::Listening, port), 1);
        assert_eq!(of(State::Established, port), 1);
        let own = client.local_addr().unwrap().port();
        let tcp = all.iter().find(|tcp| tcp.port == own && tcp.state == State::Established).unwrap();
        assert_eq!((tcp.peer_port, tcp.peer), (port, [127, 0, 0, 1].into()));
        assert!(tcp.rtt_us.is_some() && tcp.sent.is_some() && tcp.inode > 0);
        drop(served);
    }

    #[test]
    fn lengths_that_lead_out_are_the_end() {
        let mut none = |_: Tcp| panic!("a socket of nothing");
        assert!(messages(&[255, 255, 0, 0, 20, 0, 0, 0], &mut none).unwrap());
        assert!(messages(&[3, 0, 0, 0, 20, 0, 0, 0], &mut none).unwrap());
        assert!(!messages(&[], &mut none).unwrap());
        assert_eq!(attribute(&[0, 0, 0, 0], 1), None);
        assert_eq!(attribute(&[200, 0, 1, 0], 1), None);
        let mut refused = vec![36, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        refused.extend_from_slice(&(-2i32).to_ne_bytes());
        refused.resize(36, 0);
        assert_eq!(messages(&refused, &mut none).unwrap_err().raw_os_error(), Some(2));
    }

    /// A socket as the kernel tells of it, with some of `tcp_info`.
    fn told(tcp: &Tcp, info: usize) -> Vec<u8> {
        let four = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => [&ip.octets()[..], &[0; 12]].concat(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let family = if tcp.peer.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8;
        let state = if tcp.state == State::Established { 1 } else { 10 };
        let mut body = vec![family, state, 0, 0];
        body.extend_from_slice(&tcp.port.to_be_bytes());
        body.extend_from_slice(&tcp.peer_port.to_be_bytes());
        body.extend(four(tcp.address).into_iter().chain(four(tcp.peer)));
        body.resize(68, 0);
        body.extend_from_slice(&tcp.inode.to_ne_bytes());
        let mut content = vec![0u8; 232];
        content[68..72].copy_from_slice(&tcp.rtt_us.unwrap_or(0).to_ne_bytes());
        content[100..104].copy_from_slice(&tcp.retransmitted.unwrap_or(0).to_ne_bytes());
        content[120..128].copy_from_slice(&tcp.sent.unwrap_or(0).to_ne_bytes());
        content[128..136].copy_from_slice(&tcp.received.unwrap_or(0).to_ne_bytes());
        content.truncate(info);
        // Another attribute before it.
        body.extend_from_slice(&[5, 0, 7, 0, 9, 0, 0, 0]);
        body.extend_from_slice(&(content.len() as u16 + 4).to_ne_bytes());
        body.extend_from_slice(&INFO.to_ne_bytes());
        body.extend(content);
        let mut message = ((body.len() + HEADER) as u32).to_ne_bytes().to_vec();
        message.extend_from_slice(&BY_FAMILY.to_ne_bytes());
        message.resize(HEADER, 0);
        message.extend(body);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    #[test]
    fn a_list_of_any_bytes() {
        let pieces: [&[u8]; 7] =
            [&[0; 4], &[255; 4], &[16, 0, 0, 0], &[3, 0, 0, 0], &[4, 0, 2, 0], &[2, 0], &[20, 0]];
        let make = |random: &mut Random| {
            let count = random.below(4);
            let sockets: Vec<Tcp> = (0..count)
                .map(|_| {
                    let is_up = random.below(2) == 0;
                    let octets = (random.next() as u32).to_be_bytes();
                    let number = |random: &mut Random| is_up.then(|| random.next());
                    let (address, peer) = match random.below(2) {
                        0 => (IpAddr::from(octets), IpAddr::from([10, 0, 0, 9])),
                        _ => (
                            IpAddr::from([0xFD00, 1, 2, 3, 4, 5, 6, 7]),
                            IpAddr::from([0xFD00, 0, 0, 0, 0, 0, 0, 9]),
                        ),
                    };
                    Tcp {
                        state: if is_up { State::Established } else { State::Listening },
                        address,
                        port: random.next() as u16,
                        peer,
                        peer_port: random.next() as u16,
                        inode: random.next() as u32,
                        rtt_us: number(random).map(|rtt| rtt as u32 | 1),
                        retransmitted: number(random).map(|count| count as u32),
                        sent: number(random),
                        received: number(random),
                    }
                })
                .collect();
            let mut bytes: Vec<u8> = sockets.iter().flat_map(|tcp| told(tcp, 232)).collect();
            let mut read = Vec::new();
            assert!(!messages(&bytes, &mut |tcp| read.push(tcp)).unwrap());
            assert_eq!(read, sockets, "what is whole is not read whole");
            // An older kernel tells less.
            if let Some(tcp) = sockets.first() {
                let mut read = Vec::new();
                messages(&told(tcp, 124), &mut |tcp| read.push(tcp)).unwrap();
                assert_eq!((read[0].rtt_us, read[0].sent, read[0].received), (tcp.rtt_us, None, None));
            }
            mutate(random, &mut bytes, &pieces);
            bytes
        };
        run(20_000, make, |bytes: &Vec<u8>| {
            let mut count = 0;
            let outcome = messages(bytes, &mut |_| count += 1);
            assert!(count <= bytes.len() / (HEADER + SOCKET), "{count} sockets in {} bytes", bytes.len());
            assert!(outcome.is_ok() || bytes.len() >= HEADER + 4);
            count > 0
        });
    }
}
