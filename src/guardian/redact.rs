//! Placeholders instead of personal data, and back: `{EMAIL_1}`.
//!
//! What a placeholder stands for is put back exactly: none has a name that the text had already. Redacting a second time changes nothing,
//! because the text beside a placeholder is looked at again, as if it ended there.
//!
//! Personal data are found in a text as it is seen (`clean`), and their values are kept so; the rest of the text stays as it is.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use super::{
    clean::{Cleaned, clean, is_plain},
    pii::{self, Kind, Stretch},
};

/// How far before a match something may begin that ends in it and would be another match if the text ended there: the longest number, with
/// its separators.
const NUMBER_MAX: usize = 80;
/// The same for a mail address.
const ADDRESS_MAX: usize = 512;

/// The most bytes of a placeholder behind its opening brace.
const PLACEHOLDER_MAX: usize = 32;

/// What a placeholder stands for.
#[derive(Clone, PartialEq, Debug)]
pub struct Slot {
    /// What kind of thing it is.
    pub kind: Kind,
    /// Its name: the placeholder without its braces.
    pub name: String,
    /// The value: text, or a number of a JSON document.
    pub value: Value,
}

/// Puts placeholders into texts and documents that belong together. The same value has the same placeholder.
#[derive(Default)]
pub struct Redactor {
    slots: Vec<Slot>,
    /// The slot of a value.
    known: HashMap<(Kind, String), usize>,
    /// The last number of each kind.
    numbers: BTreeMap<Kind, u64>,
    taken: HashSet<String>,
}

impl Redactor {
    /// Names no slot as a placeholder in this text. Call it for everything that is redacted or bound together, first.
    pub fn reserve(&mut self, text: &str) {
        self.taken.extend(placeholders(text).map(str::to_owned));
        // Nor as what looks like one.
        if !is_plain(text) {
            let cleaned = clean(text);
            self.taken.extend(placeholders(&cleaned).map(str::to_owned));
        }
    }

