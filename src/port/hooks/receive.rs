//! The checks of a request, in this order: controls can be read, length, kill switch and disabled features, source, content encoding,
//! body, signature and other rules of the dialect, the limit on failures (a valid signature passes), event schema, policies, identity,
//! append.

use std::{net::IpAddr, sync::Arc, time::Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue, USER_AGENT},
    http::request::Parts,
};
use serde_json::Map;

use super::{
    FAILURES, FAILURES_WINDOW_S, append::append, meters::RequestOutcome, rejections::Rejected,
    sources::ActiveSource, target::Target,
};
use crate::{
    api::problem::{
        Code, INVALID_PAYLOAD, INVALID_SIGNATURE, OVERLOADED, PAYLOAD_TOO_LARGE,
        RATE_LIMIT_EXCEEDED, REQUEST_TIMEOUT, UNKNOWN_SOURCE,
    },
    audit::{self, Entry},
    base::clock::Millis,
    bridges::{self, Reason, receive},
    limits::Kind,
    port::{
        Shared, auth, gate,
        ingest::{
            answer::{self, Outcome, Refusal},
            body::{self, BodyError},
            events, media,
        },
        limited::{Rated, Sender},
        problem::{Limit, Problem},
    },
};

/// The name under which requests for unknown sources are counted; no source has an empty name.
const UNKNOWN: &str = "";

/// The result of a valid request.
enum Reply {
    Event(Outcome),
    Challenge(String),
}

/// Answers a request whose path is a [`Target`].
pub(crate) async fn post(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    peer: IpAddr,
) -> Response<Full<Bytes>> {
    let began = Instant::now();
    let (head, body) = request.into_parts();
    let mut webhook = WebhookRequest::new(shared, &head, peer);
    let response = webhook.answer(body).await;
    shared.hooks.meters.seconds.record(began.elapsed());
    response
}

/// The state of one request.
struct WebhookRequest<'a> {
    shared: &'a Arc<Shared>,
    headers: &'a HeaderMap,
    target: Option<Target<'a>>,
    ready: Option<Arc<ActiveSource>>,
    address: IpAddr,
    now: Millis,
    /// `None` if it was not read.
    body: Option<Bytes>,
    /// The limits that the event was counted against.
    rated: Rated,
}

impl<'a> WebhookRequest<'a> {
    fn new(shared: &'a Arc<Shared>, head: &'a Parts, peer: IpAddr) -> Self {
        Self {
            shared,
            headers: &head.headers,
            target: Target::of(head.uri.path(), &shared.hooks.aliases),
            ready: None,
            address: auth::client(&head.headers, peer, &shared.trusted_proxies),
            now: shared.clock.now(),
            body: None,
            rated: Rated::All,
        }
    }

    async fn answer(&mut self, body: Incoming) -> Response<Full<Bytes>> {
        let id = self.shared.ids.next();
        let (result, response) = match self.process(body).await {
            Ok(Reply::Challenge(text)) => (RequestOutcome::Challenge, plain(text)),
            Ok(Reply::Event(outcome)) => {
                self.shared.meters.count(std::slice::from_ref(&outcome));
                let result = match &outcome {
                    Outcome::Ingested(_) => RequestOutcome::Accepted,
                    Outcome::Duplicate(_) => RequestOutcome::Duplicate,
                    Outcome::Refused(refusal) => {
                        let (status, code, message) = refusal.summary();
                        self.refused(status, code, message)
                    }
                };
                if !matches!(outcome, Outcome::Refused(_)) {
                    self.accepted();
                }
                let mut response = answer::respond(id, vec![outcome]);
                if let RequestOutcome::Duplicate = result {
                    *response.status_mut() = StatusCode::OK;
                }
                if response.status().is_success() {
                    self.rated.headers(response.headers_mut());
                }
                (result, response)
            }
            Err(problem) => {
                let (status, code, message) = problem.summary();
                let result = self.refused(status, code, message);
                (result, problem.into_response(id))
            }
        };
        let dialect = self.ready.as_ref().map(|ready| &ready.source.dialect);
        self.shared.hooks.meters.count(dialect, result);
        response
    }

