//! The references (`$ref`, `$dynamicRef`) in a schema.

use std::collections::{BTreeMap, BTreeSet};

use percent_encoding::percent_decode_str;
use serde_json::Value;

const KEYWORDS: [&str; 2] = ["$ref", "$dynamicRef"];

/// A reference: the JSON pointer to its keyword, and its value.
pub(super) struct Reference<'a> {
    pub(super) pointer: String,
    pub(super) to: &'a str,
}

/// All references in a schema.
pub(super) fn all(schema: &Value) -> Vec<Reference<'_>> {
    let mut found = Vec::new();
    collect(schema, &mut String::new(), &mut found);
    found
}

fn collect<'a>(value: &'a Value, at: &mut String, found: &mut Vec<Reference<'a>>) {
    let length = at.len();
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                at.push('/');
                at.push_str(&name.replace('~', "~0").replace('/', "~1"));
                match value {
                    Value::String(to) if KEYWORDS.contains(&name.as_str()) => {
                        found.push(Reference {
                            pointer: at.clone(),
                            to,
                        });
                    }
                    _ => collect(value, at, found),
                }
                at.truncate(length);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                at.push('/');
                at.push_str(&index.to_string());
                collect(value, at, found);
                at.truncate(length);
            }
        }
        _ => {}
    }
}

/// Whether a schema may refer to itself. References other than pointers within the file count as if they did.
pub(super) fn may_recurse(schema: &Value) -> bool {
    let references = all(schema);
    // From each target to those of the references within it.
    let mut next: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut targets = Vec::new();
    for reference in &references {
        let pointer = reference
            .to
            .strip_prefix('#')
            .filter(|p| p.starts_with('/'));
        let Some(pointer) = pointer.filter(|_| reference.pointer.ends_with("$ref")) else {
            return true;
        };
        let decoded = percent_decode_str(pointer).decode_utf8_lossy();
        targets.push((&reference.pointer, decoded.into_owned()));
    }
    for (_, from) in &targets {
        let inside = format!("{from}/");
        let within = targets.iter().filter(|(at, _)| at.starts_with(&inside));
        next.insert(from.clone(), within.map(|(_, to)| to.clone()).collect());
    }
    next.keys().any(|target| reaches(&next, target))
}

/// Whether a target's references lead back to it.
fn reaches(next: &BTreeMap<String, Vec<String>>, target: &str) -> bool {
    let mut open = vec![target];
    let mut seen = BTreeSet::new();
    while let Some(from) = open.pop() {
        for to in next.get(from).into_iter().flatten() {
            if to == target {
                return true;
            }
            if seen.insert(to) {
                open.push(to);
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn recursion_is_found() {
        let money = json!({
            "$defs": { "money": { "$ref": "#/$defs/number" }, "number": { "type": "number" } },
            "properties": { "a": { "$ref": "#/$defs/money" }, "b": { "$ref": "#/$defs/money" } }
        });
        assert!(!may_recurse(&money));
        for recursive in [
            json!({ "properties": { "next": { "$ref": "#" } } }),
            json!({ "$defs": { "node": { "items": { "$ref": "#/$defs/node" } } }, "$ref": "#/$defs/node" }),
            json!({ "$defs": {
                "a": { "items": { "$ref": "#/$defs/b" } },
                "b": { "items": { "$ref": "#/$defs/a" } } }, "$ref": "#/$defs/a" }),
            // Unknown, so it counts.
            json!({ "$ref": "other.json" }),
            json!({ "$dynamicRef": "#/$defs/a", "$defs": { "a": true } }),
        ] {
            assert!(may_recurse(&recursive), "{recursive}");
        }
    }
}
