//! A VM's personality as it is shown: the record, and what its history, its versions and its node tell. Must never show
//! a part without its source, its age and what is missing of it.

mod collected;

use self::collected::Collected;
use super::PersonalityRecord;
use crate::control::{Control, ControlError};
use crate::vm::VmRecord;
use proteus_brain::personality::label::Labels;
use proteus_model::execution::Version;
use proteus_model::personality::{Trait, TraitVector};
use proteus_model::telemetry::{Bucket, Collector, Metric, Tier};
use proteus_model::unit::UnixMillis;
use proteus_protocol::api::v1::{
    ApplicationView, BegunView, ConfigurationView, JudgementView, PartView, PerformanceView, PersonalityView,
    RecordView, TrafficView, TraitView,
};
use std::collections::BTreeMap;

/// Versions that are shown, the latest.
const VERSIONS: usize = 50;
/// What "lately" is: an hour.
const LATELY_MS: u64 = 3_600_000;
/// Traffic that tells of its shape, KiB/s.
const TRAFFIC_MIN: f32 = 0.01;
/// Metrics of how a VM fares.
const PERFORMANCE: [Metric; 9] = [
    Metric::Cpu,
    Metric::RunDelay,
    Metric::Throttled,
    Metric::Overhead,
    Metric::DiskLatency,
    Metric::GuestMemory,
    Metric::PressureCpu,
    Metric::PressureMemory,
    Metric::PressureIo,
];

/// What the buckets have of a metric, by one of its numbers.
fn values(
    buckets: &[Bucket],
    metric: Metric,
    of: impl Fn(&proteus_model::telemetry::Summary) -> f32,
) -> Vec<f32> {
    buckets.iter().filter_map(|bucket| bucket.summaries[metric as usize].as_ref().map(&of)).collect()
}

fn mean(values: &[f32]) -> Option<f32> {
    (!values.is_empty()).then(|| values.iter().sum::<f32>() / values.len() as f32)
}

/// The value below which this share of them lies.
fn quantile(mut values: Vec<f32>, share: f32) -> Option<f32> {
    values.sort_unstable_by(f32::total_cmp);
    let at = (values.len().checked_sub(1)? as f32 * share).round() as usize;
    values.get(at).copied()
}

fn ratio(a: Option<f32>, b: Option<f32>) -> Option<f32> {
    Some(a? / b.filter(|b| *b > 0.0)?)
}

/// When the last of them ended.
fn last(buckets: &[Bucket], tier: usize) -> Option<UnixMillis> {
    buckets.last().map(|bucket| UnixMillis(bucket.begins_at.0 + Tier::ALL[tier].step_s * 1000))
}

/// Whom it spoke to lately, by the host's count.
fn begun(record: &PersonalityRecord) -> Option<Vec<BegunView>> {
    let (_, flows) = record.flows.as_ref()?;
    Some(flows.iter().map(BegunView::from).collect())
}

