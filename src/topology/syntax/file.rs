//! Reads a topology file. All errors within a step are reported here, those between steps or files by [`super::check`].

use std::{ops::Range, sync::Arc};

use vrl::path::parse_value_path;

use super::{
    fields::{Fields, Spanned, duration, listed, text, whole},
    model::{
        Action, Dedupe, KeyField, KeyFields, Over, RateLimit, Rule, Source, Step, Topology, When,
    },
    problem::{Problems, SourceFile},
    trial, validation,
    yaml::{self, Kind, Node, Text},
};
use crate::topology::{
    run::codec::{self, Codec},
    vrl::{Use, Vrl, compile},
};
use crate::{base::id::Tenant, config::keys::nearest};

const STEPS: [&str; 9] = [
    "normalise",
    "map",
    "filter",
    "validate",
    "key",
    "dedupe",
    "rate_limit",
    "route",
    "project",
];
const SECOND: i64 = 1000;
const DAY: i64 = 86_400_000;
/// The highest `limit`: a limiter keeps that many times for each key.
pub(crate) const MOST_LIMIT: i64 = 10_000;

/// Reads a file. Errors are added to `problems`; `None`: nothing of it could be read.
pub(crate) fn read(file: &Arc<SourceFile>, problems: &mut Problems) -> Option<Topology> {
    let root = match yaml::parse(&file.text) {
        Ok(root) => root,
        Err(no_yaml) => {
            problems.error(&no_yaml.span, format!("no YAML: {}", no_yaml.message));
            return None;
        }
    };
    let start = root.span.start..root.span.start;
    let known = ["name", "source", "steps", "tests"];
    let fields = Fields::of(&root, &start, "a topology", &known, problems)?;
    let name = fields
        .required_text("name", problems)
        .and_then(|text| named(text, "name", problems));
    let source = fields
        .required("source", problems)
        .and_then(|node| source(node, problems));
    let steps = fields
        .required("steps", problems)
        .map_or_else(Vec::new, |node| steps(node, problems));
    let tests = fields
        .get("tests")
        .map_or_else(Vec::new, |node| trial::read(node, problems));
    Some(Topology {
        file: Arc::clone(file),
        name,
        source,
        steps,
        tests,
    })
}

/// A name that becomes part of the names of topics and consumer groups.
fn named(text: &Text, what: &str, problems: &mut Problems) -> Option<Spanned<String>> {
    let span = text.place(0..text.value.len());
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    if text.value.len() > 60 || !text.value.bytes().all(good) {
        problems.error(
            &span,
            format!("`{what}` must be at most 60 of the characters a-z 0-9 - _"),
        );
        return None;
    }
    Some(Spanned {
        value: text.value.clone(),
        span,
    })
}

/// A topic's name as Kafka allows it.
fn topic(text: &Text, what: &str, problems: &mut Problems) -> Option<Spanned<String>> {
    let span = text.place(0..text.value.len());
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let value = &text.value;
    if value.len() > 249 || !value.bytes().all(good) || matches!(value.as_str(), "." | "..") {
        problems.error(
            &span,
            format!("`{what}` must be a topic: at most 249 of the characters A-Z a-z 0-9 . _ -"),
        );
        return None;
    }
    Some(Spanned {
        value: value.clone(),
        span,
    })
}

fn source(node: &Node, problems: &mut Problems) -> Option<Source> {
    let known = ["topic", "codec", "tenant", "key"];
    let fields = Fields::of(node, &node.span, "`source`", &known, problems)?;
    let topic = fields
        .required_text("topic", problems)
        .and_then(|text| topic(text, "topic", problems));
    let codec = fields
        .get("codec")
        .and_then(|node| codec::read(node, problems));
    let tenant = fields.text("tenant", problems).and_then(|text| {
        Tenant::new(&text.value)
            .map_err(|e| {
                problems.error(&text.place(0..text.value.len()), e.to_string());
            })
            .ok()
    });
    let key = fields
        .get("key")
        .and_then(|node| key(node, &node.span, problems));
    Some(Source {
        span: node.span.clone(),
        topic: topic?,
        codec: codec.unwrap_or(Codec::Json),
        tenant,
        key,
    })
}

fn steps(node: &Node, problems: &mut Problems) -> Vec<Step> {
    let Kind::List(items) = &node.kind else {
        problems.error(
            &node.span,
            format!("`steps` must be a list, and this is {}", node.what()),
        );
        return Vec::new();
    };
    if items.is_empty() {
        problems.error(&node.span, "`steps` must not be empty");
    }
    items.iter().map(|item| step(item, problems)).collect()
}

