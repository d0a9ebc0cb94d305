//! Templates of goals: dates, places, people, amounts and the like are replaced by slots, so that goals that differ only in them have the
//! same template. Deterministic and pure: rules and lists, no model, no clock. The rules are in `docs/templates.md`.
//!
//! | file | holds |
//! |---|---|
//! | `token` | a goal as words, numbers and marks |
//! | `find` | which slot begins at a token: the longest one |
//! | `date`, `amount`, `number`, `place`, `person`, `id`, `url`, `quoted`, `placeholder` | the kinds |
//! | `numeral`, `unit`, `first_name`, `common` | numbers, units, first names, and words that are no names |
//! | `written` | templates as text: comparing them, and reading them back |
//! | `places.txt`, `names.txt` | lists of places and first names |

mod amount;
mod common;
mod date;
mod find;
mod first_name;
mod id;
mod kind;
mod number;
mod numeral;
mod person;
mod place;
mod placeholder;
mod quoted;
mod token;
mod unit;
mod url;
mod written;

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use serde_json::Value;

pub use self::{kind::SlotKind, written::example};
use crate::{base::clock::Millis, plans::digits};

/// A part of a goal that other goals have other values for.
#[derive(Clone, PartialEq, Debug)]
pub struct Slot {
    /// What it is.
    pub kind: SlotKind,
    /// Its name in expressions: `DATE_1`. Slots of the same kind with the same normalised value have the same name.
    pub name: String,
    /// The value as written in the goal. The unit of a number is not part of it: it stays in the text.
    pub value: String,
    /// The value in one form: an ISO date, `{value, number, currency}` (`docs/templates.md`).
    pub normalised: Value,
    /// Whether a date is a `range`, a `moment`, a `time` and so on: a plan for a day does not fit a range. `None` for a day, and for other kinds.
    pub form: Option<String>,
    /// The first byte in the goal.
    pub from: usize,
    /// The byte behind the last one.
    pub to: usize,
}

/// A goal with slots instead of its values.
#[derive(Clone, PartialEq, Debug)]
pub struct Template {
    /// Such as `Book flight to {LOCATION} {DATE}`. Dates that are no days have their form, `{DATE:range}`. A brace of the goal itself is
    /// doubled.
    pub text: String,
    /// In the order of the text, one for each place in it.
    pub slots: Vec<Slot>,
}

/// The template of a goal. Digits of other scripts are read, and in the text written, as ASCII ones. Placeholders of the guardian in it, such as `{EMAIL_1}`, are slots. Relative dates count from `now`, in UTC.
///
/// ```
/// use omnilink::{base::clock::Millis, plans::template::template};
///
/// // 30 November 2026.
/// let template = template("Book flight to Paris tomorrow", Millis(1_796_000_000_000));
/// assert_eq!(template.text, "Book flight to {LOCATION} {DATE}");
/// assert_eq!(template.values()["LOCATION"], "Paris");
/// assert_eq!(template.values()["DATE_1"], "2026-12-01");
/// ```
pub fn template(goal: &str, now: Millis) -> Template {
    let plain = digits::ascii(goal);
    let slots = find::slots(&plain, now);
    let slots = named(match &plain {
        Cow::Borrowed(_) => slots,
        Cow::Owned(plain) => as_written(goal, plain, slots),
    });
    let text = written::text(goal, &slots);
    Template {
        text: digits::ascii(&text).into_owned(),
        slots,
    }
}

/// The slots of a goal that were found in its `plain` form, whose digits have other lengths. Texts in quotes and addresses keep their
/// digits. A placeholder of the guardian has ASCII digits.
fn as_written(goal: &str, plain: &str, mut slots: Vec<Slot>) -> Vec<Slot> {
    let starts = plain.char_indices().zip(goal.char_indices());
    let starts = starts.map(|((plain, _), (goal, _))| (plain, goal));
    let places: Vec<_> = starts.chain([(plain.len(), goal.len())]).collect();
    let place = |at: usize| {
        let known = places.binary_search_by_key(&at, |(plain, _)| *plain);
        known.map_or(goal.len(), |known| places[known].1)
    };
    let stretch = |from: usize, to: usize| &goal[place(from)..place(to)];
    slots.retain(|slot| !slot.kind.is_personal() || stretch(slot.from, slot.to) == slot.value);
    for slot in &mut slots {
        if matches!(slot.kind, SlotKind::Quoted | SlotKind::Url) {
            let inside = slot.normalised.as_str();
            let inside = inside.and_then(|inside| {
                let from = slot.from + slot.value.find(inside)?;
                Some(stretch(from, from + inside.len()))
            });
            if let Some(inside) = inside {
                slot.normalised = inside.into();
            }
        }
        stretch(slot.from, slot.to).clone_into(&mut slot.value);
        (slot.from, slot.to) = (place(slot.from), place(slot.to));
    }
    slots
}

/// Gives the slots their names: a number for each value of a kind.
fn named(mut slots: Vec<Slot>) -> Vec<Slot> {
    let mut numbers: HashMap<(SlotKind, String), usize> = HashMap::new();
    let mut last: BTreeMap<SlotKind, usize> = BTreeMap::new();
    for slot in &mut slots {
        let value = (slot.kind, slot.normalised.to_string());
        let number = *numbers.entry(value).or_insert_with(|| {
            let last = last.entry(slot.kind).or_default();
            *last += 1;
            *last
        });
        slot.name = format!("{}_{number}", slot.kind.name());
    }
    slots
}

impl Template {
    /// The values for expressions: `slots.DATE_1`, and `slots.DATE` for the first of the kind.
    pub fn values(&self) -> BTreeMap<String, Value> {
        let mut values = BTreeMap::new();
        for slot in &self.slots {
            for name in [slot.name.as_str(), slot.kind.name()] {
                values
                    .entry(name.to_owned())
                    .or_insert_with(|| slot.normalised.clone());
            }
        }
        values
    }
}

#[cfg(test)]
mod tests;
