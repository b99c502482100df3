//! The QEMU driver: one QEMU process per VM, its own user, its own sandbox, and a control socket. The process
//! outlives Proteus; `adopt` finds it again. Never choose a value here: knobs are turned as told.

mod capability;

pub(crate) mod command_line;

mod halt;

mod knob;

pub mod probe;

mod process;

pub mod qmp;

mod reboot;

mod replace;

mod snapshot;

mod stop;

mod survey;

mod template;

use crate::cgroup::{Group, Hierarchy};
use crate::driver::{Applied, Doors, Driver, DriverError, Making, Seat};
use crate::network::Network;
use crate::perf;
use crate::user;
use async_trait::async_trait;
use command_line::Sockets;
use probe::ProbeReport;
use process::RunState;
use proteus_model::capability::CapabilityReport;
use proteus_model::id::{ImageName, SnapshotName, VmId};
use proteus_model::setting::{Knob, Setting};
use proteus_model::snapshot::Snapshot;
use proteus_model::telemetry::{FlowsBegun, Metric};
use proteus_model::unit::{Bytes, Millis};
use proteus_model::vm::{DirtyObserved, ImageIntent, PowerState, StopObserved, VmCounters};
use qmp::{Qmp, QmpError};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a condition is looked at while the guest works towards it.
const POLL: Duration = Duration::from_millis(20);
/// Time without any progress after which a gradual change (balloon, plugged memory) counts as stalled. Shrinking
/// under emulation moves in steps of up to 2 s.
const STALL_LIMIT: Duration = Duration::from_secs(8);

/// Longest time for the last threads of an ended VMM to leave: they give its memory back first.
const SWEEP_LIMIT: Duration = Duration::from_secs(20);

/// How long a look at a VM waits for what is being done to it; then it tells what was last seen.
const LOOK_LIMIT: Duration = Duration::from_millis(300);

/// How long a VMM may take to say how it is before a look that meets that question calls it hung: it takes milliseconds,
/// seconds where an emulated host is busy with something large.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// A VM that runs.
pub(crate) struct QemuVm {
    pub(crate) seat: Seat,
    pub(crate) group: Group,
    /// What changes over the VM's life; held over each operation, so that operations on a VM take turns.
    pub(crate) live: tokio::sync::Mutex<Live>,
    /// What a look tells while something is being done to the VM. A snapshot of much memory takes seconds.
    pub(crate) seen: Mutex<(PowerState, RunState)>,
    /// Since when the VMM has been asked how it is, while it has not answered.
    pub(crate) asked: Mutex<Option<Instant>>,
    /// Its vCPU threads, as the processor counts them.
    pub(crate) threads: Mutex<perf::Threads>,
    /// How often the guest started anew by itself.
    pub(crate) reboots: Arc<tokio::sync::watch::Sender<u64>>,
}

