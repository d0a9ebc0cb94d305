//! Literals that may have been computed: dates, and the values of slots in another unit or in another spelling. An expression cannot be
//! written instead of them, so a plan with one fits other values no better than the day on which it was made.

use serde_json::{Map, Value};

/// The years that a number stands for.
const YEARS: std::ops::Range<u32> = 1900..2100;
/// A year by itself, in a text.
const BARE_YEARS: std::ops::Range<u32> = 2000..2100;
/// Seconds since the Unix epoch: from 2001 to 2052.
const EPOCH: std::ops::Range<u64> = 1_000_000_000..2_600_000_000;

/// Names of months that are no other words.
const MONTHS: [&str; 17] = [
    "january",
    "february",
    "april",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
    "januar",
    "februar",
    "märz",
    "juni",
    "juli",
    "oktober",
    "dezember",
];
/// Names of months that are short, or other words: beside a number they are months.
const MONTHS_BY_NUMBERS: [&str; 17] = [
    "jan", "feb", "mar", "march", "apr", "may", "mai", "jun", "jul", "aug", "sep", "sept", "oct",
    "okt", "nov", "dec", "dez",
];
/// Members with a part of a date.
const CALENDAR: [&str; 6] = ["year", "month", "day", "date", "week", "quarter"];

/// Whether a text has something that looks like a date: `2026-12-01`, `01.12.2026`, `12/2026`, `20261201`, `1 December`, a year, or a time in
/// seconds or milliseconds since 1970.
pub(super) fn has_date(text: &str) -> bool {
    has_iso_date(text)
        || has_month(text)
        || runs(text, &['-', '.', '/']).any(|run| {
            let groups: Vec<&str> = run.split(['-', '.', '/']).collect();
            match groups[..] {
                [one] => is_date(one) || number(one, 4).is_some_and(|n| BARE_YEARS.contains(&n)),
                _ => is_separated_date(&groups),
            }
        })
        || text.match_indices("-W").any(|(at, _)| {
            let year = text.get(at.saturating_sub(4)..at);
            let week = text[at + 2..].bytes().next();
            year.is_some_and(is_year) && week.is_some_and(|b| b.is_ascii_digit())
        })
}

/// Whether a number by itself is a date. `member`: the name under which it stands.
pub(super) fn is_date_under(digits: &str, member: &str) -> bool {
    is_date(digits) || (is_digits(digits) && words(member).any(|w| CALENDAR.contains(&&*w)))
}

/// Whether a text has nothing but digits.
pub(super) fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// A date in ISO 8601, also within a word.
fn has_iso_date(text: &str) -> bool {
    let digits = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_digit);
    text.as_bytes().windows(10).any(|window| {
        digits(&window[..4])
            && window[4] == b'-'
            && digits(&window[5..7])
            && window[7] == b'-'
            && digits(&window[8..])
    })
}

/// Digits without separators: `20261201`, `01122026`, with a time behind it, or seconds or milliseconds since 1970.
fn is_date(digits: &str) -> bool {
    if !is_digits(digits) {
        return false;
    }
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
    let year_first = is_year(part(0, 4)) && is_month(part(4, 6)) && is_day(part(6, 8));
    match digits.len() {
        8 => year_first || (is_day(part(0, 2)) && is_month(part(2, 4)) && is_year(part(4, 8))),
        12 | 14 => year_first,
        10 => digits.parse().is_ok_and(|n| EPOCH.contains(&n)),
        13 => digits
            .parse()
            .is_ok_and(|n: u64| EPOCH.contains(&(n / 1000))),
        _ => false,
    }
}

fn is_separated_date(groups: &[&str]) -> bool {
    match groups {
        [year, month] if year.len() == 4 => is_year(year) && month.len() == 2 && is_month(month),
        [month, year] => is_month(month) && is_year(year),
        [year, month, day, ..] if year.len() == 4 => {
            is_year(year) && is_month(month) && is_day(day)
        }
        [one, other, year] => {
            let day_and_month =
                (is_day(one) && is_month(other)) || (is_month(one) && is_day(other));
            day_and_month && (is_year(year) || number(year, 2).is_some())
        }
        _ => false,
    }
}

fn is_year(text: &str) -> bool {
    number(text, 4).is_some_and(|n| YEARS.contains(&n))
}

fn is_month(text: &str) -> bool {
    text.len() <= 2 && text.parse().is_ok_and(|n: u8| (1..=12).contains(&n))
}

fn is_day(text: &str) -> bool {
    text.len() <= 2 && text.parse().is_ok_and(|n: u8| (1..=31).contains(&n))
}

/// A number with so many digits.
fn number(text: &str, digits: usize) -> Option<u32> {
    (text.len() == digits && is_digits(text)).then(|| text.parse().ok())?
}

fn has_month(text: &str) -> bool {
    let tokens = text.split(|c: char| !c.is_alphanumeric());
    let tokens: Vec<&str> = tokens.filter(|token| !token.is_empty()).collect();
    let is_number = |at: Option<usize>| {
        let token = at.and_then(|at| tokens.get(at));
        token.is_some_and(|token| token.starts_with(|c: char| c.is_ascii_digit()))
    };
    tokens.iter().enumerate().any(|(at, token)| {
        let name = token.to_lowercase();
        if !token.starts_with(char::is_uppercase) {
            return false;
        }
        MONTHS.contains(&&*name)
            || (MONTHS_BY_NUMBERS.contains(&&*name)
                && (is_number(at.checked_sub(1)) || is_number(Some(at + 1))))
    })
}

