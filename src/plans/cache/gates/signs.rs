//! Signs that stand for words: comparisons, arrows, plus and minus.

/// Stands for `=`. No word of a goal is written like this.
pub(super) const EQUAL: &str = "=";

/// What comparisons and arrows are read as; those that begin like another one come first.
const COMPARISONS: &[(&str, &[&str])] = &[
    ("<=", &["under", EQUAL]),
    ("=<", &["under", EQUAL]),
    (">=", &["over", EQUAL]),
    ("=>", &["over", EQUAL]),
    ("<>", &["not", EQUAL]),
    ("!=", &["not", EQUAL]),
    ("->", &["to"]),
    ("→", &["to"]),
    ("≤", &["under", EQUAL]),
    ("≦", &["under", EQUAL]),
    ("≥", &["over", EQUAL]),
    ("≧", &["over", EQUAL]),
    ("≠", &["not", EQUAL]),
    ("<", &["under"]),
    ("＜", &["under"]),
    (">", &["over"]),
    ("＞", &["over"]),
    ("=", &[EQUAL]),
    ("＝", &[EQUAL]),
];

/// The most characters of a word in brackets.
const BRACKET_MAX: usize = 256;

/// The words of the sign at the start of `rest`, and what comes after it. `before`: the text before it.
pub(super) fn words<'t>(before: &str, rest: &'t str) -> Option<(&'static [&'static str], &'t str)> {
    if is_bracket(before, rest) {
        return None;
    }
    let comparison = COMPARISONS.iter().find_map(|(sign, words)| {
        let after = rest.strip_prefix(sign)?;
        // At the end there is nothing to compare with.
        (!after.trim_start().is_empty()).then_some((*words, after))
    });
    comparison.or_else(|| operator(before, rest))
}

/// `<` or `>` around a word: `Anna <anna@example.com>`, `<b>`.
fn is_bracket(before: &str, rest: &str) -> bool {
    let is_part = |c: &char| !c.is_whitespace();
    if let Some(after) = rest.strip_prefix('<') {
        let mut word = after.chars().take(BRACKET_MAX).take_while(is_part);
        return word.next().is_some_and(|first| first != '>') && word.any(|c| c == '>');
    }
    if !rest.starts_with('>') {
        return false;
    }
    let mut word = before.chars().rev().take(BRACKET_MAX).take_while(is_part);
    word.next().is_some_and(|last| last != '<') && word.any(|c| c == '<')
}

/// The sign of a number (`-{AMOUNT}`), or what stands between two (`{NUMBER_1} - {NUMBER_2}`). Neither a hyphen nor a range.
fn operator<'t>(before: &str, rest: &'t str) -> Option<(&'static [&'static str], &'t str)> {
    let sign = rest.chars().next()?;
    // Most characters are no signs, and a goal may have thousands.
    if !matches!(sign, '+' | '＋' | '-' | '−' | '–' | '－' | '×' | '÷') {
        return None;
    }
    let after = &rest[sign.len_utf8()..];
    let next = after.trim_start_matches(' ');
    if !begins_number(next) {
        return None;
    }
    let joined = next.len() == after.len();
    let of_number = joined
        && before
            .chars()
            .next_back()
            .is_none_or(|c| !c.is_alphanumeric() && c != '}');
    let between = ends_number(before.trim_end_matches(' '));
    let spaced = between && !joined && before.ends_with(' ');
    let (words, says): (&[&str], bool) = match sign {
        '+' | '＋' => (&["plus"], of_number || between),
        '-' | '−' | '–' | '－' => (&["minus"], of_number || spaced),
        '×' => (&["times"], between),
        '÷' => (&["divided"], between),
        _ => return None,
    };
    says.then_some((words, after))
}

fn begins_number(text: &str) -> bool {
    is_number_slot(text) || text.starts_with(|c: char| c.is_ascii_digit() || "$€£¥₹".contains(c))
}

