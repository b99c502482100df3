//! The node: the [`Node`] API over a driver. Everything about a VM that the control plane can ask or order.

use crate::base::Digests;
use crate::bring_up::BringUp;
use crate::clock::now;
use crate::console::Console;
use crate::error::{driver_error, guest_error, seat_error, uplink_error};
use crate::guest::{ANSWER_LIMIT, Guest, GuestError};
use crate::seat::Seats;
use crate::telemetry::Telemetry;
use crate::{bring_up, convert, disk, health, reach, template};
use async_trait::async_trait;
use proteus_hypervisor::driver::{Driver, DriverError, Seat};
use proteus_hypervisor::network::Network;
use proteus_hypervisor::ownership;
use proteus_model::capability::{Ability, CapabilityReport};
use proteus_model::id::{Generation, SnapshotName, VmId, VmName};
use proteus_model::profile::promise::HealthCheck;
use proteus_model::setting::{Knob, KnobKind, Setting};
use proteus_model::snapshot::Snapshot;
use proteus_model::telemetry::{CollectIntent, Findings};
use proteus_model::unit::{Bytes, Millis};
use proteus_model::uplink::{UplinkIntent, UplinkObserved};
use proteus_model::vm::{
    BootObserved, DiskIntent, ImageIntent, PowerState, StopObserved, VmIntent, VmObserved,
};
use proteus_protocol::cause::chain;
use proteus_protocol::guest::v1::request::{CapabilityName, ExecRequest};
use proteus_protocol::guest::v1::{Blob, HelloReply, Reply, Request, Sample};
use proteus_protocol::node::v1::{
    CloneTimes, ConsoleObserved, ExecIntent, ExecObserved, HealthObserved, HistoryObserved, HostReport,
    ImportObserved, Measurement, Node, NodeError, NodeErrorCode, RecentObserved, ServiceObserved, StepCost,
    UsageObserved,
};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::task::TaskTracker;

/// Longest wait for the agent of a VM that is just looked at.
const GLANCE_LIMIT: Duration = Duration::from_secs(2);
/// Time between asking a program's end and giving up on the channel that should bring it.
const EXEC_SLACK: Duration = Duration::from_secs(10);
/// Longest time for a guest to notice a plugged vCPU: 1 s under emulation, times ten for load.
const PLUG_LIMIT: Duration = Duration::from_secs(10);
/// How often it is asked.
const PLUG_POLL: Duration = Duration::from_millis(50);
/// Output of a program that is kept: what one frame of the channel carries.
const EXEC_OUTPUT_BYTES: u32 = proteus_protocol::guest::v1::request::EXEC_OUTPUT_BYTES_MAX;

/// What the host says of itself that does not change while the node runs.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// `kvm`, `tcg` or `sim`.
    pub accelerator: String,
    /// Why that one.
    pub accelerator_why: String,
    /// The hypervisor's version.
    pub hypervisor: String,
}

/// A simulation's answer to a health check.
pub type SimulatedHealth = Arc<dyn Fn(VmId, &HealthCheck) -> HealthObserved + Send + Sync>;

/// How guests are reached over the network.
#[derive(Clone)]
pub enum Reach {
    /// In this network.
    Network(Network),
    /// Not at all: simulated VMs.
    Simulated(SimulatedHealth),
}

/// The node role of one host.
pub struct HostAgent {
    pub(crate) driver: Arc<dyn Driver>,
    reach: Reach,
    facts: HostFacts,
    seats: Mutex<Seats>,
    guests: Mutex<HashMap<VmId, Arc<Guest>>>,
    consoles: tokio::sync::Mutex<HashMap<VmId, Arc<Console>>>,
    /// Per VM: the task that brings its services up, and what failed of it.
    bringing_up: Mutex<HashMap<VmId, BringUp>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) telemetry: Telemetry,
    pub(crate) digests: Arc<Digests>,
}

fn meminfo(field: &str) -> Option<Bytes> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(Bytes(kib << 10))
}

