//! Values of slots that a plan holds as literals.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Number, Value};

use super::{
    computed::{has_currency_symbol, in_units, numbers, significant, spaced, spelling},
    expressions::numbered,
};

/// A text with fewer characters, and a number with fewer digits, is replaced only where it is all of a value: `2` occurs in other meanings.
const SHORT: usize = 3;

/// A slot, or a member of its value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Part {
    /// With its number: `AMOUNT_1`.
    pub(super) slot: String,
    /// `value`, `currency`, `from`, `to`; `None`: all of it.
    pub(super) member: Option<&'static str>,
}

/// The members of values that a plan has to use.
const MEMBERS: [&str; 4] = ["value", "currency", "from", "to"];

/// What to look for.
pub(super) struct Literals {
    /// The parts with a text as their value. Several: it is not known which one a literal means.
    parts: HashMap<String, BTreeSet<Part>>,
    /// The lengths of these texts, in bytes, the longest first.
    lengths: Vec<usize>,
    /// All parts of each slot.
    pub(super) slots: BTreeMap<String, Vec<Part>>,
    /// The slots of numbers, by significant digits.
    digits: HashMap<String, BTreeSet<String>>,
    /// The words of texts, and their slots.
    spellings: Vec<(String, String)>,
}

/// Where a text has values of slots.
pub(super) struct Found<'l> {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) parts: &'l BTreeSet<Part>,
    /// It stands in a longer text and is too short to be sure.
    pub(super) is_unsure: bool,
}

impl Literals {
    /// Of the values of slots, by their names.
    pub(super) fn new(values: &BTreeMap<String, Value>) -> Self {
        let mut literals = Self {
            parts: HashMap::new(),
            lengths: Vec::new(),
            slots: BTreeMap::new(),
            digits: HashMap::new(),
            spellings: Vec::new(),
        };
        for (name, value) in values {
            let slot = numbered(name);
            if literals.slots.contains_key(&slot) || (slot != *name && values.contains_key(&slot)) {
                continue;
            }
            let members: Vec<(Option<&'static str>, &str)> = match value {
                Value::String(text) => vec![(None, text.as_str())],
                Value::Object(members) => {
                    let texts = MEMBERS
                        .into_iter()
                        .filter_map(|name| Some((Some(name), members.get(name)?.as_str()?)));
                    texts.collect()
                }
                _ => Vec::new(),
            };
            for digits in value.as_object().into_iter().flat_map(in_units) {
                let slots = literals.digits.entry(digits).or_default();
                slots.insert(slot.clone());
            }
            let mut parts = Vec::new();
            for (member, text) in members {
                let spelling = spelling(text).filter(|_| member != Some("value"));
                literals
                    .spellings
                    .extend(spelling.map(|spelling| (spelling, slot.clone())));
                let part = Part {
                    slot: slot.clone(),
                    member,
                };
                literals.add(text, &part);
                parts.push(part);
            }
            literals.slots.insert(slot, parts);
        }
        literals
    }

    fn add(&mut self, text: &str, part: &Part) {
        if text.is_empty() {
            return;
        }
        self.parts
            .entry(text.to_owned())
            .or_default()
            .insert(part.clone());
        let place = self
            .lengths
            .binary_search_by(|length| text.len().cmp(length));
        if let Err(place) = place {
            self.lengths.insert(place, text.len());
        }
    }

    /// The values in a text, the longest at each place; none begins or ends in the middle of a word or a number.
    pub(super) fn find(&self, text: &str) -> Vec<Found<'_>> {
        let mut found = Vec::new();
        let mut before = None;
        let mut next = 0;
        for (from, first) in text.char_indices() {
            let last = before.replace(first);
            if from < next || !is_boundary(text, from, last, first) {
                continue;
            }
            let longest = self.lengths.iter().find_map(|length| {
                let to = from + length;
                let parts = self.parts.get(text.get(from..to)?)?;
                ends(text, to).then_some((to, parts))
            });
            if let Some((to, parts)) = longest {
                let all = from == 0 && to == text.len();
                found.push(Found {
                    from,
                    to,
                    parts,
                    is_unsure: !all && is_short(&text[from..to]),
                });
                next = to;
            }
        }
        found
    }

    /// The slots from whose values a text may have been computed: a number with the same digits, the same words in another spelling, the
    /// symbol of a currency. Values as they are must not be in it.
    pub(super) fn computed(&self, text: &str) -> BTreeSet<String> {
        let found = numbers(text).filter_map(|number| self.digits.get(&significant(number)?));
        let mut slots: BTreeSet<String> = found.flatten().cloned().collect();
        let spaced = spaced(text);
        let spelled = self
            .spellings
            .iter()
            .filter(|(words, _)| spaced.contains(words));
        slots.extend(spelled.map(|(_, slot)| slot.clone()));
        if has_currency_symbol(text) {
            let is_money = |part: &Part| part.member == Some("currency");
            let money = self
                .slots
                .iter()
                .filter(|(_, parts)| parts.iter().any(is_money));
            slots.extend(money.map(|(slot, _)| slot.clone()));
        }
        slots
    }

    /// The slots from whose values a number of an expression may have been computed. Powers of ten are factors.
    pub(super) fn numbers_of(&self, expression: &str) -> BTreeSet<String> {
        let digits = numbers(expression).filter_map(significant);
        let found = digits
            .filter(|digits| digits != "1")
            .filter_map(|digits| self.digits.get(&digits));
        found.flatten().cloned().collect()
    }

    /// The parts whose value a JSON number is.
    pub(super) fn of_number(&self, number: &Number) -> Option<&BTreeSet<Part>> {
        self.parts.get(&decimal(number)?)
    }
}

/// Whether a value is so short that it occurs in other meanings.
pub(super) fn is_short(text: &str) -> bool {
    let number = text
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-'));
    let length = if number {
        text.bytes().filter(u8::is_ascii_digit).count()
    } else {
        text.chars().count()
    };
    length < SHORT
}

fn is_boundary(text: &str, at: usize, before: Option<char>, first: char) -> bool {
    let Some(before) = before else {
        return true;
    };
    if !first.is_alphanumeric() {
        return true;
    }
    // `500` in `1,500` and `0.500`.
    let in_number = matches!(before, '.' | ',')
        && first.is_ascii_digit()
        && text[..at - 1].ends_with(|c: char| c.is_ascii_digit());
    !before.is_alphanumeric() && !in_number
}

fn ends(text: &str, at: usize) -> bool {
    let last = text[..at].chars().next_back().unwrap_or(' ');
    let mut rest = text[at..].chars();
    let Some(next) = rest.next() else {
        return true;
    };
    if !last.is_alphanumeric() {
        return true;
    }
    let in_number = matches!(next, '.' | ',')
        && last.is_ascii_digit()
        && rest.next().is_some_and(|c| c.is_ascii_digit());
    !next.is_alphanumeric() && !in_number
}

/// The decimal text of a number, as in the values of slots. `None` for numbers with an exponent.
pub(super) fn decimal(number: &Number) -> Option<String> {
    let text = number.to_string();
    if text.contains(['e', 'E']) {
        return None;
    }
    Some(match text.split_once('.') {
        None => text,
        Some((whole, fraction)) => match fraction.trim_end_matches('0') {
            "" => whole.to_owned(),
            fraction => format!("{whole}.{fraction}"),
        },
    })
}
