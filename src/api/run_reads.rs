//! Reading runs, their history and approvals: query strings, and the views of rows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    audit::{BadPage, PageParameters},
    list::{PAGE, PAGE_MAX},
    runs::{ApprovalView, PlanView, RunErrorView, RunView, StepView, WorkflowView},
    starts::{AgentRunStatus, AgentStatus},
};
use crate::{
    base::clock::Millis,
    runs::{Json, RunStatus},
    store::{
        audit::{Page, Place},
        runs::{ApprovalRow, RecordRow, RunFilter, RunHead, RunRow, StepRow},
    },
};

/// Allows reading all runs of the tenant.
pub const RUNS_READ: &str = "runs:read";
/// Allows reading the runs that the caller requested.
pub const RUNS_READ_OWN: &str = "runs:read:own";
/// Allows reading approvals.
pub const APPROVALS_READ: &str = "approvals:read";
/// The longest wait for a run, in seconds.
pub const WAIT_MAX_S: u64 = 60;

/// Selects runs, newest first.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListRuns {
    /// `next_cursor` of the previous page.
    pub cursor: Option<String>,
    /// The maximum number of items in a page; default 100.
    #[schemars(range(min = 1, max = PAGE_MAX))]
    pub limit: Option<usize>,
    /// The tenant; default: that of the key. Another tenant needs the permission `operator`.
    pub tenant: Option<String>,
    /// Runs with this status.
    pub status: Option<RunStatus>,
    /// Runs of the workflow with this name.
    pub workflow: Option<String>,
    /// Runs requested by this principal.
    pub principal: Option<String>,
    /// Runs that have a step with this tool.
    pub tool: Option<String>,
    /// Runs whose error has this code.
    pub code: Option<String>,
    /// Runs requested at or after this time.
    #[schemars(extend("format" = "date-time"))]
    pub since: Option<String>,
    /// Runs requested before this time.
    #[schemars(extend("format" = "date-time"))]
    pub until: Option<String>,
}

impl ListRuns {
    /// Parses the page and filter of a tenant; `own` restricts it to the runs of this principal.
    pub fn page(&self, tenant: &str, own: Option<&str>) -> Result<(Page, RunFilter), BadPage> {
        let parameters = PageParameters {
            cursor: self.cursor.as_deref(),
            limit: self.limit,
            since: self.since.as_deref(),
            until: self.until.as_deref(),
        };
        let filter = RunFilter {
            status: self.status.map(|status| status.name().to_owned()),
            workflow: self.workflow.clone(),
            principal: self.principal.clone(),
            tool: self.tool.clone(),
            code: self.code.clone(),
            own: own.map(str::to_owned),
            ..RunFilter::default()
        };
        Ok((parameters.page(tenant)?, filter))
    }
}

/// Selects a run, and how long to wait for its end.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShowRun {
    /// The tenant of the run; default: that of the key. Another tenant needs the permission `operator`.
    pub tenant: Option<String>,
    /// How long to wait for the end of the run, in seconds.
    #[schemars(range(min = 0, max = WAIT_MAX_S))]
    pub wait: Option<u64>,
}

/// Selects records of a history, in order.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunHistory {
    /// The `seq` after which the page starts: `next_cursor` of the previous page.
    pub cursor: Option<u32>,
    /// The maximum number of items in a page; default 100. A stream has no pages.
    #[schemars(range(min = 1, max = PAGE_MAX))]
    pub limit: Option<usize>,
    /// The tenant of the run; default: that of the key. Another tenant needs the permission `operator`.
    pub tenant: Option<String>,
}

/// Selects approvals, newest first.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListApprovals {
    /// `next_cursor` of the previous page.
    pub cursor: Option<String>,
    /// The maximum number of items in a page; default 100.
    #[schemars(range(min = 1, max = PAGE_MAX))]
    pub limit: Option<usize>,
    /// The tenant; default: that of the key. Another tenant needs the permission `operator`.
    pub tenant: Option<String>,
    /// Approvals with this status; default: pending.
    pub status: Option<ApprovalStatus>,
}

