//! Events: their fields, the forms in which producers send them (CloudEvents 1.0.2), and the form in which OmniLink stores them (Avro).

mod agents;
mod attributes;
pub mod avro;
mod binary;
mod body_hash;
mod cloudevents;
mod entity_field;
pub mod foreign;
pub(crate) mod json;
pub mod kafka;
mod line;
mod media;
mod own_record;
mod parsed;
mod rules;
pub mod schemas;
mod start;
#[cfg(test)]
mod tests;
mod time;
mod trace;
mod upgrade;
mod uri;

use std::borrow::Cow;

pub use self::{
    binary::{Binding, parse_binary},
    body_hash::{BodyHash, StoredHash},
    cloudevents::{Body, Item, parse, parse_batch, parse_structured},
    json::{JsonError, MAX_DEPTH, MAX_WRITTEN, Problem, canonical_hash},
    line::{RecordPosition, write_line},
    media::Media,
    own_record::OwnRecord,
    parsed::Parsed,
    rules::IDENTIFIER_MAX,
    start::{ParsedStart, StartItem, StartKind, StartReceipt, parse_start_binary, parse_starts},
    time::{Rfc3339, parse_rfc3339},
    trace::TraceContext,
    uri::is_uri_reference,
};
use crate::base::id::{Identity, Tenant};

/// How an event is written as a JSON object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// The CloudEvents JSON format (`application/cloudevents+json`): `specversion` is required, `data` is optional.
    CloudEvents,
    /// OmniLink's own form (`application/json`): `data` is required, `specversion` is optional, and there is a member `entity`.
    OmniLink,
}

/// Who set an event's `time`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeSource {
    /// The producer.
    Producer,
    /// OmniLink, on receipt.
    Receiver,
}

/// The entity that an event is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entity<'a> {
    /// The entity's type, 1 to 512 bytes.
    pub kind: Cow<'a, str>,
    /// The entity's id, 1 to 512 bytes.
    pub external_id: Cow<'a, str>,
    /// A name for people.
    pub display_name: Option<Cow<'a, str>>,
}

/// An event's payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Data<'a> {
    /// The event has no data.
    Absent,
    /// Checked JSON text, possibly `null`, unchanged.
    Json(Cow<'a, str>),
    /// Binary data: decoded `data_base64`, or a body that is not JSON.
    Binary(Cow<'a, [u8]>),
}

/// One event, normalised. Borrows from the text or record that it was parsed from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event<'a> {
    /// The tenant that owns it.
    pub tenant: Tenant,
    /// CloudEvents `id`, 1 to 512 bytes.
    pub id: Cow<'a, str>,
    /// CloudEvents `source`, a URI reference of 1 to 512 bytes.
    pub source: Cow<'a, str>,
    /// CloudEvents `type`, 1 to 512 bytes.
    pub kind: Cow<'a, str>,
    /// CloudEvents `subject`.
    pub subject: Option<Cow<'a, str>>,
    /// The entity that it is about.
    pub entity: Option<Entity<'a>>,
    /// Extension `correlationid`.
    pub correlation_id: Option<Cow<'a, str>>,
    /// Extension `causationid`.
    pub causation_id: Option<Cow<'a, str>>,
    /// CloudEvents `time`, in microseconds since 1970-01-01T00:00:00Z.
    pub time: i64,
    /// Who set `time`.
    pub time_source: TimeSource,
    /// The payload.
    pub data: Data<'a>,
    /// All other context attributes (`dataschema`, `datacontenttype`, `traceparent`, …): the text of a JSON object.
    pub extensions: Cow<'a, str>,
    /// Written by earlier versions for a Kafka record without a value: the entity is deleted. Nothing new sets it.
    pub tombstone: bool,
    /// The extension `idempotencykey`; over HTTP the header wins.
    pub idempotency_key: Option<Cow<'a, str>>,
}

impl Event<'_> {
    /// The same event with owned data.
    pub fn into_owned(self) -> Event<'static> {
        Event {
            tenant: self.tenant,
            id: owned(self.id),
            source: owned(self.source),
            kind: owned(self.kind),
            subject: self.subject.map(owned),
            entity: self.entity.map(|entity| Entity {
                kind: owned(entity.kind),
                external_id: owned(entity.external_id),
                display_name: entity.display_name.map(owned),
            }),
            correlation_id: self.correlation_id.map(owned),
            causation_id: self.causation_id.map(owned),
            time: self.time,
            time_source: self.time_source,
            data: match self.data {
                Data::Absent => Data::Absent,
                Data::Json(text) => Data::Json(owned(text)),
                Data::Binary(bytes) => Data::Binary(owned(bytes)),
            },
            extensions: owned(self.extensions),
            tombstone: self.tombstone,
            idempotency_key: self.idempotency_key.map(owned),
        }
    }

    /// The identity by which admission deduplicates: tenant, source and id.
    pub fn identity(&self) -> Identity {
        Identity::of("event", &[self.tenant.as_str(), &self.source, &self.id])
    }

    /// The key of its record on `ingress` and `events`: `tenant/type/external id`, or `tenant/id` without an entity, so that events of one
    /// entity keep their order. A tenant's name cannot contain `/`, but type and id can, and are not escaped: two entities with the same
    /// key merely share a partition.
    pub fn record_key(&self) -> String {
        let tenant = self.tenant.as_str();
        match &self.entity {
            Some(e) => format!("{tenant}/{}/{}", e.kind, e.external_id),
            None => format!("{tenant}/{}", self.id),
        }
    }
}

fn owned<T: ToOwned + ?Sized>(value: Cow<'_, T>) -> Cow<'static, T> {
    Cow::Owned(value.into_owned())
}

/// The extension attribute of events from webhooks of Odoo that names the dialect of their sender, such as `odoo-native`.
pub const DIALECT: &str = "webhookdialect";

/// Why an envelope is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Invalid {
    /// A stable code, such as `missing_id` or `invalid_payload`.
    pub code: Cow<'static, str>,
    /// A message for people: what is wrong, and where.
    pub message: String,
}

impl Invalid {
    /// `invalid_payload` with a message.
    pub fn payload(message: impl Into<String>) -> Self {
        Self {
            code: Cow::Borrowed("invalid_payload"),
            message: message.into(),
        }
    }

    /// `missing_{field}`, with dots in the field's name replaced by `_`.
    pub fn missing(field: &str) -> Self {
        Self {
            code: Cow::Owned(format!("missing_{}", field.replace('.', "_"))),
            message: format!("`{field}` is required and must not be empty"),
        }
    }
}
