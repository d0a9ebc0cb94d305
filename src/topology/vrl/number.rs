//! JSON numbers that VRL cannot represent. VRL has 64-bit integers and 64-bit floats; any other number would lose digits, and two keys
//! might become equal. Programs see such a number as a string of its digits, a slice of the record's bytes; where it is written
//! again unchanged, it is a number again.

use std::ops::Range;

use bytes::Bytes;
use vrl::value::Value;

/// Digits that a 64-bit float always keeps.
const KEPT: usize = 15;
/// Bytes of the shortest number that may lose digits.
const SHORTEST: usize = KEPT + 1;

fn in_number(byte: u8) -> bool {
    byte.is_ascii_digit() || byte == b'.'
}

/// Whether a JSON text may hold a number that loses digits: whether it has that many digits in a row, be they a string's.
pub(crate) fn may_lose_digits(text: &[u8]) -> bool {
    // A run of that length has a byte at one of these positions.
    let mut at = SHORTEST - 1;
    while let Some(byte) = text.get(at) {
        if in_number(*byte) {
            let before = text[..at]
                .iter()
                .rev()
                .take(SHORTEST)
                .take_while(|b| in_number(**b));
            let behind = text[at..]
                .iter()
                .take(SHORTEST)
                .take_while(|b| in_number(**b));
            if before.count() + behind.count() >= SHORTEST {
                return true;
            }
        }
        at += SHORTEST;
    }
    false
}

/// The value of a number's text, if VRL has a number of that value.
pub(crate) fn exact(text: &str) -> Option<Value> {
    // A float can be a negative zero, an integer cannot.
    if text != "-0"
        && let Ok(whole) = text.parse()
    {
        return Some(Value::Integer(whole));
    }
    let float: f64 = serde_json::from_str(text).ok()?;
    // By the serializer that writes records: a float may have two shortest decimals, and another serializer may choose the other.
    let written = serde_json::to_string(&float).ok()?;
    (decimal(text) == decimal(&written)).then(|| Value::from_f64_or_zero(float))
}

/// The normal form of a decimal number: its sign, its digits without leading and trailing zeros, and the last digit's power of ten.
fn decimal(text: &str) -> (bool, Vec<u8>, i64) {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    // No float has such an exponent, and no record has enough digits to make up for it.
    let exponent = exponent
        .parse::<i64>()
        .unwrap_or(if exponent.starts_with('-') {
            i64::MIN / 2
        } else {
            i64::MAX / 2
        });
    let mut power = exponent.saturating_sub(fraction.len() as i64);
    while digits.last() == Some(&b'0') {
        digits.pop();
        power += 1;
    }
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    digits.drain(..zeros);
    if digits.is_empty() {
        power = 0;
    }
    (negative, digits, power)
}

/// The range of a text that is a slice of `bytes`.
pub(crate) fn place(text: &str, bytes: &Bytes) -> Option<Range<usize>> {
    let start = text.as_ptr().addr().checked_sub(bytes.as_ptr().addr())?;
    let end = start.checked_add(text.len())?;
    (end <= bytes.len()).then_some(start..end)
}

/// Whether a text is such a number: a slice of this record, where the record has a number.
pub(crate) fn stands_in(text: &[u8], record: &Bytes) -> bool {
    let begins = |first: &u8| first.is_ascii_digit() || *first == b'-';
    if text.len() < SHORTEST || !text.first().is_some_and(begins) {
        return false;
    }
    let Some((range, number)) = std::str::from_utf8(text)
        .ok()
        .and_then(|text| Some((place(text, record)?, text)))
    else {
        return false;
    };
    let blank = |byte: &&u8| !byte.is_ascii_whitespace();
    let before = record[..range.start].iter().rev().find(blank);
    let behind = record[range.end..].iter().find(blank);
    before.is_none_or(|b| matches!(b, b':' | b',' | b'['))
        && behind.is_none_or(|b| matches!(b, b',' | b'}' | b']'))
        && serde_json::from_str::<&serde_json::value::RawValue>(number).is_ok()
        && exact(number).is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_float_keeps_is_a_number() {
        for kept in [
            "0",
            "-0",
            "1",
            "9223372036854775807",
            "-9223372036854775808",
            "0.1",
            "1e5",
            "1.50",
            "9007199254740993",
            "1e22",
            "100000000000000000000000",
            "123456789012345",
            "0.3000000000000000000",
            "0.0e9999999999999999999999",
            // Lies between two decimals of that many digits; the next line has the other.
            "1499655139442152.2",
        ] {
            assert!(exact(kept).is_some(), "{kept}");
        }
        for lost in [
            // The last is a float, and would be written as 18446744073709552000.
            "18446744073709551615",
            "18446744073709551614",
            "9223372036854775809",
            "18446744073709551616",
            "0.10000000000000000555",
            "12345678901234567.89",
            "1e400",
            "-1e-400",
            "100000000000000000000001",
            "9007199254740993.0",
            "1499655139442152.3",
        ] {
            assert!(exact(lost).is_none(), "{lost}");
        }
    }

    proptest! {
        #[test]
        fn no_number_that_loses_digits_is_overlooked(
            before in "[ \"a-z:,\\[]{0,40}", number in "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?", behind in "[ \"a-z,\\]]{0,40}"
        ) {
            let text = format!("{before}{number}{behind}");
            prop_assert!(exact(&number).is_some() || may_lose_digits(text.as_bytes()));
        }
    }
}
