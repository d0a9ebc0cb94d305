//! `POST /v1/runs:batch`: one action on all runs that match a filter.
//!
//! The runs are counted, then read page by page, newest first; each receives the action as by a request of its own. Runs requested
//! meanwhile are not included. The answer has a line for each part. The job ends when the client disconnects, or a control forbids it.

use std::{io::Write, sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    response::Response,
};
use futures_util::StreamExt;
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::{
    retry,
    runs::{PAUSE, RESUME, empty, end},
    sent::{Controller, Sent},
};
use crate::{
    api::{
        problem::{LOG_UNAVAILABLE, OVERLOADED, POSTGRES_UNAVAILABLE},
        route::NDJSON,
        run_batches::{BatchStatus, ControlRuns, RunAction, RunsControlled},
        run_reads::place_of_run,
    },
    base::backoff::Backoff,
    port::{
        Shared, gate,
        ingest::events::idempotency_key,
        problem::{Problem, Refused},
        rest::{
            audit::{read, store},
            personal::Personal,
            stream::{self, Aborted, Out},
        },
    },
    store::{
        Store,
        audit::Page,
        runs::{self, RunFilter, RunHead},
    },
};

/// The number of runs read at a time.
const PAGE: usize = 500;
/// The number of runs between two lines of the answer.
const PART: usize = 64;
/// The number of runs that receive the action at the same time.
const AT_ONCE: usize = 8;
/// The maximum number of attempts for a run while the node or the log is unavailable.
const TRIES: u32 = 5;
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(200),
    max: Duration::from_secs(5),
};

