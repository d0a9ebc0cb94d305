//! Records for others than workers and readers of runs: audit entries, and events about runs on `ingress`.

use serde_json::{Map, Value, json};

use super::{begin::Origin, live::About};
use crate::{
    audit::{Entry, Outcome, START},
    base::{clock::Millis, id::Tenant},
    commands::{Command, depth},
    envelope::{Form, avro::encode_ingress, parse_structured},
    log::Record,
    runs::{ApprovalRequest, Event},
    saga::Run,
};

/// The source of events about runs.
const SOURCE: &str = "/omnilink/runs";

/// The audit entry about a control or decision that an ended run has refused, or about a start with the identity of another one.
pub(super) fn refused(
    tenant: &Tenant,
    run_id: &str,
    (action, code): (&str, &str),
    (principal, on_behalf_of): (&str, Option<&str>),
    now: Millis,
) -> Entry {
    let mut detail = Map::new();
    detail.insert("code".into(), code.into());
    Entry::new(Some(tenant), action, Outcome::Failed, now)
        .by(principal, on_behalf_of)
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

/// The event about a request for a decision.
pub(super) fn approval_requested(
    about: &About,
    seq: u64,
    request: &ApprovalRequest,
    now: Millis,
) -> Option<Record> {
    let data = json!({
        "approval_id": format!("{}.{seq}", about.run_id),
        "run_id": &*about.run_id,
        "step_id": request.step_id.as_deref(),
        "kind": request.kind,
        "lane": request.lane,
        "risk_score": request.risk_score,
        "reasons": request.reasons,
        "message": request.message,
        "expires_at": request.expires_at,
        "workflow": about.workflow,
    });
    event(
        about,
        &seq.to_string(),
        "omnilink.approval.requested",
        &data,
        now,
    )
}

/// The event about the end of a run; `None`: it has not ended.
pub(super) fn ended(about: &About, run: &Run, last: &Event, now: Millis) -> Option<Record> {
    let kind = match last {
        Event::RunSucceeded { .. } => "omnilink.run.succeeded",
        Event::RunFailed { .. } => "omnilink.run.failed",
        Event::RunDenied { .. } => "omnilink.run.denied",
        Event::RunCancelled { .. } => "omnilink.run.cancelled",
        _ => return None,
    };
    let error = run.end().and_then(|(_, error)| error);
    let data = json!({
        "run_id": &*about.run_id,
        "workflow": about.workflow,
        "error": error.map(|error| json!({ "code": error.code, "message": error.message, "failed_step_id": error.failed_step_id })),
    });
    event(about, &run.seq().to_string(), kind, &data, now)
}

fn event(about: &About, number: &str, kind: &str, data: &Value, now: Millis) -> Option<Record> {
    let mut event = json!({
        "id": format!("{}.{number}", about.run_id),
        "source": SOURCE,
        "type": kind,
        "entity": { "type": "run", "external_id": &*about.run_id },
        "data": data,
    });
    for (name, value) in about.trace.attributes() {
        event[name] = value.into();
    }
    let body = event.to_string();
    // Always valid, because OmniLink sets all of its fields.
    let parsed = parse_structured(body.as_bytes(), Form::OmniLink, &about.tenant, now).ok()?;
    let mut value = Vec::with_capacity(512);
    encode_ingress(&parsed.event, &mut value);
    Some(Record {
        key: Some(parsed.event.record_key().into()),
        value: Some(value.into()),
        headers: depth::headers(about.depth),
    })
}
