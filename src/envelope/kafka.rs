//! Parsing Kafka records: the form of a record is detected in the order that the contract defines.

use bytes::Bytes;

use super::{
    Event, Form, Invalid, Media, ParsedStart, StartKind, StartReceipt, agents,
    attributes::{Attributes, Receipt},
    avro,
    binary::{self, Binding},
    cloudevents::{self, Item},
    foreign::{self, Framing, SchemaError, Schemas},
    json, schemas, start,
};
use crate::{
    base::{clock::Millis, id::Tenant},
    log::{Record, header},
};

/// The header that declares the form of the value.
const CONTENT_TYPE: &str = "content-type";

/// The header that names the tenant.
pub const TENANT_HEADER: &str = "omnilink-tenant";

/// The most items of a batch in one record. It bounds the cost of a record with many empty items.
pub const BATCH_MAX: usize = 10_000;

/// The headers that mark a record in binary mode.
const REQUIRED: [&str; 4] = ["ce_specversion", "ce_id", "ce_source", "ce_type"];

/// The contents of a record.
#[derive(Clone, PartialEq, Debug)]
pub enum Inbound<'a> {
    /// One event or start.
    One(Content<'a>),
    /// One event in OmniLink's own Avro schema.
    Own(OwnIngress<'a>),
    /// The items of a batch, each with its text.
    Batch(Vec<(&'a [u8], Result<Content<'a>, Invalid>)>),
    /// A foreign Avro record that is not an event in any of the forms, as JSON text.
    Foreign(String),
}

/// What an envelope holds, by its `omnilinkkind`.
#[derive(Clone, PartialEq, Debug)]
pub enum Content<'a> {
    /// An event.
    Event(Event<'a>),
    /// What starts a run.
    Start(ParsedStart<'a>),
}

impl<'a> Content<'a> {
    /// The same content with owned data.
    pub fn into_owned(self) -> Content<'static> {
        match self {
            Self::Event(event) => Content::Event(event.into_owned()),
            Self::Start(start) => Content::Start(start.into_owned()),
        }
    }

    /// The event. `unsupported_kind`: it is a start, which only `ingress` takes.
    pub fn into_event(self) -> Result<Event<'a>, Invalid> {
        match self {
            Self::Event(event) => Ok(event),
            Self::Start(start) => Err(unsupported_kind(format!(
                "a topology takes events alone: send a {} to `ingress`",
                start.kind.name()
            ))),
        }
    }
}

/// Why a record could not be parsed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unread {
    /// The record is invalid.
    Invalid(Invalid),
    /// The record's schema is not available yet, for this reason. Retriable.
    Waiting(String),
}

impl From<Invalid> for Unread {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl From<SchemaError> for Unread {
    fn from(none: SchemaError) -> Self {
        match none {
            SchemaError::Refused(invalid) => Self::Invalid(invalid),
            SchemaError::Waiting(why) => Self::Waiting(why),
        }
    }
}

/// An event that was sent as Avro in OmniLink's own schema.
#[derive(Clone, PartialEq, Debug)]
pub struct OwnIngress<'a> {
    /// The event.
    pub event: Event<'a>,
    /// The record's value, if it has the current schema version.
    value: Option<&'a [u8]>,
}

impl OwnIngress<'_> {
    /// Appends the event as a record of `events`. Copies the bytes if they have the current schema version.
    pub fn events_record(&self, received_at: Millis, out: &mut Vec<u8>) -> Result<(), Invalid> {
        if let Some(value) = self.value {
            return avro::events_from_ingress(value, received_at, out);
        }
        avro::encode_event(&self.event, received_at, out);
        Ok(())
    }
}

