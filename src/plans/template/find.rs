//! Which slots a goal has.

use serde_json::Value;

use super::{
    Slot, SlotKind, amount, date, id, number, person, place, placeholder,
    quoted::{self, Closings},
    token::Text,
    url,
};
use crate::base::clock::Millis;

/// What begins at a token.
struct Found {
    kind: SlotKind,
    /// The token behind it.
    end: usize,
    value: Value,
    form: Option<&'static str>,
}

/// The slots of a goal, without their names. Where several begin at the same place, the longest one; of the same length, the first kind.
pub(super) fn slots(goal: &str, now: Millis) -> Vec<Slot> {
    let text = Text::new(goal, now);
    let mut closings = Closings::default();
    let mut slots = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let Some(found) = longest(&text, at, &mut closings).filter(|found| found.end > at) else {
            at += 1;
            continue;
        };
        let value = text.stretch(at, found.end);
        let from = text.tokens[at].from;
        slots.push(Slot {
            kind: found.kind,
            name: String::new(),
            value: value.to_owned(),
            normalised: found.value,
            form: found.form.map(str::to_owned),
            from,
            to: from + value.len(),
        });
        at = found.end;
    }
    slots
}

fn longest(text: &Text<'_>, at: usize, closings: &mut Closings) -> Option<Found> {
    let mut longest: Option<Found> = None;
    let mut add = |kind, found: Option<(usize, Value)>, form| {
        if let Some((end, value)) = found
            && longest.as_ref().is_none_or(|longest| end > longest.end)
        {
            longest = Some(Found {
                kind,
                end,
                value,
                form,
            });
        }
    };
    if let Some((end, when)) = date::find(text, at) {
        add(SlotKind::Date, Some((end, when.value())), when.form());
    }
    add(SlotKind::Location, place::find(text, at), None);
    add(SlotKind::Person, person::find(text, at), None);
    add(SlotKind::Amount, amount::find(text, at), None);
    if let Some((end, kind, value)) = placeholder::find(text, at) {
        add(kind, Some((end, value)), None);
    }
    add(SlotKind::Number, number::find(text, at), None);
    add(SlotKind::Id, id::find(text, at), None);
    add(SlotKind::Url, url::find(text, at), None);
    add(SlotKind::Quoted, quoted::find(text, at, closings), None);
    longest
}
