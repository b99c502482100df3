//! A simulated hypervisor: VMs are files that hold their settings, so they outlive the process like real ones.
//! For tests of everything above drivers, and for the twin. It passes the conformance suite of real drivers; it
//! proves nothing about a real hypervisor.

use crate::driver::{Applied, Doors, Driver, DriverError, Seat};
use async_trait::async_trait;
use proteus_model::capability::{Ability, CapabilityReport};
use proteus_model::id::{ImageName, SnapshotName, VmId};
use proteus_model::setting::{DiskLimit, Knob, KnobKind, NicRate, PriorityState, Setting, ThpMode, Weight};
use proteus_model::snapshot::Snapshot;
use proteus_model::unit::{Bytes, Millis, UnixMillis};
use proteus_model::vm::{ImageIntent, PowerState, StopObserved, VmCounters, VmIntent};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// A simulated VM.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SimVm {
    intent: VmIntent,
    plugged_vcpus: u32,
    offered: Vec<ImageIntent>,
    /// Values that were set; what is not here has its value from the start.
    set: Vec<Setting>,
    /// CPU time that its vCPUs are made to report, ns.
    run_ns: u64,
    /// Snapshots, with what was set then.
    #[serde(default)]
    snapshots: Vec<(Snapshot, Vec<Setting>)>,
    /// Rises with each replacement and each restore.
    #[serde(default)]
    incarnation: u32,
}

/// Decides whether a simulated step fails; gets the VM and the setting.
pub type Fault = Arc<dyn Fn(VmId, &Setting) -> Option<String> + Send + Sync>;

/// The driver.
pub struct SimDriver {
    dir: PathBuf,
    fault: Mutex<Option<Fault>>,
    refuses_restores: AtomicBool,
    reboots: Mutex<HashMap<VmId, watch::Sender<u64>>>,
    hung: AtomicBool,
}

impl SimDriver {
    /// A simulated host whose VMs live in `dir`.
    pub fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            fault: Mutex::default(),
            refuses_restores: AtomicBool::default(),
            reboots: Mutex::default(),
            hung: AtomicBool::default(),
        })
    }

    /// From now on `fault` decides which steps fail.
    pub fn inject(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// From now on no snapshot can be restored, or all can again.
    pub fn refuse_restores(&self, refuse: bool) {
        self.refuses_restores.store(refuse, Ordering::Relaxed);
    }

    /// From now on no VM says how it is, or all do again.
    pub fn hang(&self, hang: bool) {
        self.hung.store(hang, Ordering::Relaxed);
    }

    /// Turns a knob behind Proteus's back, as an administrator would.
    pub fn meddle(&self, vm: VmId, setting: &Setting) -> Result<(), DriverError> {
        let mut sim = self.load(vm)?;
        sim.put(setting.clone());
        self.save(vm, &sim)
    }

    /// The guest starts anew by itself: what was set inside it is gone.
    pub fn reboot(&self, vm: VmId) -> Result<(), DriverError> {
        let mut sim = self.load(vm)?;
        sim.set.retain(|setting| !setting.knob().kind().in_guest());
        self.save(vm, &sim)?;
        let mut reboots = self.reboots.lock().unwrap_or_else(PoisonError::into_inner);
        reboots.entry(vm).or_default().send_modify(|count| *count += 1);
        Ok(())
    }

    fn path(&self, vm: VmId) -> PathBuf {
        self.dir.join(format!("{vm}.json"))
    }

    fn load(&self, vm: VmId) -> Result<SimVm, DriverError> {
        let text = match std::fs::read(self.path(vm)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DriverError::NotRunning { vm });
            }
            other => other.map_err(DriverError::host(format!("read simulated VM {vm}")))?,
        };
        serde_json::from_slice(&text)
            .map_err(io::Error::other)
            .map_err(DriverError::host(format!("read simulated VM {vm}")))
    }

    fn save(&self, vm: VmId, sim: &SimVm) -> Result<(), DriverError> {
        let text = serde_json::to_vec(sim).map_err(io::Error::other);
        // A simulated change is atomic, not durable against power loss: no fsync.
        let next = self.path(vm).with_extension("next");
        text.and_then(|text| std::fs::write(&next, text))
            .and_then(|()| std::fs::rename(&next, self.path(vm)))
            .map_err(DriverError::host(format!("write simulated VM {vm}")))
    }
}

