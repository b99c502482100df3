//! Version 1 of the HTTP API: the bodies of requests and answers, under `/api/v1`. Frozen: fields are only added.
//! Documents (profiles, plans, morphs, capability reports) travel in the model's own form.

mod collected;

mod inside;

mod label;

mod usage;

pub use collected::{
    BegunView, CollectorView, CollectorsRequest, CollectorsView, ConnectionsView, EndpointView, FlowView,
    GpuView, LogView,
};

pub use inside::{
    ConfigurationDiffView, DifferingView, FileKindView, FootprintView, SensitiveView, SessionsView, UsersView,
};

pub use label::{
    ApplicationView, CandidateView, ConfigurationView, EvidenceView, JudgementView, LabelView, LabelledView,
    PartView, PerformanceView, PersonalityChangeView, PersonalityView, RecordView, TeachRequest, TrafficView,
    TraitView,
};

pub use usage::{
    BucketView, HISTORY_STEPS_S, HistoryView, IMPORT_BYTES_MAX, ImportView, LatencyView, SummaryView,
    UsageView, ValueView,
};

use crate::guest::v1::Blob;
use crate::guest::v1::request::EXEC_TIMEOUT_MS_MAX;
use proteus_model::allocation::{AllocationTable, Amount};
use proteus_model::capability::CapabilityReport;
use proteus_model::execution::{Morph, Version};
use proteus_model::id::{HostName, MorphId, SnapshotName, VmId, VmName};
use proteus_model::plan::Plan;
use proteus_model::policy::Cidr;
use proteus_model::setting::{Knob, Setting};
use proteus_model::unit::{Bytes, Millis, UnixMillis};
use proteus_model::uplink::{InterfaceName, UplinkObserved};
use proteus_model::vm::{PowerState, VmIntent};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Where the API begins.
pub const PREFIX: &str = "/api/v1";

/// A refusal. Every answer with a status of 400 and above has this body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    /// Stable word for programs: `not_found`, `conflict`, `invalid`, `disarmed`, `unsupported`, `forbidden`,
    /// `unauthenticated`, `node`, `storage`, `internal`.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// The causes, outermost first.
    #[serde(default)]
    pub detail: Vec<String>,
    /// What to do about it.
    #[serde(default)]
    pub hint: Option<String>,
}

/// A VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VmView {
    /// Its id.
    #[schemars(with = "String")]
    pub id: VmId,
    /// Its name.
    #[schemars(with = "String")]
    pub name: VmName,
    /// `stopped`, `running`, `paused`, `hung`, or `unknown`, where `problem` says why.
    #[schemars(with = "String")]
    pub power: PowerState,
    /// Why nobody can tell how it is, as where its place in the state folder is damaged.
    #[serde(default)]
    pub problem: Option<String>,
    /// What it is observed to be, in a word; `None`: don't know, or not judged since Proteus began.
    #[serde(default)]
    pub label: Option<String>,
    /// Its profile, as `name@version`.
    pub profile: Option<String>,
    /// Its version: rises with each committed morph.
    pub version: u64,
    /// The morph that holds it.
    #[schemars(with = "Option<String>")]
    pub morph: Option<MorphId>,
    /// Address of its link.
    #[schemars(with = "Option<String>")]
    pub address: Option<Ipv4Addr>,
    /// Version of its agent, where one answers.
    pub agent: Option<String>,
    /// When its agent was heard last, if that answered once and does not any more.
    #[serde(default)]
    #[schemars(with = "Option<u64>")]
    pub agent_silent_since: Option<UnixMillis>,
    /// Why it is paused though nobody holds it: its disk has no space left, …. Starting it lets it go on.
    #[serde(default)]
    pub halted: Option<String>,
    /// Process id of its VMM.
    pub pid: Option<u32>,
    /// Whether it was taken out of Proteus's hands.
    pub disarmed: bool,
    /// What its owner asked for.
    #[schemars(with = "serde_json::Value")]
    pub intent: VmIntent,
    /// Every knob that Proteus manages on it.
    #[schemars(with = "Vec<serde_json::Value>")]
    pub managed: Vec<Setting>,
    /// Memory of the host that the guest's memory takes now, in bytes.
    #[schemars(with = "Option<u64>")]
    pub resident: Option<Bytes>,
    /// Whether it is a template, which never runs again.
    #[serde(default)]
    pub template: bool,
    /// The template that it began from.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub cloned_from: Option<VmId>,
}

/// Asks for a clone of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CloneRequest {
    /// Name of the new VM, also its host name.
    #[schemars(with = "String")]
    pub name: VmName,
    /// Only say whether it could be started.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// Asks for another name for a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameRequest {
    /// The name.
    #[schemars(with = "String")]
    pub name: VmName,
}

/// Asks a VM to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopRequest {
    /// How long the guest may take by itself, ms.
    #[schemars(with = "u64")]
    pub grace_ms: Millis,
}

