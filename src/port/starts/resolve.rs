//! Determines what runs: the workflow and its plan, or the plan of the request, with the tools. Checks the params against the schema.

use std::sync::Arc;

use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use super::{
    fields::{NamedWorkflow, StartFields, StartTarget, value},
    permit,
    refusal::Refusal,
};
use crate::{
    api::{
        events::ItemStatus,
        problem::{UNKNOWN_TOOL, UNKNOWN_WORKFLOW},
    },
    commands::start::{PARAMS_MAX, PlanSource, Planned},
    controls::Key,
    envelope::Event,
    plans::{PLAN_MAX, Plan, jcs},
    runs::{DEPTH_MAX, depth, read_value},
    workflows::{Catalog, Resolved, Schema, Workflow},
};

/// The maximum number of faults in a message.
const FAULTS_MAX: usize = 5;

/// Finds the workflow, plan and tools; checks the key's allowlist of workflows, and the params.
pub(super) fn resolve(
    catalog: &Catalog,
    key: &Key,
    event: &Event<'_>,
    fields: &StartFields,
) -> Result<Resolved, Refusal> {
    let params = params(fields)?;
    let params = params.as_ref();
    match &fields.what {
        StartTarget::Command => {
            let found = catalog.command(&event.kind).ok_or_else(|| {
                let message = format!("no workflow has the command `{}`", event.kind);
                Refusal::new(ItemStatus::Invalid, &UNKNOWN_WORKFLOW, message)
            })?;
            permit::workflow(key, Some(&found.name), Some(&found.version.to_string()))?;
            of_workflow(catalog, found, params, fields)
        }
        StartTarget::Workflow(named) => {
            let found = named_workflow(catalog, key, named)?;
            of_workflow(catalog, found, params, fields)
        }
        StartTarget::Plan(plan) => {
            permit::workflow(key, None, None)?;
            inline(catalog, plan)
        }
        StartTarget::Goal(_) => Ok(Resolved::default()),
        StartTarget::Task => task(catalog, event, params, fields),
    }
}

fn named_workflow<'c>(
    catalog: &'c Catalog,
    key: &Key,
    named: &NamedWorkflow,
) -> Result<&'c Arc<Workflow>, Refusal> {
    let found = catalog.workflow(&named.name, named.version.as_deref());
    let version = match found {
        Some(found) => Some(found.version.to_string()),
        None => named.version.clone(),
    };
    permit::workflow(key, Some(&named.name), version.as_deref())?;
    found.ok_or_else(|| {
        let message = match &named.version {
            Some(version) => format!(
                "there is no workflow `{}` of version `{version}`",
                named.name
            ),
            None => format!("there is no workflow `{}`", named.name),
        };
        Refusal::new(ItemStatus::Invalid, &UNKNOWN_WORKFLOW, message)
    })
}

fn of_workflow(
    catalog: &Catalog,
    workflow: &Workflow,
    params: Option<&Value>,
    fields: &StartFields,
) -> Result<Resolved, Refusal> {
    check(&workflow.params, params, fields)?;
    catalog.to_run(workflow).map_err(unwritable)
}

pub(super) fn inline(catalog: &Catalog, plan: &RawValue) -> Result<Resolved, Refusal> {
    if plan.get().len() > PLAN_MAX {
        return Err(Refusal::too_large("a plan", PLAN_MAX));
    }
    if depth(plan.get().as_bytes()) > DEPTH_MAX {
        let message = format!("a plan may be nested at most {DEPTH_MAX} levels");
        return Err(Refusal::invalid_plan(message));
    }
    if let Some(number) = jcs::first_inexact(plan.get()) {
        let number = &number[..number.len().min(40)];
        return Err(Refusal::invalid_plan(format!(
            "the number `{number}` cannot be represented as a double: write it as text"
        )));
    }
    let given = value(plan)?;
    let read = catalog.plan(&given).map_err(|faults| {
        let mut message: Vec<_> = faults
            .iter()
            .take(FAULTS_MAX)
            .map(ToString::to_string)
            .collect();
        if faults.len() > FAULTS_MAX {
            message.push(format!("and {} more", faults.len() - FAULTS_MAX));
        }
        Refusal::invalid_plan(message.join("; "))
    })?;
    Ok(Resolved {
        workflow: None,
        plan: Some(Planned {
            source: PlanSource::Inline,
            hash: jcs::hash(&given),
            steps: plan.to_owned(),
        }),
        tools: catalog.definitions(&read).map_err(unwritable)?,
    })
}

/// A run with one step, whose input is the params unchanged: expressions in them are not evaluated.
fn task(
    catalog: &Catalog,
    event: &Event<'_>,
    params: Option<&Value>,
    fields: &StartFields,
) -> Result<Resolved, Refusal> {
    let Some(tool) = catalog.tool(&event.kind) else {
        let message = format!("there is no tool `{}`", event.kind);
        return Err(Refusal::new(ItemStatus::Invalid, &UNKNOWN_TOOL, message));
    };
    check(&tool.schema, params, fields)?;
    let plan = serde_json::json!({
        "steps": [{ "id": "task", "tool": tool.tool.name, "input": "{{ params }}" }],
        "output": "{{ steps.task.output }}"
    });
    let read = Plan::read(&plan).map_err(|_| Refusal::invalid_plan("the task has no plan"))?;
    Ok(Resolved {
        workflow: None,
        plan: Some(Planned {
            source: PlanSource::Workflow,
            hash: jcs::hash(&plan),
            steps: to_raw(&plan)?,
        }),
        tools: catalog.definitions(&read).map_err(unwritable)?,
    })
}

/// The params. Refuses those that a run cannot store.
fn params(fields: &StartFields) -> Result<Option<Value>, Refusal> {
    let Some(params) = &fields.params else {
        return Ok(None);
    };
    let text = params.get();
    if text.len() > PARAMS_MAX {
        return Err(Refusal::too_large("`params` and `input`", PARAMS_MAX));
    }
    let value = read_value(text.as_bytes());
    let value = value.map_err(|why| Refusal::invalid(format!("`/{}`: {why}", member(fields))))?;
    Ok(Some(value))
}

/// The member of the request that holds the params.
fn member(fields: &StartFields) -> &'static str {
    match fields.what {
        StartTarget::Workflow(_) | StartTarget::Plan(_) => "input",
        StartTarget::Command | StartTarget::Goal(_) | StartTarget::Task => "params",
    }
}

fn check(schema: &Schema, params: Option<&Value>, fields: &StartFields) -> Result<(), Refusal> {
    let Some(params) = params else {
        return Ok(());
    };
    schema.check(params).map_err(|wrong| {
        let member = member(fields);
        Refusal::invalid(format!("`/{member}{}`: {}", wrong.at, wrong.message))
    })
}

pub(super) fn to_raw(value: &Value) -> Result<Box<RawValue>, Refusal> {
    to_raw_value(value).map_err(unwritable)
}

#[expect(clippy::needless_pass_by_value, reason = "it maps errors")]
pub(super) fn unwritable(error: serde_json::Error) -> Refusal {
    Refusal::invalid(error.to_string())
}
