//! Audit entries of the processor: refused and repeated controls and decisions, controls sent by producers on Kafka, risky steps, and expired
//! approvals. For requests over HTTP the node writes an entry too, with the client's address.

use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    begin::Origin,
    inbox::{By, RunInput},
    run_cache::About,
};
use crate::{
    audit::{Entry, Outcome, START},
    base::{clock::Millis, id::Tenant},
    commands::{
        Command,
        control::{CANCEL, DECISION, PAUSE, RESUME, SIGNAL},
    },
    controls::Emergency,
    runs::{Decision, Event, RiskLane},
    saga::{Answer, Input, Refusal, Run, judge},
};

/// The code of what the kill switch refuses.
const KILLED: &str = "omnilink_disabled";
/// The code of what is refused during operator take-over, because it does not come from a person.
const TAKEN_OVER: &str = "operator_takeover";

/// The entry about a control or decision that a run refused, or about a start with the identity of another one.
pub(super) fn refused(
    tenant: Option<&Tenant>,
    run_id: &str,
    (action, code): (&str, &str),
    by: &By,
    now: Millis,
) -> Entry {
    let not_allowed = [Refusal::SelfApproval.code(), KILLED, TAKEN_OVER];
    let outcome = if not_allowed.contains(&code) {
        Outcome::Denied
    } else {
        Outcome::Failed
    };
    let detail = Map::from_iter([("code".to_owned(), code.into())]);
    Entry::new(tenant, action, outcome, now)
        .by(&by.principal, by.on_behalf_of.as_deref())
        .resource("run", run_id)
        .detail(detail)
}

/// The entry about a control or decision that changed nothing, because it was carried out before: the run has no record of it.
pub(super) fn repeated(
    tenant: Option<&Tenant>,
    run_id: &str,
    action: &str,
    by: &By,
    now: Millis,
) -> Entry {
    let detail = Map::from_iter([("status".to_owned(), "duplicate".into())]);
    Entry::new(tenant, action, Outcome::Ok, now)
        .by(&by.principal, by.on_behalf_of.as_deref())
        .resource("run", run_id)
        .detail(detail)
}

/// The entry about a start that no request has recorded: that of an event, a time or a Kafka producer. `position`: that of its record, as
/// in the history.
pub(super) fn started(
    command: &Command,
    origin: &Origin,
    status: &str,
    position: &str,
    now: Millis,
) -> Entry {
    let fields: [(&str, &str); 6] = [
        ("request_id", position),
        ("run_id", &command.run_id),
        ("kind", origin.request.name()),
        ("type", &origin.kind),
        ("source", &origin.source),
        ("status", status),
    ];
    let detail = fields
        .into_iter()
        .map(|(name, text)| (name.to_owned(), Value::from(text)));
    let tenant = Tenant::new(&command.tenant).ok();
    Entry::new(tenant.as_ref(), START, Outcome::Ok, now)
        .by(&command.principal, command.on_behalf_of.as_deref())
        .resource("run", &command.run_id)
        .detail(detail.collect())
}

/// The refusal of a control or decision of a producer on Kafka, if emergency controls forbid it. The port checks requests over HTTP.
pub(super) fn forbidden(controls: &Emergency, message: &RunInput) -> Option<Answer> {
    if !message.foreign || message.by.is_none() {
        return None;
    }
    let (code, why) = if controls.kill_switch() && message.kind != CANCEL {
        (KILLED, "the kill switch is on")
    } else if controls.operator_takeover() {
        let why = "an operator has taken over: only persons may do this, over HTTP";
        (TAKEN_OVER, why)
    } else {
        return None;
    };
    Some(Answer::Refused {
        code,
        message: why.into(),
    })
}

/// A control or decision, kept for the entry about it, because the run consumes the input.
pub(super) struct Control {
    action: &'static str,
    /// Of a decision.
    approval: Option<(u64, Decision)>,
    by: By,
}

impl Control {
    /// `None` for other inputs.
    pub(super) fn of(message: &RunInput) -> Option<Self> {
        let action = match message.kind {
            CANCEL => "run.cancelled",
            PAUSE => "run.paused",
            RESUME => "run.resumed",
            SIGNAL => "run.signalled",
            DECISION => "approval.decided",
            _ => return None,
        };
        let approval = match &message.input {
            Input::Decision {
                approval, decision, ..
            } => Some((*approval, *decision)),
            _ => None,
        };
        Some(Self {
            action,
            approval,
            by: message.by.clone()?,
        })
    }

    /// The entry about a control that a producer on Kafka sent and the run carried out.
    pub(super) fn done(&self, tenant: &Tenant, run: Uuid, now: Millis) -> Entry {
        let mut detail = Map::from_iter([("source".to_owned(), Value::from("kafka"))]);
        let entry = Entry::new(Some(tenant), self.action, Outcome::Ok, now)
            .by(&self.by.principal, self.by.on_behalf_of.as_deref());
        let entry = match self.approval {
            None => entry.resource("run", &run.to_string()),
            Some((approval, decision)) => {
                let decision = serde_json::to_value(decision).unwrap_or_default();
                detail.insert("decision".into(), decision);
                entry.resource("approval", &format!("{run}.{approval}"))
            }
        };
        entry.detail(detail)
    }
}

/// The entry about an event of a run; `None`: it needs none.
pub(super) fn of_event(about: &About, run: &Run, event: &Event, now: Millis) -> Option<Entry> {
    match event {
        // Not if it is scheduled again after a hold.
        Event::StepScheduled {
            step_id,
            attempt: 1,
            input,
            ..
        } if run.first_scheduled(step_id) == Some(now) => {
            let plan = run.plan();
            let step = &plan.steps[plan.index(step_id)?];
            // Most inputs need not be parsed.
            let judged = (!step.tool.risk.params.is_empty()).then(|| input.value());
            let risk = judge(&step.tool, step.irreversible, &judged.unwrap_or_default());
            if risk.lane != RiskLane::Yellow {
                return None;
            }
            let detail = Map::from_iter([
                ("step_id".to_owned(), Value::from(&**step_id)),
                ("tool".to_owned(), step.tool.name.as_str().into()),
                ("lane".to_owned(), serde_json::to_value(risk.lane).ok()?),
                ("risk_score".to_owned(), risk.score.into()),
                ("reasons".to_owned(), risk.reasons.into()),
            ]);
            let started = run.started();
            let entry = Entry::new(Some(&about.tenant), "step.risky", Outcome::Ok, now)
                .by(&started.principal, started.on_behalf_of.as_deref())
                .resource("run", &about.run_id)
                .detail(detail);
            Some(entry)
        }
        // An approval that is closed because the run ends has a reason.
        Event::ApprovalDecided(decided) | Event::IncidentDecided(decided)
            if decided.decision == Decision::Expired && decided.reason.is_none() =>
        {
            let id = format!("{}.{}", about.run_id, decided.approval);
            let entry = Entry::new(Some(&about.tenant), "approval.expired", Outcome::Ok, now)
                .by(&decided.by, None)
                .resource("approval", &id);
            Some(entry)
        }
        _ => None,
    }
}