impl SimVm {
    fn put(&mut self, setting: Setting) {
        let knob = setting.knob();
        self.set.retain(|known| known.knob() != knob);
        self.set.push(setting);
    }

    fn value_at_start(&self, knob: &Knob) -> Setting {
        match knob {
            Knob::CpuCap => Setting::CpuCap { limit: None },
            Knob::CpuWeight => Setting::CpuWeight { weight: Weight::NEUTRAL },
            Knob::Vcpus => Setting::Vcpus { online: self.intent.vcpus },
            Knob::Memory => Setting::Memory { target: self.intent.memory },
            Knob::HotMemory => Setting::HotMemory { plugged: Bytes::ZERO },
            Knob::DiskLimit(disk) => Setting::DiskLimit { disk: disk.clone(), limit: DiskLimit::default() },
            Knob::NicRate => Setting::NicRate { rate: NicRate::default() },
            Knob::NetworkPolicy => Setting::NetworkPolicy { policy: None },
            Knob::Image(image) => Setting::Image { image: image.clone(), digest: None },
            Knob::Sysctl(key) => Setting::Sysctl { key: key.clone(), value: "0".into() },
            Knob::Thp => Setting::Thp { mode: ThpMode::Madvise },
            Knob::IoScheduler(disk) => Setting::IoScheduler { disk: disk.clone(), scheduler: "none".into() },
            Knob::Priority(app) => {
                let state = PriorityState::Exact { threads: Vec::new(), cgroups: Vec::new() };
                Setting::Priority { app: app.clone(), state }
            }
            Knob::AppPolicy(app) => Setting::AppPolicy { app: app.clone(), policy: None },
        }
    }

