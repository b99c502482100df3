//! A *knob* is one thing about a VM that can be changed live; a *setting* is a knob with its value.
//! Everything a profile asks for becomes settings, everything a morph does is "set this knob from a to b", and
//! undo is the same step the other way. Must never know how a knob is turned: that is a driver's or agent's work.

use crate::id::{DiskName, ImageName, NameError};
use crate::policy::PacketPolicy;
use crate::unit::{Bytes, BytesPerSec, MilliCpu};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Relative weight of a VM's CPU or IO under contention. 100 is neutral; range 1–10 000, as cgroup v2's
/// `cpu.weight` (Linux, Documentation/admin-guide/cgroup-v2.rst, "CPU Interface Files").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Weight(pub u32);

impl Weight {
    /// The weight of a VM that nobody favoured.
    pub const NEUTRAL: Self = Self(100);

    /// Into the range that the kernel takes.
    #[must_use]
    pub fn clamped(self) -> Self {
        Self(self.0.clamp(1, 10_000))
    }

    /// As cgroup v1 `cpu.shares`: 1024 is neutral there, so shares = weight × 1024 / 100, at least 2.
    pub fn shares(self) -> u32 {
        (self.clamped().0 * 1024 / 100).max(2)
    }

    /// Back from cgroup v1 `cpu.shares`, rounded to the nearest weight.
    pub fn from_shares(shares: u64) -> Self {
        Self(u32::try_from((shares.saturating_mul(100) + 512) / 1024).unwrap_or(u32::MAX)).clamped()
    }
}

/// Limits of one virtual disk; `None` is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DiskLimit {
    /// Reads and writes together, operations per second.
    pub iops: Option<u64>,
    /// Reads and writes together, bytes per second.
    pub bandwidth: Option<BytesPerSec>,
}

/// Limits of a VM's network link; `None` is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NicRate {
    /// Towards the guest.
    pub to_guest: Option<BytesPerSec>,
    /// From the guest.
    pub from_guest: Option<BytesPerSec>,
}

/// Key of a kernel parameter inside a guest, as in `vm.swappiness`. Only the subtrees that tuning may touch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SysctlKey(String);

impl SysctlKey {
    /// The key, dotted.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Subtrees of `/proc/sys` that a profile may tune. `kernel.` is not there as a whole: it holds
/// `core_pattern` and `modprobe`, which name programs to run.
pub const SYSCTL_SUBTREES: [&str; 4] = ["vm.", "net.", "fs.", "kernel.sched_"];

impl FromStr for SysctlKey {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let syntax = text.len() <= 120
            && text.split('.').all(|part| {
                !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
            });
        if syntax && SYSCTL_SUBTREES.iter().any(|tree| text.starts_with(tree)) {
            return Ok(Self(text.to_owned()));
        }
        Err(NameError { kind: "sysctl key", given: text.chars().take(80).collect() })
    }
}

impl TryFrom<String> for SysctlKey {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<SysctlKey> for String {
    fn from(key: SysctlKey) -> String {
        key.0
    }
}

/// Which processes of a guest a priority is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppSelector {
    /// A service that the agent runs.
    Service(String),
    /// By name: `/proc/PID/comm`.
    Process(String),
    /// All in a cgroup, by its path below the cgroup root.
    Cgroup(String),
    /// All of a systemd unit.
    Unit(String),
}

impl fmt::Display for AppSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "service {name}"),
            Self::Process(name) => write!(f, "process {name}"),
            Self::Cgroup(path) => write!(f, "cgroup {path}"),
            Self::Unit(unit) => write!(f, "unit {unit}"),
        }
    }
}

/// How much an application matters inside its VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PriorityClass {
    /// Before everything else: round-robin real time.
    Realtime,
    /// Above normal.
    High,
    /// As the kernel starts it.
    Normal,
    /// Below normal.
    Low,
    /// Only what nobody else wants.
    Idle,
}

/// The scheduling of one thread, as the agent read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ThreadPriority {
    /// Its process in the guest.
    pub pid: u32,
    /// Itself.
    pub tid: u32,
    /// Start time in clock ticks since the guest booted: with the id, an identity.
    pub start_ticks: u64,
    /// Nice value, −20 to 19.
    pub nice: i32,
    /// `ioprio_get(2)` value.
    pub io_priority: u32,
    /// Kernel number of the scheduling policy (`sched(7)`), with the reset-on-fork flag.
    pub policy: u32,
    /// Real-time priority, 0 where the policy has none.
    pub realtime_priority: u32,
}

/// The weight of a control group in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CgroupWeight {
    /// Path below the cgroup mount.
    pub path: String,
    /// `cpu.weight`, 1 to 10 000.
    pub cpu_weight: u32,
}

