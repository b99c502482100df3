//! The HTTP API: one table of routes says for each what it is for, who may use it, and what goes in and out. The
//! router, the access check and the OpenAPI document are all made from it. Must never decide: it translates.

mod handler;

pub mod access;

pub mod openapi;

mod refusal;

use crate::control::Control;
use access::{Caller, authorize};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, delete, get, post};
use proteus_protocol::api::v1::{PREFIX, Role};
use std::sync::Arc;

/// Largest body that is taken: a profile document may be 1 MiB, and JSON may double it.
const BODY_BYTES_MAX: usize = 2 << 20;

/// A parameter of a query.
pub(crate) struct Parameter {
    pub name: &'static str,
    /// Its type, as OpenAPI calls it.
    pub kind: &'static str,
    pub summary: &'static str,
}

/// One route.
pub(crate) struct Route {
    pub method: &'static str,
    /// Below the prefix.
    pub path: &'static str,
    /// What its query may have.
    pub query: &'static [Parameter],
    /// Least role that may use it.
    pub role: Role,
    pub summary: &'static str,
    pub request: Option<fn(&mut schemars::SchemaGenerator) -> schemars::Schema>,
    pub response: Option<fn(&mut schemars::SchemaGenerator) -> schemars::Schema>,
    make: fn() -> MethodRouter<Arc<Control>>,
}

fn schema<T: schemars::JsonSchema>(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    generator.subschema_for::<T>()
}

macro_rules! route {
    ($method:ident $path:literal $([$($query:expr),+])?, $role:ident, $summary:literal, $handler:path) => {
        route!(@ $method $path [$($($query),+)?], $role, $summary, $handler, None, None)
    };
    ($method:ident $path:literal $([$($query:expr),+])?, $role:ident, $summary:literal, $handler:path => $response:ty) => {
        route!(@ $method $path [$($($query),+)?], $role, $summary, $handler, None, Some(schema::<$response>))
    };
    ($method:ident $path:literal $([$($query:expr),+])?, $role:ident, $summary:literal, $handler:path, $request:ty => $response:ty) => {
        route!(@ $method $path [$($($query),+)?], $role, $summary, $handler, Some(schema::<$request>), Some(schema::<$response>))
    };
    (@ $method:ident $path:literal [$($query:expr),*], $role:ident, $summary:literal, $handler:path, $request:expr, $response:expr) => {
        Route {
            method: stringify!($method),
            path: $path,
            query: &[$($query),*],
            role: Role::$role,
            summary: $summary,
            request: $request,
            response: $response,
            make: || $method($handler),
        }
    };
}

use proteus_protocol::api::v1 as wire;

const DRY_RUN: Parameter =
    Parameter { name: "dry_run", kind: "boolean", summary: "Only say whether it could be done" };
const WAIT: Parameter = Parameter {
    name: "wait_ms",
    kind: "integer",
    summary: "Wait so long until all were started, or one failed",
};
const FROM: Parameter = Parameter {
    name: "from",
    kind: "integer",
    summary: "What came after so many bytes of all, as far as it is kept",
};
const BEFORE: Parameter =
    Parameter { name: "before", kind: "integer", summary: "Entries before this number" };
const MORPHS_BEFORE: Parameter =
    Parameter { name: "before", kind: "string", summary: "Morphs that began before this one" };
const MORPHS_OF: Parameter = Parameter { name: "vm", kind: "string", summary: "Of this VM only" };
const VERSIONS_BEFORE: Parameter =
    Parameter { name: "before", kind: "integer", summary: "Versions before this number" };
const LIMIT: Parameter =
    Parameter { name: "limit", kind: "integer", summary: "At most so many, the last of them" };

const STEP: Parameter =
    Parameter { name: "step_s", kind: "integer", summary: "Resolution: 10, 60 (where none is named) or 600" };
const METRICS: Parameter =
    Parameter { name: "metrics", kind: "string", summary: "Their names, with commas between; all without" };
const SINCE: Parameter =
    Parameter { name: "since", kind: "integer", summary: "What begins then or later, ms since 1970" };
const UNTIL: Parameter =
    Parameter { name: "until", kind: "integer", summary: "What begins then or earlier, ms since 1970" };

