//! The members of a start's envelope besides the attributes.

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::refusal::Refusal;
use crate::{
    base::clock::Millis,
    controls::text_is_good,
    envelope::{IDENTIFIER_MAX, ParsedStart, StartKind, parse_rfc3339},
};

/// How far ahead `run_at` may be, in milliseconds: 400 days.
const RUN_AT_MAX_MS: i64 = 400 * 86_400_000;

/// The parsed request. JSON values keep their text.
#[derive(Debug, Default)]
pub(super) struct StartFields {
    pub(super) params: Option<Box<RawValue>>,
    pub(super) what: StartTarget,
    pub(super) context: Option<Box<RawValue>>,
    pub(super) adapter: Option<String>,
    pub(super) approval_required: bool,
    /// In microseconds since the Unix epoch.
    pub(super) run_at: Option<i64>,
    pub(super) on_behalf_of: Option<String>,
}

/// What the request starts.
#[derive(Debug, Default)]
pub(super) enum StartTarget {
    /// The workflow whose command is `type`.
    #[default]
    Command,
    /// A workflow in this version, or else in the highest one.
    Workflow(NamedWorkflow),
    /// A plan.
    Plan(Box<RawValue>),
    /// A goal.
    Goal(String),
    /// The tool named by `type`.
    Task,
}

/// A workflow by its name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedWorkflow {
    #[serde(default)]
    pub(super) name: String,
    pub(super) version: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    #[serde(default)]
    system: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    approval: Option<Approval>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Approval {
    Required,
}

impl StartFields {
    /// Parses and checks all members.
    pub(super) fn read(
        parsed: &ParsedStart<'_>,
        kind: StartKind,
        now: Millis,
    ) -> Result<Self, Refusal> {
        let object = |name| raw_object(parsed, name);
        let mut fields = Self::default();
        match kind {
            StartKind::Command => {
                fields.params = Some(object("params")?.ok_or_else(|| Refusal::missing("params"))?);
            }
            StartKind::Workflow => {
                let workflow = parsed.member("workflow");
                fields.what = match (workflow, object("plan")?) {
                    (None, None) => return Err(Refusal::missing("workflow")),
                    (Some(_), Some(_)) => {
                        return Err(Refusal::invalid("`workflow` and `plan` exclude each other"));
                    }
                    (Some(text), None) => StartTarget::Workflow(workflow_of(text)?),
                    (None, Some(plan)) => StartTarget::Plan(plan),
                };
                fields.params = Some(object("input")?.ok_or_else(|| Refusal::missing("input"))?);
            }
            StartKind::Goal => {
                let goal = text(parsed, "goal")?.filter(|goal| !goal.trim().is_empty());
                fields.what = StartTarget::Goal(goal.ok_or_else(|| Refusal::missing("goal"))?);
                fields.params = object("params")?;
                fields.context = object("context")?;
            }
            StartKind::Task => {
                fields.what = StartTarget::Task;
                let params = parsed
                    .member("params")
                    .ok_or_else(|| Refusal::missing("params"))?;
                fields.params = Some(raw(params)?);
            }
        }
        if let Some(text) = parsed.member("target") {
            let target: Target = member("target", text, "an object with `system`")?;
            if target.system.is_empty() || target.system.len() > IDENTIFIER_MAX {
                return Err(Refusal::missing("target_system"));
            }
            fields.adapter = Some(target.system);
        }
        if let Some(text) = parsed.member("policy") {
            let policy: Policy = member(
                "policy",
                text,
                "an object with `approval: \"required\"`, and nothing else",
            )?;
            fields.approval_required = policy.approval.is_some();
        }
        if let Some(text) = text(parsed, "run_at")? {
            fields.run_at = Some(run_at(&text, now)?);
        }
        if let Some(user) = text(parsed, "on_behalf_of")? {
            fields.on_behalf_of = Some(user_of("on_behalf_of", user)?);
        }
        Ok(fields)
    }
}

/// Checks the name of a user, which the sender chooses freely.
pub(super) fn user_of(field: &str, user: String) -> Result<String, Refusal> {
    if text_is_good(&user) {
        return Ok(user);
    }
    Err(Refusal::invalid(format!(
        "`{field}` must have 1 to 256 bytes, and no control characters"
    )))
}

fn workflow_of(text: &str) -> Result<NamedWorkflow, Refusal> {
    let named: NamedWorkflow = member(
        "workflow",
        text,
        "an object with `name` and, if need be, `version`",
    )?;
    if named.name.is_empty() {
        return Err(Refusal::missing("workflow_name"));
    }
    Ok(named)
}

fn run_at(text: &str, now: Millis) -> Result<i64, Refusal> {
    let Some(micros) = parse_rfc3339(text) else {
        return Err(Refusal::invalid(
            "`run_at` must be an RFC 3339 date-time such as 2026-01-31T12:00:00Z",
        ));
    };
    let latest = now.0.saturating_add(RUN_AT_MAX_MS).saturating_mul(1000);
    if micros > latest {
        return Err(Refusal::invalid("`run_at` is more than 400 days ahead"));
    }
    Ok(micros)
}

fn member<'t, T: Deserialize<'t>>(name: &str, text: &'t str, what: &str) -> Result<T, Refusal> {
    serde_json::from_str(text).map_err(|_| Refusal::invalid(format!("`{name}` must be {what}")))
}

fn text(parsed: &ParsedStart<'_>, name: &str) -> Result<Option<String>, Refusal> {
    let Some(text) = parsed.member(name) else {
        return Ok(None);
    };
    Ok(Some(member(name, text, "text")?))
}

fn raw(text: &str) -> Result<Box<RawValue>, Refusal> {
    RawValue::from_string(text.to_owned()).map_err(|e| Refusal::invalid(e.to_string()))
}

fn raw_object(parsed: &ParsedStart<'_>, name: &str) -> Result<Option<Box<RawValue>>, Refusal> {
    let Some(text) = parsed.member(name) else {
        return Ok(None);
    };
    if !text.starts_with('{') {
        return Err(Refusal::invalid(format!("`{name}` must be an object")));
    }
    raw(text).map(Some)
}

/// Parses a text that was already checked.
pub(super) fn value(raw: &RawValue) -> Result<Value, Refusal> {
    serde_json::from_str(raw.get()).map_err(|e| Refusal::invalid(e.to_string()))
}
