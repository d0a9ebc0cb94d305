//! Amounts of money: `€1,200.50`, `EUR 500`, `-$50`, `3 million dollars`, `50 CHF`.

use serde_json::Value;

use super::{
    numeral::{in_words, members, numeral},
    token::Text,
};

pub(super) fn find(text: &Text<'_>, at: usize) -> Option<(usize, Value)> {
    if !text.begins(at) {
        return None;
    }
    let minus = is_minus(text, at);
    let start = at + usize::from(minus);
    let (end, value, currency) = symbol_first(text, start).or_else(|| symbol_last(text, start))?;
    let value = if minus && value != "0" {
        format!("-{value}")
    } else {
        value
    };
    let mut members = members(value);
    members.insert("currency".into(), currency.into());
    text.ends(end).then_some((end, Value::Object(members)))
}

/// The sign of the amount behind it, after a space or a bracket: no hyphen, no range, no bullet of a list.
fn is_minus(text: &Text<'_>, at: usize) -> bool {
    let bracket = || at > 0 && matches!(text.mark(at - 1), Some('(' | '['));
    matches!(text.mark(at), Some('-' | '−'))
        && text.joined(at + 1)
        && (!text.joined(at) || bracket())
        && (text.digits(at + 1).is_some()
            || symbol(text, at + 1)
                .or_else(|| code(text, at + 1))
                .is_some())
}

/// `€500`, `US$ 500`, `EUR 500`; a code behind it says which dollar it is.
fn symbol_first(text: &Text<'_>, at: usize) -> Option<(usize, String, &'static str)> {
    let (after, currency) = symbol(text, at).or_else(|| code(text, at))?;
    let number = numeral(text, after, true)?;
    Some(match code(text, number.end) {
        Some((end, code)) if currency == "USD" || code == currency => (end, number.value, code),
        _ => (number.end, number.value, currency),
    })
}

/// `500 €`, `500 euros`, `five hundred dollars`, `20 k€`.
fn symbol_last(text: &Text<'_>, at: usize) -> Option<(usize, String, &'static str)> {
    // Not the rest of a longer number.
    let inside = text.joined(at)
        && at >= 2
        && matches!(text.mark(at - 1), Some('.' | ',' | '-' | '/'))
        && text.joined(at - 1);
    if inside {
        return None;
    }
    let number = numeral(text, at, true).map(|number| (number.end, number.value));
    let (after, value) = number.or_else(|| thousands(text, at)).or_else(|| {
        let article = usize::from(matches!(text.word(at), "a" | "one"));
        let (after, value) = in_words(text, at + article)?;
        Some((after, value.to_string()))
    })?;
    let in_thousands = matches!(text.raw(after), "TEUR" | "KEUR" | "kEUR")
        || (matches!(text.raw(after), "k" | "T") && text.is_joined_mark(after + 1, '€'));
    if in_thousands {
        let end = after + 1 + usize::from(text.is_joined_mark(after + 1, '€'));
        let (whole, fraction) = value.split_once('.').unwrap_or((&value, ""));
        return Some((end, super::numeral::decimal(whole, fraction, 3), "EUR"));
    }
    let (end, currency) = symbol(text, after)
        .or_else(|| code(text, after))
        .or_else(|| name(text, after))?;
    Some((end, value, currency))
}

/// `5k€`: the digits and the letter are no number by themselves.
fn thousands(text: &Text<'_>, at: usize) -> Option<(usize, String)> {
    let digits = text.digits(at).filter(|digits| digits.len() <= 6)?;
    let joined = text.joined(at + 1) && text.is_joined_mark(at + 2, '€');
    (joined && matches!(text.raw(at + 1), "k" | "T" | "K"))
        .then(|| (at + 3, super::numeral::decimal(digits, "", 3)))
}

fn symbol(text: &Text<'_>, at: usize) -> Option<(usize, &'static str)> {
    let dollar = match text.raw(at) {
        "US" => "USD",
        "CA" | "C" => "CAD",
        "A" | "AU" => "AUD",
        "HK" => "HKD",
        "S" => "SGD",
        "NZ" => "NZD",
        "R" => "BRL",
        _ => "",
    };
    if !dollar.is_empty() {
        return text.is_joined_mark(at + 1, '$').then_some((at + 2, dollar));
    }
    let currency = match text.mark(at)? {
        '€' => "EUR",
        '$' => "USD",
        '£' => "GBP",
        '¥' => "JPY",
        '₹' => "INR",
        '₩' => "KRW",
        '₺' => "TRY",
        '₽' => "RUB",
        '₪' => "ILS",
        '₴' => "UAH",
        _ => return None,
    };
    Some((at + 1, currency))
}

/// Codes of ISO 4217.
#[rustfmt::skip]
const CODES: &[&str] = &[
    "AED", "ARS", "AUD", "BGN", "BRL", "CAD", "CHF", "CLP", "CNY", "COP", "CZK", "DKK", "EGP", "EUR", "GBP", "HKD", "HUF", "IDR", "ILS",
    "INR", "ISK", "JPY", "KES", "KRW", "KWD", "MAD", "MXN", "MYR", "NGN", "NOK", "NZD", "PEN", "PHP", "PKR", "PLN", "QAR", "RON", "RUB",
    "SAR", "SEK", "SGD", "THB", "TRY", "UAH", "USD", "ZAR",
];

fn code(text: &Text<'_>, at: usize) -> Option<(usize, &'static str)> {
    let raw = text.raw(at);
    let lower = match raw {
        "eur" => "EUR",
        "usd" => "USD",
        "gbp" => "GBP",
        "chf" => "CHF",
        _ => raw,
    };
    let known = CODES.iter().find(|code| **code == lower)?;
    Some((at + 1, known))
}

fn name(text: &Text<'_>, at: usize) -> Option<(usize, &'static str)> {
    let next = text.word(at + 1);
    let two = match (text.word(at), next) {
        ("us" | "american", "dollar" | "dollars") => Some("USD"),
        ("canadian", "dollar" | "dollars") => Some("CAD"),
        ("australian", "dollar" | "dollars") => Some("AUD"),
        ("swiss", "franc" | "francs") | ("schweizer", "franken") => Some("CHF"),
        ("british", "pound" | "pounds") | ("pound" | "pounds", "sterling") => Some("GBP"),
        _ => None,
    };
    if let Some(currency) = two {
        return Some((at + 2, currency));
    }
    let currency = match text.word(at) {
        "euro" | "euros" => "EUR",
        "dollar" | "dollars" | "bucks" => "USD",
        "pound" | "pounds" | "quid" => "GBP",
        "franc" | "francs" | "franken" => "CHF",
        "yen" => "JPY",
        "yuan" | "renminbi" => "CNY",
        "rupee" | "rupees" => "INR",
        "zloty" | "zlotys" => "PLN",
        _ => return None,
    };
    Some((at + 1, currency))
}
