//! What a VM is observed to be, as it is shown. What is not known is not there, and each part says why.

use super::collected::{BegunView, ConnectionsView, EndpointView, GpuView, LogView};
use super::inside::{FootprintView, UsersView};
use proteus_model::personality::{
    Candidate, Evidence, Judgement, Labelled, Part, Performance, PersonalityChange, Traffic, TraitSeen,
};
use proteus_model::telemetry::{Application, Metric};
use proteus_model::unit::UnixMillis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How near a VM is to a label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CandidateView {
    /// Which.
    pub label: String,
    /// Distance to its nearest prototype, in robust deviations: 0 is the same, beyond 1 is little alike.
    pub distance: f32,
}

/// What speaks for a label, or against it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EvidenceView {
    /// The trait; `None`: programs that the guest names.
    #[serde(rename = "trait")]
    pub of: Option<String>,
    /// What was seen, in words.
    pub seen: String,
    /// How much it speaks for it, or against it where negative.
    pub weight: f32,
}

impl From<Evidence> for EvidenceView {
    fn from(evidence: Evidence) -> Self {
        let Evidence { of, seen, weight } = evidence;
        Self { of: of.map(|this| this.name().to_owned()), seen, weight }
    }
}

/// What the last look says that a VM is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JudgementView {
    /// Its label; `None`: don't know.
    pub label: Option<String>,
    /// How sure, 0–1: the part of the nearest label in the two nearest; 0.5 is torn between them.
    pub confidence: f32,
    /// All labels, the nearest first.
    pub candidates: Vec<CandidateView>,
    /// What speaks for the nearest and against it, the strongest first.
    pub evidence: Vec<EvidenceView>,
    /// Why it is not known, where it is not.
    pub why_not: Option<String>,
    /// Whether the guest's word had a part in it.
    pub with_guest: bool,
}

impl From<Judgement> for JudgementView {
    fn from(judgement: Judgement) -> Self {
        let candidate =
            |c: Candidate| CandidateView { label: c.label.as_str().to_owned(), distance: c.distance };
        Self {
            label: judgement.label.map(String::from),
            confidence: judgement.confidence,
            candidates: judgement.candidates.into_iter().map(candidate).collect(),
            evidence: judgement.evidence.into_iter().map(EvidenceView::from).collect(),
            why_not: judgement.why_not,
            with_guest: judgement.with_guest,
        }
    }
}

/// Since when a VM bears a label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LabelledView {
    /// Since, in milliseconds since 1970.
    #[schemars(with = "u64")]
    pub since: UnixMillis,
    /// Its label; `None`: not known.
    pub label: Option<String>,
}

impl From<Labelled> for LabelledView {
    fn from(labelled: Labelled) -> Self {
        Self { since: labelled.since, label: labelled.label.map(String::from) }
    }
}

/// That a VM changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PersonalityChangeView {
    /// `shift`: it became something else, and stays it. `anomaly`: it does what it did not, and became nothing else.
    pub kind: String,
    /// When it began, in milliseconds since 1970.
    #[schemars(with = "u64")]
    pub began_at: UnixMillis,
    /// When it was told.
    #[schemars(with = "u64")]
    pub told_at: UnixMillis,
    /// What it was before; `None`: that was not known.
    pub from: Option<String>,
    /// What it is since.
    pub to: Option<String>,
    /// What moved, the most first.
    pub evidence: Vec<EvidenceView>,
}

impl From<PersonalityChange> for PersonalityChangeView {
    fn from(change: PersonalityChange) -> Self {
        Self {
            kind: change.kind.name().to_owned(),
            began_at: change.began_at,
            told_at: change.told_at,
            from: change.from.map(String::from),
            to: change.to.map(String::from),
            evidence: change.evidence.into_iter().map(EvidenceView::from).collect(),
        }
    }
}

/// A part of the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PartView<T> {
    /// Who says so: `host`, `guest`, `host and guest`, `records`.
    pub source: String,
    /// When it was seen last, in milliseconds since 1970; `None`: not yet.
    #[schemars(with = "Option<u64>")]
    pub at: Option<UnixMillis>,
    /// How much of it is known, 0–1: of the time that it tells of, or of its values.
    pub coverage: f32,
    /// What is known; `None`: nothing.
    pub value: Option<T>,
    /// What is not, and why.
    pub missing: Vec<String>,
}

impl<T> PartView<T> {
    /// One of which nothing is known.
    pub fn unknown(source: &str, why: &str) -> Self {
        Self {
            source: source.to_owned(),
            at: None,
            coverage: 0.0,
            value: None,
            missing: vec![why.to_owned()],
        }
    }

    /// The same with its value as it is shown.
    fn of<S>(part: Part<S>, view: impl FnOnce(S) -> T) -> Self {
        let Part { source, at, coverage, value, missing } = part;
        Self { source, at, coverage, value: value.map(view), missing }
    }
}

