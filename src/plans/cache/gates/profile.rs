//! What the gates compare of a template.

use super::{
    lexicon::{self, LEXICON},
    order::{Placed, placed},
    phrases::{Phrase, phrases},
    signs::EQUAL,
    verbs::{Classes, PAYABLE, PHRASES, READ},
    words::{Token, cased, stem, tokens},
};

/// Stands for every personal pronoun.
pub(super) const PRONOUN: &str = "me";
/// Words between a verb and its particle.
const APART: usize = 3;

/// What the gates compare of a template. Lists without order are sorted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a property of its own"
)]
pub struct Profile {
    /// Kinds and forms of slots.
    pub(super) slots: Vec<(String, String)>,
    /// What is done: for each verb its classes.
    pub(super) actions: Vec<Classes>,
    /// Line and column in the table of contrasts.
    pub(super) contrasts: Vec<(u16, u16)>,
    /// Words as written of which another case would be other words.
    pub(super) cased: Vec<String>,
    /// Minus and equals signs.
    pub(super) signs: Vec<String>,
    /// For each negation the stem of the word after it, fillers left out.
    pub(super) negated: Vec<String>,
    pub(super) all: bool,
    pub(super) only: bool,
    pub(super) recurring: bool,
    pub(super) question: bool,
    /// A question by its mark alone: `Delete the backups?`
    pub(super) marked: bool,
    /// `Let the driver call us`: somebody else acts.
    pub(super) caused: bool,
    /// `If the order is late`.
    pub(super) conditional: bool,
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
    /// All that is said but politeness, phrase by phrase.
    pub(super) phrases: Vec<Phrase>,
    /// What is said, in order.
    pub(super) placed: Vec<Placed>,
}

