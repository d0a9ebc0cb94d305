//! The tables `audit_log` and `rejections`: read newest first, and bounded by retention.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Postgres, QueryBuilder, Row, postgres::PgRow};

use super::{Store, StoreError, micros};
use crate::base::clock::Millis;

/// Rows that one statement of [`expire`] deletes from a table.
const STEP: i64 = 5_000;
/// The pause between two of these statements, for everybody else.
const PAUSE: Duration = Duration::from_millis(50);

/// Where a page ends: the time of its last row, in microseconds since 1970, and the row's id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The time of the row, in microseconds since the Unix epoch.
    pub at: i64,
    /// The id of the row, which orders rows of the same time.
    pub id: String,
}

/// Which rows of a tenant, newest first.
#[derive(Clone, Debug)]
pub struct Page {
    /// The tenant.
    pub tenant: String,
    /// Not older than this.
    pub since: Option<Millis>,
    /// Older than this.
    pub until: Option<Millis>,
    /// After this place.
    pub after: Option<Place>,
    /// The most rows.
    pub limit: usize,
}

/// A pattern of actions: exact, or a prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Actions {
    /// Exactly this action.
    Exactly(String),
    /// All actions with this prefix.
    Prefix(String),
}

/// A row of `audit_log`.
#[derive(Clone, PartialEq, Debug)]
pub struct AuditRow {
    /// Whose data or rights it concerns.
    pub tenant: String,
    /// The position of the row, for pages.
    pub place: Place,
    /// The principal that acted.
    pub principal: Option<String>,
    /// The user whom the principal acted for.
    pub on_behalf_of: Option<String>,
    /// What was done.
    pub action: String,
    /// The kind of what it was done to.
    pub resource_type: Option<String>,
    /// The id of what it was done to.
    pub resource_id: Option<String>,
    /// `ok`, `denied` or `failed`.
    pub outcome: String,
    /// The client's IP address.
    pub address: Option<String>,
    /// The client's `User-Agent`.
    pub user_agent: Option<String>,
    /// JSON text of an object.
    pub detail: String,
}

/// A row of `rejections`.
#[derive(Clone, PartialEq, Debug)]
pub struct RejectionRow {
    /// The position of the row, for pages.
    pub place: Place,
    /// The name of the webhook source.
    pub source: String,
    /// The sender's IP address.
    pub address: Option<String>,
    /// Why it was turned away: a stable code.
    pub code: String,
    /// The same for people.
    pub message: Option<String>,
    /// The hash of the body.
    pub body_hash: Option<String>,
    /// The first bytes of the body.
    pub body_head: Option<Vec<u8>>,
}

/// Microseconds since 1970 of a column `at`.
const AT: &str = "(EXTRACT(EPOCH FROM at) * 1000000)::bigint";

/// Rows of `audit_log`.
pub async fn entries(
    store: &Store,
    page: &Page,
    actions: Option<&Actions>,
    principal: Option<&str>,
) -> Result<Vec<AuditRow>, StoreError> {
    let mut query = select(&format!(
        "SELECT {AT}, id, tenant, principal, on_behalf_of, action, resource_type, resource_id, outcome, host(address), user_agent, \
         detail::text FROM omnilink.audit_log"
    ));
    filter(&mut query, page);
    match actions {
        Some(Actions::Exactly(action)) => {
            query.push(" AND action = ").push_bind(action.clone());
        }
        Some(Actions::Prefix(prefix)) => {
            query
                .push(" AND starts_with(action, ")
                .push_bind(prefix.clone())
                .push(")");
        }
        None => {}
    }
    if let Some(principal) = principal {
        query
            .push(" AND principal = ")
            .push_bind(principal.to_owned());
    }
    newest_first(&mut query, page);
    let rows = query.build().fetch_all(store.pool());
    let row = |row: &PgRow| {
        Ok(AuditRow {
            place: place(row)?,
            tenant: row.try_get(2)?,
            principal: row.try_get(3)?,
            on_behalf_of: row.try_get(4)?,
            action: row.try_get(5)?,
            resource_type: row.try_get(6)?,
            resource_id: row.try_get(7)?,
            outcome: row.try_get(8)?,
            address: row.try_get(9)?,
            user_agent: row.try_get(10)?,
            detail: row.try_get(11)?,
        })
    };
    Ok(rows
        .await?
        .iter()
        .map(row)
        .collect::<Result<_, sqlx::Error>>()?)
}

