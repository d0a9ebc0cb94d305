//! The body as JSON, which may have been sent in a form.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
};

use percent_encoding::percent_decode;
use serde_json::value::RawValue;

use super::{headers::Headers, refusal::Refusal};
use crate::envelope::{
    Invalid,
    json::{self, Scanner},
};

/// JSON text that satisfies the envelope's rules for a value one level inside an envelope.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Content<'a>(Cow<'a, str>);

impl<'a> Content<'a> {
    /// Reads a body by its `content-type`. A form (`application/x-www-form-urlencoded`) becomes the JSON in its field `payload`, or else
    /// an object of its fields; any other body is JSON, whatever its media type.
    pub(super) fn read(headers: Headers<'_>, body: &'a [u8]) -> Result<Self, Refusal> {
        let is_form = headers.all("content-type").any(|media| {
            let essence = media.split(';').next().unwrap_or_default().trim();
            essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
        });
        let text = if is_form {
            Cow::Owned(form(body)?)
        } else {
            Cow::Borrowed(json::document(body)?)
        };
        json::scan(text.as_bytes(), 1)?;
        Ok(Self(text))
    }

    /// The text without surrounding white space.
    pub(super) fn text(&self) -> &str {
        self.0.trim()
    }

    /// The members; 400 `invalid_payload` unless it is an object.
    pub(super) fn object(&self) -> Result<Object<'_>, Refusal> {
        Object::read(self.text(), "the body must be a JSON object")
    }

    /// The text of the value at a JSON pointer (RFC 6901).
    pub(super) fn pointer(&self, pointer: &str) -> Option<&str> {
        let mut at = self.text();
        for step in pointer.split('/').skip(1) {
            let step = step.replace("~1", "/").replace("~0", "~");
            at = if at.starts_with('[') {
                let canonical = step == "0" || !step.starts_with('0');
                let index: usize = step.parse().ok().filter(|_| canonical)?;
                let items: Vec<&RawValue> = serde_json::from_str(at).ok()?;
                items.get(index)?.get()
            } else {
                json::member(at, &step)?
            };
        }
        Some(at)
    }
}

/// The members of an object as texts.
#[derive(Debug)]
pub(super) struct Object<'a>(pub(super) Vec<(Cow<'a, str>, &'a str)>);

impl<'a> Object<'a> {
    /// Parses an object; `wrong` is the error if it is not one.
    pub(super) fn read(text: &'a str, wrong: &str) -> Result<Self, Refusal> {
        let mut scanner = Scanner::new(text);
        if scanner.peek() != Some(b'{') {
            return Err(Invalid::payload(wrong).into());
        }
        let mut all = Vec::new();
        let members = scanner.enter_object()?;
        while scanner.next_member(&members)? {
            let (name, _) = scanner.name(&members)?;
            let start = scanner.position();
            scanner.value()?;
            all.push((name, scanner.since(start)));
        }
        scanner.leave_object(&members)?;
        Ok(Self(all))
    }

    /// The text of a member.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        let found = self.0.iter().find(|(found, _)| found == name);
        found.map(|(_, text)| *text)
    }

    /// A member that identifies something: a string that is not empty, or a number as written. 400 `missing_{name}` if it is absent,
    /// empty, `null` or `false` (Odoo's notation for empty); 400 `invalid_payload` for any other value.
    pub(super) fn named(&self, name: &str) -> Result<Cow<'a, str>, Refusal> {
        let Some(text) = self.get(name).filter(|text| !is_empty(text)) else {
            return Err(Invalid::missing(name).into());
        };
        scalar(text).ok_or_else(|| {
            Invalid::payload(format!("`{name}` must be a string or a number")).into()
        })
    }

    /// Like [`Object::named`], for an optional member.
    pub(super) fn optional(&self, name: &str) -> Result<Option<Cow<'a, str>>, Refusal> {
        match self.get(name) {
            Some(text) if !is_empty(text) => self.named(name).map(Some),
            _ => Ok(None),
        }
    }
}

/// Whether a value is empty: `null`, `false` or an empty string.
fn is_empty(text: &str) -> bool {
    matches!(text, "null" | "false" | "\"\"")
}

/// A string, unescaped, or a number as written.
pub(super) fn scalar(text: &str) -> Option<Cow<'_, str>> {
    match text.as_bytes().first()? {
        b'"' => serde_json::from_str::<String>(text).ok().map(Cow::Owned),
        b'-' | b'0'..=b'9' => Some(Cow::Borrowed(text)),
        _ => None,
    }
}

