//! `POST /v1/commands`, `/v1/workflows`, `/v1/goals`, `/v1/tasks`: one start or a batch.

use std::{collections::HashMap, sync::Arc};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, HeaderValue, header::CONTENT_TYPE},
    response::Response,
};

use super::{
    answer,
    append::append,
    judge::{Candidate, Judge},
    outcome::CheckedStart,
    refusal::Refusal,
    wait::{Waiting, preferred},
};
use crate::{
    api::{
        events::ItemStatus,
        problem::{BATCH_TOO_LARGE, IDEMPOTENCY_MISMATCH, PAYLOAD_TOO_LARGE},
        starts::{ORCHESTRATIONS_REQUEST, TASKS_CREATE},
    },
    controls::ACT_AS,
    envelope::{
        self, BodyHash, ParsedStart, StartItem, StartKind, StartReceipt, TraceContext,
        parse_start_binary, parse_starts,
    },
    limits::Lease,
    port::{
        Shared, gate,
        ingest::{
            body,
            events::{idempotency_key, refuse_body, trace},
            media::{self, Form},
        },
        limited::Sender,
        problem::{Problem, Refused},
        rest::caller::Caller,
    },
    starts::{StartFields, check_idempotency_key},
};

/// `POST /v1/commands`.
pub(crate) async fn commands(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Refused> {
    post(StartKind::Command, &shared, request).await
}

/// `POST /v1/workflows`.
pub(crate) async fn workflows(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Refused> {
    post(StartKind::Workflow, &shared, request).await
}

/// `POST /v1/goals`.
pub(crate) async fn goals(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Refused> {
    post(StartKind::Goal, &shared, request).await
}

/// `POST /v1/tasks`.
pub(crate) async fn tasks(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Refused> {
    post(StartKind::Task, &shared, request).await
}

async fn post(
    kind: StartKind,
    shared: &Arc<Shared>,
    request: Request,
) -> Result<Response, Refused> {
    let (caller, headers, body) = identify(shared, request, shared.limits.batch_bytes).await?;
    let judge = Judge::of(&caller, kind);
    let batch = match process(&judge, &headers, body).await {
        Ok(batch) => batch,
        Err(problem) => {
            judge.record_problem(&problem);
            return Err(caller.refuse(problem));
        }
    };
    let waiting = batch.waiting(&judge, &headers);
    let taken = append(&judge, batch.starts).await;
    // While the request only waits, it does not count as in flight.
    drop(batch.in_flight);
    if let (Some(waiting), [Ok(started)]) = (waiting, &taken[..])
        && let Some(run) = waiting.end(started).await
    {
        return Ok(judge.with_limit(answer::ended(&run)));
    }
    answer::respond(caller.request_id(), batch.many, taken)
        .map(|response| judge.with_limit(response))
        .map_err(|problem| caller.refuse(problem))
}

/// Checks that controls can be read, then the announced length, then authenticates.
pub(super) async fn identify(
    shared: &Arc<Shared>,
    request: Request,
    limit: usize,
) -> Result<(Caller, HeaderMap, axum::body::Body), Refused> {
    let (mut parts, body) = request.into_parts();
    if let Err(problem) = gate::readable(shared) {
        body::discard(body);
        return Err(Refused::new(problem, shared.ids.next()));
    }
    if body::announced(&body).unwrap_or(0) > limit as u64 {
        let form = media::form(&parts.headers).unwrap_or(Form::Json);
        body::discard(body);
        let problem = refuse_body(body::BodyError::TooLarge, form, limit);
        return Err(Refused::new(problem, shared.ids.next()));
    }
    match Caller::from_request_parts(&mut parts, shared).await {
        Ok(caller) => Ok((caller, parts.headers, body)),
        Err(refused) => {
            body::discard(body);
            Err(refused)
        }
    }
}

async fn process(
    judge: &Judge<'_>,
    headers: &HeaderMap,
    mut body: axum::body::Body,
) -> Result<Batch, Problem> {
    let shared = &judge.caller.shared;
    let form = match media::form(headers) {
        Ok(form) => form,
        Err(problem) => {
            body::discard(body);
            return Err(problem);
        }
    };
    let in_flight = match shared.limiting.enter(Sender::of(&judge.caller.key)).await {
        Ok(lease) => lease,
        Err(problem) => {
            body::discard(body);
            return Err(problem);
        }
    };
    let limit = match form {
        Form::Structured | Form::Binary => shared.limits.single_bytes,
        Form::Batch | Form::Json => shared.limits.batch_bytes,
    };
    let bytes = match body::read(&mut body, limit, &shared.bodies).await {
        Ok(bytes) => bytes,
        Err(error) => {
            body::discard(body);
            return Err(refuse_body(error, form, limit));
        }
    };
    let pending = StartsRequest {
        judge,
        header: idempotency_key(headers)?,
        trace: trace(headers),
    };
    let (items, is_batch) = match parse(judge, form, headers, &bytes) {
        Ok(parsed) => parsed,
        Err(invalid) if invalid.code == BATCH_TOO_LARGE.code => {
            return Err(Problem::new(&BATCH_TOO_LARGE, invalid.message));
        }
        Err(invalid) => {
            let refusal = Refusal::from(invalid);
            judge.record_refusal(None, None, None, &refusal);
            return Ok(Batch {
                starts: vec![Err(refusal)],
                many: false,
                in_flight,
            });
        }
    };
    if !is_batch && bytes.len() > shared.limits.single_bytes {
        return Err(Problem::new(
            &PAYLOAD_TOO_LARGE,
            format!(
                "a single start may have at most {} bytes",
                shared.limits.single_bytes
            ),
        ));
    }
    if items.is_empty() {
        check_empty(judge)?;
    }
    // If an identity occurs twice in a batch, the first accepted start with it is appended.
    let mut mine = HashMap::new();
    let mut starts = Vec::with_capacity(items.len());
    for item in items {
        starts.push(pending.item(item, is_batch, &mut mine).await);
    }
    Ok(Batch {
        starts,
        many: is_batch,
        in_flight,
    })
}

/// Checks of an empty batch, which has no start to refuse.
fn check_empty(judge: &Judge<'_>) -> Result<(), Problem> {
    let caller = judge.caller;
    let permission = match judge.kind {
        StartKind::Task => TASKS_CREATE,
        _ => ORCHESTRATIONS_REQUEST,
    };
    let acts = caller.on_behalf_of.as_ref().map(|_| ACT_AS);
    let needed = std::iter::once(permission).chain(acts);
    for permission in needed {
        if !caller.key.scopes.permits(permission) {
            return Err(Problem::lacks(permission));
        }
    }
    gate::feature(&caller.shared, judge.feature())
}

/// The checked starts of one request.
struct Batch {
    starts: Vec<Result<CheckedStart, Refusal>>,
    /// Whether the body is an array, of any length.
    many: bool,
    /// Counts as one of the key's requests in flight.
    in_flight: Option<Lease>,
}

impl Batch {
    /// Follows the run of a single start, if the client wants to wait for its end.
    fn waiting(&self, judge: &Judge<'_>, headers: &HeaderMap) -> Option<Waiting> {
        let [Ok(ready)] = &self.starts[..] else {
            return None;
        };
        let timeout = preferred(headers).filter(|_| !self.many)?;
        let shared = &judge.caller.shared;
        Some(Waiting::new(shared, &judge.tenant, ready.run, timeout))
    }
}

fn parse<'a>(
    judge: &Judge<'_>,
    form: Form,
    headers: &'a HeaderMap,
    body: &'a [u8],
) -> Result<(Vec<StartItem<'a>>, bool), envelope::Invalid> {
    let receipt = StartReceipt {
        kind: judge.kind,
        tenant: &judge.caller.key.tenant,
        received: judge.now,
    };
    let most = judge.caller.shared.limits.batch_items;
    match form {
        Form::Json => parse_starts(body, envelope::Form::OmniLink, most, receipt),
        Form::Structured | Form::Batch => {
            let (items, is_batch) = parse_starts(body, envelope::Form::CloudEvents, most, receipt)?;
            if is_batch != (form == Form::Batch) {
                let expected = if is_batch { "one start" } else { "an array" };
                let message = format!("the body must be {expected}, by its content type");
                return Err(envelope::Invalid::payload(message));
            }
            Ok((items, is_batch))
        }
        Form::Binary => {
            let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
            let headers = headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_bytes()));
            let parsed = parse_start_binary(headers, content_type, body, receipt);
            Ok((vec![StartItem { raw: body, parsed }], false))
        }
    }
}

struct StartsRequest<'a> {
    judge: &'a Judge<'a>,
    /// `Idempotency-Key`.
    header: Option<&'a str>,
    /// `traceparent` and `tracestate`, for starts that have none themselves.
    trace: Option<TraceContext<'a>>,
}

