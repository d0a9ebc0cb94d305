//! Whom `cors` lets in: pages of other origins (Fetch standard, "HTTP CORS protocol"), and the senders of webhooks that ask
//! before they deliver (`CloudEvents` HTTP Webhooks 1.0.2, section 4).

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
use crate::config::AllowedOrigin;

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PATCH, DELETE");
/// What a page may read of an answer beside the media type.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "location, retry-after, ratelimit, ratelimit-policy, x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset",
);
/// Seconds for which a browser may keep the answer to a preflight.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

const SENDER: HeaderName = HeaderName::from_static("webhook-request-origin");
const ALLOWED_SENDER: HeaderName = HeaderName::from_static("webhook-allowed-origin");
const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");

/// The setting `cors`.
pub(super) struct Cors {
    allowed: Vec<AllowedOrigin>,
    any: bool,
}

/// What the answer to a request says of its origin: the origin, if it is let in.
pub(super) struct Marks(Option<HeaderValue>);

impl Cors {
    pub(super) fn new(allowed: Vec<AllowedOrigin>) -> Self {
        let any = allowed.contains(&AllowedOrigin::Any);
        Self { allowed, any }
    }

    /// What the answer to a request will say of its origin; `None`: nothing, for nobody is let in.
    pub(super) fn marks(&self, headers: &HeaderMap) -> Option<Marks> {
        if self.allowed.is_empty() {
            return None;
        }
        let origin = headers.get(ORIGIN);
        Some(Marks(origin.filter(|origin| self.lets_in(origin)).cloned()))
    }

    fn lets_in(&self, origin: &HeaderValue) -> bool {
        let origin = origin.to_str().unwrap_or_default();
        self.allowed.iter().any(|allowed| allowed.allows(origin))
    }

    /// Puts them on the answer.
    pub(super) fn put<B>(&self, Marks(origin): Marks, response: &mut Response<B>) {
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

    /// The answer to a request `OPTIONS` that asks for leave: a browser's preflight, or a webhook sender's handshake at
    /// `/v1/events`. `None`: it is neither, or its origin is not let in.
    pub(super) fn asked(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        id: impl FnOnce() -> RequestId,
    ) -> Option<Response<Full<Bytes>>> {
        if *method != Method::OPTIONS {
            return None;
        }
        if path == "/v1/events"
            && let Some(sender) = headers.get(SENDER)
        {
            return Some(
                self.handshake(sender)
                    .unwrap_or_else(|| refused().into_response(id())),
            );
        }
        let origin = headers.get(ORIGIN)?;
        if !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) || !self.lets_in(origin) {
            return None;
        }
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let answer = response.headers_mut();
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        // Attributes of events in binary mode have any name, so whatever is asked for is allowed: headers give no right.
        if let Some(asked) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
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
        // Whoever is too quick for its key is told so by 429.
        answer.insert(ALLOWED_RATE, HeaderValue::from_static("*"));
        answer.insert(ALLOW, HeaderValue::from_static("POST"));
        Some(response)
    }
}

fn refused() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "origin_not_allowed",
        "this origin may not deliver webhooks here: the setting `cors` does not list it",
    )
}
