//! Reads the tables `runs`, `run_steps` and `approvals`, and the view `run_events`.

use sqlx::{AssertSqlSafe, Postgres, QueryBuilder, Row, postgres::PgRow};

use super::{
    Store, StoreError,
    audit::{Page, Place, push_time},
    micros,
};
use crate::base::clock::Millis;

/// The most records of a row of `run_history`, the table under `run_events`.
pub const HISTORY_ROW: i64 = 64;

/// A run without its large columns.
#[derive(Clone, PartialEq, Debug)]
pub struct RunHead {
    /// The tenant of the run.
    pub tenant: String,
    /// The run id, a UUID.
    pub run_id: String,
    /// The number of its last record.
    pub seq: i64,
    /// Its status.
    pub status: String,
    /// The workflow: name and version.
    pub workflow: Option<(String, String)>,
    /// The goal in plain words, if the run has one.
    pub goal: Option<String>,
    /// JSON text: the error of a run that did not succeed.
    pub error: Option<String>,
    /// The run that it retries.
    pub retry_of: Option<String>,
    /// What started it: `request`, `event`, `cron` or `retry`.
    pub trigger: String,
    /// The principal that requested it.
    pub principal: Option<String>,
    /// The user on whose behalf the principal acted.
    pub on_behalf_of: Option<String>,
    /// The highest risk score of its approvals.
    pub risk_score: Option<f64>,
    /// When it was asked for.
    pub created_at: Millis,
    /// When its last record was written.
    pub updated_at: Millis,
    /// When it ended.
    pub finished_at: Option<Millis>,
}

/// A run.
#[derive(Clone, PartialEq, Debug)]
pub struct RunRow {
    /// The columns that are not large.
    pub head: RunHead,
    /// JSON text.
    pub params: Option<String>,
    /// JSON text of an object: `hash`, `source`, `steps`, `output`.
    pub plan: Option<String>,
    /// JSON text.
    pub output: Option<String>,
}

/// A step of a run.
#[derive(Clone, PartialEq, Debug)]
pub struct StepRow {
    /// Its id.
    pub id: String,
    /// The name of the tool.
    pub tool: String,
    /// Its status.
    pub status: String,
    /// How often it was attempted.
    pub attempts: i64,
    /// JSON text.
    pub output: Option<String>,
    /// JSON text.
    pub error: Option<String>,
    /// When its first attempt was scheduled.
    pub started_at: Option<Millis>,
    /// When it ended.
    pub finished_at: Option<Millis>,
    /// JSON text: the state of its compensation.
    pub compensation: Option<String>,
}

/// An approval or incident.
#[derive(Clone, PartialEq, Debug)]
pub struct ApprovalRow {
    /// Its id.
    pub id: String,
    /// The id of the run.
    pub run_id: String,
    /// The id of the step concerned.
    pub step_id: Option<String>,
    /// `step`, `run` or `incident`.
    pub kind: String,
    /// The decision, or `pending`.
    pub status: String,
    /// The risk lane: `GREEN`, `YELLOW` or `RED`.
    pub lane: String,
    /// The risk score, from 0 to 1.
    pub risk_score: f64,
    /// JSON text of a list: the codes of the reasons.
    pub reasons: String,
    /// JSON text.
    pub input: String,
    /// The SHA-256 of the canonical form of the input, in hexadecimal digits.
    pub input_hash: String,
    /// A text for the person who decides.
    pub message: Option<String>,
    /// When it was requested.
    pub requested_at: Millis,
    /// When it expires.
    pub expires_at: Millis,
    /// The principal that decided.
    pub decided_by: Option<String>,
    /// When it was decided.
    pub decided_at: Option<Millis>,
    /// The reason of the decision, for people.
    pub reason: Option<String>,
}

