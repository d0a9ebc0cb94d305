//! Sealing, binding and concealing, through what the room offers.

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    controls::SecretKeys,
    guardian::{Kind, Lines, Slot, guard_with},
    runs::Json,
};

const RUN: &str = "7dbd6d41-6f85-5f7b-98af-6637f5372c2e";

fn keys(n: u8) -> SecretKeys {
    SecretKeys::new([&*STANDARD.encode([n; 32])]).unwrap()
}

fn slot(name: &str, value: Value) -> Slot {
    let kind = Kind::of_slot(name).unwrap();
    Slot {
        kind,
        name: name.into(),
        value,
    }
}

fn values(slots: &[Slot]) -> Values {
    let keys = keys(1);
    Values::open(&keys, RUN, &seal(&keys, RUN, slots)).unwrap()
}

fn ann() -> Values {
    values(&[
        slot("EMAIL_1", json!("ann@example.com")),
        slot("PHONE_1", json!(4_155_552_671_u64)),
        slot("ADDRESS_1", json!("Main & Co 1")),
        slot("SSN_1", json!("4711")),
        slot("SSN_2", json!("12")),
    ])
}

#[test]
fn values_open_only_for_their_run_and_with_their_key() {
    let slots = [slot("EMAIL_1", json!("ann@example.com"))];
    let sealed = seal(&keys(1), RUN, &slots);
    assert!(!sealed.contains("ann"));
    assert_ne!(sealed, seal(&keys(1), RUN, &slots));
    assert!(Values::open(&keys(1), RUN, &sealed).is_ok());
    assert!(Values::open(&keys(1), "other", &sealed).is_err());
    assert!(Values::open(&keys(2), RUN, &sealed).is_err());
    // Nothing that is sealed for another purpose, and nothing that is damaged.
    let other = STANDARD.encode(keys(1).seal(br#"{"EMAIL_1":"x"}"#, RUN.as_bytes()));
    for wrong in [&*other, &sealed[4..], "", "no base64"] {
        assert!(Values::open(&keys(1), RUN, wrong).is_err(), "{wrong}");
    }
    let again = reseal(&keys(1), &sealed, RUN, "other").unwrap();
    let opened = Values::open(&keys(1), "other", &again).unwrap();
    assert_eq!(
        opened.bind(r#""{EMAIL_1}""#).unwrap(),
        r#""ann@example.com""#
    );
    assert!(reseal(&keys(1), &again, RUN, "other").is_err());
    assert!(!format!("{opened:?}").contains("ann"));
}

#[test]
fn placeholders_get_their_values() {
    let values = ann();
    let bound = values.bind(
        r#"{"to":["{EMAIL_1}"],"call":"{PHONE_1}","text":"{EMAIL_1}, {PHONE_1} {EMAIL_2}","{EMAIL_1}":1}"#,
    );
    let bound: Value = serde_json::from_str(&bound.unwrap()).unwrap();
    let expected = json!({
        "to": ["ann@example.com"], "call": 4_155_552_671_u64, "text": "ann@example.com, 4155552671 {EMAIL_2}", "{EMAIL_1}": 1
    });
    assert_eq!(bound, expected);
    assert!(values.are_in(r#"{"a":"{EMAIL_1}"}"#));
    assert!(!values.are_in(r#"{"a":"{EMAIL_2} ann@example.com"}"#));
    assert_eq!(
        values
            .bind_url("https://h/{EMAIL_1}?a={ADDRESS_1}&b={X}")
            .unwrap(),
        "https://h/ann%40example.com?a=Main%20%26%20Co%201&b={X}"
    );
}

#[test]
fn what_values_add_is_bounded() {
    let long = values(&[slot("ADDRESS_1", json!("x".repeat(60_000)))]);
    let input = |times: usize| json!("{ADDRESS_1} ".repeat(times)).to_string();
    assert!(long.bind(&input(2)).is_ok());
    assert!(matches!(long.bind(&input(3)), Err(BindError::TooLarge(_))));
    assert!(long.bind_url(&input(3)).is_err());
    let many = "{ADDRESS_2}".repeat(10_000);
    assert_eq!(long.bind_url(&many).unwrap(), many);
}

#[test]
fn what_comes_back_has_placeholders() {
    let values = ann();
    let concealed = |value: Value| values.conceal_json(&Json::of(&value)).value();
    assert_eq!(
        concealed(json!({
            "to": "ann@example.com", "n": 4_155_552_671_u64, "other": 4_155_552_672_u64, "ann@example.com": [true, null, 12, "12"],
            "text": "<ann@example.com> at Main & Co 1, or 4155552671, not Ann@example.com"
        })),
        json!({
            "to": "{EMAIL_1}", "n": "{PHONE_1}", "other": 4_155_552_672_u64, "{EMAIL_1}": [true, null, 12, "12"],
            "text": "<{EMAIL_1}> at {ADDRESS_1}, or {PHONE_1}, not Ann@example.com"
        })
    );
    // A short value is replaced as a word only.
    assert_eq!(
        values.conceal("4711, 47110, ä4711, x4711 4711é (4711)"),
        "{SSN_1}, 47110, ä4711, x4711 4711é ({SSN_1})"
    );
    // What no run keeps is left alone, so that the run can say why.
    let unreadable = Json::parse("1e400".into()).unwrap();
    assert_eq!(values.conceal_json(&unreadable), unreadable);
}

#[test]
fn plans_have_placeholders_where_they_hold_data() {
    let values = ann();
    let plan = |plan: &Value| {
        let raw = serde_json::value::to_raw_value(plan).unwrap();
        values.conceal_plan(&raw)
    };
    let given = json!({
        "steps": [
            {
                "id": "4711", "tool": "4711", "depends_on": ["4711"], "timeout_s": 4711, "when": "{{ params.to != 'ann@example.com' }}",
                "input": { "to": "ann@example.com", "call": [4_155_552_671_u64], "ann@example.com": null, "n": "4711",
                    "text": "Hi ann@example.com: {{ {'a': \"Main & Co 1\"}.a ~ steps['4711'].output.4711 }} at Main & Co 1" },
                "compensate": { "tool": "4711", "input": "to ann@example.com" }
            }
        ],
        "output": "4711 {{ params.ann@example.com"
    });
    let expected = json!({
        "steps": [
            {
                "id": "4711", "tool": "4711", "depends_on": ["4711"], "timeout_s": 4711, "when": "{{ params.to != '{EMAIL_1}' }}",
                "input": { "to": "{EMAIL_1}", "call": ["{PHONE_1}"], "{EMAIL_1}": null, "n": "{SSN_1}",
                    "text": "Hi {EMAIL_1}: {{ {'a': \"{ADDRESS_1}\"}.a ~ steps['{SSN_1}'].output.4711 }} at {ADDRESS_1}" },
                "compensate": { "tool": "4711", "input": "to {EMAIL_1}" }
            }
        ],
        "output": "{SSN_1} {{ params.{EMAIL_1}"
    });
    assert_eq!(plan(&given), Some(expected.clone()));
    assert_eq!(plan(&expected), None);
}

#[test]
fn what_has_no_values_keeps_its_text() {
    let values = ann();
    let given = |text: &str| values.conceal_given(Json::parse(text.to_owned()).unwrap());
    for text in [r#"{ "n": 12.500000000000000000010 }"#, "1e400"] {
        assert_eq!(given(text).text(), text);
    }
    assert_eq!(given(r#"["ann@example.com"]"#).text(), r#"["{EMAIL_1}"]"#);
}

proptest! {
    #[test]
    fn a_goal_and_its_documents_come_back_exactly(
        goal in "[ a-c@.{}_1E]{0,40}(x@y\\.zz)?[ a-c]{0,9}(\\{EMAIL_1\\})?",
        email in "[a-c]{1,6}@[a-c]{1,6}\\.org",
        phone in 10_000_u64..1_000_000_000_000,
    ) {
        let sent = json!({ "email": email, "list": [format!("to {email}"), phone], "phone": phone });
        let mut document = sent.clone();
        let guarded = guard_with(&goal, &mut [&mut document], &Lines::default()).unwrap();
        prop_assert!(!document.to_string().contains(&email));
        let opened = values(&guarded.slots);
        let mut bound = document.clone();
        opened.bind_value(&mut bound).unwrap();
        prop_assert_eq!(&bound, &sent);
        // A worker that answers with what it got shows none of it to the history.
        let answered = opened.conceal_json(&Json::of(&sent)).text().to_owned();
        prop_assert!(!answered.contains(&email), "{}", answered);
        prop_assert!(!answered.contains(&format!(":{phone}")), "{}", answered);
    }
}
