//! The projection of the topic `steps`: the table `tasks`, the queue of work that is claimed over HTTP.
//!
//! A record says that a task begins, or what has become of it. All records of a task are in one partition, in order. Leases are columns
//! that this projection leaves alone, but for a task that begins: then there is no lease any more.

use std::{collections::HashMap, sync::Arc};

use serde::Deserialize;
use sqlx::PgConnection;

use super::{
    batches::{Batches, Rows, TIMES},
    column::{Columns, Element},
    lane::{Projector, Setup},
    pipe::Pipe,
    target::TASKS,
};
use crate::{
    envelope::Invalid,
    log::Fetched,
    runs::{StepCommand, TaskState, idempotency_key},
    store::storable_text,
};

/// How long an attempt may take from its first claim where the record does not say so: five minutes.
const TIMEOUT_MS: i64 = 300_000;

impl Projector {
    /// Starts the projector of the queue; `setup` names the topic `steps`.
    pub fn start_tasks(setup: &Setup) -> std::io::Result<Self> {
        let reject = setup.dead_letters(TASKS);
        let topic = Arc::clone(&setup.topic);
        Self::run(setup, TASKS, 1, &reject, &move |parts| -> Box<dyn Pipe> {
            let on_commit = parts.report(&topic);
            let rows = TaskRows::of("");
            Box::new(Batches::new(
                parts.link,
                TASKS,
                rows,
                parts.reject,
                on_commit,
            ))
        })
    }
}

/// The statements on one table.
pub(super) struct TaskRows {
    insert: String,
    change: String,
}

impl TaskRows {
    /// For the table whose name ends in `suffix`.
    pub(super) fn of(suffix: &str) -> Self {
        Self {
            // An attempt that was given back begins again under the same id.
            insert: format!(
                "INSERT INTO omnilink.tasks{suffix} (tenant, task_id, run_id, workflow, step_id, kind, attempt, tool, status, input, \
                   execute, error, limit_key, timeout_ms, deadline, traceparent, tracestate, created_at, started_at, finished_at, \
                   sealed, idempotency_key) \
                 SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], \
                   $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::bigint[], $15::timestamptz[], \
                   $16::text[], $17::text[], $18::timestamptz[], $19::timestamptz[], $20::timestamptz[], $21::text[], \
                   $22::text[]) \
                 ON CONFLICT (tenant, task_id) DO UPDATE SET status = EXCLUDED.status, input = EXCLUDED.input, sealed = EXCLUDED.sealed, \
                   idempotency_key = EXCLUDED.idempotency_key, limit_key = EXCLUDED.limit_key, timeout_ms = EXCLUDED.timeout_ms, \
                   deadline = EXCLUDED.deadline, created_at = EXCLUDED.created_at, started_at = EXCLUDED.started_at, \
                   finished_at = EXCLUDED.finished_at, \
                   claimed_by = NULL, claimed_at = NULL, lease_hash = NULL, lease_ms = NULL, lease_expires_at = NULL, outcome = NULL"
            ),
            // What is null here does not change.
            change: format!(
                "UPDATE omnilink.tasks{suffix} t SET \
                   status = CASE COALESCE(k.status, t.status) WHEN 'open' THEN \
                     CASE WHEN t.lease_hash IS NULL THEN 'open' ELSE 'claimed' END ELSE COALESCE(k.status, t.status) END, \
                   deadline = COALESCE(k.deadline, t.deadline), started_at = COALESCE(t.started_at, k.started_at), \
                   claimed_at = COALESCE(t.claimed_at, k.started_at), finished_at = COALESCE(k.finished_at, t.finished_at) \
                 FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[]) \
                   k(tenant, task_id, status, deadline, started_at, finished_at) \
                 WHERE t.tenant = k.tenant AND t.task_id = k.task_id"
            ),
        }
    }
}

/// Who does the work, as the step command says.
#[derive(Deserialize)]
struct Worker {
    claim: Option<serde::de::IgnoredAny>,
}

/// What the records of a batch make of a task. Times are milliseconds since 1970.
#[derive(Default)]
struct Change {
    /// The record with which it begins, if that is in the batch.
    begun: Option<Box<StepCommand>>,
    status: Option<&'static str>,
    deadline: Option<i64>,
    started_at: Option<i64>,
    finished_at: Option<i64>,
}

/// Tenant and task.
type Key = (String, String);

/// The tasks of a batch, in the order in which they come first.
#[derive(Default)]
pub(super) struct TaskBatch {
    places: HashMap<Key, usize>,
    tasks: Vec<(Key, Change)>,
}

impl TaskBatch {
    fn task(&mut self, tenant: &str, task_id: &str) -> &mut Change {
        let key = (tenant.to_owned(), task_id.to_owned());
        let next = self.tasks.len();
        let place = *self.places.entry(key.clone()).or_insert(next);
        if place == next {
            self.tasks.push((key, Change::default()));
        }
        &mut self.tasks[place].1
    }
}

impl Rows for TaskRows {
    type Batch = TaskBatch;

    /// The worker is JSON text in the record.
    fn may_have_rows(&self, record: &Fetched) -> bool {
        let value = record.record.value.as_deref().unwrap_or_default();
        memchr::memmem::find(value, b"\"claim\"").is_some()
    }

