//! `GET /v1/tools`.

use axum::Json;

use super::caller::Permitted;
use crate::{
    api::{
        list::List,
        time::rfc3339,
        tools::{Tool, ToolLimit, ToolRate},
    },
    plans::{self, Kind, Lane, Worker},
    port::problem::Refused,
    workers::{Activity, BreakerState},
};

/// `GET /v1/tools`: the tools in force, by name, including builtin ones.
pub(crate) async fn list(caller: Permitted) -> Result<Json<List<Tool>>, Refused> {
    let shared = &caller.shared;
    let catalog = shared.workflows.get();
    let tools = catalog.tools().map(|definition| {
        let activity = shared.tool_states.activity(&definition.tool.name);
        shown(&definition.tool, activity)
    });
    Ok(Json(List::whole(tools.collect())))
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
        used: activity.running,
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
        running: activity.running,
        queued: activity.queued,
        held: activity.held,
        hold_reason: activity.hold.as_ref().map(|(reason, _)| reason.to_string()),
        held_until: activity.hold.map(|(_, until)| rfc3339(until)),
        breaker,
        open_until,
        limit,
    }
}
