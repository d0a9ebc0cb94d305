//! The dialect `hmac`: an HMAC of the body, or of a text that contains the body, with configurable header names. Alchemy, Shopify, Slack
//! and many others sign this way (`docs/webhooks.md`).

use std::borrow::Cow;

use crate::bridges::{
    call::Call,
    content::{Content, scalar, string},
    draft::Draft,
    refusal::Refusal,
    signature::{self, Algorithm, Encoding, sha256_hex},
    timestamp::{self, TOLERANCE_S, Unit},
};

/// The format of signature, id and type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parameters {
    /// The header with the signature.
    pub header: String,
    /// The hash function.
    pub algorithm: Algorithm,
    /// The encoding of the signature.
    pub encoding: Encoding,
    /// The text before the signature in its header, such as `v0=`.
    pub prefix: String,
    /// The signed text.
    pub signed: Template,
    /// The header with the timestamp, in seconds, or in milliseconds from 10^11 on.
    pub timestamp_header: Option<String>,
    /// How many seconds the timestamp may differ from now; `None` stands for 300.
    pub tolerance_s: Option<u32>,
    /// The place of the id; `None` stands for the SHA-256 of the signed text.
    pub id: Option<Place>,
    /// The place of the type; `None` stands for `webhook.{source}`.
    pub kind: Option<Place>,
}

/// The place of a value in a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// In a header, which is required.
    Header(String),
    /// At a JSON pointer (RFC 6901) into the body, where the value may be missing.
    Pointer(String),
}

/// The signed text: literals, the timestamp and the body in sequence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template(Vec<Part>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Text(String),
    Timestamp,
    Body,
}

impl Template {
    /// Parses `body`, or a text with `{body}` and optionally `{timestamp}`; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text == "body" {
            return Ok(Self(vec![Part::Body]));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, from)) = rest.split_once('{') {
            let (name, after) = from.split_once('}').ok_or("a `{` is not closed")?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(match name {
                "body" => Part::Body,
                "timestamp" => Part::Timestamp,
                _ => return Err("only `{timestamp}` and `{body}` are known"),
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        if parts.iter().filter(|part| **part == Part::Body).count() != 1 {
            return Err("it must be `body`, or a text that contains `{body}` once");
        }
        Ok(Self(parts))
    }

    /// Whether the timestamp is signed as well.
    pub fn has_timestamp(&self) -> bool {
        self.0.contains(&Part::Timestamp)
    }

    fn fill<'p>(&'p self, timestamp: &'p str, body: &'p [u8]) -> Vec<&'p [u8]> {
        let part = |part: &'p Part| match part {
            Part::Text(text) => text.as_bytes(),
            Part::Timestamp => timestamp.as_bytes(),
            Part::Body => body,
        };
        self.0.iter().map(part).collect()
    }
}

impl Parameters {
    /// The header with the id, if it is in one.
    pub(super) fn id_header(&self) -> Option<&str> {
        match &self.id {
            Some(Place::Header(header)) => Some(header),
            _ => None,
        }
    }

    /// Checks the signature. Returns the id from the header, or the SHA-256 of the signed text.
    pub(super) fn verify(&self, call: &Call<'_>) -> Result<String, Refusal> {
        let signatures = call.headers.signatures(&self.header)?;
        let time = match &self.timestamp_header {
            None => "",
            Some(header) => {
                let time = call.headers.timestamp(header)?;
                let tolerance_s = self.tolerance_s.unwrap_or(TOLERANCE_S);
                timestamp::check(time, Unit::Milliseconds, call.now, tolerance_s)?;
                time
            }
        };
        let signed = self.signed.fill(time, call.body);
        let bare: Vec<Cow<'_, str>> = signatures
            .iter()
            .filter_map(|text| text.strip_prefix(&*self.prefix))
            .map(|text| match self.encoding {
                Encoding::Hex => text.to_ascii_lowercase().into(),
                Encoding::Base64 => text.into(),
            })
            .collect();
        let keys = call.secrets.at(call.now).map(str::as_bytes);
        let given: Vec<_> = bare.iter().map(|text| &**text).collect();
        if !signature::verify(self.algorithm, self.encoding, keys, &signed, &given) {
            return Err(Refusal::invalid_signature());
        }
        match self.id_header() {
            Some(header) => Ok(call.headers.required(header)?.to_owned()),
            None => Ok(sha256_hex(&signed)),
        }
    }

    /// The data is the whole body.
    pub(super) fn read<'a>(
        &self,
        call: &Call<'a>,
        delivery: &'a str,
        content: &'a Content<'_>,
    ) -> Result<Draft<'a>, Refusal> {
        let at = |pointer: &str| {
            let found = content.pointer(pointer).and_then(scalar);
            found.filter(|text| !text.is_empty())
        };
        let kind = match &self.kind {
            Some(Place::Header(header)) => Some(Cow::Borrowed(call.headers.required(header)?)),
            Some(Place::Pointer(pointer)) => at(pointer),
            None => None,
        };
        let id = match &self.id {
            Some(Place::Pointer(pointer)) => at(pointer),
            _ => None,
        };
        let kind = kind.unwrap_or_else(|| format!("webhook.{}", call.source).into());
        Ok(Draft::new(
            id.unwrap_or(Cow::Borrowed(delivery)),
            kind,
            content.text(),
        ))
    }
}

/// The challenge of Slack's `url_verification`, with which Slack verifies a URL before it sends events there.
pub(in crate::bridges) fn challenge(content: &Content<'_>) -> Option<String> {
    let body = content.object().ok()?;
    let text = |name| body.get(name).and_then(string);
    if text("type")? != "url_verification" {
        return None;
    }
    text("challenge").map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_has_the_body_once() {
        for good in [
            "body",
            "{body}",
            "v0:{timestamp}:{body}",
            "{timestamp}.{body}.",
        ] {
            let template = Template::parse(good).unwrap();
            let filled = template.fill("7", b"B").concat();
            let expected = good
                .replace("{timestamp}", "7")
                .replace("{body}", "B")
                .replace("body", "B");
            assert_eq!(String::from_utf8(filled).unwrap(), expected);
            assert_eq!(template.has_timestamp(), good.contains("timestamp"));
        }
        for bad in [
            "",
            "x",
            "{timestamp}",
            "{body}{body}",
            "{id}.{body}",
            "{body",
            "{}{body}",
        ] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