/// A record of a run's history.
#[derive(Clone, PartialEq, Debug)]
pub struct RecordRow {
    /// The number of the record within the run, from 1.
    pub seq: i64,
    /// The type of the record, such as `step_succeeded`.
    pub kind: String,
    /// When the record was written.
    pub at: Millis,
    /// JSON text of an object: the fields of this type.
    pub record: String,
}

/// The conditions of a list of runs.
#[derive(Clone, Default, Debug)]
pub struct RunFilter {
    /// With this status.
    pub status: Option<String>,
    /// With one of these statuses; empty: any.
    pub any_status: Vec<String>,
    /// Of the workflow of this name.
    pub workflow: Option<String>,
    /// Requested by this principal.
    pub principal: Option<String>,
    /// With a step of this tool.
    pub tool: Option<String>,
    /// With an error of this code.
    pub code: Option<String>,
    /// Requested by this principal, in addition to `principal`: set for callers that may only see their own runs.
    pub own: Option<String>,
}

fn ms(column: &str) -> String {
    format!("(EXTRACT(EPOCH FROM {column}) * 1000)::bigint")
}

fn head_columns() -> String {
    let (created, updated, finished) = (ms("created_at"), ms("updated_at"), ms("finished_at"));
    format!(
        "tenant, run_id, seq, status, workflow_name, workflow_version, goal, error::text, retry_of, trigger, principal, on_behalf_of, \
         risk_score, {created}, {updated}, {finished}"
    )
}

fn head(row: &PgRow) -> Result<RunHead, sqlx::Error> {
    let workflow: (Option<String>, Option<String>) = (row.try_get(4)?, row.try_get(5)?);
    Ok(RunHead {
        tenant: row.try_get(0)?,
        run_id: row.try_get(1)?,
        seq: row.try_get(2)?,
        status: row.try_get(3)?,
        workflow: workflow
            .0
            .map(|name| (name, workflow.1.unwrap_or_default())),
        goal: row.try_get(6)?,
        error: row.try_get(7)?,
        retry_of: row.try_get(8)?,
        trigger: row.try_get(9)?,
        principal: row.try_get(10)?,
        on_behalf_of: row.try_get(11)?,
        risk_score: row.try_get(12)?,
        created_at: Millis(row.try_get(13)?),
        updated_at: Millis(row.try_get(14)?),
        finished_at: row.try_get::<Option<i64>, _>(15)?.map(Millis),
    })
}

/// A run of a tenant.
pub async fn run(store: &Store, tenant: &str, run_id: &str) -> Result<Option<RunRow>, StoreError> {
    let columns = head_columns();
    let mut query = QueryBuilder::<Postgres>::new(format!(
        "SELECT {columns}, params::text, plan::text, output::text FROM omnilink.runs WHERE tenant = "
    ));
    query
        .push_bind(tenant)
        .push(" AND run_id = ")
        .push_bind(run_id);
    let found = query.build().fetch_optional(store.pool()).await?;
    let row = |row: PgRow| -> Result<_, sqlx::Error> {
        Ok(RunRow {
            head: head(&row)?,
            params: row.try_get(16)?,
            plan: row.try_get(17)?,
            output: row.try_get(18)?,
        })
    };
    Ok(found.map(row).transpose()?)
}

/// A run of a tenant, with its steps and approvals.
pub async fn whole(
    store: &Store,
    tenant: &str,
    run_id: &str,
) -> Result<Option<(RunRow, Vec<StepRow>, Vec<ApprovalRow>)>, StoreError> {
    let Some(row) = run(store, tenant, run_id).await? else {
        return Ok(None);
    };
    let steps = steps(store, tenant, run_id).await?;
    let approvals = approvals_of(store, tenant, run_id).await?;
    Ok(Some((row, steps, approvals)))
}

