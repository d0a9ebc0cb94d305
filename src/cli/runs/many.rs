//! An action on all runs that match a filter: first the whole list is read, then one request is sent for each run, a few at a time.

use std::{collections::BTreeMap, time::Duration};

use anyhow::bail;
use futures_util::{StreamExt, stream};
use hyper::{Method, StatusCode, header::RETRY_AFTER};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::{
    PATH,
    selected::{Action, Selected},
    text,
};
use crate::{
    base::backoff::Backoff,
    cli::{
        Global,
        client::{Client, Response},
        output,
    },
};

/// Maximum number of concurrent requests.
const CONCURRENCY: usize = 8;
/// Runs in a page of the list.
const PAGE: u16 = 1000;
/// The maximum number of attempts of a request that the node cannot take now, or that got no answer.
const TRIES: u32 = 20;
/// The maximum of `Retry-After`.
const PAUSE_MAX: Duration = Duration::from_mins(1);
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(200),
    max: Duration::from_secs(10),
};

/// An action, and the runs to which it applies.
pub(super) struct Many<'a> {
    client: &'a Client,
    runs: &'a Selected,
    action: Action,
}

/// The result, as printed.
#[derive(Default, Serialize)]
struct Summary {
    /// Runs that match the filter and have a status to which the action applies.
    matched: usize,
    /// Runs that have confirmed the action.
    done: usize,
    /// Runs that have not confirmed it in time, although it is in the log.
    accepted: usize,
    /// Runs to which the action no longer applies, or that were retried before.
    skipped: usize,
    /// Runs for which the request failed.
    failed: usize,
    /// The number of runs by the code of the refusal.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    codes: BTreeMap<String, usize>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
    /// In a dry run: the number of runs by status.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    statuses: BTreeMap<String, usize>,
}

/// The outcome for one run.
enum Outcome {
    Done,
    Accepted,
    /// The action does not apply, or was done before.
    Skipped(String),
    Failed(String),
}

impl<'a> Many<'a> {
    pub(super) fn new(client: &'a Client, runs: &'a Selected, action: Action) -> Self {
        Self {
            client,
            runs,
            action,
        }
    }

    /// All runs that match the filter and to which the action applies, with their statuses.
    async fn list(&self) -> anyhow::Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        let mut cursor = None;
        loop {
            let filters = [
                ("status", &self.runs.status),
                ("workflow", &self.runs.workflow),
                ("principal", &self.runs.principal),
                ("tool", &self.runs.tool),
                ("code", &self.runs.code),
                ("since", &self.runs.since),
                ("until", &self.runs.older_than),
                ("tenant", &self.runs.tenant),
                ("cursor", &cursor),
            ];
            let page = self.client.page(PATH, PAGE, &filters).await?;
            for run in page["items"].as_array().into_iter().flatten() {
                let (id, status) = (text(run, "run_id"), text(run, "status"));
                if self.action.applies_to(&status) {
                    found.push((id, status));
                }
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => return Ok(found),
            }
        }
    }

    async fn send(&self, run: &str) -> anyhow::Result<Response> {
        let path = self.action.path(run, self.runs.tenant.as_deref());
        let body = self.action.body.clone().into();
        match &self.action.idempotency_key {
            Some(key) => self.client.post_once(&path, key, body).await,
            None => self.client.call(Method::POST, &path, Some(body)).await,
        }
    }

    /// Sends the request until there is a final answer.
    async fn perform(&self, run: &str) -> Outcome {
        let mut tries = 0;
        loop {
            tries += 1;
            let pause = match self.send(run).await {
                Ok(response) if is_temporary(response.status) && tries < TRIES => {
                    requested_pause(&response).unwrap_or_else(|| BACKOFF.pause(tries))
                }
                Ok(response) => return outcome(&response),
                Err(_) if tries < TRIES => BACKOFF.pause(tries),
                Err(error) => return Outcome::Failed(output::in_one_line(&error)),
            };
            tokio::time::sleep(pause).await;
        }
    }
}

