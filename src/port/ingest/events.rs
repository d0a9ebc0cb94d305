//! `POST /v1/events`: one event or a batch, in all formats.
//!
//! Checks in this order: controls can be read, length, kill switch, key, media type, requests in flight, body, size and fields of
//! items, scope, `act_as`, `events` disabled, allowlist, schema, rate, identity, append.

use std::net::IpAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Request, Response,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue, USER_AGENT},
};
use tokio::sync::oneshot;

use super::{
    answer::{self, Outcome, Refusal},
    body::{self, BodyError},
    idempotency::Verdict,
    intake::{Reserved, Unsent},
    media::{self, Form},
    nodes::{Nodes, Reservation},
};
use crate::port::{
    Shared, auth,
    denials::Denied,
    gate,
    limited::{Rated, Sender},
    problem::Problem,
};
use crate::{
    api::problem::{
        BATCH_TOO_LARGE, Code, ENV_NOT_ALLOWED, INVALID_IDEMPOTENCY_KEY, OVERLOADED,
        PAYLOAD_TOO_LARGE, PERMISSION_DENIED, REQUEST_TIMEOUT,
    },
    base::{
        clock::Millis,
        id::{Identity, IdentityMap},
    },
    controls::{ACT_AS, EVENTS, EVENTS_WRITE, Key},
    envelope::{
        self, Binding, Body, BodyHash, Invalid, Item, Parsed, TraceContext, avro::encode_ingress,
    },
    limits::Kind,
    log::Record,
};

/// The maximum length of an idempotency key, in bytes.
const IDEMPOTENCY_KEY_MAX: usize = 512;

/// Answers the request and counts it.
pub(crate) async fn post(
    shared: &Shared,
    request: Request<Incoming>,
    peer: IpAddr,
) -> Response<Full<Bytes>> {
    let began = std::time::Instant::now();
    let id = shared.ids.next();
    let response = match process(shared, request, peer).await {
        Ok((outcomes, rated)) => {
            shared.meters.count(&outcomes);
            let mut response = answer::respond(id, outcomes);
            if response.status().is_success() {
                rated.headers(response.headers_mut());
            }
            response
        }
        Err(problem) => problem.into_response(id),
    };
    shared.meters.answered(response.status().as_u16());
    shared.meters.seconds.record(began.elapsed());
    response
}

async fn process(
    shared: &Shared,
    request: Request<Incoming>,
    peer: IpAddr,
) -> Result<(Vec<Outcome>, Rated), Problem> {
    let (head, mut body) = request.into_parts();
    let checked = check_head(shared, &head.headers, body::announced(&body), peer).await;
    let (key, form, limit) = match checked {
        Ok(checked) => checked,
        Err(problem) => {
            body::discard(body);
            return Err(problem);
        }
    };
    // Held until the events are durable.
    let _in_flight = match shared.limiting.enter(Sender::of(&key)).await {
        Ok(lease) => lease,
        Err(problem) => {
            body::discard(body);
            return Err(problem);
        }
    };
    let bytes = match body::read(&mut body, limit, &shared.bodies).await {
        Ok(bytes) => bytes,
        Err(error) => {
            body::discard(body);
            return Err(refuse_body(error, form, limit));
        }
    };
    let now = shared.clock.now();
    let mut pending = EventsRequest {
        shared,
        key: &key,
        headers: &head.headers,
        peer,
        header: idempotency_key(&head.headers)?,
        on_behalf_of: auth::on_behalf_of(&head.headers)?,
        trace: trace(&head.headers),
        now,
        outcomes: Vec::new(),
        unsent: shared.intake.unsent(),
    };
    let rated = pending.read(form, &bytes).await?;
    Ok((pending.append().await, rated))
}

async fn check_head(
    shared: &Shared,
    headers: &HeaderMap,
    announced: Option<u64>,
    peer: IpAddr,
) -> Result<(std::sync::Arc<Key>, Form, usize), Problem> {
    gate::readable(shared)?;
    let limits = &shared.limits;
    let announced = announced.unwrap_or(0);
    if announced > limits.batch_bytes as u64 {
        let form = media::form(headers).unwrap_or(Form::Json);
        return Err(refuse_body(BodyError::TooLarge, form, limits.batch_bytes));
    }
    gate::kill_switch(shared)?;
    let key = auth::authenticate(shared, headers, peer).await?;
    let form = media::form(headers)?;
    let limit = match form {
        Form::Structured | Form::Binary => limits.single_bytes,
        Form::Batch | Form::Json => limits.batch_bytes,
    };
    if announced > limit as u64 {
        return Err(refuse_body(BodyError::TooLarge, form, limit));
    }
    Ok((key, form, limit))
}

