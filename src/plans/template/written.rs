//! Templates as text: writing them, comparing them, and reading them back.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Slot, SlotKind, Template};
use crate::plans::digits;

/// The most bytes of a slot behind its opening brace.
const SLOT_MAX: usize = 64;

/// The goal with its slots replaced. `{DATE}` where a kind has one value, else `{DATE_1}`, `{DATE_2}`.
pub(super) fn text(goal: &str, slots: &[Slot]) -> String {
    let second = |slot: &&Slot| slot.name.strip_prefix(slot.kind.name()) == Some("_2");
    let several: BTreeSet<SlotKind> = slots.iter().filter(second).map(|slot| slot.kind).collect();
    let mut text = String::with_capacity(goal.len());
    let mut copied = 0;
    for slot in slots {
        literal(&goal[copied..slot.from], &mut text);
        let numbered = several.contains(&slot.kind);
        text.push('{');
        text.push_str(if numbered {
            &slot.name
        } else {
            slot.kind.name()
        });
        if let Some(form) = &slot.form {
            text.push(':');
            text.push_str(form);
        }
        text.push('}');
        copied = slot.to;
    }
    literal(&goal[copied..], &mut text);
    text
}

/// Text that has no slots: its braces are doubled.
fn literal(literal: &str, text: &mut String) {
    for (n, part) in literal.split('{').enumerate() {
        if n > 0 {
            text.push_str("{{");
        }
        text.push_str(part);
    }
}

/// A part of a template's text.
enum Part<'t> {
    Text(&'t str),
    Slot {
        kind: SlotKind,
        number: Option<&'t str>,
        form: Option<&'t str>,
    },
}

/// The parts, and where in the text each of them is.
fn parts(text: &str) -> Vec<(Part<'_>, usize, usize)> {
    let mut parts = Vec::new();
    let (mut literal, mut at) = (0, 0);
    while let Some(place) = text[at..].find('{') {
        let from = at + place;
        if text[from + 1..].starts_with('{') {
            parts.push((Part::Text(&text[literal..=from]), literal, from + 1));
            (literal, at) = (from + 2, from + 2);
            continue;
        }
        at = from + 1;
        let Some((slot, length)) = slot(&text[at..]) else {
            continue;
        };
        parts.push((Part::Text(&text[literal..from]), literal, from));
        at += length;
        parts.push((slot, from, at));
        literal = at;
    }
    parts.push((Part::Text(&text[literal..]), literal, text.len()));
    parts
}

/// The slot whose text begins behind its opening brace, and its length with the closing brace: `DATE}`, `number_2:kg}`.
fn slot(text: &str) -> Option<(Part<'_>, usize)> {
    let near = text.bytes().take(SLOT_MAX);
    let inside = &text[..near.enumerate().find(|(_, b)| *b == b'}')?.0];
    let (name, form) = match inside.split_once(':') {
        Some((name, form)) => (name, Some(form)),
        None => (inside, None),
    };
    let (kind, number) = match name.split_once('_') {
        Some((kind, number)) => (kind, Some(number)),
        None => (name, None),
    };
    let counts = number.is_none_or(|number| {
        !number.is_empty() && number.len() <= 6 && number.bytes().all(|b| b.is_ascii_digit())
    });
    let kind = SlotKind::named(kind).filter(|_| counts)?;
    Some((Part::Slot { kind, number, form }, inside.len() + 1))
}

/// A template as it is written: an example of a workflow (`Book flight to {LOCATION} {DATE}`), the text of another template, or a
/// [`Template::key`]. Its slots have no values.
pub fn example(text: &str) -> Template {
    let plain = digits::ascii(text);
    let text = &*plain;
    let slots = parts(text)
        .into_iter()
        .filter_map(|(part, from, to)| match part {
            Part::Text(_) => None,
            Part::Slot { kind, number, form } => Some(Slot {
                kind,
                name: format!("{}_{}", kind.name(), number.unwrap_or("1")),
                value: text[from..to].to_owned(),
                normalised: Value::Null,
                form: form.map(str::to_owned),
                from,
                to,
            }),
        });
    Template {
        text: text.to_owned(),
        slots: slots.collect(),
    }
}

impl Template {
    /// What is compared: lower case, single spaces, no punctuation at the end but a question mark that makes a question of the text. Names of
    /// files, acronyms, and other words with capital letters inside keep their case. Templates with equal keys differ in nothing but the values
    /// of their slots.
    pub fn key(&self) -> String {
        self.compared(true)
    }

