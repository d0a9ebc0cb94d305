//! How much room a value takes once Postgres has written it out.

use super::{
    number::{MAX_DIGITS, Number},
    string::{escape, special},
};

/// Bytes that Postgres writes a value in, but for its white space: numbers without exponents, strings unescaped. It is the
/// same however the value is written, so that a value and what Postgres makes of it have one size. The text is valid JSON.
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
                    // What cannot be held is not there: it was refused before.
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

/// At least [`written_size`], and much quicker: what looks like an exponent counts as the longest number.
pub(crate) fn written_size_at_most(json: &[u8]) -> usize {
    let exponent = |pair: &[u8]| pair[0].is_ascii_digit() && (pair[1] | 0x20) == b'e';
    let exponents = json.windows(2).filter(|pair| exponent(pair)).count();
    json.len() + exponents * MAX_DIGITS
}

/// From behind the opening quote: where the string ends, and the bytes of its content.
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
