//! What the gates compare of a template.

use super::{
    lexicon::{self, LEXICON},
    verbs::{Classes, PHRASES, READ},
    words::{Token, stem, tokens},
};

/// Words between a verb and its particle.
const APART: usize = 3;

/// What the gates compare of a template. Lists without order are sorted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Profile {
    /// Kinds and forms of slots.
    pub(super) slots: Vec<(String, String)>,
    /// What is done: for each verb its classes.
    pub(super) actions: Vec<Classes>,
    /// Line and column in the table of contrasts.
    pub(super) contrasts: Vec<(u16, u16)>,
    /// For each negation the stem of the word after it, fillers left out.
    pub(super) negated: Vec<String>,
    pub(super) all: bool,
    pub(super) only: bool,
    pub(super) recurring: bool,
    pub(super) question: bool,
    /// Numbers that are no slots.
    pub(super) numbers: Vec<String>,
    /// Units of numbers.
    pub(super) units: Vec<String>,
    /// For each slot, sorted by kind and then in order: its kind, its number and the role that a preposition gives it.
    pub(super) roles: Vec<(String, u32, &'static str)>,
    /// Words under a preposition that gives them a direction.
    pub(super) directed: Vec<(&'static str, String)>,
    /// Stems of the words that say something, verbs left out.
    pub(super) content: Vec<String>,
}

impl Profile {
    /// Of a template: a text with slots as `{DATE}` or `{DATE_2}`.
    pub fn new(template: &str) -> Self {
        let mut tokens = tokens(template);
        join_phrases(&mut tokens);
        let mut profile = Self {
            question: is_question(&tokens),
            ..Self::default()
        };
        let (mut direction, mut role) = ("", "");
        // Words since the preposition.
        let mut since = 0;
        for (at, token) in tokens.iter().enumerate() {
            match token {
                Token::Slot(slot) => {
                    profile.slots.push((slot.kind.clone(), slot.form.clone()));
                    profile.roles.push((slot.kind.clone(), slot.number, role));
                    (direction, role) = ("", "");
                }
                Token::Number(text) => profile.numbers.push(text.clone()),
                Token::Word { word, stem } => {
                    if let Some(given) = lexicon::direction(word) {
                        (direction, since) = (given, 0);
                    }
                    role = lexicon::role(word).unwrap_or(role);
                    let said = profile.read(&tokens, at, word, stem);
                    if said && !direction.is_empty() && since < APART {
                        profile.directed.push((direction, stem.clone()));
                        since += 1;
                    }
                    if word == "and" || word == "or" {
                        since = 0;
                    }
                }
            }
        }
        profile.sort();
        profile
    }

    /// Takes one word in. Returns whether it is content.
    fn read(&mut self, tokens: &[Token], at: usize, word: &str, stem: &str) -> bool {
        let before = at.checked_sub(1).and_then(|at| tokens.get(at));
        let next = tokens.get(at + 1);
        if lexicon::is_negation(word) {
            let mut after = tokens[at + 1..].iter();
            let negated = after.find(|token| match token {
                Token::Slot(_) | Token::Number(_) => true,
                Token::Word { stem, .. } => !LEXICON.is_filler(stem),
            });
            let negated = negated.map_or("", |token| match token {
                Token::Slot(slot) => &slot.kind,
                Token::Number(text) | Token::Word { stem: text, .. } => text,
            });
            self.negated.push(negated.to_owned());
            return false;
        }
        let of_number = |token: Option<&Token>| match token {
            Some(Token::Slot(slot)) => slot.kind == "NUMBER",
            Some(Token::Number(_)) => true,
            Some(Token::Word { word, .. }) => lexicon::is_number(word),
            None => false,
        };
        if lexicon::is_number(word) && !(word == "second" || word == "third") {
            self.numbers.push(stem.to_owned());
            return false;
        }
        if of_number(before) && LEXICON.is_unit(stem) {
            self.units.push(stem.to_owned());
            return false;
        }
        if lexicon::is_all(word) {
            let again = match next {
                Some(Token::Slot(slot)) => slot.kind == "DATE",
                Some(Token::Word { stem, .. }) => is_time(stem),
                _ => false,
            };
            if again && word != "all" && word != "both" {
                self.recurring = true;
            } else {
                self.all = true;
            }
            return false;
        }
        if lexicon::is_only(word) {
            self.only = true;
            return false;
        }
        let in_place = before.is_none_or(|before| LEXICON.expects_verb(before.word()));
        if let Some(classes) = LEXICON.verb_in_place(stem).filter(|_| in_place) {
            self.actions.push(classes);
            return false;
        }
        self.contrasts.extend(LEXICON.contrasts(word));
        // `Show cancelled orders` cancels nothing.
        let is_participle = word.ends_with("ed") && next.is_some_and(|n| !n.stem().is_empty());
        let verb = LEXICON.verb(stem).filter(|_| !is_participle);
        if let Some(classes) = verb.or_else(|| LEXICON.noun(stem)) {
            self.actions.push(classes);
            return false;
        }
        if LEXICON.is_filler(stem) || lexicon::direction(word).is_some() {
            return false;
        }
        self.content.push(stem.to_owned());
        true
    }

    /// Whether something is to be changed, as far as verbs say.
    pub(super) fn changes(&self) -> bool {
        self.actions.iter().any(|classes| classes & READ == 0)
    }

    fn sort(&mut self) {
        self.slots.sort_unstable();
        self.roles.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        self.contrasts.sort_unstable();
        self.contrasts.dedup();
        self.negated.sort_unstable();
        self.numbers.sort_unstable();
        self.units.sort_unstable();
        self.content.sort_unstable();
        self.content.dedup();
    }
}

fn is_time(unit: &str) -> bool {
    matches!(
        unit,
        "second"
            | "minut"
            | "hour"
            | "dai"
            | "day"
            | "week"
            | "month"
            | "quarter"
            | "year"
            | "morn"
            | "night"
            | "even"
    )
}

/// Makes one word of a verb and its particle: `turn the lights off` is `switchoff the lights`.
fn join_phrases(tokens: &mut Vec<Token>) {
    let mut at = 0;
    while at < tokens.len() {
        let verb = tokens[at].stem().to_owned();
        let found = PHRASES.iter().find_map(|(first, particle, joined)| {
            let after = tokens.iter().enumerate().skip(at + 1).take(APART + 1);
            let place = (stem(first) == verb).then(|| {
                after
                    .into_iter()
                    .find(|(_, token)| token.word() == *particle)
            });
            place.flatten().map(|(place, _)| (place, *joined))
        });
        if let Some((place, joined)) = found {
            tokens.remove(place);
            tokens[at] = Token::Word {
                word: joined.to_owned(),
                stem: stem(joined),
            };
        }
        at += 1;
    }
}

/// Whether the text asks something, unlike `can you book …`, which asks for something.
fn is_question(tokens: &[Token]) -> bool {
    let word = |at: usize| tokens.get(at).map_or("", Token::word);
    let starts = [
        "what", "how", "why", "when", "where", "who", "which", "is", "are", "was", "were", "does",
        "did", "has", "do", "am", "should",
    ];
    let polite = ["please", "hey", "hi", "hello", "ok", "so", "and"];
    let first = (0..tokens.len())
        .find(|at| !polite.contains(&word(*at)))
        .unwrap_or_default();
    if starts.contains(&word(first)) {
        return true;
    }
    if matches!(word(first), "can" | "could" | "may" | "will" | "would") {
        if matches!(word(first + 1), "i" | "we" | "it" | "they" | "he" | "she") {
            return true;
        }
    }
    // `Can you tell me how to …`, `I want to know whether …`.
    let asks = |at: usize| {
        matches!(
            word(at),
            "tell" | "show" | "explain" | "know" | "wonder" | "wondering" | "learn" | "ask"
        ) && (at + 1..at + 4).any(|next| matches!(word(next), "how" | "why" | "if" | "whether"))
    };
    (0..tokens.len()).any(asks)
}
