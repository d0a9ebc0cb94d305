//! The records that follow from a run's events: its history, calls for workers, and events of the tool `emit`.

use serde_json::{Value, json};

use super::{
    Settings, audited,
    emitted::{self, Emitter},
    notices,
    run_cache::About,
    sealed,
    tasks::{self, encode_failed},
};
use crate::{
    base::clock::Millis,
    log::topics::Names,
    plans::{Builtin, Worker},
    runs::{
        CallKind, CallKindName, Event, Json, RunRecord, StepCommand, StepError, TaskStateName,
        idempotency_key, task_id,
    },
    saga::{CompiledStep, Run},
    stream::{Context, Failure, Rejected},
};

/// Writes the records of events that were just applied to a run.
pub(super) fn write(
    (names, settings): (&Names, &Settings),
    about: &About,
    run: &Run,
    events: &[Event],
    causation: &str,
    cx: &mut Context<'_>,
) -> Result<(), Failure> {
    let now = cx.now();
    let before = run.seq() - events.len() as u64;
    let id = (about.tenant.as_str(), &*about.run_id);
    for (event, seq) in events.iter().zip(before + 1..) {
        let record = RunRecord::new(id, seq, event, now, Some(causation));
        let record = record.encode().map_err(encode_failed)?;
        cx.emit_here(&names.runs, record);
        tasks::follow(names, about, run, event, cx)?;
        if let Some(entry) = audited::of_event(about, run, event, now) {
            cx.emit(&names.audit, entry.encode().map_err(encode_failed)?);
        }
        match event {
            Event::StepScheduled {
                step_id,
                attempt,
                input,
                deadline,
            } => {
                let call = Call {
                    kind: CallKind::Execute,
                    attempt: *attempt,
                    input,
                    deadline: *deadline,
                };
                if let Some(step) = step(run, step_id) {
                    call.write((names, settings), about, (run, step), now, cx)?;
                }
            }
            Event::CompensationScheduled {
                step_id,
                attempt,
                input,
                deadline,
            } => {
                let call = Call {
                    kind: CallKind::Compensate,
                    attempt: *attempt,
                    input,
                    deadline: *deadline,
                };
                if let Some(step) = step(run, step_id) {
                    call.write((names, settings), about, (run, step), now, cx)?;
                }
                let undo = step(run, step_id).and_then(|step| step.compensation.as_ref());
                if undo.is_some_and(|undo| undo.tool.worker == EMIT) {
                    let by = undone_in(run, step_id).unwrap_or(&about.run_id);
                    let key = idempotency_key(by, step_id, CallKind::Compensate);
                    emit(names, about, &key, input, cx)?;
                }
            }
            // The output of `emit` is its input.
            Event::StepSucceeded {
                step_id,
                output,
                reused: false,
                ..
            } if step(run, step_id).is_some_and(|step| step.tool.worker == EMIT) => {
                let key = idempotency_key(&about.run_id, step_id, CallKind::Execute);
                emit(names, about, &key, output, cx)?;
            }
            Event::ApprovalRequested(request) | Event::IncidentOpened(request) => {
                let record = notices::approval_requested(about, seq, request, now);
                if let Some(record) = record {
                    cx.emit(&names.ingress, record);
                }
            }
            last if settings.events => {
                if let Some(record) = notices::ended(about, run, last, now) {
                    cx.emit(&names.ingress, record);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

const EMIT: Worker = Worker::Builtin(Builtin::Emit);

/// The earlier run whose compensation of a step is retried.
fn undone_in<'r>(run: &'r Run, step_id: &str) -> Option<&'r str> {
    run.started().undo(step_id).map(|undo| &*undo.run_id)
}

/// Writes the event of a call of `emit`, which the core has checked. Its id is the call's idempotency key.
fn emit(
    names: &Names,
    about: &About,
    key: &str,
    input: &Json,
    cx: &mut Context<'_>,
) -> Result<(), Failure> {
    let value = input.value();
    let record = emitted::record(&Emitter::of(about), key, &value, cx.now())
        .map_err(|e| Rejected::new("invalid_event", e.message))?;
    cx.emit(&names.ingress, record);
    Ok(())
}

fn step<'r>(run: &'r Run, id: &str) -> Option<&'r CompiledStep> {
    let plan = run.plan();
    plan.index(id).map(|index| &plan.steps[index])
}

/// A call for a worker.
struct Call<'a> {
    kind: CallKind,
    attempt: u32,
    input: &'a Json,
    deadline: Millis,
}

