//! The dialect `github` (docs.github.com, "Validating webhook deliveries" and "Webhook events and payloads").

use std::borrow::Cow;

use crate::bridges::{
    call::Call,
    content::{Content, Object, scalar, string},
    draft::{About, Draft},
    refusal::Refusal,
};
use crate::envelope::json::member;

const EVENT: &str = "x-github-event";
pub(super) const DELIVERY: &str = "x-github-delivery";

/// `X-Hub-Signature-256` signs the body; the id is that of the delivery, which a redelivery repeats.
pub(super) fn verify(call: &Call<'_>) -> Result<String, Refusal> {
    call.verify_body("x-hub-signature-256")?;
    call.headers.required(EVENT)?;
    Ok(call.headers.required(DELIVERY)?.to_owned())
}

/// The type is `github.{event}.{action}`, or `github.{event}` if the body has no action; data is the whole body.
pub(super) fn read<'a>(
    call: &Call<'a>,
    id: &'a str,
    content: &'a Content<'_>,
) -> Result<Draft<'a>, Refusal> {
    let body = content.object()?;
    let event = call.headers.required(EVENT)?;
    let action = body.get("action").and_then(string);
    let kind = match action.filter(|action| !action.is_empty()) {
        Some(action) => format!("github.{event}.{action}"),
        None => format!("github.{event}"),
    };
    Ok(Draft {
        about: about(event, &body),
        ..Draft::new(id, kind, content.text())
    })
}

/// The member of the body that the event is about.
fn member_of(event: &str) -> Option<&'static str> {
    const OWN: [&str; 9] = [
        "release",
        "discussion",
        "workflow_run",
        "check_run",
        "check_suite",
        "deployment",
        "milestone",
        "label",
        "installation",
    ];
    /// These occur under more than one name, such as `deployment_status`.
    const FAMILIES: [&str; 4] = ["pull_request", "discussion", "deployment", "installation"];
    if matches!(event, "issues" | "issue_comment") {
        return Some("issue");
    }
    let family = FAMILIES.iter().find(|family| event.starts_with(**family));
    family
        .or_else(|| OWN.iter().find(|own| **own == event))
        .copied()
}

/// The entity: that of the event, else the repository, else the organization, else the sender. An event with none of them, such as a
/// security advisory, is about itself.
fn about<'a>(event: &'a str, body: &Object<'a>) -> Option<About<'a>> {
    let wider = ["repository", "organization", "sender"];
    let candidates = member_of(event).into_iter().chain(wider);
    candidates
        .chain([event])
        .find_map(|kind| of(kind, body.get(kind)?))
}

fn of<'a>(kind: &'a str, object: &'a str) -> Option<About<'a>> {
    if !object.starts_with('{') {
        return None;
    }
    let first = |names: &[&str], read: fn(&'a str) -> Option<Cow<'a, str>>| {
        let found = names.iter().filter_map(|name| read(member(object, name)?));
        found.into_iter().find(|text| !text.is_empty())
    };
    Some(About {
        kind: kind.into(),
        external_id: first(&["node_id", "id", "ghsa_id"], scalar)?,
        display_name: first(&["full_name", "title", "name", "login"], string),
    })
}
