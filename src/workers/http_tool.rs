//! The builtin tool `http`: one request to a host of `http_tool.allow`. Input `{method, url, headers?, body?}`, output
//! `{status, headers, body}`.

use std::collections::BTreeMap;

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Request, Response,
    header::{self, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    answer::{Answer, Ended, Failed, OUTPUT_MAX, from_failure, invalid_output, output_too_large},
    request::{AGENT, IDEMPOTENCY_KEY, trace},
};
use crate::{
    base::clock::Millis,
    runs::{CallKind, DEPTH_MAX, Json, StepCommand, Unreadable},
};

/// Headers that the client sets itself, or that concern a single connection.
const RESERVED_HEADERS: [HeaderName; 7] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
];

#[derive(Deserialize)]
struct Input {
    method: String,
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<Value>,
}

/// Builds the request that an input describes. A text body is sent as it is, any other as JSON.
pub(super) fn request(command: &StepCommand) -> Result<Request<Bytes>, Failed> {
    let invalid = |why: String| Failed::permanent("invalid_input", why);
    let input: Input = serde_json::from_str(&command.input).map_err(|e| invalid(e.to_string()))?;
    let method = Method::from_bytes(input.method.as_bytes())
        .map_err(|_| invalid(format!("`{}` is not a method", input.method)))?;
    let (body, media) = match input.body {
        None | Some(Value::Null) => (Bytes::new(), None),
        Some(Value::String(text)) => (Bytes::from(text), Some("text/plain; charset=utf-8")),
        Some(value) => (Bytes::from(value.to_string()), Some("application/json")),
    };
    let mut request = Request::builder()
        .method(method)
        .uri(&input.url)
        .body(body)
        .map_err(|_| Failed::permanent("invalid_url", "`url` is not a URL"))?;
    let scheme = request.uri().scheme_str();
    if !matches!(scheme, Some("http" | "https")) {
        return Err(Failed::permanent(
            "invalid_url",
            "`url` must begin with http:// or https://",
        ));
    }
    let headers = request.headers_mut();
    for (name, value) in input.headers {
        let wrong = || invalid(format!("`headers`: `{name}` cannot be sent"));
        let parsed = HeaderName::try_from(&name).map_err(|_| wrong())?;
        let value = HeaderValue::try_from(value).map_err(|_| wrong())?;
        if RESERVED_HEADERS.contains(&parsed) {
            return Err(wrong());
        }
        headers.insert(parsed, value);
    }
    if let Some(media) = media {
        let media = HeaderValue::from_static(media);
        headers.entry(CONTENT_TYPE).or_insert(media);
    }
    headers.entry(USER_AGENT).or_insert(AGENT);
    if let Ok(key) = HeaderValue::try_from(&command.idempotency_key) {
        headers.entry(IDEMPOTENCY_KEY).or_insert(key);
    }
    trace(&mut request, command);
    Ok(request)
}

/// The outcome of a response: 2xx gives the output, other statuses fail as those of workers do.
pub(super) fn answer(kind: CallKind, response: &Response<Bytes>, now: Millis) -> Answer {
    let (status, headers) = (response.status(), response.headers());
    if !status.is_success() {
        return from_failure(status, headers, response.body(), now);
    }
    match output(response) {
        // The output of a compensation is not used.
        _ if kind == CallKind::Compensate => Ended::Succeeded(Json::null()).into(),
        Ok(output) if output.text().len() > OUTPUT_MAX => output_too_large().into(),
        Ok(output) if output.depth() > DEPTH_MAX => invalid_output(Unreadable::TooDeep).into(),
        Ok(output) => Ended::Succeeded(output).into(),
        Err(failed) => failed.into(),
    }
}

fn output(response: &Response<Bytes>) -> Result<Json, Failed> {
    let headers = response.headers();
    let text =
        std::str::from_utf8(response.body()).map_err(|_| invalid_output("it is not UTF-8"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let body = if is_json(headers) && !text.is_empty() {
        serde_json::from_str(text)
            .map_err(|e| invalid_output(format_args!("it is not JSON: {e}")))?
    } else {
        Value::from(text)
    };
    let mut shown = Map::new();
    for name in headers.keys() {
        let values = headers.get_all(name).iter();
        let values: Vec<_> = values
            .map(|v| String::from_utf8_lossy(v.as_bytes()))
            .collect();
        shown.insert(name.as_str().to_owned(), values.join(", ").into());
    }
    Ok(Json::of(&json!({
        "status": response.status().as_u16(),
        "headers": shown,
        "body": body,
    })))
}

fn is_json(headers: &HeaderMap) -> bool {
    let media = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let media = media
        .and_then(|media| media.split(';').next())
        .unwrap_or_default();
    let media = media.trim().to_ascii_lowercase();
    media == "application/json" || (media.starts_with("application/") && media.ends_with("+json"))
}
