use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;

const FULL: &str = r#" {
    "specversion": "1.0", "id": "e-1", "source": "/shop", "type": "order.paid", "subject": "orders/7",
    "time": "2025-01-31T12:00:00.5Z", "datacontenttype": "application/json", "dataschema": "https://x.test/s#1",
    "entity": {"type": "order", "external_id": "7", "display_name": "Order \u0037"},
    "correlationid": "c", "causationid": "d", "idempotencykey": "i", "partitionkey": "p",
    "traceparent": "00-1-2-03", "sampled": true, "rank": -12,
    "data": {"total" : 9.50}
} "#;

#[test]
fn an_event_with_all_attributes() {
    let parsed = structured(FULL, Form::OmniLink).unwrap();
    let expected = Event {
        tenant: acme(),
        id: "e-1".into(),
        source: "/shop".into(),
        kind: "order.paid".into(),
        subject: Some("orders/7".into()),
        entity: Some(Entity {
            kind: "order".into(),
            external_id: "7".into(),
            display_name: Some("Order 7".into()),
        }),
        correlation_id: Some("c".into()),
        causation_id: Some("d".into()),
        time: 1_738_324_800_500_000,
        time_source: TimeSource::Producer,
        data: Data::Json(r#"{"total" : 9.50}"#.into()),
        extensions: concat!(
            r#"{"datacontenttype":"application/json","dataschema":"https://x.test/s#1","partitionkey":"p","#,
            r#""traceparent":"00-1-2-03","sampled":true,"rank":-12}"#
        )
        .into(),
        tombstone: false,
        idempotency_key: Some("i".into()),
    };
    assert_eq!(parsed.event, expected);
    assert!(
        matches!(parsed.event.data, Data::Json(Cow::Borrowed(_))),
        "copied"
    );
    parsed.event.check().unwrap();
    assert_eq!(parsed.event.clone().into_owned(), expected);
}

#[test]
fn a_minimal_event_gets_defaults() {
    let body = minimal("");
    let event = structured(&body, Form::OmniLink).unwrap().event;
    assert_eq!(
        (event.time, event.time_source),
        (NOW.0 * 1000, TimeSource::Receiver)
    );
    assert_eq!(
        (&*event.extensions, event.subject, event.entity),
        ("{}", None, None)
    );

    let nulls = r#","specversion":null,"subject":null,"time":null,"entity":null,"entitytype":null,"data_base64":null,
        "datacontenttype":null,"dataschema":null,"correlationid":null,"anything":null,"omnilinkkind":null"#;
    let with_nulls = minimal(nulls);
    let parsed = structured(&with_nulls, Form::OmniLink).unwrap();
    assert_eq!(
        parsed.event,
        structured(&body, Form::OmniLink).unwrap().event
    );
    // Another body all the same: it is compared as it came.
    assert_ne!(
        parsed.body_hash,
        structured(&body, Form::OmniLink).unwrap().body_hash
    );
}

#[test]
fn data_may_be_any_json_value_and_absent_is_not_null() {
    let with =
        |data: &str| format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t"{data}}}"#);
    for value in [
        "null",
        "0",
        "false",
        "\"\"",
        "[]",
        "{}",
        "\"\\u0000\"",
        "-0.0e1",
    ] {
        for form in [Form::CloudEvents, Form::OmniLink] {
            let body = with(&format!(",\"data\": {value} "));
            let event = structured(&body, form).unwrap().event;
            assert_eq!(event.data, Data::Json(value.into()));
        }
    }
    for none in ["", ",\"data_base64\":null"] {
        for form in [Form::CloudEvents, Form::OmniLink] {
            let body = with(none);
            assert_eq!(structured(&body, form).unwrap().event.data, Data::Absent);
        }
    }
    let xml = with(r#","datacontenttype":"application/xml","data":"<a/>""#);
    assert_eq!(
        structured(&xml, Form::CloudEvents).unwrap().event.data,
        Data::Json("\"<a/>\"".into())
    );
    let bytes = with(r#","data_base64":"AAH/""#);
    for form in [Form::CloudEvents, Form::OmniLink] {
        assert_eq!(
            structured(&bytes, form).unwrap().event.data,
            Data::Binary(vec![0, 1, 255].into())
        );
    }
}

#[test]
fn entities_are_flat_attributes_or_an_object() {
    let entity = |more: &str| {
        structured(&minimal(more), Form::OmniLink).map(|p| p.event.entity.map(|e| format!("{e:?}")))
    };
    let object = entity(r#","entity":{"type":"a","external_id":"b","display_name":null}"#).unwrap();
    assert_eq!(
        entity(r#","entitytype":"a","entityid":"b""#).unwrap(),
        object
    );
    assert_eq!(
        entity(r#","entitytype":"a","entityid":"b","entity":{"external_id":"b","type":"a"}"#)
            .unwrap(),
        object
    );
    // A strict CloudEvent may use the name for itself.
    let strict =
        r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","entity":"x","events":"y"}"#;
    let event = structured(strict, Form::CloudEvents)
        .unwrap()
        .event
        .into_owned();
    assert_eq!(
        (event.entity, &*event.extensions),
        (None, r#"{"entity":"x","events":"y"}"#)
    );
}

#[test]
fn each_wrong_envelope_has_its_code() {
    let long = "x".repeat(513);
    let deep = format!("{}1{}", "[".repeat(128), "]".repeat(128));
    let cases: Vec<(String, &str)> = [
        (r#"{"source":"/s","type":"t","data":1}"#, "missing_id"),
        (
            r#"{"id":"","source":"/s","type":"t","data":1}"#,
            "missing_id",
        ),
        (
            r#"{"id":null,"source":"/s","type":"t","data":1}"#,
            "missing_id",
        ),
        (
            r#"{"id":1,"source":"/s","type":"t","data":1}"#,
            "invalid_payload",
        ),
        (r#"{"id":"1","type":"t","data":1}"#, "missing_source"),
        (
            r#"{"id":"1","source":"","type":"t","data":1}"#,
            "missing_source",
        ),
        (
            r#"{"id":"1","source":"my shop","type":"t","data":1}"#,
            "invalid_payload",
        ),
        (r#"{"id":"1","source":"/s","data":1}"#, "missing_type"),
        (
            r#"{"id":"1","source":"/s","type":"","data":1}"#,
            "missing_type",
        ),
        (r#"{"id":"1","source":"/s","type":"t"}"#, "missing_data"),
        (
            r#"{"id":"1","source":"/s","type":"t","data_base64":null}"#,
            "missing_data",
        ),
        ("", "invalid_payload"),
        ("null", "invalid_payload"),
        ("[]", "invalid_payload"),
        ("\"x\"", "invalid_payload"),
        ("{}", "missing_id"),
    ]
    .map(|(body, code)| (body.to_owned(), code))
    .into_iter()
    .chain(
        [
            (r#","specversion":"0.3""#, "invalid_payload"),
            (r#","specversion":1.0"#, "invalid_payload"),
            (r#","specversion":"""#, "invalid_payload"),
            (r#","data_base64":"AAA=""#, "invalid_payload"),
            (r#","data":2"#, "invalid_payload"),
            (r#","\u0069d":"2""#, "invalid_payload"),
            (r#","subject":"""#, "invalid_payload"),
            (r#","subject":7"#, "invalid_payload"),
            (r#","time":"yesterday""#, "invalid_payload"),
            (r#","time":"2025-01-31 12:00:00Z""#, "invalid_payload"),
            (r#","time":1738324800"#, "invalid_payload"),
            (r#","time":"""#, "invalid_payload"),
            (r#","dataschema":"a b""#, "invalid_payload"),
            (r#","dataschema":"""#, "invalid_payload"),
            (r#","datacontenttype":"""#, "invalid_payload"),
            (r#","entity":"order""#, "invalid_payload"),
            (r#","entity":[]"#, "invalid_payload"),
            (r#","entity":{}"#, "missing_entity_type"),
            (
                r#","entity":{"type":"","external_id":"1"}"#,
                "missing_entity_type",
            ),
            (r#","entity":{"type":"a"}"#, "missing_entity_external_id"),
            (
                r#","entity":{"type":"a","external_id":""}"#,
                "missing_entity_external_id",
            ),
            (
                r#","entity":{"type":"a","external_id":null}"#,
                "missing_entity_external_id",
            ),
            (
                r#","entity":{"type":"a","external_id":7}"#,
                "invalid_payload",
            ),
            (
                r#","entity":{"type":"a","external_id":"7","name":"x"}"#,
                "invalid_payload",
            ),
            (
                r#","entity":{"type":"a","type":"b","external_id":"7"}"#,
                "invalid_payload",
            ),
            (r#","entitytype":"a""#, "missing_entityid"),
            (r#","entityid":"a""#, "missing_entitytype"),
            (r#","entityname":"a""#, "missing_entitytype"),
            (r#","entitytype":"","entityid":"a""#, "missing_entitytype"),
            (
                r#","entitytype":"a","entityid":"b","entity":{"type":"a","external_id":"c"}"#,
                "invalid_payload",
            ),
            (r#","correlationid":7"#, "invalid_payload"),
            (r#","events":[]"#, "invalid_payload"),
            (r#","Foo":"bar""#, "invalid_payload"),
            (r#","run_at":"x""#, "invalid_payload"),
            (r#","":"x""#, "invalid_payload"),
            (
                r#","abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklm":"x""#,
                "invalid_payload",
            ),
            (r#","omnilinktenant":"x""#, "invalid_payload"),
            (r#","omnilink":"x""#, "invalid_payload"),
            (r#","ext":{}"#, "invalid_payload"),
            (r#","ext":[]"#, "invalid_payload"),
            (r#","ext":1.5"#, "invalid_payload"),
            (r#","ext":1e2"#, "invalid_payload"),
            (r#","ext":2147483648"#, "invalid_payload"),
            (r#","ext":"\ud800""#, "invalid_payload"),
            (",", "invalid_payload"),
            (r#"} {"a":1"#, "invalid_payload"),
            (r#"},{"a":1"#, "invalid_payload"),
        ]
        .map(|(more, code)| (minimal(more), code)),
    )
    .chain([
        (minimal(&format!(",\"ext\":{deep}")), "invalid_payload"),
        (
            minimal("").replace("\"data\":1", &format!("\"data\":{deep}")),
            "invalid_payload",
        ),
        (
            minimal("").replace("\"data\":1", "\"data\":1e131072"),
            "invalid_payload",
        ),
        (
            minimal("").replace("\"1\"", &format!("\"{long}\"")),
            "invalid_payload",
        ),
        (
            minimal("").replace("\"/s\"", &format!("\"{long}\"")),
            "invalid_payload",
        ),
        (
            minimal("").replace("\"t\"", &format!("\"{long}\"")),
            "invalid_payload",
        ),
        (
            minimal(&format!(
                r#","entity":{{"type":"{long}","external_id":"1"}}"#
            )),
            "invalid_payload",
        ),
        (
            minimal(&format!(r#","entitytype":"a","entityid":"{long}""#)),
            "invalid_payload",
        ),
        (minimal(&format!(r#","{long}":1"#)), "invalid_payload"),
        (
            minimal(&format!(r#","{long}":1,"{long}":1"#)),
            "invalid_payload",
        ),
        (
            minimal(&format!(r#","entity":{{"{long}":1}}"#)),
            "invalid_payload",
        ),
    ])
    .collect();
    for (body, code) in cases {
        refused(structured(&body, Form::OmniLink), code, &body);
    }
    for (body, code) in [
        (
            r#"{"id":"1","source":"/s","type":"t"}"#,
            "missing_specversion",
        ),
        (
            r#"{"specversion":null,"id":"1","source":"/s","type":"t"}"#,
            "missing_specversion",
        ),
        (
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","entity":{"type":"a","external_id":"b"}}"#,
            "invalid_payload",
        ),
        (
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":1,"data_base64":""}"#,
            "invalid_payload",
        ),
        (
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"A"}"#,
            "invalid_payload",
        ),
        (
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":7}"#,
            "invalid_payload",
        ),
    ] {
        refused(structured(body, Form::CloudEvents), code, body);
    }
    refused(
        parse_structured(b"{\"id\":\"\xff\"}", Form::OmniLink, &acme(), NOW),
        "invalid_payload",
        "not UTF-8",
    );
}

#[test]
fn limits_are_inclusive_and_count_unescaped_bytes() {
    let id = "ä".repeat(256);
    let escaped = "\\u00e4".repeat(256);
    for text in [&id, &escaped] {
        let body = minimal("").replace("\"1\"", &format!("\"{text}\""));
        assert_eq!(structured(&body, Form::OmniLink).unwrap().event.id, id);
    }
    let deepest = format!("{}1{}", "[".repeat(127), "]".repeat(127));
    let body = minimal("").replace("\"data\":1", &format!("\"data\":{deepest}"));
    structured(&body, Form::OmniLink).unwrap();
    structured(
        &minimal(
            r#","abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijkl":-2147483648"#,
        ),
        Form::OmniLink,
    )
    .unwrap();
    // Names that other systems use.
    let others =
        r#","knativekafkapartition":"3","iodebeziumtxtotalorder":"1","omnilinkkind":"event""#;
    structured(&minimal(others), Form::OmniLink).unwrap();
}

/// Postgres cannot store U+0000, and replacing it by U+FFFD would make two keys equal.
#[test]
fn keys_must_not_contain_nul() {
    for more in [
        r#"{"id":"a\u0000","source":"/s","type":"t","data":1}"#,
        r#"{"id":"a","source":"/s\u0000","type":"t","data":1}"#,
        r#"{"id":"a","source":"/s","type":"\u0000","data":1}"#,
        r#"{"id":"a","source":"/s","type":"t","data":1,"entity":{"type":"\u0000","external_id":"b"}}"#,
        r#"{"id":"a","source":"/s","type":"t","data":1,"entity":{"type":"a","external_id":"b\u0000"}}"#,
        r#"{"id":"a","source":"/s","type":"t","data":1,"entity":{"type":"a","external_id":"b","display_name":"\u0000"}}"#,
        r#"{"id":"a","source":"/s","type":"t","data":1,"entitytype":"\u0000","entityid":"b"}"#,
        r#"{"id":"a","source":"/s","type":"t","data":1,"entitytype":"a","entityid":"\u0000"}"#,
        r#"{"id":"a","source":"/s","type":"t","data":1,"entitytype":"a","entityid":"b","entityname":"\u0000"}"#,
    ] {
        refused(structured(more, Form::OmniLink), "invalid_payload", more);
    }
    let elsewhere = minimal(r#","subject":"\u0000","correlationid":"\u0000","x":"\u0000""#)
        .replace("\"data\":1", "\"data\":{\"\\u0000\":\"\\u0000\"}");
    structured(&elsewhere, Form::OmniLink).unwrap();
}

#[test]
fn the_written_size_of_all_numbers_is_limited() {
    let with = |numbers: &str| minimal("").replace("\"data\":1", &format!("\"data\":[{numbers}]"));
    let many = |number: &str, count: usize| vec![number; count].join(",");
    // 131,072 digits each: eight are 1 MiB, and the one of the smallest number does not go in any more.
    let most = with(&many("1e131071", 8));
    structured(&most, Form::OmniLink).unwrap();
    for numbers in [
        many("1e131071", 9_000),
        format!("{},0", many("1e131071", 8)),
        many("-1e131071", 8),
        many("1e-16383", 64),
    ] {
        let body = with(&numbers);
        refused(
            structured(&body, Form::OmniLink),
            "invalid_payload",
            &numbers[..40],
        );
        let batch = format!("[{body},{most},{most}]");
        let items = parse_batch(batch.as_bytes(), Form::OmniLink, 50, &acme(), NOW).unwrap();
        let good: Vec<_> = items.iter().map(|item| item.parsed.is_ok()).collect();
        assert_eq!(good, [false, true, true], "each item has its own measure");
    }
    structured(&with(&many("1e-16383", 63)), Form::OmniLink).unwrap();
    structured(&with(&many("0e1073741822", 9_000)), Form::OmniLink).unwrap();
    structured(&with(&many("1.5", 50_000)), Form::OmniLink).unwrap();
}

#[test]
fn a_byte_order_mark_is_ignored() {
    let body = minimal("");
    let marked = format!("\u{feff}{body}");
    assert_eq!(
        structured(&marked, Form::OmniLink),
        structured(&body, Form::OmniLink)
    );
    for batch in [
        format!("\u{feff}[{body}]"),
        format!("\u{feff} {{\"events\":[{body}]}}"),
    ] {
        let items = parse_batch(batch.as_bytes(), Form::OmniLink, 9, &acme(), NOW).unwrap();
        assert_eq!(items[0].raw, body.as_bytes());
        let Ok(Body::Batch(_)) = parse(batch.as_bytes(), 9, &acme(), NOW) else {
            panic!("no batch");
        };
    }
    let agents = "\u{feff}{\"eventId\":\"e\",\"eventType\":\"t\",\"source\":\"s\",\"payload\":1}";
    assert!(parse(agents.as_bytes(), 9, &acme(), NOW).is_ok());
    for bad in [format!("\u{feff}\u{feff}{body}"), "\u{feff}".to_owned()] {
        refused(
            structured(&bad, Form::OmniLink),
            "invalid_payload",
            "more than one",
        );
    }
}

#[test]
fn a_retry_may_have_another_time_and_trace() {
    let hash = |more: &str| {
        structured(&minimal(more), Form::OmniLink)
            .unwrap()
            .body_hash
    };
    let first = hash(r#","time":"2025-01-31T12:00:00Z","traceparent":"00-1-2-03","x":"1""#);
    for same in [
        r#","x":"1""#,
        r#","x":"1","time":"2025-01-31T12:00:01Z""#,
        r#","tracestate":"a=1","x":"1","traceparent":"00-9-9-09""#,
        r#","time":null,"x":"1""#,
    ] {
        let again = hash(same);
        assert!(
            again.is_same(&first) && again.matches(&first.stored()),
            "{same}"
        );
        assert!(
            !again.matches(&first.of_all()),
            "version 1 compares all: {same}"
        );
    }
    let other = hash(r#","x":"2""#);
    assert!(!other.is_same(&first) && !other.matches(&first.stored()));
    assert!(first.matches(&first.of_all()));
    // What is within the data is compared.
    let data = |time| minimal("").replace("\"data\":1", &format!("\"data\":{{\"time\":{time}}}"));
    let of = |body: &str| structured(body, Form::OmniLink).unwrap().body_hash;
    assert!(!of(&data("1")).is_same(&of(&data("2"))));
}

#[test]
fn an_object_is_one_event_or_a_batch() {
    let parse =
        |body: &str| parse(body.as_bytes(), 9, &acme(), NOW).map(|b| matches!(b, Body::Batch(_)));
    assert_eq!(parse(&minimal("")), Ok(false));
    assert_eq!(parse(&minimal(r#","events":"an extension""#)), Ok(false));
    for batch in [
        "[]",
        " [ ] ",
        r#"{"events":[]}"#,
        " { \"events\" :\n[ ] } ",
        r#"{"\u0065vents":[]}"#,
    ] {
        assert_eq!(parse(batch), Ok(true), "{batch}");
    }
    refused(
        parse(&minimal(r#","events":[]"#)),
        "invalid_payload",
        "events beside others",
    );
}

proptest! {
    #[test]
    fn random_bytes_never_panic(body in vec(any::<u8>(), 0..200)) {
        for form in [Form::CloudEvents, Form::OmniLink] {
            let _ = parse_structured(&body, form, &acme(), NOW);
        }
        let _ = parse(&body, 50, &acme(), NOW);
    }

    #[test]
    fn mutated_envelopes_never_panic_and_what_passes_is_sound(
        changes in vec((any::<Index>(), "[\\x00-\\x7fä]{0,3}", any::<bool>()), 1..6),
    ) {
        let mut body = FULL.as_bytes().to_vec();
        for (at, text, replace) in changes {
            let at = at.index(body.len());
            let end = if replace { (at + text.len()).min(body.len()) } else { at };
            body.splice(at..end, text.into_bytes());
        }
        for form in [Form::CloudEvents, Form::OmniLink] {
            if let Ok(parsed) = parse_structured(&body, form, &acme(), NOW) {
                prop_assert_eq!(parsed.event.check(), Ok(()));
                prop_assert_eq!(Ok(parsed.body_hash.of_all()), canonical_hash(&body));
            }
        }
    }

    #[test]
    fn any_data_arrives_as_it_was_written(json in json()) {
        let body = minimal("").replace("\"data\":1", &format!("\"data\": {json} "));
        let parsed = structured(&body, Form::OmniLink).unwrap();
        prop_assert_eq!(parsed.event.data, Data::Json(json.into()));
    }
}
