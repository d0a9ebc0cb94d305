use std::{collections::BTreeMap, fmt::Write, iter};

use proptest::{collection::vec, prelude::*};
use serde::de::IgnoredAny;

use super::*;

fn hash(text: &str) -> u128 {
    scan(text.as_bytes(), 0).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn problem(text: &[u8]) -> Problem {
    canonical_hash(text).unwrap_err().problem().clone()
}

#[test]
fn texts_follow_the_grammar() {
    let good = [
        "null",
        "true",
        "false",
        "0",
        "-0",
        "1",
        "-1.5",
        "1e5",
        "1E+5",
        "1.0e-05",
        "\"\"",
        "\"a\\u0000b\"",
        "[]",
        "{}",
        " [ ] ",
        "\t{\r\n}\n",
        "[1,2]",
        "[[],{}]",
        "{\"a\":{\"a\":1},\"b\":[{\"a\":1},{\"a\":1}]}",
        "\"\\ud83d\\ude00\"",
        "\"\u{7f}\u{2028}ä😀\"",
        "\"\\/\\b\\f\\n\\r\\t\\\"\\\\\"",
    ];
    for text in good {
        hash(text);
    }
    let bad = [
        "",
        " ",
        "nul",
        "nulll",
        "True",
        "01",
        "-",
        "+1",
        "1.",
        ".5",
        "1e",
        "1e+",
        "0x1",
        "NaN",
        "\"",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\u+123\"",
        "\"\n\"",
        "\"\0\"",
        "[",
        "[1",
        "[1,",
        "[1,]",
        "[,]",
        "[1 2]",
        "{",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1,",
        "{\"a\":1,}",
        "{a:1}",
        "{\"a\" 1}",
        "{,}",
        "{1:1}",
        "]",
        "}",
        "'a'",
        "//",
        "[1]/**/",
        "\u{feff}1",
        "\u{a0}1",
        "1\u{0}",
    ];
    for text in bad {
        assert!(
            canonical_hash(text.as_bytes()).unwrap_err().is_syntax(),
            "{text}"
        );
        assert!(!whole_by_skip(text), "{text}");
    }
    assert_eq!(problem(b"1 2"), Problem::Trailing);
    assert_eq!(problem(b"{}{}"), Problem::Trailing);
    for text in [
        &b"\"\xff\""[..],
        b"\"\xc0\x80\"",
        b"\"\xed\xa0\x80\"",
        b"\xef\xbb\xbf{}",
    ] {
        assert!(canonical_hash(text).unwrap_err().is_syntax());
    }
}

#[test]
fn lone_surrogates_are_refused() {
    let lone = [
        "\\ud800",
        "\\udc00",
        "\\ud800x",
        "\\ud800\\n",
        "\\ud800\\ud800",
        "\\udc00\\ud800",
        "\\ud800\\u0041",
    ];
    for text in lone {
        assert_eq!(
            problem(format!("\"{text}\"").as_bytes()),
            Problem::Surrogate,
            "{text}"
        );
        assert_eq!(
            problem(format!("{{\"{text}\":1}}").as_bytes()),
            Problem::Surrogate,
            "{text}"
        );
        assert!(whole_by_skip(&format!("\"{text}\"")));
    }
}

#[test]
fn duplicate_names_are_refused() {
    let duplicate = |text: &str| problem(text.as_bytes());
    let is = |name: &str| Problem::Duplicate(name.to_owned());
    assert_eq!(duplicate(r#"{"a":1,"a":1}"#), is("a"));
    assert_eq!(duplicate(r#"{"a":1,"\u0061":1}"#), is("a"));
    assert_eq!(duplicate(r#"[{"x":{"":1,"b":2,"":3}}]"#), is(""));
    assert_eq!(duplicate(r#"{"a":{"b":1},"b":2,"a":3}"#), is("a"));
    for count in [2, 15, 16, 17, 18, 40, 5000] {
        let names: Vec<_> = (0..count).map(|i| format!("\"k{i}\":{i}")).collect();
        hash(&format!("{{{}}}", names.join(",")));
        for repeated in [0, count / 2, count - 1] {
            let text = format!("{{{},\"k{repeated}\":0}}", names.join(","));
            let error = canonical_hash(text.as_bytes()).unwrap_err();
            assert_eq!(error.problem(), &is(&format!("k{repeated}")), "{count}");
            assert_eq!(error.at(), text.rfind("\"k").unwrap());
        }
    }
}

#[test]
fn nesting_depth_is_limited() {
    let nested =
        |depth: usize, open: &str, close: &str| open.repeat(depth) + "1" + &close.repeat(depth);
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        hash(&nested(MAX_DEPTH, open, close));
        assert_eq!(
            problem(nested(MAX_DEPTH + 1, open, close).as_bytes()),
            Problem::Depth
        );
        assert_eq!(
            problem(nested(1_000_000, open, close).as_bytes()),
            Problem::Depth
        );
        assert!(whole_by_skip(&nested(1_000_000, open, close)));
        assert!(scan(nested(MAX_DEPTH - 1, open, close).as_bytes(), 1).is_ok());
        assert!(scan(nested(MAX_DEPTH, open, close).as_bytes(), 1).is_err());
    }
}

/// Postgres agrees with each of these (`select $1::jsonb`).
#[test]
fn numbers_that_postgres_cannot_store_are_refused() {
    let zeros = |count: usize| "0".repeat(count);
    let nines = |count: usize| "9".repeat(count);
    let good = [
        "1e131071".to_owned(),
        "-9.99e131071".to_owned(),
        "0.0001e131075".to_owned(),
        format!("0.{}1e131172", zeros(100)),
        nines(131_072),
        format!("1{}", zeros(131_071)),
        format!("10{}e-1", zeros(131_071)),
        "1e-16383".to_owned(),
        "10.0e-16382".to_owned(),
        format!("0.{}1", zeros(16_382)),
        format!("1.{}", zeros(16_383)),
        format!("0.{}", zeros(16_383)),
        format!("1.{}e1", zeros(16_384)),
        format!("{}.{}", nines(131_072), nines(16_383)),
        "0e-16383".to_owned(),
        "0e131072".to_owned(),
        "0e1073741822".to_owned(),
        "-0".to_owned(),
        format!("1e{}5", zeros(50)),
    ];
    for number in &good {
        assert!(canonical_hash(number.as_bytes()).is_ok(), "{number:.40}");
    }
    let bad = [
        "1e131072".to_owned(),
        "-1e131072".to_owned(),
        "10e131071".to_owned(),
        "0.0001e131076".to_owned(),
        nines(131_073),
        "1e-16384".to_owned(),
        "10e-16384".to_owned(),
        "1.0e-16383".to_owned(),
        format!("1.{}", zeros(16_384)),
        format!("0.{}1", zeros(16_383)),
        "0e-16384".to_owned(),
        "0e1073741823".to_owned(),
        "0e-1073741823".to_owned(),
        "1e999999999999999999999999".to_owned(),
        "1e-999999999999999999999999".to_owned(),
        "0e99999999999999999999999999".to_owned(),
    ];
    for number in &bad {
        assert_eq!(problem(number.as_bytes()), Problem::Number, "{number:.40}");
        assert!(whole_by_skip(number));
    }
}

#[test]
fn equal_values_have_equal_hashes() {
    let long = "1234567890123456789012345";
    let classes: [&[&str]; 16] = [
        &[
            "1",
            "1.0",
            "10e-1",
            "0.1e1",
            "1E0",
            "1e-0",
            "100000000000000000000e-20",
            "0.000000000000000000001e21",
        ],
        &[
            "0",
            "-0",
            "0.0",
            "0e5",
            "-0.00e-3",
            "0.0000000000000000000000",
        ],
        &["-1", "-1.00"],
        &["10", "1e1"],
        &[
            long,
            "1234567890123456789012345.000",
            "1.234567890123456789012345e24",
            "12345678901234567890123450e-1",
        ],
        &["1234567890123456789012346"],
        &["-1234567890123456789012345"],
        &["\"1\""],
        &["true"],
        &["null"],
        &["{}"],
        &["[]"],
        &["\"a\\u00e4\\/\"", "\"\\u0061ä/\""],
        &[
            r#"{"a":1,"b":[1,2]}"#,
            r#" { "b" : [ 1.0 , 2 ] , "\u0061" : 1 } "#,
        ],
        &[r#"{"a":1,"b":[2,1]}"#],
        &[r#"{"b":1,"a":[1,2]}"#],
    ];
    for (i, class) in classes.iter().enumerate() {
        for text in *class {
            for (j, other) in classes.iter().enumerate() {
                for other in *other {
                    assert_eq!(hash(text) == hash(other), i == j, "{text} and {other}");
                }
            }
        }
    }
    // It is stored: it must never change.
    let text = r#"{"a":[null,true,false,"x",-12.5,123456789012345678901],"b":{}}"#;
    assert_eq!(hash(text), STORED);
}

const STORED: u128 = 90_423_202_038_736_414_724_675_218_431_181_375_813;

fn whole_by_skip(text: &str) -> bool {
    let at = spaces(text.as_bytes(), 0);
    skip(text, at).is_ok_and(|end| spaces(text.as_bytes(), end) == text.len())
}

fn whole_by_serde(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok() && serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

/// A JSON value with exact numbers: the slow reference.
#[derive(Clone, Debug)]
enum Model {
    Null,
    Bool(bool),
    /// Sign, digits, power of ten.
    Number(bool, String, i32),
    Text(String),
    Array(Vec<Model>),
    Object(BTreeMap<String, Model>),
}

impl Model {
    /// The canonical text of the value.
    fn canonical(&self) -> String {
        match self {
            Self::Null => "null".into(),
            Self::Bool(b) => b.to_string(),
            Self::Number(negative, digits, power) => {
                let significant = digits.trim_start_matches('0');
                let kept = significant.trim_end_matches('0');
                if kept.is_empty() {
                    return "0".into();
                }
                let power = power + (significant.len() - kept.len()) as i32;
                format!("{}{kept}e{power}", if *negative { "-" } else { "" })
            }
            Self::Text(text) => format!("{text:?}"),
            Self::Array(items) => format!(
                "[{}]",
                items
                    .iter()
                    .map(Self::canonical)
                    .collect::<Vec<_>>()
                    .join(",")
            ),
            Self::Object(members) => {
                let members = members
                    .iter()
                    .map(|(name, value)| format!("{name:?}:{}", value.canonical()));
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            }
        }
    }

    /// One of the value's many texts, chosen by `dice`.
    fn write(&self, dice: &mut impl FnMut(usize) -> usize, out: &mut String) {
        let space = |dice: &mut dyn FnMut(usize) -> usize, out: &mut String| {
            out.push_str(["", "", "", " ", "\n\t", "\r "][dice(6)]);
        };
        space(dice, out);
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(b) => write!(out, "{b}").unwrap(),
            Self::Number(negative, digits, power) => {
                write_number(*negative, digits, *power, dice, out);
            }
            Self::Text(text) => write_text(text, dice, out),
            Self::Array(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    out.push_str(if at > 0 { "," } else { "" });
                    item.write(dice, out);
                }
                space(dice, out);
                out.push(']');
            }
            Self::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                for at in (1..members.len()).rev() {
                    members.swap(at, dice(at + 1));
                }
                out.push('{');
                for (at, (name, value)) in members.into_iter().enumerate() {
                    out.push_str(if at > 0 { "," } else { "" });
                    space(dice, out);
                    write_text(name, dice, out);
                    space(dice, out);
                    out.push(':');
                    value.write(dice, out);
                }
                space(dice, out);
                out.push('}');
            }
        }
        space(dice, out);
    }
}

fn write_number(
    negative: bool,
    digits: &str,
    power: i32,
    dice: &mut impl FnMut(usize) -> usize,
    out: &mut String,
) {
    out.push_str(if negative { "-" } else { "" });
    // More zeros at the end, then a point anywhere.
    let more = [0, 0, 1, 3, 20][dice(5)];
    let digits = digits.to_owned() + &"0".repeat(more);
    let power = power - more as i32;
    let split = dice(digits.len() + 1);
    let (int, frac) = digits.split_at(split);
    let int = int.trim_start_matches('0');
    out.push_str(if int.is_empty() { "0" } else { int });
    if !frac.is_empty() {
        write!(out, ".{frac}").unwrap();
    }
    let power = power + frac.len() as i32;
    if power != 0 || dice(3) == 0 {
        let sign = if power < 0 { "-" } else { ["", "+"][dice(2)] };
        let zeros = ["", "", "00"][dice(3)];
        write!(out, "{}{sign}{zeros}{}", ["e", "E"][dice(2)], power.abs()).unwrap();
    }
}

fn write_text(text: &str, dice: &mut impl FnMut(usize) -> usize, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        let must = c < ' ' || matches!(c, '"' | '\\');
        match (c, dice(if must { 2 } else { 8 })) {
            ('\n', 0) => out.push_str("\\n"),
            ('"' | '\\' | '/', 0) => write!(out, "\\{c}").unwrap(),
            (_, 1) => c
                .encode_utf16(&mut [0; 2])
                .iter()
                .for_each(|unit| write!(out, "\\u{unit:04X}").unwrap()),
            _ if must => c
                .encode_utf16(&mut [0; 2])
                .iter()
                .for_each(|unit| write!(out, "\\u{unit:04x}").unwrap()),
            _ => out.push(c),
        }
    }
    out.push('"');
}

fn dice(seed: &[u8]) -> impl FnMut(usize) -> usize + '_ {
    let mut rolls = iter::once(&7).chain(seed).cycle();
    move |sides| usize::from(*rolls.next().unwrap()) % sides
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ab]{0,2}",
        "[ -~]{0,20}",
        "\\PC{0,12}",
        "[\\x00-\\x1f\"\\\\/ä😀\u{7f}]{0,9}"
    ]
}

fn models() -> impl Strategy<Value = Model> {
    let number = prop_oneof![
        ("[0-2]{1,2}", -2..3_i32),
        ("[0-9]{1,19}", -30..30_i32),
        ("[0-9]{15,60}", -60..60_i32),
    ];
    let leaf = prop_oneof![
        Just(Model::Null),
        any::<bool>().prop_map(Model::Bool),
        (any::<bool>(), number)
            .prop_map(|(negative, (digits, power))| Model::Number(negative, digits, power)),
        texts().prop_map(Model::Text),
    ];
    leaf.prop_recursive(4, 64, 24, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Model::Array),
            proptest::collection::btree_map(texts(), inner, 0..24).prop_map(Model::Object),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn a_value_has_one_hash_however_it_is_written(model in models(), a in vec(any::<u8>(), 64), b in vec(any::<u8>(), 64)) {
        let [mut one, mut two] = [String::new(), String::new()];
        model.write(&mut dice(&a), &mut one);
        model.write(&mut dice(&b), &mut two);
        prop_assert!(whole_by_serde(one.as_bytes()), "{}", one);
        prop_assert_eq!(hash(&one), hash(&two), "{} and {}", one, two);
    }

    #[test]
    fn values_are_equal_if_and_only_if_their_hashes_are(a in models(), b in models(), seed in vec(any::<u8>(), 16)) {
        let [mut one, mut two] = [String::new(), String::new()];
        a.write(&mut dice(&seed), &mut one);
        b.write(&mut dice(&seed), &mut two);
        prop_assert_eq!(hash(&one) == hash(&two), a.canonical() == b.canonical(), "{} and {}", one, two);
    }

    #[test]
    fn small_numbers_too(a in ("[0-3]{1,3}", -3..4_i32, any::<bool>()), b in ("[0-3]{1,3}", -3..4_i32, any::<bool>())) {
        let model = |(digits, power, negative)| Model::Array(vec![Model::Number(negative, digits, power)]);
        let (a, b) = (model(a), model(b));
        let [mut one, mut two] = [String::new(), String::new()];
        a.write(&mut dice(&[3, 1, 4]), &mut one);
        b.write(&mut dice(&[1, 5, 9, 2]), &mut two);
        prop_assert_eq!(hash(&one) == hash(&two), a.canonical() == b.canonical(), "{} and {}", one, two);
    }

    #[test]
    fn agrees_with_serde_on_what_is_json(
        text in prop_oneof![
            "[\\[\\]{}:,\"\\\\0-9.eE+ tfnu-]{0,24}",
            "(\\[|\\]|\\{|\\}|:|,|\"a\"|\"\\\\u00e4\"|\"\\\\ud800\"|1|-0\\.5e-3|01|null|true| |\\\\|\"){0,16}",
            "\\PC{0,30}",
        ],
    ) {
        check_against_serde(text.as_bytes())?;
    }

    #[test]
    fn mutated_texts_agree_with_serde_and_never_panic(
        model in models(),
        seed in vec(any::<u8>(), 32),
        changes in vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..4),
    ) {
        let mut text = String::new();
        model.write(&mut dice(&seed), &mut text);
        let mut text = text.into_bytes();
        for (at, byte, how) in changes {
            let at = at.index(text.len() + 1);
            match how {
                0 => text.insert(at, byte),
                1 => text.truncate(at),
                2 if at < text.len() => text[at] = b"{}[]:,\"\\0eu"[usize::from(byte) % 11],
                _ if at < text.len() => { text.remove(at); }
                _ => {}
            }
        }
        check_against_serde(&text)?;
    }
}

fn check_against_serde(text: &[u8]) -> Result<(), TestCaseError> {
    let valid = whole_by_serde(text);
    if let Ok(text) = std::str::from_utf8(text) {
        prop_assert_eq!(whole_by_skip(text), valid);
    }
    match canonical_hash(text) {
        Ok(_) => prop_assert!(valid),
        Err(error) if error.is_syntax() => prop_assert!(!valid, "{}", error),
        // Refused by a rule beyond the grammar; the rest was not read.
        Err(_) => {}
    }
    Ok(())
}

#[test]
fn special_bytes_are_found_at_any_position() {
    // What stands around it has high bits, and is one more or less than what is special.
    let around = [
        0x20, 0x21, 0x23, 0x5b, 0x5d, 0x7f, 0x80, 0xa2, 0xdc, 0xe0, 0xff,
    ];
    for length in 0..110 {
        let text: Vec<u8> = around.into_iter().cycle().take(length).collect();
        for from in 0..=length {
            assert_eq!(special(&text, from), length);
            for (at, found) in (from..length).zip([b'"', b'\\', 0, 0x1f].into_iter().cycle()) {
                let mut text = text.clone();
                text[at..].fill(found);
                assert_eq!(special(&text, from), at, "{found} in {length}");
            }
        }
    }
}