impl StartsRequest<'_> {
    async fn item(
        &self,
        item: StartItem<'_>,
        is_batch: bool,
        mine: &mut HashMap<Vec<String>, BodyHash>,
    ) -> Result<CheckedStart, Refusal> {
        let limit = self.judge.size_limit();
        let parsed = if item.raw.len() > limit {
            Err(Refusal::too_large("an item", limit))
        } else {
            item.parsed.map_err(Refusal::from)
        };
        let mut parsed = match parsed {
            Ok(parsed) => parsed,
            Err(refusal) => {
                self.judge.record_refusal(None, None, None, &refusal);
                return Err(refusal);
            }
        };
        if let Some(trace) = &self.trace {
            parsed.event.keep_trace(trace);
        }
        let (fields, identity) = match self.fields(&parsed, is_batch) {
            Ok(fields) => fields,
            Err(refusal) => {
                let event = Some(&parsed.event);
                self.judge.record_refusal(event, None, None, &refusal);
                return Err(refusal);
            }
        };
        if let Some(first) = mine.get(&identity)
            && !first.is_same(&parsed.body_hash)
        {
            let message = "the same identity is in this batch with another body";
            let refusal = Refusal::new(ItemStatus::Error, &IDEMPOTENCY_MISMATCH, message);
            let event = Some(&parsed.event);
            self.judge.record_refusal(event, None, None, &refusal);
            return Err(refusal);
        }
        let candidate = Candidate {
            event: &parsed.event,
            body_hash: parsed.body_hash,
            fields,
            identity: identity.clone(),
        };
        let ready = self.judge.start(candidate).await?;
        // A refused start does not use up its identity.
        mine.entry(identity).or_insert(parsed.body_hash);
        Ok(ready)
    }

    /// Parses the fields, and derives the identity.
    fn fields(
        &self,
        parsed: &ParsedStart<'_>,
        is_batch: bool,
    ) -> Result<(StartFields, Vec<String>), Refusal> {
        let event = &parsed.event;
        let fields = StartFields::read(parsed, self.judge.now)?;
        let key = self.header.or(event.idempotency_key.as_deref());
        let key = key.ok_or_else(Refusal::no_idempotency_key)?;
        check_idempotency_key(key)?;
        let mut identity = vec!["run".to_owned(), event.tenant.to_string(), key.to_owned()];
        if is_batch {
            identity.push(event.id.to_string());
        }
        Ok((fields, identity))
    }
}
