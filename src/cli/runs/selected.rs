//! The selection of runs, and the action on them.

use clap::builder::PossibleValuesParser;
use serde::Serialize;
use uuid::Uuid;

use super::{PATH, of_tenant};
use crate::{api::run_batches::RunAction, cli::moment, runs::RunStatus};

/// The selected runs: one, or all that match a filter.
#[derive(clap::Args)]
pub(in crate::cli) struct Selected {
    /// The run's id
    #[arg(value_name = "RUN_ID", required_unless_present_any = FILTERS, conflicts_with_all = FILTERS)]
    pub(super) id: Option<Uuid>,
    /// The tenant of the runs [default: that of the key used]
    #[arg(long)]
    pub(super) tenant: Option<String>,
    /// Instead of one run: all with this status
    #[arg(long, value_parser = PossibleValuesParser::new(RunStatus::ALL.map(RunStatus::name)))]
    pub(super) status: Option<String>,
    /// Instead of one run: all of this workflow
    #[arg(long, value_name = "NAME")]
    pub(super) workflow: Option<String>,
    /// Instead of one run: all that this principal asked for
    #[arg(long)]
    pub(super) principal: Option<String>,
    /// Instead of one run: all that have a step with this tool
    #[arg(long, value_name = "NAME")]
    pub(super) tool: Option<String>,
    /// Instead of one run: all whose error has this code
    #[arg(long)]
    pub(super) code: Option<String>,
    /// Instead of one run: all that were asked for at this time or later, such as `2h` ago or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(super) since: Option<String>,
    /// Instead of one run: all that were asked for before this time, such as `2h` ago or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(super) older_than: Option<String>,
    /// Only count the runs that match the filter
    #[arg(long, conflicts_with = "id")]
    pub(super) dry_run: bool,
}

const FILTERS: [&str; 7] = [
    "status",
    "workflow",
    "principal",
    "tool",
    "code",
    "since",
    "older_than",
];

/// An action on runs.
pub(super) struct Action {
    /// `cancel`, `pause`, `resume` or `retry`.
    pub(super) name: &'static str,
    /// The body of each request.
    pub(super) body: String,
    /// For a retry.
    pub(super) idempotency_key: Option<String>,
}

impl Action {
    pub(super) fn new(name: &'static str, body: &impl Serialize) -> anyhow::Result<Self> {
        Ok(Self {
            name,
            body: serde_json::to_string(body)?,
            idempotency_key: None,
        })
    }

    /// Whether the action applies to a run with this status.
    pub(super) fn applies_to(&self, status: &str) -> bool {
        let mut statuses = RunStatus::ALL.into_iter();
        let mut actions = RunAction::ALL.into_iter();
        let status = statuses.find(|one| one.name() == status);
        let action = actions.find(|one| one.name() == self.name);
        match (action, status) {
            (Some(action), Some(status)) => action.applies_to(status),
            // Of a later version.
            _ => true,
        }
    }

    /// The path of the request for a run.
    pub(super) fn path(&self, run: &str, tenant: Option<&str>) -> String {
        format!("{PATH}/{run}/{}{}", self.name, of_tenant(tenant))
    }
}

/// A time, as RFC 3339.
fn time(text: &str) -> Result<String, moment::NotATime> {
    let at = moment::parse(text)?;
    let at = jiff::Timestamp::from_millisecond(at.0);
    Ok(at.map_or_else(|_| text.to_owned(), |at| at.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::run_controls::PauseRun;

    #[test]
    fn runs_that_would_refuse_are_left_out() {
        let applies_to = |name: &'static str| {
            let action = Action::new(name, &PauseRun {}).unwrap();
            let names = RunStatus::ALL.map(RunStatus::name);
            names
                .into_iter()
                .filter(|status| action.applies_to(status))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            applies_to("cancel"),
            "queued planning running waiting_approval paused"
        );
        assert_eq!(
            applies_to("pause"),
            "queued planning running waiting_approval compensating"
        );
        assert_eq!(applies_to("resume"), "paused");
        assert_eq!(applies_to("retry"), "succeeded failed denied cancelled");
    }
}
