//! Reads a workflow file.

use std::{collections::BTreeMap, sync::Arc};

use semver::Version;
use serde_json::{Map, Value, value::to_raw_value};

use super::{
    catalog::Catalog,
    schema::Schema,
    source::Source,
    tool::invalid_schema,
    trigger::{self, Trigger},
    workflow::Workflow,
};
use crate::{
    commands::start::RECORD_MAX,
    config::keys::nearest,
    envelope::IDENTIFIER_MAX,
    plans::{
        Fault, OnExhausted, PLAN_MAX, Pointer, Template, jcs,
        read::{Faults, Object, is_name, short},
        template::{SlotKind, Template as Goal, example},
    },
    runs::{DEPTH_MAX, depth},
};

/// Bytes reserved in a start record for everything but plan, tools and params: principal, texts, trace context.
const OVERHEAD: usize = 16 * 1024;

const FIELDS: [&str; 10] = [
    "name",
    "version",
    "description",
    "command",
    "examples",
    "bind",
    "params",
    "plan",
    "on",
    "on_exhausted",
];

/// Reads a file and reports all its faults. `tools` are the tools that plans may call.
pub(super) fn read(source: &mut Source, tools: &Catalog) -> Option<Workflow> {
    let root = Pointer::root();
    let json = source.json.clone();
    let mut faults = Faults::default();
    let Some(object) = faults.object(&json, &root, "a workflow", &FIELDS) else {
        source.report_all(&root, &faults.0);
        return None;
    };
    let name = object.required_text("name", &mut faults);
    if name.is_some_and(|name| !is_name(name)) {
        let message =
            "a workflow's name has 1 to 128 of A-Z a-z 0-9 . _ -, and begins with a letter";
        faults.add(&root.at("name"), message);
    }
    let version = version(&object, &mut faults);
    let command = object.text("command", &mut faults);
    if command.is_some_and(|command| command.len() > IDENTIFIER_MAX) {
        let message = format!("`command` has at most {IDENTIFIER_MAX} bytes");
        faults.add(&root.at("command"), message);
    }
    let description = object.text("description", &mut faults).unwrap_or_default();
    let examples = examples(&object, &mut faults);
    let schema = object
        .get("params")
        .cloned()
        .unwrap_or_else(|| Value::Object(Map::new()));
    let params = match Schema::compile(&schema) {
        Ok(params) => Some(params),
        Err(wrong) => {
            faults.0.push(invalid_schema("params", &wrong));
            None
        }
    };
    let bind = bind(&object, &schema, &mut faults);
    let on_exhausted = OnExhausted::member(&object, &mut faults);
    let plan = object.required("plan", &mut faults);
    source.report_all(&root, &faults.0);
    let mut good = faults.0.is_empty();

    let steps = plan.and_then(|plan| match tools.plan(plan) {
        Ok(read) => Some(read),
        Err(faults) => {
            source.report_all(&root.at("plan"), &faults);
            None
        }
    });
    let before = source.problems.found.len();
    let triggers = trigger::read(source);
    if let Some(params) = &params {
        check_times(&triggers, params, source);
    }
    good &= source.problems.found.len() == before;
    let workflow = Workflow {
        name: name?.to_owned(),
        version: version?,
        description: description.to_owned(),
        command: command.map(str::to_owned),
        examples,
        bind,
        params: params?,
        plan: to_raw_value(plan?).ok()?,
        steps: Arc::new(steps?),
        hash: jcs::hash(plan?),
        triggers,
        on_exhausted,
    };
    good &= check_size(&workflow, source, tools);
    good.then_some(workflow)
}

/// Checks that plan and tool definitions fit into a start record, and the nesting depth of the plan.
fn check_size(workflow: &Workflow, source: &mut Source, tools: &Catalog) -> bool {
    let plan = workflow.plan.get();
    let at = Pointer::root().at("plan");
    let levels = depth(plan.as_bytes());
    if levels > DEPTH_MAX {
        let message =
            format!("a plan may be nested at most {DEPTH_MAX} levels, this one has {levels}");
        source.report(&Pointer::root(), &Fault::new(&at, message));
        return false;
    }
    let plan = plan.len();
    if plan > PLAN_MAX {
        let message = format!("a plan has at most {PLAN_MAX} bytes as JSON, and this has {plan}");
        source.report(&Pointer::root(), &Fault::new(&at, message));
        return false;
    }
    let of_tools: usize = tools.called(&workflow.steps).map(|tool| tool.size()).sum();
    let room = RECORD_MAX - OVERHEAD;
    if plan + of_tools > room {
        let message = format!(
            "the plan has {plan} bytes and the definitions of its tools {of_tools}; a start takes {room} of both together"
        );
        source.report(&Pointer::root(), &Fault::new(&at, message));
        return false;
    }
    true
}

