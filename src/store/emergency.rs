//! The table `emergency_controls`, a projection of the topic `controls`.

use super::{Store, StoreError, micros};
use crate::base::clock::Millis;

/// A switch, or a feature that can be disabled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EmergencyRow {
    /// `kill_switch`, or a feature such as `tool:pay`.
    pub feature_name: String,
    /// A switch: whether it is in force. A feature: whether it can be used.
    pub enabled: bool,
    /// JSON text.
    pub value: Option<String>,
    /// Why a switch is in force, or a feature disabled.
    pub disabled_reason: Option<String>,
    /// The principal that changed it last.
    pub updated_by: Option<String>,
    /// The time of that change.
    pub updated_at: Option<Millis>,
}

/// Replaces the contents of the table by these rows, in one statement. A row that was switched back has no author of its own: it gets
/// `by` and `at`, the author and time of the last change, when it changes.
///
/// Any number of nodes may do so: the next write corrects one that was older.
pub async fn replace(
    store: &Store,
    rows: &[EmergencyRow],
    (by, at): (&str, Millis),
) -> Result<(), StoreError> {
    let names: Vec<&str> = rows.iter().map(|row| &*row.feature_name).collect();
    let enabled: Vec<bool> = rows.iter().map(|row| row.enabled).collect();
    let values: Vec<Option<&str>> = rows.iter().map(|row| row.value.as_deref()).collect();
    let reasons = rows.iter().map(|row| row.disabled_reason.as_deref());
    let authors = rows.iter().map(|row| row.updated_by.as_deref());
    let times: Vec<Option<i64>> = rows.iter().map(|row| row.updated_at.map(micros)).collect();
    sqlx::query(
        "WITH wanted AS (SELECT w.name, w.enabled, coalesce(w.value, 'null')::jsonb AS value, w.reason, w.author, \
                           'epoch'::timestamptz + w.at * interval '1 microsecond' AS at \
                         FROM unnest($1::text[], $2::boolean[], $3::text[], $4::text[], $5::text[], $6::bigint[]) \
                              w(name, enabled, value, reason, author, at)), \
         gone AS (DELETE FROM omnilink.emergency_controls c WHERE NOT EXISTS (SELECT FROM wanted w WHERE w.name = c.feature_name)) \
         INSERT INTO omnilink.emergency_controls AS c (feature_name, enabled, value, disabled_reason, updated_by, updated_at) \
         SELECT name, enabled, value, reason, author, at FROM wanted \
         ON CONFLICT (feature_name) DO UPDATE SET \
           enabled = excluded.enabled, value = excluded.value, disabled_reason = excluded.disabled_reason, \
           updated_by = coalesce(excluded.updated_by, $7), \
           updated_at = coalesce(excluded.updated_at, 'epoch'::timestamptz + $8::bigint * interval '1 microsecond') \
         WHERE (c.enabled, c.value, c.disabled_reason) IS DISTINCT FROM (excluded.enabled, excluded.value, excluded.disabled_reason)",
    )
    .bind(names)
    .bind(enabled)
    .bind(values)
    .bind(reasons.collect::<Vec<_>>())
    .bind(authors.collect::<Vec<_>>())
    .bind(times)
    .bind(by)
    .bind(micros(at))
    .execute(store.pool())
    .await?;
    Ok(())
}
