//! `/v1/keys`: made, listed and revoked for the key's own tenant, by operators for any.

use std::sync::Arc;

use axum::{
    Json,
    extract::Path,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{
    caller::{Caller, Permitted, Sent, detail},
    request::QueryString,
};
use crate::port::problem::{Problem, Refused};
use crate::{
    api::{
        keys::{self, CreateKey},
        list::{List, Page},
    },
    base::clock::Millis,
    controls::{Key, NewKey, TEXT_MAX, Token, text_is_good},
};

/// `POST /v1/keys`.
pub(crate) async fn create(Sent(caller, body): Sent<Caller>) -> Result<Response, Refused> {
    let asked = caller.body(body)?;
    let (caller, new) = check(asked, caller)?;
    let controls = &caller.shared.controls;
    let now = caller.shared.clock.now();
    let token = Token::generate();
    let key = controls
        .create_key(new, &token, &caller.key.principal, now)
        .await
        .map_err(|e| caller.unchanged(&e))?;
    tracing::info!(id = key.id, tenant = %key.tenant, by = caller.key.principal, "key created");
    let detail = detail([("name", &key.name), ("principal", &key.principal)]);
    let of = ("key", key.id.as_str());
    caller
        .audit_change(&key.tenant, "key.created", of, detail)
        .await;
    let shown = Json(keys::Key::new(&key, Some(token.reveal())));
    Ok((
        StatusCode::CREATED,
        [(header::CACHE_CONTROL, "no-store")],
        shown,
    )
        .into_response())
}

/// `GET /v1/keys`.
pub(crate) async fn list(caller: Caller, page: QueryString<Page>) -> Result<Response, Refused> {
    let page = caller.query(page)?;
    let caller = caller.permit()?;
    let tenant = caller.tenant(page.tenant.as_deref())?;
    let limit = page.limit().map_err(|e| caller.invalid(e))?;
    let keys = caller.shared.controls.keys(Some(&tenant));
    // Ids grow with time, so the last id shown says where to go on, even when its key is gone.
    let rest: Vec<_> = keys
        .iter()
        .filter(|k| page.cursor.as_ref().is_none_or(|c| k.id < *c))
        .collect();
    let items = rest.iter().take(limit);
    let answer = List {
        items: items.map(|k| keys::Key::new(k, None)).collect(),
        next_cursor: (rest.len() > limit).then(|| rest[limit - 1].id.clone()),
    };
    Ok(Json(answer).into_response())
}

/// `DELETE /v1/keys/{id}`: ends it at once. Another tenant's key is not there.
pub(crate) async fn revoke(
    caller: Permitted,
    Path(id): Path<String>,
) -> Result<StatusCode, Refused> {
    let controls = &caller.shared.controls;
    let visible = |k: &Arc<Key>| k.tenant == caller.key.tenant || caller.is_operator();
    let Some(key) = controls.key(&id).filter(visible) else {
        return Err(caller.not_found("there is no such key"));
    };
    controls
        .revoke_key(&key, &caller.key.principal, caller.shared.clock.now())
        .await
        .map_err(|e| caller.unchanged(&e))?;
    tracing::info!(id = key.id, tenant = %key.tenant, by = caller.key.principal, "key revoked");
    let detail = detail([("name", &key.name), ("principal", &key.principal)]);
    let of = ("key", key.id.as_str());
    caller
        .audit_change(&key.tenant, "key.revoked", of, detail)
        .await;
    Ok(StatusCode::NO_CONTENT)
}

/// Fields first, then what the asking key may grant.
fn check(asked: CreateKey, caller: Caller) -> Result<(Permitted, NewKey), Refused> {
    let text = |field: &'static str, value: &str| {
        if text_is_good(value) {
            return Ok(());
        }
        Err(caller.invalid(format!(
            "`{field}` may have {TEXT_MAX} bytes, and no control characters"
        )))
    };
    let name = asked
        .name
        .filter(|n| !n.is_empty())
        .ok_or_else(|| caller.missing("name"))?;
    text("name", &name)?;
    let principal = asked
        .principal
        .filter(|p| !p.is_empty())
        .unwrap_or_else(|| name.clone());
    text("principal", &principal)?;
    let kind = asked.kind.ok_or_else(|| caller.missing("kind"))?;
    let scopes = asked.scopes.ok_or_else(|| caller.missing("scopes"))?;
    if let Some(problem) = scopes.problem() {
        return Err(caller.invalid(problem));
    }
    let expires_at = asked.expires_at.map(|t| Millis(t.as_millisecond()));
    if expires_at.is_some_and(|at| at <= caller.shared.clock.now()) {
        return Err(caller.invalid("`expires_at` is over"));
    }
    let caller = caller.permit()?;
    let tenant = caller.tenant(asked.tenant.as_deref())?;
    if let Some(lacking) = caller.key.scopes.lacks(&scopes) {
        return Err(caller.refuse(Problem::denied(format!(
            "nobody grants what they lack: {lacking}"
        ))));
    }
    let new = NewKey {
        tenant,
        name,
        principal,
        kind,
        scopes,
        expires_at,
    };
    Ok((caller, new))
}
