//! Events on OmniLink's own topics: Avro in Confluent's wire format (a zero byte, the schema id as four bytes in big-endian order, then the
//! fields), encoded and decoded by hand.
//!
//! A record of `events` has the fields of `ingress` in the same order, followed by `received_at`. So admission copies the bytes of the
//! fields, and only replaces the schema id and appends the time. Records of older schema versions go through Avro's schema resolution.

pub(crate) mod fields;

use std::borrow::Cow;

use self::fields::{HEAD, Reader, broken, put_bytes, put_head, put_optional};
use super::{
    Data, Entity, Event, Invalid, TimeSource,
    schemas::{self, Schema},
    upgrade::upgrade,
};
use crate::base::{clock::Millis, id::Tenant, varint};

/// Appends the event as a record of `ingress`.
pub fn encode_ingress(event: &Event<'_>, out: &mut Vec<u8>) {
    put_head(schemas::INGRESS, out);
    put_fields(event, out);
}

/// Appends the event as a record of `events`.
pub fn encode_event(event: &Event<'_>, received_at: Millis, out: &mut Vec<u8>) {
    put_head(schemas::EVENTS, out);
    put_fields(event, out);
    varint::put_zigzag(received_at.0, out);
}

/// Converts a record of `ingress` to a record of `events`, and appends it. Checks the lengths of the fields, but not their contents
/// ([`decode_ingress`] does).
pub fn events_from_ingress(
    ingress: &[u8],
    received_at: Millis,
    out: &mut Vec<u8>,
) -> Result<(), Invalid> {
    let current = current(schemas::INGRESS, ingress)?;
    let fields = &current[HEAD..];
    let mut reader = Reader::new(fields);
    reader.skip_fields()?;
    reader.end()?;
    put_head(schemas::EVENTS, out);
    out.extend_from_slice(fields);
    varint::put_zigzag(received_at.0, out);
    Ok(())
}

/// Decodes a record of `ingress`. Only the types of the fields are checked; [`Event::check`] checks their contents.
pub fn decode_ingress(record: &[u8]) -> Result<Event<'_>, Invalid> {
    decode(schemas::INGRESS, record, |_| Ok(())).map(|(event, ())| event)
}

/// Decodes a record of `events` into the event and the time when it was received.
pub fn decode_event(record: &[u8]) -> Result<(Event<'_>, Millis), Invalid> {
    decode(schemas::EVENTS, record, |reader| {
        reader.long("received_at").map(Millis)
    })
}

/// The schema id, if the bytes are in Confluent's wire format.
pub fn schema_id(record: &[u8]) -> Option<u32> {
    match record {
        [0, a, b, c, d, ..] => Some(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => None,
    }
}

/// Converts a record to the current schema version of its topic; borrows if it is current already.
fn current(wanted: Schema, record: &[u8]) -> Result<Cow<'_, [u8]>, Invalid> {
    let id =
        schema_id(record).ok_or_else(|| Invalid::payload("not Avro in Confluent's wire format"))?;
    if id == wanted.id {
        return Ok(Cow::Borrowed(record));
    }
    match schemas::by_id(id).filter(|schema| schema.topic == wanted.topic) {
        Some(written) => upgrade(written, &wanted, record).map(Cow::Owned),
        None => Err(Invalid {
            code: "unknown_schema".into(),
            message: format!("schema {id} is not one of `{}`", wanted.topic),
        }),
    }
}

