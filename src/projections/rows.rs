//! The rows of events and entities: their columns and encoding.

use std::borrow::Cow;

use super::cache::Slot;
use crate::{
    base::clock::Millis,
    envelope::{Data, Event, TimeSource},
    store::{CopyRows, storable_json},
};

/// The columns of `events`, in the order of [`event_row`].
pub(super) const EVENT_COLUMNS: &str = "tenant, id, source, type, subject, entity_type, entity_id, correlation_id, causation_id, \
     time, time_source, received_at, data, data_base64, extensions, log_partition, log_offset";

/// The columns of `entities`, in the order of [`entity_row`].
pub(super) const ENTITY_COLUMNS: &str = "tenant, entity_type, external_id, display_name, state, version, last_event_id, last_event_at, deleted_at";

/// An event's JSON data in a form that `jsonb` can store; `None` if the data is absent or binary.
pub(super) fn storable_data<'a>(event: &'a Event<'_>) -> Option<Cow<'a, str>> {
    match &event.data {
        Data::Json(text) => Some(storable_json(text)),
        Data::Absent | Data::Binary(_) => None,
    }
}

/// Appends the row of an event; `at` is its partition and offset in the topic `events`.
pub(super) fn event_row(
    rows: &mut CopyRows,
    event: &Event<'_>,
    data: Option<&str>,
    received_at: Millis,
    at: (u32, u64),
) {
    rows.row(17);
    rows.text(event.tenant.as_str());
    rows.text(&event.id);
    rows.text(&event.source);
    rows.text(&event.kind);
    rows.optional_text(event.subject.as_deref());
    rows.optional_text(event.entity.as_ref().map(|e| &*e.kind));
    rows.optional_text(event.entity.as_ref().map(|e| &*e.external_id));
    rows.optional_text(event.correlation_id.as_deref());
    rows.optional_text(event.causation_id.as_deref());
    rows.timestamp(event.time);
    rows.text(match event.time_source {
        TimeSource::Producer => "producer",
        TimeSource::Receiver => "receiver",
    });
    rows.timestamp(received_at.0.saturating_mul(1000));
    match data {
        Some(json) => rows.jsonb(json.as_bytes()),
        None => rows.null(),
    }
    match &event.data {
        Data::Binary(bytes) => rows.bytes(bytes),
        Data::Absent | Data::Json(_) => rows.null(),
    }
    if event.extensions.is_empty() {
        rows.jsonb(b"{}");
    } else {
        rows.jsonb(storable_json(&event.extensions).as_bytes());
    }
    rows.integer(at.0 as i32);
    rows.bigint(at.1 as i64);
}

/// Appends the row of an entity.
pub(super) fn entity_row(rows: &mut CopyRows, slot: &Slot) {
    let entity = &slot.entity;
    rows.row(9);
    for part in slot.key() {
        rows.text(part);
    }
    rows.optional_text(entity.display_name.as_deref());
    rows.jsonb(entity.json());
    rows.bigint(entity.version);
    rows.text(&entity.last_event_id);
    rows.timestamp(entity.last_event_at);
    match entity.deleted_at {
        Some(at) => rows.timestamp(at),
        None => rows.null(),
    }
}