/// The numbers of a text that are no part of a word or of a name with underscores, with their separators.
pub(super) fn numbers(text: &str) -> impl Iterator<Item = &str> {
    runs(text, &['.', ',', '\'']).filter(|run| {
        let at = run.as_ptr() as usize - text.as_ptr() as usize;
        !text[..at].ends_with('_')
    })
}

/// Digits, with single separators between them, that do not begin within a word.
fn runs<'t>(text: &'t str, separators: &'static [char]) -> impl Iterator<Item = &'t str> {
    let mut rest = 0;
    std::iter::from_fn(move || {
        loop {
            let from = rest + text[rest..].find(|c: char| c.is_ascii_digit())?;
            let mut to = from;
            let mut chars = text[from..].char_indices().peekable();
            while let Some((at, c)) = chars.next() {
                let goes_on = c.is_ascii_digit()
                    || (separators.contains(&c)
                        && chars.peek().is_some_and(|(_, next)| next.is_ascii_digit()));
                if !goes_on {
                    break;
                }
                to = from + at + c.len_utf8();
            }
            rest = to;
            if !text[..from].ends_with(char::is_alphanumeric) {
                return Some(&text[from..to]);
            }
        }
    })
}

/// The digits of a number that say something: those of `500`, `50000`, `0.05` and `5,000.00` are the same. `None` for zero.
pub(super) fn significant(number: &str) -> Option<String> {
    let mantissa = number.split(['e', 'E']).next()?;
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = digits.trim_matches('0');
    (!digits.is_empty()).then(|| digits.to_owned())
}

/// The significant digits of a number, as it is and in smaller units of time or data. `value`: the members of a slot's value.
pub(super) fn in_units(value: &Map<String, Value>) -> Vec<String> {
    let Some(text) = value.get("value").and_then(Value::as_str) else {
        return Vec::new();
    };
    let factors: &[f64] = match value.get("unit").and_then(Value::as_str) {
        Some("minute") => &[60.0],
        Some("hour") => &[60.0, 3600.0],
        Some("day" | "night" | "working day") => &[24.0, 1440.0, 86_400.0],
        Some("week") => &[7.0, 168.0, 10_080.0, 604_800.0],
        Some("month") => &[30.0, 720.0, 43_200.0, 2_592_000.0],
        Some("year") => &[12.0, 52.0, 365.0, 8760.0, 31_536_000.0],
        Some("kB" | "MB" | "GB" | "TB") => &[1024.0, 1_048_576.0, 1_073_741_824.0],
        _ => &[],
    };
    let number: Option<f64> = text.parse().ok();
    let others = factors
        .iter()
        .filter_map(|factor| significant(&(number? * factor).to_string()));
    significant(text).into_iter().chain(others).collect()
}

/// A text as words that are compared: `New York` and `new-york` are ` new york `. `None`: it is too short, or a number.
pub(super) fn spelling(text: &str) -> Option<String> {
    let spelled = spaced(text);
    let letters = spelled.chars().filter(|c| c.is_alphabetic()).count();
    (letters >= 2 || spelled.len() > 5).then_some(spelled)
}

/// The words of a text in lower case, with spaces around each.
pub(super) fn spaced(text: &str) -> String {
    let mut spaced = String::from(" ");
    for word in text.split(|c: char| !c.is_alphanumeric()) {
        if !word.is_empty() {
            spaced.push_str(&word.to_lowercase());
            spaced.push(' ');
        }
    }
    spaced
}

/// Whether a text has the symbol of a currency.
pub(super) fn has_currency_symbol(text: &str) -> bool {
    text.contains(['€', '$', '£', '¥'])
}

/// The words of a name: `dueDate` and `due_date`.
fn words(name: &str) -> impl Iterator<Item = String> {
    let mut spaced = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_uppercase() {
            spaced.push('_');
        }
        spaced.extend(c.to_lowercase());
    }
    let words = spaced.split(|c: char| !c.is_alphanumeric());
    words.map(str::to_owned).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_looks_like_a_date_is_one() {
        for text in [
            "2026-12-01",
            "x2026-12-01T00:00:00Z",
            "until 01.12.2026.",
            "1/12/26",
            "12/24/2026",
            "2026/12/01",
            "20261201",
            "report_20261201.csv",
            "20261201T090000",
            "1796083200",
            "1796083200000",
            "12/2026",
            "2026-12",
            "2026-W49",
            "1 December",
            "Dec 1st",
            "May 3",
            "Report of November",
            "Report 2026",
        ] {
            assert!(has_date(text), "{text}");
        }
        for text in [
            "",
            "Level 2",
            "1.2.3",
            "10.0.0.1",
            "24/7",
            "order 4711",
            "+49 30 901820",
            "May I ask",
            "dec",
            "12:30",
            "x20261201",
            "99999999",
            "4155552671",
            "ab12026",
            "10.0.12",
        ] {
            assert!(!has_date(text), "{text}");
        }
        assert!(is_date_under("11", "reportMonth") && is_date_under("2026", "year"));
        assert!(!is_date_under("2026", "quantity") && !is_date_under("11", "monthly"));
    }

    #[test]
    fn numbers_are_compared_by_their_digits() {
        for number in ["500", "50000", "5,000.00", "0.05", "5e3"] {
            assert_eq!(significant(number).as_deref(), Some("5"), "{number}");
        }
        assert_eq!(significant("0.00"), None);
        let found: Vec<_> = numbers("a 5,000.00 b50 (7) 50EUR s_1 1.").collect();
        assert_eq!(found, ["5,000.00", "7", "50", "1"]);
        let minutes = serde_json::json!({ "value": "30", "unit": "minute" });
        assert_eq!(in_units(minutes.as_object().unwrap()), ["3", "18"]);
    }
}