pub(crate) fn refuse_body(error: BodyError, form: Form, limit: usize) -> Problem {
    match error {
        BodyError::TooLarge if form == Form::Batch => Problem::new(
            &BATCH_TOO_LARGE,
            format!("a batch may have at most {limit} bytes"),
        ),
        BodyError::TooLarge => Problem::new(
            &PAYLOAD_TOO_LARGE,
            format!("the body may have at most {limit} bytes"),
        ),
        BodyError::Slow => Problem::new(
            &REQUEST_TIMEOUT,
            "the body did not arrive within 10 seconds",
        ),
        BodyError::Broken => Problem::invalid("the body is incomplete, or its framing is wrong"),
        BodyError::Busy => {
            Problem::new(&OVERLOADED, "too many bodies at once; send it again").retry_after(1)
        }
    }
}

/// The trace that the request belongs to.
pub(crate) fn trace(headers: &HeaderMap) -> Option<TraceContext<'_>> {
    let all = |name| headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
    TraceContext::of(all("traceparent"), all("tracestate"))
}

/// `Idempotency-Key`, or its older name.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let given = headers
        .get("idempotency-key")
        .or_else(|| headers.get("x-idempotency-key"));
    let Some(value) = given.filter(|v| !v.is_empty()) else {
        return Ok(None);
    };
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) if text.len() <= IDEMPOTENCY_KEY_MAX => Ok(Some(text)),
        _ => Err(Problem::new(
            &INVALID_IDEMPOTENCY_KEY,
            "`Idempotency-Key` must be UTF-8 of at most 512 bytes",
        )),
    }
}

/// The state of one request.
struct EventsRequest<'a> {
    shared: &'a Shared,
    key: &'a Key,
    headers: &'a HeaderMap,
    peer: IpAddr,
    /// `Idempotency-Key`.
    header: Option<&'a str>,
    /// The user on whose behalf the request is made.
    on_behalf_of: Option<&'a str>,
    /// `traceparent` and `tracestate`, for events that have none themselves.
    trace: Option<TraceContext<'a>>,
    now: Millis,
    outcomes: Vec<Outcome>,
    /// The items to append.
    unsent: Unsent<'a>,
}

