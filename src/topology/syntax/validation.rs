//! The step `validate`: reads it, and compiles its schema.

use std::{ops::Range, sync::Arc};

use vrl::path::parse_value_path;

use super::{
    fields::{Fields, text},
    model::{Action, Validate},
    problem::{Problem, Problems},
    yaml::Node,
};
use crate::event_schemas::Schema;

/// Reads `{ schema: FILE, field: PATH }`. Errors of the schema are shown in its own file, beside the one that names it.
pub(super) fn read(node: &Node, place: &Range<usize>, problems: &mut Problems) -> Option<Action> {
    let fields = Fields::of(node, place, "`validate`", &["schema", "field"], problems)?;
    let field = fields.text("field", problems).map(|text| {
        let path = text.value.strip_prefix('.').unwrap_or(&text.value);
        let path = parse_value_path(path).ok().filter(|path| !path.is_root());
        if path.is_none() {
            problems
                .error(
                    &text.place(0..text.value.len()),
                    format!("`{}` is no field", text.value),
                )
                .note(
                    "such as `data` or `data.items`; without `field` the whole record is checked",
                );
        }
        path
    });
    let schema = fields
        .required("schema", problems)
        .and_then(|node| text(node, "schema", problems))
        .and_then(|text| {
            let place = text.place(0..text.value.len());
            schema(&text.value, &place, problems)
        })?;
    let field = match field {
        Some(path) => Some(path?),
        // An error was reported, or there is none.
        None if fields.get("field").is_some() => return None,
        None => None,
    };
    Some(Action::Validate(Validate {
        schema: Arc::new(schema),
        field,
    }))
}

fn schema(name: &str, place: &Range<usize>, problems: &mut Problems) -> Option<Schema> {
    let faults = match Schema::load(&problems.beside(name)) {
        Ok(schema) => return Some(schema),
        Err(faults) => faults,
    };
    match &faults[..] {
        [only] if only.text.is_empty() => {
            problems.error(place, format!("the schema {}", only.message));
        }
        faults => {
            problems.error(
                place,
                match faults.len() {
                    1 => "the schema has an error".to_owned(),
                    count => format!("the schema has {count} errors"),
                },
            );
            let shown = faults.iter().cloned().map(Problem::from);
            problems.found.extend(shown);
        }
    }
    None
}