/// How a VM stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StopView {
    /// Whether the guest went by itself.
    pub by_itself: bool,
    /// Whether the VM's VMM answered to the last. `false`: its guest may never have heard that it is to go.
    pub answered: bool,
    /// How long was waited for the guest, ms.
    #[schemars(with = "u64")]
    pub waited_ms: Millis,
}

/// A VM that was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeleteView {
    /// Files of its owner's that could not be given back as they were, and what to do about each.
    #[serde(default)]
    pub not_given_back: Vec<String>,
}

/// Where a plan shall lead. Exactly one field.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// A profile of the registry: `name` or `name@requirement`.
    #[serde(default)]
    pub profile: Option<String>,
    /// An earlier version of the VM.
    #[serde(default)]
    pub version: Option<u64>,
    /// A new VMM process under the same guest.
    #[serde(default)]
    pub fresh_vmm: bool,
    /// Beside the one field: whether a snapshot of disks and RAM comes first.
    #[serde(default)]
    pub snapshot: bool,
}

/// Asks for a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRequest {
    /// Its name; none: the next free `snapshot-N`.
    #[serde(default)]
    pub name: Option<String>,
}

/// A snapshot of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotView {
    /// Its name.
    #[schemars(with = "String")]
    pub name: SnapshotName,
    /// When it was taken.
    #[schemars(with = "u64")]
    pub at: UnixMillis,
    /// What its RAM takes in the VM's disk, bytes.
    #[schemars(with = "u64")]
    pub ram: Bytes,
    /// The VM's version then; none: not recorded.
    pub version: Option<u64>,
    /// Its profile then.
    pub profile: Option<String>,
    /// Who asked for it.
    pub actor: Option<String>,
    /// The morph whose first step it was.
    #[schemars(with = "Option<String>")]
    pub morph: Option<MorphId>,
}

/// A snapshot that was taken; asked for with `?dry_run=true`, as it would be: `snapshot.ram` and `blackout_ms` are then
/// the most that they may come to, and `took_ms` is 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotTaken {
    /// It.
    pub snapshot: SnapshotView,
    /// How long that took, ms.
    #[schemars(with = "u64")]
    pub took_ms: Millis,
    /// How long the guest stood still, ms.
    #[schemars(with = "u64")]
    pub blackout_ms: Millis,
}

/// A VM that went back to a snapshot; asked for with `?dry_run=true`, `settings` alone says something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RestoreView {
    /// How long that took, ms.
    #[schemars(with = "u64")]
    pub took_ms: Millis,
    /// How long there was no guest, ms.
    #[schemars(with = "u64")]
    pub blackout_ms: Millis,
    /// Managed settings that were compared with the record, and turned where they differed.
    pub settings: usize,
    /// Those that are not as recorded, and why.
    pub failed: Vec<String>,
}

/// Asks for a morph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MorphRequest {
    /// The plan, as it was given out.
    #[schemars(with = "serde_json::Value")]
    pub plan: Plan,
    /// Whether to go on although the plan names something as not supported here.
    #[serde(default)]
    pub skip_unsupported: bool,
    /// Only say whether it could begin; the answer is the morph as it would.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// Stops a morph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AbortRequest {
    /// Leave it where it is instead of undoing it.
    #[serde(default)]
    pub hold: bool,
}

/// A morph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MorphView {
    /// Its record.
    #[schemars(with = "serde_json::Value")]
    pub morph: Morph,
    /// In a list: how many there are that began before this one. `?before=` the id of the last of the list shows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<u64>,
    /// Why it cannot go on now, as where the disk is full. It is tried again until it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck: Option<String>,
}

impl MorphView {
    /// One by itself.
    pub fn of(morph: Morph) -> Self {
        Self { morph, earlier: None, stuck: None }
    }
}

/// A version of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VersionView {
    /// Its record.
    #[schemars(with = "serde_json::Value")]
    pub version: Version,
}

/// A knob that is not as Proteus left it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DifferenceView {
    /// Which.
    #[schemars(with = "serde_json::Value")]
    pub knob: Knob,
    /// As Proteus left it.
    #[schemars(with = "serde_json::Value")]
    pub recorded: Setting,
    /// As it is.
    #[schemars(with = "serde_json::Value")]
    pub found: Setting,
}

/// What can be done to a VM live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CapabilityView {
    /// The report.
    #[schemars(with = "serde_json::Value")]
    pub report: CapabilityReport,
}

/// A document as a person wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DocumentRequest {
    /// What it is called in error messages; its ending tells the format.
    pub file: String,
    /// Its text.
    pub text: String,
    /// Only say whether it would be taken.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// A profile in the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProfileView {
    /// `name@version`.
    pub label: String,
    /// What it is for.
    pub summary: Option<String>,
    /// SHA-256 of its canonical text.
    pub digest: String,
    /// Who brought it.
    pub origin: String,
    /// Whether a signature was checked.
    pub signed: bool,
    /// The document.
    pub document: serde_json::Value,
}

/// Longest run of a program inside: the guest's agent keeps it in hand so long.
pub const EXEC_TIMEOUT_MAX: Millis = Millis(EXEC_TIMEOUT_MS_MAX);