impl EventsRequest<'_> {
    async fn read(&mut self, form: Form, body: &[u8]) -> Result<Rated, Problem> {
        let (tenant, now) = (&self.key.tenant, self.now);
        let most = self.shared.limits.batch_items;
        let one = |parsed| match parsed {
            Ok(parsed) => Ok(Body::One(parsed)),
            Err(invalid) => Err(invalid),
        };
        let parsed = match form {
            Form::Json => envelope::parse(body, most, tenant, now),
            Form::Structured => one(envelope::parse_structured(
                body,
                envelope::Form::CloudEvents,
                tenant,
                now,
            )),
            Form::Batch => {
                envelope::parse_batch(body, envelope::Form::CloudEvents, most, tenant, now)
                    .map(Body::Batch)
            }
            Form::Binary => {
                let headers = self.headers;
                let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
                let headers = headers
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_bytes()));
                one(envelope::parse_binary(
                    headers,
                    Binding::Http,
                    content_type,
                    Some(body),
                    tenant,
                    now,
                ))
            }
        };
        match parsed {
            Ok(Body::One(parsed)) => self.single(body.len(), parsed).await,
            Ok(Body::Batch(items)) => self.batch(items).await,
            Err(invalid) if invalid.code == BATCH_TOO_LARGE.code => {
                Err(Problem::new(&BATCH_TOO_LARGE, invalid.message))
            }
            Err(invalid) => {
                // If a body cannot be parsed, it is unknown whether it is a batch, but only a single event can miss a field.
                let is_one = match form {
                    Form::Structured | Form::Binary => true,
                    Form::Json => invalid.code.starts_with("missing_"),
                    Form::Batch => false,
                };
                let limit = self.item_limit();
                let refusal = if is_one && body.len() > limit {
                    Refusal::too_large(limit)
                } else {
                    Refusal::invalid(invalid)
                };
                self.outcomes.push(Outcome::Refused(refusal));
                Ok(Rated::All)
            }
        }
    }

    async fn single(&mut self, size: usize, parsed: Parsed<'_>) -> Result<Rated, Problem> {
        let limit = self.shared.limits.single_bytes;
        if size > limit {
            return Err(Problem::new(
                &PAYLOAD_TOO_LARGE,
                format!("a single event may have at most {limit} bytes"),
            ));
        }
        let (id, parsed) = match self.judge(size, Ok(parsed)) {
            Ok(judged) => judged,
            Err(refusal) => {
                self.outcomes.push(Outcome::Refused(refusal));
                return Ok(Rated::All);
            }
        };
        let rated = self.rate(std::iter::once(&*parsed.event.kind)).await;
        let outcome = match rated.refusals().next().flatten() {
            None => self.reserve(id, &parsed),
            Some(refusal) => Outcome::Refused(refusal),
        };
        self.outcomes.push(outcome);
        Ok(rated)
    }

    async fn batch(&mut self, items: Vec<Item<'_>>) -> Result<Rated, Problem> {
        if items.is_empty() && !self.key.writes_events {
            self.audit_denied(&PERMISSION_DENIED, EVENTS_WRITE);
            return Err(Problem::lacks(EVENTS_WRITE));
        }
        if items.is_empty() && self.on_behalf_of.is_some() && !self.key.scopes.permits(ACT_AS) {
            self.audit_denied(&PERMISSION_DENIED, ACT_AS);
            return Err(Problem::lacks(ACT_AS));
        }
        if items.is_empty() {
            gate::feature(self.shared, EVENTS)?;
        }
        let judged: Vec<_> = items
            .into_iter()
            .map(|item| self.judge(item.raw.len(), item.parsed))
            .collect();
        let good = judged.iter().filter_map(|judged| judged.as_ref().ok());
        let rated = self.rate(good.map(|(_, parsed)| &*parsed.event.kind)).await;
        let mut refusals = rated.refusals();
        // If an identity occurs twice in a batch, the first item with it is appended.
        let mut mine: IdentityMap<BodyHash> = IdentityMap::default();
        mine.reserve(judged.len());
        self.outcomes.reserve(judged.len());
        for judged in judged {
            let passed = judged.and_then(|judged| match refusals.next().flatten() {
                None => Ok(judged),
                Some(refusal) => Err(refusal),
            });
            let outcome = match passed {
                Err(refusal) => Outcome::Refused(refusal),
                Ok((id, parsed)) => match mine.get(&id) {
                    Some(body) if body.is_same(&parsed.body_hash) => Outcome::Duplicate(id),
                    Some(_) => Outcome::Refused(Refusal::mismatch(id)),
                    None => {
                        let body = parsed.body_hash;
                        let outcome = self.reserve(id, &parsed);
                        if matches!(outcome, Outcome::Ingested(_)) {
                            mine.insert(id, body);
                        }
                        outcome
                    }
                },
            };
            self.outcomes.push(outcome);
        }
        drop(refusals);
        Ok(rated)
    }

    /// Counts items of these types against the limits that apply.
    async fn rate<'t>(&self, types: impl Iterator<Item = &'t str> + Clone) -> Rated {
        let (shared, sender) = (self.shared, Sender::of(self.key));
        let address = || auth::client(self.headers, self.peer, &shared.trusted_proxies);
        shared
            .limiting
            .take(sender, Kind::Events, address, types)
            .await
    }

    /// The size limit of an item: an event that is too large to be sent alone is too large in a batch.
    fn item_limit(&self) -> usize {
        let own = self.key.scopes.constraints.max_payload_kb as usize;
        own.saturating_mul(1024)
            .min(self.shared.limits.single_bytes)
    }

    /// Checks size, fields, permission and schema.
    fn judge<'p>(
        &self,
        size: usize,
        parsed: Result<Parsed<'p>, Invalid>,
    ) -> Result<(Identity, Parsed<'p>), Refusal> {
        let constraints = &self.key.scopes.constraints;
        let limit = self.item_limit();
        if size > limit {
            return Err(Refusal::too_large(limit));
        }
        let mut parsed = parsed.map_err(Refusal::invalid)?;
        if let Some(trace) = &self.trace {
            parsed.event.keep_trace(trace);
        }
        let event = &parsed.event;
        if !self.key.writes_events {
            self.audit_denied(&PERMISSION_DENIED, EVENTS_WRITE);
            return Err(Refusal::permission(EVENTS_WRITE));
        }
        if self.on_behalf_of.is_some() && !self.key.scopes.permits(ACT_AS) {
            self.audit_denied(&PERMISSION_DENIED, ACT_AS);
            return Err(Refusal::permission(ACT_AS));
        }
        if let Some(reason) = self.shared.controls.disabled(EVENTS) {
            return Err(Refusal::disabled(EVENTS, reason));
        }
        if !constraints.env_allowlist.is_empty() {
            let env = event.source.rsplit('/').next().unwrap_or_default();
            if !constraints
                .env_allowlist
                .iter()
                .any(|allowed| allowed == env)
            {
                self.audit_denied(&ENV_NOT_ALLOWED, EVENTS_WRITE);
                return Err(Refusal::environment(env));
            }
        }
        let fits = self.shared.event_schemas.check(event);
        fits.map_err(Refusal::invalid)?;
        let key = self.header.or(event.idempotency_key.as_deref());
        let id = match key {
            Some(key) => Identity::of("event-key", &[event.tenant.as_str(), key, &event.id]),
            None => event.identity(),
        };
        Ok((id, parsed))
    }

    fn audit_denied(&self, code: &Code, permission: &'static str) {
        let trusted = &self.shared.trusted_proxies;
        let address = auth::client(self.headers, self.peer, trusted);
        let user_agent = self.headers.get(USER_AGENT).map(HeaderValue::as_bytes);
        self.shared.audit_denied(&Denied {
            key: self.key,
            on_behalf_of: self.on_behalf_of,
            route: "POST /v1/events",
            permission,
            code: code.code,
            client: (address, user_agent),
        });
    }

    fn reserve(&mut self, id: Identity, parsed: &Parsed<'_>) -> Outcome {
        let verdict = self.shared.intake.reserve(id, parsed.body_hash, self.now);
        if let Some(outcome) = not_new(id, verdict) {
            return outcome;
        }
        let event = &parsed.event;
        let mut value =
            Vec::with_capacity(256 + size_of_data(&event.data) + event.extensions.len());
        encode_ingress(event, &mut value);
        let pushed = self.unsent.push(Reserved {
            id,
            body: parsed.body_hash,
            topic: None,
            record: Record {
                key: Some(event.record_key().into()),
                value: Some(value.into()),
                headers: Vec::new(),
            },
        });
        match pushed {
            Ok(()) => Outcome::Ingested(id),
            Err(limit) => Outcome::Refused(Refusal::too_large(limit)),
        }
    }

    /// Appends the new items. Until they are durable, neither they nor their duplicates in the batch are accepted.
    async fn append(mut self) -> Vec<Outcome> {
        let mut reservation = None;
        if let Some(nodes) = &self.shared.nodes {
            reservation = self.ask_others(nodes).await;
        }
        if self.unsent.is_empty() {
            return self.outcomes;
        }
        // Most requests have a single event, which has no duplicates.
        let sent = if self.outcomes.len() > 1 {
            self.unsent.ids()
        } else {
            Vec::new()
        };
        // The append may end long after the answer, and the other nodes are told then.
        let on_end = reservation.map(|reservation| {
            let (on_end, ended) = oneshot::channel();
            reservation.settle(ended);
            on_end
        });
        let durable = self.unsent.submit(on_end).await.unwrap_or(false);
        if !durable {
            for outcome in &mut self.outcomes {
                let lost = match outcome {
                    Outcome::Ingested(_) => true,
                    Outcome::Duplicate(id) => sent.iter().any(|(sent, _)| sent == id),
                    Outcome::Refused(_) => false,
                };
                if lost {
                    *outcome = Outcome::Refused(Refusal::unavailable());
                }
            }
        }
        self.outcomes
    }

    /// Asks the other nodes about items that are new on this node.
    async fn ask_others(&mut self, nodes: &Nodes) -> Option<Reservation> {
        if self.unsent.is_empty() {
            return None;
        }
        let ids = self.unsent.ids();
        let (reservation, verdicts) = nodes.reserve(ids.clone(), self.now).await;
        self.unsent.retain(|index| verdicts[index] == Verdict::New);
        for ((id, _), verdict) in ids.iter().zip(verdicts) {
            let Some(instead) = not_new(*id, verdict) else {
                continue;
            };
            // The event, and its duplicates in this batch.
            for outcome in &mut self.outcomes {
                if matches!(outcome, Outcome::Ingested(i) | Outcome::Duplicate(i) if i == id) {
                    *outcome = instead.clone();
                }
            }
        }
        Some(reservation)
    }
}

/// The outcome of an identity that must not be appended.
pub(crate) fn not_new(id: Identity, verdict: Verdict) -> Option<Outcome> {
    match verdict {
        Verdict::New => None,
        Verdict::Duplicate => Some(Outcome::Duplicate(id)),
        Verdict::Mismatch => Some(Outcome::Refused(Refusal::mismatch(id))),
        Verdict::InFlight => Some(Outcome::Refused(Refusal::in_flight(id))),
        Verdict::Full => Some(Outcome::Refused(Refusal::unavailable())),
    }
}

pub(crate) fn size_of_data(data: &envelope::Data<'_>) -> usize {
    match data {
        envelope::Data::Absent => 0,
        envelope::Data::Json(text) => text.len(),
        envelope::Data::Binary(bytes) => bytes.len(),
    }
}
