//! The members of a start's envelope besides the attributes.

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::{
    base::clock::Millis,
    controls::text_is_good,
    envelope::{IDENTIFIER_MAX, Invalid, ParsedStart, StartKind, parse_rfc3339},
};

/// How far ahead `run_at` may be, in milliseconds: 400 days.
const RUN_AT_MAX_MS: i64 = 400 * 86_400_000;

/// The parsed request. JSON values keep their text.
#[derive(Debug, Default)]
pub struct StartFields {
    /// `params`, or `input` of a workflow.
    pub params: Option<Box<RawValue>>,
    /// What the request starts.
    pub what: StartTarget,
    /// What a planner receives beside the goal.
    pub context: Option<Box<RawValue>>,
    /// `target.system`.
    pub adapter: Option<String>,
    /// `policy.approval: required`.
    pub approval_required: bool,
    /// In microseconds since the Unix epoch.
    pub run_at: Option<i64>,
    /// The user for whom it is started.
    pub on_behalf_of: Option<String>,
}

/// What the request starts.
#[derive(Debug, Default)]
pub enum StartTarget {
    /// The workflow of the command that `type` names.
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
pub struct NamedWorkflow {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its version; the highest without it.
    pub version: Option<String>,
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
    pub fn read(parsed: &ParsedStart<'_>, now: Millis) -> Result<Self, Invalid> {
        let object = |name| raw_object(parsed, name);
        let mut fields = Self::default();
        match parsed.kind {
            StartKind::Command => {
                fields.params = Some(object("params")?.ok_or_else(|| Invalid::missing("params"))?);
            }
            StartKind::Workflow => {
                let workflow = parsed.member("workflow");
                fields.what = match (workflow, object("plan")?) {
                    (None, None) => return Err(Invalid::missing("workflow")),
                    (Some(_), Some(_)) => {
                        return Err(Invalid::payload("`workflow` and `plan` exclude each other"));
                    }
                    (Some(text), None) => StartTarget::Workflow(workflow_of(text)?),
                    (None, Some(plan)) => StartTarget::Plan(plan),
                };
                fields.params = Some(object("input")?.ok_or_else(|| Invalid::missing("input"))?);
            }
            StartKind::Goal => {
                let goal = text(parsed, "goal")?.filter(|goal| !goal.trim().is_empty());
                fields.what = StartTarget::Goal(goal.ok_or_else(|| Invalid::missing("goal"))?);
                fields.params = object("params")?;
                fields.context = object("context")?;
            }
            StartKind::Task => {
                fields.what = StartTarget::Task;
                let params = parsed
                    .member("params")
                    .ok_or_else(|| Invalid::missing("params"))?;
                fields.params = Some(raw(params)?);
            }
        }
        if let Some(text) = parsed.member("target") {
            let target: Target = member("target", text, "an object with `system`")?;
            if target.system.is_empty() || target.system.len() > IDENTIFIER_MAX {
                return Err(Invalid::missing("target_system"));
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
pub fn user_of(field: &str, user: String) -> Result<String, Invalid> {
    if text_is_good(&user) {
        return Ok(user);
    }
    Err(Invalid::payload(format!(
        "`{field}` must have 1 to 256 bytes, and no control characters"
    )))
}

fn workflow_of(text: &str) -> Result<NamedWorkflow, Invalid> {
    let named: NamedWorkflow = member(
        "workflow",
        text,
        "an object with `name` and, if need be, `version`",
    )?;
    if named.name.is_empty() {
        return Err(Invalid::missing("workflow_name"));
    }
    Ok(named)
}

fn run_at(text: &str, now: Millis) -> Result<i64, Invalid> {
    let Some(micros) = parse_rfc3339(text) else {
        return Err(Invalid::payload(
            "`run_at` must be an RFC 3339 date-time such as 2026-01-31T12:00:00Z",
        ));
    };
    let latest = now.0.saturating_add(RUN_AT_MAX_MS).saturating_mul(1000);
    if micros > latest {
        return Err(Invalid::payload("`run_at` is more than 400 days ahead"));
    }
    Ok(micros)
}

fn member<'t, T: Deserialize<'t>>(name: &str, text: &'t str, what: &str) -> Result<T, Invalid> {
    serde_json::from_str(text).map_err(|_| Invalid::payload(format!("`{name}` must be {what}")))
}

fn text(parsed: &ParsedStart<'_>, name: &str) -> Result<Option<String>, Invalid> {
    let Some(text) = parsed.member(name) else {
        return Ok(None);
    };
    Ok(Some(member(name, text, "text")?))
}

fn raw(text: &str) -> Result<Box<RawValue>, Invalid> {
    RawValue::from_string(text.to_owned()).map_err(|e| Invalid::payload(e.to_string()))
}

fn raw_object(parsed: &ParsedStart<'_>, name: &str) -> Result<Option<Box<RawValue>>, Invalid> {
    let Some(text) = parsed.member(name) else {
        return Ok(None);
    };
    if !text.starts_with('{') {
        return Err(Invalid::payload(format!("`{name}` must be an object")));
    }
    raw(text).map(Some)
}

/// Parses a text that was already checked.
pub fn value(raw: &RawValue) -> Result<Value, Invalid> {
    serde_json::from_str(raw.get()).map_err(|e| Invalid::payload(e.to_string()))
}
