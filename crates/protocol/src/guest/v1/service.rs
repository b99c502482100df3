//! Services that the agent runs from read-only images: the manifest inside the image (`/.proteus/service.json`),
//! and what the agent says about a running one. A manifest is data: it names programs of its own image only.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Where a manifest lies inside its image.
pub const MANIFEST_PATH: &str = "/.proteus/service.json";
/// The manifest's own version.
pub const MANIFEST_VERSION: u32 = 1;
/// Largest manifest, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 64 * 1024;
/// Most sockets of one service.
pub const LISTEN_MAX: usize = 16;

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("service manifest is refused: {field}: {given:?}, expected {expected}")]
pub struct ManifestError {
    /// The field.
    pub field: &'static str,
    /// What it held, cut to a printable length.
    pub given: String,
    /// What it may hold.
    pub expected: &'static str,
}

fn check(ok: bool, field: &'static str, given: &str, expected: &'static str) -> Result<(), ManifestError> {
    let error = || ManifestError { field, given: given.chars().take(80).collect(), expected };
    ok.then_some(()).ok_or_else(error)
}

/// How to run a service from its image. Unknown fields are errors: the image was built for another agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceManifest {
    /// [`MANIFEST_VERSION`].
    pub manifest: u32,
    /// What people call it.
    pub name: String,
    /// Version of the software, for people.
    pub version: String,
    /// Program and arguments; the program by absolute path inside the image.
    pub argv: Vec<String>,
    /// Its whole environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Who runs it.
    pub user: User,
    /// Sockets that it listens on.
    pub listen: Vec<SocketAddr>,
    /// Who owns these sockets.
    pub sockets: SocketOwnership,
    /// When it counts as ready.
    pub ready: ReadyCheck,
    /// What must be there before its first start.
    #[serde(default)]
    pub prepare: Vec<PrepareStep>,
    /// Directory with its data, for a data disk; without one the data goes with the service.
    #[serde(default)]
    pub data_dir: Option<String>,
    /// Asks it to end when its connections are done.
    pub stop_signal: Signal,
    /// Asks it to read its configuration again.
    #[serde(default)]
    pub reload_signal: Option<Signal>,
    /// How long it may take to end before it is killed.
    pub stop_timeout_ms: u64,
    /// Room for what it writes, in memory.
    pub scratch_bytes: u64,
}

/// A numeric user and its group: an image has its own `/etc/passwd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Who owns a service's listening sockets. The agent does where it can: then a crash or an upgrade loses no new
/// connection, because the kernel queues them meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SocketOwnership {
    /// The agent, passing them as nginx inherits them (`NGINX="3;4;"`).
    AgentNginx,
    /// The agent, passing them as systemd does (`LISTEN_FDS`).
    AgentListenFds,
    /// The service: it can take none.
    Service {
        /// Why, for the status.
        why: String,
    },
}

impl SocketOwnership {
    /// Whether the agent owns the sockets.
    pub fn is_agent(&self) -> bool {
        !matches!(self, Self::Service { .. })
    }
}

/// When a service counts as ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadyCheck {
    /// A question that it must answer.
    pub probe: Probe,
    /// Processes beside the first that must run: tells a new generation, which shares its sockets with the old
    /// one, from the old one.
    #[serde(default)]
    pub workers_min: u32,
    /// How long it may take.
    pub timeout_ms: u64,
}

/// A question to a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Probe {
    /// Takes a connection.
    Tcp {
        /// On loopback.
        port: u16,
    },
    /// Answers `GET path` with a status of 200 to 399.
    Http {
        /// On loopback.
        port: u16,
        /// Absolute path.
        path: String,
    },
    /// Answers `PING` with `+PONG`.
    Redis {
        /// On loopback.
        port: u16,
    },
    /// Takes a start-up message and asks for authentication or grants it.
    Postgres {
        /// On loopback.
        port: u16,
        /// As this user.
        user: String,
        /// To this database.
        database: String,
    },
}

/// Something to do before the first start, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PrepareStep {
    /// A directory with this owner and mode, made or mended.
    Directory {
        /// Absolute path inside the image.
        path: String,
        /// Owner.
        user: User,
        /// Permission bits.
        mode: u32,
    },
    /// A program of the image, run to its end.
    Run {
        /// Program and arguments; the program by absolute path.
        argv: Vec<String>,
        /// Who runs it.
        user: User,
        /// Not run when this path is there.
        unless_exists: Option<String>,
        /// Given on its standard input.
        #[serde(default)]
        stdin: String,
        /// How long it may take.
        timeout_ms: u64,
    },
}

/// A signal that a manifest may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "signals are known by their names")]
pub enum Signal {
    Term,
    Quit,
    Int,
    Hup,
    Usr1,
    Usr2,
}

fn absolute(path: &str) -> bool {
    let inner_ok = |s: &str| !s.is_empty() && s != "." && s != "..";
    path.len() <= 512
        && !path.contains('\0')
        && path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(inner_ok))
}