    /// As [`Redactor::reserve`], for all texts of a document.
    pub fn reserve_value(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.reserve(text),
            Value::Array(items) => items.iter().for_each(|item| self.reserve_value(item)),
            Value::Object(members) => members.values().for_each(|value| self.reserve_value(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// The text with placeholders.
    pub fn redact(&mut self, text: &str) -> String {
        let cleaned = Cleaned::of(text);
        let mut found = Vec::new();
        let whole = Stretch {
            text: &cleaned.characters,
            from: 0,
            to: cleaned.characters.len(),
        };
        scan(whole, 0, &mut found);
        let mut redacted = String::with_capacity(text.len());
        // How many characters are done, and how many bytes of the text.
        let (mut done, mut copied) = (0, 0);
        for (kind, from, to) in found {
            // One that stands for several may belong to two.
            let from = from.max(done);
            if from >= to {
                continue;
            }
            let place = cleaned.whole(from, to, done);
            redacted.push_str(&text[copied..cleaned.sources[place.start].start.max(copied)]);
            (done, copied) = (place.end, cleaned.sources[place.end - 1].end);
            let value: String = cleaned.characters[place].iter().collect();
            let name = self.name(kind, Value::String(value));
            redacted.push('{');
            redacted.push_str(name);
            redacted.push('}');
        }
        redacted.push_str(&text[copied..]);
        redacted
    }

    /// Puts placeholders into all texts of a document. Under the members `email`, `phone`, `ssn` and `address` all texts and numbers become
    /// placeholders, in lists and objects too. Elsewhere a number becomes one if its digits are personal data.
    pub fn redact_value(&mut self, value: &mut Value) {
        self.redact_member(value, None);
    }

    fn redact_member(&mut self, value: &mut Value, kind: Option<Kind>) {
        match value {
            Value::Array(items) => {
                for item in items {
                    self.redact_member(item, kind);
                }
            }
            Value::Object(members) => {
                for (name, value) in members {
                    let own = if is_plain(name) {
                        Kind::of_member(name)
                    } else {
                        Kind::of_member(&clean(name))
                    };
                    self.redact_member(value, own.or(kind));
                }
            }
            Value::Null | Value::Bool(_) => {}
            Value::String(_) | Value::Number(_) => match (kind, value.as_str()) {
                (None, Some(text)) => *value = Value::String(self.redact(text)),
                (None, None) => {
                    if let Some(kind) = kind_of_number(&value.to_string()) {
                        self.replace(kind, value);
                    }
                }
                (Some(_), Some(text)) if text.is_empty() || whole_placeholder(text).is_some() => {}
                (Some(kind), _) => self.replace(kind, value),
            },
        }
    }

    fn replace(&mut self, kind: Kind, value: &mut Value) {
        let name = self.name(kind, value.take());
        *value = Value::String(format!("{{{name}}}"));
    }

    /// What the placeholders stand for, in the order in which they came.
    pub fn into_slots(self) -> Vec<Slot> {
        self.slots
    }

    /// The name of the slot of a value, which may be new.
    fn name(&mut self, kind: Kind, value: Value) -> &str {
        let place = *self
            .known
            .entry((kind, value.to_string()))
            .or_insert_with(|| {
                let number = self.numbers.entry(kind).or_default();
                let name = loop {
                    *number += 1;
                    let name = format!("{}_{number}", kind.name());
                    if !self.taken.contains(&name) {
                        break name;
                    }
                };
                self.slots.push(Slot { kind, name, value });
                self.slots.len() - 1
            });
        &self.slots[place].name
    }
}

/// What the digits of a number are as a whole.
fn kind_of_number(number: &str) -> Option<Kind> {
    let digits: Vec<char> = number
        .strip_suffix(".0")
        .unwrap_or(number)
        .chars()
        .collect();
    let whole = Stretch {
        text: &digits,
        from: 0,
        to: digits.len(),
    };
    let (kind, end) = pii::at(whole, 0)?;
    (end == digits.len()).then_some(kind)
}

/// Finds what begins from `start` on, in the order of the text.
fn scan(mut stretch: Stretch<'_>, start: usize, found: &mut Vec<(Kind, usize, usize)>) {
    let mut at = start;
    while at < stretch.to {
        let Some((kind, end)) = pii::at(stretch, at) else {
            at += 1;
            continue;
        };
        // The text before it ends here now.
        let before = Stretch { to: at, ..stretch };
        scan(before, again_from(before), found);
        found.push((kind, at, end));
        stretch.from = end;
        at = end;
    }
}

/// From where on the end of a stretch may change what begins there.
fn again_from(stretch: Stretch<'_>) -> usize {
    let number = stretch.to.saturating_sub(NUMBER_MAX);
    let furthest = stretch.to.saturating_sub(ADDRESS_MAX).max(stretch.from);
    let text = stretch.text[furthest..stretch.to].iter().rev();
    let address =
        text.take_while(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '%' | '+' | '-' | '@'));
    let address = stretch.to - address.count();
    number.min(address).max(stretch.from)
}

/// The name of a placeholder whose text begins behind its opening brace.
fn placeholder(text: &str) -> Option<&str> {
    let near = text.bytes().take(PLACEHOLDER_MAX);
    let name = &text[..near.enumerate().find(|(_, b)| *b == b'}')?.0];
    let (_, number) = name.rsplit_once('_')?;
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    (digits && Kind::of_slot(name).is_some()).then_some(name)
}

/// The names of all placeholders in a text, in JSON text too, whether they stand for something or not.
pub fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    let places = text.match_indices('{');
    places.filter_map(|(place, _)| placeholder(&text[place + 1..]))
}

/// The name of the placeholder that a text is.
pub fn whole_placeholder(text: &str) -> Option<&str> {
    let name = placeholder(text.strip_prefix('{')?)?;
    (name.len() + 2 == text.len()).then_some(name)
}

/// Puts back what placeholders stand for. Only placeholders of these slots are replaced, each once: what is put in is not looked at again.
pub fn bind(text: &str, slots: &[Slot]) -> String {
    let values: HashMap<&str, &Value> = slots
        .iter()
        .map(|slot| (&*slot.name, &slot.value))
        .collect();
    let mut bound = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(place) = rest.find('{') {
        bound.push_str(&rest[..place]);
        rest = &rest[place..];
        let slot = placeholder(&rest[1..]).and_then(|name| Some((name, values.get(name)?)));
        let Some((name, value)) = slot else {
            bound.push('{');
            rest = &rest[1..];
            continue;
        };
        match value {
            Value::String(text) => bound.push_str(text),
            other => bound.push_str(&other.to_string()),
        }
        rest = &rest[name.len() + 2..];
    }
    bound.push_str(rest);
    bound
}

/// Puts back what placeholders of a document stand for. A text that is one placeholder becomes the value, which may be a number.
pub fn bind_value(value: &mut Value, slots: &[Slot]) {
    match value {
        Value::String(text) => {
            let whole = whole_placeholder(text);
            let slot = whole.and_then(|name| slots.iter().find(|slot| slot.name == name));
            *value = match slot {
                Some(slot) => slot.value.clone(),
                None => Value::String(bind(text, slots)),
            };
        }
        Value::Array(items) => items.iter_mut().for_each(|item| bind_value(item, slots)),
        Value::Object(members) => members
            .values_mut()
            .for_each(|value| bind_value(value, slots)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
