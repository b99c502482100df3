//! The way to a Proteus: the unix socket of this host, or an address over HTTP or TLS.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use proteus_protocol::api::v1::{ErrorBody, PREFIX};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Largest answer that is read: a listing of 10 000 VMs.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Longest wait for an answer: stopping a VM may take its grace, running a program its time.
const ANSWER_LIMIT: Duration = Duration::from_secs(900);

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("Proteus does not answer at {place}: {why}")]
    Unreachable {
        /// Where.
        place: String,
        /// Why.
        why: String,
    },
    /// It said no.
    #[error("{}", body.message)]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said.
        body: Box<ErrorBody>,
    },
    /// What came is not an answer of Proteus.
    #[error("the answer is not one of Proteus: {0}")]
    Strange(String),
    /// The address is none.
    #[error("{given:?} is not an address of a server: expected http://HOST:PORT or https://HOST:PORT")]
    Address {
        /// What was given.
        given: String,
    },
}

#[derive(Clone)]
enum Place {
    Unix(PathBuf),
    Http(String),
    Https(String, Arc<dyn Connect>),
}

/// Makes a TLS connection; given by the composition root, which brings the TLS library.
pub trait Connect: Send + Sync {
    /// Connects to `HOST:PORT`.
    fn connect<'a>(&'a self, authority: &'a str) -> ConnectFuture<'a>;
}

/// A connection in the making.
pub type ConnectFuture<'a> =
    std::pin::Pin<Box<dyn Future<Output = Result<Box<dyn Stream>, String>> + Send + 'a>>;

/// A byte stream both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A client.
#[derive(Clone)]
pub struct Client {
    place: Place,
    token: Option<String>,
}

impl Client {
    /// The Proteus of this host, whose state is in `state`.
    pub fn local(state: &Path) -> Self {
        Self { place: Place::Unix(state.join("proteus.sock")), token: None }
    }

    /// A Proteus elsewhere.
    pub fn remote(url: &str, token: Option<String>, tls: Arc<dyn Connect>) -> Result<Self, ClientError> {
        let bad = || ClientError::Address { given: url.chars().take(120).collect() };
        let (scheme, authority) = url.trim_end_matches('/').split_once("://").ok_or_else(bad)?;
        if authority.is_empty() || authority.contains('/') {
            return Err(bad());
        }
        let place = match scheme {
            "http" => Place::Http(authority.to_owned()),
            "https" => Place::Https(authority.to_owned(), tls),
            _ => return Err(bad()),
        };
        Ok(Self { place, token })
    }

    fn name(&self) -> String {
        match &self.place {
            Place::Unix(path) => path.display().to_string(),
            Place::Http(authority) => format!("http://{authority}"),
            Place::Https(authority, _) => format!("https://{authority}"),
        }
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, ClientError> {
        let connected: Result<Box<dyn Stream>, String> = match &self.place {
            Place::Unix(path) => UnixStream::connect(path)
                .await
                .map(|s| Box::new(s) as Box<dyn Stream>)
                .map_err(|e| e.to_string()),
            Place::Http(authority) => TcpStream::connect(authority)
                .await
                .map(|s| Box::new(s) as Box<dyn Stream>)
                .map_err(|e| e.to_string()),
            Place::Https(authority, tls) => tls.connect(authority).await,
        };
        connected.map_err(|why| ClientError::Unreachable { place: self.name(), why })
    }

    async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, ClientError> {
        let lost = |e: hyper::Error| ClientError::Unreachable { place: self.name(), why: e.to_string() };
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let driver = tokio::spawn(connection);
        let mut request =
            Request::builder().method(method).uri(path).header(CONTENT_TYPE, "application/json");
        request = request.header(
            HOST,
            match &self.place {
                Place::Unix(_) => "localhost",
                Place::Http(authority) | Place::Https(authority, _) => authority,
            },
        );
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request =
            request.body(Full::new(Bytes::from(body))).map_err(|e| ClientError::Strange(e.to_string()))?;
        let response = sender.send_request(request).await.map_err(lost)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        driver.abort();
        let body = body.map_err(|e| ClientError::Strange(e.to_string()))?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        let strange = |_| ClientError::Strange(format!("status {status}, {} bytes", body.len()));
        let body = serde_json::from_slice(&body).map_err(strange)?;
        Err(ClientError::Refused { status: status.as_u16(), body: Box::new(body) })
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, ClientError> {
        let path = format!("{PREFIX}{path}");
        let late = |_| ClientError::Unreachable { place: self.name(), why: "no answer in time".into() };
        let answer =
            tokio::time::timeout(ANSWER_LIMIT, self.send(method, &path, body)).await.map_err(late)??;
        serde_json::from_slice(&answer).map_err(|e| ClientError::Strange(e.to_string()))
    }

    /// GET.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path, Vec::new()).await
    }

    /// POST.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| ClientError::Strange(e.to_string()))?;
        self.ask(Method::POST, path, body).await
    }

    /// GET of a file.
    pub async fn download(&self, path: &str) -> Result<Bytes, ClientError> {
        let path = format!("{PREFIX}{path}");
        let late = |_| ClientError::Unreachable { place: self.name(), why: "no answer in time".into() };
        tokio::time::timeout(ANSWER_LIMIT, self.send(Method::GET, &path, Vec::new())).await.map_err(late)?
    }

    /// POST of a file.
    pub async fn upload<T: DeserializeOwned>(&self, path: &str, file: Vec<u8>) -> Result<T, ClientError> {
        self.ask(Method::POST, path, file).await
    }

    /// DELETE.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::DELETE, path, Vec::new()).await
    }
}

/// A part of a path, so that no name can lead elsewhere.
pub fn segment(text: &str) -> String {
    let mut safe = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'@' | b'^' | b'=' => {
                safe.push(char::from(byte));
            }
            other => safe.push_str(&format!("%{other:02X}")),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_stays_one_part_of_a_path() {
        assert_eq!(super::segment("../a b?"), "..%2Fa%20b%3F");
        assert_eq!(super::segment("web@^1.0"), "web@^1.0");
    }
}
