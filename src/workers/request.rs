//! The request to an HTTP worker: the step command as JSON, and its headers.

use bytes::Bytes;
use hyper::{
    Request,
    header::{CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT},
    http,
};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    base::clock::Millis,
    http::{SIGNATURE_HEADERS, SigningKey},
    runs::StepCommand,
};

pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
pub(super) const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("OmniLink/", env!("CARGO_PKG_VERSION")));
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A step command as HTTP workers receive it.
#[derive(Serialize)]
struct Body<'a> {
    tenant: &'a str,
    run_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    workflow: Option<&'a str>,
    step_id: &'a str,
    attempt: i32,
    kind: &'static str,
    tool: &'a str,
    input: &'a RawValue,
    idempotency_key: &'a str,
    deadline: Millis,
    task_id: &'a str,
    lease: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    execute: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a RawValue>,
}

/// The command as JSON, with the lease for completing it later.
pub(super) fn body(command: &StepCommand, lease: &str) -> Result<Bytes, serde_json::Error> {
    fn raw(text: Option<&str>) -> Result<Option<&RawValue>, serde_json::Error> {
        text.map(serde_json::from_str).transpose()
    }
    let body = Body {
        tenant: &command.tenant,
        run_id: &command.run_id,
        workflow: command.workflow.as_deref(),
        step_id: &command.step_id,
        attempt: command.attempt,
        kind: command.kind().name(),
        tool: &command.tool,
        input: serde_json::from_str(&command.input)?,
        idempotency_key: &command.idempotency_key,
        deadline: command.deadline(),
        task_id: &command.task_id,
        lease,
        execute: raw(command.execute.as_deref())?,
        error: raw(command.error.as_deref())?,
    };
    serde_json::to_vec(&body).map(Bytes::from)
}

/// The request with this body, signed with the tool's key at this time.
pub(super) fn request(
    url: &str,
    command: &StepCommand,
    body: Bytes,
    key: Option<&SigningKey>,
    now: Millis,
) -> Result<Request<Bytes>, http::Error> {
    let mut request = Request::post(url)
        .header(CONTENT_TYPE, JSON)
        .header(USER_AGENT, AGENT)
        .header(IDEMPOTENCY_KEY, &command.idempotency_key);
    if let Some(key) = key {
        let timestamp = now.0.div_euclid(1000).to_string();
        let signature = key.sign(&command.idempotency_key, &timestamp, &body);
        let [id, at, signed] = SIGNATURE_HEADERS;
        request = request
            .header(id, &command.idempotency_key)
            .header(at, timestamp)
            .header(signed, signature);
    }
    let mut request = request.body(body)?;
    trace(&mut request, command);
    Ok(request)
}

/// Adds the trace context, unless it is not a valid header value.
pub(super) fn trace(request: &mut Request<Bytes>, command: &StepCommand) {
    for (name, value) in [
        (TRACEPARENT, &command.traceparent),
        (TRACESTATE, &command.tracestate),
    ] {
        if let Some(value) = value.as_deref().and_then(|v| HeaderValue::try_from(v).ok()) {
            request.headers_mut().entry(name).or_insert(value);
        }
    }
}
