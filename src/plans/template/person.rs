//! Names of people: behind a title, with a known first name, or two capitalised words behind a word such as `for`.

use serde_json::Value;

use super::{
    common, date,
    first_name::{self, Meaning},
    place,
    token::Text,
};

/// The most words of a name.
const WORDS_MAX: usize = 4;

pub(super) fn find(text: &Text<'_>, at: usize) -> Option<(usize, Value)> {
    // Not the rest of a name.
    let inside =
        text.joined(at) && matches!(text.mark(at.wrapping_sub(1)), Some('\'' | '’' | '-' | '.'));
    if !text.is_capital(at) || !text.begins(at) || inside {
        return None;
    }
    let (name, end) = titled(text, at)
        .or_else(|| first_name(text, at).map(|end| (at, end)))
        .or_else(|| pair(text, at).map(|end| (at, end)))?;
    text.ends(end)
        .then(|| (end, text.stretch(name, end).into()))
}

/// `Dr. Smith`, `Frau Dr. Anna Schmidt`: where the name begins and ends.
fn titled(text: &Text<'_>, at: usize) -> Option<(usize, usize)> {
    let mut start = at;
    // At most three titles.
    for _ in 0..3 {
        let title = matches!(
            text.word(start),
            "mr" | "mrs"
                | "ms"
                | "miss"
                | "mx"
                | "dr"
                | "prof"
                | "professor"
                | "herr"
                | "herrn"
                | "frau"
                | "sir"
                | "madam"
        );
        if !title || !text.is_capital(start) {
            break;
        }
        start += 1;
        start += usize::from(text.is_joined_mark(start, '.'));
    }
    if start == at || text.begins_line(start) {
        return None;
    }
    let end = match irish(text, start) {
        Some(end) => end,
        None => text.is_like_a_name(start).then_some(start + 1)?,
    };
    Some((start, rest(text, end, start)))
}

fn first_name(text: &Text<'_>, at: usize) -> Option<usize> {
    let meaning = first_name::find(text.word(at)).filter(|_| text.is_like_a_name(at))?;
    let ambiguous = meaning == Meaning::Ambiguous;
    // `Mark the invoice as paid`
    if ambiguous && text.begins_sentence(at) && !is_part(text, at + 1) {
        return None;
    }
    let end = rest(text, at + 1, at);
    // `May` and `Sydney` alone are a month and a city.
    let other =
        ambiguous && end == at + 1 && (place::is_known(text, at) || date::find(text, at).is_some());
    (!other).then_some(end)
}

/// `for Lorem Ipsum`
fn pair(text: &Text<'_>, at: usize) -> Option<usize> {
    let behind = matches!(
        text.word_before(at),
        "for"
            | "with"
            | "by"
            | "to"
            | "from"
            | "colleague"
            | "employee"
            | "customer"
            | "manager"
            | "applicant"
            | "candidate"
            | "client"
            | "named"
            | "fur"
            | "mit"
            | "cc"
    );
    if text.german
        || !behind
        || text.begins_sentence(at)
        || !is_part(text, at)
        || !is_part(text, at + 1)
    {
        return None;
    }
    Some(rest(text, at + 1, at))
}

/// The end of a name whose first word is known: more capitalised words, hyphens, `von`, `van` and initials.
fn rest(text: &Text<'_>, mut end: usize, start: usize) -> usize {
    while end < start + 2 * WORDS_MAX {
        if text.is_joined_mark(end, '-') && text.joined(end + 1) && text.is_like_a_name(end + 1) {
            end += 2;
            continue;
        }
        let particle = matches!(
            text.raw(end),
            "von" | "van" | "de" | "del" | "di" | "da" | "der" | "den" | "bin" | "al" | "la"
        );
        let mut name = end;
        if particle {
            name += 1 + usize::from(matches!(text.raw(end + 1), "der" | "den" | "la"));
        }
        // `J.`
        let initial = text.is_all_capitals(end)
            && text.raw(end).chars().count() == 1
            && text.is_joined_mark(end + 1, '.')
            && is_part(text, end + 2);
        if initial {
            end += 2;
        } else if let Some(after) = irish(text, end) {
            end = after;
        } else if is_part(text, name) && !(particle && place::is_known(text, name)) {
            end = name + 1;
        } else {
            break;
        }
    }
    end
}

/// The end of `O'Brien`.
fn irish(text: &Text<'_>, at: usize) -> Option<usize> {
    let apostrophe = matches!(text.joined_mark(at + 1), Some('\'' | '’')) && text.joined(at + 2);
    let prefix = matches!(text.raw(at), "O" | "D") && !text.joined(at);
    (prefix && apostrophe && text.is_like_a_name(at + 2)).then_some(at + 3)
}

/// A word that may be part of a name.
fn is_part(text: &Text<'_>, at: usize) -> bool {
    text.is_like_a_name(at)
        && text.begins(at)
        && !text.begins_line(at)
        && !text.joined(at)
        && !common::is_common(text, at)
        && !place::is_known(text, at)
}
