//! Numbers as people write them: separators of thousands of several kinds, `1.2k`, `3 million`, `twenty-five`.

use serde_json::{Map, Value};

use super::token::Text;

/// The most digits of a number.
const DIGITS_MAX: usize = 24;
/// The most groups of digits of a number.
const GROUPS_MAX: usize = 8;

/// A number, as decimal text: no plus sign, no zeros that say nothing.
pub(super) struct Numeral {
    pub(super) end: usize,
    pub(super) value: String,
}

/// The number that begins at a token, with `k`, `million` and the like. `money`: a currency stands beside it.
pub(super) fn numeral(text: &Text<'_>, at: usize, money: bool) -> Option<Numeral> {
    let (end, whole, fraction) = grouped(text, at, money)?;
    if whole.len() + fraction.len() > DIGITS_MAX {
        return None;
    }
    let (end, zeros) = scale(text, end, money);
    let value = decimal(&whole, &fraction, zeros);
    text.ends(end).then_some(Numeral { end, value })
}

/// The digits before and after the decimal separator.
fn grouped(text: &Text<'_>, at: usize, money: bool) -> Option<(usize, String, String)> {
    let first = text.digits(at)?;
    let mut groups = Vec::new();
    let mut end = at + 1;
    while let Some(separator @ ('.' | ',' | '\'' | '’')) = text.joined_mark(end) {
        let Some(group) = text.digits(end + 1).filter(|_| text.joined(end + 1)) else {
            break;
        };
        groups.push((separator, group));
        end += 2;
        if groups.len() > GROUPS_MAX {
            return None;
        }
    }
    if groups.is_empty() {
        return Some(spaced(text, at, first, money));
    }
    let whole = |groups: &[(char, &str)]| {
        let thousands = first.len() <= 3
            && !first.starts_with('0')
            && groups
                .iter()
                .all(|(separator, group)| group.len() == 3 && *separator == groups[0].0);
        let mut whole = first.to_owned();
        whole.extend(groups.iter().map(|(_, group)| *group));
        thousands.then_some(whole)
    };
    let ((last, fraction), before) = groups.split_last()?;
    let differs = before
        .first()
        .is_some_and(|(separator, _)| separator != last);
    let is_thousands = match groups.len() {
        1 => match last {
            // `10.000` is no decimal.
            '.' => money || text.german || *fraction == "000",
            ',' => money || !text.german,
            _ => true,
        },
        _ => !differs,
    };
    if is_thousands && let Some(whole) = whole(&groups) {
        return Some((end, whole, String::new()));
    }
    let decimal = matches!(last, '.' | ',') && (before.is_empty() || differs);
    let whole = if before.is_empty() {
        Some(first.to_owned())
    } else {
        whole(before)
    };
    decimal.then_some((end, whole?, (*fraction).to_owned()))
}

/// Groups of three digits after spaces: `12 345,50`. Beside a currency, or at least three groups; else only the first group.
fn spaced(text: &Text<'_>, at: usize, first: &str, money: bool) -> (usize, String, String) {
    let mut whole = first.to_owned();
    let mut end = at + 1;
    let fits = first.len() <= 3 && !first.starts_with('0');
    while fits
        && end - at <= GROUPS_MAX
        && !text.joined(end)
        && text.digits(end).is_some_and(|group| group.len() == 3)
        && text.stretch(end - 1, end + 1).chars().count() == 4 + text.raw(end - 1).len()
    {
        whole.push_str(text.raw(end));
        end += 1;
    }
    let groups = end - at;
    if groups == 1 || (groups < 3 && !money) {
        return (at + 1, first.to_owned(), String::new());
    }
    let fraction = text
        .digits(end + 1)
        .filter(|_| matches!(text.joined_mark(end), Some('.' | ',')) && text.joined(end + 1));
    match fraction {
        Some(fraction) => (end + 2, whole, fraction.to_owned()),
        None => (end, whole, String::new()),
    }
}

/// `k`, `million`, …: where it ends, and by how many zeros the number grows.
fn scale(text: &Text<'_>, at: usize, money: bool) -> (usize, usize) {
    let joined = text.joined(at);
    let zeros = match text.word(at) {
        "k" if joined => 3,
        "m" if joined && money => 6,
        "thousand" | "tausend" | "tsd" => 3,
        "million" | "millions" | "millionen" | "mio" | "mn" => 6,
        "billion" | "billions" | "bn" | "mrd" | "milliarde" | "milliarden" => 9,
        "trillion" | "trillions" => 12,
        _ => return (at, 0),
    };
    // `k€` belongs to the number; `5kg` does not come here, its word is `kg`.
    if !text.ends(at + 1) {
        return (at, 0);
    }
    let abbreviated = matches!(text.word(at), "tsd" | "mio" | "mrd")
        && text.is_joined_mark(at + 1, '.')
        && at + 2 < text.len();
    (at + 1 + usize::from(abbreviated), zeros)
}

