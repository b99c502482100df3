//! A VM's personality as it is shown: the record, and what its history, its versions and its node tell. Must never show
//! a part without its source, its age and what is missing of it.

mod collected;

mod configuration;

use self::collected::Collected;
use crate::control::{Control, ControlError};
use crate::vm::VmRecord;
use proteus_brain::personality::{PersonalityRecord, portrait};
use proteus_model::telemetry::{Bucket, Collector, FLOWS_BEGUN_MAX, FLOWS_COUNTED_MAX, LatencySeen, Metric};
use proteus_protocol::api::v1::{
    ApplicationView, BegunView, JudgementView, PartView, PerformanceView, PersonalityView, RecordView,
    TrafficView,
};
use std::collections::BTreeMap;

/// Whom it spoke to lately, by the host's count.
fn begun(record: &PersonalityRecord) -> Option<Vec<BegunView>> {
    let (_, flows) = record.flows.as_ref()?;
    Some(flows.iter().map(BegunView::from).collect())
}

/// What it sends and receives, with whom it speaks.
fn traffic(
    of_host: PartView<TrafficView>,
    record: &PersonalityRecord,
    collected: &Collected<'_>,
) -> PartView<TrafficView> {
    let connections = collected.connections_view();
    let mut part = of_host;
    part.missing.push("protocols other than TCP and UDP: not supported here".to_owned());
    match &record.flows {
        None => part.missing.push("whom it speaks to: is not counted yet".to_owned()),
        Some((_, flows)) if flows.len() >= FLOWS_BEGUN_MAX => {
            part.missing
                .push(format!("whom it speaks to beyond those {FLOWS_BEGUN_MAX} that were begun most"));
        }
        Some(_) => {}
    }
    if record.flows_full {
        part.missing.push(format!(
            "some of whom it speaks to: there were more than {FLOWS_COUNTED_MAX}, which is what is counted at one time"
        ));
    }
    if connections.is_none() {
        let why = collected.why_not(Collector::Connections);
        part.missing.push(format!("latency, and bytes of each peer: {why}"));
    } else {
        part.source = "host and guest".to_owned();
    }
    if let Some(value) = &mut part.value {
        (value.begun, value.connections) = (begun(record), connections);
        value.begun_at = record.flows.as_ref().map(|(at, _)| *at);
    }
    part
}

fn applications(record: &PersonalityRecord, collected: &Collected<'_>) -> PartView<Vec<ApplicationView>> {
    let Some((at, all)) = &record.applications else {
        return PartView::unknown("guest", "no agent was heard");
    };
    let mut missing =
        vec!["processes that lived less than ten seconds, unless they lived at a look".to_owned()];
    if !all.is_empty() && all.iter().all(|app| app.written.is_none()) {
        missing.push("IO of each: its agent is of before, or its kernel does not count it".to_owned());
    }
    if collected.connections().is_none() {
        missing.push(format!("sessions and dependencies: {}", collected.why_not(Collector::Connections)));
    }
    let share: f32 = all.iter().map(|app| app.cpu_share).sum();
    PartView {
        source: "guest".to_owned(),
        at: Some(*at),
        coverage: share.min(1.0),
        value: Some(all.iter().map(|app| collected.application(app, *at)).collect()),
        missing,
    }
}

/// How it fared, with what follows from two of its metrics.
fn performance(
    minutes: &[Bucket],
    never: &BTreeMap<Metric, String>,
    latencies: &BTreeMap<String, LatencySeen>,
) -> PartView<BTreeMap<String, PerformanceView>> {
    let mut part: PartView<BTreeMap<String, PerformanceView>> =
        portrait::performance("host and guest", minutes, never).into();
    if let (Some(all), Some(seen)) = (&mut part.value, portrait::per_cycle(minutes)) {
        let view = PerformanceView { p50: seen.p50, p95: seen.p95, p99: None, unit: String::new() };
        all.insert("instructions_per_cycle".to_owned(), view);
    }
    for kind in ["read", "write"] {
        let name = format!("{kind}_latency_last_minute");
        let (Some(all), Some(seen)) = (&mut part.value, latencies.get(kind)) else {
            part.missing.push(format!("{name}: there was none, or it is not counted yet"));
            continue;
        };
        let (p50, p95, p99) = (seen.p50_us, seen.p95_us, Some(seen.p99_us));
        all.insert(name, PerformanceView { p50, p95, p99, unit: Metric::DiskLatency.unit().to_owned() });
    }
    part
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

    /// What is known of a VM now, else what was kept of it.
    async fn record_of(&self, vm: &VmRecord) -> Result<PersonalityRecord, ControlError> {
        let known = self.personalities.vms().get(&vm.id).map(|judged| judged.record.clone());
        if let Some(known) = known {
            return Ok(known);
        }
        let kept = self.kept_personality(vm.id).await?.map(|kept| kept.value);
        Ok(kept.unwrap_or_else(|| PersonalityRecord::new(self.now())))
    }

    /// What a VM is observed to be.
    pub async fn personality(&self, vm: &str) -> Result<PersonalityView, ControlError> {
        let record = self.vm(vm).await?;
        let labels = self.labels().await?;
        let shown = self
            .personalities
            .vms()
            .get(&record.id)
            .map(|judged| (judged.judgements.clone(), judged.change.is_departed()));
        let (judgements, departed) = shown.unwrap_or_default();
        let own = self.record_of(&record).await?;
        let since = self.now().0.saturating_sub(portrait::LATELY_MS);
        // One that cannot be read is missing, and no reason to show nothing.
        let (minutes, long) = (self.node.history(record.id, 1).await, self.node.history(record.id, 2).await);
        let unread =
            minutes.as_ref().err().or(long.as_ref().err()).map(|error| format!("its history: {error}"));
        let (mut minutes, long) = (minutes.unwrap_or_default().buckets, long.unwrap_or_default().buckets);
        minutes.retain(|bucket| bucket.begins_at.0 >= since);
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
        let failed = self.personalities.failed(record.id);
        let collected = Collected::of(&own, failed.as_deref());
        let usage = self.node.usage(record.id).await.unwrap_or_default();
        let mut performance = performance(&minutes, &usage.unmeasured, &usage.disk_latencies);
        performance.missing.extend(unread);
        Ok(PersonalityView {
            vm: record.intent.name.to_string(),
            at: own.at,
            label: own.label().map(|label| label.as_str().to_owned()),
            judgement,
            host_only,
            record: RecordView {
                vm_id: record.id.to_string(),
                base_image_id: self.base_of(&record).await,
                configuration_history: configuration::configuration(
                    &self.versions(&record).await?,
                    &own,
                    &collected,
                ),
                application_usage_stats: applications(&own, &collected),
                data_footprint_analysis: collected.files(),
                network_traffic_profile: traffic(
                    portrait::traffic("host", &minutes, &long).into(),
                    &own,
                    &collected,
                ),
                api_call_frequency: collected.calls(),
                application_metrics: collected.endpoints(),
                log_activity: collected.logs(),
                graphics_processors: collected.gpus(),
                user_behavior_model: collected.users(),
                performance_metrics: performance,
                weighted_trait_vector: portrait::trait_vector(["host", "host and guest"], &own, &labels)
                    .into(),
            },
            labels: own.labels.into_iter().map(Into::into).collect(),
            changes: own.changes.into_iter().map(Into::into).collect(),
            departed,
            inherited_from,
        })
    }
}
