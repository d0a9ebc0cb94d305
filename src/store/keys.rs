//! The table `api_keys`, a projection of the topic `controls`; `last_used_at` comes from the topic `audit`.

use super::{Store, StoreError, micros};
use crate::base::clock::Millis;

/// A key without its secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRow {
    /// The tenant that it belongs to.
    pub tenant: String,
    /// The id of the key.
    pub id: String,
    /// The display name.
    pub name: String,
    /// The principal that acts with it.
    pub principal: String,
    /// `person` or `service`.
    pub kind: String,
    /// The first characters of its secret.
    pub prefix: String,
    /// Its scopes: JSON text.
    pub scopes: String,
    /// Items a minute; 0 is unlimited.
    pub max_rpm: i64,
    /// Requests in flight; 0 is unlimited.
    pub max_concurrency: i64,
    /// When it was created.
    pub created_at: Millis,
    /// When it expires.
    pub expires_at: Option<Millis>,
    /// When it was revoked.
    pub revoked_at: Option<Millis>,
}

/// A key that was revoked, or an integration that was deleted, of which nothing but the time is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// The tenant that it belonged to.
    pub tenant: String,
    /// The id of the key or integration.
    pub id: String,
    /// When it was revoked or deleted.
    pub at: Millis,
}

/// Writes the given keys, which must be all valid ones, and those that were revoked as far as they are known (`revoked_at`). `ended` are
/// revoked keys of which no more is known: their rows, if there are any, get the time. A key that is none of all these keeps its row,
/// with the time at which that was seen as `revoked_at`.
///
/// Any number of nodes may do so: the next write corrects one that was older.
pub async fn replace(store: &Store, keys: &[KeyRow], ended: &[Ended]) -> Result<(), StoreError> {
    let text = |column: fn(&KeyRow) -> &str| keys.iter().map(column).collect::<Vec<_>>();
    let number = |column: fn(&KeyRow) -> i64| keys.iter().map(column).collect::<Vec<_>>();
    let time = |column: fn(&KeyRow) -> Option<Millis>| {
        let times = keys.iter().map(|key| column(key).map(micros));
        times.collect::<Vec<Option<i64>>>()
    };
    let (tenants, ids, times) = columns(ended);
    sqlx::query(
        "WITH wanted AS ( \
           SELECT w.tenant, w.id, w.name, w.principal, w.kind, w.prefix, w.scopes::jsonb AS scopes, w.max_rpm, w.max_concurrency, \
             'epoch'::timestamptz + w.created * interval '1 microsecond' AS created_at, \
             'epoch'::timestamptz + w.expires * interval '1 microsecond' AS expires_at, \
             'epoch'::timestamptz + w.revoked * interval '1 microsecond' AS revoked_at \
           FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[], $9::bigint[], \
             $10::bigint[], $11::bigint[], $12::bigint[]) \
             w(tenant, id, name, principal, kind, prefix, scopes, max_rpm, max_concurrency, created, expires, revoked)), \
         ended AS ( \
           SELECT e.tenant, e.id, 'epoch'::timestamptz + e.at * interval '1 microsecond' AS at \
           FROM unnest($13::text[], $14::text[], $15::bigint[]) e(tenant, id, at)), \
         gone AS ( \
           UPDATE omnilink.api_keys k SET revoked_at = g.at \
           FROM (SELECT o.tenant, o.id, COALESCE(e.at, o.revoked_at, now()) AS at \
                 FROM omnilink.api_keys o LEFT JOIN ended e ON e.tenant = o.tenant AND e.id = o.id \
                 WHERE NOT EXISTS (SELECT FROM wanted w WHERE w.tenant = o.tenant AND w.id = o.id)) g \
           WHERE k.tenant = g.tenant AND k.id = g.id AND k.revoked_at IS DISTINCT FROM g.at) \
         INSERT INTO omnilink.api_keys AS k (tenant, id, name, principal, kind, prefix, scopes, max_rpm, max_concurrency, created_at, \
           expires_at, revoked_at, last_used_at) \
         SELECT w.*, (SELECT max(a.at) FROM omnilink.audit_log a \
                      WHERE a.tenant = w.tenant AND a.action = 'key.used' AND a.resource_id = w.id) FROM wanted w \
         ON CONFLICT (tenant, id) DO UPDATE SET name = EXCLUDED.name, principal = EXCLUDED.principal, kind = EXCLUDED.kind, \
           prefix = EXCLUDED.prefix, scopes = EXCLUDED.scopes, max_rpm = EXCLUDED.max_rpm, \
           max_concurrency = EXCLUDED.max_concurrency, created_at = EXCLUDED.created_at, expires_at = EXCLUDED.expires_at, \
           last_used_at = GREATEST(k.last_used_at, EXCLUDED.last_used_at), revoked_at = EXCLUDED.revoked_at \
         WHERE (k.name, k.principal, k.kind, k.prefix, k.scopes, k.max_rpm, k.max_concurrency, k.created_at, k.expires_at, \
             k.revoked_at, COALESCE(k.last_used_at >= EXCLUDED.last_used_at, EXCLUDED.last_used_at IS NULL)) \
           IS DISTINCT FROM (EXCLUDED.name, EXCLUDED.principal, EXCLUDED.kind, EXCLUDED.prefix, EXCLUDED.scopes, EXCLUDED.max_rpm, \
             EXCLUDED.max_concurrency, EXCLUDED.created_at, EXCLUDED.expires_at, EXCLUDED.revoked_at, true)",
    )
    .bind(text(|k| &k.tenant))
    .bind(text(|k| &k.id))
    .bind(text(|k| &k.name))
    .bind(text(|k| &k.principal))
    .bind(text(|k| &k.kind))
    .bind(text(|k| &k.prefix))
    .bind(text(|k| &k.scopes))
    .bind(number(|k| k.max_rpm))
    .bind(number(|k| k.max_concurrency))
    .bind(number(|k| micros(k.created_at)))
    .bind(time(|k| k.expires_at))
    .bind(time(|k| k.revoked_at))
    .bind(tenants)
    .bind(ids)
    .bind(times)
    .execute(store.pool())
    .await?;
    Ok(())
}

/// Tenants, ids and times.
pub(super) fn columns(ended: &[Ended]) -> (Vec<&str>, Vec<&str>, Vec<i64>) {
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for one in ended {
        columns.0.push(&*one.tenant);
        columns.1.push(&*one.id);
        columns.2.push(micros(one.at));
    }
    columns
}