    /// As the key; without the numbers and forms of slots unless `whole`.
    fn compared(&self, whole: bool) -> String {
        let mut key = String::with_capacity(self.text.len());
        let parts = parts(&self.text);
        let has_lower =
            |part: &Part<'_>| matches!(part, Part::Text(text) if text.contains(char::is_lowercase));
        let shouted = !parts.iter().any(|(part, ..)| has_lower(part));
        for (part, ..) in parts {
            match part {
                Part::Text(text) => spaced_lower(text, shouted, &mut key),
                Part::Slot { kind, number, form } => {
                    key.push('{');
                    key.push_str(&kind.name().to_ascii_lowercase());
                    for (separator, text) in [('_', number), (':', form)] {
                        if whole && let Some(text) = text {
                            key.push(separator);
                            key.push_str(&text.to_lowercase());
                        }
                    }
                    key.push('}');
                }
            }
        }
        let is_end = |c: char| {
            is_question_mark(c)
                || c.is_whitespace()
                || matches!(c, '.' | '!' | '…' | ',' | ';' | ':')
        };
        let end = key.trim_end_matches(is_end).len();
        let asked = key[end..].contains(is_question_mark);
        key.truncate(end);
        if asked && !begins_question(&key) {
            key.push('?');
        }
        key
    }

    /// The values of the slots of an example that this goal is like, by their names as in [`Template::values`]. `None` if it is not: the texts
    /// differ in more than case, spaces and the punctuation at the end, or the kinds of slots differ.
    pub fn matches(&self, example: &Self) -> Option<BTreeMap<String, Value>> {
        let same = self.slots.len() == example.slots.len()
            && self.compared(false) == example.compared(false);
        if !same {
            return None;
        }
        let mut slots = Vec::new();
        for (own, slot) in self.slots.iter().zip(&example.slots) {
            let form = |slot: &Slot| slot.form.as_deref().map(str::to_lowercase);
            // An example without a form takes all.
            if slot.form.is_some() && form(slot) != form(own) {
                return None;
            }
            slots.push(Slot {
                name: slot.name.clone(),
                ..own.clone()
            });
        }
        // A name that the example has twice stands for one value.
        let twice = slots.iter().enumerate().any(|(n, slot)| {
            let other = slots[..n].iter().find(|other| other.name == slot.name);
            other.is_some_and(|other| other.normalised != slot.normalised)
        });
        // `{LOCATION}` is the first one of its kind by its number.
        slots.sort_by_key(|slot| (slot.kind, number(&slot.name)));
        let text = String::new();
        (!twice).then(|| Self { text, slots }.values())
    }
}

fn number(name: &str) -> u64 {
    let number = name.rsplit_once('_').map(|(_, number)| number);
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

/// Words that begin a question or a polite request, also without a question mark: with them it says nothing more.
#[rustfmt::skip]
const QUESTIONS: &[&str] = &[
    "what", "which", "who", "whose", "whom", "how", "why", "is", "are", "was", "were", "does", "did", "can", "could", "would",
    "wer", "wie", "warum", "wieso", "welche", "welcher", "welches", "ist", "sind", "kann", "kannst", "können", "könnten", "könntest",
];

fn is_question_mark(c: char) -> bool {
    matches!(c, '?' | '？' | '؟')
}

/// Whether the first word makes a question or a request of it.
fn begins_question(key: &str) -> bool {
    let first = key.split(|c: char| !c.is_alphanumeric()).next();
    first.is_some_and(|first| QUESTIONS.contains(&first.to_lowercase().as_str()))
}

/// Appends the text, its white space as single spaces, none at the beginning; in lower case but for words that keep theirs. `shouted`: no
/// letter of the goal is a small one, so capital letters say nothing.
fn spaced_lower(text: &str, shouted: bool, key: &mut String) {
    for (n, word) in text.split(char::is_whitespace).enumerate() {
        if n > 0 && !key.is_empty() && !key.ends_with(' ') {
            key.push(' ');
        }
        for piece in word.split_inclusive(|c| !is_in_word(c)) {
            let kept = keeps_case(piece, shouted);
            for c in piece.chars() {
                match c {
                    // As in the text of a template.
                    '{' => key.push_str("{{"),
                    c if kept => key.push(c),
                    c => key.extend(c.to_lowercase()),
                }
            }
        }
    }
}

fn is_in_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '.' | '_' | '\'' | '’')
}

/// Whether another case would make another word of it: `report.pdf`, `IT`, `iPhone`.
fn keeps_case(word: &str, shouted: bool) -> bool {
    let word = word.trim_matches(|c: char| !c.is_alphanumeric());
    let mut letters = word.chars().filter(|c| c.is_alphabetic()).skip(1);
    word.contains('.') || (!shouted && letters.any(char::is_uppercase))
}
