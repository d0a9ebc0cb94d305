//! `/v1/controls`: operators read and change the emergency controls, whichever of them are in force.

use std::collections::BTreeMap;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use super::caller::{Caller, Permitted, Sent};
use crate::{
    api::controls::{BadChange, ChangeControls, Controls},
    audit::{NO_TENANT, Outcome},
    controls::{Emergency, EmergencyChanged, EmergencyError, EmergencyState},
    port::problem::Refused,
};

/// If the old and new values are larger than this, in bytes, they are left out of the audit entry so that the reason fits.
const VALUES_MAX: usize = 24 * 1024;

/// `GET /v1/controls`.
pub(crate) async fn show(caller: Permitted) -> Response {
    let emergency = caller.shared.controls.emergency();
    Json(Controls::new(&emergency)).into_response()
}

/// `PATCH /v1/controls`.
pub(crate) async fn change(Sent(caller, body): Sent<Caller>) -> Result<Response, Refused> {
    let request: ChangeControls = caller.body(body)?;
    let change = request.check().map_err(|error| match error {
        BadChange::NoReason => caller.missing("reason"),
        error => caller.invalid(error),
    })?;
    let caller = caller.permit()?;
    let (controls, now) = (&caller.shared.controls, caller.shared.clock.now());
    let changed = controls
        .change_emergency(&change, &caller.key.principal, now)
        .await
        .map_err(|error| match error {
            EmergencyError::TooManyDisabled(error) => caller.invalid(error),
            EmergencyError::Controls(error) => caller.unchanged(&error),
        })?;
    audit(&caller, &changed).await;
    // The answer shows the state in force on this node, which may already include a later change.
    let now = controls.emergency();
    let emergency = Emergency {
        state: changed.after,
        held: now.held,
        unverified: now.unverified,
    };
    Ok(Json(Controls::new(&emergency)).into_response())
}

async fn audit(caller: &Permitted, EmergencyChanged { before, after }: &EmergencyChanged) {
    let mut entry = caller.audit_entry(&caller.key.tenant, "control.changed", Outcome::Ok);
    // The change concerns the whole installation.
    NO_TENANT.clone_into(&mut entry.tenant);
    let entry = entry
        .resource("controls", "emergency")
        .detail(detail(before, after));
    caller.shared.audit.record_durably(entry).await;
}

/// The reason, and the changes with old and new values, or without the values if they are too large.
fn detail(before: &EmergencyState, after: &EmergencyState) -> Map<String, Value> {
    let (old, new) = (values(before), values(after));
    let names = old.keys().chain(new.keys());
    let changed: BTreeMap<&String, Value> = names
        .filter(|name| old.get(*name) != new.get(*name))
        .map(|name| {
            let value = |of: &BTreeMap<String, Value>| of.get(name).cloned().unwrap_or_default();
            (name, json!({ "old": value(&old), "new": value(&new) }))
        })
        .collect();
    let size: usize = changed
        .iter()
        .map(|(name, values)| name.len() + values.to_string().len())
        .sum();
    let changes = if size <= VALUES_MAX {
        json!(changed)
    } else {
        json!(changed.len())
    };
    let detail = json!({ "version": after.version, "reason": after.reason, "changes": changes });
    match detail {
        Value::Object(detail) => detail,
        _ => Map::new(),
    }
}

/// Each control with its value; a disabled feature is `disabled.NAME`.
fn values(state: &EmergencyState) -> BTreeMap<String, Value> {
    let switches = [
        ("kill_switch", json!(state.kill_switch)),
        ("operator_takeover", json!(state.operator_takeover)),
        ("safe_mode", json!(state.safe_mode)),
        ("allowed_operations", json!(state.allowed_operations)),
    ];
    let switches = switches.map(|(name, value)| (name.to_owned(), value));
    let disabled = state.disabled.iter();
    let disabled = disabled.map(|(name, why)| (format!("disabled.{name}"), json!(why)));
    switches.into_iter().chain(disabled).collect()
}