impl HostAgent {
    /// Opens the node whose VMs have their places below `dir`, and finds those that run.
    pub async fn open(
        driver: Arc<dyn Driver>,
        reach: Reach,
        facts: HostFacts,
        dir: &Path,
    ) -> Result<Self, NodeError> {
        let seats = Seats::open(&dir.join("vms")).map_err(seat_error)?;
        let all: Vec<Seat> = seats.all().cloned().collect();
        let agent = Self {
            driver,
            reach,
            facts,
            seats: Mutex::new(seats),
            guests: Mutex::default(),
            consoles: tokio::sync::Mutex::default(),
            bringing_up: Mutex::default(),
            tasks: TaskTracker::new(),
            telemetry: Telemetry::new(),
            digests: Arc::default(),
        };
        // All at once: one whose VMM does not answer keeps no other waiting.
        let looking = all.into_iter().map(|seat| {
            let driver = agent.driver.clone();
            tokio::spawn(async move { (driver.adopt(&seat).await, seat) })
        });
        for look in looking.collect::<Vec<_>>() {
            let (found, seat) = match look.await {
                Ok(looked) => looked,
                // Nobody ends such a task from outside.
                Err(ended) => std::panic::resume_unwind(ended.into_panic()),
            };
            agent.take_up(&seat, found).await?;
        }
        Ok(agent)
    }

    /// Takes up a VM that was looked for.
    async fn take_up(&self, seat: &Seat, found: Result<bool, DriverError>) -> Result<(), NodeError> {
        match found {
            Ok(_) if seat.newborn => self.end_left_newborn(seat).await?,
            Ok(true) => {
                tracing::info!(vm = %seat.intent.name, "found running");
                self.settle_in(seat).await;
            }
            Ok(false) => {}
            Err(error) => {
                tracing::error!(vm = %seat.intent.name, error = %chain(&error), "not found again");
            }
        }
        Ok(())
    }

    /// Drains the console and brings the services up, in the background.
    pub(crate) async fn settle_in(&self, seat: &Seat) {
        if self.console(seat.id).await.is_err() {
            tracing::debug!(vm = %seat.intent.name, "no console to drain");
        }
        let bring = BringUp::default();
        if let Some(old) = self.bringing_up().insert(seat.id, bring.clone()) {
            old.stop.cancel();
        }
        self.tasks.spawn(bring_up::run(self.driver.clone(), self.guest(seat.id), seat.clone(), bring));
    }

    pub(crate) fn bringing_up(&self) -> MutexGuard<'_, HashMap<VmId, BringUp>> {
        self.bringing_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stop_bringing_up(&self, vm: VmId) {
        if let Some(bring) = self.bringing_up().remove(&vm) {
            bring.stop.cancel();
        }
    }

    fn network(&self) -> Result<&Network, NodeError> {
        match &self.reach {
            Reach::Network(network) => Ok(network),
            Reach::Simulated(_) => {
                Err(NodeError::new(NodeErrorCode::Unsupported, "simulated guests have no network"))
            }
        }
    }

    pub(crate) fn seats(&self) -> std::sync::MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn seat(&self, vm: VmId) -> Result<Seat, NodeError> {
        let unknown = || NodeError::new(NodeErrorCode::NotFound, format!("this host has no VM {vm}"));
        let seats = self.seats();
        seats.check(vm).map_err(seat_error)?;
        seats.get(vm).cloned().ok_or_else(unknown)
    }

    pub(crate) fn guest(&self, vm: VmId) -> Arc<Guest> {
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        guests.entry(vm).or_insert_with(|| Arc::new(Guest::new())).clone()
    }

    pub(crate) async fn agent_path(&self, vm: VmId) -> Result<PathBuf, NodeError> {
        let doors = self.driver.doors(vm).await.map_err(driver_error)?;
        doors.agent.ok_or_else(|| guest_error(GuestError::NoChannel))
    }

    async fn ask(&self, vm: VmId, request: Request) -> Result<Reply, NodeError> {
        self.ask_within(vm, request, ANSWER_LIMIT).await
    }

