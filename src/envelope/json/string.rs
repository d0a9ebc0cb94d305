//! The inside of strings.

use super::{JsonError, Problem};

/// The character of the escape at `at`, and where it ends.
pub(super) fn escape(bytes: &[u8], at: usize) -> Result<(char, usize), JsonError> {
    let character = match bytes.get(at + 1) {
        Some(b'"') => '"',
        Some(b'\\') => '\\',
        Some(b'/') => '/',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => {
            let first = unit(bytes, at)?;
            let lone = || JsonError::new(at, Problem::Surrogate);
            if !(0xd800..0xe000).contains(&first) {
                return Ok((char::from_u32(first).ok_or_else(lone)?, at + 6));
            }
            if bytes.get(at + 6..at + 8) != Some(b"\\u") {
                return Err(lone());
            }
            let second = unit(bytes, at + 6)?;
            if first >= 0xdc00 || !(0xdc00..0xe000).contains(&second) {
                return Err(lone());
            }
            let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            return Ok((char::from_u32(code).ok_or_else(lone)?, at + 12));
        }
        _ => return Err(JsonError::syntax(at, "an escape")),
    };
    Ok((character, at + 2))
}

/// The UTF-16 unit of the `\uXXXX` at `at`.
fn unit(bytes: &[u8], at: usize) -> Result<u32, JsonError> {
    let wrong = || JsonError::syntax(at, "four hexadecimal digits");
    let digits = bytes.get(at + 2..at + 6).ok_or_else(wrong)?;
    digits.iter().try_fold(0, |unit, b| {
        let digit = char::from(*b).to_digit(16).ok_or_else(wrong)?;
        Ok(unit << 4 | digit)
    })
}

/// The first double quote, backslash or control character from `at` on; else the end. Eight bytes at a time.
pub(super) fn special(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = ONES << 7;
    const QUOTES: u64 = u64::from_ne_bytes([b'"'; 8]);
    const SLASHES: u64 = u64::from_ne_bytes([b'\\'; 8]);
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let word = u64::from_le_bytes(*chunk);
        let quote = word ^ QUOTES;
        let slash = word ^ SLASHES;
        // A byte below 1, or below 0x20, borrows into its high bit. A borrow may spoil bytes above, never below, so the
        // lowest mark is right.
        let marks =
            (quote.wrapping_sub(ONES) | slash.wrapping_sub(ONES) | word.wrapping_sub(ONES * 0x20))
                & !word
                & HIGH;
        if marks != 0 {
            return at + marks.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let stop = |b: &u8| matches!(b, b'"' | b'\\' | 0..0x20);
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(stop).unwrap_or(rest.len())
}

/// Writes a string with its quotes, as `serde_json` does; quickly where nothing must be escaped.
pub(crate) fn put_string(text: &str, out: &mut Vec<u8>) {
    if special(text.as_bytes(), 0) == text.len() {
        out.reserve(text.len() + 2);
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // A `&str` always has a JSON form, and a `Vec` never refuses bytes.
        let _ = serde_json::to_writer(out, text);
    }
}
