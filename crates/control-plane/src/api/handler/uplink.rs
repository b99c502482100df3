//! Routes of the guests' way out.

use super::{Answer, DryRun, DryRunQuery, Shared, parse};
use crate::api::access::Caller;
use axum::body::Bytes as Body;
use axum::extract::{Extension, Query, State};
use axum::response::Json;
use proteus_model::uplink::UplinkIntent;
use proteus_protocol::api::v1::{UplinkRequest, UplinkView};

pub(in crate::api) async fn uplink(State(control): Shared) -> Answer<UplinkView> {
    let (wanted, uplink) = control.uplink().await?;
    Ok(Json(UplinkView { wanted: wanted.is_some(), uplink }))
}

pub(in crate::api) async fn enable_uplink(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Answer<UplinkView> {
    let UplinkRequest { interface, dns, allow, dry_run } = parse(&body)?;
    let intent = UplinkIntent { interface, dns, allow };
    if dry_run {
        let (wanted, planned) = (control.uplink().await?.0, control.plan_uplink(&intent).await?);
        return Ok(Json(UplinkView { wanted: wanted.is_some(), uplink: Some(planned) }));
    }
    let runner = control.clone();
    let work = async move { control.enable_uplink(&intent, &caller.name).await };
    let made = runner.run_to_end(work).await?;
    Ok(Json(UplinkView { wanted: true, uplink: Some(made) }))
}

pub(in crate::api) async fn disable_uplink(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    Query(DryRun { dry_run }): DryRunQuery,
) -> Answer<()> {
    if dry_run {
        // Nothing stands against it but who asks, which was looked at.
        return Ok(Json(()));
    }
    let runner = control.clone();
    let work = async move { control.disable_uplink(&caller.name).await };
    runner.run_to_end(work).await?;
    Ok(Json(()))
}