    fn check_range(&self, setting: &Setting) -> Result<(), String> {
        let hot = self.intent.memory_max.saturating_sub(self.intent.memory);
        match setting {
            Setting::Vcpus { online } if *online == 0 || *online > self.intent.vcpus_max => {
                Err(format!("1 to {}", self.intent.vcpus_max))
            }
            Setting::Memory { target } if *target > self.intent.memory => {
                Err(format!("at most {}", self.intent.memory))
            }
            Setting::HotMemory { plugged } if *plugged > hot => Err(format!("at most {hot}")),
            Setting::DiskLimit { disk, .. } if self.intent.disks.iter().all(|d| d.name != *disk) => {
                Err("no such disk".into())
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Driver for SimDriver {
    fn name(&self) -> &'static str {
        "sim"
    }

    async fn start(&self, seat: &Seat) -> Result<(), DriverError> {
        if self.load(seat.id).is_ok() {
            return Ok(());
        }
        let intent = seat.intent.clone();
        let offered = intent.images.clone();
        let at_start = offered.iter();
        let set = at_start
            .map(|i| Setting::Image { image: i.name.clone(), digest: Some(i.digest.clone()) })
            .collect();
        self.save(
            seat.id,
            &SimVm {
                plugged_vcpus: intent.vcpus,
                intent,
                offered,
                set,
                run_ns: 0,
                snapshots: Vec::new(),
                incarnation: 0,
            },
        )
    }

    async fn adopt(&self, seat: &Seat) -> Result<bool, DriverError> {
        Ok(self.path(seat.id).exists())
    }

    async fn stop(&self, vm: VmId, _grace: Millis) -> Result<StopObserved, DriverError> {
        self.load(vm)?;
        self.reboots.lock().unwrap_or_else(PoisonError::into_inner).remove(&vm);
        std::fs::remove_file(self.path(vm)).map_err(DriverError::host(format!("end simulated VM {vm}")))?;
        Ok(StopObserved::NOTHING_TO_DO)
    }

    async fn power(&self, vm: VmId) -> PowerState {
        match self.path(vm).exists() {
            true if self.hung.load(Ordering::Relaxed) => PowerState::Hung,
            true => PowerState::Running,
            false => PowerState::Stopped,
        }
    }

    fn reboots(&self, vm: VmId) -> Option<watch::Receiver<u64>> {
        self.load(vm).ok()?;
        let mut reboots = self.reboots.lock().unwrap_or_else(PoisonError::into_inner);
        Some(reboots.entry(vm).or_default().subscribe())
    }

    async fn pid(&self, _vm: VmId) -> Option<u32> {
        None
    }

    async fn vmm(&self, vm: VmId) -> Option<String> {
        Some(self.load(vm).ok()?.incarnation.to_string())
    }

    async fn doors(&self, vm: VmId) -> Result<Doors, DriverError> {
        self.load(vm)?;
        // Simulated guests have nobody inside, unless a test plays one behind a socket beside the VM's file.
        let door = |ending| Some(self.path(vm).with_extension(ending)).filter(|path| path.exists());
        Ok(Doors { agent: door("agent"), console: door("console"), address: None })
    }

    async fn capabilities(&self, vm: VmId) -> Result<CapabilityReport, DriverError> {
        let sim = self.load(vm)?;
        let mut report =
            CapabilityReport { driver: "sim".into(), accelerator: "sim".into(), ..Default::default() };
        for kind in KnobKind::ALL {
            report.supports(Ability::Knob(kind), "simulated", Millis(0));
        }
        report.supports(Ability::ReplaceVmm, "simulated", Millis(20));
        report.supports(Ability::Snapshot, "simulated", Millis(300));
        for weight in [Ability::StorageWeight, Ability::MemoryWeight, Ability::NetworkWeight] {
            report.lacks(weight, "a simulated host divides nothing");
        }
        report.limits.vcpus_max = sim.intent.vcpus_max;
        report.limits.memory_boot = sim.intent.memory;
        report.limits.hot_memory_max = sim.intent.memory_max.saturating_sub(sim.intent.memory);
        Ok(report)
    }

    fn turns(&self, _knob: &Knob) -> bool {
        true
    }

    async fn read(&self, vm: VmId, knob: &Knob) -> Result<Setting, DriverError> {
        let sim = self.load(vm)?;
        let found = sim.set.iter().find(|setting| setting.knob() == *knob).cloned();
        Ok(found.unwrap_or_else(|| sim.value_at_start(knob)))
    }

    async fn apply(&self, vm: VmId, setting: &Setting) -> Result<Applied, DriverError> {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(why) = fault.and_then(|fault| fault(vm, setting)) {
            return Err(DriverError::Unsupported { knob: setting.knob(), why });
        }
        // A fault may have done something to it.
        let mut sim = self.load(vm)?;
        sim.check_range(setting).map_err(|why| DriverError::OutOfRange {
            knob: setting.knob(),
            asked: setting.to_string(),
            why,
        })?;
        if let Setting::Vcpus { online } = setting {
            sim.plugged_vcpus = sim.plugged_vcpus.max(*online);
        }
        sim.put(setting.clone());
        self.save(vm, &sim)?;
        Ok(Applied::default())
    }

    async fn plugged_vcpus(&self, vm: VmId) -> Result<u32, DriverError> {
        Ok(self.load(vm)?.plugged_vcpus)
    }

    async fn ensure_plugged_vcpus(&self, vm: VmId, count: u32) -> Result<Applied, DriverError> {
        let mut sim = self.load(vm)?;
        let setting = Setting::Vcpus { online: count };
        sim.check_range(&setting).map_err(|why| DriverError::OutOfRange {
            knob: Knob::Vcpus,
            asked: count.to_string(),
            why,
        })?;
        sim.plugged_vcpus = sim.plugged_vcpus.max(count);
        self.save(vm, &sim)?;
        Ok(Applied::default())
    }

    async fn offer_image(&self, vm: VmId, image: &ImageIntent) -> Result<(), DriverError> {
        let mut sim = self.load(vm)?;
        sim.offered.push(image.clone());
        self.save(vm, &sim)
    }

    async fn attached_images(&self, vm: VmId) -> Result<Vec<ImageName>, DriverError> {
        let sim = self.load(vm)?;
        let attached = sim.set.iter().filter_map(|setting| match setting {
            Setting::Image { image, digest: Some(_) } => Some(image.clone()),
            _ => None,
        });
        Ok(attached.collect())
    }

    async fn counters(&self, vm: VmId) -> Result<VmCounters, DriverError> {
        let sim = self.load(vm)?;
        Ok(VmCounters { at: UnixMillis(0), vcpu_run_ns: Some(sim.run_ns), ..VmCounters::default() })
    }

    async fn survey(&self) -> HashMap<VmId, VmCounters> {
        let names = std::fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let vms = names.filter(|path| path.extension().is_some_and(|end| end == "json"));
        let ids = vms.filter_map(|path| path.file_stem()?.to_str()?.parse::<VmId>().ok());
        let counted = ids.filter_map(|vm| {
            let run_ns = self.load(vm).ok()?.run_ns;
            Some((vm, VmCounters { vcpu_run_ns: Some(run_ns), ..VmCounters::default() }))
        });
        counted.collect()
    }

    async fn replace_vmm(&self, vm: VmId) -> Result<Applied, DriverError> {
        let mut sim = self.load(vm)?;
        sim.incarnation += 1;
        self.save(vm, &sim)?;
        Ok(Applied { took_ms: Millis(20), blackout_ms: Millis(20) })
    }

    async fn snapshots(&self, seat: &Seat) -> Result<Vec<Snapshot>, DriverError> {
        match self.load(seat.id) {
            Ok(sim) => Ok(sim.snapshots.into_iter().map(|(snapshot, _)| snapshot).collect()),
            // A simulated VM is its file: what does not run has none.
            Err(DriverError::NotRunning { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn create_snapshot(&self, vm: VmId, name: &SnapshotName) -> Result<Applied, DriverError> {
        let mut sim = self.load(vm)?;
        if sim.snapshots.iter().any(|(known, _)| known.name == *name) {
            return Err(DriverError::SnapshotExists { name: name.clone() });
        }
        let snapshot = Snapshot { name: name.clone(), at: UnixMillis(0), ram: sim.intent.memory };
        sim.snapshots.push((snapshot, sim.set.clone()));
        self.save(vm, &sim)?;
        Ok(Applied { took_ms: Millis(300), blackout_ms: Millis(300) })
    }

    async fn restore_snapshot(&self, vm: VmId, name: &SnapshotName) -> Result<Applied, DriverError> {
        let mut sim = self.load(vm)?;
        let found = sim.snapshots.iter().find(|(known, _)| known.name == *name);
        let (_, set) = found.ok_or_else(|| DriverError::UnknownSnapshot { name: name.clone() })?;
        if self.refuses_restores.load(Ordering::Relaxed) {
            let (what, why) = ("snapshot is not supported here", "made to fail".to_owned());
            return Err(DriverError::NoAbility { what, why });
        }
        sim.set.clone_from(set);
        sim.incarnation += 1;
        self.save(vm, &sim)?;
        Ok(Applied { took_ms: Millis(400), blackout_ms: Millis(400) })
    }

    async fn delete_snapshot(&self, seat: &Seat, name: &SnapshotName) -> Result<(), DriverError> {
        let mut sim = self.load(seat.id)?;
        let before = sim.snapshots.len();
        sim.snapshots.retain(|(known, _)| known.name != *name);
        if sim.snapshots.len() == before {
            return Err(DriverError::UnknownSnapshot { name: name.clone() });
        }
        self.save(seat.id, &sim)
    }
}

/// Settings of a simulated VM that differ from its start, by knob: for comparing record and VM.
pub fn changed_settings(dir: &Path, vm: VmId) -> io::Result<BTreeMap<Knob, Setting>> {
    let text = std::fs::read(dir.join(format!("{vm}.json")))?;
    let sim: SimVm = serde_json::from_slice(&text).map_err(io::Error::other)?;
    let differ = sim.set.iter().filter(|s| sim.value_at_start(&s.knob()) != **s);
    Ok(differ.map(|s| (s.knob(), s.clone())).collect())
}
