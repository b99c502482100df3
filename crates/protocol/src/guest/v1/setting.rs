//! Knobs inside a guest that the host may turn: what each is called, which values it takes, and how its value is
//! read back. Must never carry a command, a path to write to, or a key outside the allow-list.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Longest value of a sysctl, in bytes.
pub const SYSCTL_VALUE_BYTES_MAX: usize = 256;
/// Longest sysctl key, in bytes.
pub const SYSCTL_KEY_BYTES_MAX: usize = 128;
/// Most rules of one application's network policy.
pub const NETWORK_RULES_MAX: usize = 256;
/// Most threads in a snapshot of priorities: 512 × ~110 bytes of JSON = 56 KiB, well inside a frame.
pub const PRIORITY_THREADS_MAX: usize = 512;
/// Keys of sysctl begin with one of these.
pub const SYSCTL_PREFIXES: [&str; 4] = ["vm.", "net.", "fs.", "kernel.sched"];

/// Why a knob or a value is refused before anything is touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {given:?} is refused: expected {expected}")]
pub struct SettingError {
    /// What it was to be.
    pub what: &'static str,
    /// What was given, cut to a printable length.
    pub given: String,
    /// The form that is accepted.
    pub expected: String,
}

fn refuse(what: &'static str, given: &str, expected: impl Into<String>) -> SettingError {
    SettingError { what, given: given.chars().take(80).collect(), expected: expected.into() }
}

/// A knob: names what to read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "knob", rename_all = "snake_case")]
pub enum Knob {
    /// How many of the plugged CPUs are online.
    VcpusOnline,
    /// A kernel parameter.
    Sysctl {
        /// Dotted key, as in `vm.swappiness`.
        key: String,
    },
    /// Transparent huge pages.
    ThpMode,
    /// Scheduler of a block device.
    IoScheduler {
        /// Which.
        disk: DiskSelector,
    },
    /// Scheduling of an application.
    Priority {
        /// Which.
        application: ApplicationSelector,
    },
    /// Network policy of an application.
    NetworkPolicy {
        /// Which. Only a control group, a unit or a service: a policy holds on to a group, not to a process.
        application: ApplicationSelector,
    },
    /// A knob of a newer host.
    #[serde(other)]
    Unknown,
}

/// A knob with a value: what to write, or what was read. What was read can be written again as it is, and
/// restores exactly what was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "knob", rename_all = "snake_case")]
pub enum Setting {
    /// How many CPUs are online; the lowest-numbered ones stay.
    VcpusOnline {
        /// At least one.
        count: u32,
    },
    /// A kernel parameter.
    Sysctl {
        /// Dotted key.
        key: String,
        /// Fields separated by one space.
        value: String,
    },
    /// Transparent huge pages.
    ThpMode {
        /// The mode.
        mode: ThpMode,
    },
    /// Scheduler of a block device.
    IoScheduler {
        /// Which.
        disk: DiskSelector,
        /// Name of the scheduler, as in `mq-deadline`.
        scheduler: String,
    },
    /// Scheduling of an application.
    Priority {
        /// Which.
        application: ApplicationSelector,
        /// What it gets or has.
        priority: Priority,
    },
    /// Network policy of an application.
    NetworkPolicy {
        /// Which.
        application: ApplicationSelector,
        /// The whole policy; `None` removes it.
        policy: Option<NetworkPolicy>,
    },
    /// A knob of a newer host.
    #[serde(other)]
    Unknown,
}

impl Setting {
    /// The knob that this is a value of.
    pub fn knob(&self) -> Knob {
        match self {
            Self::VcpusOnline { .. } => Knob::VcpusOnline,
            Self::Sysctl { key, .. } => Knob::Sysctl { key: key.clone() },
            Self::ThpMode { .. } => Knob::ThpMode,
            Self::IoScheduler { disk, .. } => Knob::IoScheduler { disk: disk.clone() },
            Self::Priority { application, .. } => Knob::Priority { application: application.clone() },
            Self::NetworkPolicy { application, .. } => {
                Knob::NetworkPolicy { application: application.clone() }
            }
            Self::Unknown => Knob::Unknown,
        }
    }

