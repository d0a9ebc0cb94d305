//! A goal as words, numbers and marks.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

use crate::base::clock::Millis;

/// The class of a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    /// A run of letters.
    Word,
    /// A run of ASCII digits.
    Digits,
    /// One other character that is no white space.
    Mark(char),
}

/// A token. White space is between tokens.
pub(super) struct Token {
    pub(super) class: Class,
    /// Its bytes in the text.
    pub(super) from: usize,
    pub(super) to: usize,
    /// No white space is between it and the token before.
    joined: bool,
    /// It is the first of its line.
    first: bool,
    /// A word in lower case, without accents; else empty.
    folded: String,
}

/// A goal, split into tokens, with what its words say about the whole. Indices beyond the end are allowed everywhere.
pub(super) struct Text<'t> {
    pub(super) source: &'t str,
    pub(super) tokens: Vec<Token>,
    /// Relative dates count from it.
    pub(super) now: DateTime,
    /// It reads like German: `1.234` is a thousand, and nouns have capital letters.
    pub(super) german: bool,
    /// It is about travel, transport or places: capitalised words after `to`, `from` and `in` are places.
    pub(super) about_places: bool,
}

/// Words that only German texts have often.
#[rustfmt::skip]
const GERMAN: &[&str] = &[
    "und", "der", "das", "den", "dem", "fur", "nach", "von", "bis", "mit", "zum", "zur", "bitte", "eine", "einen", "einer", "ein", "auf",
    "aus", "bei", "im", "am", "alle", "nicht", "ist", "sind", "uber", "vom", "ab", "wenn", "morgen", "heute", "an", "die", "in", "uhr",
    "gestern", "euro", "ubermorgen", "tage",
];
/// Of these, words that English texts have too.
const BOTH: &[&str] = &["die", "in", "an", "am", "ab", "euro"];

#[rustfmt::skip]
const ABOUT_PLACES: &[&str] = &[
    "flight", "flights", "fly", "flying", "train", "trains", "travel", "trip", "trips", "drive", "hotel", "hotels", "taxi", "bus", "ferry",
    "route", "visit", "visits", "ship", "ships", "shipment", "shipments", "shipping", "deliver", "delivery", "deliveries", "parcel",
    "parcels", "freight", "cargo", "container", "containers", "pallet", "pallets", "courier", "warehouse", "warehouses", "office",
    "offices", "branch", "branches", "store", "stores", "plant", "factory", "site", "sites", "conference", "apartment", "apartments",
    "relocate", "relocation", "airport", "port", "customs", "moving", "truck", "trucks", "transport", "flug", "fluge", "zug", "reise",
    "fahrt", "hotelzimmer", "lager", "lieferung", "versand", "filiale", "standort", "werk", "fliegen", "bahn",
];

/// Words that a number does not count.
#[rustfmt::skip]
const FUNCTION_WORDS: &[&str] = &[
    "for", "to", "from", "of", "and", "or", "by", "with", "in", "on", "at", "as", "is", "are", "was", "were", "has", "have", "had",
    "until", "till", "before", "after", "because", "if", "unless", "but", "then", "that", "which", "who", "when", "while", "the", "a",
    "an", "this", "via", "per", "into", "onto", "off", "out", "up", "down", "again", "now", "asap", "please", "today", "tomorrow",
    "yesterday", "it", "and", "so", "since", "not", "should", "must", "can", "will", "fur", "von", "bis", "an", "am", "im", "und", "oder",
    "mit", "nach", "aus", "bei", "zum", "zur", "vom", "auf", "ist", "sind", "wenn", "heute", "morgen",
];

