//! The answer to events: `{request_id, results: […]}`, written by hand into one buffer.

use std::{borrow::Cow, io::Write};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};

use crate::port::{
    RequestId,
    problem::{Problem, write_text},
};
use crate::{base::id::Identity, envelope::Invalid};

/// What became of one item.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// It is in the log.
    Ingested(Identity),
    /// It was there already.
    Duplicate(Identity),
    /// It is refused.
    Refused(Refusal),
}

/// Why an item is refused.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    status: &'static str,
    http: StatusCode,
    code: Cow<'static, str>,
    message: Cow<'static, str>,
    retry_after: Option<u32>,
    record_id: Option<Identity>,
}

impl Refusal {
    fn new(
        status: &'static str,
        http: StatusCode,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            http,
            code: code.into(),
            message: message.into(),
            retry_after: None,
            record_id: None,
        }
    }

    pub(crate) fn invalid(invalid: Invalid) -> Self {
        Self {
            status: "invalid",
            http: StatusCode::BAD_REQUEST,
            code: invalid.code,
            message: invalid.message.into(),
            retry_after: None,
            record_id: None,
        }
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("an item may have {limit} bytes");
        Self::new(
            "invalid",
            StatusCode::PAYLOAD_TOO_LARGE,
            "payload_too_large",
            message,
        )
    }

    pub(crate) fn permission() -> Self {
        let message = "the key lacks the permission `events:write`";
        Self::new(
            "denied",
            StatusCode::FORBIDDEN,
            "permission_denied",
            message,
        )
    }

    pub(crate) fn environment(env: &str) -> Self {
        let message = format!(
            "the key's `env_allowlist` does not hold `{env}`, the last segment of `source`"
        );
        Self::new("denied", StatusCode::FORBIDDEN, "env_not_allowed", message)
    }

    pub(crate) fn mismatch(id: Identity) -> Self {
        let message =
            "the same identity came before with another body; a new event needs a new `id`";
        let mut refusal = Self::new(
            "error",
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency_mismatch",
            message,
        );
        refusal.record_id = Some(id);
        refusal
    }

    pub(crate) fn in_flight(id: Identity) -> Self {
        let message =
            "the same event is being written right now; send it again to learn the outcome";
        let mut refusal = Self::new(
            "error",
            StatusCode::CONFLICT,
            "idempotency_in_flight",
            message,
        );
        // By then it is nearly always known.
        refusal.retry_after = Some(1);
        refusal.record_id = Some(id);
        refusal
    }

    pub(crate) fn unavailable() -> Self {
        let Problem {
            status,
            detail,
            retry_after,
            ..
        } = Problem::log_unavailable();
        let mut refusal = Self::new("error", status, "log_unavailable", detail);
        refusal.retry_after = retry_after;
        refusal
    }
}

fn write_id(out: &mut Vec<u8>, id: &Identity) {
    let mut buffer = uuid::Uuid::encode_buffer();
    let text = uuid::Builder::from_custom_bytes(id.0)
        .into_uuid()
        .hyphenated()
        .encode_lower(&mut buffer);
    out.extend_from_slice(br#","record_id":""#);
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

fn write_results(out: &mut Vec<u8>, outcomes: &[Outcome]) {
    out.push(b'[');
    for (index, outcome) in outcomes.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let status = match outcome {
            Outcome::Ingested(_) => "ingested",
            Outcome::Duplicate(_) => "duplicate",
            Outcome::Refused(refusal) => refusal.status,
        };
        out.extend_from_slice(br#"{"status":""#);
        out.extend_from_slice(status.as_bytes());
        out.extend_from_slice(br#"","index":"#);
        // A `Vec` never refuses bytes.
        let _ = write!(out, "{index}");
        match outcome {
            Outcome::Ingested(id) => write_id(out, id),
            Outcome::Duplicate(id) => {
                write_id(out, id);
                out.extend_from_slice(br#","duplicate":true"#);
            }
            Outcome::Refused(refusal) => {
                if let Some(id) = &refusal.record_id {
                    write_id(out, id);
                }
                out.extend_from_slice(br#","error":{"code":"#);
                write_text(out, &refusal.code);
                out.extend_from_slice(br#","message":"#);
                write_text(out, &refusal.message);
                out.push(b'}');
                if let Some(seconds) = refusal.retry_after {
                    let _ = write!(out, r#","retry_after_seconds":{seconds}"#);
                }
            }
        }
        out.push(b'}');
    }
    out.push(b']');
}

/// 202 when anything was accepted (nothing to accept counts as that), else a problem with the first item's code.
pub(crate) fn respond(id: RequestId, outcomes: Vec<Outcome>) -> Response<Full<Bytes>> {
    let accepted = |o: &Outcome| !matches!(o, Outcome::Refused(_));
    if !outcomes.is_empty() && !outcomes.iter().any(accepted) {
        let mut results = Vec::with_capacity(outcomes.len() * 192);
        write_results(&mut results, &outcomes);
        if let Some(Outcome::Refused(first)) = outcomes.into_iter().next() {
            return Problem {
                status: first.http,
                code: first.code,
                detail: first.message,
                retry_after: first.retry_after,
                headers: Vec::new(),
                results: Some(results),
            }
            .into_response(id);
        }
        unreachable!("nothing was accepted, so the first of them is refused");
    }
    let mut out = Vec::with_capacity(64 + outcomes.len() * 128);
    out.extend_from_slice(br#"{"request_id":""#);
    id.write(&mut out);
    out.extend_from_slice(br#"","results":"#);
    write_results(&mut out, &outcomes);
    out.push(b'}');
    let mut response = Response::new(Full::new(Bytes::from(out)));
    *response.status_mut() = StatusCode::ACCEPTED;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