    /// Refuses what must not reach a kernel.
    pub fn validate(&self) -> Result<(), SettingError> {
        self.knob().validate()?;
        match self {
            Self::VcpusOnline { count: 0 } => Err(refuse("number of CPUs", "0", "at least 1")),
            Self::VcpusOnline { .. } | Self::ThpMode { .. } | Self::Unknown => Ok(()),
            Self::Sysctl { value, .. } => check_sysctl_value(value),
            Self::IoScheduler { scheduler, .. } => {
                let ok = !scheduler.is_empty()
                    && scheduler.len() <= 32
                    && scheduler.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
                ok.then_some(())
                    .ok_or_else(|| refuse("I/O scheduler", scheduler, "a name such as mq-deadline"))
            }
            Self::Priority { priority, .. } => priority.validate(),
            Self::NetworkPolicy { policy, .. } => policy.as_ref().map_or(Ok(()), NetworkPolicy::validate),
        }
    }
}

impl Knob {
    /// Refuses names that must not reach a kernel.
    pub fn validate(&self) -> Result<(), SettingError> {
        match self {
            Self::VcpusOnline | Self::ThpMode | Self::Unknown => Ok(()),
            Self::Sysctl { key } => check_sysctl_key(key),
            Self::IoScheduler { disk } => disk.validate(),
            Self::Priority { application } => application.validate(),
            Self::NetworkPolicy { application: ApplicationSelector::Process { name } } => {
                Err(refuse("selector of a network policy", name, "a service, a control group or a unit"))
            }
            Self::NetworkPolicy { application } => application.validate(),
        }
    }
}

fn check_sysctl_key(key: &str) -> Result<(), SettingError> {
    let segment_ok =
        |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let ok = key.len() <= SYSCTL_KEY_BYTES_MAX
        && SYSCTL_PREFIXES.iter().any(|p| key.starts_with(p))
        && key.split('.').all(segment_ok);
    let expected = || format!("dotted names beginning with {}", SYSCTL_PREFIXES.join(", "));
    ok.then_some(()).ok_or_else(|| refuse("kernel parameter", key, expected()))
}

fn check_sysctl_value(value: &str) -> Result<(), SettingError> {
    let ok = !value.is_empty()
        && value.len() <= SYSCTL_VALUE_BYTES_MAX
        && value.bytes().all(|b| b.is_ascii_graphic() || b == b' ' || b == b'\t');
    let expected = || format!("1 to {SYSCTL_VALUE_BYTES_MAX} printable characters");
    ok.then_some(()).ok_or_else(|| refuse("value of a kernel parameter", value, expected()))
}

/// Transparent huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThpMode {
    /// Wherever possible.
    Always,
    /// Where a program asked.
    Madvise,
    /// Nowhere.
    Never,
}

/// Names a block device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskSelector {
    /// By the serial that the host gave it.
    Serial(String),
    /// By the kernel's name, as in `vda`.
    Name(String),
}

impl DiskSelector {
    /// Refuses path tricks.
    pub fn validate(&self) -> Result<(), SettingError> {
        let (Self::Serial(text) | Self::Name(text)) = self;
        let ok = !text.is_empty()
            && text.len() <= 64
            && !text.starts_with('.')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        ok.then_some(()).ok_or_else(|| refuse("disk", text, "letters, digits, '-', '_' and '.'"))
    }
}

/// Names an application.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApplicationSelector {
    /// A service that the agent runs.
    Service(String),
    /// All processes of this name (the kernel's `comm`, at most 15 bytes).
    Process {
        /// The name.
        name: String,
    },
    /// All processes in this control group and below.
    Cgroup {
        /// Path below the cgroup mount, without a leading slash.
        path: String,
    },
    /// All processes of this systemd unit.
    Unit {
        /// Full name, as in `nginx.service`.
        name: String,
    },
}

