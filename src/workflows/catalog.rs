//! The catalog: all workflows and tools.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use semver::Version;
use serde_json::Value;

use super::{tool::Definition, workflow::Workflow};
use crate::{
    base::id::{TEXT_MAX, text_is_good},
    plans::{Builtin, Call, Fault, Plan, Pointer, Template, Worker},
};

/// Workflows and tools, checked together.
#[derive(Debug)]
pub struct Catalog {
    tools: BTreeMap<String, Arc<Definition>>,
    workflows: BTreeMap<String, BTreeMap<Version, Arc<Workflow>>>,
}

impl Default for Catalog {
    /// The builtin tools, and no workflows.
    fn default() -> Self {
        let tools = Definition::builtins();
        Self {
            tools: tools
                .map(|tool| (tool.tool.name.clone(), Arc::new(tool)))
                .collect(),
            workflows: BTreeMap::new(),
        }
    }
}

impl Catalog {
    /// Adds a tool; false if the name is taken.
    pub(super) fn add_tool(&mut self, tool: Definition) -> bool {
        let name = tool.tool.name.clone();
        let new = !self.tools.contains_key(&name);
        if new {
            self.tools.insert(name, Arc::new(tool));
        }
        new
    }

    /// Adds a workflow; false if this version of it exists already.
    pub(super) fn add_workflow(&mut self, workflow: Workflow) -> bool {
        let versions = self.workflows.entry(workflow.name.clone()).or_default();
        let new = !versions.contains_key(&workflow.version);
        if new {
            versions.insert(workflow.version.clone(), Arc::new(workflow));
        }
        new
    }

    /// The tool of this name.
    pub fn tool(&self, name: &str) -> Option<&Arc<Definition>> {
        self.tools.get(name)
    }

    /// All tools, by name.
    pub fn tools(&self) -> impl Iterator<Item = &Arc<Definition>> {
        self.tools.values()
    }

    /// All versions of all workflows.
    pub fn workflows(&self) -> impl Iterator<Item = &Arc<Workflow>> {
        self.workflows.values().flat_map(BTreeMap::values)
    }

    /// A workflow in this version, or in the highest one. Pre-releases count only where there is no release.
    pub fn workflow(&self, name: &str, version: Option<&str>) -> Option<&Arc<Workflow>> {
        let versions = self.workflows.get(name)?;
        match version {
            Some(version) => versions.get(&version.parse().ok()?),
            None => highest(versions.values()),
        }
    }

    /// The workflow that commands of this type start: the highest version with this `command`.
    pub fn command(&self, kind: &str) -> Option<&Arc<Workflow>> {
        highest(
            self.workflows()
                .filter(|w| w.command.as_deref() == Some(kind)),
        )
    }

    /// Reads a plan and checks it against the tools: that they exist, and that inputs without expressions match their schemas.
    pub fn plan(&self, value: &Value) -> Result<Plan, Vec<Fault>> {
        let plan = Plan::read(value)?;
        let mut faults = plan.check_tools(self.tools.values().map(|definition| &definition.tool));
        for (n, step) in plan.steps.iter().enumerate() {
            let at = Pointer::root().at("steps").at(n);
            let mut found = self.check_input(&step.tool, &step.input, &at.at("input"));
            if let Some(Call { tool, input }) = &step.compensate {
                found.extend(self.check_input(tool, input, &at.at("compensate").at("input")));
            }
            for fault in &mut found {
                fault.step = Some(step.id.clone());
            }
            faults.extend(found);
        }
        if faults.is_empty() {
            Ok(plan)
        } else {
            Err(faults)
        }
    }

    /// Checks an input without expressions against the tool's schema, so that a wrong one is reported now instead of failing each run; SQL
    /// must have no expressions.
    pub(super) fn check_input(&self, tool: &str, input: &Template, at: &Pointer) -> Vec<Fault> {
        let Some(definition) = self.tools.get(tool) else {
            return Vec::new();
        };
        if definition.tool.worker == Worker::Builtin(Builtin::Wait) {
            let faults = unusable_signals(input, at);
            if !faults.is_empty() {
                return faults;
            }
        }
        let Template::Fixed(value) = input else {
            let queries = definition.tool.worker == Worker::Builtin(Builtin::SqlQuery);
            return queries
                .then(|| changing_sql(input, at))
                .flatten()
                .into_iter()
                .collect();
        };
        let Err(wrong) = definition.schema.check_open(value) else {
            return Vec::new();
        };
        let mut at = at.clone();
        for part in wrong.at.split('/').skip(1) {
            at = at.at(part.replace("~1", "/").replace("~0", "~"));
        }
        vec![Fault::new(
            &at,
            format!("not an input of `{tool}`: {}", wrong.message),
        )]
    }

    /// The tools that a plan calls, including the compensations of those tools.
    pub fn called(&self, plan: &Plan) -> impl Iterator<Item = &Arc<Definition>> {
        let mut names: BTreeSet<&str> = plan.calls().map(|(_, _, tool)| tool).collect();
        let undo: Vec<_> = names
            .iter()
            .filter_map(|name| self.tools.get(*name)?.tool.compensate.as_ref())
            .map(|call| call.tool.as_str())
            .collect();
        names.extend(undo);
        let tools: Vec<_> = names
            .into_iter()
            .filter_map(|name| self.tools.get(name))
            .collect();
        tools.into_iter()
    }
}

/// The names in an input of `wait` that no signal can have.
fn unusable_signals(input: &Template, at: &Pointer) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut check = |name: Option<&Value>, at: Pointer| {
        if name
            .and_then(Value::as_str)
            .is_some_and(|name| !text_is_good(name))
        {
            let message =
                format!("a signal has a name of 1 to {TEXT_MAX} bytes without control characters");
            faults.push(Fault::new(&at, message));
        }
    };
    check(fixed_member(input, "signal"), at.at("signal"));
    let any = fixed_member(input, "any").and_then(Value::as_array);
    for (n, name) in any.into_iter().flatten().enumerate() {
        check(Some(name), at.at("any").at(n));
    }
    faults
}

/// A member of an object that has no expressions.
fn fixed_member<'t>(input: &'t Template, name: &str) -> Option<&'t Value> {
    match input {
        Template::Fixed(value) => value.get(name),
        Template::Object(members) => match members.iter().find(|(known, _)| known == name)? {
            (_, Template::Fixed(value)) => Some(value),
            _ => None,
        },
        _ => None,
    }
}

/// SQL that values are put into as text could become other SQL.
fn changing_sql(input: &Template, at: &Pointer) -> Option<Fault> {
    let (sql, at) = match input {
        Template::Object(members) => {
            let sql = members.iter().find(|(name, _)| name == "sql");
            (&sql?.1, at.at("sql"))
        }
        whole => (whole, at.clone()),
    };
    if sql.is_fixed() {
        return None;
    }
    let mut fault = Fault::new(&at, "`sql` must be text without expressions");
    fault.note = Some("write $1, $2 … in it, and the values in `params`".into());
    Some(fault)
}

fn highest<'w>(all: impl Iterator<Item = &'w Arc<Workflow>>) -> Option<&'w Arc<Workflow>> {
    all.max_by_key(|workflow| (workflow.version.pre.is_empty(), &workflow.version))
}
