//! The shape of a plan: what it does, whatever its steps are called and whichever values the slots of its goal had. Two plans for goals with the
//! same template agree if their shapes are equal.
//!
//! | file | holds |
//! |---|---|
//! | `literals` | values of slots that a plan holds as literals |
//! | `generalise` | expressions instead of them |
//! | `computed` | literals that may have been computed |
//! | `expressions` | references of expressions |

mod computed;
mod expressions;
mod generalise;
mod literals;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use self::expressions::{Piece, pieces, renamed};
pub use self::generalise::{Generalised, generalise, is_cacheable};
use super::jcs;

/// The shape of a plan: literals that are values of slots are expressions, steps are called `s1`, `s2` … in an order that depends neither on
/// their names nor on the order of steps that do not depend on each other. `slots` are [`super::template::Template::values`].
///
/// A plan that cannot be read keeps its steps as they are.
///
/// ```
/// use omnilink::plans::shape::shape;
/// use serde_json::json;
///
/// let slots = |id: &str| [("ID_1".to_owned(), json!(id))].into();
/// let one = json!({ "steps": [{ "id": "ask", "tool": "mail", "input": { "text": "Invoice 4711" } }] });
/// let other = json!({ "steps": [{ "id": "write", "tool": "mail", "input": { "text": "Invoice 4712" } }] });
/// assert_eq!(shape(&one, &slots("4711")), shape(&other, &slots("4712")));
/// assert_ne!(shape(&one, &slots("4711")), shape(&other, &slots("4711")));
/// ```
pub fn shape(plan: &Value, slots: &BTreeMap<String, Value>) -> Value {
    let general = generalise(plan, slots).plan;
    ordered(&general).unwrap_or(general)
}

/// The plan with its steps in order and renamed; `None` if it is no plan.
fn ordered(plan: &Value) -> Option<Value> {
    let steps = plan.get("steps")?.as_array()?;
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for (n, step) in steps.iter().enumerate() {
        places.insert(step.as_object()?.get("id")?.as_str()?, n);
    }
    if places.len() != steps.len() {
        return None;
    }
    let parents: Vec<BTreeSet<usize>> = steps
        .iter()
        .map(|step| {
            let ids = step.get("depends_on").and_then(Value::as_array);
            let ids = ids.into_iter().flatten().filter_map(Value::as_str);
            ids.filter_map(|id| places.get(id).copied()).collect()
        })
        .collect();
    // What each step is, without its name: its content, with those of its ancestors instead of their names.
    let mut contents: Vec<Option<String>> = vec![None; steps.len()];
    let mut order: Vec<usize> = Vec::with_capacity(steps.len());
    while order.len() < steps.len() {
        let is_ready = |n: &usize| {
            contents[*n].is_none() && parents[*n].iter().all(|parent| contents[*parent].is_some())
        };
        let ready: Vec<usize> = (0..steps.len()).filter(is_ready).collect();
        let mut round: Vec<(String, usize)> = Vec::with_capacity(ready.len());
        for n in ready {
            let name = |id: &str| match places.get(id) {
                Some(own) if *own == n => Some("self".to_owned()),
                Some(other) => contents[*other].clone(),
                None => None,
            };
            round.push((jcs::hash(&step(&steps[n], &name)), n));
        }
        // A cycle.
        if round.is_empty() {
            return None;
        }
        round.sort();
        for (content, n) in round {
            contents[n] = Some(content);
            order.push(n);
        }
    }
    let mut names = BTreeMap::new();
    for (place, n) in order.iter().enumerate() {
        names.insert(*n, format!("s{}", place + 1));
    }
    let name = |id: &str| names.get(places.get(id)?).cloned();
    let mut shape: Map<String, Value> = Map::new();
    for (member, value) in plan.as_object()? {
        if member != "steps" {
            shape.insert(member.clone(), rewritten(value, &name));
        }
    }
    let renamed = order.iter().map(|n| {
        let mut step = step(&steps[*n], &name);
        step["id"] = json!(names[n]);
        step
    });
    shape.insert("steps".into(), renamed.collect());
    Some(Value::Object(shape))
}

/// A step without its id and without members that say what holds anyway, with other names of steps.
fn step(step: &Value, name: &dyn Fn(&str) -> Option<String>) -> Value {
    let mut members = Map::new();
    for (member, value) in step.as_object().into_iter().flatten() {
        let value = match (member.as_str(), value) {
            ("depends_on", Value::Array(ids)) => {
                let ids = ids.iter().filter_map(Value::as_str);
                let ids: BTreeSet<String> = ids
                    .map(|id| name(id).unwrap_or_else(|| id.to_owned()))
                    .collect();
                if ids.is_empty() {
                    continue;
                }
                json!(ids)
            }
            ("input", Value::Object(members)) if members.is_empty() => continue,
            ("id", _) | ("irreversible", Value::Bool(false)) | ("when", Value::Bool(true)) => {
                continue;
            }
            _ => rewritten(value, name),
        };
        members.insert(member.clone(), value);
    }
    Value::Object(members)
}

/// A value with the expressions of its texts in one form.
fn rewritten(value: &Value, name: &dyn Fn(&str) -> Option<String>) -> Value {
    match value {
        Value::String(text) => {
            let pieces = pieces(text).into_iter();
            let texts = pieces.map(|piece| match piece {
                Piece::Literal(text) => text.to_owned(),
                Piece::Expression(text) => format!("{{{{ {} }}}}", renamed(text, name)),
            });
            Value::String(texts.collect())
        }
        Value::Array(items) => items.iter().map(|item| rewritten(item, name)).collect(),
        Value::Object(members) => {
            let members = members.iter();
            Value::Object(
                members
                    .map(|(k, v)| (k.clone(), rewritten(v, name)))
                    .collect(),
            )
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests;