fn traffic(
    minutes: &[Bucket],
    long: &[Bucket],
    record: &PersonalityRecord,
    collected: &Collected<'_>,
) -> PartView<TrafficView> {
    let of = |metric| mean(&values(minutes, metric, |s| s.mean));
    let connections = collected.connections_view();
    let mut missing = vec!["protocols other than TCP and UDP: not supported here".to_owned()];
    if record.flows.is_none() {
        missing.push("whom it speaks to: is not counted yet".to_owned());
    }
    if connections.is_none() {
        missing
            .push(format!("latency, and bytes of each peer: {}", collected.why_not(Collector::Connections)));
    }
    let (Some(received), Some(sent)) = (of(Metric::Received), of(Metric::Sent)) else {
        let why = "nothing was measured in the last hour".to_owned();
        return PartView { missing: vec![why], ..PartView::unknown("host", "") };
    };
    let both = received + sent;
    let sums: Vec<f32> = minutes
        .iter()
        .filter_map(|bucket| {
            let of = |metric: Metric| bucket.summaries[metric as usize].map(|s| s.p95);
            Some(of(Metric::Received)? + of(Metric::Sent)?)
        })
        .collect();
    let mut by_hour: Vec<Vec<f32>> = vec![Vec::new(); 24];
    for bucket in long {
        let of = |metric: Metric| bucket.summaries[metric as usize].map(|s| s.mean);
        if let (Some(received), Some(sent)) = (of(Metric::Received), of(Metric::Sent)) {
            by_hour[(bucket.begins_at.0 / 3_600_000 % 24) as usize].push(received + sent);
        }
    }
    let bytes = |kib: f32, packets: Metric| Some(ratio(Some(kib), of(packets))? * 1024.0);
    let seen = |value: Option<f32>| value.filter(|_| both >= TRAFFIC_MIN);
    PartView {
        source: if connections.is_some() { "host and guest" } else { "host" }.to_owned(),
        at: last(minutes, 1),
        coverage: (minutes.len() as f32 / 60.0).min(1.0),
        value: Some(TrafficView {
            received,
            sent,
            sent_share: seen(ratio(Some(sent), Some(both))),
            packet_in: seen(bytes(received, Metric::PacketsReceived)),
            packet_out: seen(bytes(sent, Metric::PacketsSent)),
            burstiness: seen(ratio(quantile(sums, 0.95), Some(both))),
            by_hour: by_hour.iter().map(|hour| mean(hour)).collect(),
            begun: begun(record),
            connections,
        }),
        missing,
    }
}

fn performance(minutes: &[Bucket]) -> PartView<BTreeMap<String, PerformanceView>> {
    let mut all = BTreeMap::new();
    let mut missing = Vec::new();
    for metric in PERFORMANCE {
        let p50 = quantile(values(minutes, metric, |s| s.mean), 0.5);
        let p95 = quantile(values(minutes, metric, |s| s.p95), 0.95);
        match (p50, p95) {
            (Some(p50), Some(p95)) => {
                let unit = metric.unit().to_owned();
                all.insert(metric.name().to_owned(), PerformanceView { p50, p95, unit });
            }
            _ if metric.is_of_guest() => missing.push(format!("{metric}: no agent was heard")),
            _ => missing.push(format!("{metric}: was not measured in the last hour")),
        }
    }
    let coverage = all.len() as f32 / PERFORMANCE.len() as f32;
    let at = last(minutes, 1);
    PartView { source: "host and guest".to_owned(), at, coverage, value: Some(all), missing }
}

fn trait_vector(record: &PersonalityRecord, labels: &Labels) -> PartView<Vec<TraitView>> {
    let vector = record.traits;
    let view = |(this, value): (Trait, f32)| TraitView {
        name: this.name().to_owned(),
        meaning: this.meaning().to_owned(),
        value: this.natural(value),
        deviation: labels.off_center(this, value),
        weight: labels.weight(this),
        of_guest: this.is_of_guest(),
    };
    let known: Vec<TraitView> = vector.known().map(view).collect();
    let missing = |this: Trait| {
        let why = if this.is_of_guest() { "no agent was heard" } else { "too little of it to tell" };
        vector.get(this).is_none().then(|| format!("{this}: {why}"))
    };
    let of_guest = vector != TraitVector::of_host(vector);
    PartView {
        source: if of_guest { "host and guest" } else { "host" }.to_owned(),
        at: record.at,
        coverage: known.len() as f32 / Trait::ALL.len() as f32,
        missing: Trait::ALL.into_iter().filter_map(missing).collect(),
        value: Some(known),
    }
}

fn applications(record: &PersonalityRecord, collected: &Collected<'_>) -> PartView<Vec<ApplicationView>> {
    let Some((at, all)) = &record.applications else {
        return PartView::unknown("guest", "no agent was heard");
    };
    let mut missing = vec![
        "processes that lived less than ten seconds, unless they lived at a look".to_owned(),
        "IO of each: not supported here".to_owned(),
    ];
    if collected.connections().is_none() {
        missing.push(format!("sessions and dependencies: {}", collected.why_not(Collector::Connections)));
    }
    let share: f32 = all.iter().map(|app| app.cpu_share).sum();
    PartView {
        source: "guest".to_owned(),
        at: Some(*at),
        coverage: share.min(1.0),
        value: Some(all.iter().map(|app| collected.application(app)).collect()),
        missing,
    }
}

