//! Whether two templates say the same in the same phrases: the strictest comparison.
//!
//! The gates look for known differences. This looks for the absence of any: every word counts, also those that say little, and where it
//! stands. Only politeness, articles, known synonyms, verbs of one class and the order of whole phrases may differ.

use super::{
    lexicon::{self, LEXICON},
    verbs::{Classes, READ},
    words::Token,
};

/// Words at the start of a text that make a request of it.
const OPENING: &[&str] = &[
    "can", "could", "would", "will", "you", "i", "we", "d", "want", "wanna", "like", "need", "to",
    "have", "hey", "hi", "hello", "ok", "okay", "please", "kindly", "just", "ll", "must", "should",
    "may", "let", "lets", "s", "me", "us", "help", "now", "and", "so", "go", "ahead", "be", "able",
];
/// Words that say nothing anywhere.
const SILENT: &[&str] = &[
    "a", "an", "the", "please", "kindly", "thanks", "thank", "my", "our",
];
/// Questions that ask for a thing, and verbs that do: `what are my orders` and `list my orders`.
const ASKING: &[&str] = &["what", "which"];
/// Other words of questions.
const QUESTIONS: &[&str] = &["who", "when", "where", "whose", "how", "why"];
/// Words that join clauses. With one of them what stands at the start of a text need not belong to its first verb.
const JOINING: &[&str] = &[
    "and", "or", "then", "but", "so", "that", "if", "when", "while", "whether", "unless", "until",
    "before", "after", "because", "as", "once", "who", "which", "what", "where", "how", "why",
];

/// Prepositions of what belongs to the phrase before, wherever that stands: `the keys of the tenant`, `to sales and legal`.
const BOUND: &[&str] = &["of", "and", "or"];

/// A word of a phrase.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Said {
    /// The stem, the slot or the number.
    text: String,
    /// What it does, if it is a verb.
    classes: Classes,
}

/// Words from a preposition to the next one that is not [`BOUND`].
pub(super) type Phrase = Vec<Said>;

impl Said {
    fn is_like(&self, other: &Self) -> bool {
        let verbs = self.classes & other.classes != 0;
        verbs
            || (self.classes == 0
                && other.classes == 0
                && LEXICON.synonymous(&self.text, &other.text))
    }
}

/// The phrases of a text.
pub(super) fn phrases(tokens: &[Token]) -> Vec<Phrase> {
    let moved = with_start_moved(tokens);
    let tokens = without_opening(moved.as_deref().unwrap_or(tokens));
    let mut phrases = vec![Vec::new()];
    let begin = |phrases: &mut Vec<Phrase>| {
        if phrases.last().is_some_and(|phrase| !phrase.is_empty()) {
            phrases.push(Vec::new());
        }
    };
    // Whether a verb is expected.
    let mut expected = true;
    let mut reads = false;
    for token in tokens {
        let (text, classes) = match token {
            Token::Break => {
                begin(&mut phrases);
                expected = true;
                continue;
            }
            Token::Slot(slot) => (
                format!("{{{}_{}:{}}}", slot.kind, slot.number, slot.form),
                0,
            ),
            Token::Number(text) => (text.clone(), 0),
            Token::Word { word, .. } if SILENT.contains(&word.as_str()) => continue,
            // `Show me the orders`, but not `send me the orders`.
            Token::Word { word, .. } if reads && (word == "me" || word == "us") => continue,
            Token::Word { word, stem } => {
                if lexicon::role(word).is_some() && !BOUND.contains(&word.as_str()) {
                    begin(&mut phrases);
                }
                let verb = LEXICON.verb_in_place(stem).filter(|_| expected);
                let asks = ASKING.contains(&word.as_str());
                // Who, when and how are no `show`.
                let asked = QUESTIONS.contains(&word.as_str());
                let classes = match verb {
                    _ if asks => READ,
                    Some(classes) if !asked => classes,
                    _ => 0,
                };
                (stem.clone(), classes)
            }
        };
        reads = classes & READ != 0;
        expected = LEXICON.expects_verb(token.word());
        if let Some(phrase) = phrases.last_mut() {
            phrase.push(Said { text, classes });
        }
    }
    phrases.retain(|phrase| !phrase.is_empty());
    phrases
}

/// What follows the words that make a request of it: also those of `tell me which orders are open`.
fn without_opening(tokens: &[Token]) -> &[Token] {
    let start = tokens
        .iter()
        .position(|token| !OPENING.contains(&token.word()));
    let tokens = &tokens[start.unwrap_or(tokens.len())..];
    match tokens {
        [tell, me, rest @ ..]
            if tell.word() == "tell"
                && matches!(me.word(), "me" | "us")
                && rest.first().is_some_and(|next| {
                    ASKING.contains(&next.word()) || QUESTIONS.contains(&next.word())
                }) =>
        {
            rest
        }
        _ => tokens,
    }
}

