//! Who may do what: root on the unix socket everything, everybody else what their token's role allows. Only a
//! token's digest is kept.

use super::refusal::Refusal;
use super::{ROUTES, Route};
use crate::control::{Control, ControlError};
use axum::extract::{MatchedPath, Query, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{StatusCode, Uri};
use axum::middleware::Next;
use axum::response::Response;
use proteus_model::unit::UnixMillis;
use proteus_protocol::api::v1::{PREFIX, Role};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Name in the audit log.
    pub name: String,
    /// What they may do.
    pub role: Role,
}

/// What is kept of a token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Who it is for.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    pub created_at: UnixMillis,
    /// SHA-256 of the secret, in hex.
    digest: String,
}

fn hex_digest(secret: &str) -> String {
    Sha256::digest(secret).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key_of(name: &str) -> String {
    format!("token/{name}")
}

impl Control {
    /// Makes a token; its secret is given out here and nowhere else.
    pub async fn create_token(
        &self,
        name: &str,
        role: Role,
        actor: &str,
    ) -> Result<(TokenRecord, String), ControlError> {
        let named = name.parse::<proteus_model::id::VmName>();
        named.map_err(|_| ControlError::Invalid {
            what: format!("{:?} is not a token name", name.chars().take(80).collect::<String>()),
            hint: "1 to 63 of a-z, 0-9 and '-'".into(),
        })?;
        // 256 bits of entropy: nothing to guess, so a plain digest is enough to keep.
        let secret = format!("proteus-{:032x}{:032x}", self.records.fresh(), self.records.fresh());
        let record =
            TokenRecord { name: name.to_owned(), role, created_at: self.now(), digest: hex_digest(&secret) };
        let put = self.records.batch().put(&key_of(name), &record, None)?;
        let subject = format!("token/{name}");
        let entry = self.entry(actor, "token.create", &subject, "asked for", json!({ "role": role }));
        match self.commit_audited(put, entry).await {
            Err(ControlError::Record(crate::record::RecordError::Conflict { .. })) => {
                return Err(ControlError::Conflict {
                    what: format!("there is a token {name} already"),
                    hint: format!("`proteus token revoke {name}` first, or choose another name"),
                });
            }
            other => other?,
        };
        Ok((record, secret))
    }

    /// All tokens.
    pub async fn tokens(&self) -> Result<Vec<TokenRecord>, ControlError> {
        Ok(self.records.list("token/").await?.into_iter().map(|(_, record)| record.value).collect())
    }

    /// Makes a token worthless.
    pub async fn revoke_token(&self, name: &str, actor: &str) -> Result<(), ControlError> {
        let missing = || ControlError::NotFound { kind: "token", name: name.chars().take(80).collect() };
        let key = key_of(name);
        let found =
            self.records.get::<TokenRecord>(&key).await.map_err(|_| missing())?.ok_or_else(missing)?;
        let entry = self.entry(actor, "token.revoke", &format!("token/{name}"), "asked for", json!({}));
        self.commit_audited(self.records.batch().relief().delete(&key, found.rev)?, entry).await?;
        Ok(())
    }

    async fn caller_of(&self, secret: &str) -> Result<Option<Caller>, ControlError> {
        let digest = hex_digest(secret);
        let found = self.tokens().await?.into_iter().find(|token| token.digest == digest);
        Ok(found.map(|token| Caller { name: format!("token/{}", token.name), role: token.role }))
    }
}

fn find_route(method: &str, path: &str) -> Option<&'static Route> {
    let below = path.strip_prefix(PREFIX)?;
    ROUTES.iter().find(|route| route.path == below && route.method.eq_ignore_ascii_case(method))
}

/// Refuses what a route does not know: who asks with `?dry_run=true` wants nothing done, and where that was not heard
/// it would be.
fn check_query(route: &Route, uri: &Uri) -> Result<(), Refusal> {
    let malformed = |why: &str| Refusal::malformed(StatusCode::BAD_REQUEST, why);
    let given = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|e| malformed(&e.body_text()))?;
    let unknown = |(name, _): &&(String, String)| route.query.iter().all(|known| known.name != name);
    match given.iter().find(unknown) {
        None => Ok(()),
        Some((name, _)) => {
            let name: String = name.chars().take(80).collect();
            Err(malformed(&format!("{name:?} is nothing that the query of this route may have")))
        }
    }
}

/// Lets a request pass, or not; tells the handler who asks.
pub(super) async fn authorize(
    State((control, known)): State<(Arc<Control>, Option<Caller>)>,
    path: MatchedPath,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let caller = match known {
        Some(caller) => caller,
        None => {
            let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            let secret = header.and_then(|header| header.strip_prefix("Bearer "));
            let secret = secret.ok_or_else(|| Refusal::unauthenticated("no token was shown"))?;
            let caller = control.caller_of(secret).await?;
            caller.ok_or_else(|| Refusal::unauthenticated("the token is not known, or was revoked"))?
        }
    };
    // HEAD is answered by GET's handler.
    let method = if request.method() == "HEAD" { "GET" } else { request.method().as_str() };
    let route = find_route(method, path.as_str());
    // /metrics is not in the table; whatever else is not is nobody's but an admin's.
    let others = if path.as_str() == "/metrics" { Role::Viewer } else { Role::Admin };
    let needed = route.map_or(others, |route| route.role);
    if caller.role < needed {
        return Err(Refusal::forbidden(caller.role, needed));
    }
    if let Some(route) = route {
        check_query(route, request.uri())?;
    }
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}