/// A change of how a VM is built or set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigurationView {
    /// When, in milliseconds since 1970.
    #[schemars(with = "u64")]
    pub at: UnixMillis,
    /// Its version since.
    pub version: u64,
    /// Its profile since.
    pub profile: Option<String>,
    /// The morph that did it; `None`: the VM was made.
    pub morph: Option<String>,
    /// Settings that are other than in the version before; of what changed inside, what is other, from → to.
    pub changed: Vec<String>,
    /// Who did it: `proteus`, or `others` inside; `None`: that is not known.
    #[serde(default)]
    pub by: Option<String>,
    /// Of what changed inside, when it was not yet so, in milliseconds since 1970: it is looked at every few minutes.
    #[serde(default)]
    #[schemars(with = "Option<u64>")]
    pub after: Option<UnixMillis>,
}

/// All processes of one name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ApplicationView {
    /// The kernel's name of its processes.
    pub name: String,
    /// Its share of the CPU time that was seen used in about the last minute, 0–1.
    pub cpu_share: f32,
    /// CPU time that it was seen to use since it was first seen, ms.
    pub cpu_ms: u64,
    /// How many of its processes began since, and were seen.
    pub starts: u64,
    /// That in an hour, over all the time since it was first seen; `None`: that is less than ten minutes.
    #[serde(default)]
    pub starts_per_hour: Option<f32>,
    /// Whether it runs now.
    #[serde(default)]
    pub running: bool,
    /// How many of its processes were listed and are no more: they ended, or others used more.
    #[serde(default)]
    pub lives: u64,
    /// How long these had lived, in the mean, ms; `None`: there were none.
    #[serde(default)]
    pub life_mean_ms: Option<u64>,
    /// The longest life of one, also of one that lives, ms; `None`: the guest does not tell.
    #[serde(default)]
    pub life_longest_ms: Option<u64>,
    /// Its processes now.
    pub processes: u32,
    /// The most memory that they had together, bytes.
    pub resident_max: u64,
    /// What it was seen to read from storage since it was first seen, bytes; `None`: the guest does not tell.
    #[serde(default)]
    pub read: Option<u64>,
    /// What it was seen to write that goes to storage, bytes.
    #[serde(default)]
    pub written: Option<u64>,
    /// Bytes per second that it reads from storage, over about the last minute; `None`: not told now.
    #[serde(default)]
    pub read_per_second: Option<f32>,
    /// Bytes per second that it writes and that go to storage, alike.
    #[serde(default)]
    pub written_per_second: Option<f32>,
    /// Connections of others that it serves now: its sessions; `None`: not known.
    pub sessions: Option<u32>,
    /// Requests per second that it tells of; `None`: it tells of none.
    pub requests: Option<f64>,
    /// Programs and machines that it asks, as `redis-server:6379` or `10.0.0.5:443`, by its connections of now.
    #[serde(default)]
    pub depends_on: Vec<String>,
    /// When it was first seen, in milliseconds since 1970.
    #[schemars(with = "u64")]
    pub first_at: UnixMillis,
    /// When it was last seen.
    #[schemars(with = "u64")]
    pub last_at: UnixMillis,
}

impl From<Application> for ApplicationView {
    fn from(app: Application) -> Self {
        Self {
            starts_per_hour: None,
            running: app.processes > 0,
            lives: app.lives,
            life_mean_ms: app.life_mean().map(|mean| mean.0),
            life_longest_ms: app.longest.map(|longest| longest.0),
            name: app.name,
            cpu_share: app.cpu_share,
            cpu_ms: app.cpu.0,
            starts: app.starts,
            processes: app.processes,
            resident_max: app.resident_max.0,
            read: app.read.map(|bytes| bytes.0),
            written: app.written.map(|bytes| bytes.0),
            read_per_second: app.read_per_second,
            written_per_second: app.written_per_second,
            sessions: None,
            requests: None,
            depends_on: Vec::new(),
            first_at: app.first_at,
            last_at: app.last_at,
        }
    }
}

/// What a VM sends and receives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficView {
    /// Mean received over the last hour, KiB/s.
    pub received: f32,
    /// Mean sent over the last hour, KiB/s.
    pub sent: f32,
    /// Bytes sent as a share of all, 0–1; `None`: there were none.
    pub sent_share: Option<f32>,
    /// Mean size of a packet received, bytes.
    pub packet_in: Option<f32>,
    /// Mean size of a packet sent, bytes.
    pub packet_out: Option<f32>,
    /// Burstiness: the 95th percentile of both directions over their mean.
    pub burstiness: Option<f32>,
    /// Mean of both directions by the hour of the day (UTC), KiB/s, over the last sixty days; `None`: that hour was
    /// never seen.
    pub by_hour: Vec<Option<f32>>,
    /// Whom it spoke to in about the last ten minutes by the host's own count, what was begun most first; `None`: not known.
    pub begun: Option<Vec<BegunView>>,
    /// When that was looked at, in milliseconds since 1970.
    #[schemars(with = "Option<u64>")]
    pub begun_at: Option<UnixMillis>,
    /// Its TCP connections, by its agent; `None`: not known.
    pub connections: Option<ConnectionsView>,
}