/// `Within an hour, call them` as `call them within an hour`. `None`: it does not start like that, or the start may belong to something
/// else than the verb, as in `tomorrow, remind her to call`.
fn with_start_moved(tokens: &[Token]) -> Option<Vec<Token>> {
    // `When` is among the verbs, because it asks.
    let is_verb =
        |token: &Token| token.word() != "when" && LEXICON.verb_in_place(token.stem()).is_some();
    let at = tokens.iter().position(|token| *token == Token::Break)?;
    let (start, rest) = (&tokens[..at], &tokens[at + 1..]);
    let end = rest.iter().rposition(|token| *token != Token::Break)?;
    let request = &rest[..=end];
    let begins_with_verb = |tokens| without_opening(tokens).first().is_some_and(is_verb);
    let clear = request
        .iter()
        .all(|token| *token != Token::Break && !JOINING.contains(&token.word()));
    let mut words = without_opening(request).windows(2);
    let clear = clear && !words.any(|two| two[0].word() == "to" && is_verb(&two[1]));
    (clear && !start.is_empty() && !begins_with_verb(start) && begins_with_verb(request))
        .then(|| [request, start].concat())
}

/// Whether both have the same phrases, in any order.
pub(super) fn same(one: &[Phrase], other: &[Phrase]) -> bool {
    let mut rest: Vec<&Phrase> = other.iter().collect();
    let like = |one: &Phrase, other: &Phrase| {
        one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.is_like(other))
    };
    let found = one.iter().all(|phrase| {
        let place = rest.iter().position(|other| like(phrase, other));
        place.map(|place| rest.remove(place)).is_some()
    });
    found && rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::super::{Profile, same_phrases};

    fn same(one: &str, other: &str) -> bool {
        let (one, other) = (Profile::new(one), Profile::new(other));
        let same = same_phrases(&one, &other);
        assert_eq!(same, same_phrases(&other, &one));
        same
    }

    #[test]
    fn politeness_articles_synonyms_and_moved_phrases_are_the_same() {
        for (one, other) in [
            (
                "Cancel order {ID}",
                "Could you please cancel the order {ID}?",
            ),
            ("List our customers", "I'd like you to show me the clients"),
            (
                "Delete the draft of {DATE}",
                "Remove the draft of {DATE}, thanks",
            ),
            (
                "Send the offer to {PERSON} on {DATE}",
                "On {DATE}, send the offer to {PERSON}",
            ),
            ("Switch the alarm off", "Turn off the alarm"),
            ("What are the open orders?", "Which are the open orders"),
            (
                "Which invoices are overdue",
                "Please tell me which invoices are overdue",
            ),
            (
                "Send the samples from the lab to the plant within {NUMBER} hours",
                "Within {NUMBER} hours, send the samples from the lab to the plant.",
            ),
            (
                "To the building site, send the gravel",
                "Send the gravel to the building site",
            ),
            (
                "When the parcel has arrived, notify the customer",
                "Notify the customer when the parcel has arrived",
            ),
        ] {
            assert!(same(one, other), "{one} / {other}");
        }
    }

    #[test]
    fn every_other_word_and_its_place_count() {
        for (one, other) in [
            ("Send the offer", "Send me the offer"),
            (
                "Send the keys of the tenant to the agent",
                "Send the keys of the agent to the tenant",
            ),
            (
                "Close the gate as the truck leaves",
                "Close the gate if the truck leaves",
            ),
            ("Who signed the lease?", "When was the lease signed?"),
            (
                "Tell the driver about the delay",
                "Tell the driver about the delay first",
            ),
            ("Water some plants", "Water the plants"),
            (
                "Order paper for the printer at the door",
                "Order paper for the door at the printer",
            ),
            (
                "Book a room for {DATE_1} and {DATE_2}",
                "Book a room for {DATE_2} and {DATE_1}",
            ),
            (
                "Tomorrow, ask her to send the offer",
                "Ask her to send the offer tomorrow",
            ),
            (
                "Overnight, check whether the server runs",
                "Check whether the server runs overnight",
            ),
            (
                "Cancel the order, send the invoice",
                "Send the invoice cancel the order",
            ),
        ] {
            assert!(!same(one, other), "{one} / {other}");
        }
    }
}