fn check_argv(field: &'static str, argv: &[String]) -> Result<(), ManifestError> {
    let given = argv.first().map_or("", String::as_str);
    check(absolute(given), field, given, "a program by absolute path")?;
    check(argv.len() <= 64, field, &argv.len().to_string(), "at most 64 arguments")?;
    for arg in argv {
        check(arg.len() <= 4096 && !arg.contains('\0'), field, arg, "arguments of at most 4096 bytes")?;
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), ManifestError> {
    let ok = (1..=63).contains(&name.len())
        && !name.starts_with('-')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    check(ok, "name", name, "1 to 63 of a-z, 0-9 and '-'")
}

impl ServiceManifest {
    /// Reads and checks a manifest.
    pub fn from_json(data: &[u8]) -> Result<Self, ManifestError> {
        let size = data.len().to_string();
        check(data.len() <= MANIFEST_BYTES_MAX, "size", &size, "at most 64 KiB")?;
        let manifest: Self = serde_json::from_slice(data).map_err(|e| ManifestError {
            field: "JSON",
            given: e.to_string(),
            expected: "a service manifest",
        })?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// Refuses what an agent could not run.
    pub fn validate(&self) -> Result<(), ManifestError> {
        let version = self.manifest.to_string();
        check(self.manifest == MANIFEST_VERSION, "manifest", &version, "version 1")?;
        check_name(&self.name)?;
        check_argv("argv", &self.argv)?;
        check(
            self.listen.len() <= LISTEN_MAX,
            "listen",
            &self.listen.len().to_string(),
            "at most 16 sockets",
        )?;
        for (key, value) in &self.environment {
            let ok =
                !key.is_empty() && !key.contains(['=', '\0']) && !value.contains('\0') && value.len() <= 4096;
            check(ok, "environment", key, "a name without '=' and a value of at most 4096 bytes")?;
        }
        for address in &self.listen {
            check(address.port() != 0, "listen", &address.to_string(), "an address with a port")?;
        }
        if let Some(dir) = &self.data_dir {
            check(absolute(dir), "data_dir", dir, "an absolute path without '..'")?;
        }
        check(
            self.ready.workers_min <= 64,
            "ready.workers_min",
            &self.ready.workers_min.to_string(),
            "0 to 64",
        )?;
        for (field, ms) in
            [("ready.timeout_ms", self.ready.timeout_ms), ("stop_timeout_ms", self.stop_timeout_ms)]
        {
            check((1..=600_000).contains(&ms), field, &ms.to_string(), "1 to 600000")?;
        }
        let scratch = self.scratch_bytes;
        check(
            (1 << 16..=1 << 40).contains(&scratch),
            "scratch_bytes",
            &scratch.to_string(),
            "64 KiB to 1 TiB",
        )?;
        if let Probe::Http { path, .. } = &self.ready.probe {
            let ok = path.starts_with('/') && path.len() <= 256 && path.bytes().all(|b| b.is_ascii_graphic());
            check(ok, "ready.probe.path", path, "an absolute path of printable characters")?;
        }
        check(self.prepare.len() <= 32, "prepare", &self.prepare.len().to_string(), "at most 32 steps")?;
        self.prepare.iter().try_for_each(PrepareStep::validate)
    }
}

impl PrepareStep {
    fn validate(&self) -> Result<(), ManifestError> {
        match self {
            Self::Directory { path, mode, .. } => {
                check(absolute(path), "prepare.directory.path", path, "an absolute path without '..'")?;
                check(*mode <= 0o7777, "prepare.directory.mode", &format!("{mode:o}"), "permission bits")
            }
            Self::Run { argv, unless_exists, timeout_ms, .. } => {
                check_argv("prepare.run.argv", argv)?;
                if let Some(path) = unless_exists {
                    check(
                        absolute(path),
                        "prepare.run.unless_exists",
                        path,
                        "an absolute path without '..'",
                    )?;
                }
                let ok = (1..=600_000).contains(timeout_ms);
                check(ok, "prepare.run.timeout_ms", &timeout_ms.to_string(), "1 to 600000")
            }
        }
    }
}

/// Where a service is in its life.
///
/// ```text
///            start            prepared           ready
/// stopped ──────────▶ preparing ─────▶ starting ──────▶ ready ◀─────┐
///    ▲                    │               │  ▲            │ │       │ new generation ready
///    │ ended              │ step failed   │  │ delay over │ └─▶ handing_over
///    │                    ▼               ▼  │            │ exit    │
/// stopping ◀── stop ── failed ◀──── backing_off ◀─────────┴─────────┘
///                      (too many exits)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// Not running, nothing of it left but its control group.
    Stopped,
    /// Its prepare steps run.
    Preparing,
    /// Its process runs, and has not answered the ready check.
    Starting,
    /// It answered.
    Ready,
    /// A new generation starts beside the one that serves.
    HandingOver,
    /// It ended unasked, and is started again after a delay.
    BackingOff,
    /// It was asked to end.
    Stopping,
    /// It does not come up; its sockets are closed. `log` says what it said last.
    Failed,
    /// A state of a newer agent.
    #[serde(other)]
    Unknown,
}

/// A service as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// What people call it.
    pub name: String,
    /// The image that it runs from (that the newest generation runs from).
    pub image: String,
    /// Version of the software.
    pub version: String,
    /// Where it is in its life.
    pub state: ServiceState,
    /// Its first process, seen from outside its namespaces.
    pub pid: Option<u32>,
    /// Rises with each start of its process.
    pub generation: u32,
    /// Starts after an end that nobody asked for.
    pub restarts: u32,
    /// Control group, below the mount.
    pub cgroup: String,
    /// Sockets that it serves.
    pub listen: Vec<SocketAddr>,
    /// Whether the agent owns these sockets, so that crash and upgrade lose no new connection.
    pub sockets_kept: bool,
    /// What the user should know: why sockets are not kept, that data lives in memory.
    pub notes: Vec<String>,
    /// How the last process ended, if one did.
    pub last_exit: Option<String>,
    /// The last that it wrote to its standard output and error, at most 4 KiB.
    pub log: String,
}