/// Applies the action to all runs and prints the result. Fails if it failed for any run.
pub(super) async fn perform(global: &Global, many: &Many<'_>) -> anyhow::Result<()> {
    let found = many.list().await?;
    let mut summary = Summary {
        matched: found.len(),
        dry_run: many.runs.dry_run,
        ..Summary::default()
    };
    if many.runs.dry_run {
        for (_, status) in found {
            *summary.statuses.entry(status).or_default() += 1;
        }
        return report(global, many.action.name, &summary);
    }
    let bar = progress(found.len());
    let each = stream::iter(&found).map(async |(run, _)| many.perform(run).await);
    let mut each = std::pin::pin!(each.buffer_unordered(CONCURRENCY));
    while let Some(outcome) = each.next().await {
        bar.inc(1);
        let code = match outcome {
            Outcome::Done => {
                summary.done += 1;
                continue;
            }
            Outcome::Accepted => {
                summary.accepted += 1;
                continue;
            }
            Outcome::Skipped(code) => {
                summary.skipped += 1;
                code
            }
            Outcome::Failed(code) => {
                summary.failed += 1;
                code
            }
        };
        *summary.codes.entry(code).or_default() += 1;
    }
    bar.finish_and_clear();
    report(global, many.action.name, &summary)?;
    if summary.failed > 0 {
        bail!(
            "it failed for {} of {}",
            summary.failed,
            runs(summary.matched)
        );
    }
    Ok(())
}

/// Whether a status is temporary, so that a retry may succeed.
fn is_temporary(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    )
}

fn requested_pause(response: &Response) -> Option<Duration> {
    let seconds = response.headers.get(RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(seconds.parse().ok()?).min(PAUSE_MAX))
}

fn outcome(response: &Response) -> Outcome {
    let body = &response.body;
    if response.status.is_success() {
        // A retry is answered like a start.
        if body["results"][0]["duplicate"] == true {
            return Outcome::Skipped("duplicate".into());
        }
        if body["status"] == "accepted" {
            return Outcome::Accepted;
        }
        return Outcome::Done;
    }
    let code = body["code"].as_str().unwrap_or(response.status.as_str());
    if response.status == StatusCode::CONFLICT {
        Outcome::Skipped(code.to_owned())
    } else {
        Outcome::Failed(code.to_owned())
    }
}

fn report(global: &Global, action: &str, summary: &Summary) -> anyhow::Result<()> {
    if global.json {
        return output::json(summary);
    }
    if summary.dry_run {
        let statuses = summary.statuses.iter();
        let statuses = statuses.map(|(status, count)| format!("{count} {status}"));
        let statuses: Vec<_> = statuses.collect();
        let detail = if statuses.is_empty() {
            String::new()
        } else {
            format!(": {}", statuses.join(", "))
        };
        output::line(&format!(
            "{action} would be sent to {}{detail}",
            runs(summary.matched)
        ));
        return Ok(());
    }
    let counts = [
        ("done", summary.done),
        ("accepted", summary.accepted),
        ("skipped", summary.skipped),
        ("failed", summary.failed),
    ];
    let counts = counts
        .into_iter()
        .filter(|(name, count)| *count > 0 || *name == "done");
    let counts: Vec<_> = counts
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    output::line(&format!("{}: {}", runs(summary.matched), counts.join(", ")));
    for (code, count) in &summary.codes {
        output::line(&format!("  {count} {code}"));
    }
    Ok(())
}

fn runs(count: usize) -> String {
    if count == 1 {
        "1 run".to_owned()
    } else {
        format!("{count} runs")
    }
}

/// A progress bar, which is hidden unless standard error is a terminal.
fn progress(runs: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(runs as u64), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} runs, {eta} left") {
        bar.set_style(style);
    }
    bar
}
