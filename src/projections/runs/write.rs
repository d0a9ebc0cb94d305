//! Writes rows: `COPY` for new ones, one statement per table for changed ones.

use sqlx::{AssertSqlSafe, PgConnection};

use super::{
    state::{Approval, Started, Step},
    work::Work,
};
use crate::{
    projections::{
        column::{Column, Columns, Element},
        insert::Insert,
    },
    runs::RunRecord,
    store::{CopyRows, runs::HISTORY_ROW, storable_json, surely_jsonb},
};

fn micros(millis: i64) -> i64 {
    millis.saturating_mul(1000)
}

fn time(field: &mut CopyRows, millis: Option<i64>) {
    match millis {
        Some(at) => field.timestamp(micros(at)),
        None => field.null(),
    }
}

/// JSON as text, for a parameter that the statement casts.
fn json_text(field: &mut CopyRows, json: Option<&str>) {
    match json {
        Some(json) => field.text(&storable_json(json)),
        None => field.null(),
    }
}

/// JSON in a `COPY`.
fn jsonb(rows: &mut CopyRows, json: Option<&str>) {
    match json {
        Some(json) => rows.jsonb(storable_json(json).as_bytes()),
        None => rows.null(),
    }
}

fn double(field: &mut CopyRows, value: Option<f64>) {
    match value {
        Some(value) => field.double(value),
        None => field.null(),
    }
}

/// The JSON text of a record for `run_events`: its fields and its causation.
pub(super) fn record_text(record: &RunRecord) -> String {
    let Some(causation) = &record.causation else {
        return record.body.clone();
    };
    let fields = record.body[1..].trim_start();
    let comma = if fields.starts_with('}') { "" } else { "," };
    let causation = serde_json::Value::from(causation.as_str());
    format!("{{\"causation\":{causation}{comma}{fields}")
}

/// The statements on one set of tables.
pub(super) struct Statements {
    /// Reads stored records.
    pub(super) history: String,
    insert_runs: Insert<19>,
    update_runs: String,
    delete: [String; 3],
    copy_history: String,
    copy_steps: String,
    update_steps: String,
    copy_approvals: String,
    update_approvals: String,
}

impl Statements {
    /// For the tables whose names end in `suffix`.
    pub(super) fn of(suffix: &str) -> Self {
        let delete = |table: &str| {
            format!(
                "DELETE FROM omnilink.{table}{suffix} t USING unnest($1::text[], $2::text[]) k(tenant, run_id) \
                 WHERE t.tenant = k.tenant AND t.run_id = k.run_id"
            )
        };
        Self {
            history: format!(
                "SELECT k.n, h.first_seq + e.n - 1, e.type, (EXTRACT(EPOCH FROM e.at) * 1000)::bigint, e.record \
                 FROM unnest($1::text[], $2::text[]) WITH ORDINALITY k(tenant, run_id, n) \
                 JOIN omnilink.run_history{suffix} h ON h.tenant = k.tenant AND h.run_id = k.run_id \
                 CROSS JOIN LATERAL unnest(h.types, h.at, h.records) WITH ORDINALITY e(type, at, record, n) \
                 ORDER BY k.n, h.first_seq, e.n"
            ),
            insert_runs: Insert::into(&format!("omnilink.runs{suffix}"), RUN_COLUMNS),
            // Null means unchanged, so that large values are not written again.
            update_runs: format!(
                "UPDATE omnilink.runs{suffix} r SET seq = k.seq, status = k.status, plan = COALESCE(k.plan::jsonb, r.plan), \
                   workflow_name = COALESCE(k.workflow_name, r.workflow_name), \
                   workflow_version = COALESCE(k.workflow_version, r.workflow_version), \
                   params = COALESCE(k.params::jsonb, r.params), \
                   output = COALESCE(k.output::jsonb, r.output), error = COALESCE(k.error::jsonb, r.error), \
                   risk_score = k.risk_score, updated_at = k.updated_at, finished_at = k.finished_at \
                 FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::float8[], \
                   $9::timestamptz[], $10::timestamptz[], $11::text[], $12::text[], $13::text[]) \
                   k(tenant, run_id, seq, status, plan, output, error, risk_score, updated_at, finished_at, workflow_name, \
                     workflow_version, params) \
                 WHERE r.tenant = k.tenant AND r.run_id = k.run_id"
            ),
            delete: [
                delete("runs"),
                delete("run_steps"),
                // Approval ids begin with the run's id, so the primary key finds them.
                format!(
                    "DELETE FROM omnilink.approvals{suffix} t USING unnest($1::text[], $2::text[]) k(tenant, run_id) \
                     WHERE t.tenant = k.tenant AND t.approval_id > k.run_id || '.' AND t.approval_id < k.run_id || '/'"
                ),
            ],
            copy_history: format!(
                "COPY omnilink.run_history{suffix} (tenant, run_id, first_seq, types, at, records) FROM STDIN (FORMAT binary)"
            ),
            copy_steps: format!(
                "COPY omnilink.run_steps{suffix} (tenant, run_id, step_id, tool, status, attempts, output, error, started_at, \
                   finished_at, compensation) FROM STDIN (FORMAT binary)"
            ),
            update_steps: format!(
                "UPDATE omnilink.run_steps{suffix} s SET status = k.status, attempts = k.attempts, \
                   output = COALESCE(k.output::jsonb, s.output), error = k.error::jsonb, started_at = k.started_at, \
                   finished_at = k.finished_at, compensation = k.compensation::jsonb \
                 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::timestamptz[], \
                   $9::timestamptz[], $10::text[]) \
                   k(tenant, run_id, step_id, status, attempts, output, error, started_at, finished_at, compensation) \
                 WHERE s.tenant = k.tenant AND s.run_id = k.run_id AND s.step_id = k.step_id"
            ),
            copy_approvals: format!(
                "COPY omnilink.approvals{suffix} (tenant, approval_id, run_id, step_id, kind, status, lane, risk_score, reasons, input, \
                   input_hash, message, requested_at, expires_at, decided_by, decided_at, reason) FROM STDIN (FORMAT binary)"
            ),
            update_approvals: format!(
                "UPDATE omnilink.approvals{suffix} a SET status = k.status, expires_at = k.expires_at, decided_by = k.decided_by, \
                   decided_at = k.decided_at, reason = k.reason \
                 FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::timestamptz[], $7::text[]) \
                   k(tenant, approval_id, status, expires_at, decided_by, decided_at, reason) \
                 WHERE a.tenant = k.tenant AND a.approval_id = k.approval_id"
            ),
        }
    }

