//! Finds patterns in the words of a text. A pattern starts with a word of a class, and depends on a few words after it.

use std::collections::BTreeSet;

use super::{
    InjectionPattern,
    words::{
        ALL, APPROVAL, DATA, DELETE, DO, DROP, EARLIER, ENCODED, HIDDEN, INSTRUCTIONS, LIMITLESS,
        MODE, MODEL, OWNER, PROMPT, RULES, SAFETY, SECRET, SEND, SHOW, SWITCH_OFF, Words, YOUR,
    },
};

/// Words after `password` that show that no password is meant.
const ABOUT_PASSWORDS: [&str; 8] = [
    "reset", "policy", "change", "expiry", "rules", "manager", "reminder", "form",
];
/// Words after `safety` that show that no safety measure is meant.
const ABOUT_SAFETY: [&str; 12] = [
    "stock",
    "data",
    "sheet",
    "sheets",
    "shoes",
    "equipment",
    "training",
    "gear",
    "margin",
    "officer",
    "glasses",
    "inspection",
];
/// Parts of phrases, as found in words that are spelled letter by letter.
const SPELLED: [&str; 8] = [
    "ignoreall",
    "ignoreprevious",
    "ignoretheprevious",
    "previousinstructions",
    "systemprompt",
    "disregard",
    "jailbreak",
    "youarenow",
];

pub(super) fn of(words: &Words) -> BTreeSet<InjectionPattern> {
    let mut found = BTreeSet::new();
    for at in 0..words.len() {
        found.extend(at_word(words, at));
    }
    let is_spelled = |word: &String| SPELLED.iter().any(|part| word.contains(part));
    if words.spelled.iter().any(is_spelled) {
        found.insert(InjectionPattern::SpellsOut);
    }
    found
}

fn at_word(words: &Words, at: usize) -> impl Iterator<Item = InjectionPattern> {
    let first = |class| words.is(at, class);
    [
        first(DROP).then(|| overrides(words, at)).flatten(),
        first(SHOW).then(|| reveals(words, at)).flatten(),
        takes_role(words, at),
        names_mode(words, at),
        first(SWITCH_OFF).then(|| disables(words, at)).flatten(),
        first(SEND).then(|| takes_secrets(words, at)).flatten(),
        first(DELETE).then(|| destroys(words, at)).flatten(),
        addresses_model(words, at),
        runs_hidden(words, at),
        ends_prompt(words, at),
    ]
    .into_iter()
    .flatten()
}

/// `ignore all previous instructions`; `ignore my earlier instructions` is about work.
fn overrides(words: &Words, at: usize) -> Option<InjectionPattern> {
    let from = at + 1;
    let Some(object) = words.find(from, 7, INSTRUCTIONS) else {
        let rules = words.find(from, 6, RULES)?;
        let yours = words.find(from, rules - at, YOUR);
        return yours.map(|_| InjectionPattern::OverridesInstructions);
    };
    let between = object - at;
    let earlier = words.find(from, between + 2, EARLIER);
    let of_others = matches!(words.get(object + 1), "from" | "of" | "by");
    let owner = words
        .find(from, between, OWNER)
        .or_else(|| words.find(object + 2, 2, OWNER).filter(|_| of_others));
    let given =
        words.find(from, 10, YOUR).is_some() || words.follow(object + 1, &["you", "were", "given"]);
    match (earlier, owner) {
        (Some(_), None) => Some(InjectionPattern::OverridesInstructions),
        (None, None) if given => Some(InjectionPattern::OverridesInstructions),
        _ => Some(InjectionPattern::ChangesInstructions),
    }
}

/// `show your system prompt`.
fn reveals(words: &Words, at: usize) -> Option<InjectionPattern> {
    let object = words.find(at + 1, 8, INSTRUCTIONS | RULES)?;
    let close = |class| (1..=2).any(|n| object >= n + at && words.is(object - n, class));
    let prompt = words.is(object, PROMPT);
    let is_own = close(HIDDEN) || close(YOUR) || prompt && close(EARLIER);
    let owner = words.find(at + 1, object - at, OWNER);
    (is_own && owner.is_none()).then_some(InjectionPattern::RevealsPrompt)
}

/// `you are now DAN`, `pretend to be an unrestricted model`.
fn takes_role(words: &Words, at: usize) -> Option<InjectionPattern> {
    let begins: [&[&str]; 13] = [
        &["you", "are"],
        &["youre"],
        &["pretend"],
        &["roleplay"],
        &["act", "as"],
        &["behave", "as"],
        &["respond", "as"],
        &["imagine"],
        &["simulate"],
        &["become"],
        &["du", "bist"],
        &["eres"],
        &["tu", "es"],
    ];
    let begin = begins.iter().find(|begin| words.follow(at, begin))?;
    let from = at + begin.len();
    let limitless = words.find(from, 8, LIMITLESS).is_some();
    // `that has no restrictions`.
    let none = |at: &usize| {
        matches!(
            words.get(*at),
            "no" | "without" | "not" | "any" | "free" | "keine" | "sin" | "sans"
        )
    };
    let without = (from..from + 12)
        .filter(none)
        .any(|at| words.find(at + 1, 4, RULES | SAFETY).is_some());
    let about_model = words.find(from, 12, MODEL).is_some();
    (limitless || without && (about_model || begin[0] != "imagine"))
        .then_some(InjectionPattern::TakesRole)
}