fn step(node: &Node, problems: &mut Problems) -> Step {
    let nothing = Node {
        span: node.span.clone(),
        kind: Kind::Null,
        tag: None,
    };
    let broken = |kind| Step {
        span: node.span.clone(),
        action: Action::Broken(kind),
    };
    let (name, name_span, value) = match &node.kind {
        Kind::Map(entries) if entries.len() == 1 => {
            let (key, value) = &entries[0];
            (key.key(), key.span.clone(), value)
        }
        // `- normalise`
        Kind::Text(text) => (text.value.clone(), node.span.clone(), &nothing),
        Kind::Map(entries) if entries.len() > 1 => {
            problems
                .error(&entries[1].0.span, "a step has one key, its kind")
                .note("begin the next step with `- `, or indent what belongs to this one");
            return broken(None);
        }
        _ => {
            problems
                .error(
                    &node.span,
                    format!(
                        "a step must be a mapping of its kind, and this is {}",
                        node.what()
                    ),
                )
                .note("such as `- filter: .type != \"ping\"`");
            return broken(None);
        }
    };
    let Some(kind) = STEPS.into_iter().find(|kind| *kind == name) else {
        let problem = problems.error(&name_span, format!("there is no step `{name}`"));
        match nearest(&name, STEPS.into_iter()) {
            Some(meant) => problem.note(format!("did you mean `{meant}`?")),
            None => problem.note(format!("there are {}", listed(&STEPS[..8]))),
        };
        return broken(None);
    };
    let place = if value.span.is_empty() || matches!(value.kind, Kind::Null) {
        &name_span
    } else {
        &value.span
    };
    let action = match kind {
        "normalise" => normalise(value, place, problems),
        "map" => program(value, place, "map", Use::Map, problems).map(Action::Map),
        "filter" => program(value, place, "filter", Use::Condition, problems).map(Action::Filter),
        "validate" => validation::read(value, place, problems),
        "key" => key(value, place, problems).map(Action::Key),
        "dedupe" => dedupe(value, place, problems),
        "rate_limit" => rate_limit(value, place, problems),
        "route" => route(value, place, problems),
        _ => project(value, problems),
    };
    Step {
        span: name_span,
        action: action.unwrap_or(Action::Broken(Some(kind))),
    }
}

fn program(
    node: &Node,
    place: &Range<usize>,
    name: &str,
    usage: Use,
    problems: &mut Problems,
) -> Option<Vrl> {
    match &node.kind {
        Kind::Text(text) => compile(text, usage, problems),
        // `filter: true` is a program too.
        Kind::Bool(_) | Kind::Number(..)
            if usage == Use::Map || matches!(node.kind, Kind::Number(..)) =>
        {
            text(node, name, problems);
            None
        }
        Kind::Bool(_) => {
            problems
                .error(place, format!("`{name}` is always the same"))
                .note("it is a VRL condition, such as `.type != \"ping\"`");
            None
        }
        _ => {
            problems.error(
                place,
                format!(
                    "`{name}` must be a VRL program, and this is {}",
                    node.what()
                ),
            );
            None
        }
    }
}

fn normalise(node: &Node, place: &Range<usize>, problems: &mut Problems) -> Option<Action> {
    if matches!(node.kind, Kind::Null) {
        return Some(Action::Normalise(None));
    }
    let fields = Fields::of(node, place, "`normalise`", &["map"], problems)?;
    match fields.get("map") {
        Some(map) => {
            let vrl = program(map, &map.span, "map", Use::Map, problems)?;
            Some(Action::Normalise(Some(vrl)))
        }
        None => Some(Action::Normalise(None)),
    }
}

/// A list of fields; a single field is a list of one.
fn key(node: &Node, place: &Range<usize>, problems: &mut Problems) -> Option<KeyFields> {
    let items = match &node.kind {
        Kind::List(items) if !items.is_empty() => items.iter().collect(),
        Kind::Text(_) => vec![node],
        Kind::List(_) => {
            problems.error(&node.span, "`key` must name a field at least");
            return None;
        }
        _ => {
            problems
                .error(
                    place,
                    format!(
                        "`key` must be a list of fields, and this is {}",
                        node.what()
                    ),
                )
                .note("such as `[source, id]`");
            return None;
        }
    };
    let mut fields: Vec<KeyField> = Vec::new();
    let mut good = true;
    for item in items {
        let Some(text) = text(item, "key", problems) else {
            good = false;
            continue;
        };
        match key_field(&text.value) {
            Some(field) if fields.contains(&field) => {
                problems.error(
                    &item.span,
                    format!("`{}` is in the key already", text.value),
                );
                good = false;
            }
            Some(field) => fields.push(field),
            None => {
                problems
                    .error(&item.span, format!("`{}` is no field", text.value))
                    .note("such as `id`, `entity.external_id` or `tenant`");
                good = false;
            }
        }
    }
    good.then_some(KeyFields { fields })
}

