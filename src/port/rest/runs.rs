//! `GET /v1/runs`, `/v1/runs/{id}` and `/v1/approvals`, read from Postgres. A key reads its own tenant; operators may name any.

use std::time::Duration;

use axum::{
    Json,
    extract::Path,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::Map;

use super::{
    approval_values,
    audit::{read, store, unavailable},
    caller::{Caller, Permitted},
    request::QueryString,
    wait::{Found, RunLookup, has_ended, own},
};
use crate::{
    api::{
        audit::cursor,
        list::List,
        run_reads::{
            BadRow, ListApprovals, ListRuns, RunSummary, ShowRun, WAIT_MAX_S, place_of_approval,
            place_of_run,
        },
        runs::{ApprovalView, RunView},
    },
    port::problem::Refused,
    store::{
        StoreError,
        audit::{Page, Place},
        runs,
    },
};

/// `GET /v1/runs`.
pub(crate) async fn list(
    caller: Caller,
    query: QueryString<ListRuns>,
) -> Result<Json<List<RunSummary>>, Refused> {
    let query = caller.query(query)?;
    let caller = caller.permit()?;
    let tenant = caller.tenant(query.tenant.as_deref())?;
    let own = own(&caller);
    let page = query.page(tenant.as_str(), own.as_deref());
    let (page, filter) = page.map_err(|e| caller.invalid(e))?;
    let store = store(&caller)?;
    let of = async |page: &Page| runs::runs(&store, page, &filter).await;
    Ok(Json(listed(&caller, page, of, place_of_run).await?))
}

/// `GET /v1/approvals`.
pub(crate) async fn approvals(
    caller: Caller,
    query: QueryString<ListApprovals>,
) -> Result<Json<List<ApprovalView>>, Refused> {
    let query = caller.query(query)?;
    let caller = caller.permit()?;
    let tenant = caller.tenant(query.tenant.as_deref())?;
    let page = query.page(tenant.as_str());
    let page = page.map_err(|e| caller.invalid(e))?;
    let store = store(&caller)?;
    let of = async |page: &Page| runs::approvals(&store, page, query.status()).await;
    let mut list = listed(&caller, page, of, place_of_approval).await?;
    approval_values::show(&caller, &store, tenant.as_str(), &mut list.items).await?;
    // Approvals show the inputs of steps, which is why reads by persons are recorded.
    let of = ("approvals", query.status());
    caller.audit_read(Some(&tenant), "approval.listed", of, Map::new());
    Ok(Json(list))
}

/// `GET /v1/runs/{id}`.
pub(crate) async fn show(
    caller: Caller,
    Path(id): Path<String>,
    query: QueryString<ShowRun>,
) -> Result<Response, Refused> {
    let query = caller.query(query)?;
    let wait = query.wait.unwrap_or_default();
    if wait > WAIT_MAX_S {
        return Err(caller.invalid(format!("`wait` must be at most {WAIT_MAX_S} seconds")));
    }
    let caller = caller.permit()?;
    let lookup = RunLookup::new(&caller, query.tenant.as_deref(), &id)?;
    let found = lookup.until(Duration::from_secs(wait)).await?;
    let of = ("run", &*lookup.run_id);
    caller.audit_read(Some(&lookup.tenant), "run.read", of, Map::new());
    match found {
        Found::Ended(view) => Ok(Json(&*view).into_response()),
        Found::Row(row) => {
            let status = if wait == 0 || has_ended(&row) {
                StatusCode::OK
            } else {
                StatusCode::ACCEPTED
            };
            Ok((status, Json(view(&lookup).await?)).into_response())
        }
    }
}

/// Reads a run that has a row, with its steps and approvals.
async fn view(lookup: &RunLookup<'_>) -> Result<RunView, Refused> {
    let found = runs::whole(&lookup.store, lookup.tenant.as_str(), &lookup.run_id);
    let caller = lookup.caller;
    match read(caller, found).await? {
        Some((row, steps, approvals)) => {
            RunView::of(row, steps, approvals).map_err(|e| unreadable(caller, &e))
        }
        // The tables were replaced by ones without this run.
        None => Err(caller.not_found("there is no such run")),
    }
}

/// A page of rows as the API shows them.
async fn listed<R, V: TryFrom<R, Error = BadRow>>(
    caller: &Permitted,
    mut page: Page,
    rows: impl AsyncFnOnce(&Page) -> Result<Vec<R>, StoreError>,
    place: fn(&R) -> Place,
) -> Result<List<V>, Refused> {
    let limit = page.limit;
    // One extra row shows whether another page follows.
    page.limit += 1;
    let mut rows = read(caller, rows(&page)).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| more);
    let next_cursor = last.map(|row| cursor(&place(row)));
    let items = rows.into_iter().map(V::try_from);
    Ok(List {
        items: items
            .collect::<Result<_, _>>()
            .map_err(|e| unreadable(caller, &e))?,
        next_cursor,
    })
}

/// The row was written by a later version, or changed by hand.
pub(crate) fn unreadable(caller: &Permitted, error: &BadRow) -> Refused {
    tracing::warn!(%error, "a row of a run is not as this version writes it");
    caller.refuse(unavailable(error.to_string()))
}