    fn add(&self, batch: &mut TaskBatch, record: &Fetched) -> Result<(), Invalid> {
        let value = record.record.value.as_deref().unwrap_or_default();
        let command = StepCommand::decode(value)
            .ok_or_else(|| Invalid::payload("not a record of the schema of `steps`"))?;
        let Ok(Worker { claim: Some(_) }) = serde_json::from_str(&command.worker) else {
            return Ok(());
        };
        for (name, at) in [("at", command.at), ("deadline", command.deadline)] {
            if !TIMES.contains(&at.saturating_mul(1000)) {
                let wrong = format!("`{name}` lies outside the years 1 to 9999");
                return Err(Invalid::payload(wrong));
            }
        }
        let task = batch.task(&command.tenant, &command.task_id);
        match command.state.0 {
            TaskState::Scheduled => {
                *task = Change {
                    status: Some("open"),
                    deadline: Some(command.deadline),
                    begun: Some(Box::new(command)),
                    ..Change::default()
                };
            }
            TaskState::Started => {
                task.deadline = Some(command.deadline);
                task.started_at.get_or_insert(command.at);
            }
            TaskState::Paused => task.status = Some("paused"),
            TaskState::Resumed => {
                task.status = Some("open");
                task.deadline = Some(command.deadline);
            }
            TaskState::Over => {
                task.status = Some("done");
                task.finished_at = Some(command.at);
            }
        }
        Ok(())
    }

    async fn write(
        &mut self,
        transaction: &mut PgConnection,
        batch: &TaskBatch,
    ) -> Result<(), sqlx::Error> {
        let (mut begun, mut changed) = (Begun::new(), Changed::new());
        for ((tenant, task_id), change) in &batch.tasks {
            match &change.begun {
                Some(command) => begun.push(command, change),
                None => changed.push((tenant, task_id), change),
            }
        }
        begun.0.write(transaction, &self.insert).await?;
        changed.0.write(transaction, &self.change).await?;
        Ok(())
    }
}

/// Rows of tasks that begin.
struct Begun(Columns<22>);

/// Changes of tasks that have rows.
struct Changed(Columns<6>);

fn time(column: &mut super::column::Column, ms: Option<i64>) {
    match ms {
        Some(ms) => column.next().timestamp(ms.saturating_mul(1000)),
        None => column.next().null(),
    }
}

impl Begun {
    fn new() -> Self {
        use Element::{Bigint, Text, Timestamp};
        Self(Columns::of([
            Text, Text, Text, Text, Text, Text, Bigint, Text, Text, Text, Text, Text, Text, Bigint,
            Timestamp, Text, Text, Timestamp, Timestamp, Timestamp, Text, Text,
        ]))
    }

    fn push(&mut self, command: &StepCommand, change: &Change) {
        let [
            tenant,
            task_id,
            run_id,
            workflow,
            step_id,
            kind,
            attempt,
            tool,
            status,
            input,
            execute,
            error,
            limit_key,
            timeout_ms,
            deadline,
            traceparent,
            tracestate,
            created_at,
            started_at,
            finished_at,
            sealed,
            idempotency_key,
        ] = self.0.row();
        tenant.next().text(&command.tenant);
        task_id.next().text(&command.task_id);
        run_id.next().text(&command.run_id);
        workflow.next().optional_text(command.workflow.as_deref());
        step_id.next().text(&command.step_id);
        kind.next().text(command.kind().name());
        attempt.next().bigint(command.attempt.into());
        tool.next().text(&command.tool);
        status.next().text(change.status.unwrap_or("open"));
        // JSON text has no U+0000 as such.
        input.next().text(&command.input);
        execute.next().optional_text(command.execute.as_deref());
        error.next().optional_text(command.error.as_deref());
        let key = command.limit_key.as_deref().unwrap_or_default();
        limit_key.next().text(&storable_text(key));
        let timeout = command.timeout_ms.unwrap_or(TIMEOUT_MS);
        timeout_ms.next().bigint(timeout);
        time(deadline, change.deadline);
        traceparent
            .next()
            .optional_text(command.traceparent.as_deref());
        tracestate
            .next()
            .optional_text(command.tracestate.as_deref());
        time(created_at, Some(command.at));
        time(started_at, change.started_at);
        time(finished_at, change.finished_at);
        sealed.next().optional_text(command.sealed.as_deref());
        idempotency_key
            .next()
            .optional_text(key_of_its_own(command));
    }
}

/// The idempotency key where it does not follow from the other columns: a compensation that is called again has that of the old run.
fn key_of_its_own(command: &StepCommand) -> Option<&str> {
    let derived = idempotency_key(&command.run_id, &command.step_id, command.kind());
    let key = &*command.idempotency_key;
    (key != derived).then_some(key)
}

impl Changed {
    fn new() -> Self {
        use Element::{Text, Timestamp};
        Self(Columns::of([
            Text, Text, Text, Timestamp, Timestamp, Timestamp,
        ]))
    }

    fn push(&mut self, (tenant, task_id): (&str, &str), change: &Change) {
        let [tenants, tasks, status, deadline, started_at, finished_at] = self.0.row();
        tenants.next().text(tenant);
        tasks.next().text(task_id);
        status.next().optional_text(change.status);
        time(deadline, change.deadline);
        time(started_at, change.started_at);
        time(finished_at, change.finished_at);
    }
}
