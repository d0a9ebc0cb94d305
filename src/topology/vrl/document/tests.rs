use std::sync::{Arc, LazyLock};

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;

use super::{
    super::{BOUNDS, Machine, Use, Vrl, compile},
    *,
};
use crate::topology::{
    run::message::envelope,
    syntax::{
        problem::{Problems, SourceFile},
        yaml,
    },
};
use crate::{
    base::{clock::Millis, id::Tenant},
    envelope::{Data, Entity, Event, Rfc3339, TimeSource, avro},
};

const EVENT: &str = r#"{"id":"e1","entity":{"type":"order","tags":{}},"zone":"eu","data" : {"order": 17, "amount":12.50,
    "a\u006dount": 13.75, "big": 12345678901234567890.10, "lines":[{"sku":"A"},{"sku":"B"}], "customer":{"id":5,"name":"J\u00f6"},
    "nothing":null, "odd name":"x\"y"}}"#;

pub(crate) fn program(text: &str) -> Vrl {
    // Any JSON text is one of YAML's.
    let node = yaml::parse(&serde_json::to_string(text).unwrap()).unwrap();
    let mut problems = Problems::of(Arc::new(SourceFile {
        name: "test".into(),
        text: text.into(),
    }));
    let vrl = compile(node.text().unwrap(), Use::Map, &mut problems);
    vrl.unwrap_or_else(|| panic!("{text}: {:?}", problems.found))
}

fn json(document: &Document) -> serde_json::Value {
    serde_json::from_slice(&document.to_json().unwrap()).unwrap()
}

/// What a program leaves behind: the document, the metadata, and what it answers.
fn run(vrl: &Vrl, document: Document) -> (Document, Value, Result<Value, String>) {
    let mut subject = Subject::new(document, Value::Object(ObjectMap::new()), vrl);
    let result = Machine::new(BOUNDS).run(vrl, &mut subject);
    let result = result.map_err(|rejected| format!("{rejected:?}"));
    (subject.document, subject.metadata, result)
}

/// Runs a program on a document, and on the same as a value; answers which fields are still unread.
fn same_with_all_read(
    (text, vrl): (&str, &Vrl),
    lazy: Document,
    whole: Value,
) -> Vec<&'static str> {
    let (lazy, whole) = (run(vrl, lazy), run(vrl, whole.into()));
    assert!(whole.0.unread.is_empty());
    // What was not read keeps digits that others lose, so both are compared as read.
    let written = |document: &Document| {
        let text = Bytes::from(document.to_json().unwrap());
        json::read(&text, &text).unwrap()
    };
    assert_eq!(written(&lazy.0), written(&whole.0), "{text}");
    assert_eq!(lazy.0.to_value(), whole.0.to_value(), "{text}");
    assert_eq!((lazy.1, lazy.2), (whole.1, whole.2), "{text}");
    lazy.0.unread.fields().map(Field::name).collect()
}

#[test]
fn a_program_sees_and_leaves_the_same_as_with_all_of_it_read() {
    let not_read = [
        ".gross = float!(.data.amount) * 1.19",
        ".a = .data.amount\n.b = .data.amount\n.c = .data.customer.name",
        ".a = exists(.data.amount)\n.b = exists(.data.none)\n.c = exists(.data.nothing)\n.d = exists(.data)",
        ".a = .data.none\n.b = .data.order.deeper\n.c = .data.nothing.deeper\n.d = .data.lines.sku",
        ".a = .data.lines[1].sku\n.b = .data.lines[-1]\n.c = .data[0]\n.d = .data.\"odd name\"",
        ".all = .data\n.big = .data.big",
        "%key = .data.order\n%whole = .",
        ".copy = .",
        ".first = .\n.id = 2\n.second = .",
        ".a = unnest!(.data.lines)\n.zone = 1\n.b = unnest!(.data.lines)",
        "del(.entity)\ndel(.id)\ndel(.zone)\n.x = .data.order",
        ".entity.tags.a.b = .data.customer",
        "for_each(object!(.data)) -> |k, v| { %keys = push(array!(%keys || []), k) }",
        ".data.order",
        ".a = int!(.data.customer.name)",
    ];
    let read = [
        ".data.amount = 1",
        ".data.new.deep = .data.amount\n.data.amount = .data.new.deep\n.b = .data.amount",
        ".a = del(.data.amount)\n.b = .data.amount",
        "del(.data)\n.a = exists(.data)",
        ".data = {\"a\": .data.order}\n.b = .data.a",
        ".data = 5",
        ".data.lines[0].sku = \"C\"",
        ". = {\"only\": .data.order}",
        ". = merge(object!(.), {\"id\": 7})",
        ". = object!(.)\n. |= {\"data\": 1}",
        ".data = object!(.data)\n.data |= {\"order\": 1}",
        "del(.)",
        ".[0] = 1",
        "del(.entity.tags, compact: true)",
        "del(.data.customer.id, compact: true)\ndel(.data.customer.name, compact: true)",
        ".data.a, .err = int(.data.order)",
        ". = .data",
    ];
    for (programs, unread) in [(&not_read[..], true), (&read[..], false)] {
        for text in programs {
            let vrl = program(text);
            let bytes = Bytes::from_static(EVENT.as_bytes());
            let lazy = Document::read(&bytes).unwrap();
            assert!(lazy.unread.field("data").is_some());
            let whole = json::read(&bytes, &bytes).unwrap();
            let left = same_with_all_read((text, &vrl), lazy, whole);
            assert_eq!(left.contains(&"data"), unread, "{text}");
        }
    }
}