fn ends_number(text: &str) -> bool {
    let slot = || {
        text.rfind('{')
            .is_some_and(|at| is_number_slot(&text[at..]))
    };
    text.ends_with(|c: char| c.is_ascii_digit()) || (text.ends_with('}') && slot())
}

fn is_number_slot(text: &str) -> bool {
    text.starts_with("{NUMBER") || text.starts_with("{AMOUNT")
}

#[cfg(test)]
mod tests {
    use super::super::{Gate, Profile, check, same_phrases};

    fn gate(one: &str, other: &str) -> Option<Gate> {
        let (one, other) = (Profile::new(one), Profile::new(other));
        assert_eq!(
            check(&one, &other).is_empty(),
            check(&other, &one).is_empty()
        );
        check(&one, &other).first()
    }

    /// A goal has up to 20,000 characters. Time that grows with the square of them would take minutes here.
    #[test]
    fn long_goals_take_little_time() {
        let words: Vec<_> = (0..4_000).map(|n| format!("by w{n}")).collect();
        let long = ["a,", ".", "<", ">", " ", "= ", "- "].map(|text| text.repeat(20_000));
        for text in long.into_iter().chain([words.join(" ")]) {
            let (one, other) = (Profile::new(&text), Profile::new(&format!("{text} x")));
            check(&one, &other);
            assert!(
                check(&one, &Profile::new(&text)).is_empty(),
                "{}",
                &text[..9]
            );
        }
    }

    #[test]
    fn comparisons_and_signs_are_told_apart() {
        for (expected, one, other) in [
            (
                Gate::Contrast,
                "Refund all orders > {AMOUNT}",
                "Refund all orders < {AMOUNT}",
            ),
            (
                Gate::Contrast,
                "Refund all orders >= {AMOUNT}",
                "Refund all orders > {AMOUNT}",
            ),
            (
                Gate::Contrast,
                "List stock ≤ {NUMBER}",
                "List stock ≥ {NUMBER}",
            ),
            (
                Gate::Contrast,
                "List stock = {NUMBER}",
                "List stock {NUMBER}",
            ),
            (
                Gate::Negation,
                "List stock = {NUMBER}",
                "List stock != {NUMBER}",
            ),
            (
                Gate::Direction,
                "Refund all orders > {AMOUNT}",
                "Refund all orders of {AMOUNT}",
            ),
            (
                Gate::Direction,
                "List orders over {AMOUNT}",
                "List orders {AMOUNT}",
            ),
            (
                Gate::Contrast,
                "Change the limit by -{AMOUNT}",
                "Change the limit by {AMOUNT}",
            ),
            (
                Gate::Contrast,
                "What is {NUMBER_1} - {NUMBER_2}",
                "What is {NUMBER_1} + {NUMBER_2}",
            ),
            (
                Gate::Direction,
                "Move the files -> backup",
                "Move the files from backup",
            ),
        ] {
            assert_eq!(gate(one, other), Some(expected), "{one} / {other}");
        }
    }

    #[test]
    fn words_for_signs_brackets_and_hyphens_pass() {
        for (one, other) in [
            (
                "Refund orders > {AMOUNT}",
                "Refund the orders over {AMOUNT}",
            ),
            ("Refund orders <{AMOUNT}", "Refund orders under {AMOUNT}"),
            (
                "Send {PERSON} <{EMAIL}> the offer",
                "Send {PERSON} {EMAIL} the offer",
            ),
            (
                "Ship the follow-up parcel - today",
                "Ship the follow-up parcel today",
            ),
            (
                "Book {NUMBER_1}-{NUMBER_2} seats",
                "Book {NUMBER_1}-{NUMBER_2} seats, please",
            ),
        ] {
            assert_eq!(gate(one, other), None, "{one} / {other}");
        }
        let same = |one: &str, other: &str| same_phrases(&Profile::new(one), &Profile::new(other));
        assert!(same(
            "Refund orders > {AMOUNT}",
            "Refund the orders over {AMOUNT}"
        ));
    }
}
