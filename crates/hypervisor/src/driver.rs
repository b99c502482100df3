//! The contract of every hypervisor driver. A driver turns knobs and reads them back; it never chooses a value,
//! never retries in another way unasked, and never claims an ability that it did not probe.

use async_trait::async_trait;
use proteus_model::capability::CapabilityReport;
use proteus_model::id::{DiskName, ImageName, SnapshotName, VmId};
use proteus_model::seed::SEED_DISK;
use proteus_model::setting::{Knob, Setting};
use proteus_model::snapshot::Snapshot;
use proteus_model::telemetry::{FlowsBegun, Metric};
use proteus_model::unit::{Bytes, Millis};
use proteus_model::vm::{
    DirtyObserved, DiskFormat, DiskIntent, PowerState, StopObserved, VmCounters, VmIntent,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use tokio::sync::watch;

/// The place of a VM on its host. Names, addresses and the user id of its VMM follow from `slot`, a small number
/// that no two VMs of a host share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// Which VM.
    pub id: VmId,
    /// 0 to [`SLOT_MAX`].
    pub slot: u16,
    /// Its own folder.
    pub dir: PathBuf,
    /// What its owner asked for.
    pub intent: VmIntent,
    /// Services' and images' paths that were attached later.
    #[serde(default)]
    pub attached: Vec<proteus_model::vm::ImageIntent>,
    /// Whether the disks that Proteus makes for it were made.
    #[serde(default)]
    pub furnished: bool,
    /// A clone that is not known to have an identity of its own yet: it must not meet the network.
    #[serde(default)]
    pub newborn: bool,
    /// The user of its VMM, which it keeps for life; `None`: that of its slot, as places had it once.
    #[serde(default)]
    pub user: Option<u32>,
}

/// The disks of a VM, being made.
pub type Making<'a> = Pin<Box<dyn Future<Output = Result<(), DriverError>> + Send + 'a>>;

/// Most VMs on a host: what a /20 holds beside the bridge's own address and the ends.
pub const SLOT_MAX: u16 = 4000;

/// User ids of VMMs begin here: one per VM of the host, so that no VM's process may touch another's files. Above what
/// `adduser` (1000–59999) and systemd's dynamic users (61184–65519) hand out, below subuid ranges (100000).
pub const UID_BASE: u32 = 70_000;
/// The first that is no VMM's any more: seven instances full of VMs, 7 × [`SLOT_MAX`].
pub const UID_END: u32 = 98_000;

impl Seat {
    /// User and group id of this VM's VMM.
    pub fn uid(&self) -> u32 {
        self.user.unwrap_or(UID_BASE + u32::from(self.slot))
    }

    /// MAC address of its link: locally administered (bit 1 of the first octet), then the slot.
    pub fn mac(&self) -> String {
        let [high, low] = self.slot.to_be_bytes();
        format!("52:50:52:00:{high:02x}:{low:02x}")
    }

    /// Where an overlay of this VM is.
    pub fn overlay_path(&self, disk: &DiskName) -> PathBuf {
        self.dir.join(format!("{disk}.qcow2"))
    }

    /// Where the disk for cloud-init is.
    pub fn seed_path(&self) -> PathBuf {
        self.dir.join("seed.iso")
    }

    /// The disks as the VMM opens them, overlays and the seed in the VM's own folder.
    pub fn disks(&self) -> Vec<DiskIntent> {
        let opened = |disk: &DiskIntent| match disk.overlay {
            false => disk.clone(),
            true => DiskIntent {
                path: self.overlay_path(&disk.name),
                format: DiskFormat::Qcow2,
                overlay: false,
                ..disk.clone()
            },
        };
        let mut disks: Vec<DiskIntent> = self.intent.disks.iter().map(opened).collect();
        if let (Some(_), Ok(name)) = (&self.intent.seed, SEED_DISK.parse()) {
            let (path, format) = (self.seed_path(), DiskFormat::Raw);
            disks.push(DiskIntent { name, path, format, read_only: true, overlay: false });
        }
        disks
    }

    /// Folder for sockets: only the VMM's user and root may enter.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }
}