#[test]
fn what_is_not_touched_goes_on_as_it_came() {
    for (event, after) in [
        (
            r#"{"data":[1.50, "\u00e9"]}"#,
            r#"{"data":[1.50, "\u00e9"]}"#,
        ),
        (
            r#"{"zone":1,"data": {"b":1e2,"a":0} ,"id":"x"}"#,
            r#"{"data":{"b":1e2,"a":0},"id":"x","zone":1}"#,
        ),
        (r#"{"id":"x","data":1.0}"#, r#"{"data":1.0,"id":"x"}"#),
        (
            r#"{"data":1.0,"data":2.0,"a":{}}"#,
            r#"{"a":{},"data":2.0}"#,
        ),
        (r#"{"a":1.0}"#, r#"{"a":1.0}"#),
        (r"[1.50]", r"[1.5]"),
        (r"[1.451233629614798e-30]", r"[1.451233629614798e-30]"),
        ("null", "null"),
    ] {
        let document = Document::read(&Bytes::from_static(event.as_bytes())).unwrap();
        let written = document.to_json().unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), after);
    }
    assert!(Document::read(&Bytes::from_static(b"{} x")).is_err());
    assert!(Document::read(&Bytes::from_static(b"{\"data\":{]}")).is_err());
}

proptest! {
    /// Whatever the data are, and whatever path leads into them: the same as with all of them read, and as they came.
    #[test]
    fn any_data_are_the_same_unread(
        data in json::tests::any_json(),
        names in proptest::collection::vec("[a-c]?", 0..3),
        wide in proptest::bool::ANY,
    ) {
        // Names that are really there, as far as they go.
        let mut at = &data;
        let mut path = OwnedValuePath::single_field("data");
        for name in names {
            let first = at.as_object().and_then(|fields| fields.iter().next());
            let name = first.map_or(&name, |(name, _)| name);
            path.push_field(name);
            at = at.get(name).unwrap_or(&serde_json::Value::Null);
        }
        let event = serde_json::json!({"a": 1, "data": data, "z": null});
        let text = if wide {
            serde_json::to_string_pretty(&event)
        } else {
            serde_json::to_string(&event)
        };
        let bytes = Bytes::from(text.unwrap());
        let unread = Document::read(&bytes).unwrap();
        let whole = Document::from(json::read(&bytes, &bytes).unwrap());
        prop_assert_eq!(unread.get(&path), whole.get(&path));
        prop_assert_eq!(json(&unread), event);
        prop_assert_eq!(unread.to_value(), whole.to_value());
    }
}

