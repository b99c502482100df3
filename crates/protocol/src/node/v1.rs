//! Version 1 of the node API. Every call that changes a VM carries the generation of the morph that holds it; a
//! node refuses an older one than it has seen. Must never carry a decision: a node does what a plan says.

use async_trait::async_trait;
use proteus_model::capability::CapabilityReport;
use proteus_model::id::{Generation, ServiceName, SnapshotName, VmId, VmName};
use proteus_model::profile::promise::HealthCheck;
use proteus_model::setting::{Knob, Setting};
use proteus_model::snapshot::Snapshot;
use proteus_model::telemetry::{
    Application, Bucket, CollectIntent, Findings, FlowBegun, LatencySeen, Metric,
};
use proteus_model::unit::{Bytes, Millis, Permille, UnixMillis};
use proteus_model::uplink::{UplinkIntent, UplinkObserved};
use proteus_model::vm::{
    BootObserved, DiskIntent, ImageIntent, PowerState, StopObserved, VmCounters, VmIntent, VmObserved,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Kinds of refusal that a control plane treats differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeErrorCode {
    /// The node does not know the VM.
    NotFound,
    /// It knows the VM, which does not run.
    NotRunning,
    /// It is not so that it could be done: the VM runs already, a file is missing.
    Conflict,
    /// A file that it would have is another VM's, or another disk's.
    FileInUse,
    /// A file that it would have is not there, or not for its user, or lies over what is not.
    File,
    /// The call's generation is older than one that the node has seen.
    StaleGeneration,
    /// This VM or host cannot do it.
    Unsupported,
    /// The value is outside of what the VM was built for.
    OutOfRange,
    /// It did not come about in time.
    Stalled,
    /// The guest's agent does not answer, or refused.
    Guest,
    /// Anything else.
    Failed,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct NodeError {
    /// Which kind.
    pub code: NodeErrorCode,
    /// What failed, with the whole chain of causes.
    pub message: String,
    /// What to do about it, where more can be said than for its kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl NodeError {
    /// A refusal of this kind.
    pub fn new(code: NodeErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// With what to do about it.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// What the host is and has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// Its name.
    pub name: String,
    /// Its CPUs.
    pub cpus: u32,
    /// Its memory.
    pub memory: Bytes,
    /// Memory that it could hand out now.
    pub memory_available: Option<Bytes>,
    /// `kvm`, `tcg` or `sim`.
    pub accelerator: String,
    /// Why that one.
    pub accelerator_why: String,
    /// The hypervisor's version.
    pub hypervisor: String,
    /// Network namespace of the guests, where they have one of their own.
    pub namespace: Option<String>,
}

/// What a step cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepCost {
    /// Time that the hypervisor or agent took.
    pub took_ms: Millis,
    /// Time that the guest stood still.
    pub blackout_ms: Millis,
}

/// How a health check went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthObserved {
    /// Whether it is as it must be.
    pub healthy: bool,
    /// Time until the answer.
    pub latency_us: u64,
    /// What was seen.
    pub detail: String,
}

/// One look at how a VM fares, for verification. What could not be read is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measurement {
    /// Counters from the host.
    pub counters: VmCounters,
    /// CPU pressure inside, time stalled in µs since boot.
    pub psi_cpu_us: Option<u64>,
    /// Memory pressure inside.
    pub psi_memory_us: Option<u64>,
    /// IO pressure inside.
    pub psi_io_us: Option<u64>,
    /// Memory that the guest says it could hand out.
    pub guest_available: Option<Bytes>,
    /// CPU that the guest used of what is online, over its last interval.
    pub guest_busy: Option<Permille>,
}

