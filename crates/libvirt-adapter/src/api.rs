//! What the watcher answers over HTTP, on loopback and on a unix socket of its folder: the names of Proteus's own API, also
//! under its prefix, so that its programs understand it. Must never take an order: there is nothing but GET.

use crate::fleet::Fleet;
use crate::metric;
use crate::place::Place;
use crate::text::{now, shown};
use crate::view::{self, Shown, VmRow};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use proteus_brain::personality::portrait::LATELY_MS;
use proteus_model::unit::UnixMillis;
use proteus_protocol::api::v1::{ErrorBody, PREFIX};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So old the last answer may be for the watcher to count as ready, ms.
const READY_MS: u64 = 60_000;

/// All VMs, for the watcher and for whoever asks.
pub type Shared = Arc<Mutex<Fleet>>;

/// Nobody panics half-way through a change that matters.
pub fn locked(fleet: &Shared) -> MutexGuard<'_, Fleet> {
    fleet.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refusal(status: StatusCode, code: &str, message: String, hint: Option<&str>) -> Response {
    let hint = hint.map(str::to_owned);
    (status, Json(ErrorBody { code: code.to_owned(), message, detail: Vec::new(), hint })).into_response()
}

/// What waits for disks and for the fleet goes to threads that may wait.
async fn answer(make: impl FnOnce() -> Response + Send + 'static) -> Response {
    let done = tokio::task::spawn_blocking(make).await;
    done.unwrap_or_else(|error| refusal(StatusCode::INTERNAL_SERVER_ERROR, "failed", error.to_string(), None))
}

async fn metrics(State(fleet): State<Shared>) -> Response {
    answer(move || {
        let page = metric::page(&locked(&fleet));
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page).into_response()
    })
    .await
}

async fn vms(State(fleet): State<Shared>) -> Response {
    answer(move || {
        let row = |vm: &crate::vm::Vm| {
            let judgement = vm.judged.judgements.as_ref().map(|[whole, _]| whole);
            VmRow::new(&vm.domain).known(&vm.judged.record, judgement)
        };
        let rows: Vec<VmRow> = locked(&fleet).vms().map(row).collect();
        Json(rows).into_response()
    })
    .await
}

async fn personality(State(fleet): State<Shared>, Path(word): Path<String>) -> Response {
    answer(move || {
        let (seen, labels, short, place) = {
            let fleet = locked(&fleet);
            let Some(vm) = fleet.vm(&word) else {
                let hint = "`proteus-libvirt list` shows those that there are";
                let message = format!("there is no VM {}", shown(&word));
                return refusal(StatusCode::NOT_FOUND, "not_found", message, Some(hint));
            };
            let seen = Shown::watched(&vm.domain, &vm.judged);
            (seen, fleet.labels.clone(), vm.intake().recent(), fleet.place().map(Place::reader))
        };
        // Megabytes, while rounds go on.
        let since = UnixMillis(now().0.saturating_sub(LATELY_MS));
        let history =
            place.map_or_else(|| Ok([Vec::new(), Vec::new()]), |place| place.history(seen.id, since));
        match history {
            Ok([minutes, long]) => {
                let minutes = view::with_open_minute(minutes, &short);
                Json(view::personality(seen, &minutes, &long, &labels, now())).into_response()
            }
            Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, "failed", format!("{error:#}"), None),
        }
    })
    .await
}

async fn ready(State(fleet): State<Shared>) -> Response {
    answer(move || {
        let rounds = locked(&fleet).rounds.clone();
        let age = rounds.at.map(|at| now().0.saturating_sub(at.0));
        match (age, rounds.error) {
            (Some(age), None) if age <= READY_MS => "ready\n".into_response(),
            (_, error) => {
                let message = error.unwrap_or_else(|| "libvirt was not asked yet".to_owned());
                refusal(StatusCode::SERVICE_UNAVAILABLE, "unreachable", message, None)
            }
        }
    })
    .await
}

/// All routes.
pub fn router(fleet: Shared) -> Router {
    let own = Router::new().route("/vms", get(vms)).route("/vms/{vm}/personality", get(personality));
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .merge(own.clone())
        .nest(PREFIX, own)
        .with_state(fleet)
}
