//! Templates and clones on this host: a VM is saved and ends, others begin from it in a moment. Must never let a
//! clone onto the network as its template, nor let anything change a template's disks.
//!
//! A clone is *newborn* until it has an identity of its own; one that a crash left so is ended at the next start, and never runs again.

use crate::disk;
use crate::error::{driver_error, guest_error, seat_error};
use crate::node::HostAgent;
use crate::seat::SeatError;
use crate::template::{disks_of_clones, freeze, is_template, template_dir};
use proteus_hypervisor::driver::{DriverError, Seat};
use proteus_hypervisor::network::Network;
use proteus_model::id::VmId;
use proteus_model::unit::Millis;
use proteus_model::vm::{DiskIntent, PowerState, VmIntent};
use proteus_protocol::cause::chain;
use proteus_protocol::guest::v1::request::GuestKind;
use proteus_protocol::guest::v1::{Blob, ExecRequest, LinkIdentity, Reply, Request};
use proteus_protocol::node::v1::{CloneTimes, NodeError, NodeErrorCode};
use std::error::Error;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longest wait for a clone to become somebody else: a moment, times ten for load, and the agent's own patience.
const IDENTITY_LIMIT: Duration = Duration::from_secs(60);
/// Longest time for a guest to make itself new keys: under emulation a long one takes half a minute.
const KEYS_LIMIT: Millis = Millis(180_000);
/// Randomness that a clone gets: twice what the agent asks for at least.
const ENTROPY_BYTES: usize = 64;

fn random<const N: usize>() -> Result<[u8; N], NodeError> {
    let mut bytes = [0; N];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    match filled {
        Ok(count) if count == N => Ok(bytes),
        _ => Err(NodeError::new(NodeErrorCode::Failed, "the kernel gave no randomness")),
    }
}

impl HostAgent {
    /// Refuses a VM that cannot be saved with an agent that gives its clones identities of their own.
    pub(crate) async fn check_can_be_template(&self, seat: &Seat) -> Result<(), NodeError> {
        if self.driver.power(seat.id).await != PowerState::Running {
            let message = format!("{} does not run", seat.intent.name);
            return Err(NodeError::new(NodeErrorCode::NotRunning, message));
        }
        if self.hello(seat.id).await.is_none() {
            let message = "the guest's agent does not answer: a clone could not take an identity of its own";
            return Err(NodeError::new(NodeErrorCode::Guest, message));
        }
        self.driver.check_template(seat.id).await.map_err(driver_error)
    }

    /// Saves a VM and ends it; the disks of its clones. Again: changes nothing.
    pub(crate) async fn make_template(&self, vm: VmId) -> Result<Vec<DiskIntent>, NodeError> {
        let seat = self.seat(vm)?;
        if !is_template(&seat) {
            self.check_can_be_template(&seat).await?;
            self.stop_bringing_up(vm);
            self.let_go(vm).await;
            if let Err(error) = self.driver.save_template(vm, &template_dir(&seat)).await {
                // It runs on, and is looked after again.
                self.settle_in(&seat).await;
                return Err(driver_error(error));
            }
        }
        freeze(&seat)?;
        Ok(disks_of_clones(&seat))
    }

    /// Starts a VM from a template. On error nothing of it is left.
    pub(crate) async fn begin_clone(
        &self,
        template: VmId,
        vm: VmId,
        intent: &VmIntent,
    ) -> Result<CloneTimes, NodeError> {
        let source = self.seat(template)?;
        if !is_template(&source) {
            let message = format!("{} is no template", source.intent.name);
            return Err(NodeError::new(NodeErrorCode::Conflict, message));
        }
        let outcome = self.clone_into_seat(&source, vm, intent).await;
        if outcome.is_err() {
            self.end_newborn(vm).await?;
            self.seats().remove(vm).map_err(seat_error)?;
        }
        outcome
    }