/// A string, unescaped.
pub(super) fn string(text: &str) -> Option<Cow<'_, str>> {
    scalar(text).filter(|_| text.starts_with('"'))
}

/// Converts a form to JSON text.
fn form(body: &[u8]) -> Result<String, Refusal> {
    let mut fields: Vec<(String, Vec<String>)> = Vec::new();
    // The map finds repeated fields quickly; a form may have tens of thousands of fields.
    let mut places = HashMap::<String, usize>::new();
    for pair in body.split(|b| *b == b'&').filter(|pair| !pair.is_empty()) {
        let at = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
        let name = decoded(&pair[..at])?;
        let value = decoded(pair.get(at + 1..).unwrap_or_default())?;
        match places.entry(name) {
            Entry::Occupied(place) => fields[*place.get()].1.push(value),
            Entry::Vacant(place) => {
                fields.push((place.key().clone(), vec![value]));
                place.insert(fields.len() - 1);
            }
        }
    }
    if let Some((_, payload)) = fields.iter_mut().find(|(name, _)| name == "payload") {
        return Ok(payload.swap_remove(0));
    }
    let mut out = Vec::with_capacity(body.len() + 2);
    out.push(b'{');
    for (n, (name, values)) in fields.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        json::put_string(name, &mut out);
        out.push(b':');
        match &**values {
            [one] => json::put_string(one, &mut out),
            many => {
                for (n, value) in many.iter().enumerate() {
                    out.push(if n == 0 { b'[' } else { b',' });
                    json::put_string(value, &mut out);
                }
                out.push(b']');
            }
        }
    }
    out.push(b'}');
    // All parts came from texts, so this is lossless.
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn decoded(part: &[u8]) -> Result<String, Refusal> {
    let spaced: Vec<u8> = part
        .iter()
        .map(|b| if *b == b'+' { b' ' } else { *b })
        .collect();
    let decoded = percent_decode(&spaced).decode_utf8();
    let decoded = decoded.map_err(|_| Invalid::payload("a field of the form is not UTF-8"))?;
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: (&str, &[u8]) = (
        "Content-Type",
        b"application/x-www-form-urlencoded; charset=utf-8",
    );

    fn read(headers: &[(&str, &[u8])], body: &str) -> Result<String, Refusal> {
        Content::read(Headers(headers), body.as_bytes()).map(|content| content.text().to_owned())
    }

    #[test]
    fn a_form_is_its_payload_or_its_fields() {
        assert_eq!(
            read(&[FORM], "payload=%7B%22a%22%3A+1%7D").unwrap(),
            "{\"a\": 1}"
        );
        assert_eq!(
            read(&[FORM], "a=1%2B1+x&b&c=&c=%22&&=e").unwrap(),
            r#"{"a":"1+1 x","b":"","c":["","\""],"":"e"}"#
        );
        assert_eq!(read(&[FORM], "").unwrap(), "{}");
        for bad in ["payload=%7B", "payload=", "a=%ff", "%C0=1"] {
            assert_eq!(
                read(&[FORM], bad).unwrap_err().code,
                "invalid_payload",
                "{bad}"
            );
        }
    }

    #[test]
    fn anything_else_is_json_by_the_rules_of_the_envelope() {
        assert_eq!(read(&[], "\u{feff} [1] ").unwrap(), "[1]");
        let deep = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(read(&[], &deep(127)).is_ok());
        for bad in ["", "{\"a\":1,\"a\":2}", "{} x", "\"\\ud800\"", &deep(128)] {
            assert_eq!(read(&[], bad).unwrap_err().status(), 400, "{bad}");
        }
    }

    #[test]
    fn pointers_lead_to_texts() {
        let body = r#"{"a/b":[10,{"~":"x"}],"":0,"01":1}"#;
        let content = Content::read(Headers(&[]), body.as_bytes()).unwrap();
        assert_eq!(content.pointer("/a~1b/1/~0"), Some("\"x\""));
        assert_eq!(content.pointer("/a~1b/0"), Some("10"));
        assert_eq!(content.pointer("/"), Some("0"));
        assert_eq!(content.pointer(""), Some(body));
        for nothing in ["/a~1b/00", "/a~1b/2", "/a~1b/x", "/b", "/01/a"] {
            assert_eq!(content.pointer(nothing), None, "{nothing}");
        }
    }
}