#[test]
fn fields_are_found_by_path() {
    let document = Document::read(&Bytes::from_static(EVENT.as_bytes())).unwrap();
    for (path, expected) in [
        ("data.amount", "13.75"),
        ("data.customer.name", r#""Jö""#),
        ("data.lines[0].sku", r#""A""#),
        ("entity.type", r#""order""#),
    ] {
        let path = vrl::path::parse_value_path(path).unwrap();
        let value = document.get(&path).unwrap();
        assert_eq!(serde_json::to_string(&*value).unwrap(), expected);
    }
    let path = vrl::path::parse_value_path("data.none").unwrap();
    assert_eq!(document.get(&path), None);
    assert!(document.has("data") && document.has("id") && !document.has("none"));
    let all = document.get(&OwnedValuePath::root()).unwrap().into_owned();
    let order = vrl::path::parse_value_path("data.order").unwrap();
    assert_eq!(all.get(&order), Some(&Value::Integer(17)));
}

pub(crate) fn event() -> Event<'static> {
    Event {
        tenant: Tenant::new("acme").unwrap(),
        id: "e\"1\"".into(),
        source: "/shop".into(),
        kind: "order.placed".into(),
        subject: None,
        entity: Some(Entity {
            kind: "order".into(),
            external_id: "o-1".into(),
            display_name: Some("Jö".into()),
        }),
        correlation_id: Some("c1".into()),
        causation_id: None,
        time: 1_767_225_600_250_000,
        time_source: TimeSource::Producer,
        data: Data::Json(r#"{"amount": 12.50, "lines":[{"sku":"A"}]}"#.into()),
        extensions: r#"{"region":"eu","urgent":true}"#.into(),
        tombstone: false,
        idempotency_key: None,
    }
}

const WRITTEN: &str = concat!(
    r#"{"correlationid":"c1","data":{"amount": 12.50, "lines":[{"sku":"A"}]},"#,
    r#""entity":{"display_name":"Jö","external_id":"o-1","type":"order"},"id":"e\"1\"","region":"eu","#,
    r#""source":"/shop","specversion":"1.0","time":"2026-01-01T00:00:00.25Z","type":"order.placed","urgent":true}"#
);

/// As a stage has it: of a record of `events`, of a record whose texts are elsewhere, and of one that another stage carried on.
pub(crate) fn documents(event: &Event<'_>) -> [Document; 3] {
    let mut record = Vec::new();
    avro::encode_event(event, Millis(1), &mut record);
    let record = Bytes::from(record);
    let (decoded, _) = avro::decode_event(&record).unwrap();
    let within = envelope(&decoded, &record);
    let apart = envelope(event, &Bytes::new());
    let carried = Document::read(&within.to_json().unwrap().into()).unwrap();
    [within, apart, carried]
}

#[test]
fn an_event_is_read_field_by_field() {
    const ALL: &[&str] = &FIELDS;
    // Each with the fields that it leaves no text of.
    let programs: [(&str, &[&str]); 29] = [
        (".gross = float!(.data.amount) * 1.19", &[]),
        (".a = .type\n.b = .id\n.c = .specversion\n.d = .region", &[]),
        (
            ".a = .entity.type\n.b = .entity.display_name\n.c = .entity.none",
            &[],
        ),
        (
            ".a = .entity\n.b = .time\n.c = .time.deeper\n.d = .type[0]",
            &[],
        ),
        (".a = .entity.type.deeper\n.b = .entity[0]\n.c = .none", &[]),
        (
            ".a = [exists(.subject), exists(.type), exists(.entity.type), exists(.entity.none)]",
            &[],
        ),
        (".new = .\n%whole = .", &[]),
        (
            "%keys = keys(object!(.))\n%upcase = upcase(string!(.type))",
            &[],
        ),
        (
            "for_each(object!(.)) -> |k, v| { %keys = push(array!(%keys || []), [k, v]) }",
            &[],
        ),
        (".a = unnest!(.data.lines)", &[]),
        (".region = \"us\"\ndel(.urgent)", &[]),
        (".entity.type = \"x\"\n.a = .entity", &["entity"]),
        (".entity.tags.deep = .type", &["entity"]),
        (
            "del(.entity.display_name)\n.a = .entity.display_name",
            &["entity"],
        ),
        (".a = del(.time)\n.b = .time", &["time"]),
        (".entity = null\n.a = .entity.type", &["entity"]),
        (".type = 5\n.a = .type", &["type"]),
        (".time.x = 1", &["time"]),
        (".id[1] = .id", &["id"]),
        (".data.amount = 1", &["data"]),
        (
            ".a = .data.amount\n.data.amount = 1\n.b = .data.amount",
            &["data"],
        ),
        (".specversion = del(.source)", &["specversion", "source"]),
        (".a = .\n.type = .time\n.b = .", &["type"]),
        (
            ".copy = .entity\n.entity.type = \"x\"\n.same = .copy == .entity",
            &["entity"],
        ),
        (". = {\"type\": .type}", ALL),
        (". = merge(object!(.), {\"type\": 1})", ALL),
        ("del(.)", ALL),
        ("del(.entity.type, compact: true)", ALL),
        (".x = 1\n. = .x", ALL),
    ];
    let event = event();
    let whole = json::read_text(WRITTEN, &Bytes::new()).unwrap();
    for (text, moved) in programs {
        let vrl = program(text);
        for lazy in documents(&event) {
            assert_eq!(lazy.to_json().unwrap(), WRITTEN.as_bytes());
            let mut left: Vec<_> = lazy.unread.fields().map(Field::name).collect();
            assert_eq!(left.len(), 8);
            left.retain(|name| !moved.contains(name));
            let unread = same_with_all_read((text, &vrl), lazy, whole.clone());
            assert_eq!(unread, left, "{text}");
        }
    }
}

#[test]
fn a_path_is_written_as_it_is_read() {
    let at = |path: &str| vrl::path::parse_value_path(path).unwrap();
    for document in documents(&event()) {
        for path in [
            ".",
            "id",
            "time",
            "specversion",
            "specversion.deeper",
            "entity",
            "entity.type",
            "entity.none",
            "entity.type.deeper",
            "entity[0]",
            "data",
            "data.amount",
            "data.lines[0].sku",
            "data.none",
            "region",
            "urgent",
            "none",
        ] {
            let (mut written, mut expected) = (Vec::new(), Vec::new());
            let there = document.put(&at(path), &mut written).unwrap();
            let value = document.get(&at(path));
            if let Some(value) = &value {
                json::write(value, &Bytes::new(), &mut expected).unwrap();
            }
            assert_eq!(there, value.is_some(), "{path}");
            assert_eq!(written, expected, "{path}");
        }
    }
    let null = Document::read(&Bytes::from_static(br#"{"id":null,"a":null}"#)).unwrap();
    for path in ["id", "a"] {
        let mut written = Vec::new();
        assert!(!null.put(&at(path), &mut written).unwrap());
        assert!(written.is_empty());
    }
}

/// An event as an object, all of it at once.
fn object(event: &Event<'_>) -> serde_json::Value {
    let mut fields = serde_json::Map::new();
    let mut put = |name: &str, text: Option<&str>| {
        if let Some(text) = text {
            fields.insert(name.into(), text.into());
        }
    };
    put("id", Some(&event.id));
    put("source", Some(&event.source));
    put("type", Some(&event.kind));
    put("specversion", Some("1.0"));
    put("subject", event.subject.as_deref());
    put("correlationid", event.correlation_id.as_deref());
    put("causationid", event.causation_id.as_deref());
    put("idempotencykey", event.idempotency_key.as_deref());
    put("time", Some(&Rfc3339(event.time).to_string()));
    if let Data::Binary(bytes) = &event.data {
        put("data_base64", Some(&STANDARD.encode(bytes)));
    }
    if let Some(entity) = &event.entity {
        let mut texts = serde_json::json!({"type": entity.kind, "external_id": entity.external_id});
        if let Some(name) = &entity.display_name {
            texts["display_name"] = (&**name).into();
        }
        fields.insert("entity".into(), texts);
    }
    let mut extensions = serde_json::from_str(&event.extensions).unwrap();
    fields.append(&mut extensions);
    if let Data::Json(text) = &event.data {
        fields.insert("data".into(), serde_json::from_str(text).unwrap());
    }
    fields.into()
}

prop_compose! {
    fn any_event()(
        texts in any::<[String; 3]>(),
        options in any::<[Option<String>; 4]>(),
        entity in any::<Option<(String, String, Option<String>)>>(),
        time in prop_oneof![any::<i64>(), -62_135_596_800_000_000..253_402_300_800_000_000_i64],
        data in prop_oneof![
            Just(Data::Absent),
            json::tests::any_json().prop_map(|json| Data::Json(json.to_string().into())),
            any::<Vec<u8>>().prop_map(|bytes| Data::Binary(bytes.into())),
        ],
        // Called as its own fields too, which only admission forbids.
        extensions in proptest::collection::btree_map("[a-c]|id|data|time|entity", "[a-z]{0,3}", 0..4),
    ) -> Event<'static> {
        let [id, source, kind] = texts.map(Into::into);
        let [subject, correlation_id, causation_id, idempotency_key] =
            options.map(|text| text.map(Into::into));
        let entity = entity.map(|(kind, external_id, display_name)| Entity {
            kind: kind.into(),
            external_id: external_id.into(),
            display_name: display_name.map(Into::into),
        });
        let extensions = serde_json::to_string(&extensions).unwrap().into();
        Event {
            id,
            source,
            kind,
            subject,
            entity,
            correlation_id,
            causation_id,
            time,
            data,
            extensions,
            idempotency_key,
            ..event()
        }
    }
}

static PROGRAMS: LazyLock<Vec<(&str, Vrl)>> = LazyLock::new(|| {
    let texts = [
        ".a = .type\n.b = .entity.type\n.c = .data.a\n.d = exists(.subject)",
        ".entity.type = .id\n.data.a = .time\ndel(.time)",
        ".all = .\ndel(.entity.display_name)\n.none.deep = .entity\n.again = .",
        ". = object!(.)\n.size = length(object!(.))",
    ];
    texts.map(|text| (text, program(text))).into()
});

proptest! {
    /// Whatever the event: it is as with all of it read, before a program and after.
    #[test]
    fn any_event_is_the_same_unread(event in any_event()) {
        let expected = object(&event);
        let whole = json::read_text(&expected.to_string(), &Bytes::new()).unwrap();
        for lazy in documents(&event) {
            prop_assert_eq!(json(&lazy), expected.clone());
            prop_assert_eq!(lazy.to_value(), whole.clone());
            for (text, vrl) in &*PROGRAMS {
                same_with_all_read((text, vrl), lazy.clone(), whole.clone());
            }
        }
    }
}
