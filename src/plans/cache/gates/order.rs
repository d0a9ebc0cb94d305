//! Whether two texts say the same words so that other things belong together: `$1,200 for rent and $80 for power`, with rent and power
//! exchanged.
//!
//! Paraphrases move phrases, and a phrase takes its preposition along. Here two words have changed places around a third one that both
//! texts have, and each stands under the preposition that the other one had.

use super::{
    lexicon::{self, LEXICON},
    words::Token,
};

/// Words of both texts whose order is compared. With more of them every other order counts as an exchange.
const WORDS_MAX: usize = 24;
/// The most words of a goal whose order is compared; longer goals must have the same ones.
const PLACED_MAX: usize = 512;

/// Slots and numbers have no synonyms.
const NONE: &[u16] = &[];

/// A word that says something, a slot or a number, and where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Placed {
    text: String,
    /// Its groups of synonyms.
    groups: &'static [u16],
    /// The preposition that it stands under. What `and` joins stands under that of the first.
    role: &'static str,
    /// It is one more of a list: nothing is between it and the `and`, `or` or comma before.
    listed: bool,
}

impl Placed {
    fn is_like(&self, other: &Self) -> bool {
        self.text == other.text || self.groups.iter().any(|group| other.groups.contains(group))
    }
}

/// The words of a text that say something, in order.
pub(super) fn placed(tokens: &[Token]) -> Vec<Placed> {
    let (mut role, mut listed) = ("", false);
    let mut placed = Vec::new();
    for token in tokens {
        let (text, groups) = match token {
            Token::Break => {
                (role, listed) = ("", true);
                continue;
            }
            Token::Slot(slot) => (format!("{{{}_{}", slot.kind, slot.number), NONE),
            Token::Number(text) => (text.clone(), NONE),
            Token::Word { word, .. } if matches!(word.as_str(), "and" | "or") => {
                listed = true;
                continue;
            }
            Token::Word { word, stem } => {
                if let Some(given) = lexicon::role(word) {
                    (role, listed) = (given, false);
                    continue;
                }
                if LEXICON.is_filler(stem) {
                    continue;
                }
                (stem.clone(), LEXICON.groups(stem))
            }
        };
        placed.push(Placed {
            text,
            groups,
            role,
            listed,
        });
        listed = false;
    }
    placed
}

/// Whether words that both texts have were exchanged.
pub(super) fn exchanged(one: &[Placed], other: &[Placed]) -> bool {
    if one.len().max(other.len()) > PLACED_MAX {
        return one != other;
    }
    let both = in_both(one, other);
    if both.is_sorted_by_key(|(_, there)| *there) {
        return false;
    }
    if both.len() > WORDS_MAX {
        return true;
    }
    let is_exchange = |first: usize, last: usize| {
        let (a, b) = (both[first], both[last]);
        let reversed = b.1 < a.1;
        let mut between = both[first + 1..last].iter();
        reversed
            && one[a.0].role == other[b.1].role
            && one[b.0].role == other[a.1].role
            && between.any(|(_, there)| b.1 < *there && *there < a.1)
            && !(is_list(&one[a.0..=b.0]) && is_list(&other[b.1..=a.1]))
    };
    let mut firsts = 0..both.len();
    firsts.any(|first| (first + 1..both.len()).any(|last| is_exchange(first, last)))
}

/// Where the words are that both texts have once, in the order of the first text.
fn in_both(one: &[Placed], other: &[Placed]) -> Vec<(usize, usize)> {
    let places = one.iter().enumerate().filter_map(|(here, word)| {
        let there = only(word, other)?;
        (only(&other[there], one)? == here).then_some((here, there))
    });
    places.collect()
}

/// The place of the only word that is like this one.
fn only(word: &Placed, words: &[Placed]) -> Option<usize> {
    let mut places = (0..words.len()).filter(|at| words[*at].is_like(word));
    let place = places.next()?;
    places.next().is_none().then_some(place)
}

