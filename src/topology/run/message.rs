//! A record on its way through the steps of a topology.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use vrl::value::{KeyString, ObjectMap, Value};

use super::{
    codec::{Codec, Part, json_of},
    key::KeyValues,
};
use crate::topology::{
    syntax::model::{KeyField, KeyFields},
    vrl::{
        document::{Document, Unread},
        json,
    },
};
use crate::{
    base::{
        clock::Millis,
        id::{Identity, Tenant},
    },
    commands::depth,
    envelope::{
        Data, Event, Form, Invalid, avro,
        foreign::Schemas,
        json::put_string,
        kafka::{Content, Inbound, TENANT_HEADER, read},
        parse_structured,
    },
    log::{Headers, Record, header},
    stream::{Failure, Origin, Rejected},
};

/// The record, and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// `.` of the programs.
    pub(crate) document: Document,
    /// The JSON text of the document as long as no program has changed it: numbers keep all their digits.
    pub(crate) raw: Option<Bytes>,
    /// `%key`: the key on a foreign topic.
    pub(crate) key: Option<Bytes>,
    /// `%headers`: the headers on a foreign topic.
    pub(crate) headers: Headers,
    /// `%tenant`.
    pub(crate) tenant: Option<Tenant>,
    /// The fields of the key that steps keep their state by.
    pub(crate) key_values: KeyValues,
    /// How often its record was redriven (0: never).
    pub(crate) redriven: u32,
    pub(crate) origin: Arc<Origin>,
}

/// What a record of a foreign topic was read as.
pub(crate) enum Normalised {
    /// Its event, or the events of a batch; for a bad item the reason.
    Events(Vec<Result<Message, Rejected>>),
    /// Avro of another schema than those of events, as JSON.
    Json(String),
}

fn tenant_of(record: &Record, fixed: Option<&Tenant>) -> Result<Option<Tenant>, Rejected> {
    if fixed.is_some() {
        return Ok(fixed.cloned());
    }
    match header(&record.headers, TENANT_HEADER) {
        None => Ok(None),
        Some(name) => Tenant::new(std::str::from_utf8(name).unwrap_or_default())
            .map(Some)
            .map_err(|e| Rejected::new("invalid_tenant", e.to_string())),
    }
}

impl Message {
    /// The messages of a record of a foreign topic, decoded by its codec; for a bad part the reason.
    pub(crate) fn decode(
        origin: &Arc<Origin>,
        codec: &Codec,
        tenant: Option<&Tenant>,
        schemas: &dyn Schemas,
    ) -> Result<Vec<Result<Self, Rejected>>, Failure> {
        let record = &origin.record.record;
        let parts = codec.decode(record, schemas)?;
        Ok(parts
            .into_iter()
            .map(|part| Self::of_part(part?, origin, tenant))
            .collect())
    }

    /// A message of Avro that was read as JSON.
    pub(crate) fn of_json(
        json: String,
        origin: &Arc<Origin>,
        tenant: Option<&Tenant>,
    ) -> Result<Self, Rejected> {
        Self::of_part(Part::json(&json.into())?, origin, tenant)
    }

    fn of_part(
        part: Part,
        origin: &Arc<Origin>,
        tenant: Option<&Tenant>,
    ) -> Result<Self, Rejected> {
        let record = &origin.record.record;
        let tenant = tenant_of(record, tenant).map_err(|rejected| Rejected {
            value: part.alone.clone(),
            ..rejected
        })?;
        let origin = match part.alone {
            // Whatever becomes of it later, the part is what goes to the dead letters.
            Some(alone) => {
                let mut one = Origin::clone(origin);
                one.record.record.value = Some(alone);
                Arc::new(one)
            }
            None => Arc::clone(origin),
        };
        let document = match &part.json {
            Some(json) => Document::within(part.value, json),
            None => part.value.into(),
        };
        Ok(Self {
            document,
            raw: part.json,
            key: record.key.clone(),
            headers: record.headers.clone(),
            tenant,
            key_values: KeyValues::default(),
            redriven: 0,
            origin,
        })
    }

    /// A record of `events`.
    pub(crate) fn of_events(origin: &Arc<Origin>) -> Result<Self, Rejected> {
        let value = origin.record.record.value.as_deref().unwrap_or_default();
        let (event, _) = avro::decode_event(value)?;
        Ok(Self::of_event(&event, origin))
    }

