//! `/v1/keys`: made, listed and revoked by whoever has the scope `admin`, for the own tenant.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    RequestId, Shared, auth,
    problem::{Problem, Refused},
    routes::FromPeer,
};
use crate::{
    clock::Millis,
    controls::{ADMIN, ControlsError, Key, KeyKind, NewKey, OPERATOR, Scopes, Token},
    id::Tenant,
};

const NAME_MAX: usize = 256;
const PAGE: usize = 100;
const PAGE_MAX: usize = 1000;

/// A key as it is shown.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    /// The whole key: once, when it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    prefix: &'a str,
    name: &'a str,
    principal: &'a str,
    tenant: &'a str,
    kind: KeyKind,
    scopes: &'a Scopes,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

impl<'a> Shown<'a> {
    fn new(key: &'a Key, token: Option<&'a str>) -> Self {
        Self {
            id: &key.id,
            key: token,
            prefix: key.prefix(),
            name: &key.name,
            principal: &key.principal,
            tenant: key.tenant.as_str(),
            kind: key.kind,
            scopes: &key.scopes,
            created_at: rfc3339(key.created_at),
            expires_at: key.expires_at.map(rfc3339),
        }
    }
}

fn rfc3339(at: Millis) -> String {
    Timestamp::from_millisecond(at.0)
        .map(|t| t.to_string())
        .unwrap_or_default()
}

/// What a key is asked for with; what is missing is reported by name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    name: Option<String>,
    principal: Option<String>,
    tenant: Option<String>,
    kind: Option<KeyKind>,
    scopes: Option<Scopes>,
    expires_at: Option<Timestamp>,
}

/// Page by page, newest first.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    cursor: Option<String>,
    limit: Option<usize>,
    tenant: Option<String>,
}

/// A request of someone who may manage keys.
struct Admin {
    shared: Arc<Shared>,
    key: Arc<Key>,
    id: RequestId,
}

impl Admin {
    fn new(
        shared: Arc<Shared>,
        headers: &HeaderMap,
        Extension(peer): FromPeer,
    ) -> Result<Self, Refused> {
        let id = shared.ids.next();
        let key = auth::authenticate(&shared, headers, peer.0).map_err(|p| Refused::new(p, id))?;
        Ok(Self { shared, key, id })
    }

    fn refuse(&self, problem: Problem) -> Refused {
        Refused::new(problem, self.id)
    }

    fn check_scope(&self) -> Result<(), Refused> {
        if self.key.scopes.permits(ADMIN) || self.key.scopes.permits(OPERATOR) {
            return Ok(());
        }
        Err(self.refuse(Problem::denied("the key lacks the permission `admin`")))
    }

    /// The tenant asked for: the own one, or for operators any.
    fn tenant(&self, named: Option<&str>) -> Result<Tenant, Refused> {
        let Some(named) = named.filter(|n| *n != self.key.tenant.as_str()) else {
            return Ok(self.key.tenant.clone());
        };
        if !self.key.scopes.permits(OPERATOR) {
            return Err(self.refuse(Problem::denied(
                "only a key with the permission `operator` names another tenant",
            )));
        }
        Tenant::new(named).map_err(|e| self.refuse(Problem::invalid(format!("`tenant`: {e}"))))
    }

    fn failed(&self, error: &ControlsError) -> Refused {
        tracing::warn!(%error, "a key could not be changed");
        self.refuse(Problem::log_unavailable())
    }
}

/// `POST /v1/keys`.
pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    peer: FromPeer,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    let admin = Admin::new(shared, &headers, peer)?;
    let asked = read(&headers, body).map_err(|p| admin.refuse(p))?;
    let new = check(asked, &admin)?;
    let controls = &admin.shared.controls;
    let now = admin.shared.clock.now();
    let token = Token::generate();
    let key = controls
        .create_key(new, &token, &admin.key.principal, now)
        .await
        .map_err(|e| admin.failed(&e))?;
    tracing::info!(id = key.id, tenant = %key.tenant, by = admin.key.principal, "key created");
    let shown = Json(Shown::new(&key, Some(token.reveal())));
    Ok((
        StatusCode::CREATED,
        [(header::CACHE_CONTROL, "no-store")],
        shown,
    )
        .into_response())
}

