//! A question and its answer, with bounds: what is asked may be slow, endless or no server at all. Must never wait
//! longer than [`LIMIT`] in all.

use crate::sys;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// For a whole exchange.
const LIMIT: Duration = Duration::from_secs(1);
/// Longest answer.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Why there is no answer. Nothing of what was answered is in it.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error("connect: {0}")]
    Connect(std::io::Error),
    #[error("ask: {0}")]
    Ask(std::io::Error),
    #[error("it did not answer within {} s", LIMIT.as_secs())]
    Slow,
    #[error("it answers with more than {} KiB", ANSWER_BYTES_MAX >> 10)]
    TooLong,
    #[error("it wants a password: {0}")]
    Password(&'static str),
    #[error("it answered HTTP status {0}")]
    Status(u16),
    #[error("its answer is not understood: {0}")]
    Confused(&'static str),
    #[error("{0}")]
    Hidden(&'static str),
    #[error("it takes no callers now: it starts, stops, or has too many")]
    Busy,
    #[error("its address is not one of this guest: another machine would be asked")]
    Elsewhere,
}

impl ExchangeError {
    /// Whether it was said by one who will say the same when it is asked again soon, and writes down each time that it
    /// was asked.
    pub fn is_lasting(&self) -> bool {
        matches!(self, Self::Hidden(_) | Self::Password(_) | Self::Confused(_) | Self::Elsewhere)
    }
}

/// Whether who is spoken to is this guest: a program may listen on an address that no link has (`ip_nonlocal_bind`),
/// and then another machine has it.
fn is_own(own: IpAddr, peer: IpAddr) -> bool {
    peer.is_loopback() || own == peer
}

/// Connects without waiting: one that was stopped lets its callers queue, and would hold the last of them for ever.
fn connect_unix(path: &Path) -> Result<UnixStream, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// What can be read and written with a limit.
trait Wire: Read + Write {
    fn limit(&self, left: Duration) -> std::io::Result<()>;
}

impl Wire for TcpStream {
    fn limit(&self, left: Duration) -> std::io::Result<()> {
        self.set_read_timeout(Some(left))?;
        self.set_write_timeout(Some(left))
    }
}

impl Wire for UnixStream {
    fn limit(&self, left: Duration) -> std::io::Result<()> {
        self.set_read_timeout(Some(left))?;
        self.set_write_timeout(Some(left))
    }
}

/// An exchange under way.
pub struct Exchange {
    wire: Box<dyn Wire>,
    until: Instant,
    answer: Vec<u8>,
}

impl Exchange {
    /// With who listens there.
    pub fn tcp(address: SocketAddr) -> Result<Self, ExchangeError> {
        let until = Instant::now() + LIMIT;
        let stream = TcpStream::connect_timeout(&address, LIMIT).map_err(ExchangeError::Connect)?;
        let ends = stream.local_addr().and_then(|own| Ok((own.ip(), stream.peer_addr()?.ip())));
        let (own, peer) = ends.map_err(ExchangeError::Connect)?;
        if !is_own(own, peer) {
            return Err(ExchangeError::Elsewhere);
        }
        Ok(Self { wire: Box::new(stream), until, answer: Vec::new() })
    }

    /// With who listens there, as the user who owns the socket: it may trust nobody else.
    pub fn unix(path: &Path) -> Result<Self, ExchangeError> {
        let until = Instant::now() + LIMIT;
        let owner = std::fs::metadata(path).map_err(ExchangeError::Connect)?.uid();
        let stream = sys::as_user(owner, || connect_unix(path).map_err(Into::into));
        let stream = stream.map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => ExchangeError::Slow,
            _ => ExchangeError::Connect(error),
        })?;
        // From here on the limits of reading and writing hold.
        stream.set_nonblocking(false).map_err(ExchangeError::Connect)?;
        Ok(Self { wire: Box::new(stream), until, answer: Vec::new() })
    }

    fn left(&self) -> Result<Duration, ExchangeError> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ExchangeError::Slow) } else { Ok(left) }
    }

    /// Puts a question.
    pub fn ask(&mut self, question: &[u8]) -> Result<(), ExchangeError> {
        self.wire.limit(self.left()?).map_err(ExchangeError::Ask)?;
        self.answer.clear();
        self.wire.write_all(question).map_err(ExchangeError::Ask)
    }

    /// Reads on until `is_whole` or the other side closes.
    pub fn answer(&mut self, is_whole: impl Fn(&[u8]) -> bool) -> Result<&[u8], ExchangeError> {
        let mut chunk = [0u8; 16 << 10];
        loop {
            self.wire.limit(self.left()?).map_err(ExchangeError::Ask)?;
            match self.wire.read(&mut chunk) {
                Ok(0) => return Ok(&self.answer),
                Ok(got) => self.answer.extend_from_slice(&chunk[..got]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Err(ExchangeError::Slow);
                }
                Err(error) => return Err(ExchangeError::Ask(error)),
            }
            if self.answer.len() > ANSWER_BYTES_MAX {
                return Err(ExchangeError::TooLong);
            }
            if is_whole(&self.answer) {
                return Ok(&self.answer);
            }
        }
    }
}

