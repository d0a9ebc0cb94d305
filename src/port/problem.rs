//! Problem details (RFC 9457): every refusal has a status, a stable code, and words for people.

use std::borrow::Cow;

use axum::response::IntoResponse;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{self, HeaderName, HeaderValue},
};

use super::RequestId;

/// Why a request as a whole is refused.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) code: Cow<'static, str>,
    pub(super) detail: Cow<'static, str>,
    /// `Retry-After`, in seconds.
    pub(super) retry_after: Option<u32>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// The JSON array of the items' results, in an answer to a batch of which nothing was accepted.
    pub(super) results: Option<Vec<u8>>,
}

impl Problem {
    pub(super) fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            code: code.into(),
            detail: detail.into(),
            retry_after: None,
            headers: Vec::new(),
            results: None,
        }
    }

    pub(super) fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_payload", detail)
    }

    pub(super) fn denied(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_denied", detail)
    }

    pub(super) fn too_large(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, code, detail)
    }

    /// The log did not confirm, or the controls cannot be read: the outcome may be unknown.
    pub(super) fn log_unavailable() -> Self {
        let detail =
            "the log does not answer; send the same again, with the same id, in a few seconds";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "log_unavailable", detail).retry_after(5)
    }

    /// 429, with all headers that say so. The policy: its name, its limit, and its window in seconds; without one it bounds what
    /// there is at one time. `wait`: seconds until it is worth to ask again.
    pub(super) fn limited(
        (code, detail): (&'static str, impl Into<Cow<'static, str>>),
        (policy, limit, window_s): (&str, u32, Option<u32>),
        wait: u32,
    ) -> Self {
        let text = |t: String| HeaderValue::from_str(&t).unwrap_or(HeaderValue::from_static(""));
        let window = window_s.map_or_else(String::new, |s| format!(";w={s}"));
        let headers = [
            (
                "ratelimit-policy",
                text(format!("\"{policy}\";q={limit}{window}")),
            ),
            ("ratelimit", text(format!("\"{policy}\";r=0;t={wait}"))),
            ("x-ratelimit-limit", HeaderValue::from(limit)),
            ("x-ratelimit-remaining", HeaderValue::from(0)),
            ("x-ratelimit-reset", HeaderValue::from(wait)),
        ];
        let mut problem = Self::new(StatusCode::TOO_MANY_REQUESTS, code, detail).retry_after(wait);
        let named = headers.map(|(name, value)| (HeaderName::from_static(name), value));
        problem.headers.extend(named);
        problem
    }

    pub(super) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(super) fn into_response(self, id: RequestId) -> Response<Full<Bytes>> {
        let mut out = Vec::with_capacity(256 + self.detail.len());
        out.extend_from_slice(br#"{"type":"urn:omnilink:problem:"#);
        out.extend_from_slice(self.code.as_bytes());
        out.extend_from_slice(br#"","title":""#);
        out.extend(self.code.bytes().map(|b| if b == b'_' { b' ' } else { b }));
        out.extend_from_slice(br#"","status":"#);
        out.extend_from_slice(self.status.as_str().as_bytes());
        out.extend_from_slice(br#","code":""#);
        out.extend_from_slice(self.code.as_bytes());
        out.extend_from_slice(br#"","detail":"#);
        write_text(&mut out, &self.detail);
        out.extend_from_slice(br#","request_id":""#);
        id.write(&mut out);
        out.push(b'"');
        if let Some(results) = &self.results {
            out.extend_from_slice(br#","results":"#);
            out.extend_from_slice(results);
        }
        out.push(b'}');
        let mut response = Response::new(Full::new(Bytes::from(out)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        headers.extend(self.headers);
        response
    }
}

/// A problem with the id of its request, for axum's handlers.
pub(super) struct Refused(Box<Problem>, RequestId);

impl Refused {
    pub(super) fn new(problem: Problem, id: RequestId) -> Self {
        Self(Box::new(problem), id)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> axum::response::Response {
        self.0.into_response(self.1).map(axum::body::Body::new)
    }
}

/// A JSON string.
pub(crate) fn write_text(out: &mut Vec<u8>, text: &str) {
    // A `&str` always has a JSON form, and a `Vec` never refuses bytes.
    let _ = serde_json::to_writer(out, text);
}