impl From<Part<Traffic>> for PartView<TrafficView> {
    fn from(part: Part<Traffic>) -> Self {
        Self::of(part, |traffic| TrafficView {
            received: traffic.received,
            sent: traffic.sent,
            sent_share: traffic.sent_share,
            packet_in: traffic.packet_in,
            packet_out: traffic.packet_out,
            burstiness: traffic.burstiness,
            by_hour: traffic.by_hour,
            begun: None,
            begun_at: None,
            connections: None,
        })
    }
}

/// How a metric was over the last hour; where its name says so, over the last minute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PerformanceView {
    /// Median of the minutes' means.
    pub p50: f32,
    /// 95th percentile of the minutes' 95th percentiles.
    pub p95: f32,
    /// 99th percentile, where each operation is counted, as of latencies of disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99: Option<f32>,
    /// What it is measured in.
    pub unit: String,
}

impl From<Part<BTreeMap<Metric, Performance>>> for PartView<BTreeMap<String, PerformanceView>> {
    fn from(part: Part<BTreeMap<Metric, Performance>>) -> Self {
        let view = |(metric, Performance { p50, p95 }): (Metric, Performance)| {
            (
                metric.name().to_owned(),
                PerformanceView { p50, p95, p99: None, unit: metric.unit().to_owned() },
            )
        };
        Self::of(part, |all| all.into_iter().map(view).collect())
    }
}

/// One dimension of the trait vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TraitView {
    /// Its name.
    pub name: String,
    /// What it is.
    pub meaning: String,
    /// Its value, in the unit of `meaning`.
    pub value: f32,
    /// Distance from the median of all prototypes, in robust deviations, at most 4 either way.
    pub deviation: f32,
    /// How much it counts, 0–1.
    pub weight: f32,
    /// Whether there is only the guest's word for it.
    pub of_guest: bool,
}

impl From<Part<Vec<TraitSeen>>> for PartView<Vec<TraitView>> {
    fn from(part: Part<Vec<TraitSeen>>) -> Self {
        let view = |TraitSeen { of, value, deviation, weight }: TraitSeen| TraitView {
            name: of.name().to_owned(),
            meaning: of.meaning().to_owned(),
            value,
            deviation,
            weight,
            of_guest: of.is_of_guest(),
        };
        Self::of(part, |all| all.into_iter().map(view).collect())
    }
}

/// The parts of the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
pub struct RecordView {
    /// Its id.
    #[serde(rename = "VMID")]
    pub vm_id: String,
    /// What it is made of: SHA-256 by file, as these are now.
    #[serde(rename = "BaseImageID")]
    pub base_image_id: PartView<BTreeMap<String, String>>,
    /// Every change of how it is built or set, the oldest first.
    pub configuration_history: PartView<Vec<ConfigurationView>>,
    /// Its programs.
    pub application_usage_stats: PartView<Vec<ApplicationView>>,
    /// Its files.
    pub data_footprint_analysis: PartView<FootprintView>,
    /// What it sends and receives.
    pub network_traffic_profile: PartView<TrafficView>,
    /// System calls of all programs by class, per second; and, where they are counted, calls of libraries by library and
    /// class, as `libssl/tls`.
    pub api_call_frequency: PartView<BTreeMap<String, f64>>,
    /// What applications tell of themselves.
    pub application_metrics: PartView<Vec<EndpointView>>,
    /// How much services write to their logs, the most first.
    pub log_activity: PartView<Vec<LogView>>,
    /// Graphics processors that are passed through.
    pub graphics_processors: PartView<Vec<GpuView>>,
    /// What its people do, by their consent.
    pub user_behavior_model: PartView<UsersView>,
    /// How it fares, by metric.
    pub performance_metrics: PartView<BTreeMap<String, PerformanceView>>,
    /// The trait vector.
    pub weighted_trait_vector: PartView<Vec<TraitView>>,
}

/// What a VM is observed to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PersonalityView {
    /// Its name.
    pub vm: String,
    /// When it was last judged, in milliseconds since 1970; `None`: it is not known yet.
    #[schemars(with = "Option<u64>")]
    pub at: Option<UnixMillis>,
    /// The label that it bears: three looks in a row agreed; `None`: don't know.
    pub label: Option<String>,
    /// The last look, with all that is known.
    pub judgement: Option<JudgementView>,
    /// The same by what the host alone sees.
    pub host_only: Option<JudgementView>,
    /// The labels that it bore, the oldest first.
    pub labels: Vec<LabelledView>,
    /// Shifts and anomalies, the oldest first.
    pub changes: Vec<PersonalityChangeView>,
    /// Whether it is away from what it was, and not yet told what became of it.
    pub departed: bool,
    /// The template that it has its first label from.
    pub inherited_from: Option<String>,
    /// All that is known of it.
    pub record: RecordView,
}

/// Asks for a label to be learned from a VM as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TeachRequest {
    /// The label: lower-case letters and digits, in words.
    pub label: String,
}

/// A label that VMs are known by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LabelView {
    /// Its text.
    pub label: String,
    /// What it was learned from: VMs that shipped with Proteus, and VMs of here.
    pub sources: Vec<String>,
    /// How many of these were taught here.
    pub taught: usize,
}
