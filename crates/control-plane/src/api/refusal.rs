//! Errors as HTTP answers: a status, a stable word, the message, its causes and a hint. Logged once, here.

use super::{PREFIX, ROUTES};
use crate::audit::AuditError;
use crate::control::ControlError;
use crate::record::RecordError;
use crate::store::StoreError;
use axum::Json;
use axum::extract::{MatchedPath, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use proteus_model::unit::Bytes;
use proteus_protocol::api::v1::{ErrorBody, Role};
use proteus_protocol::node::v1::NodeErrorCode;

/// What is read of an answer's text: those that it is read of are one line.
const TEXT_BYTES_MAX: usize = 4 << 10;

/// An answer that says no.
pub(crate) struct Refusal {
    status: StatusCode,
    body: ErrorBody,
}

impl Refusal {
    fn new(status: StatusCode, code: &str, message: String, hint: Option<String>) -> Self {
        Self { status, body: ErrorBody { code: code.to_owned(), message, detail: Vec::new(), hint } }
    }

    pub(super) fn unauthenticated(what: &str) -> Self {
        let hint = "pass `--token` or set PROTEUS_TOKEN; root on the host needs none on the unix socket";
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", what.to_owned(), Some(hint.to_owned()))
    }

    pub(super) fn forbidden(has: Role, needs: Role) -> Self {
        let message = format!("this takes the role {needs:?}, the token has {has:?}").to_lowercase();
        let role = format!("{needs:?}").to_lowercase();
        let hint = format!(
            "whoever may: `proteus token create NAME --role {role}`, as root on the host or as admin"
        );
        Self::new(StatusCode::FORBIDDEN, "forbidden", message, Some(hint))
    }

    pub(super) fn unsupported(message: String, hint: &str) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unsupported", message, Some(hint.to_owned()))
    }

    pub(super) fn not_ready(message: String, hint: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message, Some(hint.to_owned()))
    }

    pub(super) fn invalid(message: String, hint: &str) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message, Some(hint.to_owned()))
    }

    /// A request that is none of ours: of other words than its route takes.
    pub(super) fn malformed(status: StatusCode, why: &str) -> Self {
        let message = format!("the request is not what was expected: {why}");
        Self::new(status, "invalid", message, Some("see /openapi.json".to_owned()))
    }

    pub(super) fn nowhere(path: &str) -> Self {
        let hint = Some("GET /openapi.json lists what there is".to_owned());
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is nothing at {path}"), hint)
    }
}

/// Gives each answer that says no the documented body, also where what made it knows nothing of that: the router, what
/// reads paths, queries and bodies.
pub(super) async fn with_body(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let (status, headers) = (response.status(), response.headers().clone());
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !(status.is_client_error() || status.is_server_error()) || kind.starts_with("application/json") {
        return response;
    }
    let text = axum::body::to_bytes(response.into_body(), TEXT_BYTES_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let refusal = match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            // The router adds the header `allow` only to what comes out of here.
            let hint = format!("it takes {}", methods_of(matched.as_ref().map_or("", MatchedPath::as_str)));
            Refusal::new(status, "invalid", format!("{path} does not take {method}"), Some(hint))
        }
        StatusCode::PAYLOAD_TOO_LARGE => {
            let message = format!("the body is larger than {}", Bytes(super::BODY_BYTES_MAX as u64));
            let hint = "a profile may have 1 MiB; larger files are named, and stay on the host";
            Refusal::new(status, "invalid", message, Some(hint.to_owned()))
        }
        _ if status.is_client_error() => Refusal::malformed(status, &text),
        _ => Refusal::new(status, "internal", text.into_owned(), None),
    };
    refusal.into_response()
}

/// The methods that a path takes. Those that are not in the table, as `/metrics`, are only read.
fn methods_of(matched: &str) -> String {
    let below = matched.strip_prefix(PREFIX).unwrap_or_default();
    let all = ROUTES.iter().filter(|route| route.path == below).map(|route| route.method.to_uppercase());
    let all: Vec<String> = all.collect();
    if all.is_empty() { "GET".to_owned() } else { all.join(" and ") }
}

fn causes(error: &dyn std::error::Error) -> Vec<String> {
    std::iter::successors(error.source(), |cause| cause.source()).map(ToString::to_string).collect()
}

