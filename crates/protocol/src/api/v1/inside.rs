//! What a VM holds and what its people do, as its agent counts it and the API tells it; and how its configuration changed.

use proteus_model::telemetry::{
    Consent, FileKindObserved, FilesObserved, SensitiveObserved, SessionsReleased, UsersObserved,
};
use proteus_model::unit::UnixMillis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A word as JSON has it.
fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// The files of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileKindView {
    /// How many.
    pub files: u64,
    /// What they take on the disk, bytes.
    pub bytes: u64,
    /// Those of them that were written within the day before the look.
    pub changed_day: u64,
    /// Those of them that were read within that day; `None`: no file system with such files keeps the time.
    pub read_day: Option<u64>,
}

impl From<&FileKindObserved> for FileKindView {
    fn from(seen: &FileKindObserved) -> Self {
        let (files, bytes, changed_day, read_day) =
            (seen.files, seen.bytes.0, seen.changed_day, seen.read_day);
        Self { files, bytes, changed_day, read_day }
    }
}

/// How many files are of a class of what is sensitive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SensitiveView {
    /// By their names, of all files.
    pub by_name: u64,
    /// By their content, of those that were sampled.
    pub by_content: u64,
}

impl From<&SensitiveObserved> for SensitiveView {
    fn from(seen: &SensitiveObserved) -> Self {
        Self { by_name: seen.by_name, by_content: seen.by_content }
    }
}

/// What a VM's own file systems hold. Counts only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FootprintView {
    /// Whether all was looked at; else the round was cut at its bound.
    pub complete: bool,
    /// How long the round took, ms.
    pub took_ms: u64,
    /// File systems that were walked.
    pub filesystems: u32,
    /// Read-only images, which were not.
    pub images_skipped: u32,
    /// Files that were looked at.
    pub files: u64,
    /// Folders that were.
    pub folders: u64,
    /// What the files take on the disk, bytes.
    pub bytes: u64,
    /// Growth in bytes a day since the whole round before; `None`: there is none.
    pub growth_per_day: Option<i64>,
    /// By kind.
    pub kinds: BTreeMap<String, FileKindView>,
    /// Files by size: empty ones, those of 1 to 9 bytes, of 10 to 99 and so on; the last holds all beyond.
    pub sizes: Vec<u64>,
    /// Files whose content may tell something.
    pub samplable: u64,
    /// Those of them whose beginning was read.
    pub sampled: u64,
    /// By class of what is sensitive.
    pub sensitive: BTreeMap<String, SensitiveView>,
}

impl From<&FilesObserved> for FootprintView {
    fn from(seen: &FilesObserved) -> Self {
        Self {
            complete: seen.complete,
            took_ms: seen.took.0,
            filesystems: seen.filesystems,
            images_skipped: seen.images_skipped,
            files: seen.files,
            folders: seen.folders,
            bytes: seen.bytes.0,
            growth_per_day: seen.growth_per_day,
            kinds: seen.kinds.iter().map(|(kind, seen)| (word(kind), seen.into())).collect(),
            sizes: seen.sizes.clone(),
            samplable: seen.samplable,
            sampled: seen.sampled,
            sensitive: seen.sensitive.iter().map(|(class, seen)| (word(class), seen.into())).collect(),
        }
    }
}

/// The sessions of one week, with noise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionsView {
    /// Its number under this consent.
    pub number: u32,
    /// From when, in milliseconds since 1970.
    #[schemars(with = "u64")]
    pub from: UnixMillis,
    /// Until when.
    #[schemars(with = "u64")]
    pub until: UnixMillis,
    /// Sessions that began in each hour of the day (UTC).
    pub by_hour: Vec<u64>,
    /// Sessions in all.
    pub sessions: u64,
}

impl From<&SessionsReleased> for SessionsView {
    fn from(seen: &SessionsReleased) -> Self {
        let by_hour = seen.by_hour.to_vec();
        Self { number: seen.number, from: seen.from, until: seen.until, by_hour, sessions: seen.sessions }
    }
}

/// What people do in a VM, by their consent given inside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UsersView {
    /// `given` or `withdrawn`.
    pub consent: String,
    /// When they consented, in milliseconds since 1970.
    #[schemars(with = "Option<u64>")]
    pub given_at: Option<UnixMillis>,
    /// Releases so far, each of which spent ε = 1 of differential privacy for one session.
    pub budget_spent: u32,
    /// Releases under one consent at most.
    pub budget: u32,
    /// Those releases, oldest first.
    pub releases: Vec<SessionsView>,
}

impl From<&UsersObserved> for UsersView {
    fn from(seen: &UsersObserved) -> Self {
        let consent = if seen.consent == Consent::Given { "given" } else { "withdrawn" };
        Self {
            consent: consent.to_owned(),
            given_at: seen.given_at,
            budget_spent: seen.budget_spent,
            budget: seen.budget,
            releases: seen.releases.iter().map(SessionsView::from).collect(),
        }
    }
}

/// One entry of a configuration that is other than before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DifferingView {
    /// Of what: `packages`, `units`, `sysctl`, `mounts`, `files`, `devices`, `kernel`, `images`; `settings`: those that
    /// Proteus turns.
    pub aspect: String,
    /// Which.
    pub name: String,
    /// What it was; `None`: it was not there, or is not known.
    pub from: Option<String>,
    /// What it is; `None`: it is no more.
    pub to: Option<String>,
    /// How often it changed in between.
    pub changes: u64,
    /// When it was last seen to, in milliseconds since 1970.
    #[schemars(with = "u64")]
    pub at: UnixMillis,
}

/// How a VM's configuration differs between two moments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigurationDiffView {
    /// Name of the VM.
    pub vm: String,
    /// The earlier moment, in milliseconds since 1970.
    #[schemars(with = "u64")]
    pub since: UnixMillis,
    /// The later one.
    #[schemars(with = "u64")]
    pub until: UnixMillis,
    /// What differs, by aspect and name.
    pub differing: Vec<DifferingView>,
    /// What is not known of the time between, and why.
    pub missing: Vec<String>,
}