/// Rows of `rejections`.
pub async fn rejections(
    store: &Store,
    page: &Page,
    source: Option<&str>,
) -> Result<Vec<RejectionRow>, StoreError> {
    let mut query = select(&format!(
        "SELECT {AT}, id, source, host(address), code, message, body_hash, body_head FROM omnilink.rejections"
    ));
    filter(&mut query, page);
    if let Some(source) = source {
        query.push(" AND source = ").push_bind(source.to_owned());
    }
    newest_first(&mut query, page);
    let rows = query.build().fetch_all(store.pool());
    let row = |row: &PgRow| {
        Ok(RejectionRow {
            place: place(row)?,
            source: row.try_get(2)?,
            address: row.try_get(3)?,
            code: row.try_get(4)?,
            message: row.try_get(5)?,
            body_hash: row.try_get(6)?,
            body_head: row.try_get(7)?,
        })
    };
    Ok(rows
        .await?
        .iter()
        .map(row)
        .collect::<Result<_, sqlx::Error>>()?)
}

fn select(sql: &str) -> QueryBuilder<Postgres> {
    QueryBuilder::new(sql)
}

fn place(row: &PgRow) -> Result<Place, sqlx::Error> {
    Ok(Place {
        at: row.try_get(0)?,
        id: row.try_get(1)?,
    })
}

pub(super) fn push_time(query: &mut QueryBuilder<Postgres>, micros: i64) {
    query
        .push("'epoch'::timestamptz + ")
        .push_bind(micros)
        .push(" * interval '1 microsecond'");
}

fn filter(query: &mut QueryBuilder<Postgres>, page: &Page) {
    query
        .push(" WHERE tenant = ")
        .push_bind(page.tenant.clone());
    if let Some(since) = page.since {
        query.push(" AND at >= ");
        push_time(query, micros(since));
    }
    if let Some(until) = page.until {
        query.push(" AND at < ");
        push_time(query, micros(until));
    }
    if let Some(after) = &page.after {
        query.push(" AND (at, id) < (");
        push_time(query, after.at);
        query.push(", ").push_bind(after.id.clone()).push(")");
    }
}

fn newest_first(query: &mut QueryBuilder<Postgres>, page: &Page) {
    query
        .push(" ORDER BY at DESC, id DESC LIMIT ")
        .push_bind(page.limit as i64);
}

/// Deletes the rows of `audit_log` and `rejections` that are older than so many days, in small steps. Returns how many. Any number
/// of nodes may do so at the same time.
pub async fn expire(store: &Store, days: u32) -> Result<u64, StoreError> {
    let mut deleted = 0;
    for table in ["omnilink.audit_log", "omnilink.rejections"] {
        for tenant in tenants(store, table).await? {
            deleted += expire_of(store, table, &tenant, days).await?;
        }
    }
    Ok(deleted)
}

/// The tenants of a table whose primary key begins with them: one look-up each.
async fn tenants(store: &Store, table: &str) -> Result<Vec<String>, StoreError> {
    let sql = format!(
        "WITH RECURSIVE t AS ( \
           (SELECT tenant FROM {table} ORDER BY tenant LIMIT 1) UNION ALL \
           SELECT (SELECT n.tenant FROM {table} n WHERE n.tenant > t.tenant ORDER BY n.tenant LIMIT 1) \
           FROM t WHERE t.tenant IS NOT NULL) \
         SELECT tenant FROM t WHERE tenant IS NOT NULL"
    );
    let tenants = sqlx::query_scalar(AssertSqlSafe(sql));
    Ok(tenants.fetch_all(store.pool()).await?)
}

async fn expire_of(store: &Store, table: &str, tenant: &str, days: u32) -> Result<u64, StoreError> {
    let sql = format!(
        "DELETE FROM {table} t USING (SELECT at, id FROM {table} \
           WHERE tenant = $1 AND at < now() - make_interval(days => $2) ORDER BY at LIMIT $3) old \
         WHERE t.tenant = $1 AND t.at = old.at AND t.id = old.id"
    );
    let mut deleted = 0;
    loop {
        let done = sqlx::query(AssertSqlSafe(sql.as_str()))
            .bind(tenant)
            .bind(days as i32)
            .bind(STEP)
            .execute(store.pool())
            .await?
            .rows_affected();
        deleted += done;
        if done < STEP as u64 {
            return Ok(deleted);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
