//! The words of a template: tokens, and their stems.

use super::signs;
use crate::plans::digits;

/// A token of a template.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Token {
    /// A word as written, in lower case, and its stem.
    Word { word: String, stem: String },
    /// A slot.
    Slot(Slot),
    /// Text with a digit that is no slot: `24h`, `q3`.
    Number(String),
    /// The end of a clause.
    Break,
}

/// A slot: `{DATE}`, `{DATE_2}`, `{NUMBER:kg}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Slot {
    pub(super) kind: String,
    /// Slots of a kind with the same number have the same value.
    pub(super) number: u32,
    /// What else plans depend on, such as the unit.
    pub(super) form: String,
}

impl Token {
    pub(super) fn word(&self) -> &str {
        match self {
            Self::Word { word, .. } => word,
            Self::Slot(_) | Self::Number(_) | Self::Break => "",
        }
    }

    pub(super) fn stem(&self) -> &str {
        match self {
            Self::Word { stem, .. } => stem,
            Self::Slot(_) | Self::Number(_) | Self::Break => "",
        }
    }

    fn new(text: &str) -> Self {
        if text.bytes().any(|b| b.is_ascii_digit()) {
            return Self::Number(text.to_owned());
        }
        Self::Word {
            word: text.to_owned(),
            stem: stem(text),
        }
    }
}

/// The tokens of a template, in order. Contractions are written out (`don't` is `do not`), signs read as words (`>` is `over`), and
/// possessive endings dropped. What else stands behind an apostrophe is a word of its own: `O'Brien`, `l'acheteur`.
pub(super) fn tokens(template: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let template = digits::ascii(template).replace("-mail", "mail");
    let mut rest = template.as_str();
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("{{") {
            // A brace of the goal.
            rest = after;
            continue;
        }
        if let Some((slot, after)) = slot(rest) {
            tokens.push(Token::Slot(slot));
            let possessive = ["'s", "’s"].iter().find_map(|s| after.strip_prefix(s));
            rest = possessive.unwrap_or(after);
            continue;
        }
        let in_word = |c: char| c.is_alphanumeric() || matches!(c, '\'' | '’');
        if first.is_alphanumeric() {
            let end = rest.find(|c| !in_word(c)).unwrap_or(rest.len());
            push_word(&rest[..end].to_lowercase().replace('’', "'"), &mut tokens);
            rest = &rest[end..];
            continue;
        }
        let before = &template[..template.len() - rest.len()];
        if let Some((words, after)) = signs::words(before, rest) {
            tokens.extend(words.iter().copied().map(Token::new));
            rest = after;
            continue;
        }
        match first {
            '%' => tokens.push(Token::new("percent")),
            '€' => tokens.push(Token::new("euro")),
            '$' => tokens.push(Token::new("dollar")),
            '£' => tokens.push(Token::new("pound")),
            ',' | ';' | ':' | '.' => tokens.push(Token::Break),
            _ => {}
        }
        rest = &rest[first.len_utf8()..];
    }
    tokens
}

/// The slot at the start of `text`, and what comes after it.
fn slot(text: &str) -> Option<(Slot, &str)> {
    let (inside, after) = text.strip_prefix('{')?.split_once('}')?;
    let (name, form) = inside.split_once(':').unwrap_or((inside, ""));
    let numbered = name
        .rsplit_once('_')
        .and_then(|(kind, number)| Some((kind, number.parse().ok()?)));
    let (kind, number) = numbered.unwrap_or((name, 1));
    let slot = Slot {
        kind: kind.to_owned(),
        number,
        form: form.to_lowercase(),
    };
    (!kind.is_empty() && kind.bytes().all(|b| b.is_ascii_uppercase())).then_some((slot, after))
}

/// What English leaves of a word behind an apostrophe.
const CONTRACTED: &[&str] = &["s", "t", "d", "m", "ll", "re", "ve"];