/// A run of a tenant, without what may be large.
pub async fn run_head(
    store: &Store,
    tenant: &str,
    run_id: &str,
) -> Result<Option<RunHead>, StoreError> {
    let columns = head_columns();
    let mut query = QueryBuilder::<Postgres>::new(format!(
        "SELECT {columns} FROM omnilink.runs WHERE tenant = "
    ));
    query
        .push_bind(tenant)
        .push(" AND run_id = ")
        .push_bind(run_id);
    let found = query.build().fetch_optional(store.pool()).await?;
    Ok(found.as_ref().map(head).transpose()?)
}

/// The output of a run that succeeded, as JSON text.
pub async fn output(
    store: &Store,
    tenant: &str,
    run_id: &str,
) -> Result<Option<String>, StoreError> {
    let sql = "SELECT output::text FROM omnilink.runs WHERE tenant = $1 AND run_id = $2";
    let found = sqlx::query_scalar::<_, Option<String>>(sql)
        .bind(tenant)
        .bind(run_id);
    Ok(found.fetch_optional(store.pool()).await?.flatten())
}

/// Runs of a tenant, newest first.
pub async fn runs(
    store: &Store,
    page: &Page,
    filter: &RunFilter,
) -> Result<Vec<RunHead>, StoreError> {
    let columns = head_columns();
    let mut query = QueryBuilder::<Postgres>::new(format!(
        "SELECT {columns} FROM omnilink.runs WHERE tenant = "
    ));
    query.push_bind(&page.tenant);
    conditions(&mut query, filter);
    newest_first(&mut query, page, "created_at", "run_id");
    let rows = query.build().fetch_all(store.pool()).await?;
    Ok(rows.iter().map(head).collect::<Result<_, _>>()?)
}

/// How many runs of a tenant there are in the range of a page.
pub async fn count(store: &Store, page: &Page, filter: &RunFilter) -> Result<i64, StoreError> {
    let mut query =
        QueryBuilder::<Postgres>::new("SELECT count(*) FROM omnilink.runs WHERE tenant = ");
    query.push_bind(&page.tenant);
    conditions(&mut query, filter);
    range(&mut query, page, "created_at");
    let row = query.build().fetch_one(store.pool()).await?;
    Ok(row.try_get(0)?)
}

fn conditions(query: &mut QueryBuilder<Postgres>, filter: &RunFilter) {
    for (column, wanted) in [
        ("status", &filter.status),
        ("workflow_name", &filter.workflow),
        ("principal", &filter.principal),
        ("principal", &filter.own),
        ("error->>'code'", &filter.code),
    ] {
        if let Some(wanted) = wanted {
            let wanted = wanted.clone();
            query.push(format!(" AND {column} = ")).push_bind(wanted);
        }
    }
    let status = filter.status.as_ref();
    if !filter.any_status.is_empty() {
        let any = filter.any_status.clone();
        query.push(" AND status = ANY(").push_bind(any).push(")");
    }
    // Redundant, but lets the query planner use the partial index.
    let succeeded = |status: &String| status == "succeeded";
    let any = &filter.any_status;
    if status.is_some_and(|status| !succeeded(status))
        || !any.is_empty() && !any.iter().any(succeeded)
    {
        query.push(" AND status <> 'succeeded'");
    }
    if let Some(tool) = &filter.tool {
        query
            .push(" AND EXISTS (SELECT FROM omnilink.run_steps s WHERE s.tenant = runs.tenant AND s.run_id = runs.run_id AND s.tool = ")
            .push_bind(tool.clone())
            .push(")");
    }
}

/// Adds range, order and limit of a page.
fn newest_first(query: &mut QueryBuilder<Postgres>, page: &Page, at: &str, id: &str) {
    range(query, page, at);
    if let Some(Place {
        at: last,
        id: after,
    }) = &page.after
    {
        query.push(format!(" AND ({at}, {id}) < ("));
        push_time(query, *last);
        query.push(", ").push_bind(after.clone()).push(")");
    }
    query
        .push(format!(" ORDER BY {at} DESC, {id} DESC LIMIT "))
        .push_bind(page.limit as i64);
}

