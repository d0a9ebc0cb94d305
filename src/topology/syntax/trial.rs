//! The tests in a file: input records and expected output.

use serde_json::Value;

use super::{
    fields::{Fields, Spanned, duration},
    problem::Problems,
    yaml::{Kind, Node},
};

/// A test in a topology file.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    pub(crate) name: Spanned<String>,
    pub(crate) given: Vec<Given>,
    /// Time that passes after the last record.
    pub(crate) wait_ms: i64,
    /// The expected records of each topic, in order; topics that are not named may hold anything.
    pub(crate) then: Vec<(Spanned<String>, Vec<Expected>)>,
}

/// An input record: its value alone, or `!record` with the rest.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) value: Value,
    pub(crate) key: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    /// Time that passes before it.
    pub(crate) after_ms: i64,
}

/// An expected record: what is given must match, the rest may be anything.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) value: Value,
    /// Whether it describes the whole record (`!record {key, headers, value}`), not its value alone.
    pub(crate) whole: bool,
}

const YEAR: i64 = 366 * 86_400_000;

pub(crate) fn read(node: &Node, problems: &mut Problems) -> Vec<Trial> {
    let Kind::List(items) = &node.kind else {
        problems.error(
            &node.span,
            format!("`tests` must be a list, and this is {}", node.what()),
        );
        return Vec::new();
    };
    let mut trials: Vec<Trial> = Vec::new();
    for item in items {
        let Some(trial) = trial(item, problems) else {
            continue;
        };
        if trials.iter().any(|t| t.name.value == trial.name.value) {
            problems.error(
                &trial.name.span,
                format!("there is a test `{}` already", trial.name.value),
            );
        }
        trials.push(trial);
    }
    trials
}

fn trial(node: &Node, problems: &mut Problems) -> Option<Trial> {
    let known = ["name", "given", "wait", "then"];
    let fields = Fields::of(node, &node.span, "a test", &known, problems)?;
    let name = fields.required_text("name", problems).map(|text| Spanned {
        value: text.value.clone(),
        span: text.place(0..text.value.len()),
    });
    let given = fields
        .required("given", problems)
        .and_then(|node| list(node, "given", problems))
        .map(|items| {
            let read: Vec<_> = items.iter().map(|item| given(item, problems)).collect();
            read
        });
    let wait_ms = match fields.get("wait") {
        Some(node) => duration(node, "wait", 0..=YEAR, problems),
        None => Some(0),
    };
    let then = fields
        .required("then", problems)
        .and_then(|node| then(node, problems));
    // The error was reported; the rest is still checked.
    Some(Trial {
        name: name?,
        given: given.unwrap_or_default().into_iter().flatten().collect(),
        wait_ms: wait_ms.unwrap_or_default(),
        then: then.unwrap_or_default(),
    })
}

fn list<'n>(node: &'n Node, name: &str, problems: &mut Problems) -> Option<&'n [Node]> {
    if let Kind::List(items) = &node.kind {
        return Some(items);
    }
    problems.error(
        &node.span,
        format!(
            "`{name}` must be a list of records, and this is {}",
            node.what()
        ),
    );
    None
}

fn given(node: &Node, problems: &mut Problems) -> Option<Given> {
    if node.tag.as_deref() != Some("record") {
        return Some(Given {
            value: node.json(),
            key: None,
            headers: Vec::new(),
            after_ms: 0,
        });
    }
    let known = ["value", "key", "headers", "after"];
    let fields = Fields::of(node, &node.span, "a `!record`", &known, problems)?;
    let key = match fields.get("key") {
        Some(_) => Some(fields.text("key", problems)?.value.clone()),
        None => None,
    };
    let after_ms = match fields.get("after") {
        Some(node) => duration(node, "after", 0..=YEAR, problems),
        None => Some(0),
    };
    let mut headers = Vec::new();
    if let Some(node) = fields.get("headers") {
        let Kind::Map(entries) = &node.kind else {
            problems.error(&node.span, "`headers` must be a mapping of texts");
            return None;
        };
        for (name, value) in entries {
            headers.push((
                name.key(),
                super::fields::text(value, "headers", problems)?
                    .value
                    .clone(),
            ));
        }
    }
    Some(Given {
        value: fields.get("value").map_or(Value::Null, Node::json),
        key,
        headers,
        after_ms: after_ms?,
    })
}

fn then(node: &Node, problems: &mut Problems) -> Option<Vec<(Spanned<String>, Vec<Expected>)>> {
    let Kind::Map(entries) = &node.kind else {
        problems
            .error(
                &node.span,
                format!(
                    "`then` must be a mapping of topics, and this is {}",
                    node.what()
                ),
            )
            .note("such as `{ ingress: [ { type: order.paid } ], dlq: [] }`");
        return None;
    };
    let mut then: Vec<(Spanned<String>, Vec<Expected>)> = Vec::new();
    for (topic, records) in entries {
        let name = Spanned {
            value: topic.key(),
            span: topic.span.clone(),
        };
        if then.iter().any(|(known, _)| known.value == name.value) {
            problems.error(&name.span, format!("`{}` is given twice", name.value));
        }
        let records = list(records, &name.value, problems).unwrap_or_default();
        let expected = records.iter().map(|record| Expected {
            value: record.json(),
            whole: record.tag.as_deref() == Some("record"),
        });
        then.push((name, expected.collect()));
    }
    Some(then)
}