/// Every route.
pub(crate) const ROUTES: &[Route] = &[
    route!(get "/host", Viewer, "What the host is and has", handler::host => wire::HostView),
    route!(get "/host/uplink", Viewer, "Whether and how guests reach the outside", handler::uplink => wire::UplinkView),
    route!(post "/host/uplink", Admin, "Let guests reach the outside", handler::enable_uplink, wire::UplinkRequest => wire::UplinkView),
    route!(delete "/host/uplink" [DRY_RUN], Admin, "Let guests reach nothing outside", handler::disable_uplink),
    route!(get "/vms", Viewer, "All VMs", handler::vms => Vec<wire::VmView>),
    route!(post "/vms" [DRY_RUN], Operator, "Make a VM", handler::create_vm, serde_json::Value => wire::VmView),
    route!(get "/vms/{vm}", Viewer, "One VM", handler::vm => wire::VmView),
    route!(delete "/vms/{vm}" [DRY_RUN], Operator, "Remove a stopped VM", handler::delete_vm => wire::DeleteView),
    route!(post "/vms/{vm}/start", Operator, "Start a VM", handler::start_vm => wire::VmView),
    route!(post "/vms/{vm}/stop", Operator, "Stop a VM", handler::stop_vm, wire::StopRequest => wire::StopView),
    route!(post "/vms/{vm}/template" [DRY_RUN], Operator, "Make a running VM a template: it ends, others begin from it", handler::make_template => wire::VmView),
    route!(post "/vms/{vm}/clone", Operator, "Start a VM from a template", handler::clone_vm, wire::CloneRequest => wire::VmView),
    route!(post "/vms/{vm}/rename" [DRY_RUN], Operator, "Give it another name", handler::rename_vm, wire::RenameRequest => wire::VmView),
    route!(get "/vms/{vm}/capabilities", Viewer, "What can be done to it live", handler::capabilities => wire::CapabilityView),
    route!(get "/vms/{vm}/services" [WAIT], Viewer, "Its services", handler::services => Vec<wire::ServiceView>),
    route!(get "/vms/{vm}/personality", Viewer, "What it is observed to be", handler::personality => wire::PersonalityView),
    route!(post "/vms/{vm}/personality/label" [DRY_RUN], Operator, "Learn a label from it as it is now", handler::teach, wire::TeachRequest => wire::LabelView),
    route!(get "/vms/{vm}/configuration" [SINCE, UNTIL], Viewer, "How its configuration differs between two moments; `since` is needed", handler::configuration => wire::ConfigurationDiffView),
    route!(get "/vms/{vm}/collectors", Viewer, "What is collected inside it, and at what cost", handler::collectors => wire::CollectorsView),
    route!(post "/vms/{vm}/collectors" [DRY_RUN], Operator, "Change what is collected inside it", handler::set_collectors, wire::CollectorsRequest => wire::CollectorsView),
    route!(get "/labels", Viewer, "Labels that VMs are known by", handler::labels => Vec<wire::LabelView>),
    route!(delete "/labels/{label}" [DRY_RUN], Operator, "Forget what was taught of a label; how many prototypes", handler::forget_label => usize),
    route!(get "/vms/{vm}/usage", Viewer, "What it uses now, as it was last looked at", handler::usage => wire::UsageView),
    route!(get "/vms/{vm}/history" [STEP, METRICS, SINCE, UNTIL], Viewer, "What it used over time", handler::history => wire::HistoryView),
    route!(get "/vms/{vm}/history/file", Viewer, "Its whole history, as a file (application/octet-stream)", handler::export_history),
    Route {
        method: "post",
        path: "/vms/{vm}/history/file",
        query: &[DRY_RUN],
        role: Role::Operator,
        summary: "Take a history in: the body is a file that was exported, or CSV",
        request: None,
        response: Some(schema::<wire::ImportView>),
        make: || post(handler::import_history).layer(DefaultBodyLimit::max(wire::IMPORT_BYTES_MAX)),
    },
    route!(get "/vms/{vm}/versions" [VERSIONS_BEFORE, LIMIT], Viewer, "Its versions, oldest first", handler::versions => Vec<wire::VersionView>),
    route!(get "/vms/{vm}/differences", Viewer, "Where it differs from its record", handler::differences => Vec<wire::DifferenceView>),
    route!(post "/vms/{vm}/exec", Operator, "Run a program inside", handler::exec, wire::ExecRequest => wire::ExecView),
    route!(get "/vms/{vm}/console" [FROM], Operator, "What its console showed", handler::console => wire::ConsoleView),
    route!(post "/vms/{vm}/console", Operator, "Type into its console", handler::type_console, wire::ConsoleRequest => ()),
    route!(get "/vms/{vm}/snapshots", Viewer, "Its snapshots, oldest first", handler::snapshots => Vec<wire::SnapshotView>),
    route!(post "/vms/{vm}/snapshots" [DRY_RUN], Operator, "Save its disks and RAM; it stands still meanwhile", handler::create_snapshot, wire::SnapshotRequest => wire::SnapshotTaken),
    route!(post "/vms/{vm}/snapshots/{name}/restore" [DRY_RUN], Operator, "Go back to a snapshot; what came after it is lost", handler::restore_snapshot => wire::RestoreView),
    route!(delete "/vms/{vm}/snapshots/{name}" [DRY_RUN], Operator, "Forget a snapshot", handler::delete_snapshot),
    route!(post "/vms/{vm}/plan", Viewer, "Plan a morph; changes nothing", handler::plan, wire::PlanRequest => serde_json::Value),
    route!(get "/morphs" [MORPHS_BEFORE, MORPHS_OF, LIMIT], Viewer, "All morphs, newest first", handler::morphs => Vec<wire::MorphView>),
    route!(post "/morphs", Operator, "Begin a morph", handler::begin_morph, wire::MorphRequest => wire::MorphView),
    route!(get "/morphs/{morph}", Viewer, "One morph", handler::morph => wire::MorphView),
    route!(post "/morphs/{morph}/abort", Operator, "Stop a running morph", handler::abort, wire::AbortRequest => wire::MorphView),
    route!(get "/profiles", Viewer, "All profiles", handler::profiles => Vec<wire::ProfileView>),
    route!(post "/profiles", Operator, "Take a profile into the registry", handler::push_profile, wire::DocumentRequest => wire::ProfileView),
    route!(get "/profiles/{label}", Viewer, "One profile", handler::profile => wire::ProfileView),
    route!(get "/allocation", Viewer, "Who has what", handler::allocation => wire::AllocationView),
    route!(get "/audit" [BEFORE, LIMIT], Viewer, "The audit log, checked", handler::audit => wire::AuditView),
    route!(post "/disarm", Admin, "No forward step from now on", handler::disarm, wire::ArmRequest => wire::ArmView),
    route!(post "/arm", Admin, "Forward steps again", handler::arm, wire::ArmRequest => ()),
    route!(get "/tokens", Admin, "All tokens, without their secrets", handler::tokens => Vec<wire::TokenView>),
    route!(post "/tokens", Admin, "Make a token", handler::create_token, wire::TokenRequest => wire::TokenView),
    route!(delete "/tokens/{name}", Admin, "Revoke a token", handler::revoke_token),
    route!(post "/store/backup", Admin, "Copy records, journal and audit log into a new file on the host", handler::back_up => wire::BackupView),
    route!(get "/events", Viewer, "What happens, as server-sent events", handler::events),
];

/// The whole API, for one way in. `caller`: who everybody on it is; `None`: each shows a token.
pub fn router(control: Arc<Control>, caller: Option<Caller>) -> Router {
    let mut api = Router::new();
    for route in ROUTES {
        api = api.route(&format!("{PREFIX}{}", route.path), (route.make)());
    }
    let guarded = api
        .route("/metrics", get(handler::metrics))
        .route_layer(from_fn_with_state((control.clone(), caller), authorize));
    guarded
        .route("/healthz", get(handler::healthz))
        .route("/readyz", get(handler::readyz))
        .route("/openapi.json", get(handler::openapi))
        .fallback(handler::nowhere)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        // Outermost: whatever says no within says it in the documented words.
        .layer(from_fn(refusal::with_body))
        .with_state(control)
}
