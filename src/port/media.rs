//! Which form a body has.

use hyper::{
    HeaderMap, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};

use super::problem::Problem;
use crate::envelope::{Form as Dialect, Media};

/// The form of a request to `/v1/events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `application/cloudevents+json`: one.
    Structured,
    /// `application/cloudevents-batch+json`: an array.
    Batch,
    /// `application/json`: one, an array, or `{"events": […]}`.
    Json,
    /// One, its attributes in `ce-` headers.
    Binary,
}

/// Any of these makes it binary mode; what is missing then is an error of its own.
const BINARY: [&str; 4] = ["ce-specversion", "ce-id", "ce-source", "ce-type"];

/// Judges `content-type` and `content-encoding`.
pub(super) fn form(headers: &HeaderMap) -> Result<Form, Problem> {
    if let Some(encoding) = headers.get(CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        let detail = "bodies are taken as they are: send it without `Content-Encoding`";
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_content_encoding",
            detail,
        ));
    }
    let given = headers
        .get(CONTENT_TYPE)
        .map_or("", |v| v.to_str().unwrap_or("?"));
    let binary = || BINARY.iter().any(|name| headers.contains_key(*name));
    match Media::of(given) {
        Media::Structured(Dialect::CloudEvents) => Ok(Form::Structured),
        Media::Batch => Ok(Form::Batch),
        Media::OtherCloudEvents => Err(unsupported(format!(
            "`{given}` is not taken; of CloudEvents' formats JSON is"
        ))),
        _ if binary() => Ok(Form::Binary),
        Media::Structured(Dialect::OmniLink) => Ok(Form::Json),
        Media::Other => Err(unsupported(format!(
            "content type `{given}` is not taken; send application/json, application/cloudevents+json, application/cloudevents-batch+json, or `ce-` headers"
        ))),
    }
}

fn unsupported(detail: String) -> Problem {
    Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        detail,
    )
}
