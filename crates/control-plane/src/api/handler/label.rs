//! Routes of what VMs are observed to be.

use super::{Answer, DryRun, DryRunQuery, Shared, parse};
use crate::api::access::Caller;
use crate::api::refusal::Refusal;
use axum::body::Bytes as Body;
use axum::extract::{Extension, Path, Query, State};
use axum::response::Json;
use proteus_model::personality::Label;
use proteus_model::unit::UnixMillis;
use proteus_protocol::api::v1::{
    CollectorsRequest, CollectorsView, ConfigurationDiffView, LabelView, PersonalityView, TeachRequest,
};

fn label_of(text: &str) -> Result<Label, Refusal> {
    let hint = "as in `web frontend`; `proteus personality labels` shows those that are known";
    text.parse()
        .map_err(|error: proteus_model::personality::LabelError| Refusal::invalid(error.to_string(), hint))
}

pub(in crate::api) async fn personality(
    State(control): Shared,
    Path(vm): Path<String>,
) -> Answer<PersonalityView> {
    Ok(Json(control.personality(&vm).await?))
}

pub(in crate::api) async fn collectors(
    State(control): Shared,
    Path(vm): Path<String>,
) -> Answer<CollectorsView> {
    Ok(Json(control.collectors(&vm).await?))
}

pub(in crate::api) async fn set_collectors(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    Path(vm): Path<String>,
    Query(DryRun { dry_run }): DryRunQuery,
    body: Body,
) -> Answer<CollectorsView> {
    let request: CollectorsRequest = parse(&body)?;
    let runner = control.clone();
    let work = async move { control.set_collectors(&vm, &request, dry_run, &caller.name).await };
    Ok(Json(runner.run_to_end(work).await?))
}

/// The two moments between which a configuration is compared.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Between {
    since: u64,
    until: Option<u64>,
}

pub(in crate::api) async fn configuration(
    State(control): Shared,
    Path(vm): Path<String>,
    Query(between): Query<Between>,
) -> Answer<ConfigurationDiffView> {
    let until = between.until.map_or_else(|| control.now(), UnixMillis);
    Ok(Json(control.configuration_diff(&vm, UnixMillis(between.since), until).await?))
}

pub(in crate::api) async fn labels(State(control): Shared) -> Answer<Vec<LabelView>> {
    Ok(Json(control.known_labels().await?))
}

pub(in crate::api) async fn teach(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    Path(vm): Path<String>,
    Query(DryRun { dry_run }): DryRunQuery,
    body: Body,
) -> Answer<LabelView> {
    let TeachRequest { label } = parse(&body)?;
    let label = label_of(&label)?;
    let runner = control.clone();
    let work = async move { control.teach(&vm, label, dry_run, &caller.name).await };
    Ok(Json(runner.run_to_end(work).await?))
}

pub(in crate::api) async fn forget_label(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    Path(label): Path<String>,
    Query(DryRun { dry_run }): DryRunQuery,
) -> Answer<usize> {
    let label = label_of(&label)?;
    let runner = control.clone();
    let work = async move { control.forget_label(&label, dry_run, &caller.name).await };
    Ok(Json(runner.run_to_end(work).await?))
}
