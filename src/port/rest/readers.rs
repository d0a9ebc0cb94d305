//! `/v1/readers`: which login of Postgres sees which tenant; granted, listed and revoked by whoever has the scope `admin`, for
//! the own tenant, or `operator`, for any.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{
        Path, Query, State,
        rejection::{BytesRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::admin::{Admin, Page, rfc3339};
use crate::port::peer::FromPeer;
use crate::port::{
    Shared,
    problem::{Problem, Refused},
};
use crate::{base::id::Login, controls::ReaderGrant};

/// A grant as it is shown.
#[derive(Serialize)]
struct Shown<'a> {
    login: &'a str,
    tenant: &'a str,
    granted_by: &'a str,
    granted_at: String,
}

impl<'a> Shown<'a> {
    fn new(grant: &'a ReaderGrant) -> Self {
        Self {
            login: grant.login.as_str(),
            tenant: grant.tenant.as_str(),
            granted_by: &grant.granted_by,
            granted_at: rfc3339(grant.granted_at),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    login: Option<String>,
    tenant: Option<String>,
}

/// Which tenant's, where the path names the login.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Of {
    tenant: Option<String>,
}

/// `POST /v1/readers`: 201, or 200 if the login could read the tenant already.
pub(crate) async fn grant(
    State(shared): State<Arc<Shared>>,
    peer: FromPeer,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    let admin = Admin::new(shared, &headers, peer)?;
    let asked: Asked = admin.read(&headers, body)?;
    let login = asked
        .login
        .filter(|l| !l.is_empty())
        .ok_or_else(|| admin.missing("login"))?;
    let login =
        Login::new(&login).map_err(|e| admin.refuse(Problem::invalid(format!("`login`: {e}"))))?;
    admin.check_scope()?;
    let tenant = admin.tenant(asked.tenant.as_deref())?;
    let controls = &admin.shared.controls;
    let known = controls.reader(&tenant, &login).is_some();
    let now = admin.shared.clock.now();
    let grant = controls
        .grant_reader(tenant, login, &admin.key.principal, now)
        .await
        .map_err(|e| admin.failed(&e))?;
    tracing::info!(login = %grant.login, tenant = %grant.tenant, by = admin.key.principal, "reader granted");
    let status = if known {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    Ok((status, Json(Shown::new(&grant))).into_response())
}

/// `GET /v1/readers`: without `?tenant=` an operator sees those of all tenants.
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    peer: FromPeer,
    headers: HeaderMap,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Response, Refused> {
    let admin = Admin::new(shared, &headers, peer)?;
    let Query(page) = page.map_err(|e| admin.refuse(Problem::invalid(e.body_text())))?;
    admin.check_scope()?;
    let tenant = match page.tenant.as_deref() {
        None if admin.is_operator() => None,
        named => Some(admin.tenant(named)?),
    };
    let limit = admin.limit(&page)?;
    // The offset of the last grant shown says where to go on, even when that has ended.
    let before = match page.cursor.as_deref().map(str::parse::<u64>) {
        None => u64::MAX,
        Some(Ok(offset)) => offset,
        Some(Err(_)) => {
            let detail = "`cursor` must be the `next_cursor` of the list before";
            return Err(admin.refuse(Problem::invalid(detail)));
        }
    };
    let mut grants = admin.shared.controls.readers(tenant.as_ref());
    grants.retain(|g| g.offset < before);
    let items: Vec<_> = grants.iter().take(limit).map(|g| Shown::new(g)).collect();
    let mut answer = serde_json::json!({ "items": items });
    if grants.len() > limit {
        answer["next_cursor"] = grants[limit - 1].offset.to_string().into();
    }
    Ok(Json(answer).into_response())
}

/// `DELETE /v1/readers/{login}`: ends it. What was never granted is not there.
pub(crate) async fn revoke(
    State(shared): State<Arc<Shared>>,
    peer: FromPeer,
    headers: HeaderMap,
    Path(login): Path<String>,
    of: Result<Query<Of>, QueryRejection>,
) -> Result<StatusCode, Refused> {
    let admin = Admin::new(shared, &headers, peer)?;
    let Query(of) = of.map_err(|e| admin.refuse(Problem::invalid(e.body_text())))?;
    admin.check_scope()?;
    let tenant = admin.tenant(of.tenant.as_deref())?;
    let controls = &admin.shared.controls;
    let login = Login::new(&login).ok();
    let now = admin.shared.clock.now();
    let Some(grant) = login.and_then(|login| controls.reader(&tenant, &login)) else {
        return Err(admin.not_found("that login was not granted that tenant"));
    };
    controls
        .revoke_reader(&grant.tenant, &grant.login, &admin.key.principal, now)
        .await
        .map_err(|e| admin.failed(&e))?;
    tracing::info!(login = %grant.login, tenant = %grant.tenant, by = admin.key.principal, "reader revoked");
    Ok(StatusCode::NO_CONTENT)
}
