//! Determines what runs: the workflow and its plan, or the plan of the request, with the tools. Checks the params against the schema.

use std::{borrow::Cow, sync::Arc};

use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use super::{
    fault::{coded, invalid_plan, too_large, unwritable},
    fields::{StartFields, StartTarget, value},
};
use crate::{
    api::problem::{UNKNOWN_TOOL, UNKNOWN_WORKFLOW},
    commands::start::{PARAMS_MAX, PlanSource, Planned},
    envelope::{Event, Invalid},
    plans::{PLAN_MAX, Plan, jcs},
    runs::{DEPTH_MAX, depth, read_value},
    workflows::{Catalog, Resolved, Schema, Workflow},
};

/// The maximum number of faults in a message.
const FAULTS_MAX: usize = 5;

/// The workflow that a start names, looked up in the catalog. Allowlists of keys and disabled workflows go by its name.
#[derive(Debug, Default)]
pub struct Named<'a> {
    /// Its name. `None`: a plan, a goal or a task, or a command that no workflow has.
    pub name: Option<&'a str>,
    /// The version that would run, where it is known.
    pub version: Option<Cow<'a, str>>,
    found: Option<&'a Arc<Workflow>>,
}

impl<'a> Named<'a> {
    /// Looks it up.
    pub fn of(catalog: &'a Catalog, event: &Event<'_>, fields: &'a StartFields) -> Self {
        let (name, version, found) = match &fields.what {
            StartTarget::Command => (None, None, catalog.command(&event.kind)),
            StartTarget::Workflow(named) => {
                let version = named.version.as_deref();
                let found = catalog.workflow(&named.name, version);
                (Some(&*named.name), version, found)
            }
            StartTarget::Plan(_) | StartTarget::Goal(_) | StartTarget::Task => (None, None, None),
        };
        Self {
            name: found.map(|found| found.name.as_str()).or(name),
            version: match found {
                Some(found) => Some(found.version.to_string().into()),
                None => version.map(Cow::Borrowed),
            },
            found,
        }
    }
}

/// Finds workflow, plan and tools, and checks the params. `named` is that of the same start.
pub fn resolve(
    catalog: &Catalog,
    event: &Event<'_>,
    fields: &StartFields,
    named: &Named<'_>,
) -> Result<Resolved, Invalid> {
    let params = params(fields)?;
    let params = params.as_ref();
    match &fields.what {
        StartTarget::Command => {
            let found = named.found.ok_or_else(|| {
                let message = format!("no workflow has the command `{}`", event.kind);
                coded(&UNKNOWN_WORKFLOW, message)
            })?;
            of_workflow(catalog, found, params, fields)
        }
        StartTarget::Workflow(_) => {
            let found = named.found.ok_or_else(|| unknown(named))?;
            of_workflow(catalog, found, params, fields)
        }
        StartTarget::Plan(plan) => inline(catalog, plan),
        StartTarget::Goal(_) => Ok(Resolved::default()),
        StartTarget::Task => task(catalog, event, params, fields),
    }
}

fn unknown(named: &Named<'_>) -> Invalid {
    let name = named.name.unwrap_or_default();
    let message = match &named.version {
        Some(version) => format!("there is no workflow `{name}` of version `{version}`"),
        None => format!("there is no workflow `{name}`"),
    };
    coded(&UNKNOWN_WORKFLOW, message)
}

fn of_workflow(
    catalog: &Catalog,
    workflow: &Workflow,
    params: Option<&Value>,
    fields: &StartFields,
) -> Result<Resolved, Invalid> {
    check(&workflow.params, params, fields)?;
    Ok(catalog.to_run(workflow))
}

/// The plan of a request, with its tools.
pub fn inline(catalog: &Catalog, plan: &RawValue) -> Result<Resolved, Invalid> {
    if plan.get().len() > PLAN_MAX {
        return Err(too_large("a plan", PLAN_MAX));
    }
    if depth(plan.get().as_bytes()) > DEPTH_MAX {
        let message = format!("a plan may be nested at most {DEPTH_MAX} levels");
        return Err(invalid_plan(message));
    }
    if let Some(number) = jcs::first_inexact(plan.get()) {
        let number = &number[..number.len().min(40)];
        return Err(invalid_plan(format!(
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
        invalid_plan(message.join("; "))
    })?;
    Ok(Resolved {
        workflow: None,
        plan: Some(Planned {
            source: PlanSource::Inline,
            hash: jcs::hash(&given),
            steps: plan.to_owned(),
        }),
        tools: catalog.definitions(&read),
    })
}

/// A run with one step, whose input is the params unchanged: expressions in them are not evaluated.
fn task(
    catalog: &Catalog,
    event: &Event<'_>,
    params: Option<&Value>,
    fields: &StartFields,
) -> Result<Resolved, Invalid> {
    let Some(tool) = catalog.tool(&event.kind) else {
        let message = format!("there is no tool `{}`", event.kind);
        return Err(coded(&UNKNOWN_TOOL, message));
    };
    check(&tool.schema, params, fields)?;
    let plan = serde_json::json!({
        "steps": [{ "id": "task", "tool": tool.tool.name, "input": "{{ params }}" }],
        "output": "{{ steps.task.output }}"
    });
    let read = Plan::read(&plan).map_err(|_| invalid_plan("the task has no plan"))?;
    Ok(Resolved {
        workflow: None,
        plan: Some(Planned {
            source: PlanSource::Workflow,
            hash: jcs::hash(&plan),
            steps: to_raw(&plan)?,
        }),
        tools: catalog.definitions(&read),
    })
}

/// The params. Refuses those that a run cannot store.
fn params(fields: &StartFields) -> Result<Option<Value>, Invalid> {
    let Some(params) = &fields.params else {
        return Ok(None);
    };
    let text = params.get();
    if text.len() > PARAMS_MAX {
        return Err(too_large("`params` and `input`", PARAMS_MAX));
    }
    let value = read_value(text.as_bytes());
    let value = value.map_err(|why| Invalid::payload(format!("`/{}`: {why}", member(fields))))?;
    Ok(Some(value))
}

/// The member of the request that holds the params.
fn member(fields: &StartFields) -> &'static str {
    match fields.what {
        StartTarget::Workflow(_) | StartTarget::Plan(_) => "input",
        StartTarget::Command | StartTarget::Goal(_) | StartTarget::Task => "params",
    }
}

fn check(schema: &Schema, params: Option<&Value>, fields: &StartFields) -> Result<(), Invalid> {
    let Some(params) = params else {
        return Ok(());
    };
    schema.check(params).map_err(|wrong| {
        let member = member(fields);
        Invalid::payload(format!("`/{member}{}`: {}", wrong.at, wrong.message))
    })
}

/// The JSON text of a value.
pub fn to_raw(value: &Value) -> Result<Box<RawValue>, Invalid> {
    to_raw_value(value).map_err(unwritable)
}
