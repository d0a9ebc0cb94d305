//! The draft of an event that a dialect builds from a request. It is written as JSON in OmniLink's format and parsed by the envelope's
//! own parser, so that it satisfies the same rules as any event.

use std::borrow::Cow;

use super::{content::Object, refusal::Refusal};
use crate::{
    base::{clock::Millis, id::Tenant},
    envelope::{Form, Parsed, json::put_string, parse_rfc3339, parse_structured},
};

/// How long the same request is a duplicate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Window {
    /// As long as the identity of any event is remembered.
    Events,
    /// For this many milliseconds; later, the same request is another event.
    Short(i64),
}

/// The entity of an event.
#[derive(Debug)]
pub(super) struct About<'a> {
    pub(super) kind: Cow<'a, str>,
    pub(super) external_id: Cow<'a, str>,
    pub(super) display_name: Option<Cow<'a, str>>,
}

/// An event that is not validated yet.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) id: Cow<'a, str>,
    pub(super) kind: Cow<'a, str>,
    pub(super) about: Option<About<'a>>,
    pub(super) correlation_id: Option<Cow<'a, str>>,
    /// RFC 3339, from the sender; if it is not a valid time, the event has the time of receipt.
    pub(super) time: Option<String>,
    /// JSON text.
    pub(super) data: Cow<'a, str>,
    /// JSON text that is compared instead of `data`, if a sender's retry changes parts of the data.
    pub(super) compared: Option<String>,
    pub(super) window: Window,
}

impl<'a> Draft<'a> {
    /// Creates a draft with the required members.
    pub(super) fn new(
        id: impl Into<Cow<'a, str>>,
        kind: impl Into<Cow<'a, str>>,
        data: impl Into<Cow<'a, str>>,
    ) -> Self {
        Self {
            id: id.into(),
            kind: kind.into(),
            about: None,
            correlation_id: None,
            time: None,
            data: data.into(),
            compared: None,
            window: Window::Events,
        }
    }

    /// Parses the draft by the envelope's rules.
    pub(super) fn finish(
        &self,
        source: &str,
        tenant: &Tenant,
        received: Millis,
    ) -> Result<Parsed<'static>, Refusal> {
        let parsed = parse(&self.written(source, &self.data), tenant, received)?;
        let body_hash = match &self.compared {
            Some(data) => parse(&self.written(source, data), tenant, received)?.body_hash,
            None => parsed.body_hash,
        };
        Ok(Parsed {
            body_hash,
            ..parsed
        })
    }

    fn written(&self, source: &str, data: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(512 + data.len());
        put_member("id", &self.id, b'{', &mut out);
        put_member("source", source, b',', &mut out);
        put_member("type", &self.kind, b',', &mut out);
        if let Some(about) = &self.about {
            out.extend_from_slice(b",\"entity\":");
            put_member("type", &about.kind, b'{', &mut out);
            put_member("external_id", &about.external_id, b',', &mut out);
            // The name is only for people, so an invalid one is left out.
            if let Some(name) = about
                .display_name
                .as_deref()
                .filter(|name| !name.contains('\0'))
            {
                put_member("display_name", name, b',', &mut out);
            }
            out.push(b'}');
        }
        if let Some(correlation_id) = &self.correlation_id {
            put_member("correlationid", correlation_id, b',', &mut out);
        }
        let time = self.time.as_deref();
        if let Some(time) = time.filter(|time| parse_rfc3339(time).is_some()) {
            put_member("time", time, b',', &mut out);
        }
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(data.as_bytes());
        out.push(b'}');
        out
    }
}

/// Parses an envelope that a mapping made, as JSON text. Its `source` is always this one, and its `id` is `id` unless it has its own.
pub(super) fn finish_mapped(
    envelope: &str,
    id: &str,
    source: &str,
    tenant: &Tenant,
    received: Millis,
) -> Result<(Parsed<'static>, bool), Refusal> {
    let members = Object::read(envelope, "the mapping must leave an object")?;
    let own_id = members.get("id").is_some_and(|text| text != "null");
    let mut out = Vec::with_capacity(512 + envelope.len());
    put_member("source", source, b'{', &mut out);
    if !own_id {
        put_member("id", id, b',', &mut out);
    }
    for (name, text) in &members.0 {
        if name != "source" && (name != "id" || own_id) {
            out.push(b',');
            put_string(name, &mut out);
            out.push(b':');
            out.extend_from_slice(text.as_bytes());
        }
    }
    out.push(b'}');
    Ok((parse(&out, tenant, received)?, own_id))
}

fn parse(text: &[u8], tenant: &Tenant, received: Millis) -> Result<Parsed<'static>, Refusal> {
    let parsed = parse_structured(text, Form::OmniLink, tenant, received)?;
    Ok(Parsed {
        event: parsed.event.into_owned(),
        body_hash: parsed.body_hash,
    })
}

fn put_member(name: &str, value: &str, before: u8, out: &mut Vec<u8>) {
    out.push(before);
    put_string(name, out);
    out.push(b':');
    put_string(value, out);
}
