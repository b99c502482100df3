//! Brings the services of a started VM up: waits for its agent, mounts its images, starts what its owner asked
//! for. One that cannot be started keeps no other from it. Idempotent: run again after Proteus restarts, it finds what
//! runs and leaves it. Does so anew whenever the guest starts anew by itself, as after a panic.

use crate::error::guest_error;
use crate::guest::{Guest, GuestError};
use crate::node::HostAgent;
use proteus_hypervisor::driver::{Driver, Seat};
use proteus_model::id::{ServiceName, VmId};
use proteus_protocol::guest::v1::service::{ServiceState, ServiceStatus};
use proteus_protocol::guest::v1::{Reply, Request};
use proteus_protocol::node::v1::{NodeError, ServiceObserved};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Longest wait for the agent of a VM that starts: 3 CPU-seconds, times what a loaded emulating host takes away.
const AGENT_LIMIT: Duration = Duration::from_secs(300);
/// Wait for one hello: an agent that is not up yet does not answer.
const HELLO_LIMIT: Duration = Duration::from_secs(2);
/// Longest wait for the list of a VM's services: a look too, at more of it.
const LIST_LIMIT: Duration = Duration::from_secs(5);
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

/// The disk that keeps a service's data: the one of this name, where its owner gave the VM one.
fn data_disk(seat: &Seat, service: &ServiceName) -> Option<String> {
    let wanted = format!("{service}-data");
    seat.intent.disks.iter().any(|disk| disk.name.to_string() == wanted).then_some(wanted)
}

async fn start_service(
    guest: &Guest,
    path: &Path,
    seat: &Seat,
    service: &ServiceName,
) -> Result<(), GuestError> {
    let name = service.to_string();
    let mount = Request::MountImage { serial: name.clone(), name: name.clone() };
    guest.ask(path, mount).await?;
    let data_serial = data_disk(seat, service);
    let start = Request::StartService { name: name.clone(), image: name, data_serial };
    guest.ask_within(path, start, SERVICE_LIMIT).await?;
    Ok(())
}

async fn bring_up(
    driver: &dyn Driver,
    guest: &Guest,
    seat: &Seat,
    bring: &BringUp,
) -> Result<(), GuestError> {
    let path = wait_agent(driver, guest, seat).await?;
    if seat.intent.services.is_empty() {
        return Ok(());
    }
    let running = match guest.ask(&path, Request::Services).await? {
        Reply::Services { services } => services,
        _ => return Err(GuestError::Confused),
    };
    for service in &seat.intent.services {
        // One that is stopped could not be started by who tried last.
        let is_there =
            |status: &ServiceStatus| status.name == service.as_str() && status.state != ServiceState::Stopped;
        if running.iter().any(is_there) {
            continue;
        }
        match start_service(guest, &path, seat, service).await {
            Ok(()) => tracing::info!(vm = %seat.intent.name, %service, "service started"),
            Err(error) => {
                tracing::warn!(vm = %seat.intent.name, %service, %error, "service not started");
                bring.note(service, &error);
            }
        }
    }
    Ok(())
}

/// How far the bringing up of a VM's services is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// Whether it is over, however it went.
    pub over: bool,
    /// What could not be started, and why.
    pub failures: BTreeMap<ServiceName, String>,
}

/// One bringing up of a VM's services, begun anew when its guest starts anew.
#[derive(Debug, Clone, Default)]
pub(crate) struct BringUp {
    /// Ends it.
    pub stop: CancellationToken,
    /// How far it is.
    pub progress: Arc<watch::Sender<Progress>>,
}

impl BringUp {
    fn note(&self, service: &ServiceName, error: &GuestError) {
        self.progress
            .send_modify(|progress| drop(progress.failures.insert(service.clone(), error.to_string())));
    }

    fn set_over(&self) {
        self.progress.send_modify(|progress| progress.over = true);
    }

    /// Waits until it is over, however it went.
    pub(crate) async fn over(&self) {
        let _ = self.progress.subscribe().wait_for(|seen| seen.over).await;
    }

