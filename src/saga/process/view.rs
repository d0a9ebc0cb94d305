//! The view of a run that the port returns.

use serde_json::Value;

use super::run_cache::{About, CachedRun, DecidedApproval};
use crate::{
    api::runs::{
        ApprovalView, CompensationResultView, CompensationView, PlanView, RunErrorView, RunView,
        StepErrorView, StepView, WorkflowView,
    },
    runs::{ApprovalRequest, Decision, RiskLane, RunError, StepError},
    saga::Run,
};

/// The view of a run. Of its approvals it contains those that are open, and those that were decided while somebody followed the run.
pub(super) fn view(live: &CachedRun) -> RunView {
    let (about, run, updated_at) = (&*live.about, &live.run, live.updated_at);
    let started = run.started();
    let (output, error) = run.end().map_or((None, None), |(output, error)| {
        (output.cloned(), error.map(run_error))
    });
    RunView {
        run_id: about.run_id.to_string(),
        tenant: about.tenant.as_str().to_owned(),
        status: run.status(),
        workflow: about.workflow.as_ref().map(|workflow| WorkflowView {
            name: workflow.name.clone(),
            version: workflow.version.clone(),
        }),
        goal: started.goal.clone(),
        params: started.params.clone(),
        plan: about.ready.as_ref().map(|ready| PlanView {
            hash: ready.hash.clone(),
            source: ready.source.to_owned(),
            steps: ready.steps.clone(),
        }),
        steps: steps(run),
        approvals: approvals(about, run, &live.decided),
        output,
        error,
        retry_of: started.retry_of.clone(),
        principal: started.principal.clone(),
        on_behalf_of: started.on_behalf_of.clone(),
        created_at: started.received_at,
        updated_at,
        finished_at: run.has_ended().then_some(updated_at),
    }
}

fn steps(run: &Run) -> Vec<StepView> {
    let steps = run.plan().steps.iter();
    let steps = steps.map(|step| {
        let done = run.execution(&step.id);
        StepView {
            id: step.id.to_string(),
            tool: step.tool.name.clone(),
            status: done.status,
            attempts: done.attempts,
            output: done.output,
            error: done.error.as_ref().map(step_error),
            started_at: done.started_at,
            finished_at: done.finished_at,
            compensation: done.compensation.map(|undo| CompensationView {
                status: undo.status.to_owned(),
                attempts: undo.attempts,
                error: undo.error.as_ref().map(step_error),
            }),
        }
    });
    steps.collect()
}

fn step_error(error: &StepError) -> StepErrorView {
    StepErrorView {
        code: error.code.clone(),
        message: error.message.clone(),
    }
}

fn run_error(error: &RunError) -> RunErrorView {
    RunErrorView {
        failed_step_id: error.failed_step_id.as_deref().map(str::to_owned),
        code: error.code.clone(),
        message: error.message.clone(),
        compensation_results: error
            .compensation_results
            .iter()
            .map(|result| CompensationResultView {
                step_id: result.step_id.to_string(),
                success: result.success,
                error: result.error.as_ref().map(step_error),
            })
            .collect(),
    }
}

/// In the order in which they were requested.
fn approvals(about: &About, run: &Run, decided: &[DecidedApproval]) -> Vec<ApprovalView> {
    let open = run.open_approvals();
    let open = open.map(|(seq, request)| (seq, approval(about, seq, request)));
    let decided = decided.iter();
    let decided = decided.map(|past| (past.decided.approval, decided_approval(about, past)));
    let mut all: Vec<_> = open.chain(decided).collect();
    all.sort_by_key(|(seq, _)| *seq);
    all.into_iter().map(|(_, approval)| approval).collect()
}

fn decided_approval(about: &About, past: &DecidedApproval) -> ApprovalView {
    let decided = &past.decided;
    ApprovalView {
        status: status(decided.decision),
        decided_by: Some(decided.by.clone()),
        decided_at: Some(past.at),
        reason: decided.reason.clone(),
        ..approval(about, decided.approval, &past.request)
    }
}

/// The status of an approval with this decision.
fn status(decision: Decision) -> String {
    match serde_json::to_value(decision) {
        Ok(Value::String(name)) => name,
        _ => String::new(),
    }
}

fn approval(about: &About, seq: u64, request: &ApprovalRequest) -> ApprovalView {
    ApprovalView {
        id: format!("{}.{seq}", about.run_id),
        run_id: about.run_id.to_string(),
        step_id: request.step_id.as_deref().map(str::to_owned),
        kind: request.kind.name().to_owned(),
        lane: match request.lane {
            RiskLane::Green => "GREEN",
            RiskLane::Yellow => "YELLOW",
            RiskLane::Red => "RED",
            RiskLane::Blocked => "BLOCKED",
        }
        .to_owned(),
        risk_score: request.risk_score,
        reasons: request.reasons.clone(),
        input: request.input.clone(),
        input_hash: request.input_hash.clone(),
        status: "pending".to_owned(),
        message: request.message.clone(),
        requested_at: request.requested_at,
        expires_at: request.expires_at,
        decided_by: None,
        decided_at: None,
        reason: None,
    }
}
