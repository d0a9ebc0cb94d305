//! Collects the attributes of an envelope, from JSON members or from headers, into an [`Event`].

use std::borrow::Cow;

use super::{
    Data, Entity, Event, Form, Invalid, TimeSource, json::Value, media, rules, time::parse_rfc3339,
};
use crate::base::{clock::Millis, id::Tenant};

/// The initial capacity of the text of the extensions.
const EXTENSIONS_RESERVED: usize = 128;

/// What the receiver adds to an event.
#[derive(Clone, Copy)]
pub(super) struct Receipt<'t> {
    /// The tenant that owns the event.
    pub(super) tenant: &'t Tenant,
    /// When the event was received: its `time` if it has none.
    pub(super) received: Millis,
}

/// The attributes of an envelope while it is read. The first problem is kept and reported at the end, so that the rest of the envelope is
/// still scanned and hashed.
#[derive(Default)]
pub(super) struct Attributes<'a> {
    /// `omnilinkkind`.
    pub(super) envelope_kind: Option<Cow<'a, str>>,
    /// Whether `specversion` was there.
    pub(super) specversion: bool,
    /// `datacontenttype`.
    pub(super) content_type: Option<Cow<'a, str>>,
    /// The object `entity`.
    pub(super) entity: Option<Entity<'a>>,
    /// The text of `data`.
    pub(super) json: Option<&'a str>,
    /// The content of `data_base64`, or a body of bytes.
    pub(super) binary: Option<Cow<'a, [u8]>>,
    id: Option<Cow<'a, str>>,
    source: Option<Cow<'a, str>>,
    kind: Option<Cow<'a, str>>,
    subject: Option<Cow<'a, str>>,
    time: Option<i64>,
    entity_type: Option<Cow<'a, str>>,
    entity_id: Option<Cow<'a, str>>,
    entity_name: Option<Cow<'a, str>>,
    correlation_id: Option<Cow<'a, str>>,
    causation_id: Option<Cow<'a, str>>,
    idempotency_key: Option<Cow<'a, str>>,
    extensions: String,
    problem: Option<Invalid>,
}

impl<'a> Attributes<'a> {
    /// Records a problem, unless there is one already.
    pub(super) fn fail(&mut self, problem: Invalid) {
        self.problem.get_or_insert(problem);
    }

    /// Sets the attribute `name`. `raw` is the JSON text of its value, if it came as JSON.
    pub(super) fn set(&mut self, name: &str, value: Value<'a>, raw: Option<&str>) {
        if let Err(problem) = self.try_set(name, value, raw) {
            self.fail(problem);
        }
    }

    fn try_set(&mut self, name: &str, value: Value<'a>, raw: Option<&str>) -> Result<(), Invalid> {
        match name {
            "specversion" => {
                if let Some(version) = string(name, value)? {
                    self.specversion = true;
                    if version != "1.0" {
                        return Err(Invalid::payload("`specversion` must be \"1.0\""));
                    }
                }
            }
            "id" => self.id = identifier(name, value)?,
            "source" => {
                self.source = identifier(name, value)?;
                if let Some(source) = &self.source {
                    rules::uri_reference(name, source)?;
                }
            }
            "type" => self.kind = identifier(name, value)?,
            "subject" => self.subject = optional(name, value)?,
            "time" => {
                if let Some(text) = string(name, value)? {
                    let time = parse_rfc3339(&text);
                    let wrong = || {
                        Invalid::payload(
                            "`time` must be an RFC 3339 date-time such as 2025-01-31T12:00:00Z",
                        )
                    };
                    self.time = Some(time.ok_or_else(wrong)?);
                }
            }
            "datacontenttype" => {
                if let Some(text) = optional(name, value)? {
                    self.extension(name, &text, raw);
                    self.content_type = Some(text);
                }
            }
            "dataschema" => {
                if let Some(text) = optional(name, value)? {
                    rules::uri_reference(name, &text)?;
                    self.extension(name, &text, raw);
                }
            }
            "entitytype" => self.entity_type = identifier(name, value)?,
            "entityid" => self.entity_id = identifier(name, value)?,
            "entityname" => {
                self.entity_name = string(name, value)?;
                if let Some(text) = &self.entity_name {
                    rules::without_nul(name, text)?;
                }
            }
            "correlationid" => self.correlation_id = string(name, value)?,
            "causationid" => self.causation_id = string(name, value)?,
            "idempotencykey" => {
                self.idempotency_key = string(name, value)?.filter(|key| !key.is_empty());
            }
            "omnilinkkind" => self.envelope_kind = string(name, value)?,
            _ => {
                rules::extension_name(name)?;
                match (value, raw) {
                    (Value::Null, _) => {}
                    (Value::Text(text), _) => self.extension(name, &text, raw),
                    (Value::Bool, Some(raw)) => self.push_extension(name, raw),
                    (Value::Number { integer: true }, Some(raw)) if raw.parse::<i32>().is_ok() => {
                        self.push_extension(name, raw);
                    }
                    _ => return Err(rules::not_scalar(name)),
                }
            }
        }
        Ok(())
    }