/// `POST /v1/runs:batch`.
pub(crate) async fn control(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Refused> {
    let key = idempotency_key(request.headers()).map(|key| key.map(str::to_owned));
    let sent = Sent::read(&shared, request).await?;
    let asked: ControlRuns = sent.fields()?;
    let action = asked.action.ok_or_else(|| sent.missing("action"))?;
    let filter = asked.filter.ok_or_else(|| sent.missing("filter"))?;
    if filter.is_empty() {
        return Err(sent.invalid("`filter` must have at least one member"));
    }
    sent.check_reason(asked.reason.as_ref())?;
    if asked.reason.is_some() && action != RunAction::Cancel {
        return Err(sent.invalid("`reason` is only allowed with the action `cancel`"));
    }
    let key = key.map_err(|problem| sent.caller.refuse(problem))?;
    if action == RunAction::Retry && key.is_none() && !asked.dry_run {
        return Err(sent.missing("idempotency_key"));
    }
    // Checked before the permission; the tenant is not known yet.
    let checked = filter.page("", action, PAGE);
    checked.map_err(|error| sent.invalid(error))?;
    let controller = sent.permit(action.name()).await?;
    let caller = &controller.caller;
    forbidden(&controller, action).map_err(|problem| caller.refuse(problem))?;
    let page = filter.page(controller.tenant.as_str(), action, PAGE);
    let (mut page, wanted) = page.map_err(|error| caller.invalid(error))?;
    let now = shared.clock.now();
    page.until = Some(page.until.map_or(now, |until| until.min(now)));
    let store = store(caller)?;
    let matched = read(caller, runs::count(&store, &page, &wanted)).await?;
    let mut progress = RunsControlled::begin(matched.try_into().unwrap_or_default());
    if asked.dry_run {
        progress.status = BatchStatus::Done;
        return Ok(stream::respond(NDJSON, move |out| {
            Ok(stream::line(out, &progress)?)
        }));
    }
    let Ok(turn) = Arc::clone(&shared.controlling.batches).try_acquire_owned() else {
        let detail = "too many jobs on many runs at the same time";
        return Err(caller.refuse(Problem::new(&OVERLOADED, detail).retry_after(5)));
    };
    let mut detail = Map::new();
    detail.insert(
        "filter".into(),
        serde_json::to_value(&filter).unwrap_or(Value::Null),
    );
    detail.insert("matched".into(), progress.matched.into());
    if let Some(reason) = &asked.reason {
        // It concerns runs with different values.
        let reason = Personal::Unknown.audited(reason);
        detail.insert("reason".into(), reason.into());
    }
    let of = ("runs", action.name());
    caller
        .audit_change(&controller.tenant, "runs.controlled", of, detail)
        .await;
    let batch = Batch {
        controller,
        action,
        reason: asked.reason,
        key: key.unwrap_or_default(),
        store,
        wanted,
    };
    Ok(stream::respond(NDJSON, move |out| {
        let _turn = turn;
        batch.run(page, progress, out)
    }))
}

/// Checks the emergency controls: before the job, and during it.
fn forbidden(controller: &Controller, action: RunAction) -> Result<(), Problem> {
    let (shared, key) = (&controller.caller.shared, &controller.caller.key);
    gate::starts(shared, key)?;
    if action == RunAction::Cancel {
        return Ok(());
    }
    gate::intake(shared)
}

/// An action on many runs.
struct Batch {
    controller: Controller,
    action: RunAction,
    /// Of a cancellation.
    reason: Option<String>,
    /// Names the new runs together with the old ones.
    key: String,
    store: Store,
    wanted: RunFilter,
}

/// The outcome for one run.
enum RunOutcome {
    Done,
    /// The action does not apply, or was done before; with the error code.
    Skipped(String),
    Failed(String),
}

impl Batch {
    /// Writes the lines of the answer. Returns an error if the client has disconnected.
    fn run(
        self,
        mut page: Page,
        mut progress: RunsControlled,
        out: &mut Out,
    ) -> Result<(), Aborted> {
        let runtime = Handle::current();
        let mut write = |progress: &RunsControlled| {
            stream::line(out, progress)?;
            out.flush()
        };
        write(&progress)?;
        loop {
            let rows = match runtime.block_on(self.rows(&page)) {
                Ok(rows) => rows,
                Err(problem) => return Ok(write(&failed(progress, &problem))?),
            };
            for part in rows.chunks(PART) {
                if let Err(problem) = self.may_go_on() {
                    return Ok(write(&failed(progress, &problem))?);
                }
                for outcome in runtime.block_on(self.part(part)) {
                    add(&mut progress, outcome);
                }
                write(&progress)?;
            }
            page.after = rows.last().map(place_of_run);
            if rows.len() < PAGE {
                break;
            }
        }
        progress.status = BatchStatus::Done;
        Ok(write(&progress)?)
    }

    async fn rows(&self, page: &Page) -> Result<Vec<RunHead>, Problem> {
        let rows = runs::runs(&self.store, page, &self.wanted);
        read(&self.controller.caller, rows)
            .await
            .map_err(Refused::into_problem)
    }

    fn may_go_on(&self) -> Result<(), Problem> {
        forbidden(&self.controller, self.action)?;
        if self.controller.caller.shared.stopping.is_cancelled() {
            return Err(Problem::new(&OVERLOADED, "the node stops"));
        }
        Ok(())
    }

    async fn part(&self, rows: &[RunHead]) -> Vec<RunOutcome> {
        let outcomes = rows.iter().map(|row| self.one(&row.run_id));
        let outcomes = futures_util::stream::iter(outcomes).buffer_unordered(AT_ONCE);
        outcomes.collect().await
    }

    /// Sends the action to a run, with retries while the node or the log is unavailable.
    async fn one(&self, run_id: &str) -> RunOutcome {
        let mut tries = 0;
        loop {
            tries += 1;
            let problem = match self.send(run_id).await {
                Ok(true) => return RunOutcome::Done,
                Ok(false) => return RunOutcome::Skipped("duplicate".into()),
                Err(problem) => problem,
            };
            let passing = [&OVERLOADED, &LOG_UNAVAILABLE, &POSTGRES_UNAVAILABLE];
            if passing.contains(&problem.code()) && tries < TRIES {
                tokio::time::sleep(BACKOFF.pause(tries)).await;
                continue;
            }
            let (status, code, _) = problem.summary();
            return match status {
                404 | 409 => RunOutcome::Skipped(code.to_owned()),
                _ => RunOutcome::Failed(code.to_owned()),
            };
        }
    }

    /// Returns false if it was done before.
    async fn send(&self, run_id: &str) -> Result<bool, Problem> {
        let controller = &self.controller;
        let run = Uuid::parse_str(run_id).map_err(|e| Problem::invalid(e.to_string()))?;
        match self.action {
            RunAction::Cancel => {
                let personal = controller.personal(run, self.reason.is_some()).await;
                let message = end(self.reason.clone(), true, &personal);
                controller.deliver(run, &message, None).await?;
            }
            RunAction::Pause => {
                controller.deliver(run, &empty(PAUSE), None).await?;
            }
            RunAction::Resume => {
                controller.deliver(run, &empty(RESUME), None).await?;
            }
            RunAction::Retry => return Ok(!retry::retry_run(controller, run_id, &self.key).await?),
        }
        Ok(true)
    }
}

fn add(progress: &mut RunsControlled, outcome: RunOutcome) {
    let code = match outcome {
        RunOutcome::Done => {
            progress.done += 1;
            return;
        }
        RunOutcome::Skipped(code) => {
            progress.skipped += 1;
            code
        }
        RunOutcome::Failed(code) => {
            progress.failed += 1;
            code
        }
    };
    *progress.codes.entry(code).or_default() += 1;
}

/// The last line of an aborted job.
fn failed(mut progress: RunsControlled, why: &Problem) -> RunsControlled {
    let (_, code, detail) = why.summary();
    progress.status = BatchStatus::Failed;
    progress.error = Some(format!("{code}: {detail}"));
    progress
}
