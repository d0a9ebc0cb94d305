//! The table `emergency_controls`, a projection of the topic `controls`.

use super::{Store, StoreError};

/// A row: a switch or a feature.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// `kill_switch`, or a feature such as `tool:pay`.
    pub feature_name: String,
    /// A switch: it is in force. A feature: it can be used.
    pub enabled: bool,
    /// JSON text.
    pub value: Option<String>,
    /// Why a switch is in force, or a feature disabled.
    pub disabled_reason: Option<String>,
    /// Who did that.
    pub updated_by: Option<String>,
    /// When: milliseconds since the Unix epoch.
    pub updated_at: Option<i64>,
}

/// Replaces the contents of the table by these rows, in one statement. A row that was switched back has no author of its own: it gets
/// `by` and `at` (milliseconds since the Unix epoch) when it changes, the author and time of the last change.
pub async fn replace(store: &Store, rows: &[Row], (by, at): (&str, i64)) -> Result<(), StoreError> {
    let names: Vec<&str> = rows.iter().map(|row| &*row.feature_name).collect();
    let enabled: Vec<bool> = rows.iter().map(|row| row.enabled).collect();
    let values: Vec<Option<&str>> = rows.iter().map(|row| row.value.as_deref()).collect();
    let reasons = rows.iter().map(|row| row.disabled_reason.as_deref());
    let authors = rows.iter().map(|row| row.updated_by.as_deref());
    let times: Vec<Option<i64>> = rows.iter().map(|row| row.updated_at).collect();
    sqlx::query(
        "WITH wanted AS (SELECT w.name, w.enabled, w.value::jsonb AS value, w.reason, w.author, to_timestamp(w.at / 1000.0) AS at \
                         FROM unnest($1::text[], $2::boolean[], $3::text[], $4::text[], $5::text[], $6::bigint[]) \
                              w(name, enabled, value, reason, author, at)), \
         gone AS (DELETE FROM omnilink.emergency_controls c WHERE NOT EXISTS (SELECT FROM wanted w WHERE w.name = c.feature_name)) \
         INSERT INTO omnilink.emergency_controls AS c \
         SELECT name, enabled, value, reason, author, at FROM wanted \
         ON CONFLICT (feature_name) DO UPDATE SET \
           enabled = excluded.enabled, value = excluded.value, disabled_reason = excluded.disabled_reason, \
           updated_by = coalesce(excluded.updated_by, $7), \
           updated_at = coalesce(excluded.updated_at, to_timestamp($8::bigint / 1000.0)) \
         WHERE (c.enabled, c.value, c.disabled_reason) IS DISTINCT FROM (excluded.enabled, excluded.value, excluded.disabled_reason)",
    )
    .bind(names)
    .bind(enabled)
    .bind(values)
    .bind(reasons.collect::<Vec<_>>())
    .bind(authors.collect::<Vec<_>>())
    .bind(times)
    .bind(by)
    .bind(at)
    .execute(store.pool())
    .await?;
    Ok(())
}