    pub(crate) async fn ask_within(
        &self,
        vm: VmId,
        request: Request,
        limit: Duration,
    ) -> Result<Reply, NodeError> {
        let path = self.agent_path(vm).await?;
        match self.guest(vm).ask_within(&path, request, limit).await {
            Ok(reply) => Ok(reply),
            // No agent is to blame where there is no guest any more.
            Err(_) if self.driver.power(vm).await == PowerState::Stopped => {
                Err(driver_error(DriverError::NotRunning { vm }))
            }
            Err(error) => Err(guest_error(error)),
        }
    }

    async fn ask_setting(&self, vm: VmId, knob: &Knob, request: Request) -> Result<Setting, NodeError> {
        let confused = || guest_error(GuestError::Confused);
        match self.ask(vm, request).await? {
            Reply::Setting { setting } => convert::setting_from_wire(knob, setting).ok_or_else(confused),
            _ => Err(confused()),
        }
    }

    /// A look inside; `None` where there is no agent or it does not answer at once.
    pub(crate) async fn glance(&self, vm: VmId) -> Option<Sample> {
        let path = self.agent_path(vm).await.ok()?;
        match self.guest(vm).ask_within(&path, Request::Sample, GLANCE_LIMIT).await {
            Ok(Reply::Sample { sample }) => Some(*sample),
            _ => None,
        }
    }

    /// Hangs up on a VM that ends.
    pub(crate) async fn let_go(&self, vm: VmId) {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner).remove(&vm);
        self.consoles.lock().await.remove(&vm);
    }

    /// Hangs up on a VM that has ended. What its console showed last stays until it starts again: it may tell why.
    async fn keep_console(&self, vm: VmId) {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner).remove(&vm);
        let console = self.consoles.lock().await.get(&vm).cloned();
        if let Some(console) = console {
            console.hang_up().await;
        }
    }

    fn check_fence(&self, vm: VmId, fence: Generation) -> Result<(), NodeError> {
        let seen = self.seats().fence(vm);
        if fence < seen {
            let message =
                format!("generation {fence} of {vm} is older than {seen}: another morph has the VM");
            return Err(NodeError::new(NodeErrorCode::StaleGeneration, message));
        }
        self.seats().raise_fence(vm, fence).map_err(seat_error)
    }

    pub(crate) async fn hello(&self, vm: VmId) -> Option<HelloReply> {
        let path = self.agent_path(vm).await.ok()?;
        self.guest(vm).greet(&path, GLANCE_LIMIT).await.ok()
    }

    async fn console(&self, vm: VmId) -> Result<Arc<Console>, NodeError> {
        let doors = self.driver.doors(vm).await.map_err(driver_error)?;
        let none = || NodeError::new(NodeErrorCode::Unsupported, "this VM has no console");
        let path = doors.console.ok_or_else(none)?;
        let mut consoles = self.consoles.lock().await;
        if let Some(console) = consoles.get(&vm).filter(|console| console.is_of(&path)) {
            return Ok(console.clone());
        }
        // The old connection goes first: QEMU's socket takes one client at a time.
        consoles.remove(&vm);
        let opened = Console::open(path).await;
        let opened =
            opened.map_err(|e| NodeError::new(NodeErrorCode::Failed, format!("open the console: {e}")))?;
        let console = Arc::new(opened);
        consoles.insert(vm, console.clone());
        Ok(console)
    }

    /// A vCPU is plugged by the host and put online by the guest.
    async fn apply_in_guest(&self, vm: VmId, setting: &Setting) -> Result<(), NodeError> {
        if let Setting::Vcpus { online } = setting {
            self.driver.ensure_plugged_vcpus(vm, *online).await.map_err(driver_error)?;
        }
        let not_ours =
            || NodeError::new(NodeErrorCode::Unsupported, format!("nobody turns {}", setting.knob()));
        let wire = convert::setting_to_wire(setting).ok_or_else(not_ours)?;
        let start = Instant::now();
        let read = loop {
            let request = Request::ApplySetting { setting: wire.clone() };
            match self.ask_setting(vm, &setting.knob(), request).await {
                // The guest hears of a plugged vCPU by an interrupt of its own, a moment after QEMU is done.
                Err(error) if matches!(setting, Setting::Vcpus { .. }) && start.elapsed() < PLUG_LIMIT => {
                    tracing::debug!(%vm, %error, "vcpu not there yet");
                    tokio::time::sleep(PLUG_POLL).await;
                }
                other => break other?,
            }
        };
        if setting.holds_in(&read) {
            return Ok(());
        }
        let message = format!("{} was set to {setting} and reads {read}", setting.knob());
        Err(NodeError::new(NodeErrorCode::Guest, message))
    }
}

