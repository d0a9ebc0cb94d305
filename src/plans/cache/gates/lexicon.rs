//! The words that the gates know, by stem: those of [`super::verbs`] and [`super::meanings`], negation, scope, fillers, units.
//!
//! Written from general knowledge of business language, not from a test set. A word that is missing here makes a gate less sure,
//! never a hit more likely: what the gates do not explain lowers the evidence.

use std::{collections::HashMap, sync::LazyLock};

use super::{
    meanings::{CONTRASTS, SYNONYMS},
    verbs::{CLASSES, Classes},
    words::stem,
};

/// Words after which a verb is expected.
const BEFORE_VERBS: &str = "to be please and then can could would will must should shall i we you let lets not just also or kindly now help \
    me first next";

/// Words that say nothing about what is to be done.
const FILLERS: &str = "a an the this that these those my our your their his her its me us i we you he she it they them myself \
    please kindly hey hi hello ok okay thanks thank just really actually simply quickly asap now right so well also too \
    can could would will shall should may might must let lets want wanna wish need like love going gonna go able possible \
    do does did done is are was were be been being am have has had having get got \
    to of for at in on by as with about from into onto and or then there here if \
    help try trying some any something thing one us what which who whose how when where why tell show give know see \
    make sure using use via per each new up out \
    question wondering wonder curious figure say said look looking";

/// English, German, French, Spanish, Italian, Dutch and Portuguese. Of two words of a negation (`ne … pas`, `non … mai`) at least one that
/// means nothing else.
const NEGATIONS: &str = "not no never without except excluding none neither nor unless exclude cannot nothing \
    nicht kein keine keinen keinem keiner keines keins nie niemals nichts niemand ohne außer ausser weder \
    ne pas jamais sans aucun aucune sauf nunca jamás jamas sin ningún ningun ninguno ninguna tampoco excepto \
    non senza nessun nessuno nessuna tranne niet geen nooit zonder niets behalve \
    não nao jamais sem nenhum nenhuma exceto";
const ALL: &str = "all any every each entire whole everything everyone both";
const ONLY: &str = "only solely exclusively";
const NUMBER_WORDS: &str = "two three four five six seven eight nine ten eleven twelve fifteen twenty thirty forty fifty sixty seventy \
    eighty ninety hundred thousand million dozen double twice triple half quarter couple third";
const UNITS: &str = "second minute hour day week month year quarter percent euro eur dollar usd pound lb yen kg kilo kilogram gram \
    ounce ton km kilometer kilometre mile meter metre foot inch liter litre gallon pint cup tablespoon teaspoon piece unit box pallet \
    person people guest seat night copy page kb mb gb tb degree celsius fahrenheit share point step item row time";
/// Prepositions that give what follows them a direction, and what they are written as.
const DIRECTIONS: &[(&str, &str)] = &[
    ("from", "from"),
    ("to", "to"),
    ("into", "to"),
    ("onto", "to"),
    ("toward", "to"),
    ("before", "before"),
    ("until", "before"),
    ("till", "before"),
    ("after", "after"),
    ("since", "after"),
    ("with", "with"),
    ("by", "by"),
    ("than", "than"),
    ("over", "over"),
    ("above", "over"),
    ("under", "under"),
    ("below", "under"),
    ("instead", "instead"),
    ("between", "between"),
    ("against", "against"),
    ("for", "for"),
    ("via", "via"),
    ("through", "via"),
];

/// Other words before a slot that give it a role.
const ROLES: &[&str] = &[
    "about", "of", "on", "in", "at", "as", "and", "or", "like", "per",
];

/// Everything about words that is looked up by stem.
pub(super) struct Lexicon {
    verbs: HashMap<String, Classes>,
    nouns_too: HashMap<String, Classes>,
    nouns: HashMap<String, Classes>,
    before_verbs: Vec<&'static str>,
    /// Line and column of [`CONTRASTS`].
    contrasts: HashMap<String, Vec<(u16, u16)>>,
    synonyms: HashMap<String, Vec<u16>>,
    fillers: Vec<String>,
    units: Vec<String>,
}