/// Decimal text of digits before and after the separator, times ten to the power of `zeros`.
pub(super) fn decimal(whole: &str, fraction: &str, zeros: usize) -> String {
    let mut digits = whole.to_owned();
    let (moved, rest) = fraction.split_at(zeros.min(fraction.len()));
    digits.push_str(moved);
    digits.extend(std::iter::repeat_n('0', zeros - moved.len()));
    let digits = digits.trim_start_matches('0');
    let rest = rest.trim_end_matches('0');
    let digits = if digits.is_empty() { "0" } else { digits };
    if rest.is_empty() {
        digits.to_owned()
    } else {
        format!("{digits}.{rest}")
    }
}

/// A number in words: `two`, `twenty-five`, `three hundred`, `zwölf`.
pub(super) fn in_words(text: &Text<'_>, at: usize) -> Option<(usize, u32)> {
    let (mut end, mut value) = below_hundred(text, at).or_else(|| {
        let large = large(text.word(at))?;
        Some((at + 1, large))
    })?;
    while let Some(factor) = large(text.word(end)) {
        value = value.checked_mul(factor)?;
        end += 1;
    }
    text.ends(end).then_some((end, value))
}

/// How many: digits, a number in words, or `a`.
pub(super) fn count(text: &Text<'_>, at: usize) -> Option<(usize, i64)> {
    if let Some(digits) = text.digits(at) {
        let few = digits.len() <= 4 && text.ends(at + 1);
        return few
            .then(|| digits.parse().ok())
            .flatten()
            .map(|n| (at + 1, n));
    }
    match text.word(at) {
        "a" | "an" | "one" | "ein" | "eine" | "einen" | "einer" | "einem" => Some((at + 1, 1)),
        _ => {
            let (end, value) = in_words(text, at)?;
            (value < 10_000).then_some((end, i64::from(value)))
        }
    }
}

fn below_hundred(text: &Text<'_>, at: usize) -> Option<(usize, u32)> {
    if let Some(tens) = tens(text.word(at)) {
        let hyphen = usize::from(text.is_joined_mark(at + 1, '-'));
        let next = at + 1 + hyphen;
        return match below_twenty(text.word(next)).filter(|n| *n < 10) {
            Some(ones) if hyphen == 0 || text.joined(next) => Some((next + 1, tens + ones)),
            _ => Some((at + 1, tens)),
        };
    }
    Some((at + 1, below_twenty(text.word(at))?))
}

fn below_twenty(word: &str) -> Option<u32> {
    Some(match word {
        "two" | "zwei" => 2,
        "three" | "drei" => 3,
        "four" | "vier" => 4,
        "five" | "funf" | "fuenf" => 5,
        "six" | "sechs" => 6,
        "seven" | "sieben" => 7,
        "eight" | "acht" => 8,
        "nine" | "neun" => 9,
        "ten" | "zehn" => 10,
        "eleven" | "elf" => 11,
        "twelve" | "zwolf" | "zwoelf" => 12,
        "thirteen" | "dreizehn" => 13,
        "fourteen" | "vierzehn" => 14,
        "fifteen" | "funfzehn" | "fuenfzehn" => 15,
        "sixteen" | "sechzehn" => 16,
        "seventeen" | "siebzehn" => 17,
        "eighteen" | "achtzehn" => 18,
        "nineteen" | "neunzehn" => 19,
        _ => return None,
    })
}

fn tens(word: &str) -> Option<u32> {
    Some(match word {
        "twenty" | "zwanzig" => 20,
        "thirty" | "dreissig" => 30,
        "forty" | "vierzig" => 40,
        "fifty" | "funfzig" | "fuenfzig" => 50,
        "sixty" | "sechzig" => 60,
        "seventy" | "siebzig" => 70,
        "eighty" | "achtzig" => 80,
        "ninety" | "neunzig" => 90,
        _ => return None,
    })
}

fn large(word: &str) -> Option<u32> {
    Some(match word {
        "hundred" | "hundert" => 100,
        "thousand" | "tausend" => 1_000,
        "million" => 1_000_000,
        _ => return None,
    })
}

/// The members of a number's value: `value`, decimal text, and `number`, the same as a JSON number where that is exact.
pub(super) fn members(value: String) -> Map<String, Value> {
    let mut members = Map::new();
    if let Some(number) = exact(&value) {
        members.insert("number".into(), number);
    }
    members.insert("value".into(), value.into());
    members
}

/// The JSON number that is exactly this decimal text.
fn exact(text: &str) -> Option<Value> {
    if let Ok(whole) = text.parse::<i64>() {
        // What doubles can hold, too.
        return (whole.unsigned_abs() <= 1 << 53).then(|| whole.into());
    }
    let float = text.parse::<f64>().ok().filter(|_| text.len() <= 16)?;
    Some(float.into())
}