    async fn process(&mut self, mut body: Incoming) -> Result<Reply, Problem> {
        if let Err(problem) = self.check_head(&body) {
            body::discard(body);
            return Err(problem);
        }
        let limit = self.shared.limits.single_bytes;
        let bytes = match body::read(&mut body, limit, &self.shared.bodies).await {
            Ok(bytes) => bytes,
            Err(error) => {
                body::discard(body);
                return Err(refuse_body(error, limit));
            }
        };
        self.body = Some(bytes.clone());
        // The body is read even if the source is unknown, for the audit log.
        let Some(ready) = self.ready.clone() else {
            let detail = "there is no such source";
            return Err(self.failed(Problem::new(&UNKNOWN_SOURCE, detail)));
        };
        let headers: Vec<_> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let request = bridges::Request {
            headers: &headers,
            body: &bytes,
            by_token: matches!(self.target, Some(Target::Token(_))),
            now: self.now,
        };
        match receive(&ready.source, &ready.integration.tenant, &request) {
            Ok(bridges::Outcome::Challenge(text)) => Ok(Reply::Challenge(text)),
            Ok(bridges::Outcome::Event(mut received)) => {
                if let Some(trace) = events::trace(self.headers) {
                    received.parsed.event.keep_trace(&trace);
                }
                if let Err(invalid) = self.shared.event_schemas.check(&received.parsed.event) {
                    return Ok(Reply::Event(Outcome::Refused(Refusal::invalid(invalid))));
                }
                self.rated = self.rate(&ready, &received.parsed.event.kind).await;
                let refused = self.rated.refusals().next().flatten();
                let outcome = match refused {
                    Some(refusal) => Outcome::Refused(refusal),
                    None => append(self.shared, &received, self.now).await,
                };
                Ok(Reply::Event(outcome))
            }
            Err(refusal) => Err(match refusal.reason {
                Reason::Invalid => problem_of(refusal, &INVALID_PAYLOAD),
                Reason::Unauthenticated => self.failed(problem_of(refusal, &INVALID_SIGNATURE)),
                Reason::Unknown => self.failed(problem_of(refusal, &UNKNOWN_SOURCE)),
            }),
        }
    }

    fn check_head(&mut self, body: &Incoming) -> Result<(), Problem> {
        gate::readable(self.shared)?;
        let limit = self.shared.limits.single_bytes;
        let is_too_long = body::announced(body).is_some_and(|length| length > limit as u64);
        if is_too_long {
            // The audit log needs the source.
            self.find();
            return Err(refuse_body(BodyError::TooLarge, limit));
        }
        gated(self.shared, None)?;
        self.find();
        if let Some(ready) = &self.ready {
            gated(self.shared, Some(&ready.source.name))?;
        }
        media::plain(self.headers)
    }

    fn find(&mut self) {
        let controls = &self.shared.controls;
        let integration = match &self.target {
            Some(Target::Named(tenant, name)) => controls.integration_named(tenant, name),
            Some(Target::Token(token)) => controls.integration_by_token(token, self.now),
            None => None,
        };
        let sources = &self.shared.hooks.sources;
        self.ready = integration.and_then(|found| sources.get(&found, controls));
    }

    /// Counts the event against the policies for webhooks.
    async fn rate(&self, ready: &ActiveSource, kind: &str) -> Rated {
        let sender = Sender {
            tenant: &ready.integration.tenant,
            id: &ready.integration.id,
            max_rpm: 0,
            max_concurrency: 0,
            enforced: true,
        };
        let limiting = &self.shared.limiting;
        let address = || self.address;
        limiting
            .take(sender, Kind::Webhooks, address, std::iter::once(kind))
            .await
    }

    /// The name under which the source is counted.
    fn counted_as(&self) -> &str {
        let ready = self.ready.as_ref();
        ready.map_or(UNKNOWN, |ready| &ready.integration.id)
    }

