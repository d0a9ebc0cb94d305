//! The contents of JSON strings.

use super::{JsonError, Problem};

/// The character of the escape sequence at `at`, and the position after it.
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

/// The position of the first double quote, backslash or control character from `at` on, or the end. Compares many bytes at a time.
pub(super) fn special(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = ONES << 7;
    const QUOTES: u64 = u64::from_ne_bytes([b'"'; 8]);
    const SLASHES: u64 = u64::from_ne_bytes([b'\\'; 8]);
    let in_word = |at: usize| {
        let word = u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
        let quote = word ^ QUOTES;
        let slash = word ^ SLASHES;
        // Subtraction sets the high bit of each byte that is below 1 (or below 0x20). A borrow may falsify the bytes above, never those
        // below, so the lowest mark is correct.
        let marks =
            (quote.wrapping_sub(ONES) | slash.wrapping_sub(ONES) | word.wrapping_sub(ONES * 0x20))
                & !word
                & HIGH;
        Some(marks.trailing_zeros() as usize / 8)
    };
    // 0 for each of the special bytes. The compiler vectorizes this form over a whole chunk.
    let stop = |b: &u8| (b ^ b'"').min(b ^ b'\\').min(b & 0xe0);
    // Most strings are short.
    match in_word(at) {
        Some(found @ ..8) => return at + found,
        Some(_) => at += 8,
        None => {}
    }
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<32>)
        && chunk.iter().map(stop).fold(u8::MAX, u8::min) != 0
    {
        at += 32;
    }
    while let Some(found) = in_word(at) {
        at += found;
        if found < 8 {
            return at;
        }
    }
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|b| stop(b) == 0).unwrap_or(rest.len())
}

/// Writes a string with its quotes, as `serde_json` does, with a fast path for strings without special characters.
pub(crate) fn put_string(text: &str, out: &mut Vec<u8>) {
    put_utf8(text.as_bytes(), out);
}

/// Like [`put_string`], for bytes that are known to be UTF-8 and are not checked again.
pub(crate) fn put_utf8(text: &[u8], out: &mut Vec<u8>) {
    if special(text, 0) == text.len() {
        out.reserve(text.len() + 2);
        out.push(b'"');
        out.extend_from_slice(text);
        out.push(b'"');
    } else {
        // Serializing a string into a `Vec` cannot fail.
        let _ = serde_json::to_writer(out, &String::from_utf8_lossy(text));
    }
}