fn push_word(text: &str, tokens: &mut Vec<Token>) {
    let text = text.trim_matches('\'');
    let words: &[&str] = match text {
        "can't" | "cant" | "cannot" => &["can", "not"],
        "won't" | "wont" => &["will", "not"],
        "dont" => &["do", "not"],
        "doesnt" => &["does", "not"],
        "didnt" => &["did", "not"],
        "isnt" => &["is", "not"],
        "y'all" => &["you"],
        "o'clock" => &["oclock"],
        _ => return push_parts(text, tokens),
    };
    tokens.extend(words.iter().copied().map(Token::new));
}

/// The words between apostrophes: all but the end of a contraction or possessive. `n't` is `not`, and French `n'` is `ne`.
fn push_parts(text: &str, tokens: &mut Vec<Token>) {
    let mut parts: Vec<&str> = text.split('\'').filter(|part| !part.is_empty()).collect();
    let mut negated = false;
    while let [.., before, end] = parts[..]
        && CONTRACTED.contains(&end)
    {
        negated |= end == "t" && before.ends_with('n');
        parts.pop();
    }
    let last = parts.len().saturating_sub(1);
    for (at, part) in parts.into_iter().enumerate() {
        let word = match part {
            "n" if at == 0 && last > 0 => "ne",
            _ if negated && at == last => &part[..part.len() - 1],
            _ => part,
        };
        if !word.is_empty() {
            tokens.push(Token::new(word));
        }
    }
    if negated {
        tokens.push(Token::new("not"));
    }
}

/// Words that are acronyms of something else in capital letters: `it` and `IT`.
const ACRONYMS: &[&str] = &[
    "it", "us", "who", "in", "or", "he", "am", "as", "ups", "aids", "ram", "sap", "ice", "act",
    "arm",
];

/// The words of a template of which another case would be other words, as written: names of files, and [`ACRONYMS`] in capital letters or
/// not. In a text without small letters capital letters say nothing. Sorted.
pub(super) fn cased(template: &str) -> Vec<String> {
    let outside = template
        .split_whitespace()
        .filter(|chunk| !chunk.contains('{'));
    let shouted = !outside
        .clone()
        .any(|chunk| chunk.contains(char::is_lowercase));
    let pieces = outside.flat_map(|chunk| chunk.split(|c: char| !c.is_alphanumeric() && c != '.'));
    let cased = pieces.filter_map(|piece| {
        let piece = piece.trim_matches('.');
        let lower = piece.to_lowercase();
        if piece.contains('.') {
            return Some(piece.to_owned());
        }
        let acronym = !shouted && piece.chars().all(char::is_uppercase);
        let word = if acronym {
            piece.to_owned()
        } else {
            lower.clone()
        };
        ACRONYMS.contains(&lower.as_str()).then_some(word)
    });
    let mut cased: Vec<_> = cased.collect();
    cased.sort_unstable();
    cased.dedup();
    cased
}

/// Forms that no rule leads to their verb.
const IRREGULAR: &[(&str, &str)] = &[
    ("bought", "buy"),
    ("chosen", "choose"),
    ("found", "find"),
    ("froze", "freeze"),
    ("frozen", "freeze"),
    ("gave", "give"),
    ("given", "give"),
    ("got", "get"),
    ("held", "hold"),
    ("kept", "keep"),
    ("lent", "lend"),
    ("lost", "lose"),
    ("made", "make"),
    ("sent", "send"),
    ("shown", "show"),
    ("sold", "sell"),
    ("spent", "spend"),
    ("stolen", "steal"),
    ("taken", "take"),
    ("told", "tell"),
    ("took", "take"),
    ("went", "go"),
    ("written", "write"),
    ("wrote", "write"),
];

