//! Reads JSON values and collects all faults. `null` counts as absent, except where a value may be of any type.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::fault::{Fault, Pointer};
use crate::config::keys::nearest;

/// The faults so far.
#[derive(Default)]
pub(crate) struct Faults(pub(crate) Vec<Fault>);

/// An object whose member names were checked.
pub(crate) struct Object<'v> {
    members: &'v Map<String, Value>,
    /// Its place in the document.
    pub(crate) at: Pointer,
    /// What it is, in messages, such as "a step".
    what: &'static str,
}

impl Faults {
    pub(crate) fn add(&mut self, at: &Pointer, message: impl Into<String>) -> &mut Fault {
        self.0.push(Fault::new(at, message));
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    /// Marks all faults from index `from` on as faults of this step.
    pub(crate) fn of_step(&mut self, from: usize, id: &str) {
        for fault in &mut self.0[from..] {
            fault.step.get_or_insert_with(|| id.to_owned());
        }
    }

    /// The value as an object; reports unknown members.
    pub(crate) fn object<'v>(
        &mut self,
        value: &'v Value,
        at: &Pointer,
        what: &'static str,
        known: &[&str],
    ) -> Option<Object<'v>> {
        let Value::Object(members) = value else {
            let message = format!("{what} must be a mapping, and this is {}", kind(value));
            self.add(at, message).note = Some(format!("with {}", listed(known)));
            return None;
        };
        for name in members.keys() {
            if !known.contains(&name.as_str()) {
                let fault = self.add(&at.at(name), format!("{what} has no `{}`", short(name)));
                fault.name = true;
                fault.note = Some(match nearest(name, known.iter().copied()) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("it has {}", listed(known)),
                });
            }
        }
        Some(Object {
            members,
            at: at.clone(),
            what,
        })
    }

    /// The value as a list.
    pub(crate) fn list<'v>(
        &mut self,
        value: &'v Value,
        at: &Pointer,
        name: &str,
    ) -> Option<&'v [Value]> {
        let items = value.as_array();
        if items.is_none() {
            let message = format!("`{name}` must be a list, and this is {}", kind(value));
            self.add(at, message);
        }
        items.map(Vec::as_slice)
    }

    /// The value as a text that is not empty.
    pub(crate) fn text<'v>(
        &mut self,
        value: &'v Value,
        at: &Pointer,
        name: &str,
    ) -> Option<&'v str> {
        match value.as_str() {
            Some(text) if !text.trim().is_empty() => Some(text),
            Some(_) => {
                self.add(at, format!("`{name}` must not be empty"));
                None
            }
            None => {
                let message = format!("`{name}` must be text, and this is {}", kind(value));
                let fault = self.add(at, message);
                if value.is_boolean() || value.is_number() {
                    fault.note = Some("put it in quotes".into());
                }
                None
            }
        }
    }
}

impl<'v> Object<'v> {
    /// A member; `null` counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&'v Value> {
        self.members.get(name).filter(|value| !value.is_null())
    }

    /// A member, even if it is `null`.
    pub(crate) fn any(&self, name: &str) -> Option<&'v Value> {
        self.members.get(name)
    }

    pub(crate) fn required(&self, name: &str, faults: &mut Faults) -> Option<&'v Value> {
        let value = self.get(name);
        if value.is_none() {
            faults.add(&self.at, format!("{} needs `{name}`", self.what));
        }
        value
    }

    pub(crate) fn text(&self, name: &str, faults: &mut Faults) -> Option<&'v str> {
        faults.text(self.get(name)?, &self.at.at(name), name)
    }

    pub(crate) fn required_text(&self, name: &str, faults: &mut Faults) -> Option<&'v str> {
        let value = self.required(name, faults)?;
        faults.text(value, &self.at.at(name), name)
    }

    pub(crate) fn boolean(&self, name: &str, faults: &mut Faults) -> Option<bool> {
        let value = self.get(name)?;
        let found = value.as_bool();
        if found.is_none() {
            faults.add(&self.at.at(name), format!("`{name}` must be true or false"));
        }
        found
    }

    /// A whole number within bounds.
    pub(crate) fn whole(
        &self,
        name: &str,
        within: RangeInclusive<u64>,
        faults: &mut Faults,
    ) -> Option<u64> {
        let value = self.get(name)?;
        let found = value.as_u64().filter(|n| within.contains(n));
        if found.is_none() {
            let (least, most) = within.into_inner();
            let message = format!("`{name}` must be a whole number from {least} to {most}");
            faults.add(&self.at.at(name), message);
        }
        found
    }

    /// A number within bounds.
    pub(crate) fn number(
        &self,
        name: &str,
        within: RangeInclusive<f64>,
        faults: &mut Faults,
    ) -> Option<f64> {
        let value = self.get(name)?;
        let found = value.as_f64().filter(|n| within.contains(n));
        if found.is_none() {
            let (least, most) = within.into_inner();
            let message = format!("`{name}` must be a number from {least} to {most}");
            faults.add(&self.at.at(name), message);
        }
        found
    }

    /// A number of seconds above 0, in milliseconds.
    pub(crate) fn seconds(&self, name: &str, most: u64, faults: &mut Faults) -> Option<u64> {
        let found = self.number(name, 0.001..=most as f64, faults)?;
        Some((found * 1000.0).round() as u64)
    }

    /// A member that must be one of `all`; returns the index.
    pub(crate) fn one_of(&self, name: &str, all: &[&str], faults: &mut Faults) -> Option<usize> {
        let value = self.get(name)?;
        let text = value.as_str().unwrap_or_default();
        let found = all.iter().position(|one| *one == text);
        if found.is_none() {
            let message = format!("`{name}` must be one of {}", listed(all));
            let fault = faults.add(&self.at.at(name), message);
            fault.note =
                nearest(text, all.iter().copied()).map(|meant| format!("did you mean `{meant}`?"));
        }
        found
    }
}

/// The type of a value, in messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

/// Formats names as "`a`, `b` and `c`".
pub(crate) fn listed(names: &[&str]) -> String {
    let mut quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.pop() {
        Some(last) if !quoted.is_empty() => format!("{} and {last}", quoted.join(", ")),
        last => last.unwrap_or_default(),
    }
}

/// The first 64 bytes of a text, for messages.
pub(crate) fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(64)]
}

/// The maximum length of the name of a tool or a workflow, in bytes.
const NAME_MAX: usize = 128;

/// Whether a text is a valid name of a tool or a workflow.
pub(crate) fn is_name(text: &str) -> bool {
    let in_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    text.len() <= NAME_MAX
        && text.bytes().all(in_name)
        && text
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic())
}