/// How a VM was when it was last looked at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UsageObserved {
    /// When; `None`: not since the node began.
    pub at: Option<UnixMillis>,
    /// What was measured; what was not is not in it.
    pub values: BTreeMap<Metric, f32>,
    /// What is never measured of it here, and why.
    #[serde(default)]
    pub unmeasured: BTreeMap<Metric, String>,
    /// What was wrong with its samples since the node began, by name, and how often.
    pub faults: BTreeMap<String, u64>,
    /// How far the guest's count of its CPU time is from the host's, as a share of that; `None`: never compared.
    pub disagreement: Option<f32>,
    /// The same of its `steal`, `disks` and `links`, as far as they were compared.
    #[serde(default)]
    pub disagreements: BTreeMap<String, f32>,
    /// How long operations on its disks took over about the last minute, by kind: `read`, `write`, `flush`. A kind of which
    /// there were none, or that nobody counts, is not in it.
    #[serde(default)]
    pub disk_latencies: BTreeMap<String, LatencySeen>,
}

/// The last minute of a VM that runs, as far as it is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecentObserved {
    /// Which.
    pub vm: VmId,
    /// Its vCPUs by the host's count of its VMM's threads, else those that it was built with.
    pub vcpus: u32,
    /// Stretches of ten seconds, the oldest first.
    pub buckets: Vec<Bucket>,
    /// What the guest says of its programs; `None`: it has no agent, or was not heard lately.
    pub applications: Option<Vec<Application>>,
    /// Whom it spoke to in about the last ten minutes by the host's count, what was begun most first, and when that was
    /// looked at; `None`: that is not counted yet.
    #[serde(default)]
    pub flows: Option<(UnixMillis, Vec<FlowBegun>)>,
    /// Whether there were more than are counted at one time, so that some may be missing.
    #[serde(default)]
    pub flows_full: bool,
}

/// A VM's history of one resolution.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HistoryObserved {
    /// Oldest first.
    pub buckets: Vec<Bucket>,
    /// Parts of all resolutions that are damaged, and left out.
    pub damaged: u64,
}

/// What an import has brought.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportObserved {
    /// Stretches of time taken in, by resolution, the finest first.
    pub buckets: Vec<u64>,
    /// Stretches of the future, left out.
    pub future: u64,
    /// Parts of the file that are damaged, left out.
    pub damaged: u64,
    /// What was wrong with the order of its lines, by name, and how often.
    pub faults: BTreeMap<String, u64>,
}

/// A program to run inside a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecIntent {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The service in whose file system it runs; `None`: the agent's own.
    #[serde(default)]
    pub service: Option<String>,
    /// Standard input.
    #[serde(default)]
    pub stdin: Vec<u8>,
    /// When to end it.
    pub timeout: Millis,
}

/// How the program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecObserved {
    /// Exit code; `None`: a signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// Whether it was ended because its time was up.
    pub timed_out: bool,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Whether output was cut.
    pub truncated: bool,
}

/// A service of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceObserved {
    /// Its name.
    pub name: ServiceName,
    /// Where it is in its life: `ready`, `starting`, …
    pub state: String,
    /// Whether it serves.
    pub serving: bool,
    /// What the user should know.
    pub notes: Vec<String>,
    /// The last that it wrote.
    pub log: String,
}

/// The last that a console showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleObserved {
    /// What came after the offset that was asked for, as far as it is kept.
    pub bytes: Vec<u8>,
    /// The offset to go on from.
    pub next: u64,
    /// Whether the VM does not run any more: nothing comes after this.
    pub ended: bool,
}

/// How long the making of a clone took, each from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneTimes {
    /// Until its guest ran, off the network and still as its template.
    pub ran: Millis,
    /// Until it was somebody else, and on the network.
    pub own: Millis,
}

/// A node.
#[async_trait]
pub trait Node: Send + Sync {
    /// What the host is and has.
    async fn host(&self) -> Result<HostReport, NodeError>;

    /// The guests' way out as it is; `None`: there is none.
    async fn uplink(&self) -> Result<Option<UplinkObserved>, NodeError>;