/// Whether these are things in a row, whose order says nothing: `milk, bread and eggs`.
fn is_list(words: &[Placed]) -> bool {
    words.iter().skip(1).all(|word| word.listed)
}

#[cfg(test)]
mod tests {
    use super::super::{Gate, Profile, check, same_phrases};

    fn is_exchanged(one: &str, other: &str) -> bool {
        let (one, other) = (Profile::new(one), Profile::new(other));
        let exchanged = super::exchanged(&one.placed, &other.placed);
        assert_eq!(exchanged, super::exchanged(&other.placed, &one.placed));
        assert!(!exchanged || check(&one, &other).has(Gate::Direction));
        exchanged
    }

    #[test]
    fn the_same_words_in_other_pairs_are_told_apart() {
        for (one, other) in [
            (
                "Pay {AMOUNT_1} for rent and {AMOUNT_2} for power",
                "Pay {AMOUNT_1} for power and {AMOUNT_2} for rent",
            ),
            (
                "For rent, pay {AMOUNT_1}; for power, {AMOUNT_2}",
                "For power, pay {AMOUNT_1}; for rent, {AMOUNT_2}",
            ),
            (
                "Send the invoice to sales and the contract to legal",
                "Send the invoice to legal and the contract to sales",
            ),
            (
                "Send the invoice to sales and the contract to legal",
                "Send the contract to sales and the invoice to legal",
            ),
            (
                "Buy {NUMBER_1} chairs and {NUMBER_2} desks",
                "Buy {NUMBER_1} desks and {NUMBER_2} chairs",
            ),
            (
                "Buy {NUMBER_1} chairs, {NUMBER_2} desks",
                "Buy {NUMBER_1} desks, {NUMBER_2} chairs",
            ),
            (
                "Let the tenant call the owner",
                "Let the owner call the tenant",
            ),
            (
                "Archive the logs and print the labels",
                "Print the logs and archive the labels",
            ),
            (
                "Send the keys to the customer and the codes to the vendor",
                "Send the keys to the supplier and the codes to the client",
            ),
        ] {
            assert!(is_exchanged(one, other), "{one} / {other}");
        }
    }

    #[test]
    fn phrases_that_move_as_a_whole_and_lists_pass() {
        for (one, other) in [
            (
                "Send the offer to {PERSON} on {DATE}",
                "On {DATE}, send the offer to {PERSON}",
            ),
            (
                "Send the contract to {EMAIL} within {NUMBER} hours",
                "Within {NUMBER} hours, send {EMAIL} the contract",
            ),
            (
                "Send the invoice to sales and the contract to legal",
                "Send the contract to legal and the invoice to sales",
            ),
            ("Order milk, bread and eggs", "Order eggs, bread and milk"),
            (
                "Ship {NUMBER} chairs from the store to the hall",
                "Ship {NUMBER} chairs to the hall from the store",
            ),
        ] {
            assert!(!is_exchanged(one, other), "{one} / {other}");
        }
    }

    #[test]
    fn long_texts_in_another_order_do_not_pass() {
        let words: Vec<_> = ('a'..='z')
            .flat_map(|a| ['k', 'p'].map(|b| format!("{b}{a}x")))
            .collect();
        let forwards = words.join(" ");
        let backwards: Vec<_> = words.iter().rev().map(String::as_str).collect();
        assert!(!is_exchanged(&forwards, &forwards));
        assert!(is_exchanged(&forwards, &backwards.join(" ")));
    }

    #[test]
    fn joined_phrases_and_those_of_a_noun_stay_where_they_are() {
        for (one, other) in [
            (
                "Take the form of the client from the folder",
                "Take the form from the folder of the client",
            ),
            (
                "Pay {AMOUNT_1} for rent and {AMOUNT_2} for power",
                "Pay {AMOUNT_1} for power and {AMOUNT_2} for rent",
            ),
        ] {
            assert!(
                !same_phrases(&Profile::new(one), &Profile::new(other)),
                "{one} / {other}"
            );
        }
    }
}
