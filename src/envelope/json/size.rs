//! The size of a value as Postgres writes it out.

use super::{
    number::{MAX_DIGITS, Number},
    string::{escape, special},
};

/// The size of a value in bytes as Postgres writes it, without white space: numbers without exponents, strings unescaped. It does not
/// depend on how the value is written, so a value has the same size before and after Postgres has stored it. The text must be valid JSON.
pub(crate) fn written_size(json: &str) -> usize {
    let bytes = json.as_bytes();
    let (mut at, mut size) = (0, 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let (end, length) = string(bytes, at + 1);
                at = end;
                size += length + 2;
            }
            b'-' | b'0'..=b'9' => match Number::read(bytes, at) {
                Ok(number) => {
                    // Numbers that Postgres cannot store do not occur: they were refused before.
                    size += number
                        .measure(bytes)
                        .map_or(number.end - at, |(_, written)| written);
                    at = number.end;
                }
                Err(_) => at += 1,
            },
            _ => {
                size += usize::from(!byte.is_ascii_whitespace());
                at += 1;
            }
        }
    }
    size
}

/// An upper bound of [`written_size`] that is much faster to compute: everything that looks like an exponent counts as the longest number.
pub(crate) fn written_size_at_most(json: &[u8]) -> usize {
    let exponent = |pair: &[u8]| pair[0].is_ascii_digit() && (pair[1] | 0x20) == b'e';
    let exponents = json.windows(2).filter(|pair| exponent(pair)).count();
    json.len() + exponents * MAX_DIGITS
}

/// The end of the string whose content starts at `at`, and the size of its unescaped content.
fn string(bytes: &[u8], mut at: usize) -> (usize, usize) {
    let mut length = 0;
    loop {
        let end = special(bytes, at);
        length += end - at;
        match bytes.get(end) {
            Some(b'\\') => {
                let (character, next) = escape(bytes, end).unwrap_or((' ', end + 2));
                length += character.len_utf8();
                at = next;
            }
            Some(b'"') => return (end + 1, length),
            Some(_) => at = end + 1,
            None => return (bytes.len(), length),
        }
    }
}
