//! `codec` as a file says it: a name, or a name and its options.

use std::sync::Arc;

use super::{Codec, csv::Layout};
use crate::topology::syntax::{
    fields::{Fields, Spanned, listed},
    problem::Problems,
    yaml::{Kind, Node},
};

const NAMES: [&str; 4] = ["json", "text", "csv", "avro"];
/// More columns than this no table has.
const MOST_COLUMNS: usize = 1_000;

/// Reads `codec: json`, or `codec: { csv: { columns: [id, total], delimiter: ";" } }`.
pub(crate) fn read(node: &Node, problems: &mut Problems) -> Option<Codec> {
    let none = Node {
        span: node.span.clone(),
        kind: Kind::Null,
        tag: None,
    };
    let (name, options) = match &node.kind {
        Kind::Map(entries) if entries.len() == 1 => (&entries[0].0, &entries[0].1),
        _ => (node, &none),
    };
    let Some(text) = name.text().filter(|text| !text.value.is_empty()) else {
        problems
            .error(
                &node.span,
                format!("`codec` must be a codec, and this is {}", node.what()),
            )
            .note("such as `csv`, or `{ csv: { columns: [id, total] } }`");
        return None;
    };
    match text.value.as_str() {
        "csv" => csv(options, problems),
        known if NAMES.contains(&known) && !matches!(options.kind, Kind::Null) => {
            problems.error(&options.span, format!("`{known}` has no options"));
            None
        }
        "json" => Some(Codec::Json),
        "text" => Some(Codec::Text),
        "avro" => Some(Codec::Avro),
        other => {
            problems
                .error(&name.span, format!("there is no codec `{other}`"))
                .note(format!("there are {}", listed(&NAMES)));
            None
        }
    }
}

fn csv(node: &Node, problems: &mut Problems) -> Option<Codec> {
    if matches!(node.kind, Kind::Null) {
        return Some(Codec::Csv(Arc::new(Layout::default())));
    }
    let known = ["columns", "delimiter"];
    let fields = Fields::of(node, &node.span, "`csv`", &known, problems)?;
    // Whatever is wrong with one, the other is looked at.
    let columns = fields.get("columns").map(|node| columns(node, problems));
    let delimiter = fields
        .get("delimiter")
        .map_or(Some(b','), |node| delimiter(node, problems));
    let columns = match columns {
        Some(read) => Some(read?),
        None => None,
    };
    let layout = Layout {
        columns,
        delimiter: delimiter?,
    };
    Some(Codec::Csv(Arc::new(layout)))
}

fn columns(node: &Node, problems: &mut Problems) -> Option<Vec<String>> {
    let Kind::List(items) = &node.kind else {
        problems.error(
            &node.span,
            format!(
                "`columns` must be a list of names, and this is {}",
                node.what()
            ),
        );
        return None;
    };
    if items.is_empty() || items.len() > MOST_COLUMNS {
        problems.error(
            &node.span,
            format!("`columns` must have 1 to {MOST_COLUMNS} names"),
        );
        return None;
    }
    let mut names: Vec<Spanned<String>> = Vec::new();
    for item in items {
        let Some(text) = item.text().filter(|text| !text.value.is_empty()) else {
            problems
                .error(
                    &item.span,
                    format!("a column must be a name, and this is {}", item.what()),
                )
                .note("put it in quotes");
            continue;
        };
        if names.iter().any(|name| name.value == text.value) {
            problems.error(
                &item.span,
                format!("there is a column `{}` already", text.value),
            );
            continue;
        }
        names.push(Spanned {
            value: text.value.clone(),
            span: item.span.clone(),
        });
    }
    (names.len() == items.len()).then(|| names.into_iter().map(|name| name.value).collect())
}

fn delimiter(node: &Node, problems: &mut Problems) -> Option<u8> {
    let found = match node.text().map(|text| text.value.as_str()) {
        Some("tab") => Some(b'\t'),
        Some(text) => match text.as_bytes() {
            [b'"' | b'\r' | b'\n'] => None,
            [one] if one.is_ascii() => Some(*one),
            _ => None,
        },
        None => None,
    };
    if found.is_none() {
        problems.error(
            &node.span,
            "`delimiter` must be one character of ASCII, such as \";\", or `tab`",
        );
    }
    found
}