    /// Waits until it is over or something of it failed.
    pub(crate) async fn over_or_failed(&self) {
        // The sender lives as long as this does.
        let _ = self.progress.subscribe().wait_for(|seen| seen.over || !seen.failures.is_empty()).await;
    }
}

/// Brings a VM's services up, again whenever its guest starts anew by itself, until told to stop.
pub(crate) async fn run(driver: Arc<dyn Driver>, guest: Arc<Guest>, seat: Seat, bring: BringUp) {
    // Cancel-safe: what was started stays started, and the next run goes on from there.
    tokio::select! {
        () = keep_up(&*driver, &guest, &seat, &bring) => {}
        () = bring.stop.cancelled() => {}
    }
    bring.set_over();
}

async fn keep_up(driver: &dyn Driver, guest: &Guest, seat: &Seat, bring: &BringUp) {
    let mut reboots = driver.reboots(seat.id);
    guest.keep_reboots(reboots.as_mut().map_or(0, |seen| *seen.borrow_and_update()));
    loop {
        // Cancel-safe, as above.
        let rebooted = tokio::select! {
            () = bring_up_once(driver, guest, seat, bring) => next_reboot(&mut reboots).await,
            Some(()) = next_reboot(&mut reboots) => Some(()),
        };
        if rebooted.is_none() {
            return;
        }
        let count = reboots.as_mut().map_or(0, |seen| *seen.borrow_and_update());
        tracing::warn!(vm = %seat.intent.name, count, "the guest started anew by itself");
        guest.hang_up(count).await;
        bring.progress.send_replace(Progress::default());
    }
}

async fn bring_up_once(driver: &dyn Driver, guest: &Guest, seat: &Seat, bring: &BringUp) {
    if let Err(error) = bring_up(driver, guest, seat, bring).await {
        match seat.intent.services.is_empty() {
            true => tracing::debug!(vm = %seat.intent.name, %error, "no agent"),
            false => tracing::warn!(vm = %seat.intent.name, %error, "services not brought up"),
        }
        for service in &seat.intent.services {
            bring.note(service, &error);
        }
    }
    bring.set_over();
}

/// Waits until the guest starts anew by itself. `None`: its VMM ended, or nobody would notice.
async fn next_reboot(reboots: &mut Option<watch::Receiver<u64>>) -> Option<()> {
    reboots.as_mut()?.changed().await.ok()
}

impl HostAgent {
    /// The services of a VM, as its agent says, and why those that it could not start do not run.
    pub(crate) async fn services_of(&self, vm: VmId) -> Result<Vec<ServiceObserved>, NodeError> {
        self.seat(vm)?;
        let mut failures = self
            .bringing_up()
            .get(&vm)
            .map(|bring| bring.progress.borrow().failures.clone())
            .unwrap_or_default();
        let services = match self.ask_within(vm, Request::Services, LIST_LIMIT).await {
            Ok(Reply::Services { services }) => services,
            Ok(_) => return Err(guest_error(GuestError::Confused)),
            // Why nothing was started is told also where nobody inside answers.
            Err(error) if failures.is_empty() => return Err(error),
            Err(_) => Vec::new(),
        };
        let observed = services.into_iter().filter_map(|status| {
            // A guest that makes up names gets nothing shown.
            let name: ServiceName = status.name.parse().ok()?;
            // The agent has its own word on those that it knows. One that it could not start it calls stopped.
            let failure = failures.get(&name).filter(|_| status.state == ServiceState::Stopped);
            let state =
                failure.map_or_else(|| format!("{:?}", status.state).to_lowercase(), |_| "failed".into());
            let why = failure.map(|why| format!("not started: {why}"));
            Some(ServiceObserved {
                state,
                serving: status.state.is_serving(),
                notes: status.notes.into_iter().chain(why).collect(),
                log: status.log,
                name,
            })
        });
        let mut observed: Vec<ServiceObserved> = observed.collect();
        failures.retain(|name, _| observed.iter().all(|service| service.name != *name));
        observed.extend(failures.into_iter().map(|(name, why)| ServiceObserved {
            name,
            state: "failed".into(),
            serving: false,
            notes: vec![format!("not started: {why}")],
            log: String::new(),
        }));
        Ok(observed)
    }
}
