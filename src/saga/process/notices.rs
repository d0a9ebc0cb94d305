//! Events about runs on `ingress`.

use serde_json::{Value, json};

use super::run_cache::About;
use crate::{
    base::clock::Millis,
    commands::depth,
    envelope::{Form, avro::encode_ingress, parse_structured},
    log::Record,
    runs::{ApprovalRequest, Event},
    saga::Run,
};

/// The source of events about runs.
const SOURCE: &str = "/omnilink/runs";

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
