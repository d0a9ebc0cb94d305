//! A goal that is planned: its template, its slots, and the other inputs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::{
    base::clock::Millis,
    controls::Emergency,
    plans::template::{Template, template},
    runs::{PlanInputs, PlanRequest},
};

/// The member of params with the placeholders of personal data. It is no input of the sender.
const SLOTS: &str = "slots";

/// A goal.
pub(super) struct Goal {
    /// Whose goal it is.
    pub(super) tenant: String,
    /// The goal, with placeholders instead of personal data.
    pub(super) text: String,
    pub(super) template: Template,
    /// The values of its slots, by name.
    pub(super) slots: BTreeMap<String, Value>,
    /// The params of the sender.
    pub(super) params: Map<String, Value>,
    pub(super) context: Option<Value>,
    /// The workflows that may be chosen; empty: any.
    pub(super) allowed_workflows: Vec<String>,
    /// Those that are disabled now (`workflow:NAME`).
    pub(super) disabled_workflows: BTreeSet<String>,
}

impl Goal {
    /// The goal of a request, and its inputs.
    pub(super) fn new(tenant: &str, text: &str, inputs: PlanInputs) -> Self {
        let template = template(text, Millis(inputs.received_at));
        let params = match inputs.params.value() {
            Value::Object(mut members) => {
                members.remove(SLOTS);
                members
            }
            _ => Map::new(),
        };
        let context = inputs.context.map(|context| context.value());
        Self {
            tenant: tenant.to_owned(),
            text: text.to_owned(),
            slots: template.values(),
            template,
            params,
            context: context.filter(|context| !is_empty(context)),
            allowed_workflows: inputs.allowed_workflows,
            disabled_workflows: BTreeSet::new(),
        }
    }

    /// With the workflows that the controls disable.
    pub(super) fn under(self, controls: &Emergency) -> Self {
        let disabled = controls.state.disabled.keys();
        let disabled = disabled.filter_map(|feature| feature.strip_prefix("workflow:"));
        Self {
            disabled_workflows: disabled.map(str::to_owned).collect(),
            ..self
        }
    }

    /// The goal of a record; `None`: its inputs cannot be read.
    pub(super) fn of_record(request: &PlanRequest) -> Option<Self> {
        let inputs = serde_json::from_str(&request.inputs).ok()?;
        Some(Self::new(&request.tenant, &request.goal, inputs))
    }

    /// Whether the goal is not all that a planner gets. A language model may have written params or context into the plan, so such a plan
    /// does not fit another goal with the same words.
    pub(super) fn has_inputs(&self) -> bool {
        !self.params.is_empty() || self.context.is_some()
    }

    /// Whether this version of a workflow may be chosen.
    pub(super) fn allows(&self, name: &str, version: &str) -> bool {
        let named = |allowed: &String| match allowed.split_once('@') {
            Some((of, at)) => of == name && at == version,
            None => allowed == name,
        };
        self.allowed_workflows.is_empty() || self.allowed_workflows.iter().any(named)
    }

    /// The names (`NUMBER_1`) of slots that a plan refers to neither by name nor by placeholder.
    pub(super) fn ignored_slots(&self, plan: &Value) -> Vec<&str> {
        let used = References::of(plan);
        let slots = self.template.slots.iter();
        let ignored = slots.filter(|slot| !used.names(&slot.name) && !used.0.contains(&slot.value));
        ignored.map(|slot| slot.name.as_str()).collect()
    }

    /// The slots that a plan refers to and that the goal does not have.
    pub(super) fn unknown_slots(&self, plan: &Value) -> Vec<String> {
        let expressions = slot_references(plan);
        let unknown = expressions
            .into_iter()
            .filter(|name| !self.slots.contains_key(name));
        unknown.collect()
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(members) => members.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// What a plan refers to: the names in `slots.NAME`, and placeholders (`{EMAIL_1}`) with their braces.
pub(super) struct References(BTreeSet<String>);

impl References {
    /// Of all texts of a plan.
    pub(super) fn of(plan: &Value) -> Self {
        let mut found = slot_references(plan);
        texts(plan, &mut |text| {
            let mut rest = text;
            while let Some(from) = rest.find('{') {
                rest = &rest[from + 1..];
                let end = rest.find(|c: char| !is_upper(c)).unwrap_or(rest.len());
                if end > 0 && rest[end..].starts_with('}') {
                    found.insert(format!("{{{}}}", &rest[..end]));
                }
            }
        });
        Self(found)
    }

    /// The placeholders.
    pub(super) fn placeholders(&self) -> impl Iterator<Item = &str> {
        let all = self.0.iter().map(String::as_str);
        all.filter(|reference| reference.starts_with('{'))
    }

    /// Whether the slot of this name (`NUMBER_1`) is one of them. The first of its kind has a second name.
    pub(super) fn names(&self, name: &str) -> bool {
        let other = name.strip_suffix("_1").unwrap_or(name);
        self.0.contains(name) || self.0.contains(other)
    }
}

/// The names in `slots.NAME` of all texts of a plan.
fn slot_references(plan: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    texts(plan, &mut |text| {
        let mut rest = text;
        while let Some(from) = rest.find("slots.") {
            let before = rest[..from].chars().next_back();
            let own = before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '.');
            rest = &rest[from + "slots.".len()..];
            let end = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            if own && end > 0 && text.contains("{{") {
                found.insert(rest[..end].to_owned());
            }
        }
    });
    found
}

const fn is_upper(c: char) -> bool {
    c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'
}

/// Visits all texts of a plan.
fn texts(value: &Value, visit: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => visit(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, visit)),
        Value::Object(members) => members.values().for_each(|value| texts(value, visit)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
