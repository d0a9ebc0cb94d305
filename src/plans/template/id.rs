//! Identifiers: `INV-2024-001`, `#4711`, `SO00012`, `order 4711`, UUIDs, hashes.

use serde_json::Value;

use super::token::Text;

/// The most tokens of an identifier.
const TOKENS_MAX: usize = 24;

pub(super) fn find(text: &Text<'_>, at: usize) -> Option<(usize, Value)> {
    if !text.begins(at) {
        return None;
    }
    let end = behind_hash(text, at)
        .or_else(|| of_characters(text, at))
        .or_else(|| labelled(text, at))?;
    (end > at && text.ends(end)).then(|| (end, text.stretch(at, end).into()))
}

/// The end of the letters, digits and single separators that follow without a space.
fn run(text: &Text<'_>, at: usize) -> usize {
    let mut end = at;
    while end - at < TOKENS_MAX {
        let alphanumeric = text.is_word(end) || text.digits(end).is_some();
        if alphanumeric && (end == at || text.joined(end)) {
            end += 1;
            continue;
        }
        let separator = matches!(text.joined_mark(end), Some('-' | '_' | '/'))
            || (text.is_joined_mark(end, '.') && text.digits(end + 1).is_some());
        let goes_on = text.is_word(end + 1) || text.digits(end + 1).is_some();
        if end == at || !separator || !goes_on || !text.joined(end + 1) {
            break;
        }
        end += 1;
    }
    end
}

/// `#4711`; not `#general`.
fn behind_hash(text: &Text<'_>, at: usize) -> Option<usize> {
    if !text.is_mark(at, '#') || !text.joined(at + 1) {
        return None;
    }
    let end = run(text, at + 1);
    let digits = (at + 1..end).any(|at| text.digits(at).is_some());
    (digits && end > at + 1).then_some(end)
}

fn of_characters(text: &Text<'_>, at: usize) -> Option<usize> {
    // Not the rest of something.
    if text.joined(at)
        && matches!(
            text.mark(at.wrapping_sub(1)),
            Some('-' | '_' | '/' | '.' | '@' | '\'' | '’' | '&' | '=')
        )
    {
        return None;
    }
    let end = run(text, at);
    if end < at + 2 {
        return is_hash(text.raw(at)).then_some(at + 1);
    }
    let whole = text.stretch(at, end);
    if is_uuid(whole) || is_hash(whole) || (text.is_word(at) && is_code(text, at, end)) {
        return Some(end);
    }
    // `2024-0815`, `12/3456/7`
    let numbers = whole
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'/'));
    let digits = whole.bytes().filter(u8::is_ascii_digit).count();
    (numbers && end > at + 1 && digits >= 6).then_some(end)
}

fn is_uuid(text: &str) -> bool {
    let groups = [8, 4, 4, 4, 12];
    let parts = text.split('-');
    text.len() == 36
        && parts.clone().count() == groups.len()
        && parts.zip(groups).all(|(part, length)| {
            part.len() == length && part.bytes().all(|b| b.is_ascii_hexdigit())
        })
}

/// Hexadecimal digits with letters among them, as of commits and checksums.
fn is_hash(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let mixed = digits >= 2 && digits < text.len();
    (7..=64).contains(&text.len()) && mixed && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Prefixes that identify nothing: standards, formats, periods.
#[rustfmt::skip]
const NO_PREFIXES: &[&str] = &[
    "covid", "iso", "sha", "utf", "aes", "md", "din", "en", "rfc", "ipv", "usb", "mp", "fy", "q", "h", "kw", "cw", "gpt", "ghz", "mhz",
    "tls", "http", "oauth", "vat", "w", "p", "l", "t", "s", "v",
];
/// Prefixes of identifiers, which count in lower case, too.
#[rustfmt::skip]
const PREFIXES: &[&str] = &[
    "inv", "po", "so", "pr", "req", "inc", "chg", "ord", "cust", "emp", "tkt", "case", "rma", "sku", "art", "ref", "re", "rg", "qu", "cn",
    "bug", "task", "doc", "id",
];

/// Capital letters and digits: `INV-2024-001`, `SO00012`, `AB12CD`.
fn is_code(text: &Text<'_>, at: usize, end: usize) -> bool {
    let prefix = text.word(at);
    let digits: usize = (at..end)
        .filter_map(|at| text.digits(at))
        .map(str::len)
        .sum();
    if digits < 2 || NO_PREFIXES.contains(&prefix) || super::date::find(text, at).is_some() {
        return false;
    }
    let capitals = text.is_all_capitals(at);
    let words = (at..end).filter(|at| text.is_word(*at));
    let separated = text.mark(at + 1).is_some();
    match (capitals, prefix.len()) {
        (true, 1) => digits >= 3,
        (true, _) => words.into_iter().all(|at| text.raw(at).len() <= 12),
        (false, _) => {
            PREFIXES.contains(&prefix)
                || (separated && digits >= 4 && prefix.len() <= 6 && !text.is_capital(at))
        }
    }
}

/// Digits behind a word such as `invoice`: where they end.
pub(super) fn labelled(text: &Text<'_>, at: usize) -> Option<usize> {
    let digits = text.digits(at).filter(|_| text.ends(at + 1))?;
    let goes_on = matches!(
        text.joined_mark(at + 1),
        Some('.' | ',' | ':' | '%' | '€' | '$')
    ) && text.joined(at + 2)
        && text.digits(at + 2).is_some();
    if goes_on || text.joined(at) {
        return None;
    }
    let mut before = at.checked_sub(1)?;
    let dot = text.is_mark(before, '.') || text.is_mark(before, ':');
    before = before.checked_sub(usize::from(dot))?;
    let numbered = matches!(
        text.word(before),
        "no" | "nr" | "number" | "nummer" | "id" | "code" | "ref" | "reference"
    );
    if numbered {
        return Some(at + 1);
    }
    let label = matches!(
        text.word(before),
        "invoice"
            | "invoices"
            | "order"
            | "ticket"
            | "case"
            | "customer"
            | "contract"
            | "vendor"
            | "supplier"
            | "account"
            | "employee"
            | "request"
            | "asset"
            | "article"
            | "sku"
            | "po"
            | "project"
            | "job"
            | "shipment"
            | "incident"
            | "quote"
            | "offer"
            | "claim"
            | "policy"
            | "issue"
            | "batch"
            | "serial"
            | "rechnung"
            | "bestellung"
            | "auftrag"
            | "kunde"
            | "kunden"
            | "vertrag"
            | "artikel"
            | "angebot"
            | "lieferung"
            | "vorgang"
            | "booking"
            | "reservation"
    );
    // `order 12 chairs` counts chairs.
    let counts = super::unit::find(text, at + 1).is_some()
        || (text.is_like_a_noun(at + 1) && (digits.len() < 3 || text.word(before) == "order"));
    (label && !dot && !counts).then_some(at + 1)
}