fn version(object: &Object<'_>, faults: &mut Faults) -> Option<Version> {
    let text = object.required_text("version", faults)?;
    match text.parse() {
        Ok(version) => Some(version),
        Err(error) => {
            let fault = faults.add(
                &object.at.at("version"),
                format!("not a semantic version: {error}"),
            );
            fault.note = Some("such as \"1.0.0\"".into());
            None
        }
    }
}

fn examples(object: &Object<'_>, faults: &mut Faults) -> Vec<Goal> {
    let Some(value) = object.get("examples") else {
        return Vec::new();
    };
    let at = object.at.at("examples");
    let items = faults.list(value, &at, "examples").unwrap_or_default();
    let mut examples = Vec::new();
    for (n, item) in items.iter().enumerate() {
        let Some(text) = faults.text(item, &at.at(n), "examples") else {
            continue;
        };
        // A doubled brace is a brace.
        for part in text.replace("{{", "").split('{').skip(1) {
            let name = part.split('}').next().unwrap_or_default();
            let name = name.split_once(':').map_or(name, |(name, _form)| name);
            let kind = name.split_once('_').map_or(name, |(kind, number)| {
                if number.parse::<u32>().is_ok_and(|n| n > 0) {
                    kind
                } else {
                    name
                }
            });
            if SlotKind::named(kind).is_none() {
                let fault = faults.add(
                    &at.at(n),
                    format!("`{{{}}}` is not a kind of slot", short(name)),
                );
                fault.note = Some(
                    match nearest(kind, SlotKind::ALL.into_iter().map(SlotKind::name)) {
                        Some(meant) => format!("did you mean `{{{meant}}}`?"),
                        None => {
                            format!("there are {}", SlotKind::ALL.map(SlotKind::name).join(", "))
                        }
                    },
                );
            }
        }
        examples.push(example(text));
    }
    examples
}

fn bind(object: &Object<'_>, schema: &Value, faults: &mut Faults) -> BTreeMap<String, Template> {
    let at = object.at.at("bind");
    let given = match object.get("bind") {
        None => return BTreeMap::new(),
        Some(Value::Object(given)) => given,
        Some(_) => {
            faults.add(&at, "`bind` must be a mapping of params to expressions");
            return BTreeMap::new();
        }
    };
    let properties = schema.get("properties").and_then(Value::as_object);
    let mut bind = BTreeMap::new();
    for (name, value) in given {
        let at = at.at(name);
        if let Some(properties) = properties
            && !properties.contains_key(name)
        {
            let fault = faults.add(&at, format!("`params` has no property `{}`", short(name)));
            fault.name = true;
            let meant = nearest(name, properties.keys().map(String::as_str));
            fault.note = meant.map(|meant| format!("did you mean `{meant}`?"));
        }
        let template = Template::read(value, &at, faults);
        template.check_references(&at, &["slots"], faults);
        bind.insert(name.clone(), template);
    }
    bind
}

/// Checks that cron triggers can start the workflow: they pass an empty object as params.
fn check_times(triggers: &[Trigger], params: &Schema, source: &mut Source) {
    let none = Value::Object(Map::new());
    let Err(wrong) = params.check(&none) else {
        return;
    };
    for (n, trigger) in triggers.iter().enumerate() {
        if let Trigger::Cron(_) = trigger {
            let at = Pointer::root().at("on").at(n);
            let mut fault = Fault::new(
                &at,
                format!(
                    "a time starts it without params, and `params` does not allow that: {}",
                    wrong.message
                ),
            );
            fault.note = Some(
                "give the properties defaults in the plan: `{{ params.x|default(1) }}`".into(),
            );
            source.report(&Pointer::root(), &fault);
        }
    }
}
