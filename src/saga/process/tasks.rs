//! Records on `steps` about the state of claimable tasks after they were scheduled, for the queue in Postgres that follows the topic.

use super::run_cache::About;
use crate::{
    base::clock::Millis,
    log::topics::Names,
    plans::{Context, Tool, Worker},
    runs::{
        CallKind, CallKindName, Event, Json, StepCommand, TaskState, TaskStateName,
        idempotency_key, task_id,
    },
    saga::{CompiledStep, Run},
    stream::{Context as Transaction, Failure, Rejected},
};

/// The maximum size of a limit's key, in bytes.
const LIMIT_KEY_MAX: usize = 512;

/// A task: an attempt of one of a step's two calls.
#[derive(Clone, Copy)]
struct Task<'a> {
    step: &'a CompiledStep,
    kind: CallKind,
    attempt: u32,
}

/// Writes the changes of tasks that follow from an event.
pub(super) fn follow(
    names: &Names,
    about: &About,
    run: &Run,
    event: &Event,
    cx: &mut Transaction<'_>,
) -> Result<(), Failure> {
    let now = cx.now();
    let mut write_state = |task: Task<'_>, state, deadline| {
        let Some(command) = command(about, task, state, deadline, now) else {
            return Ok(());
        };
        cx.emit_here(&names.steps, command.encode().map_err(encode_failed)?);
        Ok(())
    };
    match event {
        Event::StepStarted {
            step_id,
            kind,
            attempt,
            deadline,
        } => match find(run, step_id) {
            Some(step) => {
                let (kind, attempt) = (*kind, *attempt);
                let task = Task {
                    step,
                    kind,
                    attempt,
                };
                write_state(task, TaskState::Started, *deadline)
            }
            None => Ok(()),
        },
        Event::Paused { .. } | Event::Resumed { .. } | Event::RunReleased { .. } => {
            let state = match event {
                Event::Paused { .. } => TaskState::Paused,
                _ => TaskState::Resumed,
            };
            for in_flight in run.claimable() {
                let task = Task {
                    step: in_flight.step,
                    kind: in_flight.kind,
                    attempt: in_flight.attempt,
                };
                write_state(task, state, in_flight.deadline.unwrap_or(now))?;
            }
            Ok(())
        }
        _ => match over(run, event) {
            Some(task) => write_state(task, TaskState::Over, now),
            None => Ok(()),
        },
    }
}

/// The task that an event ends.
fn over<'r>(run: &'r Run, event: &Event) -> Option<Task<'r>> {
    let (step_id, kind, attempt) = match event {
        Event::StepSucceeded {
            step_id, attempt, ..
        }
        | Event::StepFailed {
            step_id, attempt, ..
        }
        | Event::StepUnknown {
            step_id, attempt, ..
        } => (step_id, CallKind::Execute, Some(*attempt)),
        Event::StepRetryScheduled {
            step_id,
            kind,
            attempt,
            ..
        } => (step_id, *kind, Some(*attempt)),
        Event::CompensationSucceeded { step_id, attempt }
        | Event::CompensationFailed {
            step_id, attempt, ..
        } => (step_id, CallKind::Compensate, Some(*attempt)),
        // The event has already decremented the attempt.
        Event::StepHeld { step_id, kind, .. } => {
            let step = find(run, step_id)?;
            let attempt = run.attempts(step_id, *kind) + 1;
            return Some(Task {
                step,
                kind: *kind,
                attempt,
            });
        }
        Event::StepCancelled { step_id } => (step_id, CallKind::Execute, None),
        Event::IncidentOpened(request) => (request.step_id.as_ref()?, CallKind::Execute, None),
        _ => return None,
    };
    let step = find(run, step_id)?;
    let attempt = attempt.unwrap_or_else(|| run.attempts(step_id, kind));
    (attempt > 0).then_some(Task {
        step,
        kind,
        attempt,
    })
}

fn find<'r>(run: &'r Run, id: &str) -> Option<&'r CompiledStep> {
    let plan = run.plan();
    plan.index(id).map(|index| &plan.steps[index])
}

/// The record about a task; `None` if its tool's workers do not claim.
fn command(
    about: &About,
    task: Task<'_>,
    state: TaskState,
    deadline: Millis,
    now: Millis,
) -> Option<StepCommand> {
    let tool = match task.kind {
        CallKind::Execute => &task.step.tool,
        CallKind::Compensate => &task.step.compensation.as_ref()?.tool,
    };
    if tool.worker != Worker::Claim {
        return None;
    }
    let (run_id, step_id) = (&*about.run_id, &*task.step.id);
    Some(StepCommand {
        tenant: about.tenant.as_str().to_owned(),
        run_id: run_id.to_owned(),
        workflow: None,
        step_id: step_id.to_owned(),
        attempt: task.attempt.try_into().unwrap_or(i32::MAX),
        kind: CallKindName(task.kind),
        tool: tool.name.clone(),
        worker: about.worker(&tool.name),
        input: "null".to_owned(),
        idempotency_key: idempotency_key(run_id, step_id, task.kind),
        deadline: deadline.0,
        at: now.0,
        task_id: task_id(run_id, step_id, task.kind, task.attempt),
        lease: None,
        execute: None,
        error: None,
        timeout_ms: None,
        limit_key: None,
        state: TaskStateName(state),
        traceparent: None,
        tracestate: None,
        sealed: None,
    })
}

/// A record that cannot be encoded.
pub(super) fn encode_failed(error: impl std::fmt::Display) -> Rejected {
    Rejected::new(
        "invalid_state",
        format!("a record cannot be written: {error}"),
    )
}

/// The key by which a tool's limit counts a call; `None`: all calls count together, also those whose key cannot be rendered, or OmniLink
/// makes the call and renders the key from its input, in which it then has the values of placeholders.
pub(super) fn limit_key(tool: &Tool, params: &Json, input: &Json) -> Option<String> {
    let limit = tool.limit.as_ref()?;
    let key = limit.key.as_ref()?;
    if tool.worker != Worker::Claim && !limit.counts_by_params() {
        return None;
    }
    let (params, input) = (params.value(), input.value());
    let context = Context::new().with("params", &params).with("input", &input);
    match key.render(&context, LIMIT_KEY_MAX) {
        Ok(serde_json::Value::String(text)) => Some(text),
        Ok(value) => Some(value.to_string()),
        Err(error) => {
            tracing::debug!(tool = tool.name, %error, "the key of a limit cannot be rendered: the call counts with all others");
            None
        }
    }
}
