//! What the key is allowed to start.

use super::refusal::Refusal;
use crate::{
    api::{
        problem::{ADAPTER_NOT_ALLOWED, ENV_NOT_ALLOWED, WORKFLOW_NOT_ALLOWED},
        starts::{COMMANDS_PREFIX, ORCHESTRATIONS_REQUEST, PLANS_INLINE, TASKS_CREATE},
    },
    controls::{ACT_AS, Key},
    envelope::Event,
    starts::{Named, StartFields, StartTarget},
};

/// Checks the permissions that a start needs.
pub(super) fn permissions(
    key: &Key,
    event: &Event<'_>,
    fields: &StartFields,
) -> Result<(), Refusal> {
    let needs = |permission: &str| {
        let held = key.scopes.permits(permission);
        if held {
            Ok(())
        } else {
            Err(Refusal::lacks(permission))
        }
    };
    match &fields.what {
        StartTarget::Task => needs(TASKS_CREATE)?,
        _ => needs(ORCHESTRATIONS_REQUEST)?,
    }
    match &fields.what {
        StartTarget::Command => needs(&format!("{COMMANDS_PREFIX}{}", event.kind))?,
        StartTarget::Plan(_) => needs(PLANS_INLINE)?,
        _ => {}
    }
    // This is checked last: `act_as` only matters if the key may send the request at all.
    if fields.on_behalf_of.is_some() {
        needs(ACT_AS)?;
    }
    Ok(())
}

/// Checks the key's allowlists of environments and adapters.
pub(super) fn allowlists(
    key: &Key,
    event: &Event<'_>,
    fields: &StartFields,
) -> Result<(), Refusal> {
    let constraints = &key.scopes.constraints;
    let allows = |list: &[String], one: &str| list.is_empty() || list.iter().any(|l| l == one);
    let env = event.source.rsplit('/').next().unwrap_or_default();
    if !allows(&constraints.env_allowlist, env) {
        let message = format!(
            "the key's `env_allowlist` does not contain `{env}`, the last segment of `source`"
        );
        return Err(Refusal::denied(&ENV_NOT_ALLOWED, message));
    }
    if let Some(adapter) = &fields.adapter
        && !allows(&constraints.allowed_adapters, adapter)
    {
        let message = format!("the key's `allowed_adapters` do not contain `{adapter}`");
        return Err(Refusal::denied(&ADAPTER_NOT_ALLOWED, message));
    }
    Ok(())
}

/// Checks the key's allowlist of workflows, for a start that names one or has an inline plan. A command without a workflow is refused
/// later.
pub(super) fn named(key: &Key, fields: &StartFields, named: &Named<'_>) -> Result<(), Refusal> {
    let judged = match &fields.what {
        StartTarget::Command => named.name.is_some(),
        StartTarget::Workflow(_) | StartTarget::Plan(_) => true,
        StartTarget::Goal(_) | StartTarget::Task => false,
    };
    if judged {
        workflow(key, named.name, named.version.as_deref())?;
    }
    Ok(())
}

/// Checks the key's allowlist of workflows. `version` is the version that would run, where it is known. An inline plan is never on the
/// list.
pub(super) fn workflow(
    key: &Key,
    name: Option<&str>,
    version: Option<&str>,
) -> Result<(), Refusal> {
    let allowed = &key.scopes.constraints.allowed_workflows;
    let allows = |name: &str| {
        allowed.iter().any(|one| {
            let same_version = match (&one.version, version) {
                (None, _) | (_, None) => true,
                (Some(one), Some(version)) => one == version,
            };
            one.name == name && same_version
        })
    };
    if allowed.is_empty() || name.is_some_and(allows) {
        return Ok(());
    }
    let message = match name {
        Some(name) => {
            format!("the key's `allowed_workflows` do not contain `{name}` in this version")
        }
        None => "the key's `allowed_workflows` name workflows, and this is a plan".to_owned(),
    };
    Err(Refusal::denied(&WORKFLOW_NOT_ALLOWED, message))
}
