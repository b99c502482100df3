//! TLS on both ends: the server's listener and the client's connector.

use anyhow::{Context, Result, ensure};
use proteus_cli::client::{Connect, ConnectFuture, Stream};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Longest time that a handshake may take: who connects and says nothing holds nothing up.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Connections with their handshake done that wait to be served.
const READY_MAX: usize = 64;
/// Handshakes under way at once.
const HANDSHAKES_MAX: usize = 256;

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let all = read().with_context(|| format!("read certificates from {}", path.display()))?;
    ensure!(!all.is_empty(), "there is no certificate in {}", path.display());
    Ok(all)
}

/// Accepts TLS connections; handshakes run beside each other.
pub struct Listener {
    address: SocketAddr,
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
}

/// Who a server says that it is: this certificate chain and key.
pub fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor> {
    let chain = certificates(cert)?;
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| format!("read the key {}", key.display()))?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    Ok(TlsAcceptor::from(Arc::new(config.context("the certificate and key do not fit")?)))
}

impl Listener {
    /// TLS over `tcp`.
    pub fn new(tcp: TcpListener, acceptor: TlsAcceptor) -> Result<Self> {
        let address = tcp.local_addr()?;
        let (sender, ready) = mpsc::channel(READY_MAX);
        tokio::spawn(accept(tcp, acceptor, sender));
        Ok(Self { address, ready })
    }
}

/// Ends when nobody takes connections any more.
async fn accept(
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    sender: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let places = Arc::new(tokio::sync::Semaphore::new(HANDSHAKES_MAX));
    while let Ok(place) = places.clone().acquire_owned().await {
        let connection = tokio::select! {
            // Cancel-safe: a connection that was not accepted stays in the kernel's queue.
            connection = tcp.accept() => connection,
            // Cancel-safe: waits only.
            () = sender.closed() => return,
        };
        let Ok((stream, peer)) = connection else { continue };
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        tokio::spawn(async move {
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
                // At shutdown nobody takes it any more.
                let _ = sender.send((stream, peer)).await;
            }
            drop(place);
        });
    }
}

impl axum::serve::Listener for Listener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            // The accepting task only ends with this listener.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}

/// Makes TLS connections for the client. Trusts the given authority, and no other.
pub struct Connector {
    ca: Option<PathBuf>,
}

impl Connector {
    /// A connector that trusts the certificates in this file.
    pub fn new(ca: Option<PathBuf>) -> Self {
        Self { ca }
    }

    async fn open(&self, authority: &str) -> Result<Box<dyn Stream>> {
        let ca = self
            .ca
            .as_ref()
            .context("https takes --ca FILE: the authority that signed the server's certificate")?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots.add(certificate)?;
        }
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned())?;
        let stream = TcpStream::connect(authority).await?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        Ok(Box::new(stream))
    }
}

impl Connect for Connector {
    fn connect<'a>(&'a self, authority: &'a str) -> ConnectFuture<'a> {
        Box::pin(async move { self.open(authority).await.map_err(|error| format!("{error:#}")) })
    }
}
