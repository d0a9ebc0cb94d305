//! The answer to events, `{request_id, results: […]}`, written directly into one buffer.

use std::{borrow::Cow, io::Write, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};

use crate::{
    api::{
        events::ItemStatus,
        problem::{
            Code, ENV_NOT_ALLOWED, FEATURE_DISABLED, IDEMPOTENCY_IN_FLIGHT, IDEMPOTENCY_MISMATCH,
            INVALID_PAYLOAD, LIMITER_UNAVAILABLE, LOG_UNAVAILABLE, PAYLOAD_TOO_LARGE,
            PERMISSION_DENIED, RATE_LIMIT_EXCEEDED,
        },
    },
    base::id::Identity,
    envelope::Invalid,
    limits::{self, MAX_RPM, Standing},
    port::{
        RequestId, gate,
        problem::{self, Problem, write_text},
    },
};

/// The outcome of one item.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// The event is in the log.
    Ingested(Identity),
    /// The event was already in the log.
    Duplicate(Identity),
    /// The event is refused.
    Refused(Refusal),
}

/// Why an item is refused.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    status: ItemStatus,
    code: &'static Code,
    /// The code as it is sent; the field's name replaces `{field}` of the table.
    name: Cow<'static, str>,
    message: Cow<'static, str>,
    retry_after: Option<u32>,
    record_id: Option<Identity>,
    /// The limit that is exceeded.
    limit: Option<Arc<Standing>>,
    /// The disabled feature and the reason.
    disabled: Option<Box<(&'static str, String)>>,
}

/// `Retry-After` while a limiter admits nothing, in seconds; the limiter tries again within this time.
pub(crate) const LIMITER_RETRY_AFTER_S: u32 = 2;

