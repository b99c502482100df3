//! What the host may ask of the agent, and the larger answers. Must never gain a request that runs text as a
//! shell command.

use super::blob::Blob;
use super::findings::CollectPolicy;
use super::service::ServiceState;
use super::setting::{Knob, Setting};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// Most bytes that `exec` returns of each output: twice this, in base64, fits a frame.
pub const EXEC_OUTPUT_BYTES_MAX: u32 = 64 * 1024;
/// Longest run of `exec`.
pub const EXEC_TIMEOUT_MS_MAX: u64 = 600_000;

/// What the host may ask. Answers are named in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// First on every connection [`hello`].
    Hello {
        /// Who asks.
        hello: HelloRequest,
    },
    /// Is the agent alive [`pong`].
    Ping,
    /// A sample now, with processes [`sample`].
    Sample,
    /// What the collectors found, and what they shall do from now on; the first one starts them [`findings`].
    Collect {
        /// What to collect.
        policy: CollectPolicy,
    },
    /// The value of a knob [`setting`].
    ReadSetting {
        /// Which.
        knob: Knob,
    },
    /// Sets a knob, reads it back [`setting`].
    ApplySetting {
        /// Which, and to what.
        setting: Setting,
    },
    /// Mounts the image on a disk, read only; waits a while for a disk that is being plugged [`image`].
    /// Again with the same disk and name: changes nothing.
    MountImage {
        /// Serial of the disk.
        serial: String,
        /// Name of the image in this guest.
        name: String,
    },
    /// Unmounts it; refused while a service runs from it [`done`]. Without such an image: changes nothing.
    UnmountImage {
        /// Name of the image in this guest.
        name: String,
    },
    /// Starts the service of a mounted image, answers when it is ready [`service`]. Already running from the same
    /// image: answers when it is ready.
    StartService {
        /// Must be the name in its manifest.
        name: String,
        /// Name of the mounted image.
        image: String,
        /// Serial of a disk with a file system for its data.
        data_serial: Option<String>,
    },
    /// Stops it gracefully, kills it when it takes too long, answers when it is gone [`service`].
    StopService {
        /// Its name.
        name: String,
    },
    /// Brings in a new configuration or a new image, answers when that is ready [`service`].
    ReloadService {
        /// Its name; beside systemd the full name of its unit.
        name: String,
        /// How.
        mode: ReloadMode,
    },
    /// How a service is [`service`].
    ServiceStatus {
        /// Its name.
        name: String,
    },
    /// How all services are [`services`].
    Services,
    /// Whether a process of this name runs [`process`].
    ProcessState {
        /// The kernel's `comm`.
        name: String,
    },
    /// What systemd says about a unit [`unit`].
    UnitState {
        /// Full name, as in `nginx.service`.
        unit: String,
    },
    /// Runs a program without a shell [`exec`].
    Exec {
        /// What and how.
        exec: ExecRequest,
    },
    /// Address and name of the guest [`done`].
    SetNetwork {
        /// What it gets.
        network: NetworkSettings,
    },
    /// Ends the guest in good order [`done`, before it begins].
    Shutdown {
        /// How.
        shutdown: Shutdown,
    },
    /// Makes a clone somebody else than its template [`hello`, with a fresh instance].
    SetIdentity {
        /// Mixed into the kernel's random numbers and counted as random, at least 32 bytes.
        entropy: Blob,
        /// Its new name.
        hostname: Option<String>,
        /// 32 hex digits, written to `/etc/machine-id` where there is one.
        machine_id: Option<String>,
        /// The host's clock; the guest's is set to it when it differs by more than a second.
        now_ms: Option<u64>,
        /// Its own link; `None`: unchanged. Read the link's address back: an agent of before ignores this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        link: Option<LinkIdentity>,
    },
    /// Sent by a newer host: answered with `unsupported`.
    #[serde(other)]
    Unknown,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloRequest {
    /// Newest version that the host speaks.
    pub protocol: u32,
    /// Version of the host's software, for the log.
    pub version: String,
}

/// Who the agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloReply {
    /// The version that both speak from now on: the smaller of the two newest.
    pub protocol: u32,
    /// Version of the agent.
    pub agent_version: String,
    /// The kernel's boot id: another one means that the guest booted again.
    pub boot_id: String,
    /// Drawn when the agent starts and when the guest gets a new identity.
    pub instance: String,
    /// The kernel's release.
    pub kernel: String,
    /// Name of the guest.
    pub hostname: String,
    /// What the agent is in this guest.
    pub guest: GuestKind,
    /// What it can and cannot do, measured at start.
    pub capabilities: Vec<Capability>,
}