    /// Inserts runs that have no row yet; returns the number of inserted rows.
    pub(super) async fn insert_runs(
        &self,
        transaction: &mut PgConnection,
        works: &[Work<'_>],
    ) -> Result<u64, sqlx::Error> {
        let mut rows = CopyRows::default();
        for work in works {
            insert_run(&mut rows, work);
        }
        self.insert_runs.write(transaction, &rows).await
    }

    /// Updates rows of runs.
    pub(super) async fn update_runs(
        &self,
        transaction: &mut PgConnection,
        works: &[Work<'_>],
    ) -> Result<(), sqlx::Error> {
        use Element::{Bigint, Double, Text, Timestamp};
        let mut columns = Columns::of([
            Text, Text, Bigint, Text, Text, Text, Text, Double, Timestamp, Timestamp, Text, Text,
            Text,
        ]);
        for work in works {
            let ((own_tenant, id), run) = (work.key(), &work.run);
            let workflow = run.workflow.as_ref();
            let [
                tenant,
                run_id,
                seq,
                status,
                plan,
                output,
                error,
                risk_score,
                updated_at,
                finished_at,
                workflow_name,
                workflow_version,
                params,
            ] = columns.row();
            tenant.next().text(own_tenant);
            run_id.next().text(id);
            seq.next().bigint(run.seq);
            status.next().text(run.status().name());
            json_text(plan.next(), run.plan.as_deref());
            json_text(output.next(), run.output.as_deref());
            json_text(error.next(), run.error.as_deref());
            double(risk_score.next(), run.risk_score);
            updated_at.next().timestamp(micros(run.updated_at));
            time(finished_at.next(), run.finished_at);
            workflow_name
                .next()
                .optional_text(workflow.map(|(name, _)| name.as_str()));
            workflow_version
                .next()
                .optional_text(workflow.map(|(_, version)| version.as_str()));
            json_text(params.next(), run.params.as_deref());
        }
        columns.write(transaction, &self.update_runs).await?;
        Ok(())
    }

    /// Deletes all rows of runs except their history, before they are rewritten.
    pub(super) async fn delete(
        &self,
        transaction: &mut PgConnection,
        works: &[Work<'_>],
    ) -> Result<(), sqlx::Error> {
        let (tenants, run_ids): (Vec<_>, Vec<_>) = works.iter().map(Work::key).unzip();
        for statement in &self.delete {
            sqlx::query(AssertSqlSafe(statement.as_str()))
                .bind(&tenants)
                .bind(&run_ids)
                .execute(&mut *transaction)
                .await?;
        }
        Ok(())
    }

    /// Writes the records that are not stored yet.
    pub(super) async fn write_history(
        &self,
        transaction: &mut PgConnection,
        works: &[Work<'_>],
    ) -> Result<(), sqlx::Error> {
        let mut rows = CopyRows::default();
        let mut history = HistoryRows::default();
        for work in works {
            for records in work.fresh.chunk_by(|a, b| a.seq + 1 == b.seq) {
                for records in records.chunks(HISTORY_ROW as usize) {
                    history.row(&mut rows, records);
                }
            }
        }
        history.check(transaction).await?;
        send(&rows, transaction, &self.copy_history).await
    }

    /// Writes the steps that are new or have changed.
    pub(super) async fn write_steps(
        &self,
        transaction: &mut PgConnection,
        works: &[Work<'_>],
    ) -> Result<(), sqlx::Error> {
        use Element::{Bigint, Text, Timestamp};
        let mut new = CopyRows::default();
        let mut changed = Columns::of([
            Text, Text, Text, Text, Bigint, Text, Text, Timestamp, Timestamp, Text,
        ]);
        for work in works {
            for step in work.run.steps.iter().filter(|step| step.changed) {
                if step.stored {
                    change_step(&mut changed, work.key(), step);
                } else {
                    new_step(&mut new, work.key(), step);
                }
            }
        }
        send(&new, transaction, &self.copy_steps).await?;
        changed.write(transaction, &self.update_steps).await?;
        Ok(())
    }

    /// Writes the approvals that are new or have changed.
    pub(super) async fn write_approvals(
        &self,
        transaction: &mut PgConnection,
        works: &[Work<'_>],
    ) -> Result<(), sqlx::Error> {
        use Element::{Text, Timestamp};
        let mut new = CopyRows::default();
        let mut changed = Columns::of([Text, Text, Text, Timestamp, Text, Timestamp, Text]);
        for work in works {
            let approvals = work.run.approvals.iter();
            for (number, approval) in approvals.filter(|(_, approval)| approval.changed) {
                if approval.stored {
                    change_approval(&mut changed, work.key(), *number, approval);
                } else {
                    new_approval(&mut new, work.key(), *number, approval);
                }
            }
        }
        send(&new, transaction, &self.copy_approvals).await?;
        changed.write(transaction, &self.update_approvals).await?;
        Ok(())
    }
}

async fn send(
    rows: &CopyRows,
    transaction: &mut PgConnection,
    statement: &str,
) -> Result<(), sqlx::Error> {
    if !rows.is_empty() {
        rows.send(transaction, statement).await?;
    }
    Ok(())
}

/// The columns of a new run, as [`insert_run`] writes them.
const RUN_COLUMNS: [(&str, Element); 19] = {
    use Element::{Bigint, Double, Jsonb, Text, Timestamp};
    [
        ("tenant", Text),
        ("run_id", Text),
        ("seq", Bigint),
        ("status", Text),
        ("workflow_name", Text),
        ("workflow_version", Text),
        ("goal", Text),
        ("params", Jsonb),
        ("plan", Jsonb),
        ("output", Jsonb),
        ("error", Jsonb),
        ("retry_of", Text),
        ("trigger", Text),
        ("principal", Text),
        ("on_behalf_of", Text),
        ("risk_score", Double),
        ("created_at", Timestamp),
        ("updated_at", Timestamp),
        ("finished_at", Timestamp),
    ]
};

fn insert_run(rows: &mut CopyRows, work: &Work<'_>) {
    let ((tenant, run_id), run) = (work.key(), &work.run);
    let none = Started::default();
    let started = run.started.as_deref().unwrap_or(&none);
    let workflow = run.workflow.as_ref().or(started.workflow.as_ref());
    rows.row(19);
    rows.text(tenant);
    rows.text(run_id);
    rows.bigint(run.seq);
    rows.text(run.status().name());
    rows.optional_text(workflow.map(|(name, _)| name.as_str()));
    rows.optional_text(workflow.map(|(_, version)| version.as_str()));
    rows.optional_text(started.goal.as_deref());
    let of_plan = run.params.as_deref();
    jsonb(rows, of_plan.or(started.params.as_deref()));
    jsonb(rows, run.plan.as_deref());
    jsonb(rows, run.output.as_deref());
    jsonb(rows, run.error.as_deref());
    rows.optional_text(started.retry_of.as_deref());
    rows.text(started.trigger());
    rows.optional_text(started.principal.as_deref());
    rows.optional_text(started.on_behalf_of.as_deref());
    double(rows, run.risk_score);
    rows.timestamp(micros(run.created_at));
    rows.timestamp(micros(run.updated_at));
    time(rows, run.finished_at);
}

/// Writes rows of `run_history`.
struct HistoryRows {
    types: Column,
    at: Column,
    records: Column,
    /// Records that only Postgres can check.
    unsure: Vec<String>,
}

impl Default for HistoryRows {
    fn default() -> Self {
        Self {
            types: Column::of(Element::Text),
            at: Column::of(Element::Timestamp),
            records: Column::of(Element::Text),
            unsure: Vec::new(),
        }
    }
}

impl HistoryRows {
    /// Writes the row of consecutive records.
    fn row(&mut self, rows: &mut CopyRows, records: &[&RunRecord]) {
        let Some(first) = records.first() else {
            return;
        };
        for record in records {
            let text = record_text(record);
            let text = storable_json(&text);
            if !surely_jsonb(&text) {
                self.unsure.push(text.to_string());
            }
            self.types.next().text(&record.kind);
            self.at.next().timestamp(micros(record.at));
            self.records.next().text(&text);
        }
        rows.row(6);
        rows.text(&first.tenant);
        rows.text(&first.run_id);
        rows.bigint(first.seq);
        for column in [&mut self.types, &mut self.at, &mut self.records] {
            column.write_to(rows);
            column.clear();
        }
    }

    /// Refuses records that readers of `run_events`, where they are `jsonb`, could not read.
    async fn check(&self, transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
        if !self.unsure.is_empty() {
            sqlx::query("SELECT count(record::jsonb) FROM unnest($1::text[]) record")
                .bind(&self.unsure)
                .execute(transaction)
                .await?;
        }
        Ok(())
    }
}

fn new_step(rows: &mut CopyRows, (tenant, run_id): (&str, &str), step: &Step) {
    rows.row(11);
    rows.text(tenant);
    rows.text(run_id);
    rows.text(&step.id);
    rows.text(&step.tool);
    rows.text(step.status().name());
    rows.bigint(step.attempts.into());
    jsonb(rows, step.output.as_deref());
    jsonb(rows, step.error.as_deref());
    time(rows, step.started_at);
    time(rows, step.finished_at);
    jsonb(rows, step.compensation().as_deref());
}

fn change_step(columns: &mut Columns<10>, key: (&str, &str), step: &Step) {
    let [
        tenant,
        run_id,
        step_id,
        status,
        attempts,
        output,
        error,
        started_at,
        finished_at,
        compensation,
    ] = columns.row();
    tenant.next().text(key.0);
    run_id.next().text(key.1);
    step_id.next().text(&step.id);
    status.next().text(step.status().name());
    attempts.next().bigint(step.attempts.into());
    json_text(output.next(), step.output.as_deref());
    json_text(error.next(), step.error.as_deref());
    time(started_at.next(), step.started_at);
    time(finished_at.next(), step.finished_at);
    json_text(compensation.next(), step.compensation().as_deref());
}

fn new_approval(
    rows: &mut CopyRows,
    (tenant, run_id): (&str, &str),
    number: i64,
    approval: &Approval,
) {
    // Set until the approval is written.
    let Some(request) = &approval.request else {
        return;
    };
    rows.row(17);
    rows.text(tenant);
    rows.text(&format!("{run_id}.{number}"));
    rows.text(run_id);
    rows.optional_text(request.step_id.as_deref());
    rows.text(&request.kind);
    rows.text(&approval.status);
    rows.text(&request.lane);
    rows.double(request.risk_score);
    jsonb(rows, Some(&request.reasons));
    jsonb(rows, Some(&request.input));
    rows.text(&request.input_hash);
    rows.optional_text(request.message.as_deref());
    rows.timestamp(micros(request.requested_at));
    rows.timestamp(micros(approval.expires_at));
    rows.optional_text(approval.decided_by.as_deref());
    time(rows, approval.decided_at);
    rows.optional_text(approval.reason.as_deref());
}

fn change_approval(columns: &mut Columns<7>, key: (&str, &str), number: i64, approval: &Approval) {
    let [
        tenant,
        approval_id,
        status,
        expires_at,
        decided_by,
        decided_at,
        reason,
    ] = columns.row();
    tenant.next().text(key.0);
    approval_id.next().text(&format!("{}.{number}", key.1));
    status.next().text(&approval.status);
    expires_at.next().timestamp(micros(approval.expires_at));
    decided_by
        .next()
        .optional_text(approval.decided_by.as_deref());
    time(decided_at.next(), approval.decided_at);
    reason.next().optional_text(approval.reason.as_deref());
}
