//! `POST /v1/runs/{id}/retry`: a new run that repeats one that has ended.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Path, Request, State},
    response::Response,
};
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep};

use super::sent::{Controller, Sent};
use crate::{
    api::{problem::NOT_ENDED, run_controls::RetryRun, starts::PLANS_INLINE},
    audit::Outcome,
    envelope::{BodyHash, json::without_mark},
    port::{
        Shared,
        ingest::events::idempotency_key,
        problem::{Problem, Refused},
        rest::{
            audit::{read, unavailable},
            wait::{RunLookup, has_ended},
        },
        starts::{
            earlier_run::{EarlierRun, EarlierRunReader},
            retry::RetryRequest,
            wait::preferred,
        },
    },
    runs::Event,
    store::runs,
};

/// How long to wait for the row of the run to show that the run has ended.
const ROW_TIMEOUT: Duration = Duration::from_secs(2);
/// The poll interval of that row.
const ROW_EVERY: Duration = Duration::from_millis(50);
/// The number of records read at a time.
const PAGE: usize = 100;

/// `POST /v1/runs/{id}/retry`.
pub(crate) async fn retry(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    let key = idempotency_key(request.headers()).map(|key| key.map(str::to_owned));
    let wait = preferred(request.headers());
    let sent = Sent::read(&shared, request).await?;
    let options: RetryRun = sent.fields_or_default()?;
    if options.compensations && (options.reuse || options.plan.is_some()) {
        return Err(sent.invalid("`compensations` cannot be combined with `reuse` or `plan`"));
    }
    let key = key.map_err(|problem| sent.caller.refuse(problem))?;
    let key = key.ok_or_else(|| sent.missing("idempotency_key"))?;
    let body = match without_mark(&sent.body) {
        b"" => b"{}",
        body => body,
    };
    let body_hash = BodyHash::of_text(body).map_err(|error| sent.invalid(error))?;
    let controller = sent.permit("retry").await?;
    let caller = &controller.caller;
    if options.plan.is_some() && !caller.key.scopes.permits(PLANS_INLINE) {
        return Err(caller.refuse(Problem::lacks(PLANS_INLINE)));
    }
    let earlier = earlier(&controller, &id, options.reuse).await?;
    let retry_request = RetryRequest {
        tenant: controller.tenant.clone(),
        earlier: &earlier,
        retry: &options,
        key: &key,
        body_hash,
        traceparent: controller.trace.parent.clone(),
        tracestate: controller.trace.state.clone(),
        wait,
    };
    let answer = retry_request.start(caller).await;
    record(&controller, &id, &options, answer.as_ref().err()).await;
    answer.map_err(|problem| Refused::new(problem, caller.request_id()))
}

/// Retries a run, without options, under an idempotency key. Returns true if a run with that key was started before.
pub(super) async fn retry_run(
    controller: &Controller,
    id: &str,
    key: &str,
) -> Result<bool, Problem> {
    let options = RetryRun::default();
    let earlier = earlier(controller, id, false)
        .await
        .map_err(Refused::into_problem)?;
    let retry = RetryRequest {
        tenant: controller.tenant.clone(),
        earlier: &earlier,
        retry: &options,
        key,
        body_hash: BodyHash::of_text(b"{}").map_err(|e| Problem::invalid(e.to_string()))?,
        traceparent: controller.trace.parent.clone(),
        tracestate: controller.trace.state.clone(),
        wait: None,
    };
    let answer = retry.start_only(&controller.caller).await;
    record(controller, id, &options, answer.as_ref().err()).await;
    answer
}

/// Reads what the run has done, once its row shows that it has ended; for `reuse` also which runs have taken over its steps.
async fn earlier(controller: &Controller, id: &str, reuse: bool) -> Result<EarlierRun, Refused> {
    let caller = &controller.caller;
    let lookup = RunLookup::new(caller, Some(controller.tenant.as_str()), id)?;
    let until = Instant::now() + ROW_TIMEOUT;
    let head = loop {
        let head = lookup.found().await?;
        if has_ended(&head) {
            break head;
        }
        if Instant::now() >= until {
            let detail = "the run has not ended: cancel it, or wait for its end";
            return Err(caller.refuse(Problem::new(&NOT_ENDED, detail)));
        }
        sleep(ROW_EVERY).await;
    };
    let broken = |why: String| caller.refuse(unavailable(why));
    let mut reader = EarlierRunReader::default();
    let mut last = 0;
    loop {
        let of = (lookup.tenant.as_str(), &*lookup.run_id);
        let rows = read(caller, runs::history(&lookup.store, of, last, PAGE)).await?;
        let full = rows.len() == PAGE;
        for row in rows {
            last += 1;
            // An unreadable record may be the compensation of a step.
            if row.seq != last {
                return Err(broken(format!(
                    "record {last} of the run's history is missing"
                )));
            }
            let Some(event) = event(&row) else {
                let why = format!("record {last} of the run's history cannot be read");
                return Err(broken(why));
            };
            reader.apply(event);
        }
        if !full {
            break;
        }
    }
    if last < head.seq {
        let why = format!("record {} of the run's history is missing", last + 1);
        return Err(broken(why));
    }
    let earlier = reader.finish(lookup.run_id.clone());
    let earlier =
        earlier.ok_or_else(|| broken("the run's history has no start or no plan".into()))?;
    if !reuse {
        return Ok(earlier);
    }
    let of = (lookup.tenant.as_str(), &*lookup.run_id);
    let taken_over = read(caller, runs::taken_over(&lookup.store, of)).await?;
    Ok(earlier.taken_over(taken_over))
}

/// Decodes a record; `None` if it is damaged or its type is unknown to this version.
fn event(row: &runs::RecordRow) -> Option<Event> {
    let mut record: Value = serde_json::from_str(&row.record).ok()?;
    record["type"] = row.kind.clone().into();
    serde_json::from_value(record).ok()
}

/// Adds an entry to the audit log about the run that is repeated.
async fn record(controller: &Controller, id: &str, options: &RetryRun, refused: Option<&Problem>) {
    let caller = &controller.caller;
    let mut detail = Map::new();
    for (name, set) in [
        ("reuse", options.reuse),
        ("compensations", options.compensations),
        ("plan", options.plan.is_some()),
    ] {
        if set {
            detail.insert(name.into(), true.into());
        }
    }
    let outcome = match refused {
        None => Outcome::Ok,
        Some(problem) => {
            let (status, code, _) = problem.summary();
            detail.insert("code".into(), code.into());
            if status == 403 {
                Outcome::Denied
            } else {
                Outcome::Failed
            }
        }
    };
    let entry = caller
        .audit_entry(&controller.tenant, "run.retried", outcome)
        .resource("run", id)
        .detail(detail);
    caller.shared.audit.record_durably(entry).await;
}
