//! The view of a run that the port returns.

use super::run_cache::About;
use crate::{
    api::runs::{
        ApprovalView, CompensationResultView, CompensationView, PlanView, RunErrorView, RunView,
        StepErrorView, StepView, WorkflowView,
    },
    base::clock::Millis,
    runs::{ApprovalRequest, RiskLane, RunError, StepError},
    saga::Run,
};

/// The view of a run whose last record was written at `updated_at`. It contains only open approvals.
pub(super) fn view(about: &About, run: &Run, updated_at: Millis) -> RunView {
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
        approvals: run
            .open_approvals()
            .map(|(seq, request)| approval(about, seq, request))
            .collect(),
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