impl Call<'_> {
    fn write(
        &self,
        (names, settings): (&Names, &Settings),
        about: &About,
        (run, step): (&Run, &CompiledStep),
        now: Millis,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        let call = match self.kind {
            CallKind::Execute => Some((&step.tool, step.timeout_ms)),
            CallKind::Compensate => step
                .compensation
                .as_ref()
                .map(|call| (&call.tool, call.timeout_ms)),
        };
        let Some((tool, timeout_ms)) = call.filter(|(tool, _)| is_for_workers(&tool.worker)) else {
            return Ok(());
        };
        let claims = tool.worker == Worker::Claim;
        let undone = (self.kind == CallKind::Compensate).then(|| Undone::of(about, run, step));
        let by = undone.as_ref().and_then(|_| undone_in(run, &step.id));
        let by = by.unwrap_or(&about.run_id);
        let mut command = StepCommand {
            tenant: about.tenant.as_str().to_owned(),
            run_id: about.run_id.to_string(),
            workflow: about
                .workflow
                .as_ref()
                .map(|workflow| workflow.name.clone()),
            step_id: step.id.to_string(),
            attempt: self.attempt.try_into().unwrap_or(i32::MAX),
            kind: CallKindName(self.kind),
            tool: tool.name.clone(),
            worker: about.worker(&tool.name),
            input: self.input.text().to_owned(),
            idempotency_key: idempotency_key(by, &step.id, self.kind),
            deadline: self.deadline.0,
            at: now.0,
            task_id: task_id(&about.run_id, &step.id, self.kind, self.attempt),
            lease: None,
            execute: undone.as_ref().map(|undone| undone.execute.to_string()),
            error: undone
                .and_then(|undone| undone.error)
                .map(|e| e.to_string()),
            timeout_ms: claims.then(|| timeout_ms.try_into().unwrap_or(i64::MAX)),
            limit_key: tasks::limit_key(tool, &run.started().params, self.input),
            state: TaskStateName::default(),
            traceparent: about.trace.traceparent.clone(),
            tracestate: about.trace.tracestate.clone(),
            sealed: None,
        };
        if let Err(error) = sealed::add(
            settings.secrets.as_deref(),
            about,
            (step, tool),
            &mut command,
        ) {
            let result = sealed::refused(&command, error, now).map_err(encode_failed)?;
            cx.emit_here(&names.commands, result.encode().map_err(encode_failed)?);
            return Ok(());
        }
        cx.emit_here(&names.steps, command.encode().map_err(encode_failed)?);
        Ok(())
    }
}

/// Whether the call goes to `steps`. Builtin tools that access no other system are carried out by the run.
fn is_for_workers(worker: &Worker) -> bool {
    match worker {
        Worker::Builtin(builtin) => builtin.is_effect(),
        _ => true,
    }
}

/// What a compensation undoes, and why, as JSON for workers.
struct Undone {
    execute: Value,
    error: Option<Value>,
}

impl Undone {
    fn of(about: &About, run: &Run, step: &CompiledStep) -> Self {
        let started = run.started();
        if let Some(undo) = started.undo(&step.id) {
            return Self {
                execute: undo.execute.value(),
                error: undo.error.as_ref().map(error_of),
            };
        }
        let done = run.execution(&step.id);
        let by = started.reused(&step.id).map(|reused| &*reused.run_id);
        let by = by.unwrap_or(&about.run_id);
        let mut execute = json!({
            "idempotency_key": idempotency_key(by, &step.id, CallKind::Execute),
            "outcome": done.status.name(),
        });
        let value = |json: Option<Json>| json.map(|json| json.value());
        execute["input"] = value(done.input).unwrap_or_default();
        if let Some(output) = value(done.output) {
            execute["output"] = output;
        }
        let error = run.ending_error();
        Self {
            execute,
            error: error.map(error_of),
        }
    }
}

fn error_of(error: &StepError) -> Value {
    json!({ "code": error.code, "message": error.message })
}

/// The causation of records: `KIND:PARTITION:OFFSET`.
pub(super) fn causation(kind: &str, partition: u32, offset: u64) -> String {
    format!("{kind}:{partition}:{offset}")
}

/// The causation of records that a timer led to.
pub(super) const TIMER: &str = "timer";
