//! `/v1/readers`: which Postgres login can read which tenant; grant, list and revoke. A key manages its own tenant; operators may name
//! any.

use axum::{
    Json,
    extract::Path,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::Map;

use super::{
    caller::{Caller, Sent},
    request::QueryString,
};
use crate::{
    api::{
        list::{List, Page},
        readers::{GrantReader, Reader, RevokeReader},
    },
    base::id::Login,
    port::problem::Refused,
};

/// `POST /v1/readers`: 201, or 200 if the login could already read the tenant.
pub(crate) async fn grant(Sent(caller, body): Sent<Caller>) -> Result<Response, Refused> {
    let request: GrantReader = caller.body(body)?;
    let login = request
        .login
        .filter(|l| !l.is_empty())
        .ok_or_else(|| caller.missing("login"))?;
    let login = Login::new(&login).map_err(|e| caller.invalid(format!("`login`: {e}")))?;
    let caller = caller.permit()?;
    let tenant = caller.tenant(request.tenant.as_deref())?;
    let controls = &caller.shared.controls;
    let known = controls.reader(&tenant, &login).is_some();
    let now = caller.shared.clock.now();
    let grant = controls
        .grant_reader(tenant, login, &caller.key.principal, now)
        .await
        .map_err(|e| caller.unchanged(&e))?;
    tracing::info!(login = %grant.login, tenant = %grant.tenant, by = caller.key.principal, "reader granted");
    let of = ("reader", grant.login.as_str());
    caller
        .audit_change(&grant.tenant, "reader.granted", of, Map::new())
        .await;
    let status = if known {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    Ok((status, Json(Reader::new(&grant))).into_response())
}

/// `GET /v1/readers`: without `?tenant=` an operator sees the readers of all tenants.
pub(crate) async fn list(caller: Caller, page: QueryString<Page>) -> Result<Response, Refused> {
    let page = caller.query(page)?;
    let caller = caller.permit()?;
    let tenant = match page.tenant.as_deref() {
        None if caller.is_operator() => None,
        named => Some(caller.tenant(named)?),
    };
    let limit = page.limit().map_err(|e| caller.invalid(e))?;
    // The offset of the last grant shown is a valid cursor even after that grant was revoked.
    let before = match page.cursor.as_deref().map(str::parse::<u64>) {
        None => u64::MAX,
        Some(Ok(offset)) => offset,
        Some(Err(_)) => {
            return Err(caller.invalid("`cursor` must be the `next_cursor` of the previous page"));
        }
    };
    let mut grants = caller.shared.controls.readers(tenant.as_ref());
    grants.retain(|g| g.offset < before);
    let items = grants.iter().take(limit);
    let answer = List {
        items: items.map(|g| Reader::new(g)).collect(),
        next_cursor: (grants.len() > limit).then(|| grants[limit - 1].offset.to_string()),
    };
    Ok(Json(answer).into_response())
}

/// `DELETE /v1/readers/{login}`: revokes the grant; 404 if there is none.
pub(crate) async fn revoke(
    caller: Caller,
    Path(login): Path<String>,
    of: QueryString<RevokeReader>,
) -> Result<StatusCode, Refused> {
    let of = caller.query(of)?;
    let caller = caller.permit()?;
    let tenant = caller.tenant(of.tenant.as_deref())?;
    let controls = &caller.shared.controls;
    let login = Login::new(&login).ok();
    let now = caller.shared.clock.now();
    let Some(grant) = login.and_then(|login| controls.reader(&tenant, &login)) else {
        return Err(caller.not_found("that login was not granted that tenant"));
    };
    controls
        .revoke_reader(&grant.tenant, &grant.login, &caller.key.principal, now)
        .await
        .map_err(|e| caller.unchanged(&e))?;
    tracing::info!(login = %grant.login, tenant = %grant.tenant, by = caller.key.principal, "reader revoked");
    let of = ("reader", grant.login.as_str());
    caller
        .audit_change(&grant.tenant, "reader.revoked", of, Map::new())
        .await;
    Ok(StatusCode::NO_CONTENT)
}