/// `GET /v1/keys`.
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    peer: FromPeer,
    headers: HeaderMap,
    page: Result<Query<Page>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Refused> {
    let admin = Admin::new(shared, &headers, peer)?;
    let Query(page) = page.map_err(|e| admin.refuse(Problem::invalid(e.body_text())))?;
    admin.check_scope()?;
    let tenant = admin.tenant(page.tenant.as_deref())?;
    let limit = page.limit.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(admin.refuse(Problem::invalid(format!(
            "`limit` must be from 1 to {PAGE_MAX}"
        ))));
    }
    let keys = admin.shared.controls.keys(Some(&tenant));
    // Ids grow with time, so the last id shown says where to go on, even when its key is gone.
    let rest: Vec<_> = keys
        .iter()
        .filter(|k| page.cursor.as_ref().is_none_or(|c| k.id < *c))
        .collect();
    let items: Vec<_> = rest
        .iter()
        .take(limit)
        .map(|k| Shown::new(k, None))
        .collect();
    let mut answer = serde_json::json!({ "items": items });
    if rest.len() > limit {
        answer["next_cursor"] = items[limit - 1].id.into();
    }
    Ok(Json(answer).into_response())
}

/// `DELETE /v1/keys/{id}`: ends it at once. Another tenant's key is not there.
pub(super) async fn revoke(
    State(shared): State<Arc<Shared>>,
    peer: FromPeer,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<StatusCode, Refused> {
    let admin = Admin::new(shared, &headers, peer)?;
    admin.check_scope()?;
    let controls = &admin.shared.controls;
    let visible = |k: &Arc<Key>| k.tenant == admin.key.tenant || admin.key.scopes.permits(OPERATOR);
    let Some(key) = controls.key(&id).filter(visible) else {
        let problem = Problem::new(StatusCode::NOT_FOUND, "not_found", "there is no such key");
        return Err(admin.refuse(problem));
    };
    controls
        .revoke_key(&key)
        .await
        .map_err(|e| admin.failed(&e))?;
    tracing::info!(id = key.id, tenant = %key.tenant, by = admin.key.principal, "key revoked");
    Ok(StatusCode::NO_CONTENT)
}

fn read(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Asked, Problem> {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok());
    let media = content_type
        .and_then(|c| c.split(';').next())
        .unwrap_or_default();
    if !media.trim().eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "send application/json",
        ));
    }
    let body = body.map_err(|e| match e.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::too_large("payload_too_large", "the body may have 65536 bytes")
        }
        _ => Problem::invalid(e.body_text()),
    })?;
    serde_json::from_slice(&body).map_err(|e| Problem::invalid(e.to_string()))
}

/// Fields first, then what the asking key may grant.
fn check(asked: Asked, admin: &Admin) -> Result<NewKey, Refused> {
    let missing = |field: &str| {
        let code = format!("missing_{field}");
        let detail = format!("`{field}` is required and must not be empty");
        admin.refuse(Problem::new(StatusCode::BAD_REQUEST, code, detail))
    };
    let text = |field: &'static str, value: &str| {
        if value.len() > NAME_MAX || value.chars().any(char::is_control) {
            let detail = format!("`{field}` may have {NAME_MAX} bytes, and no control characters");
            return Err(admin.refuse(Problem::invalid(detail)));
        }
        Ok(())
    };
    let name = asked
        .name
        .filter(|n| !n.is_empty())
        .ok_or_else(|| missing("name"))?;
    text("name", &name)?;
    let principal = asked
        .principal
        .filter(|p| !p.is_empty())
        .unwrap_or_else(|| name.clone());
    text("principal", &principal)?;
    let kind = asked.kind.ok_or_else(|| missing("kind"))?;
    let scopes = asked.scopes.ok_or_else(|| missing("scopes"))?;
    if let Some(problem) = scopes.problem() {
        return Err(admin.refuse(Problem::invalid(problem)));
    }
    let expires_at = asked.expires_at.map(|t| Millis(t.as_millisecond()));
    if expires_at.is_some_and(|at| at <= admin.shared.clock.now()) {
        return Err(admin.refuse(Problem::invalid("`expires_at` is over")));
    }
    admin.check_scope()?;
    let tenant = admin.tenant(asked.tenant.as_deref())?;
    if let Some(lacking) = admin.key.scopes.lacks(&scopes) {
        return Err(admin.refuse(Problem::denied(format!(
            "nobody grants what they lack: {lacking}"
        ))));
    }
    Ok(NewKey {
        tenant,
        name,
        principal,
        kind,
        scopes,
        expires_at,
    })
}
