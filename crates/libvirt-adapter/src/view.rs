//! A VM as it is shown: the fields of Proteus's own API, by libvirt. Must never show a part without its source, its age
//! and what is missing of it.

use crate::domstats::{Domain, State};
use proteus_brain::personality::label::Labels;
use proteus_brain::personality::{Judged, PersonalityRecord, portrait};
use proteus_brain::telemetry::pool;
use proteus_model::id::VmId;
use proteus_model::personality::Judgement;
use proteus_model::telemetry::{Bucket, Metric, Tier};
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

/// Minutes, and the one that is not over yet, of the short buckets of now.
pub fn with_open_minute(mut minutes: Vec<Bucket>, short: &[Bucket]) -> Vec<Bucket> {
    let minute = Tier::ALL[1];
    let end =
        minutes.last().map_or(UnixMillis(0), |last| UnixMillis(last.begins_at.0 + minute.step_s * 1000));
    let open: Vec<Bucket> = short.iter().filter(|bucket| bucket.begins_at >= end).cloned().collect();
    minutes.extend(open.last().map(|last| pool(minute.begin_of(last.begins_at), &open)));
    minutes
}

/// The whole personality. `minutes`: of the last hour; `long`: of all that is kept; `now`: nothing was seen later.
pub fn personality(
    shown: Shown,
    minutes: &[Bucket],
    long: &[Bucket],
    labels: &Labels,
    now: UnixMillis,
) -> PersonalityView {
    let Shown { id, name, record, judgements, departed } = shown;
    let [judgement, host_only] = match judgements {
        Some(both) => both.map(|one| Some(JudgementView::from(one))),
        None => [None, None],
    };
    let untold = [Metric::Throttled, Metric::DirtyRate].into_iter().chain(Metric::OF_HARDWARE);
    let untold = untold.map(|metric| (metric, "libvirt does not tell it".to_owned())).collect();
    let mut performance = portrait::performance(SOURCE, minutes, &untold);
    performance.at = performance.at.map(|at| at.min(now));
    let mut traffic = portrait::traffic(SOURCE, minutes, long);
    traffic.at = traffic.at.map(|at| at.min(now));
    traffic.missing.push("whom it speaks to, latency: libvirt does not tell it".to_owned());
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
            network_traffic_profile: traffic.into(),
            api_call_frequency: PartView::unknown("guest", no_agent),
            application_metrics: PartView::unknown("guest", no_agent),
            log_activity: PartView::unknown("guest", no_agent),
            graphics_processors: PartView::unknown("guest", no_agent),
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

#[cfg(test)]
mod tests {
    use super::*;
    use proteus_model::telemetry::{METRICS, Summary};

    fn bucket(at_s: u64, cpu: f32) -> Bucket {
        let mut summaries = [None; METRICS];
        summaries[Metric::Cpu as usize] = Some(Summary { min: cpu, p50: cpu, p95: cpu, max: cpu, mean: cpu });
        Bucket { begins_at: UnixMillis(at_s * 1000), readings: 2, summaries }
    }

    #[test]
    fn the_open_minute_is_shown_and_nothing_is_of_the_future() {
        let short = [40, 50, 60, 70].map(|at| bucket(at, at as f32));
        let minutes = with_open_minute(vec![bucket(0, 9.0)], &short);
        assert_eq!(minutes.len(), 2);
        assert_eq!(minutes[1].begins_at, UnixMillis(60_000));
        assert_eq!(minutes[1].summaries[0].map(|cpu| (cpu.min, cpu.max)), Some((60.0, 70.0)));
        assert_eq!(with_open_minute(vec![bucket(60, 1.0)], &short).len(), 1);
        assert!(with_open_minute(Vec::new(), &[]).is_empty());
        let shown = Shown {
            id: VmId::from_bits(1),
            name: "web".to_owned(),
            record: PersonalityRecord::new(UnixMillis(0)),
            judgements: None,
            departed: false,
        };
        let labels = Labels::new(&proteus_brain::personality::label::shipped());
        let view = personality(shown, &minutes, &[], &labels, UnixMillis(80_000));
        let performance = &view.record.performance_metrics;
        assert_eq!((performance.at, performance.source.as_str()), (Some(UnixMillis(80_000)), SOURCE));
        assert!(performance.value.as_ref().is_some_and(|all| all.len() == 1 && all.contains_key("cpu")));
        let untold = "throttled, instructions, cycles, cache_misses, dirty_rate: libvirt does not tell it";
        assert!(performance.missing.iter().any(|why| why == untold), "{:?}", performance.missing);
        assert_eq!(view.record.network_traffic_profile.value, None);
    }
}
