//! What a Kafka record says: which of the forms it is in, in the contract's order.

use bytes::Bytes;

use super::{
    Event, Form, Invalid, Media, agents,
    attributes::{Attributes, Receipt},
    avro,
    binary::{self, Binding},
    cloudevents::{self, Item},
    foreign::{self, Framing, SchemaError, Schemas},
    json, schemas,
};
use crate::{
    base::{clock::Millis, id::Tenant},
    log::{Record, header},
};

/// The header that says which form the value is in.
const CONTENT_TYPE: &str = "content-type";

/// The header that names the tenant.
pub const TENANT_HEADER: &str = "omnilink-tenant";

/// The most items of a batch in one record: bounds what a record of many empty items costs.
pub const BATCH_MAX: usize = 10_000;

/// The headers that make a record one in binary mode.
const REQUIRED: [&str; 4] = ["ce_specversion", "ce_id", "ce_source", "ce_type"];

/// What a record holds.
#[derive(Clone, PartialEq, Debug)]
pub enum Inbound<'a> {
    /// One event.
    One(Event<'a>),
    /// One event that OmniLink wrote itself, or somebody with its schema.
    Own(OwnIngress<'a>),
    /// The items of a batch, each with its text.
    Batch(Vec<(&'a [u8], Result<Event<'a>, Invalid>)>),
    /// Avro that others wrote, in none of the forms: what it says as JSON.
    Foreign(String),
}

/// Why a record was not read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unread {
    /// It is bad.
    Invalid(Invalid),
    /// Its schema is not at hand, for this reason: ask again.
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

/// An event that came as Avro in OmniLink's schema.
#[derive(Clone, PartialEq, Debug)]
pub struct OwnIngress<'a> {
    /// The event.
    pub event: Event<'a>,
    /// The record's value, if it is in the current version.
    value: Option<&'a [u8]>,
}

impl OwnIngress<'_> {
    /// Appends the record for `events`: a copy, where that is enough.
    pub fn events_record(&self, received_at: Millis, out: &mut Vec<u8>) -> Result<(), Invalid> {
        if let Some(value) = self.value {
            return avro::events_from_ingress(value, received_at, out);
        }
        avro::encode_event(&self.event, received_at, out);
        Ok(())
    }
}

/// Reads a record; `timestamp` is its own, the `time` of events that have none; `schemas` are those of foreign Avro.
///
/// Errors, beside those of the forms: `unsupported_media_type`, `unsupported_kind`, `unknown_schema`, `unsupported_schema`,
/// `unrecognised_payload`, `missing_tenant`, `invalid_tenant`.
pub fn read<'a>(
    record: &'a Record,
    timestamp: Millis,
    schemas: &dyn Schemas,
) -> Result<Inbound<'a>, Unread> {
    once(record, CONTENT_TYPE)?;
    let content_type = header(&record.headers, CONTENT_TYPE);
    let value = record.value.as_deref();
    match content_type
        .and_then(|text| std::str::from_utf8(text).ok())
        .map(Media::of)
    {
        Some(Media::Structured(Form::CloudEvents)) => {
            let tenant = tenant(record)?;
            let event = one(some(value)?, Form::CloudEvents, &tenant, timestamp)?;
            return Ok(Inbound::One(event));
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
        check_kind(&binary.attributes)?;
        let receipt = Receipt {
            tenant: &tenant,
            received: timestamp,
        };
        return Ok(Inbound::One(binary.finish(receipt)?.event));
    }
    let Some(value) = value else {
        return Err(unrecognised(record, "no value").into());
    };
    match avro::schema_id(value) {
        Some(id) if id >= schemas::FIRST_ID => return Ok(own(id, value)?),
        Some(id) => {
            let json = foreign::to_json(id, value, record, schemas)?;
            let event = headerless(record, json.as_bytes(), timestamp)?.map(Event::into_owned);
            return Ok(event.map_or(Inbound::Foreign(json), Inbound::One));
        }
        None => {}
    }
    match headerless(record, value, timestamp)? {
        Some(event) => Ok(Inbound::One(event)),
        None => Err(match Framing::of(record, value) {
            Some(framing) if object(value).is_none() => {
                refused("unrecognised_payload", framing.to_string())
            }
            _ => unrecognised(record, "the value is no CloudEvent"),
        }
        .into()),
    }
}

/// An event that its value alone makes one: JSON with `specversion`, or the agents' form.
fn headerless<'a>(
    record: &Record,
    value: &'a [u8],
    timestamp: Millis,
) -> Result<Option<Event<'a>>, Invalid> {
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
        return Ok(Some(agents::parse(text, receipt)?.event));
    }
    Ok(None)
}

/// What [`Inbound::Foreign`] is refused for where nothing maps it.
pub fn unrecognised_avro() -> Invalid {
    refused(
        "unrecognised_payload",
        "the Avro record is no CloudEvent; a topology with a `map` makes it one",
    )
}

fn own(id: u32, value: &[u8]) -> Result<Inbound<'_>, Invalid> {
    let event = avro::decode_ingress(value)?;
    // Our schemas are public: what others encoded must not pass unread.
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
) -> Result<Event<'a>, Invalid> {
    let envelope = cloudevents::structured(value, form)?;
    check_kind(&envelope.attributes)?;
    Ok(envelope.finish(form, Receipt { tenant, received })?.event)
}

fn batch<'a>(value: &'a [u8], tenant: &Tenant, received: Millis) -> Result<Inbound<'a>, Invalid> {
    let receipt = Receipt { tenant, received };
    let judge = |envelope: cloudevents::Envelope<'a>| {
        check_kind(&envelope.attributes)?;
        envelope.finish(Form::CloudEvents, receipt)
    };
    let items = cloudevents::batch(value, Form::CloudEvents, BATCH_MAX, judge)?;
    let event = |Item { raw, parsed }| (raw, parsed.map(|p| p.event));
    Ok(Inbound::Batch(items.into_iter().map(event).collect()))
}

/// Only events are taken in yet.
fn check_kind(attributes: &Attributes<'_>) -> Result<(), Invalid> {
    match attributes.envelope_kind.as_deref() {
        None | Some("event") => Ok(()),
        Some(_) => Err(refused(
            "unsupported_kind",
            "`omnilinkkind` must be `event`",
        )),
    }
}

/// The text of a JSON object, however bad.
fn object(value: &[u8]) -> Option<&str> {
    let value = json::without_mark(value).trim_ascii_start();
    let begins = value.first() == Some(&b'{');
    json::utf8(value).ok().filter(|_| begins)
}

/// A header that decides how a record is read, or whose it is, must not be there twice: readers differ in which counts.
fn once(record: &Record, name: &str) -> Result<(), Invalid> {
    let is = |(header, value): &&(String, Option<Bytes>)| header == name && value.is_some();
    if record.headers.iter().filter(is).nth(1).is_some() {
        let problem = format!("header `{name}` is given twice");
        return Err(Invalid::payload(problem));
    }
    Ok(())
}

fn tenant(record: &Record) -> Result<Tenant, Invalid> {
    once(record, TENANT_HEADER)?;
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
