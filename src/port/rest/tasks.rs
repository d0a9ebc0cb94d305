//! `/v1/tasks/complete`: completes a task that was claimed, or a call that its worker answered with 202. The lease of such a call is a
//! signature, so it needs no table.

use std::{sync::Arc, time::Duration};

use axum::Json;
use axum::response::{IntoResponse, Response};

use super::{
    audit::{read, store},
    caller::{Caller, Permitted, SentUpTo},
    claimed_values, claims,
};
use crate::{
    api::{
        problem::PAYLOAD_TOO_LARGE,
        tasks::{CompleteTask, CompletedTask, TaskOutcome},
    },
    commands::{
        Command,
        result::{RESULT, ResultError, StepOutcome, StepResult},
    },
    log::Append,
    port::problem::{Problem, Refused},
    runs::Json as Raw,
    store::tasks,
    workers::{OUTPUT_MAX, TaskId, is_lease, read_output},
};

/// The size limit of a body: an output and the members around it, in bytes.
const BODY_BYTES: usize = OUTPUT_MAX + 64 * 1024;
/// The length limits of an error's code and message, in bytes.
const CODE_MAX: usize = 128;
const MESSAGE_MAX: usize = 8 * 1024;
/// The time limit for the append.
const DEADLINE: Duration = Duration::from_secs(10);

/// `POST /v1/tasks/complete`.
pub(crate) async fn complete(
    SentUpTo(caller, body): SentUpTo<BODY_BYTES, Caller>,
) -> Result<Response, Refused> {
    let request: CompleteTask = caller.body(body)?;
    let missing = |field: &str| caller.missing(field);
    let task_id = request
        .task_id
        .as_deref()
        .ok_or_else(|| missing("task_id"))?;
    let lease = request.lease.as_deref().ok_or_else(|| missing("lease"))?;
    let outcome = request.outcome.ok_or_else(|| missing("outcome"))?;
    let id = TaskId::parse(task_id).ok_or_else(|| caller.invalid("`task_id` is not a task id"))?;
    let mut result = result(&caller, id, outcome, &request)?;
    let caller = caller.permit()?;
    let (tenant, secrets) = (&caller.key.tenant, &caller.shared.tools.secrets);
    if !is_lease(secrets, tenant.as_str(), task_id, lease) {
        let hash = claims::hash(lease).ok_or_else(|| caller.refuse(claims::stale()))?;
        let store = store(&caller)?;
        let (of, outcome) = ((tenant.as_str(), task_id), outcome.name());
        let completed = read(&caller, tasks::complete(&store, of, &hash, outcome)).await?;
        let completed = completed.ok_or_else(|| caller.refuse(claims::stale()))?;
        if let Some(sealed) = &completed.sealed {
            claimed_values::conceal(secrets, id.run_id, sealed, &mut result);
        }
    }
    append(&caller, id, &result).await?;
    let status = "recorded";
    Ok(Json(CompletedTask { task_id, status }).into_response())
}

fn result(
    caller: &Caller,
    id: TaskId<'_>,
    outcome: TaskOutcome,
    request: &CompleteTask,
) -> Result<StepResult, Refused> {
    let mut result = StepResult {
        step_id: id.step_id.to_owned(),
        attempt: id.attempt,
        kind: id.kind,
        outcome: StepOutcome::Succeeded,
        output: None,
        error: None,
        retry_after_ms: None,
        answered: true,
    };
    match (outcome, &request.error) {
        (TaskOutcome::Succeeded, Some(_)) => {
            return Err(caller.invalid("a task that succeeded cannot have an `error`"));
        }
        (TaskOutcome::Succeeded, None) => {
            let output = request
                .output
                .as_ref()
                .map_or("null", |output| output.get());
            if output.len() > OUTPUT_MAX {
                let detail = format!("`output` may have at most {OUTPUT_MAX} bytes");
                return Err(caller.refuse(Problem::new(&PAYLOAD_TOO_LARGE, detail)));
            }
            let output = read_output(output.as_bytes());
            let output: Raw = output.map_err(|why| caller.invalid(format!("`output`: {why}")))?;
            result.output = Some(output);
        }
        (TaskOutcome::Failed, _) if request.output.is_some() => {
            return Err(caller.invalid("a task that failed cannot have an `output`"));
        }
        (TaskOutcome::Failed, None) => return Err(caller.missing("error")),
        (TaskOutcome::Failed, Some(error)) => {
            if error.code.is_empty() || error.code.len() > CODE_MAX {
                let wrong = format!("`error.code` must have 1 to {CODE_MAX} bytes");
                return Err(caller.invalid(wrong));
            }
            if error.message.len() > MESSAGE_MAX {
                let wrong = format!("`error.message` may have at most {MESSAGE_MAX} bytes");
                return Err(caller.invalid(wrong));
            }
            result.outcome = StepOutcome::Failed;
            result.error = Some(ResultError {
                code: error.code.clone(),
                message: error.message.clone(),
                retryable: error.retryable,
            });
            result.retry_after_ms = request.retry_after_ms;
        }
    }
    Ok(result)
}

/// Appends the result; returns when it is durable.
async fn append(caller: &Permitted, id: TaskId<'_>, result: &StepResult) -> Result<(), Refused> {
    let unavailable = || caller.refuse(Problem::log_unavailable());
    let tools = &caller.shared.tools;
    let command = Command {
        tenant: caller.key.tenant.to_string(),
        run_id: id.run_id.to_owned(),
        kind: RESULT.to_owned(),
        at: caller.shared.clock.now().0.saturating_mul(1000),
        principal: caller.key.principal.clone(),
        on_behalf_of: caller.on_behalf_of.clone(),
        traceparent: None,
        tracestate: None,
        body: serde_json::to_string(result).map_err(|e| caller.invalid(e))?,
    };
    let record = command.encode().map_err(|e| caller.invalid(e))?;
    let topic = Arc::clone(&tools.names.commands);
    let appended = tools.log.append(vec![Append { topic, record }], None);
    match tokio::time::timeout(DEADLINE, appended).await {
        Ok(Ok(Ok(_))) => Ok(()),
        Ok(Ok(Err(error))) => {
            tracing::warn!(%error, "the outcome of a task could not be recorded");
            Err(unavailable())
        }
        Ok(Err(_)) | Err(_) => Err(unavailable()),
    }
}
