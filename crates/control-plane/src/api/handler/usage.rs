//! Routes of what is measured of VMs.

use super::{Answer, DryRun, DryRunQuery, Shared};
use crate::api::access::Caller;
use crate::api::refusal::Refusal;
use crate::control::ControlError;
use axum::body::Bytes as Body;
use axum::extract::{Extension, Path, Query, State};
use axum::response::{IntoResponse, Json};
use proteus_model::telemetry::{Bucket, Metric, Tier};
use proteus_model::unit::UnixMillis;
use proteus_protocol::api::v1::{BucketView, HISTORY_STEPS_S, HistoryView, ImportView, UsageView, ValueView};
use proteus_protocol::node::v1::{ImportObserved, UsageObserved};
use serde::Deserialize;

fn usage_view(seen: UsageObserved) -> UsageView {
    let value = |(metric, value): (Metric, f32)| {
        let unit = metric.unit().to_owned();
        (metric.name().to_owned(), ValueView { value, unit, of_guest: metric.is_of_guest() })
    };
    UsageView {
        at: seen.at,
        values: seen.values.into_iter().map(value).collect(),
        faults: seen.faults,
        disagreement: seen.disagreement,
        disagreements: seen.disagreements,
        disk_latencies: seen.disk_latencies.into_iter().map(|(kind, seen)| (kind, seen.into())).collect(),
    }
}

pub(in crate::api) async fn usage(State(control): Shared, Path(vm): Path<String>) -> Answer<UsageView> {
    let record = control.vm(&vm).await?;
    let seen = control.node().usage(record.id).await.map_err(ControlError::from)?;
    Ok(Json(usage_view(seen)))
}

#[derive(Deserialize)]
pub(in crate::api) struct HistoryQuery {
    step_s: Option<u64>,
    metrics: Option<String>,
    since: Option<u64>,
    until: Option<u64>,
}

/// The place of a resolution in [`Tier::ALL`].
fn tier_of(step_s: Option<u64>) -> Result<usize, Refusal> {
    let step_s = step_s.unwrap_or(HISTORY_STEPS_S[1]);
    let found = Tier::ALL.iter().position(|tier| tier.step_s == step_s);
    let message = || format!("step_s: expected 10, 60 or 600, found {step_s}");
    let hint = "10 s reach back two hours, 60 s two days, 600 s sixty days";
    found.ok_or_else(|| Refusal::invalid(message(), hint))
}

/// Metrics by their names, with commas between; all of them where none is named.
fn metrics_of(names: Option<&str>) -> Result<Vec<Metric>, Refusal> {
    let Some(names) = names.filter(|names| !names.is_empty()) else { return Ok(Metric::ALL.to_vec()) };
    let find = |name: &str| {
        let known: Vec<&str> = Metric::ALL.iter().map(|metric| metric.name()).collect();
        let message = format!("metrics: there is none called {name:?}");
        Metric::named(name).ok_or_else(|| Refusal::invalid(message, &format!("one of {}", known.join(", "))))
    };
    names.split(',').map(|name| find(name.trim())).collect()
}

fn bucket_view(bucket: Bucket, metrics: &[Metric]) -> BucketView {
    let value =
        |metric: &Metric| Some((metric.name().to_owned(), bucket.summaries[*metric as usize]?.into()));
    let values = metrics.iter().filter_map(value).collect();
    BucketView { begins_at: bucket.begins_at, readings: bucket.readings, values }
}

pub(in crate::api) async fn history(
    State(control): Shared,
    Path(vm): Path<String>,
    Query(query): Query<HistoryQuery>,
) -> Answer<HistoryView> {
    let (tier, metrics) = (tier_of(query.step_s)?, metrics_of(query.metrics.as_deref())?);
    let record = control.vm(&vm).await?;
    let found = control.node().history(record.id, tier).await.map_err(ControlError::from)?;
    let wanted = UnixMillis(query.since.unwrap_or(0))..=UnixMillis(query.until.unwrap_or(u64::MAX));
    let buckets = found.buckets.into_iter().filter(|bucket| wanted.contains(&bucket.begins_at));
    Ok(Json(HistoryView {
        step_s: Tier::ALL[tier].step_s,
        units: metrics.iter().map(|metric| (metric.name().to_owned(), metric.unit().to_owned())).collect(),
        buckets: buckets.map(|bucket| bucket_view(bucket, &metrics)).collect(),
        damaged: found.damaged,
    }))
}

/// The file itself, as `application/octet-stream`.
pub(in crate::api) async fn export_history(
    State(control): Shared,
    Path(vm): Path<String>,
) -> Result<impl IntoResponse, Refusal> {
    let record = control.vm(&vm).await?;
    let bytes = control.node().export_history(record.id).await.map_err(ControlError::from)?;
    Ok(([("content-type", "application/octet-stream")], bytes))
}

/// The body is the file itself.
pub(in crate::api) async fn import_history(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    Path(vm): Path<String>,
    Query(DryRun { dry_run }): DryRunQuery,
    body: Body,
) -> Answer<ImportView> {
    let runner = control.clone();
    let work = async move { control.import_history(&vm, &body, dry_run, &caller.name).await };
    let ImportObserved { buckets, future, damaged, faults } = runner.run_to_end(work).await?;
    Ok(Json(ImportView { buckets, future, damaged, faults }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_asked_for_is_refused_with_what_can() {
        assert_eq!(Tier::ALL.map(|tier| tier.step_s), HISTORY_STEPS_S);
        assert_eq!(tier_of(Some(600)).ok(), Some(2));
        assert!(tier_of(Some(30)).is_err());
        assert_eq!(metrics_of(Some("cpu, sent")).ok(), Some(vec![Metric::Cpu, Metric::Sent]));
        assert_eq!(metrics_of(Some("")).ok().map(|all| all.len()), Some(Metric::ALL.len()));
        assert!(metrics_of(Some("cpu,nonsense")).is_err());
    }
}
