//! Health checks that go over the guests' network: a connection, and the first words of a protocol. Each has a
//! limit in time and in bytes; what a server answers is data.

use proteus_hypervisor::network::Network;
use proteus_model::profile::promise::HealthCheck;
use proteus_protocol::node::v1::HealthObserved;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Longest time for one check, connection included.
const LIMIT: Duration = Duration::from_secs(5);
/// What is read of an answer: enough for the status line of any server.
const ANSWER_BYTES: usize = 256;

/// What to say and what to expect back.
enum Talk {
    Nothing,
    Http { request: String, status: u16 },
    Redis,
    Postgresql { startup: Vec<u8> },
}

/// The port and talk of a check that goes over the network; `None`: it does not.
fn talk_of(check: &HealthCheck, address: Ipv4Addr) -> Option<(u16, Talk)> {
    match check {
        HealthCheck::Tcp(tcp) => Some((tcp.port.get(), Talk::Nothing)),
        HealthCheck::Http(http) => {
            let path = http.path.as_ref().map_or("/", |path| path.as_str());
            let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
            Some((http.port.get(), Talk::Http { request, status: http.status.get() }))
        }
        HealthCheck::Redis(redis) => Some((redis.port.get(), Talk::Redis)),
        HealthCheck::Postgresql(postgresql) => {
            let user = postgresql.user.as_ref().map_or("postgres", |user| user.as_str());
            let database = postgresql.database.as_ref().map(|database| database.as_str());
            Some((postgresql.port.get(), Talk::Postgresql { startup: startup_message(user, database) }))
        }
        HealthCheck::Process(_) | HealthCheck::Unit(_) => None,
    }
}

/// PostgreSQL's StartupMessage (Frontend/Backend Protocol, "Message Formats"): length, version 3.0, parameters.
fn startup_message(user: &str, database: Option<&str>) -> Vec<u8> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for (key, value) in [("user", Some(user)), ("database", database)] {
        if let Some(value) = value {
            body.extend_from_slice(key.as_bytes());
            body.push(0);
            body.extend_from_slice(value.as_bytes());
            body.push(0);
        }
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [length.to_be_bytes().to_vec(), body].concat()
}

fn read_some(stream: &mut TcpStream, enough: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    let mut answer = vec![0u8; ANSWER_BYTES];
    let mut length = 0;
    while length < ANSWER_BYTES && !enough(&answer[..length]) {
        match stream.read(&mut answer[length..])? {
            0 => break,
            count => length += count,
        }
    }
    answer.truncate(length);
    Ok(answer)
}

/// Says and hears; the verdict with what was seen.
fn converse(mut stream: TcpStream, talk: &Talk) -> io::Result<(bool, String)> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    match talk {
        Talk::Nothing => Ok((true, "connected".into())),
        Talk::Http { request, status } => {
            stream.write_all(request.as_bytes())?;
            let answer = read_some(&mut stream, |seen| seen.contains(&b'\n'))?;
            let line = String::from_utf8_lossy(&answer);
            let line = line.lines().next().unwrap_or_default().trim().to_owned();
            let found = line.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
            Ok((line.starts_with("HTTP/") && found == Some(*status), format!("answered {line:?}")))
        }
        Talk::Redis => {
            stream.write_all(b"PING\r\n")?;
            let answer = read_some(&mut stream, |seen| seen.contains(&b'\n'))?;
            let line = String::from_utf8_lossy(&answer).trim().to_owned();
            // A server that wants a password is one that serves.
            Ok((line == "+PONG" || line.starts_with("-NOAUTH"), format!("answered {line:?}")))
        }
        Talk::Postgresql { startup } => {
            stream.write_all(startup)?;
            let answer = read_some(&mut stream, |seen| !seen.is_empty())?;
            let kind = answer.first().copied().map(char::from);
            Ok((kind == Some('R'), format!("answered with message {kind:?}")))
        }
    }
}

/// Checks over the network; `None`: this check does not go there.
pub(crate) async fn check(
    network: &Network,
    address: Ipv4Addr,
    check: &HealthCheck,
) -> Option<HealthObserved> {
    let (port, talk) = talk_of(check, address)?;
    let start = Instant::now();
    let outcome = match network.connect(SocketAddr::from((address, port)), LIMIT).await {
        Ok(stream) => {
            let task = tokio::task::spawn_blocking(move || converse(stream, &talk));
            task.await.map_err(io::Error::other).and_then(|outcome| outcome)
        }
        Err(error) => Err(error),
    };
    let latency_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    let (healthy, detail) = outcome.unwrap_or_else(|error| (false, format!("port {port}: {error}")));
    Some(HealthObserved { healthy, latency_us, detail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_startup_message_is_as_the_protocol_says() {
        let message = startup_message("me", Some("db"));
        assert_eq!(message[..4], (message.len() as u32).to_be_bytes());
        assert_eq!(message[4..8], [0, 3, 0, 0]);
        assert_eq!(&message[8..], b"user\0me\0database\0db\0\0");
    }
}