impl<'t> Text<'t> {
    pub(super) fn new(source: &'t str, now: Millis) -> Self {
        let now = Timestamp::from_millisecond(now.0).unwrap_or(Timestamp::UNIX_EPOCH);
        let mut text = Self {
            source,
            tokens: tokens(source),
            now: now.to_zoned(TimeZone::UTC).datetime(),
            german: false,
            about_places: false,
        };
        let words = || text.tokens.iter().map(|token| &*token.folded);
        let places = words().any(|word| ABOUT_PLACES.contains(&word));
        let german = words().filter(|word| GERMAN.contains(word));
        let points: usize = german
            .map(|word| if BOTH.contains(&word) { 1 } else { 2 })
            .sum();
        let english = words().filter(|word| matches!(*word, "the" | "to" | "of" | "and" | "for"));
        let german = points >= 2 && points > 2 * english.count();
        text.about_places = places;
        text.german = german;
        text
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    fn token(&self, at: usize) -> Option<&Token> {
        self.tokens.get(at)
    }

    /// The word at a place, folded; empty if there is none.
    pub(super) fn word(&self, at: usize) -> &str {
        self.token(at).map_or("", |token| &token.folded)
    }

    /// The token before a place, as [`Text::word`].
    pub(super) fn word_before(&self, at: usize) -> &str {
        at.checked_sub(1).map_or("", |before| self.word(before))
    }

    /// The digits at a place.
    pub(super) fn digits(&self, at: usize) -> Option<&'t str> {
        let token = self.token(at)?;
        (token.class == Class::Digits).then(|| &self.source[token.from..token.to])
    }

    /// The number of at most four digits at a place.
    pub(super) fn small(&self, at: usize) -> Option<i16> {
        let digits = self.digits(at).filter(|digits| digits.len() <= 4)?;
        digits.parse().ok()
    }

    pub(super) fn mark(&self, at: usize) -> Option<char> {
        match self.token(at)?.class {
            Class::Mark(mark) => Some(mark),
            _ => None,
        }
    }

    pub(super) fn is_mark(&self, at: usize, mark: char) -> bool {
        self.mark(at) == Some(mark)
    }

    /// A mark without white space before it.
    pub(super) fn joined_mark(&self, at: usize) -> Option<char> {
        self.mark(at).filter(|_| self.joined(at))
    }

    pub(super) fn is_joined_mark(&self, at: usize, mark: char) -> bool {
        self.joined_mark(at) == Some(mark)
    }

    /// A token follows the one before without white space.
    pub(super) fn joined(&self, at: usize) -> bool {
        self.token(at).is_some_and(|token| token.joined)
    }

    pub(super) fn is_word(&self, at: usize) -> bool {
        self.token(at)
            .is_some_and(|token| token.class == Class::Word)
    }

    fn is_alphanumeric(&self, at: usize) -> bool {
        self.token(at)
            .is_some_and(|token| matches!(token.class, Class::Word | Class::Digits))
    }

    /// The token as written; empty beyond the end.
    pub(super) fn raw(&self, at: usize) -> &'t str {
        self.token(at)
            .map_or("", |token| &self.source[token.from..token.to])
    }

    /// The text of tokens, from the first to the one before `to`.
    pub(super) fn stretch(&self, from: usize, to: usize) -> &'t str {
        match (
            self.token(from),
            to.checked_sub(1).and_then(|to| self.token(to)),
        ) {
            (Some(first), Some(last)) if from < to => &self.source[first.from..last.to],
            _ => "",
        }
    }

    /// The text between two tokens, without them.
    pub(super) fn between(&self, from: usize, to: usize) -> &'t str {
        match (self.token(from), self.token(to)) {
            (Some(first), Some(last)) if from < to => &self.source[first.to..last.from],
            _ => "",
        }
    }

    /// A word whose first letter is a capital one.
    pub(super) fn is_capital(&self, at: usize) -> bool {
        self.is_word(at) && self.raw(at).chars().next().is_some_and(char::is_uppercase)
    }

    /// A word of capital letters.
    pub(super) fn is_all_capitals(&self, at: usize) -> bool {
        self.is_word(at) && self.raw(at).chars().all(char::is_uppercase)
    }

    /// A word whose first letter, and no other, is a capital one: it may be a name.
    pub(super) fn is_like_a_name(&self, at: usize) -> bool {
        let mut rest = self.raw(at).chars();
        self.is_word(at)
            && rest.next().is_some_and(char::is_uppercase)
            && rest.next().is_some_and(char::is_lowercase)
    }

    /// A word that is no function word: it may be the noun that a number counts.
    pub(super) fn is_like_a_noun(&self, at: usize) -> bool {
        self.is_word(at) && !FUNCTION_WORDS.contains(&self.word(at))
    }

    /// A word or number begins here, not in the middle of one.
    pub(super) fn begins(&self, at: usize) -> bool {
        let inside = at > 0 && self.joined(at) && self.is_alphanumeric(at);
        at < self.len() && !(inside && self.is_alphanumeric(at - 1))
    }

    /// No word or number goes on here.
    pub(super) fn ends(&self, at: usize) -> bool {
        at >= self.len() || self.begins(at)
    }

    /// No word or number follows the mark without white space.
    pub(super) fn ends_after_mark(&self, at: usize) -> bool {
        !(self.joined(at + 1) && self.is_alphanumeric(at + 1))
    }

    /// A line begins here.
    pub(super) fn begins_line(&self, at: usize) -> bool {
        self.token(at).is_some_and(|token| token.first)
    }

    /// A sentence begins here.
    pub(super) fn begins_sentence(&self, at: usize) -> bool {
        let Some(before) = at.checked_sub(1) else {
            return true;
        };
        self.begins_line(at) || matches!(self.mark(before), Some('.' | '!' | '?' | ':' | ';'))
    }
}