    /// The guests' way out as it would be. Changes nothing.
    async fn plan_uplink(&self, intent: &UplinkIntent) -> Result<UplinkObserved, NodeError>;

    /// Makes the guests' way out. Idempotent.
    async fn enable_uplink(&self, intent: &UplinkIntent) -> Result<UplinkObserved, NodeError>;

    /// Takes it away with all that was changed for it. Idempotent.
    async fn disable_uplink(&self) -> Result<(), NodeError>;

    /// Fails where a new VM of this intent would have a file that is not there, or that its user could not reach, or a
    /// disk that is another's. Changes nothing.
    async fn check_files(&self, intent: &VmIntent) -> Result<(), NodeError>;

    /// Gives a VM its place; fails where a disk would be another's. Idempotent.
    async fn create(&self, vm: VmId, intent: &VmIntent) -> Result<(), NodeError>;

    /// Calls a VM by another name from now on. Idempotent.
    async fn rename(&self, vm: VmId, name: &VmName) -> Result<(), NodeError>;

    /// Fails where `delete` would be refused. Changes nothing.
    async fn check_delete(&self, vm: VmId) -> Result<(), NodeError>;

    /// Takes a stopped VM's place away, its own disks with it. Files of its owner's that could not be given back, and
    /// what to do about them. Idempotent.
    async fn delete(&self, vm: VmId) -> Result<Vec<String>, NodeError>;

    /// Starts a VM, and lets one go on that a disk stopped. Idempotent.
    async fn start(&self, vm: VmId) -> Result<(), NodeError>;

    /// Stops a VM whose guest may take `grace` for it by itself.
    async fn stop(&self, vm: VmId, grace: Millis) -> Result<StopObserved, NodeError>;

    /// Fails where `save_template` would be refused. Changes nothing.
    async fn check_template(&self, vm: VmId) -> Result<(), NodeError>;

    /// Makes a running VM a template: saved and ended, never to run again. The disks that its clones get. Idempotent.
    async fn save_template(&self, vm: VmId) -> Result<Vec<DiskIntent>, NodeError>;

    /// Gives a VM its place and starts it from a template, as somebody else than it. On error nothing of it is left.
    async fn start_clone(&self, template: VmId, vm: VmId, intent: &VmIntent)
    -> Result<CloneTimes, NodeError>;

    /// Whether the making of a clone came to its end; `false`: it is under way, or was cut short.
    async fn is_whole(&self, vm: VmId) -> Result<bool, NodeError>;

    /// How a VM is.
    async fn observe(&self, vm: VmId) -> Result<VmObserved, NodeError>;

    /// Whether a VM runs. Asks nothing of its guest.
    async fn power(&self, vm: VmId) -> Result<PowerState, NodeError>;

    /// Looks once more for a VM that runs and that the node, when it began, could not take up.
    async fn find_again(&self, vm: VmId) -> Result<(), NodeError>;

    /// Why a VM stands still that runs and that nobody holds. Asks nothing of its guest.
    async fn halted(&self, vm: VmId) -> Result<Option<String>, NodeError>;

    /// Which boot of its guest a VM is in. Asks nothing of the guest.
    async fn boot(&self, vm: VmId) -> Result<BootObserved, NodeError>;

    /// A word for the VMM that a VM has: another one after each start, replacement and restore. `None`: it does not
    /// run, or was not found again.
    async fn vmm(&self, vm: VmId) -> Result<Option<String>, NodeError>;

    /// What can be done to it live, guest included.
    async fn capabilities(&self, vm: VmId) -> Result<CapabilityReport, NodeError>;

    /// A knob as it is now.
    async fn read(&self, vm: VmId, knob: &Knob) -> Result<Setting, NodeError>;

    /// Turns a knob, and answers once the effect is there.
    async fn apply(&self, vm: VmId, setting: &Setting, fence: Generation) -> Result<StepCost, NodeError>;