/// What a node refuses: status, stable word, and what to do about it where the node does not say.
fn node_refusal(code: NodeErrorCode) -> (StatusCode, &'static str, Option<&'static str>) {
    match code {
        NodeErrorCode::NotFound => (StatusCode::NOT_FOUND, "not_found", None),
        NodeErrorCode::NotRunning | NodeErrorCode::Conflict => {
            (StatusCode::CONFLICT, "conflict", Some("`proteus vm list` shows what runs"))
        }
        NodeErrorCode::FileInUse => {
            let hint = "a file that a disk writes to is no other disk's: name a copy of it, or delete the \
                        other VM first; with `,overlay` or `,ro` each, disks share a file";
            (StatusCode::CONFLICT, "conflict", Some(hint))
        }
        NodeErrorCode::File => (StatusCode::UNPROCESSABLE_ENTITY, "invalid", None),
        NodeErrorCode::Unsupported | NodeErrorCode::OutOfRange => {
            (StatusCode::UNPROCESSABLE_ENTITY, "unsupported", None)
        }
        NodeErrorCode::StaleGeneration => (StatusCode::CONFLICT, "conflict", None),
        NodeErrorCode::Guest => {
            let hint = "is proteus-guest running in the guest? `proteus vm console VM` shows its console";
            (StatusCode::BAD_GATEWAY, "node", Some(hint))
        }
        NodeErrorCode::Stalled | NodeErrorCode::Failed => (StatusCode::BAD_GATEWAY, "node", None),
    }
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        let (status, code, hint) = match &error {
            ControlError::NotFound { kind, .. } => {
                let list = match *kind {
                    "VM" => "`proteus vm list` shows what there is",
                    "profile" => "`proteus profile list` shows what there is",
                    "snapshot" => "`proteus vm snapshot list VM` shows what there is",
                    "morph" => "`proteus morph history` shows what there is",
                    "version" => "`proteus morph history VM` shows what there is",
                    _ => "look at the list first",
                };
                (StatusCode::NOT_FOUND, "not_found", Some(list.to_owned()))
            }
            ControlError::Conflict { hint, .. } => (StatusCode::CONFLICT, "conflict", Some(hint.clone())),
            ControlError::Invalid { hint, .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, "invalid", Some(hint.clone()))
            }
            ControlError::Forbidden { hint, .. } => (StatusCode::FORBIDDEN, "forbidden", Some(hint.clone())),
            ControlError::Disarmed { scope } => (StatusCode::LOCKED, "disarmed", Some(scope.way_back())),
            ControlError::Untold { hint, .. } => {
                (StatusCode::INTERNAL_SERVER_ERROR, "storage", Some(hint.clone()))
            }
            ControlError::Node(node) => {
                let (status, code, hint) = node_refusal(node.code);
                (status, code, node.hint.clone().or(hint.map(str::to_owned)))
            }
            ControlError::Record(RecordError::Conflict { .. }) => {
                (StatusCode::CONFLICT, "conflict", Some("try again".to_owned()))
            }
            ControlError::Record(RecordError::Store(StoreError::DiskFull { .. }))
            | ControlError::Audit(AuditError::Store { source: StoreError::DiskFull { .. }, .. }) => {
                let hint = "nothing was changed; free space on the file system of the state folder";
                (StatusCode::INSUFFICIENT_STORAGE, "storage", Some(hint.to_owned()))
            }
            ControlError::Record(_) | ControlError::Audit(_) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "storage",
                Some("`proteus store check` looks at the state".to_owned()),
            ),
        };
        let mut refusal = Self::new(status, code, error.to_string(), hint);
        refusal.body.detail = causes(&error);
        if status.is_server_error() {
            tracing::warn!(error = %refusal.body.message, causes = ?refusal.body.detail, "request failed");
        }
        refusal
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_not_called_unchanged() {
        let full = || ControlError::from(RecordError::from(StoreError::DiskFull { doing: "commit" }));
        let before = Refusal::from(full());
        assert_eq!(before.status, StatusCode::INSUFFICIENT_STORAGE);
        assert!(before.body.hint.is_some_and(|hint| hint.starts_with("nothing was changed")));
        let after = Refusal::from(full().after("web was stopped").or_again("proteus vm stop web"));
        assert_eq!(after.body.message, "web was stopped, and that could not be written down");
        assert!(after.body.detail.iter().any(|cause| cause.starts_with("no space left")), "{:?}", after.body);
        let hint = after.body.hint.expect("there is one");
        assert!(!hint.contains("nothing was changed") && hint.ends_with("then `proteus vm stop web` again"));
    }
}
