//! Asks a service whether it is ready, without blocking: connects over loopback, puts its question, compares the
//! beginning of the answer. Must never believe that a taken connection is an answer where there is more to ask:
//! the kernel takes connections for a service that is not there, because the agent owns the socket.

use proteus_protocol::guest::v1::service::Probe;
use rustix::event::{PollFd, PollFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

/// Between two attempts.
const INTERVAL: Duration = Duration::from_millis(50);
/// For one attempt.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of an answer, at most this is looked at.
const ANSWER_BYTES_MAX: usize = 256;

struct Attempt {
    socket: OwnedFd,
    question: Vec<u8>,
    asked: usize,
    answer: Vec<u8>,
    deadline: Instant,
}

/// Asks until it gets the right answer.
pub struct Prober {
    probe: Probe,
    attempt: Option<Attempt>,
    next_at: Instant,
}

/// What an answer so far means.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Right,
    Wrong,
    More,
}

fn port(probe: &Probe) -> u16 {
    match probe {
        Probe::Tcp { port }
        | Probe::Http { port, .. }
        | Probe::Redis { port }
        | Probe::Postgres { port, .. } => *port,
    }
}

/// The bytes to send.
fn question(probe: &Probe) -> Vec<u8> {
    match probe {
        Probe::Tcp { .. } => Vec::new(),
        Probe::Http { path, .. } => {
            format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n").into_bytes()
        }
        Probe::Redis { .. } => b"PING\r\n".to_vec(),
        Probe::Postgres { user, database, .. } => {
            // StartupMessage: length, version 3.0, pairs of strings, an empty string (PostgreSQL, "Message Formats").
            let pairs = format!("user\0{user}\0database\0{database}\0\0");
            let length = 8 + pairs.len() as u32;
            [&length.to_be_bytes()[..], &0x0003_0000_u32.to_be_bytes(), pairs.as_bytes()].concat()
        }
    }
}

fn judge(probe: &Probe, answer: &[u8], ended: bool) -> Verdict {
    let begins = |wanted: &[u8]| match answer.len().cmp(&wanted.len()) {
        std::cmp::Ordering::Less if wanted.starts_with(answer) => Verdict::More,
        _ if answer.starts_with(wanted) => Verdict::Right,
        _ => Verdict::Wrong,
    };
    let verdict = match probe {
        Probe::Tcp { .. } => Verdict::Right,
        Probe::Redis { .. } => begins(b"+PONG"),
        // 'R': it asks for authentication, or grants it; 'E' while it starts up.
        Probe::Postgres { .. } => begins(b"R"),
        Probe::Http { .. } => match (begins(b"HTTP/1."), answer.get(9)) {
            (Verdict::Right, Some(b'2' | b'3')) => Verdict::Right,
            (Verdict::Right, None) => Verdict::More,
            (Verdict::Right, Some(_)) => Verdict::Wrong,
            (other, _) => other,
        },
    };
    if verdict == Verdict::More && ended { Verdict::Wrong } else { verdict }
}

impl Prober {
    /// Asks from `now` on.
    pub fn new(probe: Probe, now: Instant) -> Self {
        Self { probe, attempt: None, next_at: now }
    }

    /// What wakes it.
    pub fn wake_fds<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        if let Some(attempt) = &self.attempt {
            let flags = if attempt.is_asking(&self.probe) { PollFlags::OUT } else { PollFlags::IN };
            fds.push(PollFd::new(&attempt.socket, flags));
        }
    }

    /// When it must be stepped even if nothing happens.
    pub fn deadline(&self) -> Instant {
        self.attempt.as_ref().map_or(self.next_at, |attempt| attempt.deadline)
    }

    /// True once it got the right answer.
    pub fn step(&mut self, now: Instant) -> bool {
        if self.attempt.is_none() && now >= self.next_at {
            self.next_at = now + INTERVAL;
            self.attempt = Attempt::start(&self.probe, now).ok();
        }
        let Some(attempt) = &mut self.attempt else { return false };
        match attempt.step(&self.probe) {
            Verdict::Right => {
                self.attempt = None;
                true
            }
            Verdict::More if now < attempt.deadline => false,
            Verdict::More | Verdict::Wrong => {
                self.attempt = None;
                self.next_at = now + INTERVAL;
                false
            }
        }
    }
}

