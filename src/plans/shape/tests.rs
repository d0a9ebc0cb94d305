use proptest::prelude::*;

use super::*;

fn slots(values: &[(&str, Value)]) -> BTreeMap<String, Value> {
    values
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect()
}

fn amount(value: &str, currency: &str) -> Value {
    let number: f64 = value.parse().unwrap();
    json!({ "value": value, "number": number, "currency": currency })
}

#[expect(clippy::needless_pass_by_value, reason = "the tests read better so")]
fn one(input: Value) -> Value {
    json!({ "steps": [{ "id": "a", "tool": "t", "input": input }] })
}

#[test]
fn values_of_slots_become_expressions() {
    let values = slots(&[
        ("AMOUNT", amount("1200.5", "EUR")),
        ("AMOUNT_1", amount("1200.5", "EUR")),
        ("DATE_1", json!("2026-12-01")),
        ("EMAIL_1", json!("{EMAIL_1}")),
        ("PERSON_1", json!("Anna Schmidt")),
        ("LOCATION_1", json!("Rome")),
    ]);
    let plan = one(json!({
        "amount": 1200.50,
        "currency": "EUR",
        "when": "2026-12-01T00:00:00Z",
        "to": "{EMAIL_1}",
        "text": "Anna Schmidt, on 2026-12-01: {{ params.x }}",
    }));
    let general = generalise(&plan, &values);
    let expected = one(json!({
        "amount": "{{ slots.AMOUNT_1.number }}",
        "currency": "{{ slots.AMOUNT_1.currency }}",
        "when": "2026-12-01T00:00:00Z",
        "to": "{{ slots.EMAIL_1 }}",
        "text": "{{ slots.PERSON_1 }}, on {{ slots.DATE_1 }}: {{ params.x }}",
    }));
    // `2026-12-01T…` is one word, so that the date is not all of it.
    assert_eq!(general.plan, expected);
    assert_eq!(general.literal, ["LOCATION_1"]);
    assert!(general.dated);
}

#[test]
fn uncertain_values_are_left() {
    let two = slots(&[("NUMBER_1", json!({ "value": "2", "number": 2 }))]);
    let left = |plan: Value, slots: &BTreeMap<String, Value>| {
        let general = generalise(&plan, slots);
        assert_eq!(general.plan, plan);
        general.literal
    };
    // Under two names, in a text, and as a name.
    assert_eq!(
        left(one(json!({ "quantity": 2, "warehouse": 2 })), &two),
        ["NUMBER_1"]
    );
    assert_eq!(
        left(one(json!({ "quantity": 2, "text": "Level 2" })), &two),
        ["NUMBER_1"]
    );
    assert_eq!(left(one(json!({ "2": 2 })), &two), ["NUMBER_1"]);
    assert_eq!(left(one(json!({ "quantity": 3 })), &two), ["NUMBER_1"]);
    // In one place it is certain.
    let general = generalise(
        &one(json!({ "items": [{ "quantity": 2 }, { "quantity": "2" }] })),
        &two,
    );
    assert_eq!(
        general.plan["steps"][0]["input"]["items"],
        json!([{ "quantity": "{{ slots.NUMBER_1.number }}" }, { "quantity": "{{ slots.NUMBER_1.value }}" }])
    );
    assert!(general.literal.is_empty());
    // The currency is part of the value.
    let pay = slots(&[("AMOUNT_1", amount("500", "EUR"))]);
    assert_eq!(left(one(json!({ "amount": 500 })), &pay), ["AMOUNT_1"]);
    // Two slots with the same value.
    let same = slots(&[
        ("LOCATION_1", json!("Jordan")),
        ("PERSON_1", json!("Jordan")),
    ]);
    assert_eq!(
        left(one(json!("Jordan")), &same),
        ["LOCATION_1", "PERSON_1"]
    );
    // Not within words and numbers, and a JSON number is no text.
    let id = slots(&[("ID_1", json!("4711"))]);
    assert_eq!(left(one(json!("x4711 47110 4,711 4711.5")), &id), ["ID_1"]);
    assert_eq!(left(one(json!({ "id": 4711 })), &id), ["ID_1"]);
    let general = generalise(&one(json!("(4711)")), &id);
    assert_eq!(general.plan, one(json!("({{ slots.ID_1 }})")));
}