impl Drop for HostAgent {
    fn drop(&mut self) {
        for bring in self.bringing_up().values() {
            bring.stop.cancel();
        }
    }
}

fn add_guest_abilities(report: &mut CapabilityReport, hello: Option<&HelloReply>) {
    let inside = KnobKind::ALL.into_iter().filter(|kind| kind.in_guest());
    for kind in inside {
        let Some(hello) = hello else {
            report.lacks(
                Ability::Knob(kind),
                "the guest's agent does not answer (is proteus-guest running in it?)",
            );
            continue;
        };
        let name = match kind {
            KnobKind::Vcpus => Some(CapabilityName::Vcpus),
            KnobKind::Sysctl => Some(CapabilityName::Sysctl),
            KnobKind::Thp => Some(CapabilityName::Thp),
            KnobKind::Priority => Some(CapabilityName::Priority),
            KnobKind::AppPolicy => Some(CapabilityName::NetworkPolicy),
            _ => None,
        };
        let told = name.and_then(|name| hello.capabilities.iter().find(|c| c.name == name));
        match told.and_then(|c| c.missing.as_ref()) {
            Some(why) => report.lacks(Ability::Knob(kind), why.clone()),
            None => report.supports(Ability::Knob(kind), format!("agent {}", hello.agent_version), Millis(0)),
        }
    }
}

#[async_trait]
impl Node for HostAgent {
    async fn host(&self) -> Result<HostReport, NodeError> {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let total = meminfo("MemTotal:");
        let total = total.ok_or_else(|| NodeError::new(NodeErrorCode::Failed, "read /proc/meminfo"))?;
        Ok(HostReport {
            name: name.trim().to_owned(),
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
            memory: total,
            memory_available: meminfo("MemAvailable:"),
            accelerator: self.facts.accelerator.clone(),
            accelerator_why: self.facts.accelerator_why.clone(),
            hypervisor: self.facts.hypervisor.clone(),
            namespace: match &self.reach {
                Reach::Network(network) => Some(network.namespace().to_owned()),
                Reach::Simulated(_) => None,
            },
        })
    }

    async fn uplink(&self) -> Result<Option<UplinkObserved>, NodeError> {
        Ok(self.network().ok().and_then(Network::uplink))
    }

    async fn plan_uplink(&self, intent: &UplinkIntent) -> Result<UplinkObserved, NodeError> {
        self.network()?.plan_uplink(intent).await.map_err(uplink_error)
    }

    async fn enable_uplink(&self, intent: &UplinkIntent) -> Result<UplinkObserved, NodeError> {
        self.network()?.ensure_uplink(intent).await.map_err(uplink_error)
    }

    async fn disable_uplink(&self) -> Result<(), NodeError> {
        self.network()?.remove_uplink().await.map_err(uplink_error)
    }

    async fn check_files(&self, intent: &VmIntent) -> Result<(), NodeError> {
        reach::check(intent)?;
        self.seats().check_disks(intent).map_err(seat_error)
    }