impl Attempt {
    fn start(probe: &Probe, now: Instant) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        match connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port(probe))) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error),
        }
        Ok(Self { socket, question: question(probe), asked: 0, answer: Vec::new(), deadline: now + PATIENCE })
    }

    /// Whether it waits to be connected or to send.
    fn is_asking(&self, probe: &Probe) -> bool {
        self.asked < self.question.len() || matches!(probe, Probe::Tcp { .. })
    }

    fn step(&mut self, probe: &Probe) -> Verdict {
        if matches!(probe, Probe::Tcp { .. }) {
            let connected = rustix::net::getpeername(&self.socket).is_ok();
            let failed = sockopt::socket_error(&self.socket).map_or(true, |state| state.is_err());
            return match (connected, failed) {
                (true, _) => Verdict::Right,
                (false, true) => Verdict::Wrong,
                (false, false) => Verdict::More,
            };
        }
        while self.asked < self.question.len() {
            match rustix::io::write(&self.socket, &self.question[self.asked..]) {
                Ok(wrote) => self.asked += wrote,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Verdict::More,
                Err(_) => return Verdict::Wrong,
            }
        }
        let mut chunk = [0u8; ANSWER_BYTES_MAX];
        match rustix::io::read(&self.socket, &mut chunk) {
            Ok(0) => judge(probe, &self.answer, true),
            Ok(got) => {
                self.answer.extend_from_slice(&chunk[..got]);
                judge(probe, &self.answer, self.answer.len() >= ANSWER_BYTES_MAX)
            }
            Err(Errno::INTR | Errno::AGAIN) => Verdict::More,
            Err(_) => Verdict::Wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged_by_their_beginning() {
        let http = Probe::Http { port: 80, path: "/".into() };
        assert_eq!(judge(&http, b"HTTP/1.1 200 OK", false), Verdict::Right);
        assert_eq!(judge(&http, b"HTTP/1.1 503 No", false), Verdict::Wrong);
        assert_eq!(judge(&http, b"HTTP/1", false), Verdict::More);
        assert_eq!(judge(&http, b"HTTP/1.1 ", true), Verdict::Wrong);
        assert_eq!(judge(&http, b"SSH-2.0", false), Verdict::Wrong);
        let redis = Probe::Redis { port: 6379 };
        assert_eq!(judge(&redis, b"+PONG\r\n", false), Verdict::Right);
        assert_eq!(judge(&redis, b"-LOADING", false), Verdict::Wrong);
        let postgres = Probe::Postgres { port: 5432, user: "u".into(), database: "d".into() };
        assert_eq!(judge(&postgres, b"R\0\0\0\x08", false), Verdict::Right);
        assert_eq!(judge(&postgres, b"E", false), Verdict::Wrong);
    }

    #[test]
    fn a_postgres_question_states_its_length() {
        let bytes = question(&Probe::Postgres { port: 1, user: "bench".into(), database: "bench".into() });
        assert_eq!(u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len());
        assert_eq!(bytes.last(), Some(&0));
    }

    #[test]
    fn a_real_listener_is_asked() {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let probe = Probe::Redis { port: listener.local_addr().unwrap().port() };
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut ping = [0; 6];
            stream.read_exact(&mut ping).unwrap();
            stream.write_all(b"+PONG\r\n").unwrap();
        });
        let start = Instant::now();
        let mut prober = Prober::new(probe, start);
        while !prober.step(Instant::now()) {
            assert!(start.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
        server.join().unwrap();
    }
}
