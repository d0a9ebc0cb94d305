//! The tables that a projection writes to: the live tables, or the new ones that a rebuild fills.

use super::rows::{ENTITY_COLUMNS, EVENT_COLUMNS};
use crate::store::months::{self, MonthlyTable};

/// The name of the projection of `events` and `entities`: in `projection_offsets`, and as its consumer group.
pub const PROJECTION: &str = "events";
/// The name in `projection_offsets` of a rebuild until its swap.
pub(super) const REBUILD: &str = "events.rebuild";
/// The name of the projection of the topic `audit`.
pub const AUDIT: &str = "audit";
/// The name of its rebuild.
pub(super) const AUDIT_REBUILD: &str = "audit.rebuild";
/// The name of the projection of the topic `runs`.
pub const RUNS: &str = "runs";
/// The name of its rebuild.
pub(super) const RUNS_REBUILD: &str = "runs.rebuild";
/// The name of the projection of the topic `steps`.
pub const TASKS: &str = "tasks";
/// The name of its rebuild.
pub(super) const TASKS_REBUILD: &str = "tasks.rebuild";
/// The name of the projection of Odoo's admitted deliveries, which reads `events`.
pub const ODOO: &str = "odoo";
/// The name of the projection of Odoo's failed deliveries, which reads `dlq`.
pub const ODOO_DLQ: &str = "odoo.dlq";
/// The name of the projection of Odoo's deliveries that are not admitted yet, which reads `ingress`.
pub const ODOO_INGRESS: &str = "odoo.ingress";
/// The names of their rebuilds.
pub(super) const ODOO_REBUILD: &str = "odoo.rebuild";
/// As [`ODOO_REBUILD`].
pub(super) const ODOO_DLQ_REBUILD: &str = "odoo.dlq.rebuild";
/// As [`ODOO_REBUILD`].
pub(super) const ODOO_INGRESS_REBUILD: &str = "odoo.ingress.rebuild";

/// The tables of a projection, and the statements on them.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) projection: &'static str,
    /// The table for events, if events are written.
    pub(super) events: Option<MonthlyTable>,
    pub(super) copy_events: String,
    /// Whether entities are written.
    pub(super) entities: bool,
    pub(super) copy_entities: String,
    pub(super) read_entities: String,
    pub(super) update_entities: String,
}

impl Target {
    /// The live tables.
    pub(super) fn live() -> Self {
        Self::of(PROJECTION, Some(months::EVENTS), Some("entities"))
    }

    /// Other tables with the same columns.
    pub(super) fn of(
        projection: &'static str,
        events: Option<MonthlyTable>,
        entities: Option<&'static str>,
    ) -> Self {
        let events_table = events.map_or("events", |e| e.table);
        let table = entities.unwrap_or("entities");
        Self {
            projection,
            events,
            copy_events: format!(
                "COPY omnilink.{events_table} ({EVENT_COLUMNS}) FROM STDIN (FORMAT binary)"
            ),
            entities: entities.is_some(),
            copy_entities: format!(
                "COPY omnilink.{table} ({ENTITY_COLUMNS}) FROM STDIN (FORMAT binary)"
            ),
            read_entities: format!(
                "SELECT k.n, e.display_name, e.state, e.version, e.deleted_at IS NOT NULL \
                 FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY k(tenant, entity_type, external_id, n) \
                 JOIN omnilink.{table} e \
                 ON e.tenant = k.tenant AND e.entity_type = k.entity_type AND e.external_id = k.external_id ORDER BY k.n"
            ),
            update_entities: format!(
                "UPDATE omnilink.{table} e SET display_name = k.display_name, state = k.state::jsonb, version = k.version, \
                 last_event_id = k.last_event_id, last_event_at = k.last_event_at, deleted_at = k.deleted_at \
                 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[], \
                 $8::timestamptz[], $9::timestamptz[], $10::bigint[]) k({ENTITY_COLUMNS}, stored) \
                 WHERE e.tenant = k.tenant AND e.entity_type = k.entity_type AND e.external_id = k.external_id \
                 AND e.version = k.stored"
            ),
        }
    }
}
