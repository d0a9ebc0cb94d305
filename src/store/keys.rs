//! The table `api_keys`, a projection of the topic `controls`; `last_used_at` comes from the topic `audit`.

use super::{Store, StoreError, micros};
use crate::base::clock::Millis;

/// A key that is valid, without its secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRow {
    /// The tenant that it belongs to.
    pub tenant: String,
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Who acts with it.
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
}

/// Writes the given keys, which must be all valid ones. A key that is none of them keeps its row, with the time at which that was seen
/// as `revoked_at`.
///
/// Any number of nodes may do so: the next write corrects one that was older.
pub async fn replace(store: &Store, keys: &[KeyRow]) -> Result<(), StoreError> {
    let text = |column: fn(&KeyRow) -> &str| keys.iter().map(column).collect::<Vec<_>>();
    let number = |column: fn(&KeyRow) -> i64| keys.iter().map(column).collect::<Vec<_>>();
    let expires: Vec<Option<i64>> = keys.iter().map(|k| k.expires_at.map(micros)).collect();
    sqlx::query(
        "WITH wanted AS ( \
           SELECT w.tenant, w.id, w.name, w.principal, w.kind, w.prefix, w.scopes::jsonb AS scopes, w.max_rpm, w.max_concurrency, \
             'epoch'::timestamptz + w.created * interval '1 microsecond' AS created_at, \
             'epoch'::timestamptz + w.expires * interval '1 microsecond' AS expires_at \
           FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[], $9::bigint[], \
             $10::bigint[], $11::bigint[]) \
             w(tenant, id, name, principal, kind, prefix, scopes, max_rpm, max_concurrency, created, expires)), \
         gone AS ( \
           UPDATE omnilink.api_keys k SET revoked_at = now() WHERE k.revoked_at IS NULL \
             AND NOT EXISTS (SELECT FROM wanted w WHERE w.tenant = k.tenant AND w.id = k.id)) \
         INSERT INTO omnilink.api_keys AS k (tenant, id, name, principal, kind, prefix, scopes, max_rpm, max_concurrency, created_at, \
           expires_at, last_used_at) \
         SELECT w.*, (SELECT max(a.at) FROM omnilink.audit_log a \
                      WHERE a.tenant = w.tenant AND a.action = 'key.used' AND a.resource_id = w.id) FROM wanted w \
         ON CONFLICT (tenant, id) DO UPDATE SET name = EXCLUDED.name, principal = EXCLUDED.principal, kind = EXCLUDED.kind, \
           prefix = EXCLUDED.prefix, scopes = EXCLUDED.scopes, max_rpm = EXCLUDED.max_rpm, \
           max_concurrency = EXCLUDED.max_concurrency, created_at = EXCLUDED.created_at, expires_at = EXCLUDED.expires_at, \
           last_used_at = GREATEST(k.last_used_at, EXCLUDED.last_used_at), revoked_at = NULL \
         WHERE (k.name, k.principal, k.kind, k.prefix, k.scopes, k.max_rpm, k.max_concurrency, k.created_at, k.expires_at, \
             k.revoked_at IS NULL, COALESCE(k.last_used_at >= EXCLUDED.last_used_at, EXCLUDED.last_used_at IS NULL)) \
           IS DISTINCT FROM (EXCLUDED.name, EXCLUDED.principal, EXCLUDED.kind, EXCLUDED.prefix, EXCLUDED.scopes, EXCLUDED.max_rpm, \
             EXCLUDED.max_concurrency, EXCLUDED.created_at, EXCLUDED.expires_at, true, true)",
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
    .bind(expires)
    .execute(store.pool())
    .await?;
    Ok(())
}
