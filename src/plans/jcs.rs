//! The canonical form of JSON: RFC 8785 (JCS).
//!
//! Members are sorted by the UTF-16 code units of their names, texts have the fewest escapes, and numbers are written as
//! ECMAScript writes doubles. A number that no double represents exactly has no canonical form ([`is_exact`]).

use serde_json::{Number, Value};
use sha2::{Digest, Sha256};

use crate::base::hex::hex;

/// The maximum number of significant digits of a double's exact decimal value, after the first one.
const DIGITS: usize = 766;

/// The canonical text of a value.
///
/// ```
/// use omnilink::plans::jcs::canonical;
///
/// let value = serde_json::json!({ "b": [1.0, 1e21], "a": "\u{e9}\n" });
/// assert_eq!(canonical(&value), "{\"a\":\"é\\n\",\"b\":[1,1e+21]}");
/// ```
pub fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

/// The SHA-256 of the canonical text, in lower-case hexadecimal digits.
pub fn hash(value: &Value) -> String {
    hex(&Sha256::digest(canonical(value)))
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(number, out),
        Value::String(text) => write_text(text, out),
        Value::Array(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            out.push('{');
            for (n, (name, value)) in sorted.into_iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write_text(name, out);
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
    }
}

/// `serde_json` escapes as RFC 8785 requires: short escapes, and `\u00xx` in lower case for other control characters.
fn write_text(text: &str, out: &mut String) {
    // A `&str` always has a JSON form.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

fn write_number(number: &Number, out: &mut String) {
    // Every number of `serde_json` has a double, here the nearest.
    write_double(number.as_f64().unwrap_or_default(), out);
}

/// `Number::toString` of ECMAScript of a finite number.
fn write_double(double: f64, out: &mut String) {
    out.push_str(ryu_js::Buffer::new().format_finite(double));
}

/// The digits of an unsigned number without leading and trailing zeros, and the power of ten of the last digit. Zero has no digits.
fn parts(number: &str) -> (String, i64) {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let digits = all.trim_end_matches('0');
    let dropped = (all.len() - digits.len()) as i64;
    // Too large for an `i64` is too large for a double, too.
    let exponent: i64 = exponent.parse().unwrap_or(i64::from(i32::MAX));
    let digits = digits.trim_start_matches('0');
    (
        digits.to_owned(),
        exponent
            .saturating_sub(fraction.len() as i64)
            .saturating_add(dropped),
    )
}

/// Whether a double represents a JSON number without loss: the number is a shortest form of the double, or its exact value. Where two
/// shortest forms are equally near, ECMAScript and Rust choose different ones.
/// `9007199254740993`, `0.1000000000000000055` and `1e400` are neither.
pub fn is_exact(number: &str) -> bool {
    let Ok(double) = number.parse::<f64>() else {
        return false;
    };
    let given = parts(number.trim_start_matches(['-', '+']));
    if given.0.is_empty() || double == 0.0 || !double.is_finite() {
        return given.0.is_empty() && double == 0.0;
    }
    let double = double.abs();
    let mut shortest = String::new();
    write_double(double, &mut shortest);
    parts(&shortest) == given
        || parts(&format!("{double:e}")) == given
        || parts(&format!("{double:.DIGITS$e}")) == given
}

/// The first number in a JSON text that is not exact.
pub fn first_inexact(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += 1 + usize::from(bytes[at] == b'\\');
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let in_number =
                    |b: &u8| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E');
                let length = bytes[at..].iter().take_while(|b| in_number(b)).count();
                let number = &text[at..at + length];
                if !is_exact(number) {
                    return Some(number);
                }
                at += length;
            }
            _ => at += 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i32>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::vec((any::<String>(), inner), 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_is_what_another_implementation_writes(value in any_json()) {
            let theirs = serde_json_canonicalizer::to_string(&value).unwrap();
            prop_assert_eq!(canonical(&value), theirs);
        }

        #[test]
        fn the_order_of_members_does_not_matter(members in prop::collection::btree_map(any::<String>(), any_json(), 0..8)) {
            let text = |reversed: bool| {
                let mut all: Vec<_> = members.iter().collect();
                if reversed {
                    all.reverse();
                }
                let all = all.iter().map(|(k, v)| format!("{}:{v}", Value::from(k.as_str())));
                format!("{{{}}}", all.collect::<Vec<_>>().join(","))
            };
            let read = |text: String| serde_json::from_str::<Value>(&text).unwrap();
            prop_assert_eq!(hash(&read(text(false))), hash(&read(text(true))));
        }

        #[test]
        fn what_a_double_writes_is_exact(double in any::<f64>().prop_filter("finite", |d| d.is_finite())) {
            let plain = format!("{double}");
            let scientific = format!("{double:e}");
            prop_assert!(is_exact(&plain), "{}", plain);
            prop_assert!(is_exact(&scientific), "{}", scientific);
            let mut canonical = String::new();
            write_double(double, &mut canonical);
            prop_assert!(is_exact(&canonical), "{}", canonical);
            prop_assert!((canonical.parse::<f64>().unwrap() - double).abs() <= 0.0);
        }
    }

    /// Appendix B of RFC 8785.
    #[test]
    fn numbers_of_the_rfc() {
        let samples = [
            (0x0000_0000_0000_0000, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0xc340_0000_0000_0000, "-9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0x41b3_de43_5555_5554, "333333333.33333325"),
            (0x41b3_de43_5555_5555, "333333333.3333333"),
            (0x41b3_de43_5555_5556, "333333333.3333334"),
            (0x41b3_de43_5555_5557, "333333333.33333343"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
        ];
        for (bits, text) in samples {
            let mut written = String::new();
            write_double(f64::from_bits(bits), &mut written);
            assert_eq!(written, text, "{bits:x}");
        }
    }

    /// Sections 3.2.2 and 3.2.3 of RFC 8785.
    #[test]
    fn texts_and_order_of_the_rfc() {
        let sample = r#"{
            "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
            "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
            "literals": [null, true, false]
        }"#;
        let value: Value = serde_json::from_str(sample).unwrap();
        let expected = r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}"#;
        assert_eq!(canonical(&value), expected);
        let sample = r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One",
            "\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#;
        let value: Value = serde_json::from_str(sample).unwrap();
        let canonical = canonical(&value);
        let order = [
            "Carriage", "One", "Control", "Latin", "Euro", "Emoji", "Hebrew",
        ];
        let places: Vec<_> = order
            .iter()
            .map(|name| canonical.find(name).unwrap())
            .collect();
        assert!(places.is_sorted(), "{canonical}");
    }

    #[test]
    fn numbers_that_no_double_carries() {
        for good in [
            "0",
            "-0",
            "0.0",
            "1",
            "-12.50",
            "1e3",
            "1E-7",
            "0.1",
            "9007199254740992",
            "1e308",
            "5e-324",
            "0e999999",
            "1152921504606846976",
            "1424953923781206.25",
        ] {
            assert!(is_exact(good), "{good}");
        }
        for bad in [
            "9007199254740993",
            "0.10000000000000000555",
            "1e400",
            "-1e400",
            "1e-400",
            "18446744073709551615",
            "1e99999999999999999999",
        ] {
            assert!(!is_exact(bad), "{bad}");
        }
        assert_eq!(
            first_inexact(r#"{"a":"1e400 \" 1e400","b":[1,-2.5]}"#),
            None
        );
        assert_eq!(first_inexact(r#"{"a":"\\","b":[1,1e400]}"#), Some("1e400"));
    }
}
