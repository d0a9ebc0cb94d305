//! `/v1/keys`: made, listed and revoked by whoever has the scope `admin`, for the own tenant.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{
        Path, Query, State,
        rejection::{BytesRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::admin::{Admin, Page, rfc3339};
use crate::port::peer::FromPeer;
use crate::port::{
    Shared,
    problem::{Problem, Refused},
};
use crate::{
    base::clock::Millis,
    controls::{Key, KeyKind, NewKey, OPERATOR, Scopes, TEXT_MAX, Token, text_is_good},
};

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

/// `POST /v1/keys`.
pub(crate) async fn create(
    State(shared): State<Arc<Shared>>,
    peer: FromPeer,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    let admin = Admin::new(shared, &headers, peer)?;
    let asked = admin.read(&headers, body)?;
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
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    peer: FromPeer,
    headers: HeaderMap,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Response, Refused> {
    let admin = Admin::new(shared, &headers, peer)?;
    let Query(page) = page.map_err(|e| admin.refuse(Problem::invalid(e.body_text())))?;
    admin.check_scope()?;
    let tenant = admin.tenant(page.tenant.as_deref())?;
    let limit = admin.limit(&page)?;
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
pub(crate) async fn revoke(
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
        return Err(admin.not_found("there is no such key"));
    };
    controls
        .revoke_key(&key, &admin.key.principal, admin.shared.clock.now())
        .await
        .map_err(|e| admin.failed(&e))?;
    tracing::info!(id = key.id, tenant = %key.tenant, by = admin.key.principal, "key revoked");
    Ok(StatusCode::NO_CONTENT)
}

/// Fields first, then what the asking key may grant.
fn check(asked: Asked, admin: &Admin) -> Result<NewKey, Refused> {
    let missing = |field: &str| admin.missing(field);
    let text = |field: &'static str, value: &str| {
        if !text_is_good(value) {
            let detail = format!("`{field}` may have {TEXT_MAX} bytes, and no control characters");
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
