//! Reads a start record: what a new run needs to begin.

use std::sync::Arc;

use serde_json::Value;

use super::{
    compile::{Plans, RunPlan},
    run_cache::About,
};
use crate::{
    base::{clock::Millis, id::Tenant},
    commands::{
        Command,
        start::{Request, Start, Trace, WorkflowVersion},
    },
    runs::{self, Found, GuardianReport, Json, PlanReady, Started},
    saga::{
        NewPlan,
        goal::{REQUIRED_BY_KEY, slots},
    },
    stream::Rejected,
};

/// The reason of an approval that the request demands.
const REQUIRED_BY_REQUEST: &str = "required_by_request";

/// The contents of a start record.
pub(super) struct NewRun {
    pub(super) about: Arc<About>,
    pub(super) started: Started,
    /// What the guardian found in the goal.
    pub(super) guardian: Option<GuardianReport>,
    /// `None` for a goal that has no plan yet.
    pub(super) plan: Option<NewPlan>,
    /// The value of `slots` in expressions; null without a goal or a plan.
    pub(super) slots: Arc<Value>,
    pub(super) body_hash: [u8; 16],
    /// Of a start that the port has not recorded.
    pub(super) origin: Option<Origin>,
}

/// What the audit log says of a start that an event, a time or a Kafka producer led to.
pub(super) struct Origin {
    pub(super) request: Request,
    pub(super) kind: String,
    pub(super) source: String,
    /// False for times: each node sends their starts.
    pub(super) is_sent_once: bool,
}

impl Origin {
    fn of(start: &Start) -> Self {
        Self {
            request: start.request,
            kind: start.kind.clone(),
            source: start.source.clone(),
            is_sent_once: first(start) != Some("cron"),
        }
    }
}

/// Reads a start record.
pub(super) fn read(command: &Command, plans: &Plans) -> Result<NewRun, Rejected> {
    let mut start = Start::decode(command)
        .ok_or_else(|| Rejected::new("invalid_command", "it is not a valid start of a run"))?;
    let ready = match &start.plan {
        None if start.request == Request::Goal => None,
        _ => Some(plans.of(&start)?),
    };
    if let Some(ready) = &ready {
        check_undo(&start, ready)?;
    }
    let plan = ready.as_ref().map(|ready| NewPlan {
        compiled: Arc::clone(&ready.compiled),
        ready: plan_ready(ready, None, found(&start)),
    });
    let has_slots = start.goal.is_some() && plan.is_some();
    let tenant = Tenant::new(&command.tenant)
        .map_err(|e| Rejected::new("invalid_command", e.to_string()))?;
    let about = Arc::new(About {
        run_id: command.run_id.as_str().into(),
        tenant,
        workflow: start.workflow.as_ref().map(WorkflowVersion::named),
        trace: Trace {
            traceparent: command.traceparent.clone(),
            tracestate: command.tracestate.clone(),
        },
        ready,
        sealed: start.sealed.as_deref().map(Arc::from),
        found: start.found.take(),
        depth: start.depth,
        feature: (!by_port(&start)).then(|| start.request.feature()),
    });
    let body_hash = hash(&start.body_hash);
    let origin = (!by_port(&start)).then(|| Origin::of(&start));
    let guardian = start.guardian.take();
    let slots = has_slots.then(|| slots(&start.slots));
    let started = started(command, start);
    Ok(NewRun {
        about,
        started,
        guardian,
        plan,
        slots: Arc::new(slots.unwrap_or_default()),
        body_hash,
        origin,
    })
}

/// Checks that the compensations to be retried exist in the plan.
fn check_undo(start: &Start, ready: &RunPlan) -> Result<(), Rejected> {
    let plan = &ready.compiled;
    let undo = start.retry.iter().flat_map(|retry| &retry.undo);
    for undo in undo {
        let index = plan.index(&undo.step_id);
        if index.is_none_or(|index| plan.steps[index].compensation.is_none()) {
            let message = format!("step `{}` has no compensation", undo.step_id);
            return Err(Rejected::new("invalid_plan", message));
        }
    }
    Ok(())
}

fn started(command: &Command, start: Start) -> Started {
    let retry = start.retry.map(|retry| *retry);
    let (retry_of, reused, undo) = match retry {
        Some(retry) => (Some(retry.of), retry.reused, retry.undo),
        None => (None, Vec::new(), Vec::new()),
    };
    let params = start.params.map_or_else(Json::empty_object, Json::of_raw);
    let required = &start.constraints.approvals_required_for;
    let workflow = start.workflow.as_ref().map(|workflow| &workflow.name);
    let mut approve_run = Vec::new();
    if start.approval_required {
        approve_run.push(REQUIRED_BY_REQUEST.to_owned());
    }
    if required.contains(&start.kind) || workflow.is_some_and(|name| required.contains(name)) {
        approve_run.push(REQUIRED_BY_KEY.to_owned());
    }
    Started {
        workflow: start.workflow.as_ref().map(WorkflowVersion::named),
        kind: Some(start.kind),
        goal: start.goal,
        params,
        sealed: start.sealed,
        principal: command.principal.clone(),
        on_behalf_of: command.on_behalf_of.clone(),
        received_at: Millis(start.received_at / 1000),
        run_at: start.run_at.map(|micros| Millis(micros / 1000)),
        retry_of,
        approve_run,
        approve_tools: start.constraints.approvals_required_for,
        reused,
        undo,
    }
}

/// Whether a request to the port started it. The first part of its identity tells events and times, which requests cannot choose.
fn by_port(start: &Start) -> bool {
    !start.from_ingress && !matches!(first(start), Some("trigger" | "cron"))
}

fn first(start: &Start) -> Option<&str> {
    start.identity.first().map(String::as_str)
}

/// The plan, as its record in the history.
pub(super) fn plan_ready(
    ready: &RunPlan,
    workflow: Option<runs::WorkflowVersion>,
    found: Found,
) -> PlanReady {
    PlanReady {
        source: ready.source.to_owned(),
        hash: ready.hash.clone(),
        plan: ready.plan.clone(),
        workflow,
        found: Box::new(found),
    }
}

/// What a start with a plan says about the plan of a goal: it repeats the run of one.
fn found(start: &Start) -> Found {
    let found = start.found.as_deref();
    Found {
        slots: start.slots.clone(),
        red: found.map(|found| found.red.clone()).unwrap_or_default(),
        flagged: found.is_some_and(|found| found.flagged),
        ..Found::default()
    }
}

/// Parses 32 hexadecimal digits; zeros if it is anything else.
fn hash(hex: &str) -> [u8; 16] {
    u128::from_str_radix(hex, 16)
        .unwrap_or_default()
        .to_be_bytes()
}
