//! The members of a definition, parsed in a way that collects all faults.

use serde_json::{Map, Value};

use super::dialect::hmac::Place;

/// The longest `tolerance_s`: a day.
const TOLERANCE_MAX: u64 = 86_400;

/// A fault in a definition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The place, as a JSON pointer.
    pub pointer: String,
    /// `invalid_payload`, `missing_{field}` or `reference_not_allowed`.
    pub code: String,
    /// The description for people.
    pub message: String,
}

/// The faults found so far.
#[derive(Default)]
pub(super) struct Faults(pub(super) Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        self.0.push(Fault {
            pointer: pointer.into(),
            code: "invalid_payload".into(),
            message: message.into(),
        });
    }

    pub(super) fn missing(&mut self, at: &str, name: &str) {
        self.0.push(Fault {
            pointer: format!("{at}/{name}"),
            code: format!("missing_{name}"),
            message: "is required and must not be empty".into(),
        });
    }
}

/// An object of a definition, and its place.
pub(super) struct Members {
    pub(super) at: String,
    pub(super) members: Map<String, Value>,
}

impl Members {
    pub(super) fn pointer(&self, name: &str) -> String {
        format!("{}/{}", self.at, name.replace('~', "~0").replace('/', "~1"))
    }

    /// A member; `null` counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.members.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn known(&self, names: &[&str], faults: &mut Faults) {
        for name in self
            .members
            .keys()
            .filter(|name| !names.contains(&&***name))
        {
            faults.add(
                self.pointer(name),
                format!("is not a known field; known are {}", names.join(", ")),
            );
        }
    }

    pub(super) fn text(&self, name: &str, faults: &mut Faults) -> Option<String> {
        let text = self.get(name)?.as_str().map(str::to_owned);
        if text.is_none() {
            faults.add(self.pointer(name), "must be a string");
        }
        text
    }

    pub(super) fn required(&self, name: &str, faults: &mut Faults) -> Option<String> {
        match self.get(name) {
            None => faults.missing(&self.at, name),
            Some(Value::String(text)) if text.is_empty() => faults.missing(&self.at, name),
            Some(_) => return self.text(name, faults),
        }
        None
    }

    pub(super) fn texts(&self, name: &str, faults: &mut Faults) -> Vec<String> {
        let Some(value) = self.get(name) else {
            return Vec::new();
        };
        let Value::Array(items) = value else {
            faults.add(self.pointer(name), "must be a list of strings");
            return Vec::new();
        };
        let mut texts = Vec::new();
        for (n, item) in items.iter().enumerate() {
            match item {
                Value::String(text) => texts.push(text.clone()),
                _ => faults.add(format!("{}/{n}", self.pointer(name)), "must be a string"),
            }
        }
        texts
    }

    pub(super) fn object(&self, name: &str, faults: &mut Faults) -> Option<Self> {
        let members = self.get(name)?.as_object().cloned();
        if members.is_none() {
            faults.add(self.pointer(name), "must be an object");
        }
        Some(Self {
            at: self.pointer(name),
            members: members?,
        })
    }

    pub(super) fn choice<T: Copy>(
        &self,
        name: &str,
        choices: &[(&str, T)],
        faults: &mut Faults,
    ) -> Option<T> {
        let text = self.required(name, faults)?;
        let found = choices.iter().find(|(choice, _)| *choice == text);
        if found.is_none() {
            let names: Vec<_> = choices.iter().map(|(choice, _)| *choice).collect();
            faults.add(
                self.pointer(name),
                format!("must be {}", names.join(" or ")),
            );
        }
        found.map(|(_, value)| *value)
    }

    pub(super) fn header_name(&self, member: &str, name: Option<&str>, faults: &mut Faults) {
        // RFC 9110, section 5.6.2.
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_some_and(|name| name.is_empty() || !name.bytes().all(token)) {
            faults.add(self.pointer(member), "must be the name of a header");
        }
    }

    pub(super) fn tolerance(&self, has_timestamp: bool, faults: &mut Faults) -> Option<u32> {
        let value = self.get("tolerance_s")?;
        let pointer = self.pointer("tolerance_s");
        if !has_timestamp {
            faults.add(&*pointer, "needs `timestamp_header`");
        }
        let seconds = value.as_u64().filter(|s| (1..=TOLERANCE_MAX).contains(s));
        if seconds.is_none() {
            faults.add(
                pointer,
                format!("must be a whole number of seconds, 1 to {TOLERANCE_MAX}"),
            );
        }
        seconds.map(|seconds| seconds as u32)
    }

    /// `{name}_header`, or a JSON pointer in `{name}`.
    pub(super) fn place(&self, name: &str, faults: &mut Faults) -> Option<Place> {
        let header_member = format!("{name}_header");
        let header = self.text(&header_member, faults);
        self.header_name(&header_member, header.as_deref(), faults);
        let pointer = self.text(name, faults);
        if pointer
            .as_deref()
            .is_some_and(|pointer| !pointer.starts_with('/'))
        {
            faults.add(
                self.pointer(name),
                "must be a JSON pointer such as /event/type",
            );
        }
        match (header, pointer) {
            (Some(_), Some(_)) => {
                faults.add(self.pointer(name), format!("excludes `{header_member}`"));
                None
            }
            (Some(header), None) => Some(Place::Header(header)),
            (None, pointer) => pointer.map(Place::Pointer),
        }
    }
}
