//! A question and its answer, with bounds: what is asked may be slow, endless or no server at all. Must never wait
//! longer than [`LIMIT`] in all.

use crate::sys;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
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
        Ok(Self { wire: Box::new(stream), until, answer: Vec::new() })
    }

    /// With who listens there, as the user who owns the socket: it may trust nobody else.
    pub fn unix(path: &Path) -> Result<Self, ExchangeError> {
        let until = Instant::now() + LIMIT;
        let owner = std::fs::metadata(path).map_err(ExchangeError::Connect)?.uid();
        let stream = sys::as_user(owner, || UnixStream::connect(path)).map_err(ExchangeError::Connect)?;
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
    let answer = exchange.answer(|_| false)?;
    let status = answer.strip_prefix(b"HTTP/1.").and_then(|rest| std::str::from_utf8(rest.get(2..5)?).ok());
    let status: u16 = status.and_then(|code| code.parse().ok()).ok_or(ExchangeError::Confused("not HTTP"))?;
    if status != 200 {
        return Err(ExchangeError::Status(status));
    }
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n");
    let body = end.and_then(|end| answer.get(end + 4..)).ok_or(ExchangeError::Confused("no body"))?;
    Ok(body.to_vec())
}
