//! A VM as it is shown: the fields of Proteus's own API, by libvirt. Must never show a part without its source, its age
//! and what is missing of it.

use crate::domstats::{Domain, State};
use proteus_brain::personality::label::Labels;
use proteus_brain::personality::{Judged, PersonalityRecord, portrait};
use proteus_model::id::VmId;
use proteus_model::personality::Judgement;
use proteus_model::telemetry::Bucket;
use proteus_model::unit::UnixMillis;
use proteus_protocol::api::v1::{JudgementView, PartView, PersonalityView, RecordView};
use serde::{Deserialize, Serialize};

/// Who says so.
pub const SOURCE: &str = "libvirt";

/// One VM in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmRow {
    /// Its id: the UUID without dashes.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// How it is.
    pub state: State,
    /// vCPUs now.
    pub vcpus: Option<u32>,
    /// Memory now, bytes.
    pub memory: Option<u64>,
    /// The label that it bears; `None`: don't know, or never watched.
    pub label: Option<String>,
    /// How sure the last look was, 0–1.
    pub confidence: Option<f32>,
    /// When it was judged last, in milliseconds since 1970.
    pub judged_at: Option<UnixMillis>,
    /// Who says so.
    pub source: String,
}

impl VmRow {
    /// One as libvirt tells it.
    pub fn new(domain: &Domain) -> Self {
        Self {
            id: domain.id,
            name: domain.name.clone(),
            state: domain.state,
            vcpus: domain.vcpus[0],
            memory: domain.memory[0].map(|memory| memory.0),
            label: None,
            confidence: None,
            judged_at: None,
            source: SOURCE.to_owned(),
        }
    }

    /// The same with what it is.
    pub fn known(self, record: &PersonalityRecord, judgement: Option<&Judgement>) -> Self {
        Self {
            label: record.label().map(ToString::to_string),
            confidence: judgement.map(|judgement| judgement.confidence),
            judged_at: record.at,
            ..self
        }
    }
}

/// What is shown of one VM.
pub struct Shown {
    /// Which.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// What it is observed to be.
    pub record: PersonalityRecord,
    /// The last judgements; `None`: not since it is watched.
    pub judgements: Option<[Judgement; 2]>,
    /// Whether it is away from what it was.
    pub departed: bool,
}

impl Shown {
    /// One that is watched.
    pub fn watched(domain: &Domain, judged: &Judged) -> Self {
        Self {
            id: domain.id,
            name: domain.name.clone(),
            record: judged.record.clone(),
            judgements: judged.judgements.clone(),
            departed: judged.change.is_departed(),
        }
    }
}

/// The whole personality. `minutes`: of the last hour; `long`: of all that is kept.
pub fn personality(shown: Shown, minutes: &[Bucket], long: &[Bucket], labels: &Labels) -> PersonalityView {
    let Shown { id, name, record, judgements, departed } = shown;
    let [judgement, host_only] = match judgements {
        Some(both) => both.map(|one| Some(JudgementView::from(one))),
        None => [None, None],
    };
    let mut performance = portrait::performance(SOURCE, minutes);
    performance.missing.retain(|missing| !missing.starts_with("throttled:"));
    performance.missing.push("throttled: libvirt does not tell it".to_owned());
    let no_agent = "nothing of Proteus is installed in the guest";
    PersonalityView {
        vm: name,
        at: record.at,
        label: record.label().map(|label| label.as_str().to_owned()),
        judgement,
        host_only,
        record: RecordView {
            vm_id: id.to_string(),
            base_image_id: PartView::unknown(SOURCE, "its disks are not read"),
            configuration_history: PartView::unknown(
                SOURCE,
                "what it is built like is its administrator's; Proteus keeps no versions of it",
            ),
            application_usage_stats: PartView::unknown("guest", no_agent),
            data_footprint_analysis: PartView::unknown("guest", no_agent),
            network_traffic_profile: portrait::traffic(SOURCE, minutes, long).into(),
            user_behavior_model: PartView::unknown("guest", no_agent),
            performance_metrics: performance.into(),
            weighted_trait_vector: portrait::trait_vector([SOURCE, SOURCE], &record, labels).into(),
        },
        labels: record.labels.into_iter().map(Into::into).collect(),
        changes: record.changes.into_iter().map(Into::into).collect(),
        departed,
        inherited_from: None,
    }
}
