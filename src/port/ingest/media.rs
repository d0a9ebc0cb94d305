//! The format of a body, as its headers state it.

use hyper::{
    HeaderMap,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue},
};

use crate::{
    api::problem::{UNSUPPORTED_CONTENT_ENCODING, UNSUPPORTED_MEDIA_TYPE},
    envelope::{Form as Dialect, Media},
    port::problem::Problem,
};

/// The format of a request to `/v1/events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `application/cloudevents+json`: one event.
    Structured,
    /// `application/cloudevents-batch+json`: an array of events.
    Batch,
    /// `application/json`: one event, an array, or `{"events": […]}`.
    Json,
    /// One event, with its attributes in `ce-` headers.
    Binary,
}

/// Any of these headers selects binary mode; then each missing one is an error.
const BINARY: [&str; 4] = ["ce-specversion", "ce-id", "ce-source", "ce-type"];

/// Refuses bodies with a content encoding, because they are not decompressed. The answer says what is accepted (RFC 9110, section
/// 12.5.3).
pub(crate) fn plain(headers: &HeaderMap) -> Result<(), Problem> {
    let encodings = headers.get_all(CONTENT_ENCODING).into_iter();
    let is_plain = |encoding: &[u8]| {
        let encoding = encoding.trim_ascii();
        encoding.is_empty() || encoding.eq_ignore_ascii_case(b"identity")
    };
    for encoding in encodings {
        if !encoding.as_bytes().split(|b| *b == b',').all(is_plain) {
            let detail = "compressed bodies are not supported: send it without `Content-Encoding`";
            let problem = Problem::new(&UNSUPPORTED_CONTENT_ENCODING, detail);
            return Err(problem.header(ACCEPT_ENCODING, HeaderValue::from_static("identity")));
        }
    }
    Ok(())
}

/// Determines the format from `content-type` and `content-encoding`.
pub(crate) fn form(headers: &HeaderMap) -> Result<Form, Problem> {
    plain(headers)?;
    if headers.get_all(CONTENT_TYPE).into_iter().nth(1).is_some() {
        return Err(Problem::invalid("header `content-type` is given twice"));
    }
    let given = headers
        .get(CONTENT_TYPE)
        .map_or("", |v| v.to_str().unwrap_or("?"));
    let binary = || BINARY.iter().any(|name| headers.contains_key(*name));
    match Media::of(given) {
        Media::Structured(Dialect::CloudEvents) => Ok(Form::Structured),
        Media::Batch => Ok(Form::Batch),
        Media::OtherCloudEvents => Err(unsupported(format!(
            "`{given}` is not supported; among CloudEvents' formats only JSON is"
        ))),
        _ if binary() => Ok(Form::Binary),
        Media::Structured(Dialect::OmniLink) => Ok(Form::Json),
        Media::Other => Err(unsupported(format!(
            "content type `{given}` is not supported; send application/json, application/cloudevents+json, application/cloudevents-batch+json, or `ce-` headers"
        ))),
    }
}

fn unsupported(detail: String) -> Problem {
    Problem::new(&UNSUPPORTED_MEDIA_TYPE, detail)
}
