//! `POST /v1/runs:batch`: one action on all runs that match a filter.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::audit::{BadPage, PageParameters};
use crate::{
    controls::REASON_MAX,
    runs::RunStatus,
    store::{audit::Page, runs::RunFilter},
};

// Required fields are optional for serde, so that the error names the one that is missing.
/// One action on all runs that match a filter.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["action", "filter"]))]
pub struct ControlRuns {
    /// The action.
    #[schemars(with = "RunAction")]
    pub action: Option<RunAction>,
    /// The runs.
    #[schemars(with = "SelectRuns")]
    pub filter: Option<SelectRuns>,
    /// Whether to only count the runs.
    #[serde(default)]
    pub dry_run: bool,
    /// Only for `cancel`: the reason, 1 to 512 bytes without control characters.
    #[serde(default)]
    #[schemars(length(max = REASON_MAX))]
    pub reason: Option<String>,
}

/// An action on runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunAction {
    /// End the runs, and undo what they did.
    Cancel,
    /// Schedule nothing more.
    Pause,
    /// Continue paused runs.
    Resume,
    /// Repeat ended runs by new ones.
    Retry,
}

impl RunAction {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Cancel, Self::Pause, Self::Resume, Self::Retry];

    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Retry => "retry",
        }
    }

    /// Whether the action applies to a run with this status.
    pub fn applies_to(self, status: RunStatus) -> bool {
        match self {
            Self::Retry => status.is_final(),
            Self::Resume => status == RunStatus::Paused,
            Self::Pause => !status.is_final() && status != RunStatus::Paused,
            Self::Cancel => !status.is_final() && status != RunStatus::Compensating,
        }
    }
}

/// A run matches if all members do; at least one is required.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SelectRuns {
    /// Runs with this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<RunStatus>,
    /// Runs of the workflow with this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// Runs requested at or after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub since: Option<String>,
    /// Runs requested before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub until: Option<String>,
    /// Runs that have a step with this tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Runs whose error has this code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

impl SelectRuns {
    /// Whether it has no members.
    pub fn is_empty(&self) -> bool {
        let texts = [
            &self.workflow,
            &self.since,
            &self.until,
            &self.tool,
            &self.code,
        ];
        self.status.is_none() && texts.into_iter().all(Option::is_none)
    }

    /// The first page of a tenant's runs that match and to which the action applies.
    pub fn page(
        &self,
        tenant: &str,
        action: RunAction,
        limit: usize,
    ) -> Result<(Page, RunFilter), BadPage> {
        let parameters = PageParameters {
            cursor: None,
            limit: Some(limit),
            since: self.since.as_deref(),
            until: self.until.as_deref(),
        };
        let fitting = RunStatus::ALL
            .into_iter()
            .filter(|status| action.applies_to(*status));
        let filter = RunFilter {
            status: self.status.map(|status| status.name().to_owned()),
            any_status: fitting.map(|status| status.name().to_owned()).collect(),
            workflow: self.workflow.clone(),
            tool: self.tool.clone(),
            code: self.code.clone(),
            ..RunFilter::default()
        };
        Ok((parameters.page(tenant)?, filter))
    }
}

/// A line of the answer: the progress of the job. The first one has the number of runs; the last one is not `running`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RunsControlled {
    /// Whether the job is running.
    pub status: BatchStatus,
    /// Runs that match the filter and to which the action applies.
    pub matched: u64,
    /// Runs that accepted the action. Includes those that did not answer within 2 s: the action is in the log.
    pub done: u64,
    /// Runs to which the action no longer applied, or that were retried before under this idempotency key.
    pub skipped: u64,
    /// Runs for which the action failed.
    pub failed: u64,
    /// The number of skipped and failed runs by error code.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub codes: BTreeMap<String, u64>,
    /// Why the job was aborted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The status of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BatchStatus {
    /// It is running.
    Running,
    /// It is complete; for a dry run, the runs are counted.
    Done,
    /// It was aborted. What was done stays done; the same request again continues.
    Failed,
}

impl RunsControlled {
    /// Before the first run.
    pub fn begin(matched: u64) -> Self {
        Self {
            status: BatchStatus::Running,
            matched,
            done: 0,
            skipped: 0,
            failed: 0,
            codes: BTreeMap::new(),
            error: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_would_refuse_are_left_out() {
        let fits = |action: RunAction| {
            let fitting = RunStatus::ALL
                .into_iter()
                .filter(|status| action.applies_to(*status));
            let names: Vec<_> = fitting.map(RunStatus::name).collect();
            names.join(" ")
        };
        assert_eq!(
            RunAction::ALL.map(fits),
            [
                "queued planning running waiting_approval paused",
                "queued planning running waiting_approval compensating",
                "paused",
                "succeeded failed denied cancelled"
            ]
        );
    }
}
