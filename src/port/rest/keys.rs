//! `/v1/keys`: create, list, rotate, change and revoke. A key manages its own tenant; operators may name any.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::Path,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use super::{
    caller::{Caller, Permitted, Sent, detail},
    request::QueryString,
};
use crate::port::problem::{Problem, Refused};
use crate::{
    api::{
        keys::{self, ChangeKey, CreateKey, OVERLAP_MAX_S, RotateKey, RotatedKey},
        list::{List, Page},
        time::rfc3339,
    },
    audit::KEY_CREATED,
    base::clock::Millis,
    controls::{ControlsError, Key, KeyChange, NewKey, Scopes, TEXT_MAX, Token, text_is_good},
};

/// The answer contains a secret.
const NO_STORE: [(header::HeaderName, &str); 1] = [(header::CACHE_CONTROL, "no-store")];

/// Stands for all tenants; no tenant has this name.
const ALL_TENANTS: &str = "*";

/// Why a key was not changed.
enum NotEdited {
    /// The caller is not allowed to.
    Refused(Refused),
    /// `controls` could not be changed.
    Failed(ControlsError),
}

impl From<ControlsError> for NotEdited {
    fn from(error: ControlsError) -> Self {
        Self::Failed(error)
    }
}

/// `POST /v1/keys`.
pub(crate) async fn create(Sent(caller, body): Sent<Caller>) -> Result<Response, Refused> {
    let request = caller.body(body)?;
    let (caller, new) = check(request, caller)?;
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
        .audit_change(&key.tenant, KEY_CREATED, of, detail)
        .await;
    let shown = Json(keys::Key::new(&key, Some(token.reveal()), now));
    Ok((StatusCode::CREATED, NO_STORE, shown).into_response())
}

/// `GET /v1/keys`.
pub(crate) async fn list(caller: Caller, page: QueryString<Page>) -> Result<Response, Refused> {
    let page = caller.query(page)?;
    let caller = caller.permit()?;
    let tenant = if page.tenant.as_deref() == Some(ALL_TENANTS) {
        caller.name_other_tenant()?;
        None
    } else {
        Some(caller.tenant(page.tenant.as_deref())?)
    };
    let limit = page.limit().map_err(|e| caller.invalid(e))?;
    let now = caller.shared.clock.now();
    let keys = caller.shared.controls.keys(tenant.as_ref());
    // Ids grow with time, so the last id shown is a valid cursor even after its key was deleted.
    let rest: Vec<_> = keys
        .iter()
        .filter(|k| page.cursor.as_ref().is_none_or(|c| k.id < *c))
        .collect();
    let items = rest.iter().take(limit);
    let answer = List {
        items: items.map(|k| keys::Key::new(k, None, now)).collect(),
        next_cursor: (rest.len() > limit).then(|| rest[limit - 1].id.clone()),
    };
    Ok(Json(answer).into_response())
}

/// `POST /v1/keys/{id}/rotate`.
pub(crate) async fn rotate(
    Path(id): Path<String>,
    Sent(caller, body): Sent<Caller>,
) -> Result<Response, Refused> {
    let request: RotateKey = body.parse_or_default().map_err(|p| caller.refuse(p))?;
    if request.overlap_s > OVERLAP_MAX_S {
        let detail = format!("`overlap_s` must be at most {OVERLAP_MAX_S}");
        return Err(caller.invalid(detail));
    }
    let caller = caller.permit()?;
    let key = visible(&caller, &id)?;
    let token = Token::generate();
    let overlap = Duration::from_secs(request.overlap_s);
    let by = (caller.key.principal.as_str(), caller.shared.clock.now());
    let rotated = caller
        .shared
        .controls
        .rotate_key(&key.id, (&token, overlap), by, |key| {
            may_grant(&caller, &key.scopes)
        });
    let key = edited(&caller, rotated.await)?;
    tracing::info!(id = key.id, tenant = %key.tenant, by = caller.key.principal, "key rotated");
    let mut detail = detail([("name", &key.name), ("principal", &key.principal)]);
    detail.insert("overlap_s".into(), request.overlap_s.into());
    let of = ("key", key.id.as_str());
    caller
        .audit_change(&key.tenant, "key.rotated", of, detail)
        .await;
    let (prefix, _) = token.fingerprint();
    let shown = RotatedKey {
        id: &key.id,
        key: token.reveal(),
        prefix: std::str::from_utf8(&prefix).unwrap_or_default(),
    };
    Ok((NO_STORE, Json(shown)).into_response())
}

/// `PATCH /v1/keys/{id}`.
pub(crate) async fn change(
    Path(id): Path<String>,
    Sent(caller, body): Sent<Caller>,
) -> Result<Response, Refused> {
    let request: ChangeKey = caller.body(body)?;
    let now = caller.shared.clock.now();
    let change = check_change(&caller, request, now)?;
    let caller = caller.permit()?;
    let key = visible(&caller, &id)?;
    let by = (caller.key.principal.as_str(), now);
    let changed = caller
        .shared
        .controls
        .change_key(&key.id, &change, by, |key| may_grant(&caller, &key.scopes));
    let key = edited(&caller, changed.await)?;
    tracing::info!(id = key.id, tenant = %key.tenant, by = caller.key.principal, "key changed");
    let of = ("key", key.id.as_str());
    let detail = changed_fields(&change);
    caller
        .audit_change(&key.tenant, "key.changed", of, detail)
        .await;
    Ok(Json(keys::Key::new(&key, None, now)).into_response())
}

