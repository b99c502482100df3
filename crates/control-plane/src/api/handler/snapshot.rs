//! Routes of snapshots. What changes a VM runs to its end also when the caller goes away: a guest that stands still
//! half-way would be worse than a snapshot that nobody waits for.

use super::{Answer, DryRun, DryRunQuery, Shared, parse};
use crate::api::access::Caller;
use crate::control::ControlError;
use crate::snapshot::Seen;
use axum::body::Bytes as Body;
use axum::extract::{Extension, Path, Query, State};
use axum::response::Json;
use proteus_model::unit::Millis;
use proteus_protocol::api::v1::{RestoreView, SnapshotRequest, SnapshotTaken, SnapshotView};

fn view((snapshot, origin): Seen) -> SnapshotView {
    SnapshotView {
        name: snapshot.name,
        at: snapshot.at,
        ram: snapshot.ram,
        version: origin.as_ref().map(|origin| origin.version),
        profile: origin.as_ref().and_then(|origin| origin.profile.clone()),
        actor: origin.as_ref().map(|origin| origin.actor.clone()),
        morph: origin.and_then(|origin| origin.morph),
    }
}

pub(in crate::api) async fn snapshots(
    State(control): Shared,
    Path(vm): Path<String>,
) -> Answer<Vec<SnapshotView>> {
    Ok(Json(control.snapshots(&vm).await?.into_iter().map(view).collect()))
}

pub(in crate::api) async fn create_snapshot(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    Path(vm): Path<String>,
    Query(DryRun { dry_run }): DryRunQuery,
    body: Body,
) -> Answer<SnapshotTaken> {
    let request: SnapshotRequest = parse(&body)?;
    if dry_run {
        let (seen, blackout_ms) = control.check_snapshot(&vm, request.name.as_deref(), &caller.name).await?;
        return Ok(Json(SnapshotTaken { snapshot: view(seen), took_ms: Millis(0), blackout_ms }));
    }
    let runner = control.clone();
    let work = async move { control.create_snapshot(&vm, request.name.as_deref(), &caller.name).await };
    let (seen, cost) = runner.run_to_end(work).await?;
    Ok(Json(SnapshotTaken { snapshot: view(seen), took_ms: cost.took_ms, blackout_ms: cost.blackout_ms }))
}

pub(in crate::api) async fn restore_snapshot(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    Path((vm, name)): Path<(String, String)>,
    Query(DryRun { dry_run }): DryRunQuery,
) -> Answer<RestoreView> {
    if dry_run {
        let (settings, failed) = (control.check_restore(&vm, &name).await?, Vec::new());
        return Ok(Json(RestoreView { took_ms: Millis(0), blackout_ms: Millis(0), settings, failed }));
    }
    let runner = control.clone();
    let work = async move { control.restore_snapshot(&vm, &name, &caller.name).await };
    let restored = runner.run_to_end(work).await?;
    let (took_ms, blackout_ms) = (restored.cost.took_ms, restored.cost.blackout_ms);
    Ok(Json(RestoreView { took_ms, blackout_ms, settings: restored.settings, failed: restored.failed }))
}

pub(in crate::api) async fn delete_snapshot(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    Path((vm, name)): Path<(String, String)>,
    Query(DryRun { dry_run }): DryRunQuery,
) -> Answer<()> {
    if dry_run {
        control.check_delete_snapshot(&vm, &name).await?;
        return Ok(Json(()));
    }
    let runner = control.clone();
    let work = async move { control.delete_snapshot(&vm, &name, &caller.name).await };
    Ok(Json(runner.run_to_end::<(), ControlError>(work).await?))
}
