//! Appends the event of a webhook, like any event of `POST /v1/events`: it is reserved, appended, and reported to the other nodes.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::recent::{self, Known};
use crate::{
    base::{clock::Millis, id::Identity},
    bridges::{Received, Window},
    envelope::{BodyHash, Event, avro::encode_ingress},
    log::Record,
    port::{
        Shared,
        ingest::{
            answer::{Outcome, Refusal},
            events::{not_new, size_of_data},
            idempotency::Verdict,
            intake::{Reserved, Unsent},
        },
    },
};

/// Appends an event, unless it is a duplicate; returns when it is durable.
pub(super) async fn append(shared: &Arc<Shared>, received: &Received, now: Millis) -> Outcome {
    let event = &received.parsed.event;
    let body = received.parsed.body_hash;
    let id = event.identity();
    let first = match received.window {
        Window::Events => None,
        Window::Short(for_ms) => match first(shared, received.identity, id, now, for_ms).await {
            Ok(first) => Some(first),
            Err(known) if known.durable => return Outcome::Duplicate(known.id),
            Err(known) => return Outcome::Refused(Refusal::in_flight(known.id)),
        },
    };
    if let Some(outcome) = not_new(id, shared.intake.reserve(id, body, now)) {
        return outcome;
    }
    let mut unsent = shared.intake.unsent();
    let record = record(event);
    if let Err(limit) = unsent.push(Reserved {
        id,
        body,
        topic: None,
        record,
    }) {
        return Outcome::Refused(Refusal::too_large(limit));
    }
    let submitted = match first {
        Some(first) => submit_first(shared, unsent, first),
        None => match submit(shared, unsent, (id, body), now).await {
            Ok(submitted) => submitted,
            Err(outcome) => return outcome,
        },
    };
    if !submitted.await.unwrap_or(false) {
        return Outcome::Refused(Refusal::unavailable());
    }
    if let Window::Short(_) = received.window {
        // The task of `submit_first` may run after the next request.
        shared.hooks.recent.settle(received.identity, id, true);
    }
    Outcome::Ingested(id)
}

fn record(event: &Event<'_>) -> Record {
    let mut value = Vec::with_capacity(256 + size_of_data(&event.data) + event.extensions.len());
    encode_ingress(event, &mut value);
    Record {
        key: Some(Bytes::from(event.record_key())),
        value: Some(value.into()),
        headers: Vec::new(),
    }
}

/// Submits the event, unless another node already knows it; then that node's outcome is returned.
async fn submit(
    shared: &Shared,
    unsent: Unsent<'_>,
    (id, body): (Identity, BodyHash),
    now: Millis,
) -> Result<oneshot::Receiver<bool>, Outcome> {
    let Some(nodes) = &shared.nodes else {
        return Ok(unsent.submit(None));
    };
    let (reservation, verdicts) = nodes.reserve(vec![(id, body)], now).await;
    let verdict = verdicts.first().copied().unwrap_or(Verdict::New);
    if let Some(outcome) = not_new(id, verdict) {
        return Err(outcome);
    }
    // The append may end long after the answer, and the other nodes are told then.
    let (on_end, ended) = oneshot::channel();
    reservation.settle(ended);
    Ok(unsent.submit(Some(on_end)))
}

/// Reserves a body without its own id, on this node and on the others.
async fn first(
    shared: &Shared,
    body: Identity,
    id: Identity,
    now: Millis,
    for_ms: i64,
) -> Result<recent::Reserved<'_>, Known> {
    let reserved = shared.hooks.recent.reserve(body, id, now, for_ms)?;
    if let Some(nodes) = &shared.nodes
        && let Some((id, durable)) = nodes.first(&body, &id, for_ms).await
    {
        return Err(Known { id, durable });
    }
    Ok(reserved)
}

fn submit_first(
    shared: &Arc<Shared>,
    unsent: Unsent<'_>,
    first: recent::Reserved<'_>,
) -> oneshot::Receiver<bool> {
    let (on_end, ended) = oneshot::channel();
    let submitted = unsent.submit(Some(on_end));
    let (body, id) = (first.body, first.id);
    first.submitted();
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        // If no result arrives, the process is ending; the body stays in flight until its window ends.
        let Ok(durable) = ended.await else { return };
        shared.hooks.recent.settle(body, id, durable);
        if let Some(nodes) = &shared.nodes {
            nodes.settle_first(&body, &id, durable).await;
        }
    });
    submitted
}
