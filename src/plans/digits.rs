//! Decimal digits of every script as ASCII ones: `٥٠٠`, `५००` and `５００` are 500.

use std::borrow::Cow;

/// The zeros of the scripts with decimal digits (general category Nd of Unicode 16), without ASCII. The other nine follow each of them.
#[rustfmt::skip]
const ZEROS: &[u32] = &[
    0x0660, 0x06f0, 0x07c0, 0x0966, 0x09e6, 0x0a66, 0x0ae6, 0x0b66, 0x0be6, 0x0c66, 0x0ce6, 0x0d66, 0x0de6, 0x0e50, 0x0ed0,
    0x0f20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0,
    0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x1_04a0, 0x1_0d30, 0x1_0d40, 0x1_1066, 0x1_10f0, 0x1_1136, 0x1_11d0,
    0x1_12f0, 0x1_1450, 0x1_14d0, 0x1_1650, 0x1_16c0, 0x1_16d0, 0x1_16da, 0x1_1730, 0x1_18e0, 0x1_1950, 0x1_1bf0, 0x1_1c50,
    0x1_1d50, 0x1_1da0, 0x1_1f50, 0x1_6a60, 0x1_6ac0, 0x1_6b50, 0x1_6d70, 0x1_ccf0, 0x1_d7ce, 0x1_d7d8, 0x1_d7e2, 0x1_d7ec,
    0x1_d7f6, 0x1_e140, 0x1_e2f0, 0x1_e4f0, 0x1_e5f1, 0x1_e950, 0x1_fbf0,
];

/// The text with ASCII digits; also the marks within Arabic numbers. It has as many characters as before.
pub(super) fn ascii(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || text.chars().all(|c| ascii_of(c).is_none()) {
        return Cow::Borrowed(text);
    }
    let plain = text.chars().map(|c| ascii_of(c).unwrap_or(c));
    Cow::Owned(plain.collect())
}

fn ascii_of(c: char) -> Option<char> {
    match c {
        '\0'..='\x7f' => None,
        // The signs for per cent, decimals and thousands.
        '\u{66a}' => Some('%'),
        '\u{66b}' => Some('.'),
        '\u{66c}' => Some(','),
        _ => {
            let code = u32::from(c);
            let zero = ZEROS.partition_point(|zero| *zero <= code).checked_sub(1)?;
            char::from_digit(code - ZEROS[zero], 10)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_of_every_script_are_ascii() {
        assert!(ZEROS.windows(2).all(|two| two[0] + 10 <= two[1]));
        for (written, plain) in [
            ("٠١٢٣٤٥٦٧٨٩", "0123456789"),
            ("۱۲", "12"),
            ("५००", "500"),
            ("５００", "500"),
            ("๙๐", "90"),
            ("𝟗𝟎", "90"),
            ("١٬٢٠٠٫٥٪", "1,200.5%"),
        ] {
            assert_eq!(ascii(written), plain);
        }
        for other in ["", "500", "五", "½", "²", "Ⅻ", "é"] {
            assert!(matches!(ascii(other), Cow::Borrowed(same) if same == other));
        }
    }
}