    /// Counts an unauthenticated request. Beyond the limit the answer is 429.
    fn failed(&self, problem: Problem) -> Problem {
        let failures = &self.shared.hooks.failures;
        match failures.admit(self.counted_as(), self.address, self.now) {
            Ok(()) => problem,
            Err(wait_s) => Problem::limited(
                &RATE_LIMIT_EXCEEDED,
                "too many webhooks without a valid signature from this address; a valid one passes",
                &Limit {
                    policy: "webhook_signatures",
                    quota: FAILURES,
                    window_s: Some(FAILURES_WINDOW_S),
                    wait_s,
                },
            ),
        }
    }

    /// Records in the audit log, at most once an hour, that a source is in use.
    fn accepted(&self) {
        let Some(ready) = self.ready.as_ref().filter(|r| r.is_received_due(self.now)) else {
            return;
        };
        let ActiveSource {
            integration,
            source,
            ..
        } = &**ready;
        let tenant = Some(&integration.tenant);
        let mut detail = Map::new();
        detail.insert("source".into(), source.name.as_str().into());
        let entry = Entry::new(tenant, "source.received", audit::Outcome::Ok, self.now)
            .resource("integration", &integration.id)
            .client(self.address, self.user_agent())
            .detail(detail);
        self.shared.audit.record(entry);
    }

    /// Records a refusal that the request caused, not one that the server or the current load caused.
    fn refused(&self, status: u16, code: &str, message: &str) -> RequestOutcome {
        match status {
            500.. => return RequestOutcome::Failed,
            408 | 409 | 429 => return RequestOutcome::Refused,
            _ => {}
        }
        let named;
        let (tenant, source) = match (&self.ready, &self.target) {
            (Some(ready), _) => {
                let tenant = &ready.integration.tenant;
                (Some(tenant), ready.source.name.as_str())
            }
            (None, Some(Target::Named(tenant, name))) => {
                named = format!("{tenant}/{name}");
                (None, named.as_str())
            }
            // An unknown token may be a valid one with a typing error, so it is not recorded.
            (None, _) => (None, "token"),
        };
        let rejected = Rejected {
            tenant,
            source,
            address: self.address,
            user_agent: self.user_agent(),
            code,
            message,
            body: self.body.as_deref(),
        };
        let hooks = &self.shared.hooks;
        let counted_as = self.counted_as();
        hooks
            .rejections
            .record(&self.shared.audit, counted_as, &rejected, self.now);
        RequestOutcome::Refused
    }

    fn user_agent(&self) -> Option<&'a [u8]> {
        self.headers.get(USER_AGENT).map(HeaderValue::as_bytes)
    }
}

/// The emergency controls for webhooks: the kill switch before the source is looked up, then the disabled features and sources.
fn gated(shared: &Shared, source: Option<&str>) -> Result<(), Problem> {
    match source {
        None => {
            gate::kill_switch(shared)?;
            gate::feature(shared, "webhooks")
        }
        Some(name) => gate::feature(shared, &format!("source:{name}")),
    }
}

fn problem_of(refusal: bridges::Refusal, otherwise: &'static Code) -> Problem {
    let code = Code::of(&refusal.code).unwrap_or(otherwise);
    Problem::named(code, refusal.code, refusal.message)
}

fn refuse_body(error: BodyError, limit: usize) -> Problem {
    match error {
        BodyError::TooLarge => Problem::new(
            &PAYLOAD_TOO_LARGE,
            format!("a webhook may have at most {limit} bytes"),
        ),
        BodyError::Slow => Problem::new(
            &REQUEST_TIMEOUT,
            "the body did not arrive within 10 seconds",
        ),
        BodyError::Broken => Problem::invalid("the body is incomplete, or its framing is wrong"),
        BodyError::Busy => {
            Problem::new(&OVERLOADED, "too many large bodies at once; send it again").retry_after(1)
        }
    }
}

fn plain(text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    let media = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, media);
    response
}