fn split(words: &'static str) -> impl Iterator<Item = &'static str> {
    words.split_whitespace()
}

/// The words of the lexicon.
pub(super) static LEXICON: LazyLock<Lexicon> = LazyLock::new(|| {
    let mut lexicon = Lexicon {
        verbs: HashMap::new(),
        nouns_too: HashMap::new(),
        nouns: HashMap::new(),
        before_verbs: split(BEFORE_VERBS).collect(),
        contrasts: HashMap::new(),
        synonyms: HashMap::new(),
        fillers: split(FILLERS).map(stem).collect(),
        units: split(UNITS).map(stem).collect(),
    };
    for (n, class) in CLASSES.iter().enumerate() {
        for (words, map) in [
            (class.verbs, &mut lexicon.verbs),
            (class.nouns_too, &mut lexicon.nouns_too),
            (class.nouns, &mut lexicon.nouns),
        ] {
            for word in split(words) {
                *map.entry(stem(word)).or_default() |= 1 << n;
            }
        }
    }
    for (line, columns) in CONTRASTS.iter().enumerate() {
        for (column, words) in columns.split('|').enumerate() {
            for word in words.split_whitespace() {
                // Participles say more than their stem: `paid` is not `pay`.
                let places = lexicon.contrasts.entry(word.to_owned()).or_default();
                places.push((line as u16, column as u16));
            }
        }
    }
    for (n, words) in SYNONYMS.iter().enumerate() {
        for word in words.split_whitespace() {
            let groups = lexicon.synonyms.entry(stem(word)).or_default();
            groups.push(n as u16);
        }
    }
    lexicon.fillers.sort_unstable();
    lexicon.units.sort_unstable();
    lexicon
});

impl Lexicon {
    /// The classes of a verb that is nothing else.
    pub(super) fn verb(&self, stem: &str) -> Option<Classes> {
        self.verbs.get(stem).copied()
    }

    /// The classes of a word where a verb is expected.
    pub(super) fn verb_in_place(&self, stem: &str) -> Option<Classes> {
        let both = |map: &HashMap<String, Classes>| map.get(stem).copied().unwrap_or_default();
        let classes = both(&self.verbs) | both(&self.nouns_too);
        (classes != 0).then_some(classes)
    }

    /// The classes of the noun of a verb (`cancellation`).
    pub(super) fn noun(&self, stem: &str) -> Option<Classes> {
        self.nouns.get(stem).copied()
    }

    pub(super) fn expects_verb(&self, word: &str) -> bool {
        self.before_verbs.contains(&word)
    }

    /// Which meanings a word has, as line and column of the table of contrasts. Found as written, without its plural, or by stem.
    pub(super) fn contrasts(&self, word: &str) -> &[(u16, u16)] {
        let singular = word.strip_suffix('s').unwrap_or(word);
        let found = self.contrasts.get(word);
        found
            .or_else(|| self.contrasts.get(singular))
            .map_or(&[], Vec::as_slice)
    }

    /// The groups of synonyms of a word.
    pub(super) fn groups(&self, stem: &str) -> &[u16] {
        self.synonyms.get(stem).map_or(&[], Vec::as_slice)
    }

    pub(super) fn synonymous(&self, one: &str, other: &str) -> bool {
        let mut groups = self.groups(one).iter();
        one == other || groups.any(|group| self.groups(other).contains(group))
    }

    pub(super) fn is_filler(&self, stem: &str) -> bool {
        self.fillers
            .binary_search_by(|f| f.as_str().cmp(stem))
            .is_ok()
    }

    pub(super) fn is_unit(&self, stem: &str) -> bool {
        self.units
            .binary_search_by(|u| u.as_str().cmp(stem))
            .is_ok()
    }
}

/// Whether a word is one of a list.
fn is_in(word: &str, words: &'static str) -> bool {
    split(words).any(|other| other == word)
}

pub(super) fn is_negation(word: &str) -> bool {
    is_in(word, NEGATIONS)
}

pub(super) fn is_all(word: &str) -> bool {
    is_in(word, ALL)
}

pub(super) fn is_only(word: &str) -> bool {
    is_in(word, ONLY)
}

pub(super) fn is_number(word: &str) -> bool {
    is_in(word, NUMBER_WORDS)
}

/// The direction that a preposition gives.
pub(super) fn direction(word: &str) -> Option<&'static str> {
    let found = DIRECTIONS.iter().find(|(from, _)| *from == word);
    found.map(|(_, direction)| *direction)
}

/// The role that a preposition gives to the slot behind it.
pub(super) fn role(word: &str) -> Option<&'static str> {
    let other = || ROLES.iter().find(|role| **role == word).copied();
    direction(word).or_else(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_more_classes_than_bits_and_no_contrast_within_a_column() {
        assert!(CLASSES.len() <= Classes::BITS as usize, "{}", CLASSES.len());
        for words in SYNONYMS {
            let words: Vec<_> = words.split(' ').collect();
            for one in &words {
                for other in &words {
                    let (one, other) = (LEXICON.contrasts(one), LEXICON.contrasts(other));
                    let line = one
                        .iter()
                        .find(|(line, _)| other.iter().any(|(l, _)| l == line));
                    if let Some((line, _)) = line {
                        let column = |all: &[(u16, u16)]| {
                            all.iter().find(|(l, _)| l == line).map(|(_, c)| *c)
                        };
                        assert_eq!(column(one), column(other), "{words:?}");
                    }
                }
            }
        }
    }
}