/// Largest standard input of a program inside: as much as is kept of each output; four thirds of it in base64 are a
/// part of a frame to the guest.
pub const EXEC_STDIN_BYTES_MAX: usize = 64 << 10;

/// Runs a program inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The service in whose file system it runs.
    #[serde(default)]
    pub service: Option<String>,
    /// What it is given on its standard input, base64 (RFC 4648, section 4); at most 64 KiB before that.
    #[serde(default)]
    #[schemars(with = "String")]
    pub stdin: Blob,
    /// When to end it, ms; at most 600 000.
    #[schemars(with = "u64")]
    pub timeout_ms: Millis,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExecView {
    /// Exit code; none: a signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// Whether its time was up.
    pub timed_out: bool,
    /// Standard output, as text.
    pub stdout: String,
    /// Standard error, as text.
    pub stderr: String,
    /// Whether output was cut.
    pub truncated: bool,
}

/// The console of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConsoleView {
    /// What it showed since `from`.
    pub text: String,
    /// Where to go on from.
    pub next: u64,
    /// Whether the VM does not run any more: then this is the last of it.
    #[serde(default)]
    pub ended: bool,
}

/// Typed into the console of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsoleRequest {
    /// What is typed; may be nothing, which only opens it.
    pub text: String,
}

/// A service of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// Where it is in its life.
    pub state: String,
    /// Whether it serves.
    pub serving: bool,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// What the host is and has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostView {
    /// Its name.
    pub name: String,
    /// Its CPUs.
    pub cpus: u32,
    /// Its memory, bytes.
    #[schemars(with = "u64")]
    pub memory: Bytes,
    /// Memory that it could hand out now, bytes.
    #[schemars(with = "Option<u64>")]
    pub memory_available: Option<Bytes>,
    /// What runs guests.
    pub accelerator: String,
    /// Why that.
    pub accelerator_why: String,
    /// The hypervisor's version.
    pub hypervisor: String,
    /// Network namespace of the guests.
    pub namespace: Option<String>,
    /// Proteus's own version.
    pub version: String,
    /// Who disarmed the fleet, if somebody did.
    pub disarmed_by: Option<String>,
}

/// Asks for the guests' way out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UplinkRequest {
    /// The host's interface; none: that of its default route.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub interface: Option<InterfaceName>,
    /// Name servers for guests that ask for an address; none: the host's own.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub dns: Vec<Ipv4Addr>,
    /// Private networks behind the interface that guests may reach all the same: `192.168.7.0/24`.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub allow: Vec<Cidr>,
    /// Only say what would be made.
    #[serde(default)]
    pub dry_run: bool,
}

/// The guests' way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UplinkView {
    /// Whether an operator wants one.
    pub wanted: bool,
    /// As it is, or, asked for with `dry_run`, as it would be.
    #[schemars(with = "Option<serde_json::Value>")]
    pub uplink: Option<UplinkObserved>,
}

/// Disarms or arms. Without a VM: everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArmRequest {
    /// Only this VM.
    #[serde(default)]
    pub vm: Option<String>,
    /// Leave running morphs where they are instead of undoing them.
    #[serde(default)]
    pub hold: bool,
}

/// What disarming did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ArmView {
    /// Running morphs that were told to stop.
    pub morphs_told: usize,
}

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look.
    Viewer,
    /// Look, and change VMs.
    Operator,
    /// Everything.
    Admin,
}

/// Asks for a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Who it is for; appears in the audit log.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

/// A token. The secret is shown once, when it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenView {
    /// Who it is for.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    #[schemars(with = "u64")]
    pub created_at: UnixMillis,
    /// The secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Who has what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AllocationView {
    /// The table.
    #[schemars(with = "serde_json::Value")]
    pub table: AllocationTable,
    /// What is free, by host.
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub free: BTreeMap<HostName, Amount>,
    /// The names of the VMs in the table.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub names: BTreeMap<VmId, VmName>,
}

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackupView {
    /// Its file on the host, for root to read.
    #[schemars(with = "String")]
    pub path: PathBuf,
}

/// Morphs, and versions of a VM, that are shown where nobody says how many.
pub const HISTORY_SHOWN: usize = 200;
/// Most of them that one answer has.
pub const HISTORY_MAX: usize = 1000;

/// Entries of the audit log that are shown where nobody says how many.
pub const AUDIT_ENTRIES_SHOWN: usize = 200;
/// Most of them that one answer has: a page of the store.
pub const AUDIT_ENTRIES_MAX: usize = 1000;

/// The end of the audit log, or what is before `?before=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditView {
    /// The entries, oldest first.
    pub entries: Vec<serde_json::Value>,
    /// How many there are before these: `?before=` the number of the first of these shows them.
    #[serde(default)]
    pub earlier: u64,
    /// Whether the chain of hashes holds.
    pub intact: bool,
    /// The first broken link, if one is.
    pub broken: Option<String>,
}
