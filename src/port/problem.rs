//! Refusals as HTTP answers: problem details with the members of one request. The codes are in [`crate::api::problem`].

use std::borrow::Cow;

use axum::response::IntoResponse;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{self, HeaderName, HeaderValue},
};

use super::RequestId;
use crate::{
    api::problem::{
        Code, INVALID_PAYLOAD, LOG_UNAVAILABLE, MISSING_FIELD, PERMISSION_DENIED, missing,
    },
    limits::{self, Standing},
};

/// The detail when the log does not answer.
pub(super) const LOG_UNAVAILABLE_DETAIL: &str =
    "the log does not answer; send the same again, with the same id, in a few seconds";
/// The `Retry-After` for it, in seconds.
pub(super) const LOG_RETRY_AFTER_S: u32 = 5;

/// Why a request as a whole is refused.
#[derive(Debug)]
pub(super) struct Problem {
    code: &'static Code,
    /// The code as it is sent; the field's name replaces `{field}` of the table.
    name: Cow<'static, str>,
    detail: Cow<'static, str>,
    /// `Retry-After`, in seconds.
    retry_after: Option<u32>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Members that only some problems have, already encoded: `,"name":value`.
    members: Vec<u8>,
}

/// A limit that a request exceeds.
pub(super) struct Limit<'a> {
    /// The limit's name.
    pub(super) policy: &'a str,
    /// The number that it allows.
    pub(super) quota: u32,
    /// The window in seconds; `None` if it limits concurrency.
    pub(super) window_s: Option<u32>,
    /// Seconds until a retry is worthwhile.
    pub(super) wait_s: u32,
}

impl Problem {
    pub(super) fn new(code: &'static Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::named(code, code.code, detail)
    }

    /// Creates a problem whose code is sent as `name`.
    pub(super) fn named(
        code: &'static Code,
        name: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            code,
            name: name.into(),
            detail: detail.into(),
            retry_after: None,
            headers: Vec::new(),
            members: Vec::new(),
        }
    }

    pub(super) fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(&INVALID_PAYLOAD, detail)
    }

    /// A required field is missing.
    pub(super) fn missing(field: &str) -> Self {
        let detail = format!("`{field}` is required and must not be empty");
        Self::named(&MISSING_FIELD, missing(field), detail)
    }

    pub(super) fn denied(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(&PERMISSION_DENIED, detail)
    }

    /// The key lacks a permission.
    pub(super) fn lacks(permission: &str) -> Self {
        Self::denied(format!("the key lacks the permission `{permission}`"))
    }

    /// The log did not confirm, or the controls cannot be read; the outcome may be unknown.
    pub(super) fn log_unavailable() -> Self {
        Self::new(&LOG_UNAVAILABLE, LOG_UNAVAILABLE_DETAIL).retry_after(LOG_RETRY_AFTER_S)
    }

    /// 429 with its headers.
    pub(super) fn limited(
        code: &'static Code,
        detail: impl Into<Cow<'static, str>>,
        over: &Limit<'_>,
    ) -> Self {
        let standing = Standing {
            policy: over.policy.into(),
            limit: over.quota,
            window_s: over.window_s,
            remaining: 0,
            wait_ms: u64::from(over.wait_s) * 1000,
            full_ms: 0,
        };
        Self::over(code, detail, &standing)
    }

    /// 429 with all headers that describe the limit.
    pub(super) fn over(
        code: &'static Code,
        detail: impl Into<Cow<'static, str>>,
        standing: &Standing,
    ) -> Self {
        Self::new(code, detail).limit(standing)
    }

    /// Adds the headers of a limit that is exceeded.
    pub(super) fn limit(self, standing: &Standing) -> Self {
        let wait = u32::try_from(limits::retry_after(standing)).unwrap_or(u32::MAX);
        let mut problem = self.retry_after(wait);
        for (name, value) in limits::headers(standing) {
            // The values are ASCII without control characters.
            let value = HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(""));
            problem.headers.push((HeaderName::from_static(name), value));
        }
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

    /// Adds a member, such as `control`.
    pub(super) fn field(mut self, name: &'static str, value: &str) -> Self {
        self.begin_member(name);
        write_text(&mut self.members, value);
        self
    }

    /// Adds the results of a batch, a JSON array.
    pub(super) fn results(mut self, results: &[u8]) -> Self {
        self.begin_member("results");
        self.members.extend_from_slice(results);
        self
    }

    fn begin_member(&mut self, name: &str) {
        self.members.extend_from_slice(b",\"");
        self.members.extend_from_slice(name.as_bytes());
        self.members.extend_from_slice(b"\":");
    }

    /// The status, the code as it is sent, and the message.
    pub(super) fn summary(&self) -> (u16, &str, &str) {
        (self.code.status, &self.name, &self.detail)
    }

    pub(super) fn code(&self) -> &'static Code {
        self.code
    }

    pub(super) fn into_response(self, id: RequestId) -> Response<Full<Bytes>> {
        let status = status(self.code);
        let mut out = Vec::with_capacity(256 + self.detail.len() + self.members.len());
        out.extend_from_slice(br#"{"type":"urn:omnilink:problem:"#);
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(br#"","title":""#);
        out.extend(self.name.bytes().map(|b| if b == b'_' { b' ' } else { b }));
        out.extend_from_slice(br#"","status":"#);
        out.extend_from_slice(status.as_str().as_bytes());
        out.extend_from_slice(br#","code":""#);
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(br#"","detail":"#);
        write_text(&mut out, &self.detail);
        out.extend_from_slice(br#","request_id":""#);
        id.write(&mut out);
        out.push(b'"');
        out.extend_from_slice(&self.members);
        out.push(b'}');
        let mut response = Response::new(Full::new(Bytes::from(out)));
        *response.status_mut() = status;
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

/// A code's status; all codes in the table have a valid one.
fn status(code: &Code) -> StatusCode {
    StatusCode::from_u16(code.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// A problem with its request id, as a rejection of axum's handlers.
pub(super) struct Refused(Box<Problem>, RequestId);

impl Refused {
    pub(super) fn new(problem: Problem, id: RequestId) -> Self {
        Self(Box::new(problem), id)
    }

    pub(super) fn into_problem(self) -> Problem {
        *self.0
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> axum::response::Response {
        self.0.into_response(self.1).map(axum::body::Body::new)
    }
}

/// Writes a JSON string.
pub(crate) fn write_text(out: &mut Vec<u8>, text: &str) {
    // A `&str` always has a JSON form, and writing to a `Vec` cannot fail.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::problem::{self, ALL};

    #[tokio::test]
    async fn what_is_sent_is_what_the_contract_says() {
        use http_body_util::BodyExt;
        for code in ALL {
            let sent = Problem::new(code, "a \"quoted\" detail").field("reason", "a \"reason\"");
            let sent = sent.into_response(RequestId(1, 2));
            assert_eq!(sent.status().as_u16(), code.status);
            let body = sent.into_body().collect().await.unwrap().to_bytes();
            let read: problem::Problem = serde_json::from_slice(&body).unwrap();
            assert_eq!((read.status, &*read.code), (code.status, code.code));
            assert_eq!(read.detail, "a \"quoted\" detail");
            assert_eq!(read.request_id.len(), 32);
            assert_eq!(read.reason.as_deref(), Some("a \"reason\""));
        }
    }
}
