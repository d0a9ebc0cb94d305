//! `POST /v1/approvals/{id}`: a person decides about an approval or an incident.

use std::sync::Arc;

use axum::{
    extract::{Path, Request, State},
    response::Response,
};
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    recent::DecisionHash,
    send::{ApprovalDecision, Message},
    sent::{Controller, Sent},
};
use crate::{
    api::{
        problem::{Code, INVALID_PLAN},
        run_controls::{DecideApproval, DecisionMade},
    },
    commands::{
        control::{self, Decide, DecidedPlan},
        start::{PlanSource, RECORD_MAX},
    },
    envelope::{Invalid, canonical_hash},
    port::{
        Shared,
        problem::{Problem, Refused},
        rest::personal::Personal,
    },
    runs::{Decision, given},
    starts,
};

/// `POST /v1/approvals/{id}`.
pub(crate) async fn decide(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    let sent = Sent::read(&shared, request).await?;
    let fields: DecideApproval = sent.fields()?;
    let made = fields.decision.ok_or_else(|| sent.missing("decision"))?;
    sent.check_reason(fields.reason.as_ref())?;
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let is_hash = |hash: &String| hash.len() == 64 && hash.bytes().all(is_digit);
    if !fields.input_hash.as_ref().is_none_or(is_hash) {
        return Err(sent.invalid("`input_hash` must be 64 hexadecimal digits in lower case"));
    }
    if fields.input.is_some() && made != DecisionMade::Approved {
        return Err(sent.invalid("`input` is only allowed with the decision `approved`"));
    }
    if fields.output.is_some() && made != DecisionMade::Skip {
        return Err(sent.invalid("`output` is only allowed with the decision `skip`"));
    }
    if fields.plan.is_some() && (made != DecisionMade::Approved || fields.input.is_some()) {
        let why = "`plan` is only allowed with the decision `approved`, and without `input`";
        return Err(sent.invalid(why));
    }
    let changes_input = fields.input.is_some();
    let input = sent.check_value("input", fields.input)?;
    let output = sent.check_value("output", fields.output)?;
    let controller = sent.permit(control::DECISION).await?;
    let (run, approval) = controller.approval(&id)?;
    let approval_id = format!("{run}.{approval}");
    let value = input.or(output);
    let may_repeat = fields.reason.is_some() || value.is_some() || fields.plan.is_some();
    let personal = controller.personal(run, may_repeat).await;
    let value = value.map(|value| personal.json(value));
    let plan = match &fields.plan {
        None => None,
        Some(plan) => {
            let checked = checked(&controller, plan, &personal);
            Some(checked.map_err(|e| controller.caller.refuse(e))?)
        }
    };
    let plan_hash = plan.as_ref().map(|plan| plan.planned.hash.clone());
    let mut detail = Map::new();
    detail.insert("decision".into(), made.name().into());
    if let Some(reason) = &fields.reason {
        detail.insert("reason".into(), personal.audited(reason).into());
    }
    if changes_input {
        detail.insert("input_changed".into(), true.into());
    }
    if let Some(hash) = &plan_hash {
        detail.insert("plan_hash".into(), hash.clone().into());
    }
    let made_so = decision(made);
    let caller = &controller.caller;
    let decision_hash = decision_hash(&json!([
        controller.tenant.as_str(),
        caller.key.principal,
        caller.on_behalf_of,
        made,
        value,
        plan_hash
    ]));
    let message = Message {
        kind: control::DECISION,
        body: Decide {
            approval,
            decision: made_so,
            reason: fields.reason.map(|reason| personal.text(reason)),
            input_hash: fields.input_hash,
            value: value.clone(),
            plan: plan.map(Box::new),
        },
        action: "approval.decided",
        detail,
        decision: Some(ApprovalDecision {
            approval_id: &approval_id,
            decision_hash,
            approval,
            decision: made_so,
            given: given(value.as_ref(), plan_hash.as_deref()),
        }),
    };
    controller.send(run, message).await
}

/// Checks a plan like that of a start, and adds its tools. It has placeholders instead of the values of the run.
fn checked(
    controller: &Controller,
    plan: &RawValue,
    personal: &Personal,
) -> Result<DecidedPlan, Problem> {
    let catalog = controller.caller.shared.workflows.get();
    let mut resolved = starts::inline(&catalog, plan).map_err(refused)?;
    if let Some(concealed) = personal.plan(plan) {
        resolved = starts::inline(&catalog, &concealed).map_err(refused)?;
    }
    let mut planned = resolved
        .plan
        .ok_or_else(|| Problem::new(&INVALID_PLAN, "it is not a plan"))?;
    planned.source = PlanSource::Person;
    let tools = resolved.tools;
    let sizes = tools
        .iter()
        .map(|(name, tool)| name.len() + tool.get().len());
    if planned.steps.get().len() + sizes.sum::<usize>() > RECORD_MAX {
        return Err(refused(starts::too_large(
            "a plan with its tools",
            RECORD_MAX,
        )));
    }
    Ok(DecidedPlan { planned, tools })
}

fn refused(invalid: Invalid) -> Problem {
    let code = Code::of(&invalid.code).unwrap_or(&INVALID_PLAN);
    Problem::named(code, invalid.code, invalid.message)
}

/// A hash of everything that makes two decisions the same.
fn decision_hash(decided: &Value) -> DecisionHash {
    // This cannot fail: the value is not nested deeper than the body, which was checked.
    canonical_hash(decided.to_string().as_bytes()).unwrap_or_default()
}

/// The decision in the form that the run expects.
const fn decision(made: DecisionMade) -> Decision {
    match made {
        DecisionMade::Approved => Decision::Approved,
        DecisionMade::Denied => Decision::Denied,
        DecisionMade::Retry => Decision::Retry,
        DecisionMade::Skip => Decision::Skip,
        DecisionMade::Fail => Decision::Fail,
    }
}