/// Parses a record. `timestamp` is the record's own, and becomes the `time` of events without one. `schemas` is the source of schemas for
/// foreign Avro.
///
/// Error codes, besides those of the forms: `unsupported_media_type`, `unsupported_kind`, `unknown_schema`, `unsupported_schema`,
/// `unrecognised_payload`, `missing_tenant`, `invalid_tenant`.
pub fn read<'a>(
    record: &'a Record,
    timestamp: Millis,
    schemas: &dyn Schemas,
) -> Result<Inbound<'a>, Unread> {
    check_once(record, CONTENT_TYPE)?;
    let content_type = header(&record.headers, CONTENT_TYPE);
    let value = record.value.as_deref();
    match content_type
        .and_then(|text| std::str::from_utf8(text).ok())
        .map(Media::of)
    {
        Some(Media::Structured(Form::CloudEvents)) => {
            let tenant = tenant(record)?;
            let content = one(some(value)?, Form::CloudEvents, &tenant, timestamp)?;
            return Ok(Inbound::One(content));
        }
        Some(Media::Batch) => {
            let tenant = tenant(record)?;
            return Ok(batch(some(value)?, &tenant, timestamp)?);
        }
        Some(Media::OtherCloudEvents) => {
            return Err(refused(
                "unsupported_media_type",
                "CloudEvents are read as JSON only",
            )
            .into());
        }
        Some(Media::Structured(Form::OmniLink) | Media::Other) | None => {}
    }
    if REQUIRED
        .iter()
        .all(|name| header(&record.headers, name).is_some())
    {
        let tenant = tenant(record)?;
        let headers = record
            .headers
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)));
        let binary = binary::read(headers, Binding::Kafka, content_type, value);
        let receipt = Receipt {
            tenant: &tenant,
            received: timestamp,
        };
        return Ok(Inbound::One(match kind(&binary.attributes)? {
            None => Content::Event(binary.finish(receipt)?.event),
            Some(kind) => Content::Start(start::of_binary_record(binary, of(kind, receipt))?),
        }));
    }
    let Some(value) = value else {
        return Err(unrecognised(record, "no value").into());
    };
    match avro::schema_id(value) {
        Some(id) if id >= schemas::FIRST_ID => return Ok(own(id, value)?),
        Some(id) => {
            let json = foreign::to_json(id, value, record, schemas)?;
            let content = headerless(record, json.as_bytes(), timestamp)?.map(Content::into_owned);
            return Ok(content.map_or(Inbound::Foreign(json), Inbound::One));
        }
        None => {}
    }
    match headerless(record, value, timestamp)? {
        Some(content) => Ok(Inbound::One(content)),
        None => Err(match Framing::of(record, value) {
            Some(framing) if object(value).is_none() => {
                refused("unrecognised_payload", framing.to_string())
            }
            _ => unrecognised(record, "the value is no CloudEvent"),
        }
        .into()),
    }
}

/// Parses an envelope that is recognized by its value alone: JSON with `specversion`, or the agents' form.
fn headerless<'a>(
    record: &Record,
    value: &'a [u8],
    timestamp: Millis,
) -> Result<Option<Content<'a>>, Invalid> {
    let Some(text) = object(value) else {
        return Ok(None);
    };
    if json::has_member(text, "specversion") {
        return one(value, Form::OmniLink, &tenant(record)?, timestamp).map(Some);
    }
    if agents::is(text) {
        let receipt = Receipt {
            tenant: &tenant(record)?,
            received: timestamp,
        };
        return Ok(Some(Content::Event(agents::parse(text, receipt)?.event)));
    }
    Ok(None)
}

/// The error for [`Inbound::Foreign`] if no topology maps it.
pub fn unrecognised_avro() -> Invalid {
    refused(
        "unrecognised_payload",
        "the Avro record is no CloudEvent; a topology with a `map` makes it one",
    )
}

fn own(id: u32, value: &[u8]) -> Result<Inbound<'_>, Invalid> {
    let event = avro::decode_ingress(value)?;
    // The schema is public, so anyone may have encoded this record.
    event.check()?;
    Ok(Inbound::Own(OwnIngress {
        event,
        value: (id == schemas::INGRESS.id).then_some(value),
    }))
}