    async fn create(&self, vm: VmId, intent: &VmIntent) -> Result<(), NodeError> {
        let seat = self
            .seats()
            .ensure(vm, intent, |folder, slot| self.driver.claim_user(folder, slot))
            .map_err(seat_error)?
            .clone();
        if seat.furnished {
            return Ok(());
        }
        if let Err(error) = disk::furnish(&seat).await {
            self.seats().remove(vm).map_err(seat_error)?;
            return Err(NodeError::new(NodeErrorCode::Failed, chain(&error)));
        }
        self.seats().save(Seat { furnished: true, ..seat }).map_err(seat_error)
    }

    async fn rename(&self, vm: VmId, name: &VmName) -> Result<(), NodeError> {
        let mut seat = self.seat(vm)?;
        seat.intent.name = name.clone();
        self.seats().save(seat).map_err(seat_error)
    }

    async fn check_delete(&self, vm: VmId) -> Result<(), NodeError> {
        self.seats().check(vm).map_err(seat_error)?;
        if self.driver.power(vm).await != PowerState::Stopped {
            return Err(NodeError::new(NodeErrorCode::Conflict, "the VM runs; stop it first"));
        }
        if let Ok(seat) = self.seat(vm) {
            self.driver.snapshots(&seat).await.map_err(driver_error)?;
        }
        Ok(())
    }

    async fn delete(&self, vm: VmId) -> Result<Vec<String>, NodeError> {
        self.check_delete(vm).await?;
        let mut left = Vec::new();
        if let Ok(seat) = self.seat(vm) {
            // They are inside disks of its owner's, which stay.
            for snapshot in self.driver.snapshots(&seat).await.map_err(driver_error)? {
                self.driver.delete_snapshot(&seat, &snapshot.name).await.map_err(driver_error)?;
            }
            left = ownership::give_back(&seat, template::holder(&seat)).map_err(driver_error)?;
            for what in &left {
                tracing::warn!(vm = %seat.intent.name, %what, "a disk is not given back");
            }
        }
        self.seats().remove(vm).map_err(seat_error)?;
        self.telemetry.forget(vm);
        // Whoever looked at it since it stopped made it known again.
        self.let_go(vm).await;
        Ok(left)
    }

    async fn check_template(&self, vm: VmId) -> Result<(), NodeError> {
        let seat = self.seat(vm)?;
        if template::is_template(&seat) { Ok(()) } else { self.check_can_be_template(&seat).await }
    }

    async fn save_template(&self, vm: VmId) -> Result<Vec<DiskIntent>, NodeError> {
        self.make_template(vm).await
    }

    async fn start_clone(
        &self,
        template: VmId,
        vm: VmId,
        intent: &VmIntent,
    ) -> Result<CloneTimes, NodeError> {
        self.begin_clone(template, vm, intent).await
    }

    async fn start(&self, vm: VmId) -> Result<(), NodeError> {
        let seat = self.seat(vm)?;
        if template::is_template(&seat) {
            let message =
                format!("{} is a template: its clones need its disks as they are", seat.intent.name);
            return Err(NodeError::new(NodeErrorCode::Conflict, message));
        }
        if seat.newborn {
            let message = format!("{} is a clone whose making was cut short: delete it", seat.intent.name);
            return Err(NodeError::new(NodeErrorCode::Conflict, message));
        }
        if self.driver.power(vm).await == PowerState::Stopped {
            self.seats().check_own_disks(&seat).map_err(seat_error)?;
        }
        self.driver.start(&seat).await.map_err(driver_error)?;
        self.settle_in(&seat).await;
        Ok(())
    }

    async fn is_whole(&self, vm: VmId) -> Result<bool, NodeError> {
        Ok(!self.seat(vm)?.newborn)
    }

    async fn stop(&self, vm: VmId, grace: Millis) -> Result<StopObserved, NodeError> {
        self.seat(vm)?;
        self.stop_bringing_up(vm);
        let stopped = match self.driver.stop(vm, grace).await {
            Err(DriverError::NotRunning { .. }) => Ok(StopObserved::NOTHING_TO_DO),
            other => other.map_err(driver_error),
        };
        match &stopped {
            Ok(_) => self.keep_console(vm).await,
            Err(_) => self.let_go(vm).await,
        }
        stopped
    }

