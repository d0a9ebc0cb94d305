//! The values of placeholders in tasks: put in when a task is claimed, and replaced again when it is completed.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::time::timeout;

use super::{audit::read, caller::Permitted};
use crate::{
    commands::{
        Command,
        result::{RESULT, ResultError, StepResult},
    },
    controls::SecretKeys,
    guardian::placeholders,
    log::Append,
    port::problem::{Problem, Refused},
    runs::CallKind,
    slots::{UNREADABLE, Values, mismatch},
    store::{
        Store,
        tasks::{self, ClaimedRow, LeaseHash},
    },
    workers::TaskId,
    workflows::Catalog,
};

/// The time limit for the append.
const APPEND_DEADLINE: Duration = Duration::from_secs(5);
/// The principal of the result of a task that cannot be handed out.
const OMNILINK: &str = "omnilink";

/// Puts the values into the input of a claimed task, and into what it undoes, and checks the input that had placeholders against the
/// schema of its tool. `Err`: the task cannot be carried out.
pub(super) fn bind(
    secrets: &SecretKeys,
    catalog: &Catalog,
    row: &mut ClaimedRow,
) -> Result<(), ResultError> {
    let unchecked = placeholders(&row.input).next().is_some();
    if let Some(sealed) = row.sealed.take() {
        put_in(secrets, &sealed, row)?;
    }
    let Some(tool) = catalog.tool(&row.tool).filter(|_| unchecked) else {
        return Ok(());
    };
    let input: Value = serde_json::from_str(&row.input).unwrap_or_default();
    match tool.schema.check(&input) {
        Err(wrong) if row.kind == CallKind::Execute.name() => {
            Err(failed("invalid_input", mismatch(&wrong.at)))
        }
        _ => Ok(()),
    }
}

fn failed(code: &str, message: String) -> ResultError {
    ResultError {
        code: code.to_owned(),
        message,
        retryable: false,
    }
}

fn put_in(secrets: &SecretKeys, sealed: &str, row: &mut ClaimedRow) -> Result<(), ResultError> {
    let values = Values::open(secrets, &row.run_id, sealed)
        .map_err(|error| failed(UNREADABLE, error.to_string()))?;
    let bind = |text: &str| {
        let bound = values.bind(text);
        bound.map_err(|error| failed("invalid_input", error.to_string()))
    };
    row.input = bind(&row.input)?;
    row.execute = row.execute.as_deref().map(bind).transpose()?;
    Ok(())
}

/// A claimed task that cannot be handed out.
pub(super) struct Failed {
    pub(super) row: ClaimedRow,
    pub(super) lease: LeaseHash,
    pub(super) error: ResultError,
}

/// Fails the calls of tasks that cannot be handed out, and removes them from the queue.
pub(super) async fn fail(
    caller: &Permitted,
    store: &Store,
    failed: Vec<Failed>,
) -> Result<(), Refused> {
    let tenant = caller.key.tenant.as_str();
    for Failed { row, lease, error } in failed {
        if let Some(id) = TaskId::parse(&row.task_id) {
            append(caller, &row, id, error).await?;
        }
        read(caller, tasks::forget(store, tenant, &row.task_id, &lease)).await?;
    }
    Ok(())
}

async fn append(
    caller: &Permitted,
    row: &ClaimedRow,
    id: TaskId<'_>,
    error: ResultError,
) -> Result<(), Refused> {
    let shared = &caller.shared;
    let result = StepResult::failed(id.step_id, id.attempt, id.kind, error);
    let command = Command {
        tenant: caller.key.tenant.to_string(),
        run_id: row.run_id.clone(),
        kind: RESULT.to_owned(),
        at: shared.clock.now().0.saturating_mul(1000),
        principal: OMNILINK.to_owned(),
        on_behalf_of: None,
        traceparent: row.traceparent.clone(),
        tracestate: row.tracestate.clone(),
        body: serde_json::to_string(&result).map_err(|e| caller.invalid(e))?,
    };
    let append = Append {
        topic: Arc::clone(&shared.tools.names.commands),
        record: command.encode().map_err(|e| caller.invalid(e))?,
    };
    let appended = shared.tools.log.append(vec![append], None);
    match timeout(APPEND_DEADLINE, appended).await {
        Ok(Ok(Ok(_))) => Ok(()),
        // The lease expires.
        _ => Err(caller.refuse(Problem::log_unavailable())),
    }
}

/// Replaces the values in the result of a task by their placeholders.
pub(super) fn conceal(secrets: &SecretKeys, run_id: &str, sealed: &str, result: &mut StepResult) {
    // A node without their key has not handed them out.
    let Ok(values) = Values::open(secrets, run_id, sealed) else {
        return;
    };
    if let Some(output) = &mut result.output {
        *output = values.conceal_json(output);
    }
    if let Some(error) = &mut result.error {
        error.code = values.conceal(&error.code);
        error.message = values.conceal(&error.message);
    }
}