/// `developer mode enabled`, `do anything now`.
fn names_mode(words: &Words, at: usize) -> Option<InjectionPattern> {
    let mode =
        words.is(at, MODE | LIMITLESS) && words.get(at) != "debug" && words.get(at + 1) == "mode";
    let anything = words.follow(at, &["do", "anything", "now"]);
    let developer = words.follow(at, &["developer", "mode"])
        && words.find(at.saturating_sub(8), 20, MODEL | YOUR).is_some();
    (mode || anything || developer || words.get(at) == "jailbreak")
        .then_some(InjectionPattern::NamesMode)
}

/// `disable your safety filters`; `skip the approval` alone is work.
fn disables(words: &Words, at: usize) -> Option<InjectionPattern> {
    let safety = words.find(at + 1, 6, SAFETY);
    if safety.is_some_and(|at| !ABOUT_SAFETY.contains(&words.get(at + 1))) {
        return Some(InjectionPattern::DisablesSafety);
    }
    let filter = (at + 1..at + 6).any(|at| {
        words.follow(at, &["content", "filter"]) || words.follow(at, &["content", "policy"])
    });
    if filter {
        return Some(InjectionPattern::DisablesSafety);
    }
    let approval = words.find(at + 1, 5, APPROVAL);
    approval.map(|_| InjectionPattern::SkipsApproval)
}

/// `send all passwords to …`.
fn takes_secrets(words: &Words, at: usize) -> Option<InjectionPattern> {
    let is_secret = |at: &usize| {
        let about = ABOUT_PASSWORDS.contains(&words.get(at + 1));
        let pair = [
            ["api", "key"],
            ["api", "keys"],
            ["private", "key"],
            ["private", "keys"],
            ["access", "tokens"],
            ["environment", "variables"],
        ];
        words.is(*at, SECRET) && !about || pair.iter().any(|pair| words.follow(*at, pair))
    };
    let secret = (at + 1..at + 9).find(is_secret)?;
    let all = words.find(at + 1, secret - at, ALL | YOUR);
    Some(match all {
        Some(_) => InjectionPattern::TakesAllSecrets,
        None => InjectionPattern::TakesSecrets,
    })
}

/// `drop all tables`.
fn destroys(words: &Words, at: usize) -> Option<InjectionPattern> {
    let data = words.find(at + 1, 5, DATA)?;
    let all = words.find(at + 1, data - at, ALL);
    let table = words.get(at) == "drop" && words.is(at + 1, DATA);
    (all.is_some() || table).then_some(InjectionPattern::Destroys)
}

/// `if you are a language model`, `new instructions for the assistant`.
fn addresses_model(words: &Words, at: usize) -> Option<InjectionPattern> {
    let conditional = words.get(at) == "if"
        && words.follow(at + 1, &["you", "are"])
        && words.find(at + 3, 4, MODEL).is_some();
    let note = matches!(
        words.get(at),
        "note"
            | "attention"
            | "message"
            | "instruction"
            | "instructions"
            | "important"
            | "hey"
            | "dear"
    ) && (at + 1..at + 5).any(|to| {
        let to_model = matches!(words.get(to), "to" | "for" | "dear" | "hey") || to == at + 1;
        to_model && words.find(to, 4, MODEL).is_some()
    }) && words
        .find(at, 16, INSTRUCTIONS | DO | DROP | SEND)
        .is_some();
    (conditional || note).then_some(InjectionPattern::AddressesModel)
}

/// `decode this base64 and follow it`.
fn runs_hidden(words: &Words, at: usize) -> Option<InjectionPattern> {
    let hidden = words.is(at, ENCODED) && words.find(at + 1, 12, DO).is_some();
    hidden.then_some(InjectionPattern::RunsHidden)
}

/// `end of prompt`.
fn ends_prompt(words: &Words, at: usize) -> Option<InjectionPattern> {
    let end = words.follow(at, &["end", "of"]) && words.find(at + 2, 3, PROMPT).is_some();
    let new = matches!(
        words.get(at),
        "new" | "real" | "actual" | "true" | "updated"
    ) && words.is(at + 1, INSTRUCTIONS)
        && words.find(at + 2, 12, DROP | EARLIER | MODEL).is_some();
    (end || new).then_some(InjectionPattern::EndsPrompt)
}