fn key_field(text: &str) -> Option<KeyField> {
    if text == "tenant" {
        return Some(KeyField::Tenant);
    }
    let path = parse_value_path(text.strip_prefix('.').unwrap_or(text)).ok()?;
    (!path.is_root()).then_some(KeyField::Field(path))
}

fn dedupe(node: &Node, place: &Range<usize>, problems: &mut Problems) -> Option<Action> {
    let fields = Fields::of(node, place, "`dedupe`", &["window"], problems)?;
    let window_ms = match fields.get("window") {
        Some(node) => Some(duration(node, "window", SECOND..=30 * DAY, problems)?),
        None => None,
    };
    Some(Action::Dedupe(Dedupe { window_ms }))
}

fn rate_limit(node: &Node, place: &Range<usize>, problems: &mut Problems) -> Option<Action> {
    let known = ["policy", "limit", "window", "over"];
    let fields = Fields::of(node, place, "`rate_limit`", &known, problems)?;
    let policy = fields
        .required_text("policy", problems)
        .and_then(|text| named(text, "policy", problems));
    let limit = fields
        .required("limit", problems)
        .and_then(|node| whole(node, "limit", 1..=MOST_LIMIT, problems));
    let window_ms = fields
        .required("window", problems)
        .and_then(|node| duration(node, "window", SECOND..=30 * DAY, problems));
    let over = if fields.has("over") {
        fields.required_text("over", problems).and_then(|text| {
            let over = match text.value.as_str() {
                "reject" => Some(Over::Reject),
                "defer" => Some(Over::Defer),
                _ => None,
            };
            if over.is_none() {
                problems.error(
                    &text.place(0..text.value.len()),
                    "`over` must be `reject` or `defer`",
                );
            }
            over
        })
    } else {
        Some(Over::Reject)
    };
    Some(Action::RateLimit(RateLimit {
        policy: policy?,
        limit: limit? as u32,
        window_ms: window_ms?,
        over: over?,
    }))
}

fn route(node: &Node, place: &Range<usize>, problems: &mut Problems) -> Option<Action> {
    let items = match &node.kind {
        Kind::List(items) if !items.is_empty() => items,
        Kind::List(_) => {
            problems.error(&node.span, "`route` must have a rule at least");
            return None;
        }
        _ => {
            problems
                .error(
                    place,
                    format!(
                        "`route` must be a list of rules, and this is {}",
                        node.what()
                    ),
                )
                .note("such as `[ { when: '.type == \"ping\"', to: drop }, { to: ingress } ]`");
            return None;
        }
    };
    let read: Vec<Option<Rule>> = items.iter().map(|item| rule(item, problems)).collect();
    let whole = read.iter().all(Option::is_some);
    let rules: Vec<Rule> = read.into_iter().flatten().collect();
    let always = |rule: &Rule| matches!(rule.when, When::Always);
    if let Some(at) = rules.iter().position(always)
        && let Some(unreachable) = rules.get(at + 1)
    {
        problems
            .error(&unreachable.span, "this rule is never reached")
            .note("the one before it has no `when`, and takes every record");
    }
    if let Some(last) = rules.last()
        && whole
        && !rules.iter().any(always)
    {
        problems
            .error(&last.span, "records that no rule takes would be lost")
            .note("end with a rule without `when`, such as `{ to: drop }`");
    }
    Some(Action::Route(rules))
}

fn rule(node: &Node, problems: &mut Problems) -> Option<Rule> {
    let fields = Fields::of(node, &node.span, "a rule", &["when", "to"], problems)?;
    let when = match fields.get("when") {
        Some(node) => match program(node, &node.span, "when", Use::Condition, problems) {
            Some(vrl) => When::Holds(vrl),
            None => When::Broken,
        },
        None if fields.has("when") => {
            problems.error(&node.span, "`when` must not be empty");
            When::Broken
        }
        None => When::Always,
    };
    let to = fields
        .required_text("to", problems)
        .and_then(|text| topic(text, "to", problems));
    Some(Rule {
        span: node.span.clone(),
        when,
        to: to?,
    })
}

fn project(node: &Node, problems: &mut Problems) -> Option<Action> {
    let Kind::List(items) = &node.kind else {
        problems.error(&node.span, "`project` must be a list of tables");
        return None;
    };
    let tables: Vec<Option<String>> = items
        .iter()
        .map(|item| text(item, "project", problems).map(|text| text.value.clone()))
        .collect();
    Some(Action::Project(tables.into_iter().collect::<Option<_>>()?))
}
