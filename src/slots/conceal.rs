//! Placeholders instead of values: in outputs and errors of workers, which may repeat what they were given.
//!
//! A value of fewer than [`ANYWHERE`] bytes is replaced only where it is a word, so that a short number does not change parts of longer
//! ones, and one of fewer than [`SHORTEST`] nowhere: it would change what has nothing to do with it.

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};
use serde_json::{Map, Value};

use crate::guardian::Slot;

/// A shorter value is not replaced, in bytes.
const SHORTEST: usize = 4;
/// A value of this size is replaced wherever it stands, in bytes.
const ANYWHERE: usize = 8;

/// Finds the values of some slots in texts.
pub(super) struct Concealing {
    values: AhoCorasick,
    /// The slot of each of its patterns.
    patterns: Vec<usize>,
    /// The slot of each value as text.
    whole: HashMap<String, usize>,
}

impl Concealing {
    /// `None`: there are too many of them.
    pub(super) fn of(slots: &[Slot]) -> Option<Self> {
        let (mut texts, mut patterns, mut whole) = (Vec::new(), Vec::new(), HashMap::new());
        for (place, slot) in slots.iter().enumerate() {
            let text = text_of(&slot.value);
            if text.len() >= SHORTEST {
                texts.push(text.clone());
                patterns.push(place);
                whole.entry(text).or_insert(place);
            }
        }
        // The smallest and the quickest to build: it searches a text or two.
        let values = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .match_kind(MatchKind::LeftmostLongest)
            .build(texts)
            .ok()?;
        Some(Self {
            values,
            patterns,
            whole,
        })
    }

    /// The text with the placeholders of these slots.
    pub(super) fn text(&self, text: &str, slots: &[Slot]) -> String {
        let mut concealed = String::with_capacity(text.len());
        let (mut copied, mut at) = (0, 0);
        while let Some(found) = self.values.find(Input::new(text).range(at..)) {
            let (from, to) = (found.start(), found.end());
            if to - from < ANYWHERE && !is_word(text, from, to) {
                at = from + text[from..].chars().next().map_or(1, char::len_utf8);
                continue;
            }
            concealed.push_str(&text[copied..from]);
            concealed.push_str(&placeholder(
                &slots[self.patterns[found.pattern().as_usize()]],
            ));
            (copied, at) = (to, to);
        }
        concealed.push_str(&text[copied..]);
        concealed
    }

    /// As [`Concealing::text`]; what the text ends with is left out if a value begins like it.
    pub(super) fn cut_text(&self, text: &str, slots: &[Slot]) -> String {
        let mut concealed = self.text(text, slots);
        let begun = slots
            .iter()
            .filter_map(|slot| begun_at_end(&concealed, &text_of(&slot.value)));
        if let Some(bytes) = begun.max() {
            concealed.truncate(concealed.len() - bytes);
        }
        concealed
    }

    /// Replaces in all texts, numbers and names of members of a document.
    pub(super) fn value(&self, value: &mut Value, slots: &[Slot]) {
        match value {
            Value::String(text) => *text = self.text(text, slots),
            Value::Number(number) => {
                if let Some(place) = self.whole.get(&number.to_string()) {
                    *value = placeholder(&slots[*place]).into();
                }
            }
            Value::Array(items) => {
                for item in items {
                    self.value(item, slots);
                }
            }
            Value::Object(members) => {
                let named = std::mem::take(members).into_iter();
                *members = named
                    .map(|(name, mut value)| {
                        self.value(&mut value, slots);
                        (self.text(&name, slots), value)
                    })
                    .collect::<Map<_, _>>();
            }
            Value::Null | Value::Bool(_) => {}
        }
    }
}

/// How many bytes of a value, from its beginning, a text ends with: at least [`SHORTEST`].
fn begun_at_end(text: &str, value: &str) -> Option<usize> {
    let mut ends = value.char_indices().map(|(at, _)| at).rev();
    ends.find(|at| text.ends_with(&value[..*at]))
        .filter(|at| *at >= SHORTEST)
}

/// A value as text.
pub(super) fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn placeholder(slot: &Slot) -> String {
    format!("{{{}}}", slot.name)
}

/// Whether no letter or digit stands directly before or after a part of a text.
fn is_word(text: &str, from: usize, to: usize) -> bool {
    let before = text[..from].chars().next_back();
    let after = text[to..].chars().next();
    !before.into_iter().chain(after).any(char::is_alphanumeric)
}