/// The status of an approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalStatus {
    /// Not decided yet.
    Pending,
    /// Approved.
    Approved,
    /// Denied.
    Denied,
    /// Not decided in time, or before the run ended.
    Expired,
    /// For an incident: attempt it again.
    Retry,
    /// For an incident: continue without the step.
    Skip,
    /// For an incident: the step fails.
    Fail,
}

impl ApprovalStatus {
    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Retry => "retry",
            Self::Skip => "skip",
            Self::Fail => "fail",
        }
    }
}

impl ListApprovals {
    /// Parses the page of a tenant.
    pub fn page(&self, tenant: &str) -> Result<Page, BadPage> {
        let parameters = PageParameters {
            cursor: self.cursor.as_deref(),
            limit: self.limit,
            since: None,
            until: None,
        };
        parameters.page(tenant)
    }

    /// The selected status.
    pub fn status(&self) -> &'static str {
        self.status.unwrap_or(ApprovalStatus::Pending).name()
    }
}

/// A run in a list.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct RunSummary {
    /// The run's id.
    #[schemars(extend("format" = "uuid"))]
    pub run_id: String,
    /// The tenant of the run.
    pub tenant: String,
    /// The status of the run.
    pub status: RunStatus,
    /// The workflow of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowView>,
    /// The goal of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    /// The error of a run that ended without success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<RunErrorView>,
    /// The run that it repeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "uuid"))]
    pub retry_of: Option<String>,
    /// The trigger: `request`, `event`, `cron` or `retry`.
    pub trigger: String,
    /// The principal that requested it.
    pub principal: String,
    /// The user on whose behalf the principal acted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// The highest risk score of its approvals, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub risk_score: Option<f64>,
    /// When it was requested.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub created_at: Millis,
    /// When its last record was written.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub updated_at: Millis,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub finished_at: Option<Millis>,
}

/// A record of a run's history.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct RunRecordView {
    /// The run's id.
    #[schemars(extend("format" = "uuid"))]
    pub run_id: String,
    /// Its number in the history, from 1.
    pub seq: i64,
    /// The type of the record.
    pub r#type: String,
    /// The time of the record.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Millis,
    /// The cause, and the fields of its type.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

