//! Placeholders instead of values in the plan that a person gives.

use serde_json::{Map, Value, value::RawValue};

use super::{conceal::Concealing, values::Values};
use crate::guardian::Slot;

impl Values {
    /// The plan with placeholders instead of the values, where steps and the output hold data: in texts, numbers and names of members, and
    /// in the quoted texts of expressions. Ids, tools and references stay as they are. `None`: it has none of the values, or is not JSON.
    pub fn conceal_plan(&self, plan: &RawValue) -> Option<Value> {
        let given: Value = serde_json::from_str(plan.get()).ok()?;
        let mut concealed = given.clone();
        let (slots, concealing) = self.parts();
        let data = Data { slots, concealing };
        data.in_plan(&mut concealed);
        (concealed != given).then_some(concealed)
    }
}

/// Conceals data of plans.
struct Data<'a> {
    slots: &'a [Slot],
    concealing: &'a Concealing,
}

impl Data<'_> {
    fn in_plan(&self, plan: &mut Value) {
        if let Some(output) = plan.get_mut("output") {
            self.in_template(output);
        }
        let steps = plan.get_mut("steps").and_then(Value::as_array_mut);
        for step in steps.into_iter().flatten() {
            for name in ["input", "when"] {
                if let Some(template) = step.get_mut(name) {
                    self.in_template(template);
                }
            }
            if let Some(input) = step.pointer_mut("/compensate/input") {
                self.in_template(input);
            }
        }
    }

    fn in_template(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.in_template(item)),
            Value::Object(members) => {
                let named = std::mem::take(members).into_iter();
                *members = named
                    .map(|(name, mut value)| {
                        self.in_template(&mut value);
                        (self.concealing.text(&name, self.slots), value)
                    })
                    .collect::<Map<_, _>>();
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {
                self.concealing.value(value, self.slots);
            }
        }
    }

    /// A text with expressions.
    fn text(&self, text: &str) -> String {
        let mut concealed = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("{{") {
            concealed.push_str(&self.concealing.text(&rest[..start], self.slots));
            concealed.push_str("{{");
            let (expression, behind) = self.expression(&rest[start + 2..]);
            concealed.push_str(&expression);
            rest = behind;
        }
        concealed.push_str(&self.concealing.text(rest, self.slots));
        concealed
    }

    /// An expression from behind its opening braces to its closing ones, and what follows.
    fn expression<'t>(&self, text: &'t str) -> (String, &'t str) {
        let mut concealed = String::new();
        let mut depth = 0_u32;
        let mut rest = text;
        while let Some(at) = rest.find(['"', '\'', '{', '}']) {
            concealed.push_str(&rest[..at]);
            rest = &rest[at..];
            match rest.as_bytes()[0] {
                b'}' if depth == 0 && rest.starts_with("}}") => {
                    concealed.push_str("}}");
                    return (concealed, &rest[2..]);
                }
                b'{' => depth += 1,
                b'}' => depth = depth.saturating_sub(1),
                _ => {
                    let end = end_of_quoted(rest);
                    concealed.push_str(&self.concealing.text(&rest[..end], self.slots));
                    rest = &rest[end..];
                    continue;
                }
            }
            concealed.push_str(&rest[..1]);
            rest = &rest[1..];
        }
        // It is not closed, so the plan is not valid.
        concealed.push_str(&self.concealing.text(rest, self.slots));
        (concealed, "")
    }
}

/// Where the quoted text at the start of a text ends, behind its closing quote.
fn end_of_quoted(text: &str) -> usize {
    let open = text.chars().next();
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if Some(c) == open {
            return at + 1;
        }
    }
    text.len()
}