/// What the agent is in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestKind {
    /// The first process: it boots the guest and runs its services.
    Pid1,
    /// A service beside systemd.
    Systemd,
    /// Beside another init.
    #[serde(other)]
    Other,
}

/// One thing that the agent can or cannot do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// Which.
    pub name: CapabilityName,
    /// Why it cannot; `None`: it can.
    pub missing: Option<String>,
}

/// What an agent may be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapabilityName {
    /// Take CPUs online and offline.
    Vcpus,
    /// Kernel parameters.
    Sysctl,
    /// Transparent huge pages.
    Thp,
    /// Nice, I/O priority, scheduling policy.
    Priority,
    /// CPU weight of control groups (version 2).
    CgroupWeight,
    /// Network policy per application.
    NetworkPolicy,
    /// Pressure stall information.
    Pressure,
    /// Mount images.
    Images,
    /// Run services from images.
    Services,
    /// Know systemd's units.
    Units,
    /// Set the network.
    Network,
    /// A capability of a newer agent.
    #[serde(other)]
    Unknown,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMounted {
    /// Name of the image in this guest.
    pub name: String,
    /// The kernel's name of its disk.
    pub disk: String,
    /// `erofs` or `squashfs`.
    pub filesystem: String,
    /// Name of the service in it, if it has a manifest.
    pub service: Option<String>,
    /// Version of the software in it.
    pub version: Option<String>,
}

/// How a service takes up something new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum ReloadMode {
    /// It reads its configuration again (systemd: `systemctl reload`).
    Signal,
    /// A new generation starts on the same sockets, and the old one ends when the new one is ready. Refused for a
    /// service that owns its sockets.
    HandOver {
        /// Another image; `None`: the same.
        image: Option<String>,
    },
    /// It is stopped and started: connections are refused meanwhile unless the agent owns the sockets.
    Restart {
        /// Another image; `None`: the same.
        image: Option<String>,
    },
}

/// Processes of one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessReply {
    /// At most 64 of them; empty: none runs.
    pub processes: Vec<ProcessFound>,
    /// How many there are.
    pub count: u32,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessFound {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub started_ticks: u64,
    /// The kernel's letter: R, S, D, Z, T, I.
    pub state: char,
    /// Threads.
    pub threads: u32,
}

/// What systemd says about a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitReply {
    /// As `LoadState`: `loaded`, `not-found`, …
    pub load: String,
    /// As `ActiveState`: `active`, `failed`, …
    pub active: String,
    /// As `SubState`: `running`, `exited`, …
    pub sub: String,
    /// Its main process.
    pub main_pid: Option<u32>,
}

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program by absolute path, and arguments.
    pub argv: Vec<String>,
    /// Inside this service's namespaces; `None`: where the agent is.
    pub service: Option<String>,
    /// Given on its standard input.
    pub stdin: Blob,
    /// It is killed after this.
    pub timeout_ms: u64,
    /// Of each output, kept from its beginning; at most [`EXEC_OUTPUT_BYTES_MAX`].
    pub output_bytes_max: u32,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecOutcome {
    /// Its exit code; `None`: a signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether it was killed for taking too long.
    pub timed_out: bool,
    /// Beginning of its standard output.
    pub stdout: Blob,
    /// Beginning of its standard error.
    pub stderr: Blob,
    /// Whether more was written than was kept.
    pub truncated: bool,
}

/// Address and name of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSettings {
    /// The interface; `None`: the first that is not loopback.
    pub interface: Option<String>,
    /// Its address.
    pub address: Ipv4Addr,
    /// Bits of the network.
    pub prefix: u8,
    /// The way out; `None`: there is none.
    pub gateway: Option<Ipv4Addr>,
    /// Name of the guest; `None`: unchanged.
    pub hostname: Option<String>,
}

/// Who a clone is on the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkIdentity {
    /// Link address of the first interface that is not loopback, as in `52:50:52:00:00:07`.
    pub mac: String,
    /// Its address, where the agent is the first process; a guest's own system asks for one anew.
    pub address: Ipv4Addr,
    /// Bits of the network.
    pub prefix: u8,
    /// The way out; `None`: there is none.
    pub gateway: Option<Ipv4Addr>,
}

/// How a guest ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shutdown {
    /// And starts again.
    Reboot,
    /// And stays off.
    Poweroff,
}

impl ServiceState {
    /// Whether it answers its clients.
    pub fn is_serving(self) -> bool {
        matches!(self, Self::Ready | Self::HandingOver)
    }
}