/// The row does not have the format of this version.
#[derive(Debug, thiserror::Error)]
#[error("a row of a run cannot be read: {0}")]
pub struct BadRow(#[from] serde_json::Error);

fn status(name: &str) -> Result<RunStatus, BadRow> {
    Ok(serde_json::from_value(Value::from(name))?)
}

fn parsed<T: serde::de::DeserializeOwned>(text: Option<&str>) -> Result<Option<T>, BadRow> {
    Ok(text.map(serde_json::from_str).transpose()?)
}

fn json(text: Option<String>) -> Result<Option<Json>, BadRow> {
    Ok(text.map(Json::parse).transpose()?)
}

fn workflow(of: Option<(String, String)>) -> Option<WorkflowView> {
    of.map(|(name, version)| WorkflowView { name, version })
}

impl TryFrom<RunHead> for RunSummary {
    type Error = BadRow;

    fn try_from(row: RunHead) -> Result<Self, BadRow> {
        Ok(Self {
            status: status(&row.status)?,
            workflow: workflow(row.workflow),
            error: parsed(row.error.as_deref())?,
            run_id: row.run_id,
            tenant: row.tenant,
            goal: row.goal,
            retry_of: row.retry_of,
            trigger: row.trigger,
            principal: row.principal.unwrap_or_default(),
            on_behalf_of: row.on_behalf_of,
            risk_score: row.risk_score,
            created_at: row.created_at,
            updated_at: row.updated_at,
            finished_at: row.finished_at,
        })
    }
}

/// The content of the column `plan`.
#[derive(Deserialize)]
struct PlanColumn {
    hash: String,
    source: String,
    steps: Json,
}

/// A step of a plan, as given.
#[derive(Deserialize)]
struct PlanStep {
    id: String,
}

impl RunView {
    /// Builds the view of a run from its rows.
    pub fn of(
        row: RunRow,
        steps: Vec<StepRow>,
        approvals: Vec<ApprovalRow>,
    ) -> Result<Self, BadRow> {
        let RunSummary {
            run_id,
            tenant,
            status,
            workflow,
            goal,
            error,
            retry_of,
            principal,
            on_behalf_of,
            created_at,
            updated_at,
            finished_at,
            ..
        } = row.head.try_into()?;
        let plan: Option<PlanColumn> = parsed(row.plan.as_deref())?;
        let order: Vec<PlanStep> = match &plan {
            Some(plan) => serde_json::from_str(plan.steps.text())?,
            None => Vec::new(),
        };
        let mut steps: Vec<StepView> = steps
            .into_iter()
            .map(StepView::try_from)
            .collect::<Result<_, _>>()?;
        steps.sort_by_key(|step| order.iter().position(|of| of.id == step.id));
        let approvals = approvals.into_iter().map(ApprovalView::try_from);
        Ok(Self {
            run_id,
            tenant,
            status,
            workflow,
            goal,
            params: json(row.params)?.unwrap_or_else(Json::null),
            plan: plan.map(|plan| PlanView {
                hash: plan.hash,
                source: plan.source,
                steps: plan.steps,
            }),
            steps,
            approvals: approvals.collect::<Result<_, _>>()?,
            output: json(row.output)?,
            error,
            retry_of,
            principal,
            on_behalf_of,
            created_at,
            updated_at,
            finished_at,
        })
    }
}

impl TryFrom<StepRow> for StepView {
    type Error = BadRow;

    fn try_from(row: StepRow) -> Result<Self, BadRow> {
        Ok(Self {
            status: serde_json::from_value(Value::from(row.status))?,
            output: json(row.output)?,
            error: parsed(row.error.as_deref())?,
            compensation: parsed(row.compensation.as_deref())?,
            id: row.id,
            tool: row.tool,
            attempts: u32::try_from(row.attempts).unwrap_or_default(),
            started_at: row.started_at,
            finished_at: row.finished_at,
        })
    }
}

impl TryFrom<ApprovalRow> for ApprovalView {
    type Error = BadRow;

    fn try_from(row: ApprovalRow) -> Result<Self, BadRow> {
        Ok(Self {
            reasons: serde_json::from_str(&row.reasons)?,
            input: Json::parse(row.input)?,
            id: row.id,
            run_id: row.run_id,
            step_id: row.step_id,
            kind: row.kind,
            lane: row.lane,
            risk_score: row.risk_score,
            input_hash: row.input_hash,
            status: row.status,
            message: row.message,
            requested_at: row.requested_at,
            expires_at: row.expires_at,
            decided_by: row.decided_by,
            decided_at: row.decided_at,
            reason: row.reason,
        })
    }
}

impl RunRecordView {
    /// Builds the view of a record.
    pub fn of(run_id: &str, row: RecordRow) -> Result<Self, BadRow> {
        let mut fields: Map<String, Value> = serde_json::from_str(&row.record)?;
        // The type has its own column.
        fields.remove("type");
        // Sealed values are of no use to readers.
        fields.remove("sealed");
        Ok(Self {
            run_id: run_id.to_owned(),
            seq: row.seq,
            r#type: row.kind,
            at: row.at,
            fields,
        })
    }
}

impl AgentStatus {
    /// The status of an agent's goal, from its run and the JSON text of its output.
    pub fn of(row: &RunHead, output: Option<&str>) -> Result<Self, BadRow> {
        let status = match status(&row.status)? {
            RunStatus::Succeeded => AgentRunStatus::Completed,
            status if status.is_final() => AgentRunStatus::Failed,
            _ => AgentRunStatus::Running,
        };
        Ok(Self {
            status,
            progress: row.seq.unsigned_abs(),
            result: parsed(output)?,
            error: parsed(row.error.as_deref())?,
        })
    }
}

/// The place of a run in a list.
pub fn place_of_run(row: &RunHead) -> Place {
    Place {
        at: row.created_at.0.saturating_mul(1000),
        id: row.run_id.clone(),
    }
}

/// The place of an approval in a list.
pub fn place_of_approval(row: &ApprovalRow) -> Place {
    Place {
        at: row.requested_at.0.saturating_mul(1000),
        id: row.id.clone(),
    }
}

/// The number of items in a page.
pub fn page_size(limit: Option<usize>) -> Result<usize, BadPage> {
    let limit = limit.unwrap_or(PAGE);
    if (1..=PAGE_MAX).contains(&limit) {
        Ok(limit)
    } else {
        Err(super::list::BadLimit.into())
    }
}