fn tokens(source: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut characters = source.char_indices().peekable();
    let (mut joined, mut first) = (false, true);
    while let Some((from, c)) = characters.next() {
        if c.is_whitespace() {
            joined = false;
            first |= c == '\n';
            continue;
        }
        let class = if c.is_ascii_digit() {
            Class::Digits
        } else if c.is_alphabetic() {
            Class::Word
        } else {
            Class::Mark(c)
        };
        let mut to = from + c.len_utf8();
        let goes_on = |c: char| match class {
            Class::Digits => c.is_ascii_digit(),
            Class::Word => c.is_alphabetic(),
            Class::Mark(_) => false,
        };
        while let Some((at, c)) = characters.next_if(|(_, c)| goes_on(*c)) {
            to = at + c.len_utf8();
        }
        let folded = match class {
            Class::Word => fold(&source[from..to]),
            Class::Digits | Class::Mark(_) => String::new(),
        };
        tokens.push(Token {
            class,
            from,
            to,
            joined,
            first,
            folded,
        });
        (joined, first) = (true, false);
    }
    tokens
}

/// The tokens of a text: words folded, the others as they are.
pub(super) fn folded_tokens(source: &str) -> Vec<String> {
    let tokens = tokens(source).into_iter();
    tokens
        .map(|token| match token.class {
            Class::Word => token.folded,
            Class::Digits | Class::Mark(_) => source[token.from..token.to].to_owned(),
        })
        .collect()
}

/// A word in lower case, its letters without accents.
pub(super) fn fold(word: &str) -> String {
    let mut folded = String::with_capacity(word.len());
    for c in word.chars() {
        if c.is_ascii() {
            folded.push(c.to_ascii_lowercase());
            continue;
        }
        for c in c.to_lowercase() {
            match c {
                'ß' => folded.push_str("ss"),
                'æ' => folded.push_str("ae"),
                'œ' => folded.push_str("oe"),
                c => folded.push(without_accent(c)),
            }
        }
    }
    folded
}

fn without_accent(c: char) -> char {
    match c {
        'à'..='å' | 'ā' | 'ă' | 'ą' => 'a',
        'ç' | 'ć' | 'č' => 'c',
        'ď' | 'đ' => 'd',
        'è'..='ë' | 'ē' | 'ė' | 'ę' | 'ě' => 'e',
        'ğ' => 'g',
        'ì'..='ï' | 'ī' | 'į' | 'ı' => 'i',
        'ł' => 'l',
        'ñ' | 'ń' | 'ň' => 'n',
        'ò'..='ö' | 'ø' | 'ō' | 'ő' => 'o',
        'ř' => 'r',
        'ś' | 'š' | 'ş' | 'ș' => 's',
        'ť' | 'ţ' | 'ț' => 't',
        'ù'..='ü' | 'ū' | 'ů' | 'ű' => 'u',
        'ý' | 'ÿ' => 'y',
        'ź' | 'ż' | 'ž' => 'z',
        c => c,
    }
}
