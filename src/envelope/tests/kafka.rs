use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    envelope::{
        avro::{decode_event, encode_event, encode_ingress},
        foreign::NoRegistry,
        kafka::{self, BATCH_MAX, Content, Inbound, Unread},
        schemas,
    },
    log::Record,
};

const CE: [(&str, &str); 4] = [
    ("ce_specversion", "1.0"),
    ("ce_id", "1"),
    ("ce_source", "/s"),
    ("ce_type", "t"),
];
const TENANT: (&str, &str) = ("omnilink-tenant", "acme");
const STRUCTURED: (&str, &str) = (
    "content-type",
    "application/cloudevents+json; charset=utf-8",
);
/// Headers, value and expected error code.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [u8], &'a str);

const STRICT: &str = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t"}"#;

fn record(headers: &[&[(&str, &str)]], value: Option<&[u8]>) -> Record {
    let headers = headers.concat().into_iter();
    Record {
        key: None,
        value: value.map(Bytes::copy_from_slice),
        headers: headers
            .map(|(name, value)| {
                (
                    name.to_owned(),
                    Some(Bytes::copy_from_slice(value.as_bytes())),
                )
            })
            .collect(),
    }
}

fn read(record: &Record, timestamp: Millis) -> Result<Inbound<'_>, Invalid> {
    kafka::read(record, timestamp, &NoRegistry).map_err(|unread| match unread {
        Unread::Invalid(invalid) => invalid,
        Unread::Waiting(why) => panic!("there is no registry to wait for: {why}"),
    })
}

fn one(record: &Record) -> Event<'_> {
    match read(record, NOW) {
        Ok(Inbound::One(Content::Event(event))) => event,
        other => panic!("{other:?}"),
    }
}

fn start(record: &Record) -> ParsedStart<'_> {
    match read(record, NOW) {
        Ok(Inbound::One(Content::Start(start))) => start,
        other => panic!("{other:?}"),
    }
}

