//! The agents' internal form: a dialect that is recognized by a member `eventId` or `event_id`.
//!
//! `eventId`, `eventType`, `timestamp` and `payload` correspond to CloudEvents' `id`, `type`, `time` and `data`; `trace` becomes
//! `traceparent`. Every other member is the attribute with its name in lower case and without `_`: `correlationId` and
//! `correlation_id` are `correlationid`. `tenantId` becomes the extension `tenantid`, which does not determine the tenant. `entity` is
//! read as in OmniLink's form.

use std::{borrow::Cow, collections::HashSet};

use super::{
    Form, Invalid, Parsed,
    attributes::{Attributes, Receipt},
    body_hash::BodyHasher,
    entity_field::entity,
    json::{JsonError, Scanner, Value, has_member},
};

/// The members by which the form is recognized.
const KNOWN_BY: [&str; 2] = ["eventId", "event_id"];

/// CloudEvents attributes, and the names of their members in this form.
const RENAMED: [(&str, &str); 4] = [
    ("id", "eventId"),
    ("type", "eventType"),
    ("time", "timestamp"),
    ("data", "payload"),
];

/// Whether the text is an object in this form. An object with `specversion` is a CloudEvent instead.
pub(super) fn is(text: &str) -> bool {
    KNOWN_BY.iter().any(|name| has_member(text, name)) && !has_member(text, "specversion")
}

/// Parses one event.
pub(super) fn parse<'a>(text: &'a str, receipt: Receipt<'_>) -> Result<Parsed<'a>, Invalid> {
    let mut scanner = Scanner::new(text);
    scanner.spaces();
    let mut agent = Agent::default();
    let mut body_hash = BodyHasher::default();
    let members = scanner.enter_object()?;
    while scanner.next_member(&members)? {
        let (name, name_hash) = scanner.name(&members)?;
        let hash = agent.member(&name, &mut scanner)?;
        body_hash.insert(attribute_of(&plain(&name)), name_hash, hash);
    }
    scanner.leave_object(&members)?;
    scanner.end()?;
    agent.trace_parent();
    if !matches!(
        agent.attributes.envelope_kind.as_deref(),
        None | Some("event")
    ) {
        return Err(Invalid {
            code: "unsupported_kind".into(),
            message: "the agents' form holds events".into(),
        });
    }
    // A member `specVersion` does not make it a CloudEvent, so the payload is still required.
    agent.attributes.specversion = false;
    let event = agent.attributes.finish(Form::OmniLink, receipt);
    Ok(Parsed {
        event: event.map_err(renamed)?,
        body_hash: body_hash.finish(),
    })
}

/// Replaces an attribute's name in a "missing" message by the name of its member in this form.
fn renamed(mut invalid: Invalid) -> Invalid {
    let field = invalid.code.strip_prefix("missing_");
    if let Some((_, name)) = RENAMED.iter().find(|(field_, _)| Some(*field_) == field) {
        invalid.message = format!("`{name}` is required and must not be empty");
    }
    invalid
}

#[derive(Default)]
struct Agent<'a> {
    attributes: Attributes<'a>,
    /// The attributes so far, to detect one that is given in two spellings.
    seen: HashSet<String>,
    trace_id: Option<Cow<'a, str>>,
    span_id: Option<Cow<'a, str>>,
}

impl<'a> Agent<'a> {
    fn member(&mut self, name: &str, scanner: &mut Scanner<'a>) -> Result<u128, JsonError> {
        let start = scanner.position();
        let plain = plain(name);
        let attribute = match &*plain {
            "payload" if self.is_new(&plain) => {
                let hash = scanner.value()?;
                self.attributes.json = Some(scanner.since(start));
                return Ok(hash);
            }
            "trace" if self.is_new(&plain) => return self.trace(scanner),
            "entity" if self.is_new(&plain) => return entity(scanner, &mut self.attributes),
            "payload" | "trace" | "entity" => return scanner.value(),
            "id" | "type" | "time" | "data" | "database64" => {
                self.misnamed(name);
                return scanner.value();
            }
            other => attribute_of(other),
        };
        let (value, hash) = scanner.scalar()?;
        if attribute == "schemaversion"
            && let Value::Text(version) = &value
            && version.split('.').next() != Some("1")
        {
            self.attributes.fail(Invalid::payload(
                "`schemaVersion` must be \"1.0.0\", or another 1.x",
            ));
        }
        self.set(attribute, value, Some(scanner.since(start)));
        Ok(hash)
    }