/// Priority asked for, or as it was.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PriorityState {
    /// A class for all that match the selector.
    Class(PriorityClass),
    /// Exactly this for each thread named; others are left alone.
    Exact {
        /// Each thread with its own values.
        threads: Vec<ThreadPriority>,
        /// Control groups that belong to the application alone.
        cgroups: Vec<CgroupWeight>,
    },
}

/// When the kernel uses transparent huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThpMode {
    /// Wherever it can.
    Always,
    /// Where a program asks.
    Madvise,
    /// Nowhere.
    Never,
}

/// What is changed, without its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Knob {
    /// Ceiling of CPU time of all vCPUs together.
    CpuCap,
    /// CPU weight under contention.
    CpuWeight,
    /// CPUs that are online in the guest.
    Vcpus,
    /// Memory that the guest may use of what it booted with (balloon).
    Memory,
    /// Memory plugged in beyond what it booted with (virtio-mem).
    HotMemory,
    /// Limits of one disk.
    DiskLimit(DiskName),
    /// Limits of the link.
    NicRate,
    /// Packet filter on the VM's tap, on the host.
    NetworkPolicy,
    /// An image attached as a read-only disk.
    Image(ImageName),
    /// A kernel parameter inside.
    Sysctl(SysctlKey),
    /// Transparent huge pages inside.
    Thp,
    /// IO scheduler of a disk inside.
    IoScheduler(DiskName),
    /// Priority of an application inside.
    Priority(AppSelector),
    /// Packet filter of one application inside.
    AppPolicy(AppSelector),
}

/// Kinds of knobs, for reports of what can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each is the kind of the knob of the same name")]
pub enum KnobKind {
    CpuCap,
    CpuWeight,
    Vcpus,
    Memory,
    HotMemory,
    DiskLimit,
    NicRate,
    NetworkPolicy,
    Image,
    Sysctl,
    Thp,
    IoScheduler,
    Priority,
    AppPolicy,
}

impl KnobKind {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 14] = [
        Self::CpuCap,
        Self::CpuWeight,
        Self::Vcpus,
        Self::Memory,
        Self::HotMemory,
        Self::DiskLimit,
        Self::NicRate,
        Self::NetworkPolicy,
        Self::Image,
        Self::Sysctl,
        Self::Thp,
        Self::IoScheduler,
        Self::Priority,
        Self::AppPolicy,
    ];

    /// Whether the guest's agent turns it (else the host does).
    pub fn in_guest(self) -> bool {
        match self {
            Self::Vcpus | Self::Sysctl | Self::Thp | Self::IoScheduler | Self::Priority | Self::AppPolicy => {
                true
            }
            Self::CpuCap
            | Self::CpuWeight
            | Self::Memory
            | Self::HotMemory
            | Self::DiskLimit
            | Self::NicRate
            | Self::NetworkPolicy
            | Self::Image => false,
        }
    }
}

impl Knob {
    /// Its kind.
    pub fn kind(&self) -> KnobKind {
        match self {
            Self::CpuCap => KnobKind::CpuCap,
            Self::CpuWeight => KnobKind::CpuWeight,
            Self::Vcpus => KnobKind::Vcpus,
            Self::Memory => KnobKind::Memory,
            Self::HotMemory => KnobKind::HotMemory,
            Self::DiskLimit(_) => KnobKind::DiskLimit,
            Self::NicRate => KnobKind::NicRate,
            Self::NetworkPolicy => KnobKind::NetworkPolicy,
            Self::Image(_) => KnobKind::Image,
            Self::Sysctl(_) => KnobKind::Sysctl,
            Self::Thp => KnobKind::Thp,
            Self::IoScheduler(_) => KnobKind::IoScheduler,
            Self::Priority(_) => KnobKind::Priority,
            Self::AppPolicy(_) => KnobKind::AppPolicy,
        }
    }
}

impl fmt::Display for Knob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CpuCap => f.write_str("cpu cap"),
            Self::CpuWeight => f.write_str("cpu weight"),
            Self::Vcpus => f.write_str("vcpus online"),
            Self::Memory => f.write_str("memory"),
            Self::HotMemory => f.write_str("plugged memory"),
            Self::DiskLimit(disk) => write!(f, "disk limit {disk}"),
            Self::NicRate => f.write_str("link rate"),
            Self::NetworkPolicy => f.write_str("network policy"),
            Self::Image(image) => write!(f, "image {image}"),
            Self::Sysctl(key) => write!(f, "sysctl {}", key.as_str()),
            Self::Thp => f.write_str("transparent huge pages"),
            Self::IoScheduler(disk) => write!(f, "io scheduler {disk}"),
            Self::Priority(app) => write!(f, "priority of {app}"),
            Self::AppPolicy(app) => write!(f, "network policy of {app}"),
        }
    }
}