/// The form that inflections of a word share: `cancelled`, `cancels` and `cancelling` are `cancel`. It need not be a word. What has
/// digits stays as it is.
pub(super) fn stem(word: &str) -> String {
    if word.chars().any(char::is_numeric) {
        return word.to_owned();
    }
    let irregular = IRREGULAR.binary_search_by_key(&word, |(form, _)| form);
    let word = irregular.map_or(word, |at| IRREGULAR[at].1);
    let mut stem = word;
    let has_vowel = |text: &str| text.contains(['a', 'e', 'i', 'o', 'u', 'y']);
    if let Some(start) = stem.strip_suffix("ies") {
        if start.len() >= 2 {
            return format!("{start}i");
        }
    } else if stem.len() > 3
        && stem.ends_with('s')
        && !stem.ends_with("ss")
        && !stem.ends_with("us")
        && !stem.ends_with("is")
    {
        stem = &stem[..stem.len() - 1];
    }
    let inflected = ["ing", "ed"]
        .iter()
        .filter_map(|end| stem.strip_suffix(end))
        .find(|start| start.chars().count() >= 3 && has_vowel(start) && !start.ends_with('e'));
    if let Some(start) = inflected {
        stem = start;
    }
    if stem.len() > 3 {
        stem = stem.strip_suffix('e').unwrap_or(stem);
    }
    let mut last = stem.chars().rev();
    if let (Some(a), Some(b)) = (last.next(), last.next())
        && a == b
        && a.is_ascii_alphabetic()
        && stem.len() > 3
    {
        stem = &stem[..stem.len() - 1];
    }
    match stem.strip_suffix('y') {
        Some(start) if start.len() >= 3 => format!("{start}i"),
        _ => stem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inflections_share_a_stem() {
        for words in [
            "cancel cancels cancelled canceled cancelling",
            "schedule schedules scheduled scheduling",
            "company companies",
            "invoice invoices invoicing invoiced",
            "bill bills billed billing",
            "pay pays paying",
            "copy copies copied copying",
            "send sent sends sending",
            "freeze froze frozen freezing",
            "box boxes",
            "plan plans planned planning",
        ] {
            let stems: Vec<_> = words.split(' ').map(stem).collect();
            assert!(stems.iter().all(|s| *s == stems[0]), "{stems:?}");
        }
        for (one, other) in [("pay", "paid"), ("state", "status"), ("order", "border")] {
            assert_ne!(stem(one), stem(other));
        }
        assert!(IRREGULAR.is_sorted());
        // Neither numbers nor signs of other scripts are doubled letters.
        for word in ["½½½", "五五", "第五五"] {
            assert_eq!(stem(word), word);
        }
    }

    #[test]
    fn words_behind_an_apostrophe_are_words_and_ends_of_contractions_are_none() {
        for (text, expected) in [
            ("O'Brien's", "o brien"),
            ("l’acheteur", "l acheteur"),
            ("N'envoie", "ne envoie"),
            ("rock'n'roll", "rock n roll"),
            ("I'd've", "i"),
            ("we'll", "we"),
            ("couldn't", "could not"),
            ("the customers'", "the customers"),
            ("7 o'clock", "#7 oclock"),
        ] {
            let words: Vec<_> = tokens(text)
                .into_iter()
                .map(|token| match token {
                    Token::Number(text) => format!("#{text}"),
                    other => other.word().to_owned(),
                })
                .collect();
            assert_eq!(words.join(" "), expected);
        }
    }

    #[test]
    fn digits_of_every_script_are_numbers() {
        let number = |text: &str| Token::Number(text.to_owned());
        assert_eq!(tokens("٥٠٠ q३ ٥٠"), ["500", "q3", "50"].map(number));
    }

    #[test]
    fn a_template_is_split_into_words_slots_and_numbers() {
        let words: Vec<_> =
            tokens("Don’t e-mail {PERSON_2}’s Q3 report, 50% of {{DATE} {NUMBER:KG}!")
                .into_iter()
                .map(|token| match token {
                    Token::Word { word, .. } => word,
                    Token::Slot(slot) => format!("<{} {}{}>", slot.kind, slot.number, slot.form),
                    Token::Number(text) => format!("#{text}"),
                    Token::Break => "|".to_owned(),
                })
                .collect();
        let expected = "do not email <PERSON 2> #q3 report | #50 percent of date <NUMBER 1kg>";
        assert_eq!(words.join(" "), expected);
    }
}