    fn extension(&mut self, name: &str, text: &str, raw: Option<&str>) {
        match raw {
            Some(raw) => self.push_extension(name, raw),
            None => self.push_extension(name, &serde_json::Value::from(text).to_string()),
        }
    }

    fn push_extension(&mut self, name: &str, raw: &str) {
        let open = if self.extensions.is_empty() {
            self.extensions.reserve(EXTENSIONS_RESERVED);
            "{\""
        } else {
            ",\""
        };
        for part in [open, name, "\":", raw] {
            self.extensions.push_str(part);
        }
    }

    /// Whether `datacontenttype` declares JSON; `None` if it is absent.
    pub(super) fn declares_json(&self) -> Option<bool> {
        self.content_type.as_deref().map(media::is_json)
    }

    /// The event, or the first problem.
    pub(super) fn finish(self, form: Form, receipt: Receipt<'_>) -> Result<Event<'a>, Invalid> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        if form == Form::CloudEvents && !self.specversion {
            return Err(Invalid::missing("specversion"));
        }
        let id = self.id.ok_or_else(|| Invalid::missing("id"))?;
        let source = self.source.ok_or_else(|| Invalid::missing("source"))?;
        let kind = self.kind.ok_or_else(|| Invalid::missing("type"))?;
        let flat = flat_entity(self.entity_type, self.entity_id, self.entity_name)?;
        let entity = match (self.entity, flat) {
            (Some(a), Some(b)) if a.kind != b.kind || a.external_id != b.external_id => {
                return Err(Invalid::payload(
                    "`entity` and `entitytype`, `entityid` name different entities",
                ));
            }
            (a, b) => a.or(b),
        };
        let data = match (self.json, self.binary) {
            (Some(_), Some(_)) => {
                return Err(Invalid::payload(
                    "`data` and `data_base64` exclude each other",
                ));
            }
            (Some(text), None) => Data::Json(Cow::Borrowed(text)),
            (None, Some(bytes)) => Data::Binary(bytes),
            // With `specversion` it is a CloudEvent, whose data is optional.
            (None, None) if form == Form::OmniLink && !self.specversion => {
                return Err(Invalid::missing("data"));
            }
            (None, None) => Data::Absent,
        };
        let (time, time_source) = match self.time {
            Some(time) => (time, TimeSource::Producer),
            // A foreign broker's timestamp may be out of range.
            None => (
                rules::clamp_time(receipt.received.0.saturating_mul(1000)),
                TimeSource::Receiver,
            ),
        };
        let extensions = match self.extensions {
            none if none.is_empty() => Cow::Borrowed("{}"),
            mut open => {
                open.push('}');
                Cow::Owned(open)
            }
        };
        Ok(Event {
            tenant: receipt.tenant.clone(),
            id,
            source,
            kind,
            subject: self.subject,
            entity,
            correlation_id: self.correlation_id,
            causation_id: self.causation_id,
            time,
            time_source,
            data,
            extensions,
            tombstone: false,
            idempotency_key: self.idempotency_key,
        })
    }
}

/// The value of a string attribute; `null` is the same as absent.
pub(super) fn string<'a>(name: &str, value: Value<'a>) -> Result<Option<Cow<'a, str>>, Invalid> {
    match value {
        Value::Text(text) => Ok(Some(text)),
        Value::Null => Ok(None),
        _ => Err(Invalid::payload(format!("`{name}` must be a string"))),
    }
}

fn identifier<'a>(name: &str, value: Value<'a>) -> Result<Option<Cow<'a, str>>, Invalid> {
    let text = string(name, value)?;
    if let Some(text) = &text {
        rules::identifier(name, text)?;
    }
    Ok(text)
}

fn optional<'a>(name: &str, value: Value<'a>) -> Result<Option<Cow<'a, str>>, Invalid> {
    let text = string(name, value)?;
    if let Some(text) = &text {
        rules::not_empty(name, text)?;
    }
    Ok(text)
}

fn flat_entity<'a>(
    kind: Option<Cow<'a, str>>,
    id: Option<Cow<'a, str>>,
    name: Option<Cow<'a, str>>,
) -> Result<Option<Entity<'a>>, Invalid> {
    match (kind, id) {
        (None, None) if name.is_none() => Ok(None),
        (Some(kind), Some(external_id)) => Ok(Some(Entity {
            kind,
            external_id,
            display_name: name,
        })),
        (None, _) => Err(Invalid::missing("entitytype")),
        (Some(_), None) => Err(Invalid::missing("entityid")),
    }
}