    /// Reads `{traceId, spanId, …}` or `null`; returns its hash.
    fn trace(&mut self, scanner: &mut Scanner<'a>) -> Result<u128, JsonError> {
        if scanner.peek() != Some(b'{') {
            let (value, hash) = scanner.scalar()?;
            if !matches!(value, Value::Null) {
                let invalid = Invalid::payload("`trace` must be an object");
                self.attributes.fail(invalid);
            }
            return Ok(hash);
        }
        let mut members = scanner.enter_object()?;
        while scanner.next_member(&members)? {
            let (name, name_hash) = scanner.name(&members)?;
            let start = scanner.position();
            let (value, hash) = scanner.scalar()?;
            Scanner::insert(&mut members, name_hash, hash);
            match (&*plain(&name), value) {
                ("traceid", Value::Text(id)) if self.trace_id.is_none() => self.trace_id = Some(id),
                ("spanid", Value::Text(id)) if self.span_id.is_none() => self.span_id = Some(id),
                (attribute, value) => self.set(attribute, value, Some(scanner.since(start))),
            }
        }
        scanner.leave_object(&members)
    }

    /// Sets `traceparent` if the ids have W3C's format; otherwise keeps them as the extensions `traceid` and `spanid`.
    fn trace_parent(&mut self) {
        let (trace_id, span_id) = (self.trace_id.take(), self.span_id.take());
        if let (Some(trace), Some(span)) = (&trace_id, &span_id)
            && is_hex(trace, 32)
            && is_hex(span, 16)
        {
            if !self.seen.contains("traceparent") {
                let parent = format!("00-{trace}-{span}-01").to_ascii_lowercase();
                self.set("traceparent", Value::Text(parent.into()), None);
            }
            return;
        }
        for (name, id) in [("traceid", trace_id), ("spanid", span_id)] {
            if let Some(id) = id {
                self.set(name, Value::Text(id), None);
            }
        }
    }

    fn set(&mut self, attribute: &str, value: Value<'a>, raw: Option<&str>) {
        if self.is_new(attribute) {
            self.attributes.set(attribute, value, raw);
        }
    }

    /// Records an attribute; returns false, and records a problem, if it was given before in another spelling.
    fn is_new(&mut self, attribute: &str) -> bool {
        let new = self.seen.insert(attribute.to_owned());
        if !new {
            let shown = super::json::truncated(attribute);
            let invalid = Invalid::payload(format!("`{shown}` is given twice, in two spellings"));
            self.attributes.fail(invalid);
        }
        new
    }

    /// Records the problem that a CloudEvents name is used for a member with another name in this form.
    fn misnamed(&mut self, name: &str) {
        let here = RENAMED.iter().find(|(field, _)| *field == name);
        let here = here.map_or("payload", |(_, here)| here);
        self.attributes.fail(Invalid::payload(format!(
            "`{name}` is called `{here}` in the agents' form"
        )));
    }
}

/// The attribute for a member, by the member's normalized name.
fn attribute_of(plain: &str) -> &str {
    match plain {
        "eventid" => "id",
        "eventtype" => "type",
        "timestamp" => "time",
        "trace" => "traceparent",
        other => other,
    }
}

/// A member's name in lower case and without `_`.
fn plain(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|b| b == b'_' || b.is_ascii_uppercase()) {
        name.replace('_', "").to_ascii_lowercase().into()
    } else {
        name.into()
    }
}

/// Whether a text consists of this many hexadecimal digits, not all of them 0.
fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits
        && text.bytes().all(|b| b.is_ascii_hexdigit())
        && text.bytes().any(|b| b != b'0')
}