impl QemuVm {
    /// Writes down how the VM is, for looks that cannot wait.
    pub(crate) fn keep_seen(&self, power: PowerState, run: &RunState) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = (power, run.clone());
    }

    /// Asks the VMM how it is; looks that come meanwhile know since when.
    async fn ask_power(&self, qmp: &Qmp) -> PowerState {
        /// Nobody is left asking, also where the asking is given up in the middle.
        struct Asking<'a>(&'a QemuVm);
        impl Drop for Asking<'_> {
            fn drop(&mut self) {
                *self.0.asked.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
        }
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let _asking = Asking(self);
        match qmp.call("query-status", Value::Null).await {
            Ok(status) if status["running"] == json!(true) => PowerState::Running,
            Ok(_) => PowerState::Paused,
            Err(_) => PowerState::Hung,
        }
    }

    /// Whether what keeps the VM in hand is a VMM that does not say how it is.
    fn is_silent(&self) -> bool {
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.is_some_and(|since| since.elapsed() > ANSWER_LIMIT)
    }

    /// What changes, or how the VM was last seen, where something is being done to it.
    async fn look(&self) -> Result<tokio::sync::MutexGuard<'_, Live>, (PowerState, RunState)> {
        let live = tokio::time::timeout(LOOK_LIMIT, self.live.lock()).await;
        live.map_err(|_| self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// The changing part of a running VM.
pub(crate) struct Live {
    pub(crate) qmp: Arc<Qmp>,
    pub(crate) run: RunState,
    pub(crate) offered: Vec<ImageIntent>,
}

/// The driver.
pub struct QemuDriver {
    instance: String,
    network: Network,
    hierarchy: Hierarchy,
    ram_dir: PathBuf,
    probe: ProbeReport,
    /// What the processor counts; why it does not, where it does not.
    counting: Result<Arc<perf::Counting>, String>,
    vms: Mutex<HashMap<VmId, Arc<QemuVm>>>,
    /// Those that run and could not be found again: their VMM does not answer, or what was written of it is damaged.
    lost: Mutex<HashMap<VmId, Seat>>,
}

impl QemuDriver {
    /// Takes the host in hand for the instance of this name: network, control group, memory folder.
    pub async fn open(instance: &str, scratch: &std::path::Path) -> Result<Self, DriverError> {
        let probe = probe::probe(scratch).await?;
        let network = Network::new(instance);
        let hierarchy = Hierarchy::find(instance).map_err(DriverError::host("find the cpu controller"))?;
        let ram_dir = process::ensure_ram_dir(instance)?;
        process::sweep_memory(&ram_dir)?;
        let (vms, lost) = (Mutex::default(), Mutex::default());
        let counting = perf::Counting::probe(perf::HARDWARE).map(Arc::new);
        let driver =
            Self { instance: instance.to_owned(), network, hierarchy, ram_dir, probe, counting, vms, lost };
        if let Err(error) = driver.network.ensure().await {
            if let Err(left) = driver.close_if_idle().await {
                tracing::warn!(error = %left, "the host is not given back as it was");
            }
            return Err(error.into());
        }
        if let Err(error) = driver.network.ensure_dhcp().await {
            tracing::warn!(%error, "no address server: guests with their own system get no address");
        }
        Ok(driver)
    }

    /// What the probe found.
    pub fn probe_report(&self) -> &ProbeReport {
        &self.probe
    }

    /// The guests' network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Gives the host back: for tests and `proteus demo`, when no VM runs any more.
    pub async fn close(&self) -> Result<(), DriverError> {
        self.network.remove().await?;
        self.hierarchy.remove_if_empty();
        let _ = std::fs::remove_dir(&self.ram_dir);
        Ok(())
    }

    /// The same for whoever does not know which VMs run: nothing where the memory of one is there.
    pub async fn close_if_idle(&self) -> Result<(), DriverError> {
        let looked = std::fs::read_dir(&self.ram_dir).map(|mut files| files.next().is_none());
        match looked.map_err(DriverError::host(format!("look into {}", self.ram_dir.display())))? {
            true => self.close().await,
            false => Ok(()),
        }
    }

    fn vm(&self, id: VmId) -> Result<Arc<QemuVm>, DriverError> {
        let vms = self.vms.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = || match self.lost_vmm(id) {
            Some((_, pid)) => DriverError::Lost { vm: id, pid },
            None => DriverError::NotRunning { vm: id },
        };
        vms.get(&id).cloned().ok_or_else(missing)
    }

    /// The seat and the VMM of a VM that runs and was not found again.
    fn lost_vmm(&self, id: VmId) -> Option<(Seat, u32)> {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let seat = lost.get(&id)?.clone();
        match process::unknown_vmms(&seat, None).into_iter().find(process::lives) {
            Some(run) => Some((seat, run.pid)),
            None => {
                lost.remove(&id);
                None
            }
        }
    }

    fn remember(&self, vm: QemuVm) {
        let mut vms = self.vms.lock().unwrap_or_else(PoisonError::into_inner);
        vms.insert(vm.seat.id, Arc::new(vm));
    }

    /// Puts the vCPU threads into their group. After each plug, and after a replacement.
    async fn gather_threads(vm: &QemuVm, live: &Live) -> Result<(), DriverError> {
        let id = vm.seat.id;
        let cpus = vm_call(id, &live.qmp, "list vCPUs", "query-cpus-fast", Value::Null).await?;
        let all = cpus.as_array().map(Vec::as_slice).unwrap_or_default();
        let threads: Vec<u32> = all
            .iter()
            .filter_map(|c| c["thread-id"].as_u64())
            .filter_map(|t| u32::try_from(t).ok())
            .collect();
        let (group, pid) = (vm.group.clone(), live.run.pid);
        // Waits for the kernel, tens of milliseconds where others move threads too.
        let moved = tokio::task::spawn_blocking(move || group.take_in(pid, &threads)).await;
        moved
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(DriverError::host(format!("put the vCPU threads of {id} into their group")))
    }

    async fn take_up(&self, seat: &Seat, run: RunState, qmp: impl Into<Arc<Qmp>>) -> Result<(), DriverError> {
        let group = self.hierarchy.ensure_group(&seat.id.short());
        let group = group.map_err(DriverError::host(format!("make the control group of {}", seat.id)))?;
        let mut offered = seat.intent.images.clone();
        offered.extend(seat.attached.iter().cloned());
        let seen = Mutex::new((PowerState::Running, run.clone()));
        let qmp = qmp.into();
        let reboots = Arc::new(tokio::sync::watch::Sender::new(0));
        reboot::count(&qmp, &reboots);
        let live = Live { qmp, run, offered };
        let (seat, live, asked) = (seat.clone(), tokio::sync::Mutex::new(live), Mutex::default());
        let vm = QemuVm { seat, group, live, seen, asked, threads: Mutex::default(), reboots };
        Self::gather_threads(&vm, &*vm.live.lock().await).await?;
        self.remember(vm);
        Ok(())
    }

    /// Everything of a VM that ended: socket folder, memory files, control group, run state.
    async fn sweep(&self, seat: &Seat) -> Result<(), DriverError> {
        process::sweep(seat, &self.ram_dir)?;
        self.network.forget_filters(seat.slot).await?;
        let doing = || DriverError::host(format!("remove the control group of {}", seat.id));
        let group = self.hierarchy.ensure_group(&seat.id.short()).map_err(doing())?;
        let start = Instant::now();
        loop {
            match group.remove() {
                // The process is gone from sight, its threads are still leaving.
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy && start.elapsed() < SWEEP_LIMIT => {
                    tokio::time::sleep(POLL).await;
                }
                other => return other.map_err(doing()),
            }
        }
    }
}

impl QemuDriver {
    async fn find_again(&self, seat: &Seat) -> Result<bool, DriverError> {
        match user::keep(Path::new(user::TABLE), &seat.dir, seat.uid()) {
            Ok(None) => {}
            Ok(Some(other)) => tracing::warn!(
                vm = %seat.intent.name, user = seat.uid(), other = %other.display(),
                "its VMM has the same user as another's; make the VM anew to part them"
            ),
            Err(error) => tracing::warn!(vm = %seat.intent.name, %error, "its VMM's user was not noted"),
        }
        let Some(run) = process::load_run_state(seat)? else {
            if process::end_unknown(seat, None).await || process::is_left(seat, &self.ram_dir) {
                self.sweep(seat).await?;
            }
            return Ok(false);
        };
        let run = if run.under_way.is_some() {
            process::end_unknown(seat, Some(&run)).await;
            run
        } else {
            replace::survivor(seat, run).await?
        };
        if !process::lives(&run) {
            return self.find_ended(seat, &run).await;
        }
        let sockets = Sockets::of(seat, run.incarnation);
        let connected = Qmp::connect(&sockets.qmp).await;
        // One that a restore told to end may be on its way out.
        let patience = snapshot::restoring(&run).map_or(Duration::ZERO, |_| snapshot::QUIT_LIMIT);
        if connected.is_err() && process::wait_end(&run, patience).await {
            return self.find_ended(seat, &run).await;
        }
        let doing = "find the VMM again";
        let qmp = connected.map_err(|source| DriverError::Vmm { vm: seat.id, doing, source })?;
        self.take_up(seat, run, qmp).await?;
        let vm = self.vm(seat.id)?;
        if template::end_cut_short(&vm, &mut *vm.live.lock().await).await? {
            self.vms.lock().unwrap_or_else(PoisonError::into_inner).remove(&seat.id);
            self.sweep(seat).await?;
            return Ok(false);
        }
        let ended = snapshot::end_cut_short(self, &vm, &mut *vm.live.lock().await).await;
        self.ended_or_swept(&vm, ended).await.map(|()| true)
    }

    /// Finds a VM whose VMM has ended. `true`: it runs all the same, in the next one.
    async fn find_ended(&self, seat: &Seat, run: &RunState) -> Result<bool, DriverError> {
        process::wait_end(run, process::KILL_LIMIT).await;
        let Some(name) = snapshot::restoring(run) else {
            self.sweep(seat).await?;
            return Ok(false);
        };
        let carried = snapshot::carry_through(self, seat, run, &name).await;
        if carried.is_err() {
            self.give_up(seat).await?;
        }
        carried.map(|()| true)
    }

    /// Leaves nothing of a VM that could not be brought up.
    async fn give_up(&self, seat: &Seat) -> Result<(), DriverError> {
        if let Some(run) = process::load_run_state(seat)? {
            process::kill(&run).await;
        }
        self.vms.lock().unwrap_or_else(PoisonError::into_inner).remove(&seat.id);
        self.sweep(seat).await
    }

    /// A restore that failed after the old VMM ended leaves no guest worth keeping: the VM is then stopped.
    async fn ended_or_swept<T>(
        &self,
        vm: &QemuVm,
        outcome: Result<T, DriverError>,
    ) -> Result<T, DriverError> {
        let run = vm.live.lock().await.run.clone();
        if outcome.is_err() && snapshot::restoring(&run).is_some() {
            process::kill(&run).await;
            self.vms.lock().unwrap_or_else(PoisonError::into_inner).remove(&vm.seat.id);
            self.sweep(&vm.seat).await?;
        }
        outcome
    }
}

/// Refuses where the VMM ended by itself: its control group and filters may still be there to be read.
fn must_live(vm: VmId, live: &Live) -> Result<(), DriverError> {
    if process::lives(&live.run) { Ok(()) } else { Err(DriverError::NotRunning { vm }) }
}

/// Calls the control socket, naming the operation.
pub(crate) async fn vm_call(
    vm: VmId,
    qmp: &Qmp,
    doing: &'static str,
    command: &str,
    arguments: Value,
) -> Result<Value, DriverError> {
    qmp.call(command, arguments).await.map_err(|source| DriverError::Vmm { vm, doing, source })
}

pub(crate) fn since(start: Instant) -> Millis {
    Millis::from(start.elapsed())
}

#[async_trait]
impl Driver for QemuDriver {
    fn name(&self) -> &'static str {
        "qemu"
    }

    async fn start(&self, seat: &Seat) -> Result<(), DriverError> {
        if let Some((_, pid)) = self.lost_vmm(seat.id) {
            return Err(DriverError::Lost { vm: seat.id, pid });
        }
        if let Ok(vm) = self.vm(seat.id) {
            let (qmp, run) = {
                let live = vm.live.lock().await;
                (live.qmp.clone(), live.run.clone())
            };
            if process::lives(&run) {
                return halt::resume(seat.id, &qmp).await;
            }
            // It died by itself: nothing of it may be taken for the new one, and its tap must be free.
            process::wait_end(&run, process::KILL_LIMIT).await;
            self.vms.lock().unwrap_or_else(PoisonError::into_inner).remove(&seat.id);
            self.sweep(seat).await?;
        }
        let tap = self.network.open_tap(seat.slot).await?;
        self.network.offer_address(seat)?;
        let plugged = knob::image::plugged_at_start(seat);
        let around = process::Launch {
            accelerator: self.probe.accelerator,
            machine: self.probe.machine.clone(),
            ram_dir: self.ram_dir.clone(),
            incoming: false,
            paused: false,
            incarnation: 0,
            plugged,
            filter: None,
            under_way: None,
        };
        let started = process::launch(seat, &around, tap).await;
        let (run, qmp) = match started {
            Ok(pair) => pair,
            Err(error) => {
                self.sweep(seat).await?;
                return Err(error);
            }
        };
        let outcome = self.take_up(seat, run.clone(), qmp).await;
        if outcome.is_err() {
            process::kill(&run).await;
            self.sweep(seat).await?;
        }
        outcome
    }

    async fn adopt(&self, seat: &Seat) -> Result<bool, DriverError> {
        let known = self.vm(seat.id).is_ok();
        let found = if known { Ok(true) } else { self.find_again(seat).await };
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        match &found {
            Ok(_) => lost.remove(&seat.id),
            Err(_) => lost.insert(seat.id, seat.clone()),
        };
        found
    }

    fn is_lost(&self, id: VmId) -> bool {
        self.lost_vmm(id).is_some()
    }

    async fn stop(&self, id: VmId, grace: Millis) -> Result<StopObserved, DriverError> {
        if let Some((seat, _)) = self.lost_vmm(id) {
            // Nobody can ask it to go.
            process::end_unknown(&seat, None).await;
            self.lost.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            self.sweep(&seat).await?;
            return Ok(StopObserved { by_itself: false, answered: false, waited: Millis(0) });
        }
        let vm = self.vm(id)?;
        let mut seen = stop::ask(&vm, grace.into()).await;
        let live = vm.live.lock().await;
        // Another one may have taken its place meanwhile.
        seen.by_itself &= !process::lives(&live.run);
        if !seen.by_itself {
            process::kill(&live.run).await;
        }
        drop(live);
        self.vms.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.sweep(&vm.seat).await?;
        Ok(seen)
    }

    async fn power(&self, id: VmId) -> PowerState {
        let vm = match self.vm(id) {
            Ok(vm) => vm,
            Err(DriverError::Lost { .. }) => return PowerState::Hung,
            Err(_) => return PowerState::Stopped,
        };
        let live = match vm.look().await {
            Ok(live) => live,
            // Without a process it is between two of them: stopped is only what nothing is being done to.
            Err((_, run)) if process::lives(&run) && vm.is_silent() => return PowerState::Hung,
            Err((power, run)) => return if process::lives(&run) { power } else { PowerState::Paused },
        };
        if !process::lives(&live.run) {
            return PowerState::Stopped;
        }
        let power = vm.ask_power(&live.qmp).await;
        vm.keep_seen(power, &live.run);
        power
    }

    async fn halted(&self, id: VmId) -> Option<String> {
        let vm = self.vm(id).ok()?;
        // Somebody has it in hand: then it is that which makes it stand still.
        let qmp = vm.look().await.ok()?.qmp.clone();
        halt::why(&qmp).await
    }

    fn reboots(&self, id: VmId) -> Option<tokio::sync::watch::Receiver<u64>> {
        Some(self.vm(id).ok()?.reboots.subscribe())
    }

    async fn pid(&self, id: VmId) -> Option<u32> {
        if let Some((_, pid)) = self.lost_vmm(id) {
            return Some(pid);
        }
        let vm = self.vm(id).ok()?;
        let run = match vm.look().await {
            Ok(live) => live.run.clone(),
            Err((_, run)) => run,
        };
        process::lives(&run).then_some(run.pid)
    }

    async fn vmm(&self, id: VmId) -> Option<String> {
        let run = match self.vm(id).ok()?.look().await {
            Ok(live) => live.run.clone(),
            Err((_, run)) => run,
        };
        Some(format!("{}.{}", run.pid, run.start_ticks))
    }

    async fn doors(&self, id: VmId) -> Result<Doors, DriverError> {
        let vm = self.vm(id)?;
        let sockets = Sockets::of(&vm.seat, vm.live.lock().await.run.incarnation);
        let address = Some(Network::address(vm.seat.slot));
        Ok(Doors { agent: Some(sockets.agent), console: Some(sockets.console), address })
    }

    async fn capabilities(&self, id: VmId) -> Result<CapabilityReport, DriverError> {
        let vm = self.vm(id)?;
        Ok(capability::report(self, &vm).await)
    }

    fn turns(&self, knob: &Knob) -> bool {
        !knob.kind().in_guest()
    }

    async fn read(&self, id: VmId, knob: &Knob) -> Result<Setting, DriverError> {
        let vm = self.vm(id)?;
        let mut live = vm.live.lock().await;
        must_live(id, &live)?;
        knob::read(self, &vm, &mut live, knob).await
    }

    async fn apply(&self, id: VmId, setting: &Setting) -> Result<Applied, DriverError> {
        let vm = self.vm(id)?;
        let start = Instant::now();
        let mut live = vm.live.lock().await;
        must_live(id, &live)?;
        knob::apply(self, &vm, &mut live, setting).await?;
        Ok(Applied { took_ms: since(start), blackout_ms: Millis(0) })
    }

    async fn plugged_vcpus(&self, id: VmId) -> Result<u32, DriverError> {
        let vm = self.vm(id)?;
        let live = vm.live.lock().await;
        knob::cpu::plugged(&vm, &live).await
    }

    async fn ensure_plugged_vcpus(&self, id: VmId, count: u32) -> Result<Applied, DriverError> {
        let vm = self.vm(id)?;
        let start = Instant::now();
        let mut live = vm.live.lock().await;
        knob::cpu::ensure_plugged(self, &vm, &mut live, count).await?;
        Self::gather_threads(&vm, &live).await?;
        Ok(Applied { took_ms: since(start), blackout_ms: Millis(0) })
    }

    async fn offer_image(&self, id: VmId, image: &ImageIntent) -> Result<(), DriverError> {
        let vm = self.vm(id)?;
        let mut live = vm.live.lock().await;
        live.offered.retain(|known| (&known.name, &known.digest) != (&image.name, &image.digest));
        live.offered.push(image.clone());
        Ok(())
    }

    async fn attached_images(&self, id: VmId) -> Result<Vec<ImageName>, DriverError> {
        let vm = self.vm(id)?;
        let live = vm.live.lock().await;
        Ok(live.run.plugged.images.iter().map(|plugged| plugged.image.name.clone()).collect())
    }

    async fn counters(&self, id: VmId) -> Result<VmCounters, DriverError> {
        let vm = self.vm(id)?;
        let live = vm.live.lock().await;
        knob::counters(self, &vm, &live).await
    }

    async fn survey(&self) -> HashMap<VmId, VmCounters> {
        survey::all(self).await
    }

    async fn dirtied(&self, id: VmId) -> Result<Option<DirtyObserved>, DriverError> {
        let vm = self.vm(id)?;
        survey::dirtied(self, &vm).await
    }

    fn unmeasured(&self, id: VmId) -> BTreeMap<Metric, String> {
        survey::uncounted(self, id)
    }

    async fn flows(&self) -> Result<HashMap<VmId, FlowsBegun>, DriverError> {
        let slots = survey::slots(self);
        let flows = self.network.flows(&slots.keys().copied().collect()).await?;
        Ok(flows.into_iter().filter_map(|(slot, all)| Some((*slots.get(&slot)?, all))).collect())
    }

    fn claim_user(&self, folder: &Path, slot: u16) -> Result<Option<u32>, DriverError> {
        let claimed = user::claim(Path::new(user::TABLE), &self.instance, folder, slot);
        claimed.map(Some).map_err(DriverError::host("find a user for the VMM"))
    }

    async fn resident(&self, id: VmId) -> Option<Bytes> {
        let vm = self.vm(id).ok()?;
        process::resident(&self.ram_dir, &vm.seat).map(Bytes)
    }

    async fn replace_vmm(&self, id: VmId) -> Result<Applied, DriverError> {
        let vm = self.vm(id)?;
        let mut live = vm.live.lock().await;
        must_live(id, &live)?;
        replace::replace(self, &vm, &mut live).await
    }

    async fn check_template(&self, id: VmId) -> Result<(), DriverError> {
        let vm = self.vm(id)?;
        let mut live = vm.live.lock().await;
        must_live(id, &live)?;
        template::check(&vm, &mut live).await
    }

    async fn save_template(&self, id: VmId, to: &Path) -> Result<(), DriverError> {
        let vm = self.vm(id)?;
        let mut live = vm.live.lock().await;
        must_live(id, &live)?;
        template::save(self, &vm, &mut live, to).await?;
        process::kill(&live.run).await;
        drop(live);
        self.vms.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.sweep(&vm.seat).await
    }

    async fn start_clone(&self, seat: &Seat, from: &Path, disks: Making<'_>) -> Result<(), DriverError> {
        let outcome = template::start(self, seat, from, disks).await;
        if outcome.is_err() {
            self.give_up(seat).await?;
        }
        outcome
    }

    async fn light_link(&self, id: VmId) -> Result<(), DriverError> {
        let vm = self.vm(id)?;
        let live = vm.live.lock().await;
        must_live(id, &live)?;
        template::light(self, &vm, &live).await
    }

    async fn snapshots(&self, seat: &Seat) -> Result<Vec<Snapshot>, DriverError> {
        snapshot::list(seat)
    }

    async fn create_snapshot(&self, id: VmId, name: &SnapshotName) -> Result<Applied, DriverError> {
        let vm = self.vm(id)?;
        let mut live = vm.live.lock().await;
        must_live(id, &live)?;
        snapshot::save(self, &vm, &mut live, name).await
    }

    async fn restore_snapshot(&self, id: VmId, name: &SnapshotName) -> Result<Applied, DriverError> {
        let vm = self.vm(id)?;
        let outcome = {
            let mut live = vm.live.lock().await;
            must_live(id, &live)?;
            snapshot::restore(self, &vm, &mut live, name).await
        };
        self.ended_or_swept(&vm, outcome).await
    }

    async fn delete_snapshot(&self, seat: &Seat, name: &SnapshotName) -> Result<(), DriverError> {
        let vm = match self.vm(seat.id) {
            Ok(vm) => vm,
            Err(DriverError::NotRunning { .. }) => return snapshot::delete(seat, None, name).await,
            Err(error) => return Err(error),
        };
        let live = vm.live.lock().await;
        let running = process::lives(&live.run).then_some((&*vm, &*live));
        snapshot::delete(seat, running, name).await
    }
}

impl From<(VmId, &'static str, QmpError)> for DriverError {
    fn from((vm, doing, source): (VmId, &'static str, QmpError)) -> Self {
        Self::Vmm { vm, doing, source }
    }
}