/// Adds the range of a page.
fn range(query: &mut QueryBuilder<Postgres>, page: &Page, at: &str) {
    if let Some(since) = page.since {
        query.push(format!(" AND {at} >= "));
        push_time(query, micros(since));
    }
    if let Some(until) = page.until {
        query.push(format!(" AND {at} < "));
        push_time(query, micros(until));
    }
}

/// The steps of a run, unordered.
pub async fn steps(store: &Store, tenant: &str, run_id: &str) -> Result<Vec<StepRow>, StoreError> {
    let (started, finished) = (ms("started_at"), ms("finished_at"));
    let mut query = QueryBuilder::<Postgres>::new(format!(
        "SELECT step_id, tool, status, attempts, output::text, error::text, {started}, {finished}, compensation::text \
         FROM omnilink.run_steps WHERE tenant = "
    ));
    query
        .push_bind(tenant)
        .push(" AND run_id = ")
        .push_bind(run_id);
    let rows = query.build().fetch_all(store.pool()).await?;
    let row = |row: &PgRow| {
        Ok(StepRow {
            id: row.try_get(0)?,
            tool: row.try_get(1)?,
            status: row.try_get(2)?,
            attempts: row.try_get(3)?,
            output: row.try_get(4)?,
            error: row.try_get(5)?,
            started_at: row.try_get::<Option<i64>, _>(6)?.map(Millis),
            finished_at: row.try_get::<Option<i64>, _>(7)?.map(Millis),
            compensation: row.try_get(8)?,
        })
    };
    Ok(rows.iter().map(row).collect::<Result<_, sqlx::Error>>()?)
}

fn approval_columns() -> String {
    let (requested, expires, decided) = (ms("requested_at"), ms("expires_at"), ms("decided_at"));
    format!(
        "approval_id, run_id, step_id, kind, status, lane, risk_score, reasons::text, input::text, input_hash, message, {requested}, \
         {expires}, decided_by, {decided}, reason"
    )
}

fn approval(row: &PgRow) -> Result<ApprovalRow, sqlx::Error> {
    Ok(ApprovalRow {
        id: row.try_get(0)?,
        run_id: row.try_get(1)?,
        step_id: row.try_get(2)?,
        kind: row.try_get(3)?,
        status: row.try_get(4)?,
        lane: row.try_get(5)?,
        risk_score: row.try_get(6)?,
        reasons: row.try_get(7)?,
        input: row.try_get(8)?,
        input_hash: row.try_get(9)?,
        message: row.try_get(10)?,
        requested_at: Millis(row.try_get(11)?),
        expires_at: Millis(row.try_get(12)?),
        decided_by: row.try_get(13)?,
        decided_at: row.try_get::<Option<i64>, _>(14)?.map(Millis),
        reason: row.try_get(15)?,
    })
}

/// The approvals of a run, in the order in which they were requested.
pub async fn approvals_of(
    store: &Store,
    tenant: &str,
    run_id: &str,
) -> Result<Vec<ApprovalRow>, StoreError> {
    let columns = approval_columns();
    let mut query = QueryBuilder::<Postgres>::new(format!(
        "SELECT {columns} FROM omnilink.approvals WHERE tenant = "
    ));
    // Approval ids begin with the run's id: a range of the primary key.
    query
        .push_bind(tenant)
        .push(" AND approval_id > ")
        .push_bind(format!("{run_id}."))
        .push(" AND approval_id < ")
        .push_bind(format!("{run_id}/"))
        .push(" ORDER BY split_part(approval_id, '.', 2)::bigint");
    let rows = query.build().fetch_all(store.pool()).await?;
    Ok(rows.iter().map(approval).collect::<Result<_, _>>()?)
}

