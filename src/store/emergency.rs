//! The table `emergency_controls`, a projection of the topic `controls`.

use super::{Store, StoreError, micros};
use crate::base::clock::Millis;

/// A switch, or a feature that can be disabled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EmergencyRow {
    /// `kill_switch`, `operator_takeover`, `safe_mode`, `allowed_operations`, or the name of a feature.
    pub feature_name: String,
    /// A switch: whether it is in force. A feature: whether it may be used.
    pub enabled: bool,
    /// Its value: JSON text.
    pub value: String,
    /// Why it is in force, or disabled.
    pub disabled_reason: Option<String>,
    /// Who changed it last.
    pub updated_by: Option<String>,
    /// When that was.
    pub updated_at: Option<Millis>,
}

/// Replaces the contents of the table by the given rows, which must be all of them.
///
/// Any number of nodes may do so: the next write corrects one that was older.
pub async fn replace(store: &Store, rows: &[EmergencyRow]) -> Result<(), StoreError> {
    let text = |column: fn(&EmergencyRow) -> &str| rows.iter().map(column).collect::<Vec<_>>();
    let optional = |column: fn(&EmergencyRow) -> Option<&str>| {
        let texts = rows.iter().map(column);
        texts.collect::<Vec<_>>()
    };
    let enabled: Vec<bool> = rows.iter().map(|r| r.enabled).collect();
    let updated: Vec<Option<i64>> = rows.iter().map(|r| r.updated_at.map(micros)).collect();
    sqlx::query(
        "WITH wanted AS ( \
           SELECT w.name, w.enabled, w.value::jsonb AS value, w.reason, w.updated_by, \
             'epoch'::timestamptz + w.updated * interval '1 microsecond' AS updated_at \
           FROM unnest($1::text[], $2::boolean[], $3::text[], $4::text[], $5::text[], $6::bigint[]) \
             w(name, enabled, value, reason, updated_by, updated)), \
         gone AS ( \
           DELETE FROM omnilink.emergency_controls e WHERE NOT EXISTS (SELECT FROM wanted w WHERE w.name = e.feature_name)) \
         INSERT INTO omnilink.emergency_controls AS e (feature_name, enabled, value, disabled_reason, updated_by, updated_at) \
         SELECT * FROM wanted \
         ON CONFLICT (feature_name) DO UPDATE SET enabled = EXCLUDED.enabled, value = EXCLUDED.value, \
           disabled_reason = EXCLUDED.disabled_reason, updated_by = EXCLUDED.updated_by, updated_at = EXCLUDED.updated_at \
         WHERE (e.enabled, e.value, e.disabled_reason, e.updated_by, e.updated_at) \
           IS DISTINCT FROM (EXCLUDED.enabled, EXCLUDED.value, EXCLUDED.disabled_reason, EXCLUDED.updated_by, EXCLUDED.updated_at)",
    )
    .bind(text(|r| &r.feature_name))
    .bind(enabled)
    .bind(text(|r| &r.value))
    .bind(optional(|r| r.disabled_reason.as_deref()))
    .bind(optional(|r| r.updated_by.as_deref()))
    .bind(updated)
    .execute(store.pool())
    .await?;
    Ok(())
}
