//! What each route does: from the wire to the control plane and back. What changes a VM runs to its end also when
//! the caller goes away: half of a start or of a clone would be a VM that nobody knows.

mod metrics;

mod label;

mod snapshot;

mod uplink;

mod usage;

pub(super) use label::{collectors, configuration, forget_label, labels, personality, set_collectors, teach};
pub(super) use metrics::metrics;
pub(super) use snapshot::{create_snapshot, delete_snapshot, restore_snapshot, snapshots};
pub(super) use uplink::{disable_uplink, enable_uplink, uplink};
pub(super) use usage::{export_history, history, import_history, usage};

use super::access::{Caller, TokenRecord};
use super::refusal::Refusal;
use crate::abort::AbortHow;
use crate::arm::ArmScope;
use crate::control::{Control, ControlError};
use crate::look::Glance;
use crate::profile::{ProfileRecord, problems_error};
use crate::vm::VmRecord;
use axum::body::Bytes as Body;
use axum::extract::{Extension, OriginalUri, Path, Query, State};
use axum::response::Json;
use axum::response::sse::{Event, KeepAlive, Sse};
use proteus_model::execution::Morph;
use proteus_model::id::{MorphId, VmId};
use proteus_model::plan::Plan;
use proteus_model::profile::document;
use proteus_model::unit::Millis;
use proteus_model::vm::{PowerState, StopObserved, VmIntent, VmObserved};
use proteus_protocol::api::v1::{
    AUDIT_ENTRIES_MAX, AUDIT_ENTRIES_SHOWN, AbortRequest, AllocationView, ArmRequest, ArmView, AuditView,
    BackupView, CapabilityView, CloneRequest, ConsoleRequest, ConsoleView, DeleteView, DifferenceView,
    DocumentRequest, ExecRequest, ExecView, HISTORY_MAX, HISTORY_SHOWN, HostView, MorphRequest, MorphView,
    PlanRequest, ProfileView, RenameRequest, Role, ServiceView, StopRequest, StopView, TokenRequest,
    TokenView, VersionView, VmView,
};
use proteus_protocol::node::v1::{ExecIntent, NodeErrorCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;

type Shared = State<Arc<Control>>;
type Answer<T> = Result<Json<T>, Refusal>;

/// Reads a body strictly; the error names line and column.
fn parse<T: DeserializeOwned>(body: &Body) -> Result<T, Refusal> {
    // An empty body stands for a request without fields.
    let text: &[u8] = if body.is_empty() { b"{}" } else { body };
    let wrong = |why: &str| {
        Refusal::invalid(format!("the body is not what was expected: {why}"), "see /openapi.json")
    };
    // A list would be taken field by field, and an empty one for a request without fields.
    if text.trim_ascii_start().starts_with(b"[") {
        return Err(wrong("expected an object, found a list"));
    }
    serde_json::from_slice(text).map_err(|e| wrong(&e.to_string()))
}

/// Reads a body whose fields say how far an act reaches: one that got lost on the way must not stand for all there is.
fn parse_said<T: DeserializeOwned>(body: &Body) -> Result<T, Refusal> {
    if body.is_empty() {
        let message = "the body is not what was expected: expected an object, found nothing".to_owned();
        return Err(Refusal::invalid(message, "`{}` means the whole fleet, `{\"vm\": NAME}` one VM"));
    }
    parse(body)
}

/// What is shown of a VM that was looked at.
fn view_of(control: &Control, record: &VmRecord, seen: Glance<VmObserved>) -> VmView {
    let (observed, power, problem) = match (seen.whole, seen.power) {
        (Some(Ok(observed)), _) => (Some(observed.clone()), observed.power, None),
        // It has no place yet, or its host lost it.
        (Some(Err(error)), _) | (None, Some(Err(error))) if error.code == NodeErrorCode::NotFound => {
            (None, PowerState::Stopped, None)
        }
        (Some(Err(error)), _) | (None, Some(Err(error))) => (None, PowerState::Unknown, Some(error.message)),
        (None, Some(Ok(power))) => (None, power, None),
        (None, None) => (None, PowerState::Hung, None),
    };
    let name = &record.intent.name;
    let hung = || {
        format!("its VMM does not answer; it is asked again and again, and `proteus vm stop {name}` ends it")
    };
    let problem = problem.or_else(|| (power == PowerState::Hung).then(hung));
    VmView {
        id: record.id,
        name: name.clone(),
        power,
        problem,
        label: control.personalities.shown(record.id).and_then(|(label, _)| label).map(String::from),
        profile: record.profile.clone(),
        version: record.version,
        morph: record.morph,
        address: observed.as_ref().and_then(|seen| seen.address),
        agent: observed.as_ref().and_then(|seen| seen.agent.clone()),
        agent_silent_since: observed.as_ref().and_then(|seen| seen.agent_silent_since),
        resident: observed.as_ref().and_then(|seen| seen.resident),
        halted: observed.as_ref().and_then(|seen| seen.halted.clone()),
        pid: observed.and_then(|seen| seen.pid),
        disarmed: record.disarmed,
        intent: record.intent.without_secrets(),
        managed: record.managed.clone(),
        template: record.template.is_some(),
        cloned_from: record.cloned_from,
    }
}

async fn glance(control: &Arc<Control>, record: &VmRecord) -> Glance<VmObserved> {
    control.glance_at(&[record.id]).await.pop().unwrap_or_default()
}

/// What is shown of a VM that was just made or changed: asked to the end, for nothing of it may be of before.
async fn view(control: &Control, record: &VmRecord) -> Result<VmView, ControlError> {
    let whole = Some(control.node().observe(record.id).await);
    Ok(view_of(control, record, Glance { power: None, whole }))
}

pub(super) async fn host(State(control): Shared) -> Answer<HostView> {
    let host = control.node().host().await.map_err(ControlError::from)?;
    Ok(Json(HostView {
        name: host.name,
        cpus: host.cpus,
        memory: host.memory,
        memory_available: host.memory_available,
        accelerator: host.accelerator,
        accelerator_why: host.accelerator_why,
        hypervisor: host.hypervisor,
        namespace: host.namespace,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        disarmed_by: control.fleet_disarmed().await?.map(|disarmed| disarmed.actor),
    }))
}

pub(super) async fn vms(State(control): Shared) -> Answer<Vec<VmView>> {
    let records = control.vms().await?;
    let ids: Vec<VmId> = records.iter().map(|record| record.id).collect();
    let seen = control.glance_at(&ids).await;
    Ok(Json(records.iter().zip(seen).map(|(record, seen)| view_of(&control, record, seen)).collect()))
}

pub(super) async fn vm(State(control): Shared, Path(vm): Path<String>) -> Answer<VmView> {
    let record = control.vm(&vm).await?;
    let mut seen = glance(&control, &record).await;
    if matches!(&seen.whole, Some(Ok(seen)) if seen.agent.is_some()) {
        // A look asks nothing of a guest; whoever asks for one VM is told whether its agent still answers.
        control.measure_all(&[record.id]).await;
        seen = glance(&control, &record).await;
    }
    Ok(Json(view_of(&control, &record, seen)))
}

/// Makes or changes a VM, to the end also when the caller goes away; the VM as it is then.
async fn change_vm<F>(control: Arc<Control>, act: impl FnOnce(Arc<Control>) -> F) -> Answer<VmView>
where
    F: Future<Output = Result<VmRecord, ControlError>> + Send + 'static,
{
    let (acting, looking) = (act(control.clone()), control.clone());
    let work = async move { view(&looking, &acting.await?).await };
    Ok(Json(control.run_to_end(work).await?))
}

#[derive(Deserialize)]
pub(super) struct DryRun {
    #[serde(default)]
    dry_run: bool,
}

type DryRunQuery = Query<DryRun>;

pub(super) async fn create_vm(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    Query(DryRun { dry_run }): DryRunQuery,
    body: Body,
) -> Answer<VmView> {
    let intent: VmIntent = parse(&body)?;
    if caller.role < Role::Admin {
        control.check_may_name(&intent)?;
    }
    if dry_run {
        return Ok(Json(view(&control, &control.check_new_vm(intent).await?).await?));
    }
    change_vm(control, |control| async move { control.create_vm(intent, &caller.name).await }).await
}

pub(super) async fn delete_vm(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    Path(vm): Path<String>,
    Query(DryRun { dry_run }): DryRunQuery,
) -> Answer<DeleteView> {
    if dry_run {
        control.check_delete(&vm).await?;
        return Ok(Json(DeleteView::default()));
    }
    let runner = control.clone();
    let work = async move { control.delete_vm(&vm, &caller.name).await };
    Ok(Json(DeleteView { not_given_back: runner.run_to_end(work).await? }))
}

pub(super) async fn start_vm(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    Path(vm): Path<String>,
) -> Answer<VmView> {
    change_vm(control, |control| async move { control.start_vm(&vm, &caller.name).await }).await
}

pub(super) async fn make_template(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    Path(vm): Path<String>,
    Query(DryRun { dry_run }): DryRunQuery,
) -> Answer<VmView> {
    if dry_run {
        return Ok(Json(view(&control, &control.check_template(&vm).await?).await?));
    }
    change_vm(control, |control| async move { control.make_template(&vm, &caller.name).await }).await
}

pub(super) async fn rename_vm(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    Path(vm): Path<String>,
    Query(DryRun { dry_run }): DryRunQuery,
    body: Body,
) -> Answer<VmView> {
    let RenameRequest { name } = parse(&body)?;
    change_vm(control, |control| async move { control.rename_vm(&vm, &name, dry_run, &caller.name).await })
        .await
}

pub(super) async fn clone_vm(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    Path(vm): Path<String>,
    body: Body,
) -> Answer<VmView> {
    let request: CloneRequest = parse(&body)?;
    if request.dry_run {
        return Ok(Json(view(&control, &control.check_clone(&vm, request.name).await?).await?));
    }
    change_vm(control, |control| async move { control.clone_vm(&vm, request.name, &caller.name).await }).await
}

pub(super) async fn stop_vm(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    Path(vm): Path<String>,
    body: Body,
) -> Answer<StopView> {
    let request: StopRequest = parse(&body)?;
    let runner = control.clone();
    let work = async move { control.stop_vm(&vm, request.grace_ms, &caller.name).await };
    let StopObserved { by_itself, answered, waited } = runner.run_to_end(work).await?;
    Ok(Json(StopView { by_itself, answered, waited_ms: waited }))
}

pub(super) async fn capabilities(State(control): Shared, Path(vm): Path<String>) -> Answer<CapabilityView> {
    let record = control.vm(&vm).await?;
    Ok(Json(CapabilityView { report: control.capabilities(&record).await? }))
}

/// Longest wait for the services of a VM to be started; whoever wants to wait longer asks again.
const SERVICES_WAIT_MAX: Millis = Millis(30_000);

#[derive(Deserialize)]
pub(super) struct ServicesQuery {
    /// Wait so long for those that are being started.
    #[serde(default)]
    wait_ms: Millis,
}

pub(super) async fn services(
    State(control): Shared,
    Path(vm): Path<String>,
    Query(query): Query<ServicesQuery>,
) -> Answer<Vec<ServiceView>> {
    let record = control.vm(&vm).await?;
    let wait = query.wait_ms.min(SERVICES_WAIT_MAX);
    control.node().wait_services(record.id, wait).await.map_err(ControlError::from)?;
    let services = control.node().services(record.id).await;
    let services = control.on_node(&record, services).await?;
    let view = |s: proteus_protocol::node::v1::ServiceObserved| ServiceView {
        name: s.name.to_string(),
        state: s.state,
        serving: s.serving,
        notes: s.notes,
    };
    Ok(Json(services.into_iter().map(view).collect()))
}

/// How many are shown of what there may be any number of.
fn bounded(limit: Option<usize>, shown: usize, most: usize, hint: &str) -> Result<usize, Refusal> {
    let limit = limit.unwrap_or(shown);
    if (1..=most).contains(&limit) {
        return Ok(limit);
    }
    Err(Refusal::invalid(format!("limit: expected 1 to {most}, found {limit}"), hint))
}

#[derive(Deserialize)]
pub(super) struct VersionsQuery {
    before: Option<u64>,
    limit: Option<usize>,
}

pub(super) async fn versions(
    State(control): Shared,
    Path(vm): Path<String>,
    Query(query): Query<VersionsQuery>,
) -> Answer<Vec<VersionView>> {
    let hint = "`before` the first of an answer's versions shows more";
    let limit = bounded(query.limit, HISTORY_SHOWN, HISTORY_MAX, hint)?;
    let record = control.vm(&vm).await?;
    let mut versions = control.versions(&record).await?;
    versions.retain(|version| query.before.is_none_or(|before| version.number < before));
    versions.drain(..versions.len().saturating_sub(limit));
    Ok(Json(versions.into_iter().map(|version| VersionView { version }).collect()))
}

pub(super) async fn differences(
    State(control): Shared,
    Path(vm): Path<String>,
) -> Answer<Vec<DifferenceView>> {
    Ok(Json(control.differences(&vm).await?))
}

pub(super) async fn exec(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    Path(vm): Path<String>,
    body: Body,
) -> Answer<ExecView> {
    let request: ExecRequest = parse(&body)?;
    let intent = ExecIntent {
        argv: request.argv,
        service: request.service,
        stdin: request.stdin.0,
        timeout: request.timeout_ms,
    };
    let runner = control.clone();
    // To its end: how it ended is told also where nobody waits for that.
    let work = async move { control.exec(&vm, &intent, &caller.name).await };
    let seen = runner.run_to_end(work).await?;
    Ok(Json(ExecView {
        exit_code: seen.exit_code,
        signal: seen.signal,
        timed_out: seen.timed_out,
        stdout: String::from_utf8_lossy(&seen.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&seen.stderr).into_owned(),
        truncated: seen.truncated,
    }))
}

#[derive(Deserialize)]
pub(super) struct From {
    #[serde(default)]
    from: u64,
}

pub(super) async fn console(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    Path(vm): Path<String>,
    Query(From { from }): Query<From>,
) -> Answer<ConsoleView> {
    let seen = control.read_console(&vm, from, &caller.name).await?;
    let text = String::from_utf8_lossy(&seen.bytes).into_owned();
    Ok(Json(ConsoleView { text, next: seen.next, ended: seen.ended }))
}

pub(super) async fn type_console(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    Path(vm): Path<String>,
    body: Body,
) -> Answer<()> {
    let request: ConsoleRequest = parse(&body)?;
    Ok(Json(control.type_console(&vm, request.text.as_bytes(), &caller.name).await?))
}

pub(super) async fn plan(State(control): Shared, Path(vm): Path<String>, body: Body) -> Answer<Plan> {
    let request: PlanRequest = parse(&body)?;
    let plan = match (request.profile, request.version, request.fresh_vmm) {
        (Some(label), None, false) => {
            let (profile, digest) = control.resolved_profile(&label).await?;
            control.plan_profile(&vm, &profile, &digest).await?
        }
        (None, Some(version), false) => control.plan_rollback(&vm, version).await?,
        (None, None, true) => control.plan_fresh_vmm(&vm).await?,
        _ => {
            let message = "expected exactly one of profile, version and fresh_vmm".to_owned();
            return Err(Refusal::invalid(message, "say where the plan shall lead"));
        }
    };
    let plan = if request.snapshot { control.plan_with_snapshot(plan).await? } else { plan };
    control.made.keep(&plan);
    Ok(Json(plan))
}

#[derive(Deserialize)]
pub(super) struct MorphsQuery {
    before: Option<String>,
    limit: Option<usize>,
    vm: Option<String>,
}

pub(super) async fn morphs(
    State(control): Shared,
    Query(query): Query<MorphsQuery>,
) -> Answer<Vec<MorphView>> {
    let hint = "`before` the last of an answer's morphs shows more";
    let limit = bounded(query.limit, HISTORY_SHOWN, HISTORY_MAX, hint)?;
    let before = match &query.before {
        Some(id) => Some(find_morph(&control, id).await?.id),
        None => None,
    };
    let mut all = control.morphs().await?;
    if let Some(vm) = &query.vm {
        let vm = control.vm(vm).await?.id;
        all.retain(|morph| morph.plan.vm == vm);
    }
    let first = before.map_or(0, |id| all.iter().take_while(|morph| morph.id != id).count() + 1);
    let count = all.len() as u64;
    let numbered = all.into_iter().zip(1..).skip(first).take(limit);
    let view = |(morph, number): (Morph, u64)| {
        let stuck = control.why_stuck(morph.id);
        MorphView { morph, earlier: Some(count - number), stuck }
    };
    Ok(Json(numbered.map(view).collect()))
}

async fn find_morph(control: &Control, id: &str) -> Result<Morph, ControlError> {
    let missing = || ControlError::NotFound { kind: "morph", name: id.chars().take(80).collect() };
    control.morph(id.parse::<MorphId>().map_err(|_| missing())?).await
}

pub(super) async fn begin_morph(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Answer<MorphView> {
    let request: MorphRequest = parse(&body)?;
    if !control.made.knows(&request.plan) {
        return Err(Refusal::from(ControlError::Conflict {
            what: "this plan is not one that Proteus made, or Proteus was started again since".into(),
            hint: "plan again, and send back what comes, unchanged".into(),
        }));
    }
    if let (Some(first), false) = (request.plan.unsupported.first(), request.skip_unsupported) {
        let message = format!("{} is not supported here: {}", first.field, first.why);
        return Err(Refusal::unsupported(message, "`--skip-unsupported` goes on without it"));
    }
    if request.dry_run {
        return Ok(Json(MorphView::of(control.check_morph(request.plan, &caller.name).await?)));
    }
    let runner = control.clone();
    // Begun and run in one go: a morph that nobody runs would hold its VM.
    let work = async move {
        let morph = control.begin_morph(request.plan, &caller.name).await?;
        let (control, id) = (control.clone(), morph.id);
        control.clone().spawn(async move {
            control.see_through(id).await;
        });
        Ok::<_, ControlError>(morph)
    };
    Ok(Json(MorphView::of(runner.run_to_end(work).await?)))
}

pub(super) async fn morph(State(control): Shared, Path(id): Path<String>) -> Answer<MorphView> {
    let morph = find_morph(&control, &id).await?;
    Ok(Json(MorphView { stuck: control.why_stuck(morph.id), ..MorphView::of(morph) }))
}

pub(super) async fn abort(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    body: Body,
) -> Answer<MorphView> {
    let request: AbortRequest = parse(&body)?;
    let id = find_morph(&control, &id).await?.id;
    let how = AbortHow::of(request.hold);
    Ok(Json(MorphView::of(control.abort_morph(id, how, &caller.name).await?)))
}

fn profile_view(record: ProfileRecord) -> ProfileView {
    ProfileView {
        label: record.profile.label(),
        summary: record.profile.summary.as_ref().map(|line| line.as_str().to_owned()),
        digest: record.digest,
        origin: record.origin,
        signed: record.signed,
        document: serde_json::to_value(&record.profile).unwrap_or_default(),
    }
}

pub(super) async fn profiles(State(control): Shared) -> Answer<Vec<ProfileView>> {
    Ok(Json(control.profiles().await?.into_iter().map(profile_view).collect()))
}

pub(super) async fn profile(State(control): Shared, Path(label): Path<String>) -> Answer<ProfileView> {
    Ok(Json(profile_view(control.profile(&label).await?)))
}

pub(super) async fn push_profile(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Answer<ProfileView> {
    let request: DocumentRequest = parse(&body)?;
    let parsed = document::parse(&request.file, request.text.as_bytes(), None);
    let profile = parsed.map_err(|problems| problems_error(&problems))?;
    Ok(Json(profile_view(match request.dry_run {
        true => control.check_push(profile, &caller.name).await?,
        false => control.push_profile(profile, &caller.name).await?,
    })))
}

pub(super) async fn allocation(State(control): Shared) -> Answer<AllocationView> {
    Ok(Json(control.allocation_view().await?))
}

#[derive(Deserialize)]
pub(super) struct AuditQuery {
    before: Option<u64>,
    limit: Option<usize>,
}

pub(super) async fn audit(State(control): Shared, Query(query): Query<AuditQuery>) -> Answer<AuditView> {
    let hint = "`before` the first of an answer's entries shows more";
    let limit = bounded(query.limit, AUDIT_ENTRIES_SHOWN, AUDIT_ENTRIES_MAX, hint)?;
    Ok(Json(control.audit_page(query.before, limit).await?))
}

pub(super) async fn back_up(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
) -> Answer<BackupView> {
    let runner = control.clone();
    let work = async move { control.back_up(&caller.name).await };
    Ok(Json(BackupView { path: runner.run_to_end(work).await? }))
}

fn scope(request: &ArmRequest) -> ArmScope {
    request.vm.clone().map_or(ArmScope::Fleet, |vm| ArmScope::Vm { vm })
}

pub(super) async fn disarm(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Answer<ArmView> {
    let request: ArmRequest = parse_said(&body)?;
    let morphs_told = control.disarm(&scope(&request), request.hold, &caller.name).await?;
    Ok(Json(ArmView { morphs_told }))
}

pub(super) async fn arm(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Answer<()> {
    Ok(Json(control.arm(&scope(&parse_said(&body)?), &caller.name).await?))
}

fn token_view(record: TokenRecord, secret: Option<String>) -> TokenView {
    TokenView { name: record.name, role: record.role, created_at: record.created_at, secret }
}

pub(super) async fn tokens(State(control): Shared) -> Answer<Vec<TokenView>> {
    Ok(Json(control.tokens().await?.into_iter().map(|record| token_view(record, None)).collect()))
}

pub(super) async fn create_token(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Answer<TokenView> {
    let request: TokenRequest = parse(&body)?;
    let (record, secret) = control.create_token(&request.name, request.role, &caller.name).await?;
    Ok(Json(token_view(record, Some(secret))))
}

pub(super) async fn revoke_token(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Answer<()> {
    Ok(Json(control.revoke_token(&name, &caller.name).await?))
}

/// Events waiting for one slow reader; then it is told how many it missed.
const EVENTS_WAITING: usize = 64;

pub(super) async fn events(State(control): Shared) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut events = control.events();
    let stopped = control.stopped();
    let (sender, receiver) = tokio::sync::mpsc::channel(EVENTS_WAITING);
    control.spawn(async move {
        loop {
            // Cancel-safe: a broadcast receive loses nothing when dropped, and the token only fires once.
            let event = tokio::select! {
                event = events.recv() => event,
                () = stopped.cancelled() => break,
            };
            let event = match event {
                Ok(event) => Event::default().json_data(&event).unwrap_or_default(),
                Err(RecvError::Lagged(missed)) => Event::default().event("missed").data(missed.to_string()),
                Err(RecvError::Closed) => break,
            };
            if sender.send(Ok(event)).await.is_err() {
                break;
            }
        }
    });
    Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::default())
}

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(control): Shared) -> Result<&'static str, Refusal> {
    // Ready is: the store answers and the host does.
    control.vms().await?;
    control.node().host().await.map_err(ControlError::from)?;
    if let Some((morph, why)) = control.all_stuck().first() {
        let message = format!("the morph {morph} cannot go on: {why}");
        let hint = "make room in the state folder; it goes on by itself, or `proteus morph abort` ends it";
        return Err(Refusal::not_ready(message, hint));
    }
    Ok("ready\n")
}

pub(super) async fn openapi() -> Json<serde_json::Value> {
    Json(super::openapi::document())
}

pub(super) async fn nowhere(OriginalUri(uri): OriginalUri) -> Refusal {
    Refusal::nowhere(uri.path())
}
