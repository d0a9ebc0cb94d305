//! The setting `cors`: origins whose pages are allowed (Fetch standard, "HTTP CORS protocol"), and webhook senders that ask for
//! permission before they deliver (`CloudEvents` HTTP Webhooks 1.0.2, section 4).

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
        ACCESS_CONTROL_REQUEST_METHOD, ALLOW, HeaderName, HeaderValue, ORIGIN, VARY,
    },
};

use super::{RequestId, problem::Problem};
use crate::{
    api::{Operation, problem::ORIGIN_NOT_ALLOWED},
    config::AllowedOrigin,
};

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PATCH, DELETE");
/// Response headers that a page may read, besides the safelisted ones.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "location, retry-after, ratelimit, ratelimit-policy, x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset",
);
/// For how many seconds a browser may cache the answer to a preflight.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

const SENDER: HeaderName = HeaderName::from_static("webhook-request-origin");
const ALLOWED_SENDER: HeaderName = HeaderName::from_static("webhook-allowed-origin");
const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");

/// The setting `cors`.
pub(super) struct Cors {
    allowed: Vec<AllowedOrigin>,
    any: bool,
}

/// The origin of a request, if it is allowed.
pub(super) struct RequestOrigin(Option<HeaderValue>);

impl Cors {
    pub(super) fn new(allowed: Vec<AllowedOrigin>) -> Self {
        let any = allowed.contains(&AllowedOrigin::Any);
        Self { allowed, any }
    }

    /// The origin of a request; `None` if no origins are configured, and then the answer has no CORS headers.
    pub(super) fn origin(&self, headers: &HeaderMap) -> Option<RequestOrigin> {
        if self.allowed.is_empty() {
            return None;
        }
        let origin = headers.get(ORIGIN);
        Some(RequestOrigin(
            origin.filter(|origin| self.allows(origin)).cloned(),
        ))
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        let origin = origin.to_str().unwrap_or_default();
        self.allowed.iter().any(|allowed| allowed.allows(origin))
    }

    /// Adds the CORS headers for this origin to the answer.
    pub(super) fn add_headers<B>(
        &self,
        RequestOrigin(origin): RequestOrigin,
        response: &mut Response<B>,
    ) {
        let headers = response.headers_mut();
        if !self.any {
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
        if let Some(origin) = origin {
            let value = if self.any {
                HeaderValue::from_static("*")
            } else {
                origin
            };
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, value);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }

    /// Answers a browser's preflight, or a webhook sender's handshake at `/v1/events`. `None` if the request is neither, or its origin is
    /// not allowed.
    pub(super) fn preflight(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        id: impl FnOnce() -> RequestId,
    ) -> Option<Response<Full<Bytes>>> {
        if *method != Method::OPTIONS {
            return None;
        }
        if path == Operation::PostEvents.route().path
            && let Some(sender) = headers.get(SENDER)
        {
            return Some(
                self.handshake(sender)
                    .unwrap_or_else(|| refused().into_response(id())),
            );
        }
        let origin = headers.get(ORIGIN)?;
        if !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) || !self.allows(origin) {
            return None;
        }
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let answer = response.headers_mut();
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        // Event attributes in binary mode can have any name, so all requested headers are allowed: a header alone grants nothing.
        if let Some(requested) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, requested.clone());
        }
        answer.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        Some(response)
    }

    fn handshake(&self, sender: &HeaderValue) -> Option<Response<Full<Bytes>>> {
        let name = sender.to_str().ok()?;
        let allows = |allowed: &AllowedOrigin| allowed.allows_sender(name);
        if name.is_empty() || !self.allowed.iter().any(allows) {
            return None;
        }
        let mut response = Response::new(Full::default());
        let answer = response.headers_mut();
        answer.insert(ALLOWED_SENDER, sender.clone());
        // There is no fixed rate: a sender that exceeds the limits of its key gets 429.
        answer.insert(ALLOWED_RATE, HeaderValue::from_static("*"));
        answer.insert(ALLOW, HeaderValue::from_static("POST"));
        Some(response)
    }
}

fn refused() -> Problem {
    Problem::new(
        &ORIGIN_NOT_ALLOWED,
        "this origin may not deliver webhooks here: the setting `cors` does not list it",
    )
}
