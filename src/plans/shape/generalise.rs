//! Expressions in a plan instead of the values that the slots of its goal had, so that it fits other values.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    computed::{has_date, is_date_under, is_digits},
    expressions::{Piece, Reference, numbered, pieces, visit},
    literals::{Literals, Part, decimal, is_short},
};

/// A plan for other values of its slots.
#[derive(Clone, PartialEq, Debug)]
pub struct Generalised {
    /// The plan, with `{{ slots.NAME }}` instead of literals that are values of slots.
    pub plan: Value,
    /// The names (`NUMBER_1`) of slots that the plan does not use, or not with certainty: their values are part of the plan, so it must be used
    /// only for goals in which they are the same.
    pub literal: Vec<String>,
    /// The names of slots whose values the plan as given has as literals. Without the expressions it fits only goals in which they are the same.
    pub written: Vec<String>,
    /// The plan has a date that is no value of a slot. It may have been computed from the day on which the plan was made.
    pub dated: bool,
}

/// Whether a plan may be cached under the template of its goal: a date in it may have been computed from the day on which it was made, and
/// would be wrong on another day. `slots` are [`super::super::template::Template::values`]. Not for the plans of workflows, whose dates are meant.
///
/// ```
/// use omnilink::plans::shape::is_cacheable;
/// use serde_json::json;
///
/// let report = |until: &str| json!({ "steps": [{ "id": "a", "tool": "report", "input": { "until": until } }] });
/// assert!(!is_cacheable(&report("2026-11-30"), &[].into()));
/// assert!(is_cacheable(&report("{{ slots.DATE }}"), &[("DATE_1".to_owned(), json!("2026-11-30"))].into()));
/// ```
pub fn is_cacheable(plan: &Value, slots: &BTreeMap<String, Value>) -> bool {
    !generalise(plan, slots).dated
}

/// The members of a step that have values.
const OF_STEP: [&str; 3] = ["input", "compensate", "when"];

/// Replaces literals that are values of slots by expressions. `slots` are [`super::super::template::Template::values`].
///
/// A slot whose value stands for something else, too, of which the plan uses only a part (the amount without its currency), or from which a
/// literal may have been computed (the amount in cents), is left as it is: see [`Generalised::literal`].
pub fn generalise(plan: &Value, slots: &BTreeMap<String, Value>) -> Generalised {
    let literals = Literals::new(slots);
    let mut seen = Seen {
        literals: &literals,
        used: BTreeSet::new(),
        refused: BTreeSet::new(),
        members: BTreeMap::new(),
        written: BTreeSet::new(),
        dated: false,
    };
    each(plan, &mut |value| {
        seen.value(value, "");
        None
    });
    seen.tools(plan);
    let replaced = seen.replaced();
    let literal = literals
        .slots
        .keys()
        .filter(|name| !replaced.contains(name.as_str()));
    let literal = literal.cloned().collect();
    let writer = Writer {
        literals: &literals,
        replaced: &replaced,
    };
    Generalised {
        plan: each(plan, &mut |value| Some(writer.value(value))),
        literal,
        written: seen.written.into_iter().collect(),
        dated: seen.dated,
    }
}

/// Visits the values of a plan, and replaces those for which `visit` gives others.
fn each(plan: &Value, visit: &mut dyn FnMut(&Value) -> Option<Value>) -> Value {
    let mut plan = plan.clone();
    let mut change = |value: &mut Value| {
        if let Some(other) = visit(value) {
            *value = other;
        }
    };
    for step in plan
        .get_mut("steps")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        for member in OF_STEP {
            // The tool of a compensation is a name.
            let value = match member {
                "compensate" => step.get_mut(member).and_then(|call| call.get_mut("input")),
                _ => step.get_mut(member),
            };
            if let Some(value) = value {
                change(value);
            }
        }
    }
    if let Some(output) = plan.get_mut("output") {
        change(output);
    }
    plan
}

/// What the first pass finds.
struct Seen<'l> {
    literals: &'l Literals,
    used: BTreeSet<Part>,
    /// Slots that must not be replaced.
    refused: BTreeSet<String>,
    /// Under which members short values stand: under several, they have several meanings.
    members: BTreeMap<Part, BTreeSet<String>>,
    written: BTreeSet<String>,
    dated: bool,
}