/// `DELETE /v1/keys/{id}`: revokes all its secrets at once.
pub(crate) async fn revoke(
    caller: Permitted,
    Path(id): Path<String>,
) -> Result<StatusCode, Refused> {
    let key = visible(&caller, &id)?;
    let controls = &caller.shared.controls;
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

/// Finds the key with this id. A key of another tenant is reported as not found.
fn visible(caller: &Permitted, id: &str) -> Result<Arc<Key>, Refused> {
    let key = caller.shared.controls.key(id);
    key.filter(|k| k.tenant == caller.key.tenant || caller.is_operator())
        .ok_or_else(|| no_such_key(caller))
}

fn no_such_key(caller: &Permitted) -> Refused {
    caller.not_found("there is no such key")
}

/// Whether the caller may create or change a key with these scopes.
fn may_grant(caller: &Permitted, scopes: &Scopes) -> Result<(), NotEdited> {
    match caller.key.scopes.lacks(scopes) {
        None => Ok(()),
        Some(lacking) => Err(NotEdited::Refused(refuse_grant(caller, &lacking))),
    }
}

fn refuse_grant(caller: &Permitted, lacking: &str) -> Refused {
    caller.refuse(Problem::denied(format!(
        "a key cannot grant what it lacks: {lacking}"
    )))
}

/// The changed key, or the refusal.
fn edited(
    caller: &Permitted,
    edited: Result<Option<Arc<Key>>, NotEdited>,
) -> Result<Arc<Key>, Refused> {
    match edited {
        Ok(Some(key)) => Ok(key),
        // It was revoked meanwhile.
        Ok(None) => Err(no_such_key(caller)),
        Err(NotEdited::Refused(refused)) => Err(refused),
        Err(NotEdited::Failed(error)) => Err(caller.unchanged(&error)),
    }
}

/// Checks the fields of a change.
fn check_change(caller: &Caller, request: ChangeKey, now: Millis) -> Result<KeyChange, Refused> {
    let expires_at = request
        .expires_at
        .map(|at| at.map(|t| Millis(t.as_millisecond())));
    if request.name.is_none() && request.scopes.is_none() && expires_at.is_none() {
        return Err(caller.invalid("give at least one of `name`, `scopes` and `expires_at`"));
    }
    if let Some(name) = &request.name {
        check_text(caller, "name", name)?;
    }
    check_scopes(caller, request.scopes.as_ref())?;
    check_expiry(caller, expires_at.flatten(), now)?;
    Ok(KeyChange {
        name: request.name,
        scopes: request.scopes,
        expires_at,
    })
}

/// The changed fields, for the audit log.
fn changed_fields(change: &KeyChange) -> Map<String, Value> {
    let mut fields = Map::new();
    if let Some(name) = &change.name {
        fields.insert("name".into(), name.clone().into());
    }
    if let Some(scopes) = &change.scopes {
        fields.insert("scopes".into(), json!(scopes));
    }
    if let Some(expires_at) = change.expires_at {
        fields.insert("expires_at".into(), json!(expires_at.map(rfc3339)));
    }
    fields
}

fn check_text(caller: &Caller, field: &str, value: &str) -> Result<(), Refused> {
    if text_is_good(value) {
        return Ok(());
    }
    Err(caller.invalid(format!(
        "`{field}` must have 1 to {TEXT_MAX} bytes, and no control characters"
    )))
}

fn check_scopes(caller: &Caller, scopes: Option<&Scopes>) -> Result<(), Refused> {
    match scopes.and_then(Scopes::problem) {
        Some(problem) => Err(caller.invalid(problem)),
        None => Ok(()),
    }
}

fn check_expiry(caller: &Caller, expires_at: Option<Millis>, now: Millis) -> Result<(), Refused> {
    if expires_at.is_some_and(|at| at <= now) {
        return Err(caller.invalid("`expires_at` is in the past"));
    }
    Ok(())
}

/// Checks the fields first, then what the caller's key may grant.
fn check(request: CreateKey, caller: Caller) -> Result<(Permitted, NewKey), Refused> {
    let name = request
        .name
        .filter(|n| !n.is_empty())
        .ok_or_else(|| caller.missing("name"))?;
    check_text(&caller, "name", &name)?;
    let principal = request
        .principal
        .filter(|p| !p.is_empty())
        .unwrap_or_else(|| name.clone());
    check_text(&caller, "principal", &principal)?;
    let kind = request.kind.ok_or_else(|| caller.missing("kind"))?;
    let scopes = request.scopes.ok_or_else(|| caller.missing("scopes"))?;
    check_scopes(&caller, Some(&scopes))?;
    let expires_at = request.expires_at.map(|t| Millis(t.as_millisecond()));
    check_expiry(&caller, expires_at, caller.shared.clock.now())?;
    let caller = caller.permit()?;
    let tenant = caller.tenant(request.tenant.as_deref())?;
    if let Some(lacking) = caller.key.scopes.lacks(&scopes) {
        return Err(refuse_grant(&caller, &lacking));
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