#[test]
fn forms_are_detected_in_the_order_structured_binary_avro_headerless() {
    let structured = record(
        &[&[TENANT, STRUCTURED], &CE],
        Some(STRICT.replace("\"1\"", "\"body\"").as_bytes()),
    );
    assert_eq!(one(&structured).id, "body");
    assert_eq!(one(&structured).data, Data::Absent);

    // A body that looks like Avro, but the headers say what it is.
    let binary = record(&[&[TENANT], &CE], Some(&[0, 0, 0, 0, 1, 9]));
    let event = one(&binary);
    assert_eq!(
        (event.data, event.time),
        (Data::Binary((&[0, 0, 0, 0, 1, 9][..]).into()), NOW.0 * 1000)
    );

    let json = record(
        &[&[TENANT, ("content-type", "application/json")], &CE],
        Some(b"{\"a\":1}"),
    );
    let event = one(&json);
    assert_eq!(event.data, Data::Json("{\"a\":1}".into()));
    assert_eq!(
        event.extensions,
        r#"{"datacontenttype":"application/json"}"#
    );

    let headerless = format!(
        " {}",
        minimal(r#","specversion":"1.0","entity":{"type":"a","external_id":"b"}"#)
    );
    let headerless = record(
        &[&[TENANT, ("content-type", "application/json")]],
        Some(headerless.as_bytes()),
    );
    assert_eq!(one(&headerless).entity.unwrap().external_id, "b");
}

#[test]
fn a_header_given_twice_is_refused() {
    for twice in [
        ("ce_id", "2"),
        ("ce_subject", "again"),
        ("ce_type", "t"),
        ("ce_ext", "again"),
        ("content-type", "text/plain"),
        TENANT,
    ] {
        let once = [
            ("ce_subject", "%41"),
            ("ce_ext", "1"),
            ("content-type", "text/plain"),
        ];
        let good = record(&[&[TENANT], &CE, &once], Some(b"1"));
        assert_eq!(one(&good).subject.as_deref(), Some("%41"));
        let bad = record(&[&[TENANT], &CE, &once, &[twice]], Some(b"1"));
        refused(read(&bad, NOW), "invalid_payload", twice.0);
    }
    for name in ["content-type", "omnilink-tenant"] {
        let headers: &[&[(&str, &str)]] = &[&[TENANT, STRUCTURED, (name, "acme")]];
        let bad = record(headers, Some(STRICT.as_bytes()));
        refused(read(&bad, NOW), "invalid_payload", name);
    }
    // One without a value is absent; what is no attribute may be there as often as it likes.
    let mut nulls = record(&[&[TENANT], &CE, &[("x", "1"), ("x", "2")]], Some(b"1"));
    nulls.headers.insert(0, ("ce_id".into(), None));
    assert_eq!(one(&nulls).id, "1");
}

#[test]
fn a_null_value_is_an_event_without_data() {
    let entity = [("ce_entitytype", "order"), ("ce_entityid", "7")];
    let record_of = |headers: &[&[(&str, &str)]]| record(headers, None);
    for value in [None, Some(&b""[..])] {
        let about = record(&[&[TENANT], &CE, &entity], value);
        let event = one(&about);
        assert!(!event.tombstone);
        assert_eq!(
            (event.data, event.entity.unwrap().external_id),
            (Data::Absent, "7".into())
        );
        let alone = record(&[&[TENANT], &CE], value);
        assert_eq!((one(&alone).data, one(&alone).entity), (Data::Absent, None));
    }
    refused(
        read(&record_of(&[&[TENANT], &CE, &entity[..1]]), NOW),
        "missing_entityid",
        "half an entity",
    );
    refused(
        read(&record_of(&[&[TENANT], &CE[1..], &entity]), NOW),
        "unrecognised_payload",
        "three headers",
    );
    refused(
        read(&record_of(&[]), NOW),
        "unrecognised_payload",
        "nothing",
    );
    refused(
        read(&record_of(&[&[TENANT, STRUCTURED]]), NOW),
        "invalid_payload",
        "structured without a value",
    );
}

#[test]
fn each_wrong_record_has_its_code() {
    let strict = |more: &str| STRICT.replace('}', &format!("{more}}}"));
    let unknown = strict(r#","omnilinkkind":"plan""#);
    let beside = strict(r#","omnilinkkind":"command","params":{}"#);
    let broken = strict(",");
    let twice = strict(r#","id":"2""#);
    let cases: &[Case<'_>] = &[
        (&[STRUCTURED], STRICT.as_bytes(), "missing_tenant"),
        (
            &[STRUCTURED, ("omnilink-tenant", "")],
            STRICT.as_bytes(),
            "invalid_tenant",
        ),
        (
            &[STRUCTURED, ("omnilink-tenant", "a b")],
            STRICT.as_bytes(),
            "invalid_tenant",
        ),
        (&[STRUCTURED, TENANT], b"{}", "missing_specversion"),
        (&[STRUCTURED, TENANT], b"[]", "invalid_payload"),
        (
            &[STRUCTURED, TENANT],
            unknown.as_bytes(),
            "unsupported_kind",
        ),
        // In the CloudEvents format the members of a start are in `data`.
        (&[STRUCTURED, TENANT], beside.as_bytes(), "invalid_payload"),
        (
            &[TENANT, ("content-type", "application/cloudevents+avro")],
            b"x",
            "unsupported_media_type",
        ),
        (
            &[("content-type", "application/cloudevents+protobuf")],
            b"x",
            "unsupported_media_type",
        ),
        (
            &[("content-type", "application/cloudevents-batch+avro")],
            b"x",
            "unsupported_media_type",
        ),
        (
            &[("content-type", "application/cloudevents-batch+json")],
            b"[]",
            "missing_tenant",
        ),
        (
            &[
                TENANT,
                ("content-type", "application/cloudevents-batch+json"),
            ],
            b"[1",
            "invalid_payload",
        ),
        (&[CE[0], CE[1], CE[2], CE[3]], b"1", "missing_tenant"),
        (
            &[TENANT, CE[0], ("ce_id", ""), CE[2], CE[3]],
            b"1",
            "missing_id",
        ),
        (
            &[TENANT, CE[0], ("ce_id", "a\0"), CE[2], CE[3]],
            b"1",
            "invalid_payload",
        ),
        (
            &[TENANT, ("ce_specversion", "0.3"), CE[1], CE[2], CE[3]],
            b"1",
            "invalid_payload",
        ),
        (
            &[
                TENANT,
                CE[0],
                CE[1],
                CE[2],
                CE[3],
                ("ce_omnilinkkind", "task"),
            ],
            b"1",
            "invalid_payload",
        ),
        (&[TENANT, CE[1], CE[2], CE[3]], b"1", "unrecognised_payload"),
        (&[TENANT], &[0, 0, 0, 0, 7, 1], "unknown_schema"),
        (&[TENANT], &[0, 0x40, 0, 0, 1, 1], "unknown_schema"),
        (&[TENANT], &[0, 0x7f, 0, 0, 0, 1], "unknown_schema"),
        (&[TENANT], &[0, 0x40, 0, 0, 0, 1], "invalid_payload"),
        (&[TENANT], &[0, 0x40, 0, 0], "unrecognised_payload"),
        (&[], STRICT.as_bytes(), "missing_tenant"),
        (&[TENANT], broken.as_bytes(), "invalid_payload"),
        (&[TENANT], twice.as_bytes(), "invalid_payload"),
        (&[TENANT], unknown.as_bytes(), "unsupported_kind"),
        (
            &[TENANT],
            br#"{"id":"1","source":"/s","type":"t","data":1}"#,
            "unrecognised_payload",
        ),
        (
            &[TENANT],
            br#"{"data":{"specversion":"1.0"}}"#,
            "unrecognised_payload",
        ),
        (
            &[TENANT],
            br#"{"eventId":"1","eventType":"a:b.c"}"#,
            "missing_source",
        ),
        (&[TENANT], b"[]", "unrecognised_payload"),
        (&[TENANT], b"hello", "unrecognised_payload"),
        (&[TENANT], b"{", "unrecognised_payload"),
        (&[TENANT], b"\xff", "unrecognised_payload"),
        (&[TENANT], b"", "unrecognised_payload"),
    ];
    for (headers, value, code) in cases {
        refused(
            read(&record(&[headers], Some(value)), NOW),
            code,
            &String::from_utf8_lossy(value),
        );
    }
    let invalid = Record {
        headers: vec![("omnilink-tenant".into(), Some(Bytes::from_static(b"\xff")))],
        ..record(&[], Some(STRICT.as_bytes()))
    };
    refused(read(&invalid, NOW), "invalid_tenant", "not UTF-8");
}

#[test]
fn headerless_json_may_lack_data_and_have_a_byte_order_mark() {
    let tenant: &[&[(&str, &str)]] = &[&[TENANT]];
    assert_eq!(
        one(&record(tenant, Some(STRICT.as_bytes()))).data,
        Data::Absent
    );
    for text in [
        STRICT,
        r#"{"eventId":"1","eventType":"t","source":"s","payload":1}"#,
    ] {
        let marked = record(tenant, Some(format!("\u{feff} {text}").as_bytes()));
        assert_eq!(one(&marked).id, "1");
    }
    let marked = format!("\u{feff}{STRICT}");
    let marked = record(&[&[TENANT, STRUCTURED]], Some(marked.as_bytes()));
    assert_eq!(one(&marked).id, "1");
}

#[test]
fn starts_are_read_in_each_form() {
    let more = |more: &str| STRICT.replace('}', &format!(",{more}}}"));
    let members = r#"{"params":{"n":1.50},"policy":null}"#;
    let data = more(&format!(
        r#""omnilinkkind":"command","idempotencykey":"k","data":{members}"#
    ));
    let beside = more(r#""params":{"n":1.50},"idempotencykey":"k","omnilinkkind":"command""#);
    let attributes = [
        ("ce_omnilinkkind", "command"),
        ("ce_idempotencykey", "k"),
        ("content-type", "application/json"),
    ];
    let records = [
        record(&[&[TENANT, STRUCTURED]], Some(data.as_bytes())),
        record(&[&[TENANT]], Some(data.as_bytes())),
        record(&[&[TENANT]], Some(beside.as_bytes())),
        record(&[&[TENANT], &CE, &attributes], Some(members.as_bytes())),
    ];
    for record in &records {
        let start = start(record);
        assert_eq!(start.kind, StartKind::Command);
        assert_eq!(start.member("params"), Some(r#"{"n":1.50}"#));
        assert_eq!(start.member("policy"), None);
        let event = &start.event;
        assert_eq!((&*event.id, &event.data), ("1", &Data::Absent));
        assert_eq!(event.idempotency_key.as_deref(), Some("k"));
        assert_eq!(start.clone().into_owned(), start);
    }
    for kind in ["workflow", "goal", "task"] {
        let text = more(&format!(r#""omnilinkkind":"{kind}""#));
        let record = record(&[&[TENANT]], Some(text.as_bytes()));
        assert_eq!(start(&record).kind.name(), kind);
    }
    let event = more(r#""omnilinkkind":"event""#);
    assert_eq!(one(&record(&[&[TENANT]], Some(event.as_bytes()))).id, "1");
}

#[test]
fn a_start_has_the_hash_of_the_same_one_over_http() {
    let params = r#""params":{"n":1}"#;
    let request = STRICT.replace('}', &format!(",{params}}}"));
    let receipt = StartReceipt {
        kind: StartKind::Command,
        tenant: &acme(),
        received: NOW,
    };
    let (items, _) = parse_starts(request.as_bytes(), Form::OmniLink, 1, receipt).unwrap();
    let requested = items.into_iter().next().unwrap().parsed.unwrap();
    let hash = |more: &str| {
        let more = format!(r#",{more},"omnilinkkind":"command","idempotencykey":"k"}}"#);
        let text = STRICT
            .replace("\"id\":\"1\"", "\"id\":\"2\"")
            .replace('}', &more);
        start(&record(&[&[TENANT]], Some(text.as_bytes()))).body_hash
    };
    assert!(hash(params).is_same(&requested.body_hash));
    assert!(!hash(r#""params":{"n":2}"#).is_same(&requested.body_hash));
}

#[test]
fn a_batch_keeps_the_text_of_its_items() {
    let command = STRICT.replace('}', r#","omnilinkkind":"command"}"#);
    let body = format!("[{STRICT}, {{}} ,{command}]");
    let record = record(
        &[&[
            TENANT,
            ("content-type", "application/cloudevents-batch+json"),
        ]],
        Some(body.as_bytes()),
    );
    let Ok(Inbound::Batch(items)) = read(&record, NOW) else {
        panic!("no batch");
    };
    let [(good, event), (bad, missing), (other, kind)] = <[_; 3]>::try_from(items).unwrap();
    let event = event.and_then(Content::into_event).unwrap();
    assert_eq!((good, event.tenant), (STRICT.as_bytes(), acme()));
    assert_eq!(bad, b"{}");
    refused(missing, "missing_specversion", "an empty item");
    assert_eq!(other, command.as_bytes());
    let Ok(Content::Start(start)) = &kind else {
        panic!("{kind:?}");
    };
    assert_eq!(start.kind, StartKind::Command);
    let event = kind.and_then(Content::into_event);
    refused(event, "unsupported_kind", "a command for a topology");
}

#[test]
fn a_batch_is_bounded() {
    let body = format!("[{}]", vec!["0"; BATCH_MAX + 1].join(","));
    let record = record(
        &[&[
            TENANT,
            ("content-type", "application/cloudevents-batch+json"),
        ]],
        Some(body.as_bytes()),
    );
    refused(read(&record, NOW), "batch_too_large", "10,001 items");
}

#[test]
fn foreign_timestamps_are_clamped() {
    let record = record(&[&[TENANT], &CE], Some(b"1"));
    for timestamp in [i64::MIN, -1, 0, i64::MAX] {
        let Ok(Inbound::One(Content::Event(event))) = read(&record, Millis(timestamp)) else {
            panic!("refused");
        };
        event.check().unwrap();
    }
}

proptest! {
    #[test]
    fn own_records_need_no_headers_and_become_events(event in events()) {
        let mut value = Vec::new();
        encode_ingress(&event, &mut value);
        let record = record(&[], Some(&value));
        let own = match read(&record, NOW) {
            Ok(Inbound::Own(own)) => own,
            other => return Err(TestCaseError::fail(format!("{other:?}"))),
        };
        prop_assert_eq!(&own.event, &event);
        let [mut copied, mut encoded] = [Vec::new(), Vec::new()];
        own.events_record(NOW, &mut copied).unwrap();
        encode_event(&event, NOW, &mut encoded);
        prop_assert_eq!(&copied, &encoded);
        prop_assert_eq!(decode_event(&copied), Ok((event, NOW)));
    }

    #[test]
    fn random_records_never_panic(
        headers in vec((
            "ce_(id|source|type|specversion|entityid|entitytype|time|x|omnilinkkind)|content-type|omnilink-tenant|[a-z]{1,4}",
            option::of("1\\.0|/s|acme|task|application/cloudevents(-batch)?\\+json|application/json|[ -~]{0,9}"),
        ), 0..10),
        value in option::of(prop_oneof![vec(any::<u8>(), 0..60), Just(STRICT.as_bytes().to_vec())]),
        own in any::<bool>(),
    ) {
        let mut value = value;
        if let (true, Some(value)) = (own, &mut value) {
            value.splice(0..0, [0].into_iter().chain(schemas::INGRESS.id.to_be_bytes()));
        }
        let record = Record {
            key: None,
            value: value.map(Bytes::from),
            headers: headers.into_iter().map(|(name, value)| (name, value.map(Bytes::from))).collect(),
        };
        match read(&record, NOW) {
            Ok(Inbound::One(Content::Event(event))) => prop_assert_eq!(event.check(), Ok(())),
            Ok(Inbound::One(Content::Start(start))) => prop_assert_eq!(start.event.check(), Ok(())),
            Ok(Inbound::Own(own)) => prop_assert_eq!(own.event.check(), Ok(())),
            Ok(Inbound::Batch(items)) => {
                for content in items.into_iter().filter_map(|(_, content)| content.ok()) {
                    let event = match content {
                        Content::Event(event) => event,
                        Content::Start(start) => start.event,
                    };
                    prop_assert_eq!(event.check(), Ok(()));
                }
            }
            Ok(Inbound::Foreign(json)) => prop_assert!(false, "there is no registry: {}", json),
            Err(error) => prop_assert!(!error.code.is_empty()),
        }
    }
}