impl ApplicationSelector {
    /// Refuses path tricks.
    pub fn validate(&self) -> Result<(), SettingError> {
        let word = |s: &str, max: usize| {
            !s.is_empty()
                && s.len() <= max
                && s != "."
                && s != ".."
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@:+".contains(&b))
        };
        let (ok, text, expected) = match self {
            Self::Service(name) => (word(name, 63), name, "a service name"),
            Self::Process { name } => (word(name, 15), name, "a process name of at most 15 letters"),
            Self::Unit { name } => {
                (word(name, 128) && name.contains('.'), name, "a unit as in nginx.service")
            }
            Self::Cgroup { path } => {
                let ok = path.len() <= 256
                    && path.split('/').count() <= 8
                    && path.split('/').all(|s| word(s, 128));
                (ok, path, "a path below the control group mount, at most 8 deep")
            }
        };
        ok.then_some(()).ok_or_else(|| refuse("application", text, expected))
    }
}

/// How an application is scheduled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// A class, the same for all its threads.
    Class(PriorityClass),
    /// Exactly as it was: what `read_setting` answers, and what undo writes.
    Snapshot(PrioritySnapshot),
}

impl Priority {
    fn validate(&self) -> Result<(), SettingError> {
        let Self::Snapshot(snapshot) = self else { return Ok(()) };
        if snapshot.threads.len() > PRIORITY_THREADS_MAX {
            let given = snapshot.threads.len().to_string();
            return Err(refuse("number of threads", &given, format!("at most {PRIORITY_THREADS_MAX}")));
        }
        for thread in &snapshot.threads {
            if !(-20..=19).contains(&thread.nice) || thread.realtime_priority > 99 {
                return Err(refuse(
                    "priority",
                    &format!("{thread:?}"),
                    "nice -20 to 19, realtime priority 0 to 99",
                ));
            }
        }
        for group in &snapshot.cgroups {
            ApplicationSelector::Cgroup { path: group.path.clone() }.validate()?;
            if !(1..=10_000).contains(&group.cpu_weight) {
                return Err(refuse("CPU weight", &group.cpu_weight.to_string(), "1 to 10000"));
            }
        }
        Ok(())
    }
}

/// Five classes of importance, and what each means to the kernel:
///
/// | class | policy | nice | I/O class | cgroup `cpu.weight` |
/// |---|---|---|---|---|
/// | realtime | round robin 10 | unchanged | best effort 0 | 1000 |
/// | high | other | -10 | best effort 2 | 400 |
/// | normal | other | 0 | best effort 4 | 100 |
/// | low | other | 10 | best effort 6 | 40 |
/// | idle | idle | 19 | idle | 1 |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PriorityClass {
    /// Before everything else, round robin.
    Realtime,
    /// More than others.
    High,
    /// As others.
    Normal,
    /// Less than others.
    Low,
    /// Only what nobody else wants.
    Idle,
}

/// The exact scheduling of an application's threads at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrioritySnapshot {
    /// All threads, by process and thread id.
    pub threads: Vec<ThreadPriority>,
    /// Control groups whose weight belongs to the application alone.
    pub cgroups: Vec<CgroupWeight>,
}

/// The scheduling of one thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadPriority {
    /// Its process.
    pub pid: u32,
    /// Itself.
    pub tid: u32,
    /// Start time of the thread in clock ticks since boot: an id used again by another thread is left alone.
    pub started_ticks: u64,
    /// -20 to 19.
    pub nice: i32,
    /// As the system call gives it: class in the top three bits, level below.
    pub io_priority: u32,
    /// `SCHED_*` number, with the reset-on-fork flag.
    pub policy: u32,
    /// 0 unless the policy is a realtime one.
    pub realtime_priority: u32,
}