/// A knob with its value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "knob")]
#[allow(missing_docs, reason = "each is the knob of the same name, with its value")]
pub enum Setting {
    /// `None`: no ceiling but the vCPU count.
    CpuCap {
        limit: Option<MilliCpu>,
    },
    CpuWeight {
        weight: Weight,
    },
    Vcpus {
        online: u32,
    },
    Memory {
        target: Bytes,
    },
    HotMemory {
        plugged: Bytes,
    },
    DiskLimit {
        disk: DiskName,
        limit: DiskLimit,
    },
    NicRate {
        rate: NicRate,
    },
    /// `None`: no filter of ours.
    NetworkPolicy {
        policy: Option<PacketPolicy>,
    },
    /// `None`: not attached. The text is the image's digest.
    Image {
        image: ImageName,
        digest: Option<String>,
    },
    Sysctl {
        key: SysctlKey,
        value: String,
    },
    Thp {
        mode: ThpMode,
    },
    IoScheduler {
        disk: DiskName,
        scheduler: String,
    },
    Priority {
        app: AppSelector,
        state: PriorityState,
    },
    AppPolicy {
        app: AppSelector,
        policy: Option<PacketPolicy>,
    },
}

impl Setting {
    /// What it is a value of.
    pub fn knob(&self) -> Knob {
        match self {
            Self::CpuCap { .. } => Knob::CpuCap,
            Self::CpuWeight { .. } => Knob::CpuWeight,
            Self::Vcpus { .. } => Knob::Vcpus,
            Self::Memory { .. } => Knob::Memory,
            Self::HotMemory { .. } => Knob::HotMemory,
            Self::DiskLimit { disk, .. } => Knob::DiskLimit(disk.clone()),
            Self::NicRate { .. } => Knob::NicRate,
            Self::NetworkPolicy { .. } => Knob::NetworkPolicy,
            Self::Image { image, .. } => Knob::Image(image.clone()),
            Self::Sysctl { key, .. } => Knob::Sysctl(key.clone()),
            Self::Thp { .. } => Knob::Thp,
            Self::IoScheduler { disk, .. } => Knob::IoScheduler(disk.clone()),
            Self::Priority { app, .. } => Knob::Priority(app.clone()),
            Self::AppPolicy { app, .. } => Knob::AppPolicy(app.clone()),
        }
    }

    /// Whether `observed` is this setting in effect: equal, or as near as the mechanism can bring it. Whoever
    /// asks "did my change arrive" or "did somebody else change it" asks this.
    pub fn holds_in(&self, observed: &Setting) -> bool {
        match (self, observed) {
            // virtio-balloon moves pages in chunks and the guest stops short under pressure.
            (Self::Memory { target: want }, Self::Memory { target: is }) => {
                want.0.abs_diff(is.0) <= MEMORY_TOLERANCE.0
            }
            (Self::Sysctl { key: a, value: want }, Self::Sysctl { key: b, value: is }) => {
                a == b && want.split_whitespace().eq(is.split_whitespace())
            }
            (Self::Priority { app: a, state: want }, Self::Priority { app: b, state: is }) => {
                a == b && want.holds_in(is)
            }
            (want, is) => want == is,
        }
    }
}

/// How far a balloon may stay from its target and count as there: 256 pages of 4 KiB, one balloon request.
pub const MEMORY_TOLERANCE: Bytes = Bytes(256 * 4096);

impl PriorityClass {
    /// What the agent sets for this class: scheduling policy number of `sched(7)` (0 other, 2 round-robin, 5
    /// idle), and the nice value, which real time leaves as it was.
    pub fn kernel_values(self) -> (u32, Option<i32>) {
        match self {
            Self::Realtime => (2, None),
            Self::High => (0, Some(-10)),
            Self::Normal => (0, Some(0)),
            Self::Low => (0, Some(10)),
            Self::Idle => (5, Some(19)),
        }
    }
}

/// `SCHED_RESET_ON_FORK`: rides in the policy number and says nothing about the class.
const RESET_ON_FORK: u32 = 0x4000_0000;

impl PriorityState {
    /// Whether `observed` (always exact) shows this in effect. A class holds when every thread has its values;
    /// an exact state holds when each thread of it that still lives has its own.
    pub fn holds_in(&self, observed: &PriorityState) -> bool {
        let Self::Exact { threads: seen, cgroups: groups } = observed else { return self == observed };
        match self {
            Self::Class(class) => {
                let (policy, nice) = class.kernel_values();
                let has = |t: &ThreadPriority| {
                    t.policy & !RESET_ON_FORK == policy && nice.is_none_or(|nice| nice == t.nice)
                };
                seen.iter().all(has)
            }
            Self::Exact { threads, cgroups } => {
                let same = |want: &ThreadPriority| {
                    let mut alive =
                        seen.iter().filter(|is| (is.tid, is.start_ticks) == (want.tid, want.start_ticks));
                    alive.all(|is| is == want)
                };
                let weighs =
                    |want: &CgroupWeight| groups.iter().filter(|g| g.path == want.path).all(|g| g == want);
                threads.iter().all(same) && cgroups.iter().all(weighs)
            }
        }
    }
}

