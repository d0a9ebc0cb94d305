//! Numbers: `5 kg`, `30 minutes`, `20%`, `three laptops`. The unit belongs to the value, but stays in the text: goals that differ in it differ.

use serde_json::Value;

use super::{
    id,
    numeral::{in_words, members, numeral},
    token::Text,
    unit,
};

/// Words before a number that is part of a name: `level 2` is not two of anything.
#[rustfmt::skip]
const NAMES: &[&str] = &[
    "level", "tier", "version", "phase", "step", "stage", "class", "grade", "priority", "prio", "type", "part", "chapter", "section",
    "schedule", "annex", "article", "windows", "python", "iso", "rfc", "tls", "tcp", "http", "sla", "category", "stufe", "klasse", "teil",
    "paragraph",
];

pub(super) fn find(text: &Text<'_>, at: usize) -> Option<(usize, Value)> {
    if !text.begins(at) || NAMES.contains(&text.word_before(at)) || id::labelled(text, at).is_some()
    {
        return None;
    }
    // A sign belongs to the number behind a space or a bracket.
    let minus = matches!(text.mark(at), Some('-' | '−'))
        && text.joined(at + 1)
        && !text.joined(at)
        && text.digits(at + 1).is_some();
    let start = at + usize::from(minus);
    if !minus && is_rest_of_a_name(text, at) {
        return None;
    }
    let in_digits = text.digits(start).is_some();
    let (after, value) = if in_digits {
        let number = numeral(text, start, false).map(|number| (number.end, number.value));
        number.or_else(|| with_joined_unit(text, start))?
    } else {
        let (end, value) = in_words(text, start)?;
        (end, value.to_string())
    };
    let hyphen = usize::from(text.is_joined_mark(after, '-') && text.joined(after + 1));
    let unit = unit::find(text, after + hyphen);
    if unit.is_none() && (goes_on(text, after) || (!in_digits && !text.is_like_a_noun(after))) {
        return None;
    }
    let value = if minus && value != "0" {
        format!("-{value}")
    } else {
        value
    };
    let mut members = members(value);
    if let Some((_, unit)) = unit {
        members.insert("unit".into(), unit.into());
    }
    Some((after, Value::Object(members)))
}

/// `5kg`: the digits do not end a word, but the unit does.
fn with_joined_unit(text: &Text<'_>, at: usize) -> Option<(usize, String)> {
    let digits = text.digits(at).filter(|digits| digits.len() <= 15)?;
    let decimal = text
        .digits(at + 2)
        .filter(|_| matches!(text.joined_mark(at + 1), Some('.' | ',')) && text.joined(at + 2));
    let (end, fraction) = match decimal {
        Some(fraction) => (at + 3, fraction),
        None => (at + 1, ""),
    };
    let unit = text.joined(end) && unit::find(text, end).is_some();
    unit.then(|| (end, super::numeral::decimal(digits, fraction, 0)))
}

/// The digits of `COVID-19`, `1.2.3`, `#4`.
fn is_rest_of_a_name(text: &Text<'_>, at: usize) -> bool {
    if !text.joined(at) || at == 0 {
        return false;
    }
    match text.mark(at - 1) {
        Some('#' | '_' | '@' | '&' | '=') => true,
        Some('-' | '/' | '.' | ',' | ':' | '–' | '\'') => text.joined(at - 1),
        _ => false,
    }
}

/// More of the name follows without a space: `2-step`, `24/7`, `1.2.3`.
fn goes_on(text: &Text<'_>, at: usize) -> bool {
    matches!(
        text.joined_mark(at),
        Some('-' | '/' | '.' | ',' | ':' | '_' | '–' | '@' | '*' | '\'')
    ) && text.joined(at + 1)
        && (text.is_word(at + 1) || text.digits(at + 1).is_some())
}
