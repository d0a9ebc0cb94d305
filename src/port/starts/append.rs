//! The last step: complete starts are reserved, appended together, and reported to the other nodes.

use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    judge::Judge,
    outcome::{CheckedStart, StartOutcome, Started},
    refusal::Refusal,
};
use crate::{
    base::id::Identity,
    port::{
        Shared,
        ingest::{
            idempotency::Verdict,
            intake::{Reserved, Unsent},
        },
    },
};

/// Appends the new starts; returns when they are durable.
pub(super) async fn append(
    judge: &Judge<'_>,
    starts: Vec<Result<CheckedStart, Refusal>>,
) -> Vec<StartOutcome> {
    let shared = &*judge.caller.shared;
    let mut unsent = shared.intake.unsent();
    let mut audited = Vec::with_capacity(starts.len());
    let mut taken: Vec<StartOutcome> = Vec::with_capacity(starts.len());
    for start in starts {
        let ready = match start {
            Ok(ready) => ready,
            Err(refusal) => {
                audited.push(None);
                taken.push(Err(refusal));
                continue;
            }
        };
        let id = Identity(*ready.run.as_bytes());
        let verdict = shared.intake.reserve(id, ready.body, judge.now);
        taken.push(match outcome(ready.run, verdict) {
            Some(instead) => instead,
            None => reserve(shared, &mut unsent, &ready),
        });
        audited.push(Some(ready.audited));
    }
    submit(judge, unsent, &mut taken).await;
    for (taken, audited) in taken.iter().zip(audited) {
        if let Some(audited) = audited {
            judge.record_outcome(taken, &audited);
        }
    }
    taken
}

fn reserve(shared: &Shared, unsent: &mut Unsent<'_>, ready: &CheckedStart) -> StartOutcome {
    let pushed = unsent.push(Reserved {
        id: Identity(*ready.run.as_bytes()),
        body: ready.body,
        topic: Some(std::sync::Arc::clone(&shared.commands)),
        record: ready.record.clone(),
    });
    match pushed {
        Ok(()) => Ok(Started {
            run: ready.run,
            duplicate: false,
        }),
        Err(limit) => Err(Refusal::too_large("a start with its plan and tools", limit)),
    }
}

/// Submits the reserved starts, unless another node has them, and waits until they are durable.
async fn submit(judge: &Judge<'_>, mut unsent: Unsent<'_>, taken: &mut [StartOutcome]) {
    if unsent.is_empty() {
        return;
    }
    let mut on_end = None;
    if let Some(nodes) = &judge.caller.shared.nodes {
        let ids = unsent.ids();
        let (reservation, verdicts) = nodes.reserve(ids.clone(), judge.now).await;
        unsent.retain(|index| verdicts[index] == Verdict::New);
        for ((id, _), verdict) in ids.iter().zip(verdicts) {
            let run = Uuid::from_bytes(id.0);
            if verdict == Verdict::New {
                continue;
            }
            for one in taken.iter_mut() {
                if matches!(one, Ok(started) if started.run == run)
                    && let Some(instead) = outcome(run, verdict)
                {
                    *one = instead;
                }
            }
        }
        let (sender, ended) = oneshot::channel();
        reservation.settle(ended);
        on_end = Some(sender);
        if unsent.is_empty() {
            return;
        }
    }
    let sent = unsent.ids();
    if unsent.submit(on_end).await.unwrap_or(false) {
        return;
    }
    let lost = |run: Uuid| sent.iter().any(|(id, _)| id.0 == *run.as_bytes());
    for one in taken {
        if matches!(one, Ok(started) if lost(started.run)) {
            *one = Err(Refusal::unavailable());
        }
    }
}

/// The outcome of a start that must not be appended.
fn outcome(run: Uuid, verdict: Verdict) -> Option<StartOutcome> {
    Some(match verdict {
        Verdict::New => return None,
        Verdict::Duplicate => Ok(Started {
            run,
            duplicate: true,
        }),
        Verdict::Mismatch => Err(Refusal::mismatch()),
        Verdict::InFlight => Err(Refusal::in_flight()),
        Verdict::Full => Err(Refusal::unavailable()),
    })
}