/// The body of a page, by HTTP/1.0: one answer, ended by its end.
pub fn get(address: SocketAddr, path: &str) -> Result<Vec<u8>, ExchangeError> {
    let mut exchange = Exchange::tcp(address)?;
    let accept = "application/openmetrics-text;version=1.0.0, text/plain;version=0.0.4";
    let host = address.ip();
    exchange.ask(
        format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n")
            .as_bytes(),
    )?;
    body(exchange.answer(|_| false)?).map(<[u8]>::to_vec)
}

/// The body of an answer.
fn body(answer: &[u8]) -> Result<&[u8], ExchangeError> {
    let status = answer.strip_prefix(b"HTTP/1.").and_then(|rest| std::str::from_utf8(rest.get(2..5)?).ok());
    let status: u16 = status.and_then(|code| code.parse().ok()).ok_or(ExchangeError::Confused("not HTTP"))?;
    if status != 200 {
        return Err(ExchangeError::Status(status));
    }
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n");
    end.and_then(|end| answer.get(end + 4..)).ok_or(ExchangeError::Confused("no body"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::{Random, mutate, run};
    use rustix::net::{bind, listen};
    use std::os::unix::net::UnixListener;

    #[test]
    fn one_that_takes_no_caller_holds_none() {
        let path = std::env::temp_dir().join(format!("proteus-exchange-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let stopped =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        bind(&stopped, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&stopped, 0).unwrap();
        let mut queued = Vec::new();
        let refused = (0..10).find_map(|_| match Exchange::unix(&path) {
            Ok(exchange) => {
                queued.push(exchange);
                None
            }
            Err(error) => Some(error),
        });
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(refused, Some(ExchangeError::Slow)), "{refused:?}");
    }

    #[test]
    fn an_answer_is_waited_for_though_connecting_is_not() {
        let path = std::env::temp_dir().join(format!("proteus-exchange-slow-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let mut exchange = Exchange::unix(&path).unwrap();
        let server = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut question = [0u8; 2];
            stream.read_exact(&mut question).unwrap();
            stream.write_all(&question).unwrap();
        });
        exchange.ask(b"ab").unwrap();
        let answer = exchange.answer(|answer| answer.len() == 2).unwrap().to_vec();
        server.join().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(answer, b"ab");
    }

    #[test]
    fn only_this_guest_is_spoken_to() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(is_own(ip("127.0.0.1"), ip("127.0.0.1")) && is_own(ip("127.0.0.1"), ip("127.0.0.9")));
        assert!(is_own(ip("10.0.0.2"), ip("10.0.0.2")) && is_own(ip("::1"), ip("::1")));
        assert!(!is_own(ip("10.0.0.2"), ip("10.0.0.9")));
    }

    #[test]
    fn an_answer_of_any_bytes_is_no_page_or_its_end() {
        let pieces: [&[u8]; 7] = [b"\r\n\r\n", b"\r\n", b"HTTP/1.1 ", b"200", b"999", b" ", &[0xC3, 0xA4]];
        let make = |random: &mut Random| {
            let page: Vec<u8> = (0..random.below(60)).map(|_| random.next() as u8).collect();
            let mut answer =
                [&b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Type: text/plain\r\n\r\n"[..], &page].concat();
            assert_eq!(body(&answer).unwrap(), page, "what is whole is not read whole");
            mutate(random, &mut answer, &pieces);
            answer
        };
        run(20_000, make, |answer| match body(answer) {
            Ok(page) => {
                assert!(answer.ends_with(page) && answer[..answer.len() - page.len()].ends_with(b"\r\n\r\n"));
                assert!(answer.starts_with(b"HTTP/1.") && &answer[9..12] == b"200");
                true
            }
            Err(error) => {
                assert!(error.to_string().len() < 100, "a word of the answer is told: {error}");
                false
            }
        });
    }
}