    async fn clone_into_seat(
        &self,
        source: &Seat,
        vm: VmId,
        intent: &VmIntent,
    ) -> Result<CloneTimes, NodeError> {
        let begun = Instant::now();
        let keep = |seat: &Seat| -> Result<(), SeatError> { self.seats().save(seat.clone()) };
        let mut seat = self
            .seats()
            .ensure(vm, intent, |folder, slot| self.driver.claim_user(folder, slot))
            .map_err(seat_error)?
            .clone();
        seat.newborn = true;
        keep(&seat).map_err(seat_error)?;
        let furnished = Seat { furnished: true, ..seat.clone() };
        let disks = async {
            let failed = |doing: &str, error: &dyn Error| DriverError::Host {
                doing: doing.to_owned(),
                source: io::Error::other(chain(error)),
            };
            disk::furnish(&seat).await.map_err(|e| failed("make the clone's disks", &e))?;
            // Before the VMM opens them: a disk that its guest wrote to is never made again.
            keep(&furnished).map_err(|e| failed("keep the clone's place", &e))
        };
        let started = self.driver.start_clone(&seat, &template_dir(source), Box::pin(disks)).await;
        started.map_err(driver_error)?;
        let ran = Millis::from(begun.elapsed());
        seat.furnished = true;
        self.take_identity(&seat).await?;
        self.driver.light_link(vm).await.map_err(driver_error)?;
        let own = Millis::from(begun.elapsed());
        seat.newborn = false;
        keep(&seat).map_err(seat_error)?;
        self.settle_in(&seat).await;
        Ok(CloneTimes { ran, own })
    }

    /// Makes the clone somebody else than its template.
    async fn take_identity(&self, seat: &Seat) -> Result<(), NodeError> {
        let path = self.agent_path(seat.id).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let request = Request::SetIdentity {
            entropy: Blob(random::<ENTROPY_BYTES>()?.to_vec()),
            hostname: Some(seat.intent.name.to_string()),
            machine_id: Some(format!("{:032x}", u128::from_ne_bytes(random()?))),
            now_ms: u64::try_from(now.as_millis()).ok(),
            link: Some(LinkIdentity {
                mac: seat.mac(),
                address: Network::address(seat.slot),
                prefix: Network::prefix(),
                gateway: Some(Network::gateway()),
            }),
        };
        let asked = self.guest(seat.id).ask_first(&path, request, IDENTITY_LIMIT).await;
        let Reply::Hello { hello } = asked.map_err(guest_error)? else {
            return Err(guest_error(crate::guest::GuestError::Confused));
        };
        self.guest(seat.id).keep_hello(&hello);
        if hello.guest == GuestKind::Systemd {
            self.renew_keys(seat, &path).await?;
        }
        Ok(())
    }

    /// A host is known by its keys: where ssh runs it gets new ones, and serves them before anybody can reach it.
    async fn renew_keys(&self, seat: &Seat, path: &Path) -> Result<(), NodeError> {
        for unit in ["ssh.service", "sshd.service"] {
            let asked = Request::UnitState { unit: unit.to_owned() };
            let state = self.guest(seat.id).ask(path, asked).await.map_err(guest_error)?;
            if matches!(&state, Reply::Unit { unit } if unit.load == "loaded") {
                self.run_inside(seat, path, &["/usr/bin/ssh-keygen", "-A"]).await?;
                self.run_inside(seat, path, &["/usr/bin/systemctl", "try-restart", unit]).await?;
            }
        }
        Ok(())
    }

    async fn run_inside(&self, seat: &Seat, path: &Path, argv: &[&str]) -> Result<(), NodeError> {
        let exec = ExecRequest {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            service: None,
            stdin: Blob::default(),
            timeout_ms: KEYS_LIMIT.0,
            output_bytes_max: 4096,
        };
        let guest = self.guest(seat.id);
        let asked = guest.ask_within(path, Request::Exec { exec }, Duration::from(KEYS_LIMIT)).await;
        match asked.map_err(guest_error)? {
            Reply::Exec { outcome } if outcome.exit_code == Some(0) => Ok(()),
            _ => {
                let message = format!("`{}` failed in the clone", argv.join(" "));
                Err(NodeError::new(NodeErrorCode::Guest, message))
            }
        }
    }

    /// Ends a clone that has no identity of its own, also where its VMM has ended already: what that left goes too.
    pub(crate) async fn end_newborn(&self, vm: VmId) -> Result<(), NodeError> {
        self.let_go(vm).await;
        match self.driver.stop(vm, Millis(0)).await {
            // What the driver does not know leaves nothing.
            Ok(_) | Err(DriverError::NotRunning { .. }) => Ok(()),
            Err(error) => Err(driver_error(error)),
        }
    }

    /// After a crash: a clone that was being made is ended. Its place says so until it is taken away.
    pub(crate) async fn end_left_newborn(&self, seat: &Seat) -> Result<(), NodeError> {
        tracing::warn!(vm = %seat.intent.name, "a clone was cut short and is ended");
        self.end_newborn(seat.id).await
    }
}
