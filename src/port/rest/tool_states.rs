//! `GET /v1/tools`.

use std::{collections::HashMap, time::Duration};

use axum::Json;

use super::caller::Permitted;
use crate::{
    api::{
        list::List,
        time::rfc3339,
        tools::{Tool, ToolLimit, ToolRate},
    },
    controls::Emergency,
    plans::{self, Kind, Lane, Worker},
    port::problem::Refused,
    store::task_counts::{self, Claims},
    workers::{Activity, BreakerState},
    workflows::Catalog,
};

/// The time limit for counting tasks.
const TIMEOUT: Duration = Duration::from_secs(2);

/// `GET /v1/tools`: the tools in force, by name, including builtin ones.
pub(crate) async fn list(caller: Permitted) -> Result<Json<List<Tool>>, Refused> {
    let shared = &caller.shared;
    let catalog = shared.workflows.get();
    let claims = claims(&caller, &catalog).await;
    let emergency = shared.controls.emergency();
    let tools = catalog.tools().map(|definition| {
        let tool = &definition.tool;
        let mut shown = shown(tool, shared.tool_states.activity(&tool.name));
        show_control(&mut shown, tool, &emergency);
        if tool.worker == Worker::Claim {
            let claims = claims.get(&*tool.name);
            shown.running = claims.map(|claims| claims.claimed);
            shown.queued = claims.map(|claims| claims.waiting);
            if let Some(limit) = &mut shown.limit {
                limit.used = claims.map(|claims| claims.used);
            }
        }
        shown
    });
    Ok(Json(List::whole(tools.collect())))
}

/// The tasks of the tools that are claimed; none while Postgres cannot be read.
async fn claims<'c>(caller: &Permitted, catalog: &'c Catalog) -> HashMap<&'c str, Claims> {
    let tools = catalog.tools().map(|definition| &definition.tool);
    let claimed = tools.filter(|tool| tool.worker == Worker::Claim);
    let names: Vec<&str> = claimed.map(|tool| &*tool.name).collect();
    if names.is_empty() {
        return HashMap::new();
    }
    let Ok(store) = caller.shared.tables.store() else {
        return HashMap::new();
    };
    let counted = task_counts::claims(&store, caller.key.tenant.as_str(), &names);
    match tokio::time::timeout(TIMEOUT, counted).await {
        Ok(Ok(claims)) => names.into_iter().zip(claims).collect(),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the tasks of tools cannot be counted");
            HashMap::new()
        }
        Err(_) => HashMap::new(),
    }
}

/// Shows the control that holds all calls of a tool, if there is one, with its reason as in the answers of claims. It has no end.
fn show_control(shown: &mut Tool, tool: &plans::Tool, emergency: &Emergency) {
    let (outside, changes) = (tool.works_outside(), tool.changes_something());
    if let Some(reason) = emergency.holds(&tool.name, outside, changes) {
        shown.hold_reason = Some(reason.into_owned());
        shown.held_until = None;
    }
}

fn shown(tool: &plans::Tool, activity: Option<Activity>) -> Tool {
    let activity = activity.unwrap_or(Activity {
        running: 0,
        queued: 0,
        held: 0,
        hold: None,
        breaker: BreakerState::Closed,
    });
    let (breaker, open_until) = match activity.breaker {
        BreakerState::Closed => ("closed", None),
        BreakerState::HalfOpen => ("half_open", None),
        BreakerState::Open { until } => ("open", Some(rfc3339(until))),
    };
    let limit = tool.limit.as_ref().map(|limit| ToolLimit {
        concurrency: limit.concurrency,
        used: Some(activity.running as u64),
        rate: limit.rate.map(|rate| ToolRate {
            limit: rate.limit,
            window_s: rate.window_s,
        }),
    });
    Tool {
        name: tool.name.clone(),
        kind: tool.kind.map(|kind| match kind {
            Kind::Read => "read",
            Kind::Write => "write",
            Kind::Delete => "delete",
            Kind::Payment => "payment",
            Kind::Message => "message",
        }),
        lane: tool.risk.lane.map(|lane| match lane {
            Lane::Safe => "safe",
            Lane::Sensitive => "sensitive",
            Lane::Blocked => "blocked",
        }),
        worker: match &tool.worker {
            Worker::Http { .. } => "http",
            Worker::Kafka => "kafka",
            Worker::Claim => "claim",
            Worker::Builtin(_) => "builtin",
        },
        running: Some(activity.running as u64),
        queued: Some(activity.queued as u64),
        held: activity.held,
        hold_reason: activity.hold.as_ref().map(|(reason, _)| reason.to_string()),
        held_until: activity.hold.map(|(_, until)| rfc3339(until)),
        breaker,
        open_until,
        limit,
    }
}