/// The settings of each version that are other than in the one before.
fn configuration(versions: &[Version]) -> PartView<Vec<ConfigurationView>> {
    let empty = Vec::new();
    let view = |at: usize| {
        let version = &versions[at];
        let before = at.checked_sub(1).map_or(&empty, |before| &versions[before].settings);
        let new = version.settings.iter().filter(|setting| !before.contains(setting));
        ConfigurationView {
            at: version.at,
            version: version.number,
            profile: version.profile.clone(),
            morph: version.morph.map(|morph| morph.to_string()),
            changed: new.map(ToString::to_string).collect(),
        }
    };
    let from = versions.len().saturating_sub(VERSIONS);
    PartView {
        source: "records".to_owned(),
        at: versions.last().map(|version| version.at),
        coverage: 1.0,
        value: Some((from..versions.len()).map(view).collect()),
        missing: vec![
            "changes by others, of packages, units, mounts and /etc: not supported here".to_owned(),
        ],
    }
}

impl Control {
    async fn base_of(&self, record: &VmRecord) -> PartView<BTreeMap<String, String>> {
        match self.node.base_images(record.id).await {
            Ok(digests) => PartView {
                source: "host".to_owned(),
                at: Some(self.now()),
                coverage: 1.0,
                value: Some(digests),
                missing: Vec::new(),
            },
            Err(error) => PartView::unknown("host", &error.message),
        }
    }

    /// What a VM is observed to be.
    pub async fn personality(&self, vm: &str) -> Result<PersonalityView, ControlError> {
        let record = self.vm(vm).await?;
        let labels = self.labels().await?;
        let shown = self.personalities.vms().get(&record.id).map(|judged| {
            let failed = judged.asking.failed.clone();
            (judged.record.clone(), judged.judgements.clone(), judged.change.is_departed(), failed)
        });
        let (own, judgements, departed, failed) = match shown {
            Some(shown) => shown,
            None => {
                let kept = self.kept_personality(record.id).await?.map(|kept| kept.value);
                (kept.unwrap_or_else(|| PersonalityRecord::new(self.now())), None, false, None)
            }
        };
        let since = self.now().0.saturating_sub(LATELY_MS);
        let mut minutes = self.node.history(record.id, 1).await?.buckets;
        minutes.retain(|bucket| bucket.begins_at.0 >= since);
        let long = self.node.history(record.id, 2).await?.buckets;
        let [judgement, host_only] = match judgements {
            Some(both) => both.map(|one| Some(JudgementView::from(one))),
            None => [None, None],
        };
        let inherited_from = match own.inherited_from {
            // Its template may be gone.
            Some(template) => Some(match self.vm_of(template).await {
                Ok(template) => template.intent.name.to_string(),
                Err(_) => template.to_string(),
            }),
            None => None,
        };
        let collected = Collected::of(&own, failed.as_deref());
        let users = "off: nothing of people is watched; the owner's policy and the consent given inside the guest that it needs are not supported here";
        Ok(PersonalityView {
            vm: record.intent.name.to_string(),
            at: own.at,
            label: own.label().map(|label| label.as_str().to_owned()),
            judgement,
            host_only,
            record: RecordView {
                vm_id: record.id.to_string(),
                base_image_id: self.base_of(&record).await,
                configuration_history: configuration(&self.versions(&record).await?),
                application_usage_stats: applications(&own, &collected),
                data_footprint_analysis: PartView::unknown(
                    "guest",
                    "files are not looked at: not supported here",
                ),
                network_traffic_profile: traffic(&minutes, &long, &own, &collected),
                api_call_frequency: collected.calls(),
                application_metrics: collected.endpoints(),
                log_activity: collected.logs(),
                graphics_processors: collected.gpus(),
                user_behavior_model: PartView::unknown("guest", users),
                performance_metrics: performance(&minutes),
                weighted_trait_vector: trait_vector(&own, &labels),
            },
            labels: own.labels.into_iter().map(Into::into).collect(),
            changes: own.changes.into_iter().map(Into::into).collect(),
            departed,
            inherited_from,
        })
    }
}