    /// The event of a record in any of the known forms, or the events of a batch; each item that is bad says why.
    pub(crate) fn normalised(
        origin: &Arc<Origin>,
        tenant: Option<&Tenant>,
        schemas: &dyn Schemas,
    ) -> Result<Normalised, Failure> {
        let fetched = &origin.record;
        let mut record = fetched.record.clone();
        if let Some(tenant) = tenant {
            // The file's tenant takes precedence over the producer's.
            let name = tenant.as_str().to_owned();
            record.headers.retain(|(name, _)| name != TENANT_HEADER);
            record
                .headers
                .push((TENANT_HEADER.into(), Some(name.into())));
        }
        Ok(Normalised::Events(
            match read(&record, fetched.timestamp, schemas)? {
                Inbound::Foreign(json) => return Ok(Normalised::Json(json)),
                Inbound::One(content) => {
                    vec![Ok(Self::of_event(&content.into_event()?, origin))]
                }
                Inbound::Own(own) => vec![Ok(Self::of_event(&own.event, origin))],
                Inbound::Batch(items) => items
                    .into_iter()
                    .map(|(raw, item)| {
                        let raw = Bytes::copy_from_slice(raw);
                        let event = item.and_then(Content::into_event);
                        let event = event.map_err(|invalid| Rejected {
                            value: Some(raw.clone()),
                            ..invalid.into()
                        })?;
                        // Whatever becomes of it later, the item is what goes to the dead letters.
                        let mut one = Origin::clone(origin);
                        one.record.record.value = Some(raw);
                        Ok(Self::of_event(&event, &Arc::new(one)))
                    })
                    .collect(),
            },
        ))
    }

    fn of_event(event: &Event<'_>, origin: &Arc<Origin>) -> Self {
        let record = &origin.record.record;
        Self {
            document: envelope(event, record.value.as_ref().unwrap_or(&Bytes::new())),
            raw: None,
            key: record.key.clone(),
            headers: record.headers.clone(),
            tenant: Some(event.tenant.clone()),
            key_values: KeyValues::default(),
            redriven: 0,
            origin: Arc::clone(origin),
        }
    }

    /// The JSON text of the document.
    pub(crate) fn json(&self) -> Result<Bytes, Rejected> {
        match &self.raw {
            Some(raw) => Ok(raw.clone()),
            None => json_of(&self.document),
        }
    }

    /// `%` of the programs.
    pub(crate) fn metadata(&self) -> Value {
        let origin = &self.origin;
        let fetched = &origin.record;
        let mut headers = ObjectMap::new();
        for (name, value) in &self.headers {
            let value = value.clone().map_or(Value::Null, Value::from);
            headers.insert(KeyString::from(name.as_str()), value);
        }
        let timestamp = vrl_time(fetched.timestamp);
        let entries: [(&str, Value); 7] = [
            ("key", self.key.clone().map_or(Value::Null, Value::from)),
            ("headers", Value::Object(headers)),
            (
                "tenant",
                self.tenant
                    .as_ref()
                    .map_or(Value::Null, |t| Value::from(t.as_str())),
            ),
            ("topic", Value::from(&*origin.topic)),
            ("partition", Value::Integer(i64::from(fetched.partition))),
            ("offset", Value::Integer(fetched.offset as i64)),
            ("timestamp", timestamp),
        ];
        let entries = entries.map(|(name, value)| (KeyString::from(name), value));
        Value::Object(entries.into_iter().collect())
    }

