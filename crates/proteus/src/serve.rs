//! `proteus serve`: the API on a unix socket for root, and on an address for tokens. Ends on SIGTERM or SIGINT: steps
//! in progress are finished, a morph in a window is left there for the next start, guests keep running. It answers
//! until morphs have come to rest. A second signal ends it at once, as a crash would.

use crate::service::{Service, Taken};
use crate::tls;
use anyhow::{Context, Result, bail};
use axum::Router;
use proteus_cli::argument::Serve;
use proteus_cli::told::Told;
use proteus_control_plane::api::access::Caller;
use proteus_control_plane::api::router;
use proteus_protocol::api::v1::Role;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

fn start_log() {
    let filter = EnvFilter::try_from_env("PROTEUS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Where somebody already listens (a test), that stays.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

/// Serves until told to end.
pub async fn serve(state: &Path, args: &Serve) -> Result<u8> {
    start_log();
    if !args.no_http && !args.listen.ip().is_loopback() && args.tls_cert.is_none() {
        bail!("{} is not a loopback address: give --tls-cert and --tls-key", args.listen);
    }
    let stop = CancellationToken::new();
    // All that whoever starts it may have got wrong comes first: nothing is done to the host yet.
    let acceptor = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => Some(tls::acceptor(cert, key)?),
        _ => None,
    };
    let taken = Taken::take(state)?;
    let tcp = match args.no_http {
        true => None,
        false => {
            Some(TcpListener::bind(args.listen).await.with_context(|| format!("listen at {}", args.listen))?)
        }
    };
    let socket = taken.state.join("proteus.sock");
    // Ours: the state folder is locked, so no other Proteus listens there.
    let _ = std::fs::remove_file(&socket);
    let unix = UnixListener::bind(&socket).with_context(|| format!("listen at {}", socket.display()))?;
    let service = match std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)) {
        Ok(()) => Service::open(taken).await,
        Err(error) => Err(error.into()),
    };
    // What was opened is closed, and nobody shall knock at what does not serve.
    let service = service.inspect_err(|_| drop(std::fs::remove_file(&socket)))?;
    // Before anybody is answered: who is told that it serves may tell it to end.
    let mut told = Told::listen()?;
    let root = Caller { name: "root".to_owned(), role: Role::Admin };
    let stopped = stop.clone();
    let unix_api = axum::serve(unix, router(service.control.clone(), Some(root)))
        .with_graceful_shutdown(async move { stopped.cancelled().await });
    let unix_task = tokio::spawn(unix_api.into_future());
    let http_task = match tcp {
        Some(tcp) => Some(serve_http(tcp, acceptor, router(service.control.clone(), None), stop.clone())?),
        None => None,
    };
    if http_task.is_some() {
        tracing::info!(address = %args.listen, tls = args.tls_cert.is_some(), "serving");
    }
    tracing::info!(socket = %socket.display(), "ready");
    told.wait().await;
    tracing::info!(
        "ending: steps in progress are finished, morphs in a window are left for the next start, guests keep running"
    );
    let ending = async {
        // Morphs first: until they have come to rest there is somebody who answers. Streams of events end with
        // them, else the listeners would wait for those.
        service.control.stop().await;
        stop.cancel();
        unix_task.await??;
        if let Some(task) = http_task {
            task.await??;
        }
        service.close().await
    };
    // Cut off only where the process ends: what is journaled is taken up as after a crash.
    tokio::select! {
        ended = ending => ended?,
        () = told.wait() => {
            tracing::warn!("told again: ending at once, the next start takes up what is under way");
            std::process::exit(1);
        }
    }
    // Gone with us: the next start makes it anew.
    let _ = std::fs::remove_file(&socket);
    Ok(0)
}

/// Answers at an address, with TLS where there is an acceptor, until `stop`.
fn serve_http(
    tcp: TcpListener,
    acceptor: Option<TlsAcceptor>,
    app: Router,
    stop: CancellationToken,
) -> Result<JoinHandle<std::io::Result<()>>> {
    let shutdown = async move { stop.cancelled().await };
    Ok(match acceptor {
        Some(acceptor) => {
            let listener = tls::Listener::new(tcp, acceptor)?;
            tokio::spawn(axum::serve(listener, app).with_graceful_shutdown(shutdown).into_future())
        }
        None => tokio::spawn(axum::serve(tcp, app).with_graceful_shutdown(shutdown).into_future()),
    })
}