impl fmt::Display for PriorityState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Class(PriorityClass::Realtime) => f.write_str("realtime"),
            Self::Class(PriorityClass::High) => f.write_str("high"),
            Self::Class(PriorityClass::Normal) => f.write_str("normal"),
            Self::Class(PriorityClass::Low) => f.write_str("low"),
            Self::Class(PriorityClass::Idle) => f.write_str("idle"),
            Self::Exact { threads, .. } => {
                let mut nices: Vec<i32> = threads.iter().map(|t| t.nice).collect();
                nices.sort_unstable();
                nices.dedup();
                let list: Vec<String> = nices.iter().map(i32::to_string).collect();
                write!(f, "nice {} ({} threads)", list.join(","), threads.len())
            }
        }
    }
}

fn or_unlimited<T: fmt::Display>(value: &Option<T>) -> String {
    value.as_ref().map_or_else(|| "unlimited".to_owned(), T::to_string)
}

/// The value alone, as a plan shows it.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CpuCap { limit } => f.write_str(&or_unlimited(limit)),
            Self::CpuWeight { weight } => write!(f, "{}", weight.0),
            Self::Vcpus { online } => write!(f, "{online}"),
            Self::Memory { target: bytes } | Self::HotMemory { plugged: bytes } => write!(f, "{bytes}"),
            Self::DiskLimit { limit, .. } => {
                let iops = limit.iops.map(|n| format!("{n} iops"));
                write!(f, "{}, {}", or_unlimited(&iops), or_unlimited(&limit.bandwidth))
            }
            Self::NicRate { rate } => {
                let told = |rate: Option<BytesPerSec>| or_unlimited(&rate.map(BytesPerSec::in_bits));
                write!(f, "in {}, out {}", told(rate.to_guest), told(rate.from_guest))
            }
            Self::NetworkPolicy { policy } | Self::AppPolicy { policy, .. } => match policy {
                Some(policy) => write!(f, "{policy}"),
                None => f.write_str("none"),
            },
            Self::Image { digest, .. } => match digest {
                Some(digest) => f.write_str(digest.get(..12).unwrap_or(digest)),
                None => f.write_str("not attached"),
            },
            Self::Sysctl { value, .. } => f.write_str(value),
            Self::Thp { mode: ThpMode::Always } => f.write_str("always"),
            Self::Thp { mode: ThpMode::Madvise } => f.write_str("madvise"),
            Self::Thp { mode: ThpMode::Never } => f.write_str("never"),
            Self::IoScheduler { scheduler, .. } => f.write_str(scheduler),
            Self::Priority { state, .. } => write!(f, "{state}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_keys_refuse_what_could_run_a_program() {
        for bad in ["kernel.core_pattern", "kernel.modprobe", "vm", "vm..x", "vm.a/b", "net.../x", "vm.", ""]
        {
            assert!(bad.parse::<SysctlKey>().is_err(), "{bad:?} was taken");
        }
        assert!("net.core.somaxconn".parse::<SysctlKey>().is_ok());
    }

    #[test]
    fn a_link_rate_is_shown_in_bits_and_a_disks_in_bytes() {
        let rate = NicRate { to_guest: "100Mbit/s".parse().ok(), from_guest: None };
        assert_eq!(Setting::NicRate { rate }.to_string(), "in 100 Mbit/s, out unlimited");
        let limit = DiskLimit { iops: None, bandwidth: "100MiB/s".parse().ok() };
        let disk = "data".parse().unwrap();
        assert_eq!(Setting::DiskLimit { disk, limit }.to_string(), "unlimited, 100 MiB/s");
    }

    #[test]
    fn settings_hold_within_their_mechanism() {
        let want = Setting::Memory { target: Bytes::mib(128) };
        assert!(want.holds_in(&Setting::Memory { target: Bytes(Bytes::mib(128).0 + 4096) }));
        assert!(!want.holds_in(&Setting::Memory { target: Bytes::mib(140) }));
        let key: SysctlKey = "net.ipv4.tcp_rmem".parse().unwrap();
        let want = Setting::Sysctl { key: key.clone(), value: "4096 8192  16384".into() };
        assert!(want.holds_in(&Setting::Sysctl { key, value: "4096\t8192\t16384".into() }));
    }

    #[test]
    fn shares_and_weights_convert_back() {
        for weight in [1, 25, 100, 150, 200, 400, 10_000] {
            assert_eq!(Weight::from_shares(u64::from(Weight(weight).shares())), Weight(weight));
        }
    }
}
