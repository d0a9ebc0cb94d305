//! Places: known ones (`places.txt`), and capitalised words behind `to`, `from` and `in` where the goal is about travel or transport.

use std::{collections::HashMap, sync::LazyLock};

use serde_json::Value;

use super::{
    common, first_name,
    token::{self, Text},
};

struct Place {
    /// Its tokens, words folded.
    tokens: Vec<String>,
    /// The name that stands for all its names.
    name: &'static str,
    /// A word or a person's name, too.
    ambiguous: bool,
    /// Only written with a capital letter.
    capital: bool,
    /// Only written in capital letters, such as `FRA`.
    all_capitals: bool,
}

/// By the first word, the longest first.
static PLACES: LazyLock<HashMap<String, Vec<Place>>> = LazyLock::new(|| {
    let mut places: HashMap<String, Vec<Place>> = HashMap::new();
    for line in include_str!("places.txt").lines() {
        if line.starts_with('#') {
            continue;
        }
        let (ambiguous, names) = match line.strip_prefix('?') {
            Some(names) => (true, names),
            None => (false, line),
        };
        let name = names.split('|').next().unwrap_or(names);
        for (n, other) in names.split('|').enumerate() {
            let tokens = token::folded_tokens(other);
            let Some(first) = tokens.first() else {
                continue;
            };
            places.entry(first.clone()).or_default().push(Place {
                name,
                ambiguous,
                capital: n > 0,
                all_capitals: other.len() <= 4 && other.chars().all(char::is_uppercase),
                tokens,
            });
        }
    }
    for places in places.values_mut() {
        places.sort_by_key(|place| std::cmp::Reverse(place.tokens.len()));
    }
    places
});

pub(super) fn find(text: &Text<'_>, at: usize) -> Option<(usize, Value)> {
    if !text.is_word(at) || !text.begins(at) {
        return None;
    }
    let (end, name) = known(text, at)
        .map(|(end, name)| (end, name.to_owned()))
        .or_else(|| by_position(text, at).map(|end| (end, text.stretch(at, end).to_owned())))?;
    Some((end, name.into()))
}

/// Whether a known place begins here.
pub(super) fn is_known(text: &Text<'_>, at: usize) -> bool {
    known(text, at).is_some()
}

fn known(text: &Text<'_>, at: usize) -> Option<(usize, &'static str)> {
    let places = PLACES.get(text.word(at))?;
    let place = places.iter().find(|place| fits(text, at, place))?;
    Some((at + place.tokens.len(), place.name))
}

fn fits(text: &Text<'_>, at: usize, place: &Place) -> bool {
    let end = at + place.tokens.len();
    let same = |(n, token): (usize, &String)| match text.word(at + n) {
        "" => text.raw(at + n) == token,
        word => word == token,
    };
    place.tokens.iter().enumerate().all(same)
        && text.ends(end)
        && (!place.capital || text.is_capital(at))
        && (!place.all_capitals || text.is_all_capitals(at))
        && (!place.ambiguous || text.is_capital(at) && is_place_here(text, at))
}

fn is_place_here(text: &Text<'_>, at: usize) -> bool {
    behind_preposition(text, at) || (text.about_places && !text.begins_sentence(at))
}

fn behind_preposition(text: &Text<'_>, at: usize) -> bool {
    let article = usize::from(text.word_before(at) == "the");
    matches!(
        text.word_before(at - article.min(at)),
        "in" | "to"
            | "from"
            | "via"
            | "near"
            | "around"
            | "through"
            | "nach"
            | "aus"
            | "uber"
            | "within"
            | "across"
            | "outside"
    )
}

/// Unknown capitalised words, of which at most three belong together.
fn by_position(text: &Text<'_>, at: usize) -> Option<usize> {
    let behind = matches!(
        text.word_before(at),
        "in" | "to" | "from" | "via" | "near" | "nach" | "aus"
    );
    if !text.about_places || !behind || text.begins_sentence(at) {
        return None;
    }
    let most = if text.german { 1 } else { 3 };
    let is_part =
        |at: usize| text.is_like_a_name(at) && text.begins(at) && !common::is_common(text, at);
    let end = (at..at + most)
        .find(|at| !is_part(*at))
        .unwrap_or(at + most);
    let person = first_name::find(text.word(at)).is_some();
    (end > at && !person && text.ends(end)).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_listed_once() {
        let mut seen = std::collections::BTreeSet::new();
        for places in PLACES.values() {
            for place in places {
                assert!(seen.insert(&place.tokens), "{:?}", place.tokens);
            }
        }
        assert!(seen.len() > 700, "{}", seen.len());
    }
}