impl Profile {
    /// Of a template: a text with slots as `{DATE}` or `{DATE_2}`.
    pub fn new(template: &str) -> Self {
        let mut tokens = tokens(template);
        join_phrases(&mut tokens);
        tell_apart(&mut tokens);
        let mut profile = Self {
            question: is_question(&tokens),
            marked: is_marked(template, &tokens),
            cased: cased(template),
            caused: is_caused(&tokens),
            phrases: phrases(&tokens),
            placed: placed(&tokens),
            ..Self::default()
        };
        let mut role = "";
        // Words since the preposition.
        let mut since = 0;
        for (at, token) in tokens.iter().enumerate() {
            match token {
                Token::Slot(slot) => {
                    if !role.is_empty() {
                        profile.directed.push((role, slot.kind.clone()));
                    }
                    profile.content.push(slot.kind.clone());
                    profile.slots.push((slot.kind.clone(), slot.form.clone()));
                    profile.roles.push((slot.kind.clone(), slot.number, role));
                    role = "";
                }
                Token::Number(text) => profile.numbers.push(text.clone()),
                Token::Break => role = "",
                Token::Word { word, stem } => {
                    if let Some(given) = lexicon::role(word) {
                        (role, since) = (given, 0);
                    }
                    profile.conditional |= word == "if";
                    if !role.is_empty()
                        && matches!(word.as_str(), "me" | "us" | "him" | "her" | "them")
                    {
                        profile.directed.push((role, PRONOUN.to_owned()));
                    }
                    let said = profile.read(&tokens, at, word, stem);
                    if said && !role.is_empty() && since < APART {
                        profile.directed.push((role, stem.clone()));
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
                Token::Slot(_) | Token::Number(_) | Token::Break => true,
                Token::Word { stem, .. } => !LEXICON.is_filler(stem),
            });
            let negated = negated.map_or("", |token| match token {
                Token::Slot(slot) => &slot.kind,
                Token::Number(text) | Token::Word { stem: text, .. } => text,
                Token::Break => "",
            });
            self.negated.push(negated.to_owned());
            return false;
        }
        if word == EQUAL || word == "minus" {
            self.signs.push(word.to_owned());
            self.contrasts.extend(LEXICON.contrasts(word));
            return false;
        }
        let of_number = |token: Option<&Token>| match token {
            Some(Token::Slot(slot)) => slot.kind == "NUMBER",
            Some(Token::Number(_)) => true,
            Some(Token::Word { word, .. }) => lexicon::is_number(word),
            Some(Token::Break) | None => false,
        };
        // `One report`, but not `this one`.
        if word == "one"
            && next.is_some_and(|next| !next.stem().is_empty() && !LEXICON.is_filler(next.stem()))
        {
            self.numbers.push(stem.to_owned());
            return false;
        }
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
        let in_place = is_in_place(tokens, at);
        let stem = if word == "paid" && in_place {
            "pay"
        } else {
            stem
        };
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

    /// Whether all that is done is reading, and something is.
    pub(super) fn reads(&self) -> bool {
        !self.actions.is_empty() && !self.changes()
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
        self.signs.sort_unstable();
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

/// Writes verbs with several meanings as one that has the meaning: `give me the list` asks for it, `clear the invoice` pays it, and
/// `clear the cache` deletes.
fn tell_apart(tokens: &mut [Token]) {
    for at in 0..tokens.len() {
        let meant = match tokens[at].stem() {
            "giv" if matches!(tokens.get(at + 1).map_or("", Token::word), "me" | "us") => "giveme",
            "clear" if is_in_place(tokens, at) && is_payable(&tokens[at + 1..]) => "settle",
            "clear" if is_in_place(tokens, at) => "erase",
            _ => continue,
        };
        tokens[at] = Token::Word {
            word: meant.to_owned(),
            stem: stem(meant),
        };
    }
}

/// Whether a verb is expected at a place.
fn is_in_place(tokens: &[Token], at: usize) -> bool {
    let before = at.checked_sub(1).map(|before| &tokens[before]);
    before.is_none_or(|before| *before == Token::Break || LEXICON.expects_verb(before.word()))
}

/// Whether the object that begins here is paid: `the invoice of May`, but not `the invoice drafts`.
fn is_payable(object: &[Token]) -> bool {
    let ends = |token: &Token| *token == Token::Break || lexicon::role(token.word()).is_some();
    let end = object.iter().position(ends).unwrap_or(object.len());
    let object = &object[..end];
    let amount = |token: &Token| matches!(token, Token::Slot(slot) if slot.kind == "AMOUNT");
    let mut words = object.iter().rev();
    let head = words.find(|token| !token.word().is_empty() && !LEXICON.is_filler(token.stem()));
    let payable = head.is_some_and(|head| PAYABLE.contains(&head.word()));
    object.iter().any(amount) || (payable && object.iter().all(|token| token.stem() != "draft"))
}

/// Whether somebody else is to act: `let` with somebody other than the one who speaks.
fn is_caused(tokens: &[Token]) -> bool {
    let mut pairs = tokens.windows(2);
    pairs.any(|pair| pair[0].word() == "let" && !matches!(pair[1].word(), "me" | "us" | "s"))
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
    let auxiliary = [
        "is", "are", "was", "were", "do", "does", "did", "will", "can", "should", "has", "have",
    ];
    if word(first) == "when" && !auxiliary.contains(&word(first + 1)) {
        return false;
    }
    if starts.contains(&word(first)) {
        return true;
    }
    if matches!(word(first), "can" | "could" | "may" | "will" | "would")
        && matches!(word(first + 1), "i" | "we" | "it" | "they" | "he" | "she")
    {
        return true;
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

/// Words that make a request of a text that ends with a question mark.
#[rustfmt::skip]
const REQUESTS: &[&str] = &[
    "please", "kindly", "thanks", "can", "could", "would", "will", "mind", "bitte", "kannst", "können", "könntest", "könnten", "würdest",
    "würden", "peux", "pouvez", "pourriez", "puedes", "puede", "podrías", "podría", "puoi", "può", "potresti", "potrebbe", "kun", "kunt",
    "kunnen", "pode", "poderia",
];

/// Whether a question mark makes a question of a text that would be none without it.
fn is_marked(template: &str, tokens: &[Token]) -> bool {
    let outside = |c: char| c.is_whitespace() || matches!(c, '"' | '”' | ')' | '!' | '.');
    let asked = template.trim_end_matches(outside);
    asked.ends_with(['?', '？', '؟'])
        && !is_question(tokens)
        && !tokens.iter().any(|token| REQUESTS.contains(&token.word()))
}