/// Approvals with this status, newest first.
pub async fn approvals(
    store: &Store,
    page: &Page,
    status: &str,
) -> Result<Vec<ApprovalRow>, StoreError> {
    let columns = approval_columns();
    let mut query = QueryBuilder::<Postgres>::new(format!(
        "SELECT {columns} FROM omnilink.approvals WHERE tenant = "
    ));
    query
        .push_bind(&page.tenant)
        .push(" AND status = ")
        .push_bind(status);
    newest_first(&mut query, page, "requested_at", "approval_id");
    let rows = query.build().fetch_all(store.pool()).await?;
    Ok(rows.iter().map(approval).collect::<Result<_, _>>()?)
}

/// Records of a run's history with a `seq` greater than `after`, in order.
pub async fn history(
    store: &Store,
    (tenant, run_id): (&str, &str),
    after: i64,
    limit: usize,
) -> Result<Vec<RecordRow>, StoreError> {
    // As the view, but rows that end before `after` are not read.
    let at = ms("e.at");
    let sql = format!(
        "SELECT h.first_seq + e.n - 1, e.type, {at}, e.record::jsonb::text FROM omnilink.run_history h \
         CROSS JOIN LATERAL unnest(h.types, h.at, h.records) WITH ORDINALITY e(type, at, record, n) \
         WHERE h.tenant = $1 AND h.run_id = $2 AND h.first_seq > $3 - {HISTORY_ROW} AND h.first_seq + e.n - 1 > $3 \
         ORDER BY h.first_seq, e.n LIMIT $4"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(tenant)
        .bind(run_id)
        .bind(after)
        .bind(limit as i64)
        .fetch_all(store.pool())
        .await?;
    let row = |row: &PgRow| {
        Ok(RecordRow {
            seq: row.try_get(0)?,
            kind: row.try_get(1)?,
            at: Millis(row.try_get(2)?),
            record: row.try_get(3)?,
        })
    };
    Ok(rows.iter().map(row).collect::<Result<_, sqlx::Error>>()?)
}

/// The steps that later runs have reused from a run: step and run, the newest run last.
pub async fn taken_over(
    store: &Store,
    (tenant, run_id): (&str, &str),
) -> Result<Vec<(String, String)>, StoreError> {
    let sql = "SELECT e.record ->> 'step_id', r.run_id FROM omnilink.runs r \
                 JOIN omnilink.run_events e ON e.tenant = r.tenant AND e.run_id = r.run_id \
               WHERE r.tenant = $1 AND r.retry_of = $2 AND e.type = 'step_succeeded' AND e.record ->> 'reused' = 'true' \
               ORDER BY r.created_at, r.run_id";
    let rows = sqlx::query_as::<_, (String, String)>(sql)
        .bind(tenant)
        .bind(run_id);
    Ok(rows.fetch_all(store.pool()).await?)
}

/// JSON text of the record that decided an approval or an incident.
pub async fn decision(
    store: &Store,
    (tenant, run_id): (&str, &str),
    approval: u64,
) -> Result<Option<String>, StoreError> {
    let sql = "SELECT record::text FROM omnilink.run_events WHERE tenant = $1 AND run_id = $2 \
                 AND type IN ('approval_decided', 'incident_decided') AND record ->> 'approval' = $3 ORDER BY seq LIMIT 1";
    let row = sqlx::query_scalar::<_, String>(sql)
        .bind(tenant)
        .bind(run_id)
        .bind(approval.to_string());
    Ok(row.fetch_optional(store.pool()).await?)
}

/// JSON text of the last record with a plan of a run; `None`: the run has no plan.
pub async fn plan_ready(
    store: &Store,
    (tenant, run_id): (&str, &str),
) -> Result<Option<String>, StoreError> {
    let sql = "SELECT record::text FROM omnilink.run_events WHERE tenant = $1 AND run_id = $2 AND type = 'plan_ready' \
               ORDER BY seq DESC LIMIT 1";
    let row = sqlx::query_scalar::<_, String>(sql)
        .bind(tenant)
        .bind(run_id);
    Ok(row.fetch_optional(store.pool()).await?)
}