    async fn power(&self, vm: VmId) -> Result<PowerState, NodeError> {
        self.seat(vm)?;
        Ok(self.driver.power(vm).await)
    }

    async fn observe(&self, vm: VmId) -> Result<VmObserved, NodeError> {
        let seat = self.seat(vm)?;
        let power = self.driver.power(vm).await;
        let running = power == PowerState::Running;
        let guest = self.guest(vm);
        let silent_since = guest.silent_since().filter(|_| running && guest.hello().is_some());
        let hello = match guest.hello() {
            _ if !running || silent_since.is_some() => None,
            Some(hello) => Some(hello),
            None => self.hello(vm).await,
        };
        let address = match &self.reach {
            Reach::Network(_) => Some(Network::address(seat.slot)),
            Reach::Simulated(_) => None,
        };
        Ok(VmObserved {
            id: vm,
            power,
            pid: self.driver.pid(vm).await,
            address,
            agent: hello.map(|hello| hello.agent_version),
            agent_silent_since: silent_since,
            halted: if power == PowerState::Paused { self.driver.halted(vm).await } else { None },
            resident: if running { self.driver.resident(vm).await } else { None },
            observed_at: now(),
        })
    }

    async fn find_again(&self, vm: VmId) -> Result<(), NodeError> {
        let seat = self.seat(vm)?;
        if self.driver.is_lost(vm) {
            let found = self.driver.adopt(&seat).await;
            self.take_up(&seat, found).await?;
        }
        Ok(())
    }

    async fn halted(&self, vm: VmId) -> Result<Option<String>, NodeError> {
        self.seat(vm)?;
        Ok(self.driver.halted(vm).await)
    }

    async fn boot(&self, vm: VmId) -> Result<BootObserved, NodeError> {
        self.seat(vm)?;
        let reboots = self.driver.reboots(vm).map_or(0, |seen| *seen.borrow());
        Ok(BootObserved { id: self.guest(vm).boot_id(reboots), reboots })
    }

    async fn vmm(&self, vm: VmId) -> Result<Option<String>, NodeError> {
        self.seat(vm)?;
        Ok(self.driver.vmm(vm).await)
    }

    async fn capabilities(&self, vm: VmId) -> Result<CapabilityReport, NodeError> {
        self.seat(vm)?;
        let mut report = self.driver.capabilities(vm).await.map_err(driver_error)?;
        if !self.driver.turns(&Knob::Thp) {
            let hello = self.hello(vm).await;
            add_guest_abilities(&mut report, hello.as_ref());
        }
        Ok(report)
    }

    async fn read(&self, vm: VmId, knob: &Knob) -> Result<Setting, NodeError> {
        self.seat(vm)?;
        if self.driver.turns(knob) {
            return self.driver.read(vm, knob).await.map_err(driver_error);
        }
        let not_ours = || NodeError::new(NodeErrorCode::Unsupported, format!("nobody turns {knob}"));
        let wire = convert::knob_to_wire(knob).ok_or_else(not_ours)?;
        self.ask_setting(vm, knob, Request::ReadSetting { knob: wire }).await
    }

    async fn apply(&self, vm: VmId, setting: &Setting, fence: Generation) -> Result<StepCost, NodeError> {
        self.seat(vm)?;
        self.check_fence(vm, fence)?;
        if self.driver.turns(&setting.knob()) {
            let applied = self.driver.apply(vm, setting).await.map_err(driver_error)?;
            return Ok(StepCost { took_ms: applied.took_ms, blackout_ms: applied.blackout_ms });
        }
        let start = Instant::now();
        self.apply_in_guest(vm, setting).await?;
        Ok(StepCost { took_ms: Millis::from(start.elapsed()), blackout_ms: Millis(0) })
    }

    async fn fence(&self, vm: VmId, fence: Generation) -> Result<(), NodeError> {
        self.seat(vm)?;
        self.check_fence(vm, fence)
    }