fn one<'a>(
    value: &'a [u8],
    form: Form,
    tenant: &Tenant,
    received: Millis,
) -> Result<Content<'a>, Invalid> {
    content(
        cloudevents::structured(value, form)?,
        form,
        Receipt { tenant, received },
    )
}

fn batch<'a>(value: &'a [u8], tenant: &Tenant, received: Millis) -> Result<Inbound<'a>, Invalid> {
    let (form, receipt) = (Form::CloudEvents, Receipt { tenant, received });
    let judge = |envelope: cloudevents::Envelope<'a>| content(envelope, form, receipt);
    let items = cloudevents::batch(value, form, BATCH_MAX, judge)?;
    let item = |Item { raw, parsed }| (raw, parsed);
    Ok(Inbound::Batch(items.into_iter().map(item).collect()))
}

/// An envelope that was read as an event's; what is a start is read again.
fn content<'a>(
    envelope: cloudevents::Envelope<'a>,
    form: Form,
    receipt: Receipt<'_>,
) -> Result<Content<'a>, Invalid> {
    match kind(&envelope.attributes)? {
        None => Ok(Content::Event(envelope.finish(form, receipt)?.event)),
        Some(kind) => {
            let parsed = start::of_record(envelope.text, form, of(kind, receipt))?;
            Ok(Content::Start(parsed))
        }
    }
}

/// What an envelope starts; `None`: it is an event.
fn kind(attributes: &Attributes<'_>) -> Result<Option<StartKind>, Invalid> {
    match attributes.envelope_kind.as_deref() {
        None | Some("event") => Ok(None),
        Some(name) => match StartKind::named(name) {
            Some(kind) => Ok(Some(kind)),
            None => Err(unsupported_kind(
                "`omnilinkkind` must be `event`, `command`, `workflow`, `goal` or `task`",
            )),
        },
    }
}

const fn of(kind: StartKind, receipt: Receipt<'_>) -> StartReceipt<'_> {
    StartReceipt {
        kind,
        tenant: receipt.tenant,
        received: receipt.received,
    }
}

fn unsupported_kind(message: impl Into<String>) -> Invalid {
    refused("unsupported_kind", message)
}

/// The value as text, if it looks like a JSON object, valid or not.
fn object(value: &[u8]) -> Option<&str> {
    let value = json::without_mark(value).trim_ascii_start();
    let begins = value.first() == Some(&b'{');
    json::utf8(value).ok().filter(|_| begins)
}

/// Checks that a header that determines the form or the tenant is not repeated: readers differ in which occurrence they use.
fn check_once(record: &Record, name: &str) -> Result<(), Invalid> {
    let is = |(header, value): &&(String, Option<Bytes>)| header == name && value.is_some();
    if record.headers.iter().filter(is).nth(1).is_some() {
        let problem = format!("header `{name}` is given twice");
        return Err(Invalid::payload(problem));
    }
    Ok(())
}

fn tenant(record: &Record) -> Result<Tenant, Invalid> {
    check_once(record, TENANT_HEADER)?;
    let name = header(&record.headers, TENANT_HEADER).ok_or_else(|| Invalid::missing("tenant"))?;
    let name = std::str::from_utf8(name).unwrap_or_default();
    Tenant::new(name).map_err(|e| refused("invalid_tenant", e.to_string()))
}

fn some(value: Option<&[u8]>) -> Result<&[u8], Invalid> {
    value.ok_or_else(|| Invalid::payload("a structured CloudEvent needs a value"))
}

fn unrecognised(record: &Record, what: &str) -> Invalid {
    let missing = REQUIRED
        .iter()
        .filter(|name| header(&record.headers, name).is_none());
    let missing: Vec<_> = missing.copied().collect();
    if missing.len() == REQUIRED.len() {
        return refused("unrecognised_payload", what);
    }
    refused(
        "unrecognised_payload",
        format!(
            "{what}, and of the headers of one {} are missing",
            missing.join(", ")
        ),
    )
}

fn refused(code: &'static str, message: impl Into<String>) -> Invalid {
    Invalid {
        code: code.into(),
        message: message.into(),
    }
}
