//! `/v1/audit` and `/v1/rejections`, read from Postgres. A key reads its own tenant; operators may name any.

use std::time::Duration;

use axum::Json;
use serde_json::Map;

use super::{
    caller::{Caller, Permitted},
    request::QueryString,
};
use crate::{
    api::{
        audit::{AuditEntry, AuditQuery, Rejection, RejectionQuery, cursor},
        list::List,
        problem::POSTGRES_UNAVAILABLE,
    },
    port::problem::{Problem, Refused},
    store::{
        Store, StoreError,
        audit::{self, Page, Place},
    },
};

/// The time limit for Postgres.
const TIMEOUT: Duration = Duration::from_secs(5);
/// `Retry-After` if Postgres does not answer, in seconds.
const RETRY_AFTER_S: u32 = 5;

/// The tables of the projections.
pub trait Tables: Send + Sync {
    /// Returns the store of the tables.
    fn store(&self) -> Result<Store, TablesError>;
}

/// Why the tables cannot be read now.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TablesError {
    /// Postgres is being started, or its schema is being made.
    #[error("Postgres is starting")]
    Starting,
    /// Postgres cannot be used, for this reason.
    #[error("{0}")]
    Unavailable(String),
    /// The node ends.
    #[error("the node stops")]
    Stopping,
    /// The node has no tables, and never will.
    #[error("this node runs without projections; ask one that has them")]
    Without,
}

/// `GET /v1/audit`.
pub(crate) async fn entries(
    caller: Caller,
    query: QueryString<AuditQuery>,
) -> Result<Json<List<AuditEntry>>, Refused> {
    let query = caller.query(query)?;
    let caller = caller.permit()?;
    let tenant = caller.tenant(query.tenant.as_deref())?;
    let mut page = query.page(tenant.as_str()).map_err(|e| caller.invalid(e))?;
    let limit = one_more(&mut page);
    let (actions, principal) = (query.actions(), query.principal.as_deref());
    let store = store(&caller)?;
    let rows = read(
        &caller,
        audit::entries(&store, &page, actions.as_ref(), principal),
    );
    let (rows, next_cursor) = split_page(rows.await?, limit, |row| &row.place);
    Ok(Json(List {
        items: rows.into_iter().map(AuditEntry::from).collect(),
        next_cursor,
    }))
}

/// `GET /v1/rejections`.
pub(crate) async fn rejections(
    caller: Caller,
    query: QueryString<RejectionQuery>,
) -> Result<Json<List<Rejection>>, Refused> {
    let query = caller.query(query)?;
    let caller = caller.permit()?;
    let tenant = caller.tenant(query.tenant.as_deref())?;
    let mut page = query.page(tenant.as_str()).map_err(|e| caller.invalid(e))?;
    let limit = one_more(&mut page);
    let store = store(&caller)?;
    let rows = read(
        &caller,
        audit::rejections(&store, &page, query.source.as_deref()),
    );
    let (rows, next_cursor) = split_page(rows.await?, limit, |row| &row.place);
    // They show the beginning of bodies.
    let of = ("rejections", query.source.as_deref().unwrap_or("*"));
    caller.audit_read(Some(&tenant), "rejection.listed", of, Map::new());
    Ok(Json(List {
        items: rows.into_iter().map(Rejection::from).collect(),
        next_cursor,
    }))
}

/// Requests one row more than the page shows, to see whether another page follows. Returns the limit of the page.
fn one_more(page: &mut Page) -> usize {
    let limit = page.limit;
    page.limit += 1;
    limit
}

/// Returns the rows of the page, and the cursor of the next page.
fn split_page<T>(
    mut rows: Vec<T>,
    limit: usize,
    place: fn(&T) -> &Place,
) -> (Vec<T>, Option<String>) {
    let more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| more);
    let next_cursor = last.map(|row| cursor(place(row)));
    (rows, next_cursor)
}

/// The store of this node's tables.
pub(crate) fn store(caller: &Permitted) -> Result<Store, Refused> {
    let store = caller.shared.tables.store();
    store.map_err(|why| caller.refuse(unavailable(why.to_string())))
}

/// Reads from Postgres within [`TIMEOUT`].
pub(crate) async fn read<T>(
    caller: &Permitted,
    rows: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, Refused> {
    match tokio::time::timeout(TIMEOUT, rows).await {
        Ok(Ok(rows)) => Ok(rows),
        Ok(Err(error)) => {
            tracing::warn!(%error, "a table cannot be read from Postgres");
            Err(caller.refuse(unavailable("Postgres does not answer".to_owned())))
        }
        Err(_) => Err(caller.refuse(unavailable("Postgres does not answer in time".to_owned()))),
    }
}

pub(crate) fn unavailable(why: String) -> Problem {
    Problem::new(&POSTGRES_UNAVAILABLE, why).retry_after(RETRY_AFTER_S)
}