#[test]
fn expressions_use_slots() {
    let values = slots(&[
        ("AMOUNT_1", amount("500", "EUR")),
        ("DATE_1", json!("2026-12-01")),
    ]);
    let literal = |input: Value| generalise(&one(input), &values).literal;
    assert!(literal(json!("{{ slots.AMOUNT }} {{ slots['DATE_1'] }}")).is_empty());
    assert_eq!(
        literal(json!("{{ slots.AMOUNT.number }} {{ slots.DATE }}")),
        ["AMOUNT_1"]
    );
    assert!(
        literal(json!(
            "{{ slots.AMOUNT.number }} {{ slots.AMOUNT_1.currency }} {{ slots.DATE }}"
        ))
        .is_empty()
    );
    // A value within an expression cannot be replaced.
    assert_eq!(
        literal(json!(
            "{{ slots.AMOUNT }} {{ '2026-12-01' }} {{ slots.DATE }}"
        )),
        ["DATE_1"]
    );
}

#[test]
fn a_literal_that_may_have_been_computed_from_a_slot_binds_its_value() {
    let values = slots(&[
        ("AMOUNT_1", amount("500", "EUR")),
        ("LOCATION_1", json!("New York")),
        (
            "NUMBER_1",
            json!({ "value": "30", "number": 30, "unit": "minute" }),
        ),
    ]);
    let all = "{{ slots.AMOUNT.value }} {{ slots.AMOUNT.currency }} {{ slots.LOCATION }} {{ slots.NUMBER }}";
    for (other, expected) in [
        // In minor units, with decimals, and in seconds.
        (json!(50_000), &["AMOUNT_1"][..]),
        (json!("EUR_CENTS 50000"), &["AMOUNT_1"]),
        (json!("500.00"), &["AMOUNT_1"]),
        (json!(5e2), &[]),
        (json!(1800), &["NUMBER_1"]),
        (json!("{{ 50000 }}"), &["AMOUNT_1"]),
        (json!("{{ slots.AMOUNT.number * 100 }}"), &[]),
        // In another spelling.
        (json!("eur"), &["AMOUNT_1"]),
        (json!("€"), &["AMOUNT_1"]),
        (json!("https://example.com/new-york"), &["LOCATION_1"]),
        (json!("New Yorker"), &[]),
        (json!(7), &[]),
    ] {
        let plan = one(json!({ "text": all, "other": other }));
        let general = generalise(&plan, &values);
        assert_eq!(general.literal, expected, "{other}");
    }
}

#[test]
fn slots_that_are_written_in_the_plan_are_known() {
    let values = slots(&[
        ("AMOUNT_1", amount("500", "EUR")),
        ("DATE_1", json!("2026-12-01")),
        ("LOCATION_1", json!("Rome")),
    ]);
    let plan = one(json!({
        "amount": 500, "currency": "{{ slots.AMOUNT.currency }}", "day": "{{ slots.DATE }}", "until": "2026-12-01", "to": "{{ slots.LOCATION }}",
    }));
    let general = generalise(&plan, &values);
    assert!(general.literal.is_empty() && !general.dated);
    assert_eq!(general.written, ["AMOUNT_1", "DATE_1"]);
    assert!(generalise(&general.plan, &values).written.is_empty());
}

#[test]
fn a_plan_with_a_date_of_its_own_is_not_cacheable() {
    let values = slots(&[("DATE_1", json!("2026-12-01"))]);
    for (input, cacheable) in [
        (json!({ "until": "2026-11-30" }), false),
        (json!({ "until": "30.11.2026" }), false),
        (json!({ "until": 20_261_130 }), false),
        (json!({ "until": 1_796_000_000 }), false),
        (json!({ "month": 11 }), false),
        (json!({ "title": "Report of November" }), false),
        // The slot's, and none.
        (json!({ "until": "2026-12-01" }), true),
        (json!({ "until": "{{ slots.DATE }}", "limit": 50 }), true),
    ] {
        assert_eq!(
            is_cacheable(&one(input.clone()), &values),
            cacheable,
            "{input}"
        );
    }
}