/// The weight of one control group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupWeight {
    /// Path below the cgroup mount.
    pub path: String,
    /// 1 to 10000, 100 is neutral.
    pub cpu_weight: u32,
}

/// What an application may send and receive. Replies on connections that were allowed always pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPolicy {
    /// What happens to outgoing packets that no rule names.
    pub egress_default: Verdict,
    /// What happens to incoming packets that no rule names.
    pub ingress_default: Verdict,
    /// In order; the first that matches decides.
    pub rules: Vec<NetworkRule>,
}

impl NetworkPolicy {
    /// Refuses what nftables would refuse, or what could not be read back.
    pub fn validate(&self) -> Result<(), SettingError> {
        if self.rules.len() > NETWORK_RULES_MAX {
            let given = self.rules.len().to_string();
            return Err(refuse("number of rules", &given, format!("at most {NETWORK_RULES_MAX}")));
        }
        self.rules.iter().try_for_each(NetworkRule::validate)
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRule {
    /// Which way the packet goes.
    pub direction: Direction,
    /// Which protocol; `None` is any.
    pub protocol: Option<Protocol>,
    /// Destination ports from..=to, of the peer for egress and of the application for ingress.
    pub ports: Option<PortRange>,
    /// The peer; `None` is anyone.
    pub peer: Option<Cidr>,
    /// What happens to the packet.
    pub verdict: Verdict,
    /// The rule holds up to this rate only; what exceeds it is dropped. Only with `accept`.
    pub rate_limit: Option<RateLimit>,
}

impl NetworkRule {
    fn validate(&self) -> Result<(), SettingError> {
        if let Some(ports) = self.ports {
            if ports.from == 0 || ports.from > ports.to {
                return Err(refuse(
                    "port range",
                    &format!("{}-{}", ports.from, ports.to),
                    "1 to 65535, in order",
                ));
            }
            if !matches!(self.protocol, Some(Protocol::Tcp | Protocol::Udp)) {
                return Err(refuse("port range", &format!("{ports:?}"), "protocol tcp or udp beside it"));
            }
        }
        if let Some(peer) = &self.peer {
            peer.validate()?;
        }
        match (self.rate_limit, self.verdict) {
            (Some(_), Verdict::Drop) => Err(refuse("rate limit", "drop", "a rate limit only on accept")),
            (Some(RateLimit::PacketsPerSecond(0) | RateLimit::BytesPerSecond(0)), _) => {
                Err(refuse("rate limit", "0", "at least 1; to stop all traffic, drop it"))
            }
            _ => Ok(()),
        }
    }
}

/// Which way a packet goes, seen from the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the application.
    Egress,
    /// To the application.
    Ingress,
}

/// A protocol above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP, of IPv4.
    Icmp,
}

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It passes.
    Accept,
    /// It is thrown away.
    Drop,
}

/// Ports from..=to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    /// The first.
    pub from: u16,
    /// The last.
    pub to: u16,
}

/// A network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cidr {
    /// Its address; bits beyond the prefix are zero.
    pub address: IpAddr,
    /// How many bits of the address count.
    pub prefix: u8,
}

impl Cidr {
    fn validate(&self) -> Result<(), SettingError> {
        let host_bits = match self.address {
            IpAddr::V4(a) if self.prefix <= 32 => {
                u128::from(u32::from(a))
                    & u128::from(u32::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0))
            }
            IpAddr::V6(a) if self.prefix <= 128 => {
                u128::from(a) & u128::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0)
            }
            _ => 1,
        };
        let given = || format!("{}/{}", self.address, self.prefix);
        (host_bits == 0)
            .then_some(())
            .ok_or_else(|| refuse("network", &given(), "a network as in 10.0.0.0/8"))
    }
}

/// A rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateLimit {
    /// Packets.
    PacketsPerSecond(u32),
    /// Bytes.
    BytesPerSecond(u32),
}