    /// Takes over `%key`, `%headers` and `%tenant` as a program has set them.
    pub(crate) fn set_metadata(&mut self, metadata: &Value) -> Result<(), Rejected> {
        let Value::Object(fields) = metadata else {
            return Err(Rejected::new("vrl_error", "`%` must be an object"));
        };
        self.key = match fields.get("key") {
            None | Some(Value::Null) => None,
            Some(value) => Some(self.bytes_of("key", value)?),
        };
        self.tenant = match fields.get("tenant") {
            None | Some(Value::Null) => None,
            Some(value) => {
                let name = value.as_bytes().and_then(|b| std::str::from_utf8(b).ok());
                let tenant = Tenant::new(name.unwrap_or_default());
                Some(tenant.map_err(|e| Rejected::new("invalid_tenant", e.to_string()))?)
            }
        };
        self.headers = match fields.get("headers") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Object(headers)) => headers
                .iter()
                .map(|(name, value)| {
                    let value = match value {
                        Value::Null => None,
                        value => Some(self.bytes_of("headers", value)?),
                    };
                    Ok((name.to_string(), value))
                })
                .collect::<Result<_, Rejected>>()?,
            Some(_) => return Err(Rejected::new("vrl_error", "`%headers` must be an object")),
        };
        Ok(())
    }

    /// What a program has set as bytes: a text as it is, anything else as its JSON.
    fn bytes_of(&self, of: &str, value: &Value) -> Result<Bytes, Rejected> {
        if let Value::Object(_) | Value::Array(_) = value {
            let mut json = Vec::new();
            json::write(value, self.document.record(), &mut json)
                .map_err(|e| Rejected::new(e.code(), format!("`%{of}` has no JSON form: {e}")))?;
            return Ok(json.into());
        }
        Ok(value.coerce_to_bytes())
    }

    /// Whether its key or a header is not UTF-8: then a program that makes a string of it puts U+FFFD in place of what it cannot read.
    pub(crate) fn has_binary_metadata(&self) -> bool {
        let headers = self.headers.iter().filter_map(|(_, value)| value.as_ref());
        self.key
            .iter()
            .chain(headers)
            .any(|bytes| std::str::from_utf8(bytes).is_err())
    }

    /// Refuses a record in whose document or metadata a program put U+FFFD in place of bytes that are not UTF-8: different keys could
    /// become equal.
    pub(crate) fn check_replaced(&self, before: usize) -> Result<(), Rejected> {
        if self.replaced()? > before {
            return Err(Rejected::new(
                "invalid_utf8",
                "a program made a text of a key or header that is none; write its bytes with `encode_base64` or `encode_base16`",
            ));
        }
        Ok(())
    }

    /// How often U+FFFD is there.
    pub(crate) fn replaced(&self) -> Result<usize, Rejected> {
        let count = |bytes: &[u8]| memchr::memmem::find_iter(bytes, "\u{fffd}").count();
        let headers = self.headers.iter().filter_map(|(_, value)| value.as_ref());
        let metadata: usize = self
            .key
            .iter()
            .chain(headers)
            .map(|bytes| count(bytes))
            .sum();
        Ok(metadata + count(&json_of(&self.document)?))
    }

    /// Reads the fields of a key.
    pub(crate) fn set_key(&mut self, fields: &KeyFields) -> Result<(), Rejected> {
        let values = KeyValues::read(fields, &self.document, self.tenant.as_ref())?;
        // One text is the key as it is, so that others find it; anything else is a JSON array.
        self.key = Some(match &*fields.fields {
            [KeyField::Tenant] => self
                .tenant
                .as_ref()
                .map_or("", Tenant::as_str)
                .to_owned()
                .into(),
            [KeyField::Field(path)] => match self.document.get(path) {
                Some(value) => self.bytes_of("key", &value)?,
                None => Bytes::new(),
            },
            _ => values.array().clone(),
        });
        self.key_values = values;
        Ok(())
    }

    /// Reads the fields that the record's own key, which stays, is made of.
    pub(crate) fn keyed_by(&mut self, fields: &KeyFields) -> Result<(), Rejected> {
        self.key_values = KeyValues::read(fields, &self.document, self.tenant.as_ref())?;
        Ok(())
    }

    /// What a step keeps its state by: the hash of `[kind, scope, tenant, value of the key, …]`, where `scope` is different for each
    /// step. Tenants never share state.
    pub(crate) fn identity(&self, kind: &str, scope: &str) -> Identity {
        let mut text = Vec::with_capacity(192);
        let tenant = self.tenant.as_ref().map_or("", Tenant::as_str);
        for part in [kind, scope, tenant] {
            text.push(if text.is_empty() { b'[' } else { b',' });
            put_string(part, &mut text);
        }
        for value in self.key_values.texts() {
            text.push(b',');
            text.extend_from_slice(value);
        }
        text.push(b']');
        Identity::of_json(&text)
    }

    /// The record for `ingress`.
    pub(crate) fn to_ingress(&self) -> Result<Record, Rejected> {
        let tenant = self
            .tenant
            .as_ref()
            .ok_or_else(|| Rejected::from(Invalid::missing("tenant")))?;
        let received = self.origin.record.timestamp;
        let text = self.json()?;
        let event = parse_structured(&text, Form::OmniLink, tenant, received)?.event;
        let mut value = Vec::with_capacity(512);
        avro::encode_ingress(&event, &mut value);
        Ok(Record {
            key: Some(event.record_key().into()),
            value: Some(value.into()),
            // A topology between two workflows does not hide that they cause each other.
            headers: depth::carried(&self.origin.record.record.headers),
        })
    }

    /// The record for a foreign topic.
    pub(crate) fn to_foreign(&self, codec: &Codec) -> Result<Record, Rejected> {
        let value = match &self.raw {
            Some(raw) if *codec != Codec::Text => raw.clone(),
            _ => codec.encode(&self.document)?,
        };
        Ok(Record {
            key: self.key.clone(),
            value: Some(value),
            headers: self.headers.clone(),
        })
    }
}

/// A time as VRL's timestamp.
fn vrl_time(at: Millis) -> Value {
    chrono::DateTime::from_timestamp_millis(at.0).map_or(Value::Null, Value::Timestamp)
}

/// An event as the JSON object that producers send. Only its extensions are parsed.
pub(crate) fn envelope(event: &Event<'_>, record: &Bytes) -> Document {
    let mut unread = Unread::within(record);
    unread.optional("causationid", event.causation_id.as_deref());
    unread.optional("correlationid", event.correlation_id.as_deref());
    match &event.data {
        Data::Absent => {}
        Data::Json(text) => unread.json("data", text),
        Data::Binary(bytes) => unread.text("data_base64", &STANDARD.encode(bytes)),
    }
    if let Some(entity) = &event.entity {
        unread.entity("entity", entity);
    }
    unread.text("id", &event.id);
    unread.optional("idempotencykey", event.idempotency_key.as_deref());
    unread.text("source", &event.source);
    unread.fixed("specversion", "1.0");
    unread.optional("subject", event.subject.as_deref());
    unread.time("time", event.time);
    unread.text("type", &event.kind);
    let mut extensions = ObjectMap::new();
    if event.extensions != "{}"
        && let Ok(Value::Object(read)) = json::read_text(&event.extensions, record)
    {
        // Admission refuses extensions with the name of a field; in Avro of another schema they count, but never as the data.
        extensions = read;
        if let Data::Json(_) = event.data {
            extensions.remove("data");
        }
    }
    Document::with_unread(extensions, unread)
}