#[test]
fn shapes_do_not_depend_on_names_and_order() {
    let plan = json!({
        "steps": [
            { "id": "reserve", "tool": "reserve", "input": { "id": "4711" }, "compensate": { "tool": "free", "input": "{{ steps.reserve.output }}" } },
            { "id": "ask", "tool": "ask", "depends_on": [] },
            { "id": "pay", "tool": "pay", "input": "{{ steps.reserve.output.id }}", "depends_on": ["ask", "reserve"], "when": "{{steps.ask.output}}" },
        ],
        "output": "{{ steps['pay'].output }}",
    });
    let other = json!({
        "output": "{{steps.c.output}}",
        "steps": [
            { "id": "c", "tool": "pay", "depends_on": ["a", "b"], "when": "{{ steps.b.output }}", "input": "{{ steps.a.output.id }}" },
            { "id": "b", "tool": "ask", "input": {}, "irreversible": false },
            { "id": "a", "tool": "reserve", "input": { "id": "88" }, "compensate": { "input": "{{ steps.a.output }}", "tool": "free" } },
        ],
    });
    let of = |plan: &Value, id: &str| shape(plan, &slots(&[("ID_1", json!(id))]));
    assert_eq!(of(&plan, "4711"), of(&other, "88"));
    assert_eq!(of(&plan, "4711"), of(&of(&plan, "4711"), "4711"));
    for (pointer, value) in [
        ("/steps/0/tool", json!("refuse")),
        ("/steps/1/depends_on", json!(["reserve"])),
        ("/steps/2/input", json!("{{ steps.ask.output.id }}")),
        ("/steps/2/when", json!(true)),
        ("/output", json!("{{ steps.ask.output }}")),
        ("/steps/0/input/id", json!("4712")),
    ] {
        let mut changed = plan.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        assert_ne!(of(&plan, "4711"), of(&changed, "4711"), "{pointer}");
    }
}

#[test]
fn what_is_no_plan_keeps_its_form() {
    for odd in [
        json!(null),
        json!({ "steps": 5 }),
        json!({ "steps": [5] }),
        json!({ "steps": [{ "id": 5 }] }),
        json!({ "steps": [{ "id": "a", "tool": "t" }, { "id": "a", "tool": "t" }] }),
        json!({ "steps": [{ "id": "a", "tool": "t", "depends_on": ["b"] }, { "id": "b", "tool": "t", "depends_on": ["a"] }] }),
    ] {
        assert_eq!(shape(&odd, &BTreeMap::new()), odd);
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let texts = proptest::sample::select(vec![
        "Rome",
        "4711",
        "2",
        "{{ slots.ID }}",
        "{{ steps.s0.output }}",
        "{{ '",
        "{{",
        "to Rome on 2026-12-01",
        "ärger 4711é",
        "\u{301}2",
    ]);
    let leaf = prop_oneof![
        texts.prop_map(|text| json!(text)),
        any::<f64>().prop_map(|n| json!(n)),
        Just(json!(2)),
        Just(json!(4711)),
        Just(Value::Null),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::btree_map("[a-c2]", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Steps in another order and with other names have the same shape.
    #[test]
    fn shapes_of_any_plans(inputs in proptest::collection::vec((any_value(), any::<prop::sample::Index>()), 1..6), rotate in 0..6_usize) {
        let values = slots(&[
            ("ID_1", json!("4711")),
            ("LOCATION_1", json!("Rome")),
            ("NUMBER_1", json!({ "value": "2", "number": 2 })),
        ]);
        let plan = |name: &str, rotate: usize| {
            let steps = inputs.iter().enumerate().map(|(n, (input, parent))| {
                let text = input.to_string().replace("steps.s0", &format!("steps.{name}0"));
                let input: Value = serde_json::from_str(&text).unwrap();
                let parents = if n > 0 { vec![format!("{name}{}", parent.index(n))] } else { vec![] };
                // Different tools: of equal steps it is not known which is which.
                json!({ "id": format!("{name}{n}"), "tool": format!("t{n}"), "input": input, "depends_on": parents })
            });
            let mut steps: Vec<_> = steps.collect();
            let by = rotate % steps.len();
            steps.rotate_left(by);
            json!({ "steps": steps })
        };
        let shaped = shape(&plan("s", 0), &values);
        prop_assert_eq!(&shaped, &shape(&plan("other", rotate), &values));
        prop_assert_eq!(&shaped, &shape(&shaped, &values));
        // Generalising a second time changes nothing.
        let general = generalise(&plan("s", 0), &values);
        prop_assert_eq!(&generalise(&general.plan, &values).plan, &general.plan);
    }
}
