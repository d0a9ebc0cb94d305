use apache_avro::{
    Schema, reader::datum::GenericDatumReader, types::Value, writer::datum::GenericDatumWriter,
};
use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;
use crate::envelope::{
    avro::{decode_event, decode_ingress, encode_event, encode_ingress, events_from_ingress},
    schemas::{self, EVENTS, INGRESS},
    upgrade::upgrade,
};

fn schema(of: schemas::Schema) -> Schema {
    Schema::parse_str(of.text).unwrap()
}

fn read(schema: &Schema, mut fields: &[u8]) -> Value {
    let value = GenericDatumReader::builder(schema)
        .build()
        .unwrap()
        .read_value(&mut fields)
        .unwrap();
    assert!(fields.is_empty());
    value
}

fn write(schema: &Schema, value: Value) -> Vec<u8> {
    let mut out = Vec::new();
    GenericDatumWriter::builder(schema)
        .build()
        .unwrap()
        .write_value(&mut out, value)
        .unwrap();
    out
}

type Fields = Vec<(String, Value)>;

/// The event as a value of the Avro library.
fn value(event: &Event<'_>) -> Fields {
    let text = |text: &str| Value::String(text.to_owned());
    let union = |value: Option<Value>| match value {
        None => Value::Union(0, Box::new(Value::Null)),
        Some(value) => Value::Union(1, Box::new(value)),
    };
    let optional = |value: Option<&Cow<'_, str>>| union(value.map(|v| text(v)));
    let entity = event.entity.as_ref();
    let (json, binary) = match &event.data {
        Data::Absent => (None, None),
        Data::Json(json) => (Some(text(json)), None),
        Data::Binary(bytes) => (None, Some(Value::Bytes(bytes.to_vec()))),
    };
    let source = match event.time_source {
        TimeSource::Producer => Value::Enum(0, "producer".into()),
        TimeSource::Receiver => Value::Enum(1, "receiver".into()),
    };
    [
        ("tenant", text(event.tenant.as_str())),
        ("id", text(&event.id)),
        ("source", text(&event.source)),
        ("type", text(&event.kind)),
        ("subject", optional(event.subject.as_ref())),
        ("entity_type", optional(entity.map(|e| &e.kind))),
        ("entity_id", optional(entity.map(|e| &e.external_id))),
        (
            "display_name",
            optional(entity.and_then(|e| e.display_name.as_ref())),
        ),
        ("correlation_id", optional(event.correlation_id.as_ref())),
        ("causation_id", optional(event.causation_id.as_ref())),
        ("time", Value::TimestampMicros(event.time)),
        ("time_source", source),
        ("data", union(json)),
        ("data_base64", union(binary)),
        ("extensions", text(&event.extensions)),
        ("tombstone", Value::Boolean(event.tombstone)),
        ("idempotency_key", optional(event.idempotency_key.as_ref())),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

fn head(of: schemas::Schema) -> Vec<u8> {
    [&[0], &of.id.to_be_bytes()[..]].concat()
}

fn sample() -> Vec<u8> {
    let body = minimal(r#","subject":"s","entitytype":"a","entityid":"b""#);
    let mut record = Vec::new();
    encode_ingress(
        &structured(&body, Form::OmniLink).unwrap().event,
        &mut record,
    );
    record
}

#[test]
fn broken_records_are_refused() {
    let record = sample();
    let mut out = Vec::new();
    for length in 0..record.len() {
        let cut = &record[..length];
        assert!(decode_ingress(cut).is_err());
        assert!(events_from_ingress(cut, NOW, &mut out).is_err());
        assert!(out.is_empty());
    }
    let longer = [&record[..], &[0]].concat();
    assert!(decode_ingress(&longer).is_err());
    assert!(events_from_ingress(&longer, NOW, &mut out).is_err());

    // Lengths that promise more than there is, or less than nothing.
    let promise = |length: &[u8]| [&head(INGRESS), length].concat();
    for length in [
        &[0x01][..],
        &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0xff; 11],
        &[0x80; 20],
    ] {
        refused(
            decode_ingress(&promise(length)),
            "invalid_payload",
            "a length",
        );
    }
    refused(
        decode_ingress(&head(EVENTS)),
        "unknown_schema",
        "another topic's",
    );
    refused(decode_event(&record), "unknown_schema", "another topic's");
    refused(decode_ingress(b""), "invalid_payload", "nothing");
}

#[test]
fn field_contents_are_checked_beyond_their_types() {
    let body = minimal("");
    let event = structured(&body, Form::OmniLink).unwrap().event;
    let record = |change: &dyn Fn(&mut Fields)| {
        let mut fields = value(&event);
        change(&mut fields);
        [
            head(INGRESS),
            write(&schema(INGRESS), Value::Record(fields)),
        ]
        .concat()
    };
    let set = |name: &'static str, value: &'static str, optional: bool| {
        move |fields: &mut Fields| {
            let text = Value::String(value.to_owned());
            let field = fields.iter_mut().find(|(field, _)| field == name).unwrap();
            field.1 = if optional {
                Value::Union(1, Box::new(text))
            } else {
                text
            };
        }
    };
    assert_eq!(decode_ingress(&record(&|_| ())).unwrap(), event);
    refused(
        decode_ingress(&record(&set("tenant", "a/b", false))),
        "invalid_tenant",
        "tenant",
    );
    refused(
        decode_ingress(&record(&set("entity_type", "x", true))),
        "invalid_payload",
        "half an entity",
    );
    refused(
        decode_ingress(&record(&set("display_name", "x", true))),
        "invalid_payload",
        "a name of nothing",
    );
    let both = record(&|fields| fields[13].1 = Value::Union(1, Box::new(Value::Bytes(vec![1]))));
    refused(decode_ingress(&both), "invalid_payload", "data twice");

    for (name, value, optional, code) in [
        ("id", "", false, "missing_id"),
        ("source", "a b", false, "invalid_payload"),
        ("type", "", false, "missing_type"),
        ("subject", "", true, "invalid_payload"),
        ("data", "{\"a\":1,\"a\":2}", true, "invalid_payload"),
        ("data", "", true, "invalid_payload"),
        ("extensions", "[]", false, "invalid_payload"),
        ("extensions", "", false, "invalid_payload"),
        ("extensions", "{\"a\":{}}", false, "invalid_payload"),
        ("extensions", "{\"A\":1}", false, "invalid_payload"),
        ("extensions", "{\"a\":1}{}", false, "invalid_payload"),
        ("extensions", "{\"a\":1.5}", false, "invalid_payload"),
        ("extensions", "{\"id\":\"2\"}", false, "invalid_payload"),
        (
            "extensions",
            "{\"dataschema\":\"a b\"}",
            false,
            "invalid_payload",
        ),
        ("id", "a\0", false, "invalid_payload"),
        ("type", "a\0", false, "invalid_payload"),
    ] {
        let record = record(&set(name, value, optional));
        refused(decode_ingress(&record).unwrap().check(), code, name);
    }
    let entity = [("entity_type", "a"), ("entity_id", "b")];
    for (fields, code) in [
        (&entity[..0], "missing_entity"),
        (&entity[..], "invalid_payload"),
    ] {
        let tombstone = record(&|all| {
            for (name, value) in fields {
                set(name, value, true)(all);
            }
            all[15].1 = Value::Boolean(true);
        });
        refused(
            decode_ingress(&tombstone).unwrap().check(),
            code,
            "a tombstone",
        );
    }
    for time in [
        i64::MIN,
        -62_135_596_800_000_001,
        253_402_300_800_000_000,
        i64::MAX,
    ] {
        let record = record(&|fields| fields[10].1 = Value::TimestampMicros(time));
        refused(
            decode_ingress(&record).unwrap().check(),
            "invalid_payload",
            "time",
        );
    }
}

/// A field that an older version lacks gets its default value.
#[test]
fn older_versions_are_upgraded() {
    let event = decode_ingress(&sample()).unwrap().into_owned();
    let mut older: serde_json::Value = serde_json::from_str(INGRESS.text).unwrap();
    let fields = older["fields"].as_array_mut().unwrap();
    fields.retain(|field| {
        !["idempotency_key", "extensions", "tombstone"].contains(&field["name"].as_str().unwrap())
    });
    // In another order too.
    fields.rotate_left(3);
    let older = schemas::Schema {
        id: INGRESS.id + 100,
        text: Box::leak(older.to_string().into_boxed_str()),
        ..INGRESS
    };
    let mut values = value(&event);
    values.retain(|(name, _)| {
        !["idempotency_key", "extensions", "tombstone"].contains(&name.as_str())
    });
    values.rotate_left(3);
    let written = [head(older), write(&schema(older), Value::Record(values))].concat();
    let upgraded = upgrade(&older, &INGRESS, &written).unwrap();
    assert_eq!(upgraded, sample());
    for broken in [
        &written[..written.len() - 1],
        &[&written[..], &[0]].concat(),
        &written[..3],
    ] {
        refused(
            upgrade(&older, &INGRESS, broken),
            "invalid_payload",
            "broken",
        );
    }
}

proptest! {
    #[test]
    fn ours_is_theirs(event in events(), received in any::<i64>()) {
        let mut ingress = Vec::new();
        encode_ingress(&event, &mut ingress);
        prop_assert_eq!(&ingress[..5], &head(INGRESS)[..]);
        let expected = Value::Record(value(&event));
        prop_assert_eq!(read(&schema(INGRESS), &ingress[5..]), expected.clone());
        prop_assert_eq!(write(&schema(INGRESS), expected), &ingress[5..]);
        prop_assert_eq!(decode_ingress(&ingress), Ok(event.clone()));
        prop_assert_eq!(event.check(), Ok(()));

        let mut events = Vec::new();
        encode_event(&event, Millis(received), &mut events);
        let mut expected = value(&event);
        expected.push(("received_at".to_owned(), Value::TimestampMillis(received)));
        prop_assert_eq!(read(&schema(EVENTS), &events[5..]), Value::Record(expected.clone()));
        prop_assert_eq!(write(&schema(EVENTS), Value::Record(expected)), &events[5..]);
        prop_assert_eq!(decode_event(&events), Ok((event, Millis(received))));

        let mut copied = Vec::new();
        events_from_ingress(&ingress, Millis(received), &mut copied).unwrap();
        prop_assert_eq!(copied, events);
    }

    #[test]
    fn damaged_records_never_panic(changes in vec((any::<Index>(), any::<u8>(), 0..3_u8), 1..5)) {
        let mut record = sample();
        for (at, byte, how) in changes {
            let at = at.index(record.len());
            match how {
                0 => record[at] = byte,
                1 => record.insert(at, byte),
                _ => record.truncate(at.max(5)),
            }
        }
        let mut out = Vec::new();
        let structure = events_from_ingress(&record, NOW, &mut out);
        if let Ok(event) = decode_ingress(&record) {
            let _ = event.check();
            prop_assert_eq!(structure, Ok(()));
            prop_assert_eq!(decode_event(&out), Ok((event, NOW)));
        }
        let _ = decode_event(&record);
    }
}
