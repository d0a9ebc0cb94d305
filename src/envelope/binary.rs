//! Parsing CloudEvents in binary mode: attributes in headers, data in the body (HTTP binding 1.0.2, section 3.1; Kafka binding 1.0.2,
//! section 3.2).

use std::borrow::Cow;

use super::{
    Form, Invalid, Parsed,
    attributes::{Attributes, Receipt},
    body_hash::BodyHasher,
    json::{self, Value, hash},
};
use crate::base::{clock::Millis, id::Tenant};

/// How headers carry attributes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Binding {
    /// Headers `ce-…`, percent-encoded, optionally in double quotes. A repeated header is refused.
    Http,
    /// Headers `ce_…`, in UTF-8. A repeated header is refused; one without a value counts as absent.
    Kafka,
}

impl Binding {
    fn prefix(self) -> &'static str {
        match self {
            Self::Http => "ce-",
            Self::Kafka => "ce_",
        }
    }

    /// The attribute that a header carries, if any. Header names are case-insensitive in HTTP.
    fn attribute(self, header: &str) -> Option<Cow<'_, str>> {
        let (prefix, name) = header.split_at_checked(self.prefix().len())?;
        match self {
            Self::Kafka => (prefix == "ce_").then_some(Cow::Borrowed(name)),
            Self::Http if !prefix.eq_ignore_ascii_case("ce-") => None,
            Self::Http if name.bytes().any(|b| b.is_ascii_uppercase()) => {
                Some(name.to_ascii_lowercase().into())
            }
            Self::Http => Some(Cow::Borrowed(name)),
        }
    }

    fn decode<'a>(self, name: &str, value: &'a [u8]) -> Result<Cow<'a, str>, Invalid> {
        let wrong =
            |what: &str| Invalid::payload(format!("header `{}{name}`: {what}", self.prefix()));
        let text = std::str::from_utf8(value).map_err(|_| wrong("not UTF-8"))?;
        if self == Self::Kafka {
            return Ok(Cow::Borrowed(text));
        }
        let text = unquoted(text.trim_matches([' ', '\t']))
            .ok_or_else(|| wrong("a double quote is not closed"))?;
        if !text.contains('%') {
            return Ok(text);
        }
        let decoded = percent_encoding::percent_decode_str(&text).decode_utf8();
        Ok(Cow::Owned(
            decoded.map_err(|_| wrong("not UTF-8"))?.into_owned(),
        ))
    }
}

/// The content of a quoted string (RFC 9110, section 5.6.4); other texts unchanged. `None` if the closing quote is missing.
fn unquoted(text: &str) -> Option<Cow<'_, str>> {
    let Some(quoted) = text.strip_prefix('"') else {
        return Some(Cow::Borrowed(text));
    };
    if let Some(inner) = quoted
        .strip_suffix('"')
        .filter(|inner| !inner.contains(['"', '\\']))
    {
        return Some(Cow::Borrowed(inner));
    }
    let mut content = String::with_capacity(quoted.len());
    let mut rest = quoted.chars();
    loop {
        match rest.next()? {
            '"' => return rest.next().is_none().then_some(Cow::Owned(content)),
            '\\' => content.push(rest.next()?),
            other => content.push(other),
        }
    }
}

/// Parses one event in binary mode. Headers that carry no attribute are ignored. `content_type` is the type of the data
/// (`datacontenttype`); without it, a body that is JSON becomes JSON data. An event without a body, or with an empty one, has no data.
pub fn parse_binary<'a>(
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    binding: Binding,
    content_type: Option<&'a [u8]>,
    body: Option<&'a [u8]>,
    tenant: &Tenant,
    received: Millis,
) -> Result<Parsed<'a>, Invalid> {
    read(headers, binding, content_type, body).finish(Receipt { tenant, received })
}

/// Attributes that are not checked yet, and their hash.
pub(super) struct Binary<'a> {
    pub(super) attributes: Attributes<'a>,
    pub(super) hash: BodyHasher,
}

impl<'a> Binary<'a> {
    pub(super) fn finish(self, receipt: Receipt<'_>) -> Result<Parsed<'a>, Invalid> {
        Ok(Parsed {
            event: self.attributes.finish(Form::CloudEvents, receipt)?,
            body_hash: self.hash.finish(),
        })
    }
}

pub(super) fn read<'a>(
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    binding: Binding,
    content_type: Option<&'a [u8]>,
    body: Option<&'a [u8]>,
) -> Binary<'a> {
    let mut binary = Binary {
        attributes: Attributes::default(),
        hash: BodyHasher::default(),
    };
    let content_type = content_type.filter(|text| !text.is_empty());
    if let Some(content_type) = content_type {
        let text = std::str::from_utf8(content_type).map(Cow::Borrowed);
        binary.attribute(
            "datacontenttype",
            text.map_err(|_| Invalid::payload("the content type is not UTF-8")),
        );
    }
    let mut found: Vec<_> = headers
        .filter_map(|(header, value)| Some((binding.attribute(header)?, value)))
        .collect();
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (at, (name, value)) in found.iter().enumerate() {
        if found.get(at + 1).is_some_and(|(next, _)| next == name) {
            let (prefix, shown) = (binding.prefix(), json::truncated(name));
            let problem = format!("header `{prefix}{shown}` is given twice");
            binary.attributes.fail(Invalid::payload(problem));
            continue;
        }
        // By the standard, `Content-Type` takes precedence over a header `ce-datacontenttype`.
        if name != "datacontenttype" || content_type.is_none() {
            binary.attribute(name, binding.decode(name, value));
        }
    }
    binary.body(body);
    binary
}

impl<'a> Binary<'a> {
    fn attribute(&mut self, name: &str, value: Result<Cow<'a, str>, Invalid>) {
        let value = match value {
            Ok(value) => value,
            Err(problem) => return self.attributes.fail(problem),
        };
        if matches!(name, "data" | "data_base64") {
            let problem = format!("`{name}` is the body in binary mode, not an attribute");
            return self.attributes.fail(Invalid::payload(problem));
        }
        let (key, content) = (hash::key(name.as_bytes()), hash::string(value.as_bytes()));
        self.hash.insert(name, key, content);
        self.attributes.set(name, Value::Text(value), None);
    }

    fn body(&mut self, body: Option<&'a [u8]>) {
        let Some(body) = body.filter(|body| !body.is_empty()) else {
            return;
        };
        let declares_json = self.attributes.declares_json();
        if declares_json != Some(false) {
            // The same depth limit as for data inside a JSON envelope.
            let document = json::without_mark(body);
            match json::scan(document, 1).and_then(|hash| Ok((json::utf8(document)?, hash))) {
                Ok((text, hash)) => {
                    self.attributes.json = Some(text.trim_matches([' ', '\t', '\r', '\n']));
                    self.hash.insert("data", hash::key(b"data"), hash);
                    return;
                }
                Err(error) if declares_json.is_some() => return self.attributes.fail(error.into()),
                Err(_) => {}
            }
        }
        self.attributes.binary = Some(Cow::Borrowed(body));
        let (key, content) = (hash::key(b"data_base64"), hash::bytes(body));
        self.hash.insert("data_base64", key, content);
    }
}