fn decode<T>(
    wanted: Schema,
    record: &[u8],
    rest: impl Fn(&mut Reader<'_>) -> Result<T, Invalid>,
) -> Result<(Event<'_>, T), Invalid> {
    match current(wanted, record)? {
        Cow::Borrowed(record) => decode_fields(record, rest),
        Cow::Owned(record) => {
            decode_fields(&record, rest).map(|(event, rest)| (event.into_owned(), rest))
        }
    }
}

fn decode_fields<T>(
    record: &[u8],
    rest: impl Fn(&mut Reader<'_>) -> Result<T, Invalid>,
) -> Result<(Event<'_>, T), Invalid> {
    let mut reader = Reader::new(&record[HEAD..]);
    let event = reader.event()?;
    let rest = rest(&mut reader)?;
    reader.end()?;
    Ok((event, rest))
}

fn put_fields(event: &Event<'_>, out: &mut Vec<u8>) {
    let (data, binary) = match &event.data {
        Data::Absent => (None, None),
        Data::Json(text) => (Some(text.as_bytes()), None),
        Data::Binary(bytes) => (None, Some(&**bytes)),
    };
    let payload = data.or(binary).map_or(0, <[u8]>::len);
    out.reserve(payload + event.extensions.len() + 512);
    put_bytes(event.tenant.as_str().as_bytes(), out);
    put_bytes(event.id.as_bytes(), out);
    put_bytes(event.source.as_bytes(), out);
    put_bytes(event.kind.as_bytes(), out);
    put_optional(text(event.subject.as_ref()), out);
    let entity = event.entity.as_ref();
    put_optional(text(entity.map(|e| &e.kind)), out);
    put_optional(text(entity.map(|e| &e.external_id)), out);
    put_optional(text(entity.and_then(|e| e.display_name.as_ref())), out);
    put_optional(text(event.correlation_id.as_ref()), out);
    put_optional(text(event.causation_id.as_ref()), out);
    varint::put_zigzag(event.time, out);
    out.push(match event.time_source {
        TimeSource::Producer => 0,
        TimeSource::Receiver => 2,
    });
    put_optional(data, out);
    put_optional(binary, out);
    put_bytes(event.extensions.as_bytes(), out);
    out.push(u8::from(event.tombstone));
    put_optional(text(event.idempotency_key.as_ref()), out);
}

fn text<'a>(text: Option<&'a Cow<'_, str>>) -> Option<&'a [u8]> {
    text.map(|text| text.as_bytes())
}

impl<'a> Reader<'a> {
    fn event(&mut self) -> Result<Event<'a>, Invalid> {
        let tenant = self.text("tenant")?;
        let tenant = Tenant::new(tenant).map_err(|e| Invalid {
            code: "invalid_tenant".into(),
            message: e.to_string(),
        })?;
        let id = self.text("id")?.into();
        let source = self.text("source")?.into();
        let kind = self.text("type")?.into();
        let subject = self.optional_text("subject")?;
        let entity_type = self.optional_text("entity_type")?;
        let entity_id = self.optional_text("entity_id")?;
        let display_name = self.optional_text("display_name")?;
        let correlation_id = self.optional_text("correlation_id")?;
        let causation_id = self.optional_text("causation_id")?;
        let time = self.long("time")?;
        let time_source = match self.long("time_source")? {
            0 => TimeSource::Producer,
            1 => TimeSource::Receiver,
            _ => return Err(broken("time_source")),
        };
        let data = self.optional_text("data")?;
        let binary = self.optional("data_base64")?;
        let extensions = self.text("extensions")?.into();
        let tombstone = self.boolean("tombstone")?;
        let idempotency_key = self.optional_text("idempotency_key")?;
        let entity = match (entity_type, entity_id) {
            (Some(kind), Some(external_id)) => Some(Entity {
                kind,
                external_id,
                display_name,
            }),
            (None, None) if display_name.is_none() => None,
            _ => return Err(broken("entity_id")),
        };
        let data = match (data, binary) {
            (None, None) => Data::Absent,
            (Some(text), None) => Data::Json(text),
            (None, Some(bytes)) => Data::Binary(bytes.into()),
            (Some(_), Some(_)) => return Err(broken("data_base64")),
        };
        Ok(Event {
            tenant,
            id,
            source,
            kind,
            subject,
            entity,
            correlation_id,
            causation_id,
            time,
            time_source,
            data,
            extensions,
            tombstone,
            idempotency_key,
        })
    }

    /// Skips the fields that [`Reader::event`] reads.
    fn skip_fields(&mut self) -> Result<(), Invalid> {
        for field in ["tenant", "id", "source", "type"] {
            self.bytes(field)?;
        }
        for field in [
            "subject",
            "entity_type",
            "entity_id",
            "display_name",
            "correlation_id",
            "causation_id",
        ] {
            self.optional(field)?;
        }
        self.long("time")?;
        self.long("time_source")?;
        self.optional("data")?;
        self.optional("data_base64")?;
        self.bytes("extensions")?;
        self.boolean("tombstone")?;
        self.optional("idempotency_key")?;
        Ok(())
    }
}