    /// From now on refuses generations older than `fence`.
    async fn fence(&self, vm: VmId, fence: Generation) -> Result<(), NodeError>;

    /// Puts a new VMM process under the running guest.
    async fn replace_vmm(&self, vm: VmId, fence: Generation) -> Result<StepCost, NodeError>;

    /// A VM's snapshots, oldest first; also of one that does not run.
    async fn snapshots(&self, vm: VmId) -> Result<Vec<Snapshot>, NodeError>;

    /// Saves disks and RAM together.
    async fn create_snapshot(
        &self,
        vm: VmId,
        name: &SnapshotName,
        fence: Generation,
    ) -> Result<StepCost, NodeError>;

    /// Puts a running VM back to a snapshot. What came after it is lost.
    async fn restore_snapshot(
        &self,
        vm: VmId,
        name: &SnapshotName,
        fence: Generation,
    ) -> Result<StepCost, NodeError>;

    /// Forgets a snapshot.
    async fn delete_snapshot(&self, vm: VmId, name: &SnapshotName) -> Result<(), NodeError>;

    /// Makes an image known to a VM.
    async fn offer_image(&self, vm: VmId, image: &ImageIntent) -> Result<(), NodeError>;

    /// Looks whether something of the VM is as it must be.
    async fn check_health(&self, vm: VmId, check: &HealthCheck) -> Result<HealthObserved, NodeError>;

    /// Looks how it fares.
    async fn measure(&self, vm: VmId) -> Result<Measurement, NodeError>;

    /// How it was when it was last looked at. Asks nothing of it.
    async fn usage(&self, vm: VmId) -> Result<UsageObserved, NodeError>;

    /// SHA-256, in hex, of what a VM is made of and does not write, as that is now, by role: `kernel`, `initramfs`, `disk NAME`,
    /// `image NAME`.
    async fn base_images(&self, vm: VmId) -> Result<BTreeMap<String, String>, NodeError>;

    /// The last minute of every VM that runs and was looked at. Asks nothing of them.
    async fn recent(&self) -> Result<Vec<RecentObserved>, NodeError>;

    /// What the collectors in a guest found so far; from now on they do what `intent` says. The first time starts them.
    async fn collect(&self, vm: VmId, intent: &CollectIntent) -> Result<Findings, NodeError>;

    /// Its history, of the resolution in this place of [`proteus_model::telemetry::Tier::ALL`].
    async fn history(&self, vm: VmId, tier: usize) -> Result<HistoryObserved, NodeError>;

    /// Its whole history, as a file of Proteus.
    async fn export_history(&self, vm: VmId) -> Result<Vec<u8>, NodeError>;

    /// Takes a history in beside what there is: a file that was exported, or CSV. `dry_run`: only says what it has.
    async fn import_history(
        &self,
        vm: VmId,
        bytes: &[u8],
        dry_run: bool,
    ) -> Result<ImportObserved, NodeError>;

    /// Runs a program inside.
    async fn exec(&self, vm: VmId, exec: &ExecIntent) -> Result<ExecObserved, NodeError>;

    /// Waits until nobody starts its services any more, or one of them failed. At most `limit`; not being done by then
    /// is no error.
    async fn wait_services(&self, vm: VmId, limit: Millis) -> Result<(), NodeError>;

    /// Waits until nobody starts its services any more, whether one failed or not. At most `limit`; not being done by
    /// then is no error.
    async fn wait_brought_up(&self, vm: VmId, limit: Millis) -> Result<(), NodeError>;

    /// Its services.
    async fn services(&self, vm: VmId) -> Result<Vec<ServiceObserved>, NodeError>;

    /// The last that its console showed, from this offset on; also of a VM that ended since the node runs.
    async fn console_output(&self, vm: VmId, from: u64) -> Result<ConsoleObserved, NodeError>;

    /// Types into its console.
    async fn console_input(&self, vm: VmId, bytes: &[u8]) -> Result<(), NodeError>;
}
