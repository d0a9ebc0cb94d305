//! The table `integrations`, a projection of the topic `controls`; `last_received_at` comes from the topic `audit`.

use super::{
    Store, StoreError,
    keys::{Ended, columns},
    micros,
};
use crate::base::clock::Millis;

/// The status of a source that is gone. Its row stays.
pub const DELETED: &str = "deleted";

/// A webhook source, without its secrets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IntegrationRow {
    /// The tenant that it belongs to.
    pub tenant: String,
    /// Its id.
    pub id: String,
    /// Its name, the last part of its path.
    pub name: String,
    /// Its dialect, such as `github`.
    pub dialect: String,
    /// `active`, [`DELETED`], or another that the source itself has.
    pub status: String,
    /// When it was created.
    pub created_at: Millis,
    /// When it was changed last.
    pub updated_at: Millis,
}

/// Writes the given sources, which must be all there are, and those that were deleted as far as they are known. `ended` are deleted
/// sources of which no more is known: their rows, if there are any, get the status `deleted` and the time as `updated_at`. A source that
/// is none of all these keeps its row, with the status `deleted` and the time at which that was seen.
///
/// Any number of nodes may do so: the next write corrects one that was older.
pub async fn replace(
    store: &Store,
    sources: &[IntegrationRow],
    ended: &[Ended],
) -> Result<(), StoreError> {
    let text = |column: fn(&IntegrationRow) -> &str| sources.iter().map(column).collect::<Vec<_>>();
    let time = |column: fn(&IntegrationRow) -> Millis| {
        let times = sources.iter().map(column).map(micros);
        times.collect::<Vec<_>>()
    };
    let (tenants, ids, times) = columns(ended);
    sqlx::query(
        "WITH wanted AS ( \
           SELECT w.tenant, w.id, w.name, w.dialect, w.status, \
             'epoch'::timestamptz + w.created * interval '1 microsecond' AS created_at, \
             'epoch'::timestamptz + w.updated * interval '1 microsecond' AS updated_at \
           FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[]) \
             w(tenant, id, name, dialect, status, created, updated)), \
         ended AS ( \
           SELECT e.tenant, e.id, 'epoch'::timestamptz + e.at * interval '1 microsecond' AS at \
           FROM unnest($9::text[], $10::text[], $11::bigint[]) e(tenant, id, at)), \
         gone AS ( \
           UPDATE omnilink.integrations i SET status = $8, updated_at = g.at \
           FROM (SELECT o.tenant, o.id, COALESCE(e.at, CASE WHEN o.status = $8 THEN o.updated_at END, now()) AS at \
                 FROM omnilink.integrations o LEFT JOIN ended e ON e.tenant = o.tenant AND e.id = o.id \
                 WHERE NOT EXISTS (SELECT FROM wanted w WHERE w.tenant = o.tenant AND w.id = o.id)) g \
           WHERE i.tenant = g.tenant AND i.id = g.id AND (i.status, i.updated_at) IS DISTINCT FROM ($8, g.at)) \
         INSERT INTO omnilink.integrations AS i (tenant, id, name, dialect, status, created_at, updated_at, last_received_at) \
         SELECT w.*, (SELECT max(a.at) FROM omnilink.audit_log a \
                      WHERE a.tenant = w.tenant AND a.action = 'source.received' AND a.resource_id = w.id) FROM wanted w \
         ON CONFLICT (tenant, id) DO UPDATE SET name = EXCLUDED.name, dialect = EXCLUDED.dialect, status = EXCLUDED.status, \
           created_at = EXCLUDED.created_at, updated_at = EXCLUDED.updated_at, \
           last_received_at = GREATEST(i.last_received_at, EXCLUDED.last_received_at) \
         WHERE (i.name, i.dialect, i.status, i.created_at, i.updated_at, \
             COALESCE(i.last_received_at >= EXCLUDED.last_received_at, EXCLUDED.last_received_at IS NULL)) \
           IS DISTINCT FROM (EXCLUDED.name, EXCLUDED.dialect, EXCLUDED.status, EXCLUDED.created_at, EXCLUDED.updated_at, true)",
    )
    .bind(text(|s| &s.tenant))
    .bind(text(|s| &s.id))
    .bind(text(|s| &s.name))
    .bind(text(|s| &s.dialect))
    .bind(text(|s| &s.status))
    .bind(time(|s| s.created_at))
    .bind(time(|s| s.updated_at))
    .bind(DELETED)
    .bind(tenants)
    .bind(ids)
    .bind(times)
    .execute(store.pool())
    .await?;
    Ok(())
}