/// Why a driver did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The driver has no such VM, or it does not run.
    #[error("{vm} does not run here")]
    NotRunning {
        /// Which.
        vm: VmId,
    },
    /// This VM or host cannot do that.
    #[error("{knob} is not supported here: {why}")]
    Unsupported {
        /// What was to be turned.
        knob: Knob,
        /// Why it cannot be.
        why: String,
    },
    /// The value is outside of what the VM was built for.
    #[error("{knob} cannot be {asked}: {why}")]
    OutOfRange {
        /// What was to be turned.
        knob: Knob,
        /// The value that was asked for.
        asked: String,
        /// What it may be.
        why: String,
    },
    /// The guest did not follow within the time given.
    #[error("{knob} of {vm} stayed at {stayed} for {waited}, asked for {asked}")]
    Stalled {
        /// Which VM.
        vm: VmId,
        /// What was to be turned.
        knob: Knob,
        /// Where it stayed.
        stayed: String,
        /// What was asked for.
        asked: String,
        /// How long the driver waited.
        waited: Millis,
    },
    /// This driver, VM or host has no such ability.
    #[error("{what}: {why}")]
    NoAbility {
        /// What was to be done.
        what: &'static str,
        /// Why it cannot be.
        why: String,
    },
    /// There is no snapshot of this name.
    #[error("there is no snapshot {name}")]
    UnknownSnapshot {
        /// The name.
        name: SnapshotName,
    },
    /// There is one of this name already.
    #[error("there is a snapshot {name} already")]
    SnapshotExists {
        /// The name.
        name: SnapshotName,
    },
    /// It runs, and its VMM did not answer when it was to be found again.
    #[error("{vm} runs (pid {pid}) and its VMM does not answer")]
    Lost {
        /// Which VM.
        vm: VmId,
        /// Its VMM.
        pid: u32,
    },
    /// Its guest was told to go on, and a disk stopped it again.
    #[error("{vm} stands still: {why}")]
    Halted {
        /// Which VM.
        vm: VmId,
        /// What stopped it.
        why: String,
    },
    /// The VMM refused, died or did not answer.
    #[error("{doing} of {vm}")]
    Vmm {
        /// Which VM.
        vm: VmId,
        /// The operation.
        doing: &'static str,
        /// What the control socket said.
        #[source]
        source: crate::qemu::qmp::QmpError,
    },
    /// The host refused.
    #[error("{doing}")]
    Host {
        /// The operation, with its object.
        doing: String,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// A tool of the host refused.
    #[error(transparent)]
    Tool(#[from] crate::tool::ToolError),
}

impl DriverError {
    /// Wraps an I/O error with what was being done.
    pub(crate) fn host(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Host { doing, source }
    }
}

/// What is refused where templates are not supported.
const TEMPLATE: &str = "make or clone a template";

/// What turning a knob cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Time that the hypervisor itself took.
    pub took_ms: Millis,
    /// Time that the guest stood still.
    pub blackout_ms: Millis,
}

/// How a running VM is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doors {
    /// Unix socket of the guest channel.
    pub agent: Option<PathBuf>,
    /// Unix socket of the serial console.
    pub console: Option<PathBuf>,
    /// Address of its link.
    pub address: Option<Ipv4Addr>,
}

/// The way to a hypervisor.
#[async_trait]
pub trait Driver: Send + Sync {
    /// Name in reports.
    fn name(&self) -> &'static str;

    /// Starts a VM that does not run; on error nothing of it is left running. Lets one go on that a disk stopped.
    async fn start(&self, seat: &Seat) -> Result<(), DriverError>;

    /// Finds a VM that an earlier process started. `false`: it does not run. On error it may run all the same
    /// ([`Driver::is_lost`]); asked again, it is looked for again.
    async fn adopt(&self, seat: &Seat) -> Result<bool, DriverError>;

    /// Whether a VM runs that could not be found again. It can only be stopped, or looked for once more.
    fn is_lost(&self, _vm: VmId) -> bool {
        false
    }

    /// Asks the guest to power off, again and again for as long as `grace`, then ends its VMM.
    async fn stop(&self, vm: VmId, grace: Millis) -> Result<StopObserved, DriverError>;

    /// Whether it runs. Never errs: what cannot be asked is `Hung`.
    async fn power(&self, vm: VmId) -> PowerState;

    /// Why a paused VM stands still that nobody holds: its disk has no space, …
    async fn halted(&self, _vm: VmId) -> Option<String> {
        None
    }

    /// How often the guest of a running VM started anew by itself (reboot, reset, panic) since this driver knows it.
    /// `None`: it does not run, or nobody would notice.
    fn reboots(&self, _vm: VmId) -> Option<watch::Receiver<u64>> {
        None
    }

    /// Process id of the VMM, where there is one.
    async fn pid(&self, vm: VmId) -> Option<u32>;

    /// A word for the VMM that the VM has: another one after each start, replacement and restore. `None`: it does not
    /// run, or was not found again.
    async fn vmm(&self, vm: VmId) -> Option<String>;

    /// How the VM is reached.
    async fn doors(&self, vm: VmId) -> Result<Doors, DriverError>;

    /// What can be done to it live.
    async fn capabilities(&self, vm: VmId) -> Result<CapabilityReport, DriverError>;

    /// Whether this driver turns knobs of this kind itself. What it does not turn, the guest's agent does.
    fn turns(&self, knob: &Knob) -> bool;

    /// A knob's value as it is now.
    async fn read(&self, vm: VmId, knob: &Knob) -> Result<Setting, DriverError>;

    /// Turns a knob and waits until the value is there. Idempotent.
    async fn apply(&self, vm: VmId, setting: &Setting) -> Result<Applied, DriverError>;

