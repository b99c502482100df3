//! Brings the services of a started VM up: waits for its agent, mounts its images, starts what its owner asked
//! for. One that cannot be started keeps no other from it. Idempotent: run again after Proteus restarts, it finds what
//! runs and leaves it.

use crate::guest::{Guest, GuestError};
use proteus_hypervisor::driver::{Driver, Seat};
use proteus_model::id::ServiceName;
use proteus_protocol::guest::v1::{Reply, Request};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Longest wait for the agent of a VM that starts: 3 CPU-seconds, times what a loaded emulating host takes away.
const AGENT_LIMIT: Duration = Duration::from_secs(300);
/// Wait for one hello: an agent that is not up yet does not answer.
const HELLO_LIMIT: Duration = Duration::from_secs(2);
/// Longest start of a service: PostgreSQL makes its database first, which takes a minute under emulation.
const SERVICE_LIMIT: Duration = Duration::from_secs(240);

/// Waits until the agent answers.
async fn wait_agent(
    driver: &dyn Driver,
    guest: &Guest,
    seat: &Seat,
) -> Result<std::path::PathBuf, GuestError> {
    let start = Instant::now();
    loop {
        let doors = driver.doors(seat.id).await.map_err(|e| GuestError::Open(e.to_string()))?;
        let path = doors.agent.ok_or(GuestError::NoChannel)?;
        // A clone: each greeting more costs a guest to whom everything is new.
        if guest.is_known(&path).await {
            return Ok(path);
        }
        match guest.greet(&path, HELLO_LIMIT).await {
            Ok(_) => return Ok(path),
            Err(error) if start.elapsed() > AGENT_LIMIT => return Err(error),
            // Refused at once while QEMU's socket changes hands: the pace, not a wait for an event.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn start_service(guest: &Guest, path: &Path, service: &ServiceName) -> Result<(), GuestError> {
    let name = service.to_string();
    let mount = Request::MountImage { serial: name.clone(), name: name.clone() };
    guest.ask(path, mount).await?;
    let start = Request::StartService { name: name.clone(), image: name, data_serial: None };
    guest.ask_within(path, start, SERVICE_LIMIT).await?;
    Ok(())
}

async fn bring_up(
    driver: &dyn Driver,
    guest: &Guest,
    seat: &Seat,
    failures: &Failures,
) -> Result<(), GuestError> {
    let path = wait_agent(driver, guest, seat).await?;
    let running = match guest.ask(&path, Request::Services).await? {
        Reply::Services { services } => services,
        _ => return Err(GuestError::Confused),
    };
    for service in &seat.intent.services {
        if running.iter().any(|status| status.name == service.as_str()) {
            continue;
        }
        match start_service(guest, &path, service).await {
            Ok(()) => tracing::info!(vm = %seat.intent.name, %service, "service started"),
            Err(error) => {
                tracing::warn!(vm = %seat.intent.name, %service, %error, "service not started");
                failures.note(service, &error);
            }
        }
    }
    Ok(())
}

/// Services of a VM that could not be started, and why.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failures(Arc<Mutex<BTreeMap<ServiceName, String>>>, CancellationToken);

impl Failures {
    fn note(&self, service: &ServiceName, error: &GuestError) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(service.clone(), error.to_string());
        self.1.cancel();
    }

    /// Waits for the first.
    pub(crate) async fn first(&self) {
        self.1.cancelled().await;
    }

    /// All of them.
    pub(crate) fn all(&self) -> BTreeMap<ServiceName, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One bringing up of a VM's services.
#[derive(Debug, Clone, Default)]
pub(crate) struct BringUp {
    /// Ends it.
    pub stop: CancellationToken,
    /// What failed of it.
    pub failures: Failures,
    /// Cancelled when it is over, however it went.
    pub over: CancellationToken,
}

/// Brings a VM's services up, until told to stop.
pub(crate) async fn run(driver: Arc<dyn Driver>, guest: Arc<Guest>, seat: Seat, bring: BringUp) {
    let _over = bring.over.clone().drop_guard();
    // Cancel-safe: what was started stays started, and the next run goes on from there.
    let outcome = tokio::select! {
        outcome = bring_up(&*driver, &guest, &seat, &bring.failures) => outcome,
        () = bring.stop.cancelled() => return,
    };
    if let Err(error) = outcome {
        tracing::warn!(vm = %seat.intent.name, %error, "services not brought up");
        for service in &seat.intent.services {
            bring.failures.note(service, &error);
        }
    }
}