impl Seen<'_> {
    /// `member`: the nearest name above the value.
    fn value(&mut self, value: &Value, member: &str) {
        match value {
            Value::String(text) => self.text(text, member),
            Value::Number(number) => {
                if let Some(parts) = self.literals.of_number(number) {
                    let short = is_short(&number.to_string());
                    // A number is no text: it is not replaced by the value of another kind of slot.
                    let other = parts.iter().any(|part| part.member != Some("value"));
                    self.found(parts, short.then_some(member), other);
                } else {
                    let text = decimal(number).unwrap_or_else(|| number.to_string());
                    self.dated |= is_date_under(&text, member);
                    self.computed(&text);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.value(item, member)),
            Value::Object(members) => {
                for (name, value) in members {
                    self.refuse(name);
                    self.value(value, name);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn text(&mut self, text: &str, member: &str) {
        for piece in pieces(text) {
            let literal = match piece {
                Piece::Literal(literal) => literal,
                Piece::Expression(expression) => {
                    self.expression(expression);
                    continue;
                }
            };
            let mut end = 0;
            let mut outside = String::new();
            for found in self.literals.find(literal) {
                outside.push_str(&literal[end..found.from]);
                outside.push('\u{fffd}');
                end = found.to;
                let all = literal.len() == text.len() && found.to - found.from == text.len();
                let short = is_short(&literal[found.from..found.to]);
                self.found(
                    found.parts,
                    short.then_some(member),
                    !all && found.is_unsure,
                );
            }
            outside.push_str(&literal[end..]);
            self.dated |= if is_digits(text) {
                is_date_under(&outside, member)
            } else {
                has_date(&outside)
            };
            self.computed(&outside);
        }
    }

    /// Text that is no value of a slot may have been computed from one.
    fn computed(&mut self, text: &str) {
        self.refused.extend(self.literals.computed(text));
    }

    /// The texts of an expression may be values of slots, and are not replaced.
    fn expression(&mut self, expression: &str) {
        let mut used = Vec::new();
        visit(expression, |reference| {
            if let Reference::Slot(name, member) = reference {
                used.push((numbered(name), member));
            }
        });
        for (slot, member) in used {
            let parts = self.literals.slots.get(&slot).into_iter().flatten();
            let member = member.map(|member| if member == "number" { "value" } else { member });
            let parts = parts
                .filter(|part| part.member.is_none() || member.is_none() || part.member == member);
            self.used.extend(parts.cloned());
        }
        self.refuse(expression);
        self.refused.extend(self.literals.numbers_of(expression));
        self.dated |= has_date(expression);
    }

    fn found(&mut self, parts: &BTreeSet<Part>, short_under: Option<&str>, is_unsure: bool) {
        let slots = parts.iter().map(|part| part.slot.clone());
        self.written.extend(slots);
        if parts.len() > 1 || is_unsure {
            self.refused
                .extend(parts.iter().map(|part| part.slot.clone()));
            return;
        }
        for part in parts {
            self.used.insert(part.clone());
            if let Some(member) = short_under {
                let members = self.members.entry(part.clone()).or_default();
                members.insert(member.to_owned());
            }
        }
    }

    /// A text that stays as it is.
    fn refuse(&mut self, text: &str) {
        for found in self.literals.find(text) {
            let slots = found.parts.iter().map(|part| part.slot.clone());
            self.refused.extend(slots);
        }
    }

    /// Names of tools stay as they are.
    fn tools(&mut self, plan: &Value) {
        for step in plan
            .get("steps")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let undo = step.get("compensate").and_then(|call| call.get("tool"));
            for tool in step
                .get("tool")
                .into_iter()
                .chain(undo)
                .filter_map(Value::as_str)
            {
                self.refuse(tool);
            }
        }
    }

    /// The slots whose literals are replaced.
    fn replaced(&self) -> BTreeSet<&str> {
        let several = self.members.iter().filter(|(_, members)| members.len() > 1);
        let several: BTreeSet<&str> = several.map(|(part, _)| part.slot.as_str()).collect();
        let slots = self.literals.slots.iter().filter(|(name, parts)| {
            let all = !parts.is_empty() && parts.iter().all(|part| self.used.contains(part));
            all && !self.refused.contains(*name) && !several.contains(name.as_str())
        });
        slots.map(|(name, _)| name.as_str()).collect()
    }
}

/// The second pass.
struct Writer<'l> {
    literals: &'l Literals,
    replaced: &'l BTreeSet<&'l str>,
}

impl Writer<'_> {
    fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text)),
            Value::Number(number) => {
                let parts = self.literals.of_number(number);
                match parts.and_then(|parts| self.expression(parts, true)) {
                    Some(expression) => Value::String(expression),
                    None => value.clone(),
                }
            }
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Value::Object(members) => {
                let members = members.iter();
                Value::Object(members.map(|(k, v)| (k.clone(), self.value(v))).collect())
            }
            Value::Null | Value::Bool(_) => value.clone(),
        }
    }

    fn text(&self, text: &str) -> String {
        let mut written = String::with_capacity(text.len());
        for piece in pieces(text) {
            let literal = match piece {
                Piece::Literal(literal) => literal,
                Piece::Expression(expression) => {
                    written.push_str("{{");
                    written.push_str(expression);
                    written.push_str("}}");
                    continue;
                }
            };
            let mut end = 0;
            for found in self.literals.find(literal) {
                if let Some(expression) = self.expression(found.parts, false) {
                    written.push_str(&literal[end..found.from]);
                    written.push_str(&expression);
                    end = found.to;
                }
            }
            written.push_str(&literal[end..]);
        }
        written
    }

    /// `{{ slots.AMOUNT_1.value }}`; a JSON number stays one.
    fn expression(&self, parts: &BTreeSet<Part>, is_number: bool) -> Option<String> {
        let part = parts
            .first()
            .filter(|part| self.replaced.contains(part.slot.as_str()))?;
        Some(match part.member {
            None if is_number => return None,
            None => format!("{{{{ slots.{} }}}}", part.slot),
            Some("value") if is_number => format!("{{{{ slots.{}.number }}}}", part.slot),
            Some(member) => format!("{{{{ slots.{}.{member} }}}}", part.slot),
        })
    }
}