    /// vCPUs plugged in, whether or not the guest has them online.
    async fn plugged_vcpus(&self, vm: VmId) -> Result<u32, DriverError>;

    /// Plugs vCPUs until there are `count`. Never unplugs (it would poison QEMU 7.2).
    async fn ensure_plugged_vcpus(&self, vm: VmId, count: u32) -> Result<Applied, DriverError>;

    /// Makes an image known under its name, so that `Setting::Image` can attach it.
    async fn offer_image(&self, vm: VmId, image: &proteus_model::vm::ImageIntent) -> Result<(), DriverError>;

    /// Images that are attached.
    async fn attached_images(&self, vm: VmId) -> Result<Vec<ImageName>, DriverError>;

    /// Counters seen from the host.
    async fn counters(&self, vm: VmId) -> Result<VmCounters, DriverError>;

    /// Of every VM that runs the counters that cost next to nothing: those in the host's own books. Waits for nobody.
    async fn survey(&self) -> HashMap<VmId, VmCounters>;

    /// How fast a VM changes its memory, which takes a second of waiting and next to no work. `None`: it does not run, or
    /// something is being done to it, which would be taken for its own doing.
    async fn dirtied(&self, _vm: VmId) -> Result<Option<DirtyObserved>, DriverError> {
        Ok(None)
    }

    /// What this driver or host never measures of a VM that others may, and why.
    fn unmeasured(&self, _vm: VmId) -> BTreeMap<Metric, String> {
        let why = |metric| (metric, format!("not with the driver {}", self.name()));
        Metric::OF_HARDWARE.into_iter().chain([Metric::DirtyRate]).map(why).collect()
    }

    /// Whom each VM that runs spoke to in the last ten minutes, as the host counts it. Who is not counted yet is from now on;
    /// a VM that is not in the answer is not counted. The first time costs a few milliseconds for each VM.
    async fn flows(&self) -> Result<HashMap<VmId, FlowsBegun>, DriverError> {
        Ok(HashMap::new())
    }

    /// A user of the host for the VMM of a new VM, whose folder is there; `None`: its processes have none of their own.
    fn claim_user(&self, _folder: &Path, _slot: u16) -> Result<Option<u32>, DriverError> {
        Ok(None)
    }

    /// Memory of the host that a running VM's memory takes now.
    async fn resident(&self, vm: VmId) -> Option<Bytes> {
        self.counters(vm).await.ok()?.resident
    }

    /// Puts a new VMM process under the running guest, its RAM kept.
    async fn replace_vmm(&self, vm: VmId) -> Result<Applied, DriverError>;

    /// Fails where `save_template` would be refused. Changes nothing.
    async fn check_template(&self, _vm: VmId) -> Result<(), DriverError> {
        Err(DriverError::NoAbility { what: TEMPLATE, why: format!("not with the driver {}", self.name()) })
    }

    /// Saves a running VM, memory and devices, into the new folder `to`, and ends its VMM. On error it runs on.
    async fn save_template(&self, _vm: VmId, _to: &Path) -> Result<(), DriverError> {
        Err(DriverError::NoAbility { what: TEMPLATE, why: format!("not with the driver {}", self.name()) })
    }

    /// Starts a VM that does not run from what `save_template` wrote, which stays as it is. It runs, with its link
    /// dark: it still has the template's identity. Its disks are there when `disks` ends, which is waited for only
    /// where they are opened. On error nothing of it is left running.
    async fn start_clone(
        &self,
        _seat: &Seat,
        _template: &Path,
        _disks: Making<'_>,
    ) -> Result<(), DriverError> {
        Err(DriverError::NoAbility { what: TEMPLATE, why: format!("not with the driver {}", self.name()) })
    }

    /// Lets a clone onto the network. Refused while its link does not have the address of its seat.
    async fn light_link(&self, _vm: VmId) -> Result<(), DriverError> {
        Err(DriverError::NoAbility { what: TEMPLATE, why: format!("not with the driver {}", self.name()) })
    }

    /// The VM's snapshots, oldest first; also of one that does not run.
    async fn snapshots(&self, seat: &Seat) -> Result<Vec<Snapshot>, DriverError>;

    /// Saves disks and RAM together, all or nothing; the guest stands still meanwhile. Refused where a disk would
    /// be left out.
    async fn create_snapshot(&self, vm: VmId, name: &SnapshotName) -> Result<Applied, DriverError>;

    /// Puts a running VM back to a snapshot. Refused before anything is lost, or the VM runs as it was then, or, on
    /// an error after that, it is stopped.
    async fn restore_snapshot(&self, vm: VmId, name: &SnapshotName) -> Result<Applied, DriverError>;

    /// Forgets a snapshot; also of a VM that does not run.
    async fn delete_snapshot(&self, seat: &Seat, name: &SnapshotName) -> Result<(), DriverError>;
}