impl Refusal {
    fn new(status: ItemStatus, code: &'static Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            name: code.code.into(),
            message: message.into(),
            retry_after: None,
            record_id: None,
            limit: None,
            disabled: None,
        }
    }

    pub(crate) fn invalid(invalid: Invalid) -> Self {
        let code = Code::of(&invalid.code).unwrap_or(&INVALID_PAYLOAD);
        let mut refusal = Self::new(ItemStatus::Invalid, code, invalid.message);
        refusal.name = invalid.code;
        refusal
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("an item may have at most {limit} bytes");
        Self::new(ItemStatus::Invalid, &PAYLOAD_TOO_LARGE, message)
    }

    pub(crate) fn permission(lacking: &str) -> Self {
        let message = format!("the key lacks the permission `{lacking}`");
        Self::new(ItemStatus::Denied, &PERMISSION_DENIED, message)
    }

    /// An operator has disabled the feature.
    pub(crate) fn disabled(feature: &'static str, reason: String) -> Self {
        let message = gate::disabled_detail(feature, &reason);
        let mut refusal = Self::new(ItemStatus::Error, &FEATURE_DISABLED, message);
        refusal.retry_after = Some(gate::RETRY_AFTER_S);
        refusal.disabled = Some(Box::new((feature, reason)));
        refusal
    }

    pub(crate) fn environment(env: &str) -> Self {
        let message = format!(
            "the key's `env_allowlist` does not contain `{env}`, the last segment of `source`"
        );
        Self::new(ItemStatus::Denied, &ENV_NOT_ALLOWED, message)
    }

    pub(crate) fn mismatch(id: Identity) -> Self {
        let message =
            "the same identity was already used with another body; a new event needs a new `id`";
        let mut refusal = Self::new(ItemStatus::Error, &IDEMPOTENCY_MISMATCH, message);
        refusal.record_id = Some(id);
        refusal
    }

    pub(crate) fn in_flight(id: Identity) -> Self {
        let message = "the same event is being appended; send it again to learn the outcome";
        let mut refusal = Self::new(ItemStatus::Error, &IDEMPOTENCY_IN_FLIGHT, message);
        // An append rarely takes longer.
        refusal.retry_after = Some(1);
        refusal.record_id = Some(id);
        refusal
    }

    pub(crate) fn unavailable() -> Self {
        let mut refusal = Self::new(
            ItemStatus::Error,
            &LOG_UNAVAILABLE,
            problem::LOG_UNAVAILABLE_DETAIL,
        );
        refusal.retry_after = Some(problem::LOG_RETRY_AFTER_S);
        refusal
    }

    /// A rate limit is exceeded.
    pub(crate) fn limited(standing: &Arc<Standing>) -> Self {
        let (limit, window_s) = (standing.limit, standing.window_s.unwrap_or(0));
        let message = if &*standing.policy == MAX_RPM {
            format!("the key's `max_rpm` of {limit} items in {window_s} s is exceeded")
        } else {
            let policy = &standing.policy;
            format!("the limit `{policy}` of {limit} items in {window_s} s is exceeded")
        };
        let mut refusal = Self::new(ItemStatus::RateLimited, &RATE_LIMIT_EXCEEDED, message);
        let wait = u32::try_from(limits::retry_after(standing)).unwrap_or(u32::MAX);
        refusal.retry_after = Some(wait);
        refusal.limit = Some(Arc::clone(standing));
        refusal
    }

    /// Redis is unavailable, and the policy admits nothing without it.
    pub(crate) fn limiter_unavailable(policy: &str) -> Self {
        let message = format!("the limit `{policy}` admits nothing while Redis is down");
        let mut refusal = Self::new(ItemStatus::Error, &LIMITER_UNAVAILABLE, message);
        refusal.retry_after = Some(LIMITER_RETRY_AFTER_S);
        refusal
    }

    /// The status, the code as it is sent, and the message.
    pub(crate) fn summary(&self) -> (u16, &str, &str) {
        (self.code.status, &self.name, &self.message)
    }

    /// Converts the refusal into the problem of a whole request.
    pub(crate) fn into_problem(self) -> Problem {
        let mut problem = Problem::named(self.code, self.name, self.message);
        if let Some(disabled) = self.disabled {
            let (feature, reason) = *disabled;
            problem = problem.field("feature", feature).field("reason", &reason);
        }
        match (self.limit, self.retry_after) {
            (Some(standing), _) => problem.limit(&standing),
            (None, Some(seconds)) => problem.retry_after(seconds),
            (None, None) => problem,
        }
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
            Outcome::Ingested(_) => ItemStatus::Ingested,
            Outcome::Duplicate(_) => ItemStatus::Duplicate,
            Outcome::Refused(refusal) => refusal.status,
        };
        out.extend_from_slice(br#"{"status":""#);
        out.extend_from_slice(status.name().as_bytes());
        out.extend_from_slice(br#"","index":"#);
        // Writing to a `Vec` cannot fail.
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
                write_text(out, &refusal.name);
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

/// Answers 202 if any item was accepted or there are none. Otherwise answers with a problem: 429 if a limit refused any item, else with
/// the code of the first item.
pub(crate) fn respond(id: RequestId, mut outcomes: Vec<Outcome>) -> Response<Full<Bytes>> {
    let accepted = |o: &Outcome| !matches!(o, Outcome::Refused(_));
    if !outcomes.is_empty() && !outcomes.iter().any(accepted) {
        let mut results = Vec::with_capacity(outcomes.len() * 192);
        write_results(&mut results, &outcomes);
        let limited = |o: &Outcome| matches!(o, Outcome::Refused(r) if r.limit.is_some());
        let tells = outcomes.iter().position(limited).unwrap_or(0);
        if let Outcome::Refused(refusal) = outcomes.swap_remove(tells) {
            return refusal.into_problem().results(&results).into_response(id);
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

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::api::{events::Accepted, problem::Problem};

    async fn body(outcomes: Vec<Outcome>) -> (StatusCode, Bytes) {
        let response = respond(RequestId(1, 2), outcomes);
        let status = response.status();
        (
            status,
            response.into_body().collect().await.unwrap().to_bytes(),
        )
    }

    /// The hand-written JSON parses as the types of [`crate::api::events`].
    #[tokio::test]
    async fn answers_are_those_of_the_contract() {
        let id = Identity::of("event", &["1"]);
        let refused = [
            Refusal::invalid(Invalid::missing("entity.type")),
            Refusal::too_large(10),
            Refusal::permission("events:write"),
            Refusal::environment("prod"),
            Refusal::mismatch(id),
            Refusal::in_flight(id),
            Refusal::unavailable(),
            Refusal::limiter_unavailable("tenant"),
            Refusal::disabled("events", "no \"room\"".into()),
        ];
        let mut outcomes: Vec<_> = refused.into_iter().map(Outcome::Refused).collect();
        let (status, text) = body(outcomes.clone()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let problem: Problem = serde_json::from_slice(&text).unwrap();
        assert_eq!(problem.code, "missing_entity_type");
        assert_eq!(problem.results.unwrap().len(), outcomes.len());

        // Among several reasons, one that waiting resolves is reported.
        let standing = Standing {
            policy: "tenant".into(),
            limit: 10,
            window_s: Some(60),
            remaining: 0,
            wait_ms: 1_500,
            full_ms: 60_000,
        };
        outcomes.push(Outcome::Refused(Refusal::limited(&standing.into())));
        let response = respond(RequestId(1, 2), outcomes.clone());
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["ratelimit"], "\"tenant\";r=0;t=2");

        outcomes.push(Outcome::Ingested(id));
        outcomes.push(Outcome::Duplicate(id));
        let (status, text) = body(outcomes).await;
        assert_eq!(status, StatusCode::ACCEPTED);
        let accepted: Accepted = serde_json::from_slice(&text).unwrap();
        let written: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(serde_json::to_value(&accepted).unwrap(), written);
        let statuses = accepted.results.iter().map(|r| (r.status, r.index));
        let ends: Vec<_> = statuses.skip(10).collect();
        assert_eq!(
            ends,
            [(ItemStatus::Ingested, 10), (ItemStatus::Duplicate, 11)]
        );
    }
}