    async fn replace_vmm(&self, vm: VmId, fence: Generation) -> Result<StepCost, NodeError> {
        self.seat(vm)?;
        self.check_fence(vm, fence)?;
        let applied = self.driver.replace_vmm(vm).await.map_err(driver_error)?;
        Ok(StepCost { took_ms: applied.took_ms, blackout_ms: applied.blackout_ms })
    }

    async fn snapshots(&self, vm: VmId) -> Result<Vec<Snapshot>, NodeError> {
        self.driver.snapshots(&self.seat(vm)?).await.map_err(driver_error)
    }

    async fn create_snapshot(
        &self,
        vm: VmId,
        name: &SnapshotName,
        fence: Generation,
    ) -> Result<StepCost, NodeError> {
        self.seat(vm)?;
        self.check_fence(vm, fence)?;
        let applied = self.driver.create_snapshot(vm, name).await.map_err(driver_error)?;
        Ok(StepCost { took_ms: applied.took_ms, blackout_ms: applied.blackout_ms })
    }

    async fn restore_snapshot(
        &self,
        vm: VmId,
        name: &SnapshotName,
        fence: Generation,
    ) -> Result<StepCost, NodeError> {
        let seat = self.seat(vm)?;
        self.check_fence(vm, fence)?;
        self.stop_bringing_up(vm);
        let applied = self.driver.restore_snapshot(vm, name).await.map_err(driver_error);
        // Another VMM with other sockets, or none; and a guest that may have had another agent.
        self.guests.lock().unwrap_or_else(PoisonError::into_inner).remove(&vm);
        self.consoles.lock().await.remove(&vm);
        if self.driver.power(vm).await == PowerState::Running {
            self.settle_in(&seat).await;
        }
        let applied = applied?;
        Ok(StepCost { took_ms: applied.took_ms, blackout_ms: applied.blackout_ms })
    }

    async fn delete_snapshot(&self, vm: VmId, name: &SnapshotName) -> Result<(), NodeError> {
        self.driver.delete_snapshot(&self.seat(vm)?, name).await.map_err(driver_error)
    }

    async fn offer_image(&self, vm: VmId, image: &ImageIntent) -> Result<(), NodeError> {
        let mut seat = self.seat(vm)?;
        self.driver.offer_image(vm, image).await.map_err(driver_error)?;
        seat.attached.retain(|known| (&known.name, &known.digest) != (&image.name, &image.digest));
        seat.attached.push(image.clone());
        self.seats().save(seat).map_err(seat_error)
    }

    async fn check_health(&self, vm: VmId, check: &HealthCheck) -> Result<HealthObserved, NodeError> {
        let seat = self.seat(vm)?;
        let network = match &self.reach {
            Reach::Network(network) => network,
            Reach::Simulated(answer) => return Ok(answer(vm, check)),
        };
        let start = Instant::now();
        let (healthy, detail) = match check {
            HealthCheck::Process(process) => {
                let name = process.name.as_str().to_owned();
                match self.ask(vm, Request::ProcessState { name }).await? {
                    Reply::Process { process } => (process.count > 0, format!("{} found", process.count)),
                    _ => return Err(guest_error(GuestError::Confused)),
                }
            }
            HealthCheck::Unit(unit) => {
                let name = unit.name.as_str().to_owned();
                match self.ask(vm, Request::UnitState { unit: name }).await? {
                    Reply::Unit { unit } => {
                        (unit.active == "active", format!("{} ({})", unit.active, unit.sub))
                    }
                    _ => return Err(guest_error(GuestError::Confused)),
                }
            }
            over_network => {
                let seen = health::check(network, Network::address(seat.slot), over_network).await;
                return seen.ok_or_else(|| guest_error(GuestError::Confused));
            }
        };
        let latency_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok(HealthObserved { healthy, latency_us, detail })
    }

    async fn measure(&self, vm: VmId) -> Result<Measurement, NodeError> {
        self.measured(vm).await
    }

    async fn usage(&self, vm: VmId) -> Result<UsageObserved, NodeError> {
        self.usage_of(vm)
    }

    async fn base_images(&self, vm: VmId) -> Result<BTreeMap<String, String>, NodeError> {
        self.base_of(vm).await
    }

    async fn recent(&self) -> Result<Vec<RecentObserved>, NodeError> {
        Ok(self.recent_of_all())
    }

    async fn collect(&self, vm: VmId, intent: &CollectIntent) -> Result<Findings, NodeError> {
        self.collected(vm, intent).await
    }

    async fn history(&self, vm: VmId, tier: usize) -> Result<HistoryObserved, NodeError> {
        self.history_of(vm, tier).await
    }

    async fn export_history(&self, vm: VmId) -> Result<Vec<u8>, NodeError> {
        self.exported(vm).await
    }

    async fn import_history(
        &self,
        vm: VmId,
        bytes: &[u8],
        dry_run: bool,
    ) -> Result<ImportObserved, NodeError> {
        self.imported(vm, bytes, dry_run).await
    }

    async fn exec(&self, vm: VmId, exec: &ExecIntent) -> Result<ExecObserved, NodeError> {
        self.seat(vm)?;
        let path = self.agent_path(vm).await?;
        let request = Request::Exec {
            exec: ExecRequest {
                argv: exec.argv.clone(),
                service: exec.service.clone(),
                stdin: Blob(exec.stdin.clone()),
                timeout_ms: exec.timeout.0,
                output_bytes_max: EXEC_OUTPUT_BYTES,
            },
        };
        let limit = Duration::from(exec.timeout) + EXEC_SLACK;
        match self.guest(vm).ask_within(&path, request, limit).await.map_err(guest_error)? {
            Reply::Exec { outcome } => Ok(ExecObserved {
                exit_code: outcome.exit_code,
                signal: outcome.signal,
                timed_out: outcome.timed_out,
                stdout: outcome.stdout.0,
                stderr: outcome.stderr.0,
                truncated: outcome.truncated,
            }),
            _ => Err(guest_error(GuestError::Confused)),
        }
    }

    async fn wait_services(&self, vm: VmId, limit: Millis) -> Result<(), NodeError> {
        self.seat(vm)?;
        let bring = self.bringing_up().get(&vm).cloned();
        if let Some(bring) = bring {
            // Only a wait: who gives up asks how it is.
            let _ = tokio::time::timeout(limit.into(), bring.over_or_failed()).await;
        }
        Ok(())
    }

    async fn wait_brought_up(&self, vm: VmId, limit: Millis) -> Result<(), NodeError> {
        self.seat(vm)?;
        let bring = self.bringing_up().get(&vm).cloned();
        if let Some(bring) = bring {
            // As above.
            let _ = tokio::time::timeout(limit.into(), bring.over()).await;
        }
        Ok(())
    }

    async fn services(&self, vm: VmId) -> Result<Vec<ServiceObserved>, NodeError> {
        self.services_of(vm).await
    }

    async fn console_output(&self, vm: VmId, from: u64) -> Result<ConsoleObserved, NodeError> {
        self.seat(vm)?;
        // Looked for before it is opened anew: that would be the end of what is kept.
        let kept = self.consoles.lock().await.get(&vm).filter(|console| console.is_over()).cloned();
        if let Some(console) = kept
            && self.driver.power(vm).await == PowerState::Stopped
        {
            let (bytes, next) = console.output(from);
            return Ok(ConsoleObserved { bytes, next, ended: true });
        }
        let (bytes, next) = self.console(vm).await?.output(from);
        Ok(ConsoleObserved { bytes, next, ended: false })
    }

    async fn console_input(&self, vm: VmId, bytes: &[u8]) -> Result<(), NodeError> {
        self.seat(vm)?;
        let typed = self.console(vm).await?.input(bytes).await;
        typed.map_err(|e| NodeError::new(NodeErrorCode::Failed, format!("type into the console: {e}")))
    }
}
