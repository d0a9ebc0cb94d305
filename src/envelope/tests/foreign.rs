//! Foreign Avro: records that the Avro library writes are converted to JSON, and no input makes the reader panic.

use std::{collections::HashMap, sync::Arc};

use apache_avro::{schema::Schema as Parsed, types::Value, writer::datum::GenericDatumWriter};
use bytes::Bytes;

use super::*;
use crate::{
    envelope::{
        foreign::{NoRegistry, Schema, SchemaError, Schemas, to_json},
        kafka::{Content, Inbound, Unread, read},
    },
    log::Record,
};

fn written(schema: &str, value: Value) -> Vec<u8> {
    let schema = Parsed::parse_str(schema).unwrap();
    let writer = GenericDatumWriter::builder(&schema).build().unwrap();
    let mut out = Vec::new();
    writer.write_value(&mut out, value).unwrap();
    out
}

fn as_json(schema: &str, value: Value) -> serde_json::Value {
    let datum = written(schema, value);
    let text = Schema::parse(schema, &[]).unwrap().to_json(&datum).unwrap();
    serde_json::from_str(&text).unwrap()
}

const ORDER: &str = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
    {"name":"id","type":"long"},
    {"name":"state","type":{"type":"enum","name":"State","symbols":["OPEN","PAID"]}},
    {"name":"total","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}},
    {"name":"note","type":["null","string"],"default":null},
    {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}},
    {"name":"tags","type":{"type":"map","values":"int"}},
    {"name":"lines","type":{"type":"array","items":{"type":"record","name":"Line","fields":[
        {"name":"sku","type":"string"},{"name":"again","type":["null","State"]}]}}}]}"#;

fn order() -> Value {
    let line = |sku: &str, again: Value| {
        Value::Record(vec![
            ("sku".into(), Value::String(sku.into())),
            ("again".into(), again),
        ])
    };
    Value::Record(vec![
        ("id".into(), Value::Long(i64::MIN)),
        ("state".into(), Value::Enum(1, "PAID".into())),
        (
            "total".into(),
            Value::Decimal(apache_avro::Decimal::from((-1250_i16).to_be_bytes())),
        ),
        (
            "note".into(),
            Value::Union(1, Box::new(Value::String("\"ä\"\n".into()))),
        ),
        ("at".into(), Value::TimestampMillis(1_738_324_800_500)),
        (
            "tags".into(),
            Value::Map(HashMap::from([("a".into(), Value::Int(-1))])),
        ),
        (
            "lines".into(),
            Value::Array(vec![
                line("x", Value::Union(0, Box::new(Value::Null))),
                line(
                    "y",
                    Value::Union(1, Box::new(Value::Enum(0, "OPEN".into()))),
                ),
            ]),
        ),
    ])
}

#[test]
fn a_record_becomes_json() {
    assert_eq!(
        as_json(ORDER, order()),
        serde_json::json!({
            "id": i64::MIN, "state": "PAID", "total": "-12.50", "note": "\"ä\"\n", "at": "2025-01-31T12:00:00.5Z",
            "tags": {"a": -1}, "lines": [{"sku": "x", "again": null}, {"sku": "y", "again": "OPEN"}],
        })
    );
}

#[test]
fn types_without_a_json_equivalent() {
    let logical = |base: &str, name: &str| format!(r#"{{"type":"{base}","logicalType":"{name}"}}"#);
    let local = "2025-01-31T12:00:00.000001";
    let uuid = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let cases = [
        ("\"bytes\"".into(), Value::Bytes(vec![0, 0xff]), "\"AP8=\""),
        (
            r#"{"type":"fixed","name":"F","size":2}"#.into(),
            Value::Fixed(2, vec![1, 2]),
            "\"AQI=\"",
        ),
        ("\"double\"".into(), Value::Double(f64::NAN), "\"NaN\""),
        ("\"double\"".into(), Value::Double(-1e300), "-1e+300"),
        ("\"float\"".into(), Value::Float(0.1), "0.1"),
        (
            "\"float\"".into(),
            Value::Float(f32::NEG_INFINITY),
            "\"-Infinity\"",
        ),
        (logical("int", "date"), Value::Date(-1), "\"1969-12-31\""),
        (
            logical("int", "time-millis"),
            Value::TimeMillis(1),
            "\"00:00:00.001\"",
        ),
        (
            logical("long", "time-micros"),
            Value::TimeMicros(86_399_999_999),
            "\"23:59:59.999999\"",
        ),
        (
            logical("long", "timestamp-nanos"),
            Value::TimestampNanos(1),
            "\"1970-01-01T00:00:00.000000001Z\"",
        ),
        (
            logical("long", "local-timestamp-micros"),
            Value::LocalTimestampMicros(1_738_324_800_000_001),
            &format!("\"{local}\""),
        ),
        (
            logical("string", "uuid"),
            Value::Uuid(uuid.parse().unwrap()),
            &format!("\"{uuid}\""),
        ),
        // What is not known stays what it is.
        (
            logical("string", "acme-id"),
            Value::String("x".into()),
            "\"x\"",
        ),
    ];
    for (schema, value, expected) in cases {
        let datum = written(&schema, value);
        assert_eq!(
            Schema::parse(&schema, &[])
                .unwrap()
                .to_json(&datum)
                .unwrap(),
            expected,
            "{schema}"
        );
    }
}

#[test]
fn decimals_keep_every_digit() {
    let decimal = |precision: usize, scale: usize| {
        format!(
            r#"{{"type":"bytes","logicalType":"decimal","precision":{precision},"scale":{scale}}}"#
        )
    };
    let cases = [
        (vec![0], 2, "0.00"),
        (vec![5], 2, "0.05"),
        (vec![0xff], 3, "-0.001"),
        (vec![], 2, "0.00"),
        (
            vec![0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            0,
            "2361183241434822606847",
        ),
    ];
    for (bytes, scale, expected) in cases {
        let schema = decimal(30, scale);
        let datum = written("\"bytes\"", Value::Bytes(bytes));
        let text = Schema::parse(&schema, &[])
            .unwrap()
            .to_json(&datum)
            .unwrap();
        assert_eq!(text, format!("\"{expected}\""));
    }
    let schema = Schema::parse(&decimal(30, 0), &[]).unwrap();
    let huge = written("\"bytes\"", Value::Bytes(vec![1; 1025]));
    refused(schema.to_json(&huge), "invalid_payload", "too many digits");
}

#[test]
fn data_that_does_not_fit_the_schema_is_refused() {
    let schema = Schema::parse(ORDER, &[]).unwrap();
    let datum = written(ORDER, order());
    for end in 0..datum.len() {
        refused(
            schema.to_json(&datum[..end]),
            "invalid_payload",
            "cut short",
        );
    }
    refused(
        schema.to_json(&[&datum[..], &[0]].concat()),
        "invalid_payload",
        "more than it",
    );
    let cases = [
        ("\"boolean\"", &[2_u8][..]),
        ("\"int\"", &[0xff, 0xff, 0xff, 0xff, 0x7f]),
        ("\"long\"", &[0xff; 11]),
        ("\"string\"", &[2, 0xff]),
        ("\"string\"", &[1]),
        (r#"["null","int"]"#, &[4]),
        (r#"{"type":"enum","name":"E","symbols":["A"]}"#, &[2]),
        (r#"{"type":"int","logicalType":"time-millis"}"#, &[1]),
        (
            r#"{"type":"long","logicalType":"timestamp-millis"}"#,
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        ),
    ];
    for (text, datum) in cases {
        refused(
            Schema::parse(text, &[]).unwrap().to_json(datum),
            "invalid_payload",
            text,
        );
    }
}

#[test]
fn memory_and_depth_are_bounded() {
    // 2^62 items of no bytes each.
    let nulls = Schema::parse(r#"{"type":"array","items":"null"}"#, &[]).unwrap();
    let mut claim = written("\"long\"", Value::Long(1 << 62));
    claim.push(0);
    refused(nulls.to_json(&claim), "invalid_payload", "too many");
    // A list of one link more than may be.
    let list = r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}"#;
    let list = Schema::parse(list, &[]).unwrap();
    let links = |count: usize| [vec![2; count - 1], vec![0]].concat();
    assert!(list.to_json(&links(MAX_DEPTH)).is_ok());
    refused(
        list.to_json(&links(MAX_DEPTH + 1)),
        "invalid_payload",
        "too deep",
    );
    // What holds itself and has no end.
    let endless = r#"{"type":"record","name":"E","fields":[{"name":"e","type":"E"}]}"#;
    if let Ok(endless) = Schema::parse(endless, &[]) {
        refused(endless.to_json(&[]), "invalid_payload", "endless");
    }
    let deep = |depth: usize| {
        format!(
            "{}\"int\"{}",
            r#"{"type":"array","items":"#.repeat(depth),
            "}".repeat(depth)
        )
    };
    assert!(Schema::parse(&deep(50), &[]).is_ok());
    refused(
        Schema::parse(&deep(1000), &[]),
        "unsupported_schema",
        "a deep schema",
    );
}

#[test]
fn names_and_references_are_resolved() {
    let line = r#"{"type":"record","name":"Line","namespace":"shop","fields":[{"name":"money","type":"money.Money"}]}"#;
    let money = r#"{"type":"record","name":"Money","namespace":"money","fields":[{"name":"cents","type":"int"}]}"#;
    let order = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
        {"name":"first","type":"Line"},{"name":"last","type":"shop.Line"}]}"#;
    let schema = Schema::parse(order, &[line.into(), money.into()]).unwrap();
    assert_eq!(
        schema.to_json(&[2, 4]).unwrap(),
        r#"{"first":{"money":{"cents":1}},"last":{"money":{"cents":2}}}"#
    );
    refused(
        Schema::parse(order, &[line.into()]),
        "unsupported_schema",
        "a name that is not there",
    );
    // Two that name each other.
    let there = r#"{"type":"record","name":"A","fields":[{"name":"b","type":["null","B"]}]}"#;
    let back = r#"{"type":"record","name":"B","fields":[{"name":"a","type":["null","A"]}]}"#;
    let circle = Schema::parse(there, &[back.into()]).unwrap();
    assert_eq!(
        circle.to_json(&[2, 2, 0]).unwrap(),
        r#"{"b":{"a":{"b":null}}}"#
    );
    refused(Schema::parse("{", &[]), "unsupported_schema", "no schema");
}

#[test]
fn names_and_defaults_of_a_writers_schema_do_not_matter() {
    // What Java's reflection makes of nested classes, and others of names that the standard does not allow.
    let shop = r#"{"type":"record","name":"Order","namespace":"com.acme.Shop$","fields":[
        {"name":"first","type":{"type":"record","name":"Line$1","fields":[{"name":"sku-code","type":"string"}]}},
        {"name":"last","type":["null","Line$1"],"default":"none"},
        {"name":"again","type":"com.acme.Shop$.Line$1"}]}"#;
    let schema = Schema::parse(shop, &[]).unwrap();
    let text = schema.to_json(&[2, b'a', 2, 2, b'b', 2, b'c']).unwrap();
    assert_eq!(
        text,
        r#"{"first":{"sku-code":"a"},"last":{"sku-code":"b"},"again":{"sku-code":"c"}}"#
    );
    let of_field = |field: &str| {
        format!(r#"{{"type":"record","name":"R","namespace":"a-b.ü.1c","fields":[{field}]}}"#)
    };
    let cases: [(&str, &[u8], &str); 14] = [
        (
            r#"{"name":"a","type":"string","default":null}"#,
            &[2, b'x'],
            r#""x""#,
        ),
        (r#"{"name":"a","type":"int","default":"0"}"#, &[2], "1"),
        (
            r#"{"name":"a","type":["null","int"],"default":7}"#,
            &[0],
            "null",
        ),
        (
            r#"{"name":"a","type":{"type":"array","items":"int"},"default":{}}"#,
            &[0],
            "[]",
        ),
        (
            r#"{"name":"a","type":{"type":"enum","name":"E.F-1","symbols":["a b","","1"],"default":"z"}}"#,
            &[0],
            r#""a b""#,
        ),
        (
            r#"{"name":"a","type":{"type":"enum","symbols":["A","A"]}}"#,
            &[2],
            r#""A""#,
        ),
        (
            r#"{"name":"a","type":{"type":"fixed","name":"$","size":1,"aliases":["int","$"]}}"#,
            &[255],
            r#""/w==""#,
        ),
        (
            r#"{"name":"a","aliases":["b","b","-"],"order":"none","doc":5,"type":"int"}"#,
            &[2],
            "1",
        ),
        // A type within an object once more, and one that is known by its name.
        (
            r#"{"name":"a","type":{"type":{"type":"int"},"logicalType":"date"}}"#,
            &[2],
            r#""1970-01-02""#,
        ),
        (
            r#"{"name":"a","type":{"type":["null","R"]}}"#,
            &[2, 0],
            r#"{"a":null}"#,
        ),
        // Logical types that are unknown, or do not fit, are none.
        (
            r#"{"name":"a","type":{"type":"int","logicalType":"timestamp-millis"}}"#,
            &[2],
            "1",
        ),
        (
            r#"{"name":"a","type":{"type":"bytes","logicalType":"decimal","scale":2}}"#,
            &[2, 5],
            r#""BQ==""#,
        ),
        (
            r#"{"name":"a","type":{"type":"bytes","logicalType":"decimal","precision":1,"scale":2}}"#,
            &[2, 5],
            r#""BQ==""#,
        ),
        (
            r#"{"name":"a","type":{"type":"fixed","name":"U","size":2,"logicalType":"uuid"}}"#,
            &[1, 2],
            r#""AQI=""#,
        ),
    ];
    for (field, datum, expected) in cases {
        let schema =
            Schema::parse(&of_field(field), &[]).unwrap_or_else(|e| panic!("{field}: {e}"));
        let text = schema
            .to_json(datum)
            .unwrap_or_else(|e| panic!("{field}: {e}"));
        assert_eq!(text, format!(r#"{{"a":{expected}}}"#), "{field}");
    }
    // The same name twice: as each says where it stands; whoever names it cannot know which it is.
    let twice = |third: &str| {
        of_field(&format!(
            r#"{{"name":"a","type":{{"type":"record","name":"C","fields":[{{"name":"x","type":"int"}}]}}}},
               {{"name":"b","type":{{"type":"record","name":"C","fields":[{{"name":"y","type":"string"}}]}}}}{third}"#
        ))
    };
    let schema = Schema::parse(&twice(""), &[]).unwrap();
    let text = schema.to_json(&[2, 2, b'z']).unwrap();
    assert_eq!(text, r#"{"a":{"x":1},"b":{"y":"z"}}"#);
    let nothing_to_read_by = [
        twice(r#",{"name":"c","type":"C"}"#),
        of_field(r#"{"name":"a","type":"Nobody"}"#),
        of_field(r#"{"name":"a","type":"int"},{"name":"a","type":"int"}"#),
        of_field(r#"{"name":"a"}"#),
        of_field(r#"{"type":"int"}"#),
        of_field(r#"{"name":"a","type":{"type":"array"}}"#),
        of_field(r#"{"name":"a","type":{"type":"fixed","size":-1}}"#),
        of_field(r#"{"name":"a","type":{"type":"enum","symbols":[1]}}"#),
        r#"{"type":"record","name":"R"}"#.into(),
        "5".into(),
        "{}".into(),
    ];
    for text in nothing_to_read_by {
        refused(Schema::parse(&text, &[]), "unsupported_schema", &text);
    }
}

#[test]
fn the_last_day_of_year_9999_is_valid() {
    let timestamp = |unit: &str| format!(r#"{{"type":"long","logicalType":"{unit}"}}"#);
    let last = 253_402_300_799;
    let cases = [
        (
            "timestamp-millis",
            last * 1_000 + 999,
            "9999-12-31T23:59:59.999Z",
        ),
        ("timestamp-micros", last * 1_000_000, "9999-12-31T23:59:59Z"),
        (
            "timestamp-millis",
            -62_135_596_800_000,
            "0001-01-01T00:00:00Z",
        ),
        ("timestamp-micros", -1, "1969-12-31T23:59:59.999999Z"),
        (
            "local-timestamp-millis",
            last * 1_000 + 1,
            "9999-12-31T23:59:59.001",
        ),
    ];
    for (unit, number, expected) in cases {
        let datum = written("\"long\"", Value::Long(number));
        let text = Schema::parse(&timestamp(unit), &[])
            .unwrap()
            .to_json(&datum);
        assert_eq!(text.unwrap(), format!("\"{expected}\""), "{unit}");
    }
}

#[test]
fn errors_name_the_field_and_its_value() {
    let schema = r#"{"type":"record","name":"O","fields":[{"name":"lines","type":{"type":"array","items":
        {"type":"record","name":"L","fields":[{"name":"at","type":{"type":"map","values":["null",TYPE]}}]}}}]}"#;
    let logical =
        |base: &str, logical: &str| format!(r#"{{"type":"{base}","logicalType":"{logical}"}}"#);
    let int = |number| written("\"long\"", Value::Long(number));
    let cases = [
        (
            logical("long", "timestamp-millis"),
            int(253_402_300_800_000),
            "253402300800000 (milliseconds since 1970)",
            false,
        ),
        (
            logical("long", "timestamp-micros"),
            int(i64::MAX),
            "9223372036854775807 (microseconds",
            false,
        ),
        (
            logical("long", "local-timestamp-nanos"),
            int(i64::MIN),
            "",
            true,
        ),
        (
            logical("int", "time-millis"),
            int(86_400_000),
            "86400000 (milliseconds since midnight)",
            false,
        ),
        (
            logical("long", "time-micros"),
            int(-1),
            "-1 (microseconds since midnight)",
            false,
        ),
        (
            logical("int", "date"),
            int(2_932_897),
            "2932897 (days since 1970-01-01)",
            false,
        ),
        ("\"int\"".into(), int(1 << 40), "1099511627776", true),
        (
            r#"{"type":"enum","name":"E","symbols":["A"]}"#.into(),
            int(5),
            "none of number 5",
            true,
        ),
        ("\"boolean\"".into(), vec![7], "not 7", true),
        ("\"string\"".into(), vec![2, 0xff], "not UTF-8", true),
        (
            "\"string\"".into(),
            vec![100],
            "50 bytes are needed, and 2 are left",
            true,
        ),
    ];
    for (field, value, expected, of_another_schema) in cases {
        let schema = Schema::parse(&schema.replace("TYPE", &field), &[]).unwrap();
        // The second line: its map has one entry, which is of the second type of the union.
        let datum = [&[4, 0, 2, 2, b'k', 2], &value[..], &[0, 0]].concat();
        let Err(refused) = schema.to_json(&datum) else {
            // 64 bits of nanoseconds do not leave the calendar.
            assert!(expected.is_empty(), "{field}");
            continue;
        };
        assert!(
            refused.message.contains(r#"field `lines[1].at["k"]`"#),
            "{refused}"
        );
        assert!(refused.message.contains(expected), "{refused}");
        assert_eq!(
            refused.message.contains("another schema"),
            of_another_schema,
            "{refused}"
        );
        assert!(refused.message.len() < 300, "{refused}");
    }
    let long = format!(
        r#"{{"type":"record","name":"R","fields":[{{"name":"{}","type":"R"}}]}}"#,
        "é".repeat(500)
    );
    let schema = Schema::parse(&long, &[]).unwrap();
    refused(schema.to_json(&[]), "invalid_payload", "a long path");
}

#[test]
fn other_framings_are_detected() {
    const HEADER: &str = "__value_schema_id";
    let guid = uuid::Uuid::from_u128(0x67e5_5044_10b1_426f_9247_bb68_0e5f_e0c8);
    let with = |prefix: &[u8]| [prefix, guid.as_bytes(), b"x"].concat();
    let cases: [(&str, Vec<u8>, &str); 9] = [
        (HEADER, b"\x02x".to_vec(), HEADER),
        // The first field is a zero byte.
        (HEADER, b"\x00\x02x\x00\x00\x04".to_vec(), HEADER),
        (
            "apicurio.value.globalId",
            b"\x02x".to_vec(),
            "apicurio.value.globalId",
        ),
        (
            "",
            b"\x00\x00\x00\x00\x00\x00\x00\x00\x07\x02x".to_vec(),
            "8 bytes (7)",
        ),
        ("", with(&[1]), "67e55044-10b1-426f-9247-bb680e5fe0c8"),
        ("", with(&[3, 0]), "Glue"),
        (
            "",
            [&b"\xc3\x01"[..], &[8, 7, 6, 5, 4, 3, 2, 1], b"x"].concat(),
            "0102030405060708",
        ),
        ("", b"Obj\x01\x04".to_vec(), "file"),
        ("", b"\x00\x00\x00\x00\x00x".to_vec(), "0x000000000078"),
    ];
    for (name, value, expected) in cases {
        let tenant = (
            "omnilink-tenant".to_owned(),
            Some(Bytes::from_static(b"acme")),
        );
        let id = (name.to_owned(), Some(Bytes::from_static(&[0, 0, 0, 0, 7])));
        let record = Record {
            key: None,
            value: Some(value.clone().into()),
            headers: vec![tenant, id],
        };
        match read(&record, NOW, &One("\"string\"")) {
            Err(Unread::Invalid(invalid)) => {
                assert!(
                    invalid.message.contains(expected),
                    "{name} {value:?}: {invalid}"
                );
                assert!(invalid.message.len() < 300, "{invalid}");
            }
            other => panic!("{other:?}"),
        }
    }
    // Such a header that was carried along from elsewhere harms nothing that can be read.
    let record = Record {
        key: None,
        value: Some(Bytes::from_static(b"\x00\x00\x00\x00\x07\x02x")),
        headers: vec![(HEADER.to_owned(), None)],
    };
    let read = read(&record, NOW, &One("\"string\""));
    assert_eq!(read, Ok(Inbound::Foreign("\"x\"".into())));
}

/// A registry with one schema.
struct One(&'static str);

impl Schemas for One {
    fn get(&self, id: u32) -> Result<Arc<Schema>, SchemaError> {
        match id {
            7 => Ok(Arc::new(Schema::parse(self.0, &[]).unwrap())),
            8 => Err(SchemaError::Waiting("it is away".into())),
            other => NoRegistry.get(other),
        }
    }
}

#[test]
fn a_foreign_record_is_read_as_its_json() {
    const CLOUD: &str = r#"{"type":"record","name":"C","fields":[{"name":"specversion","type":"string"},{"name":"id","type":"string"},
        {"name":"source","type":"string"},{"name":"type","type":"string"},{"name":"subject","type":["null","string"]},
        {"name":"data","type":{"type":"map","values":"double"}}]}"#;
    const AGENT: &str = r#"{"type":"record","name":"A","fields":[{"name":"eventId","type":"string"},{"name":"eventType","type":"string"},
        {"name":"source","type":"string"},{"name":"payload","type":"int"}]}"#;
    let text = |value: &str| Value::String(value.into());
    let cloud = Value::Record(vec![
        ("specversion".into(), text("1.0")),
        ("id".into(), text("1")),
        ("source".into(), text("/s")),
        ("type".into(), text("t")),
        ("subject".into(), Value::Union(0, Box::new(Value::Null))),
        (
            "data".into(),
            Value::Map(HashMap::from([("x".into(), Value::Double(1.5))])),
        ),
    ]);
    let agent = Value::Record(vec![
        ("eventId".into(), text("1")),
        ("eventType".into(), text("a:b.c")),
        ("source".into(), text("s")),
        ("payload".into(), Value::Int(5)),
    ]);
    let record = |id: u32, datum: &[u8], headers: &[(&str, &str)]| Record {
        key: None,
        value: Some([&[0], &id.to_be_bytes()[..], datum].concat().into()),
        headers: headers
            .iter()
            .map(|(name, value)| {
                (
                    (*name).to_owned(),
                    Some(Bytes::copy_from_slice(value.as_bytes())),
                )
            })
            .collect(),
    };
    let acme = [("omnilink-tenant", "acme")];
    let cases = [(CLOUD, cloud, r#"{"x":1.5}"#), (AGENT, agent, "5")];
    for (schema, value, data) in cases {
        let datum = written(schema, value);
        let (whose, nobodys) = (record(7, &datum, &acme), record(7, &datum, &[]));
        match read(&whose, NOW, &One(schema)) {
            Ok(Inbound::One(Content::Event(event))) => {
                assert_eq!(event.data, Data::Json(data.into()));
            }
            other => panic!("{other:?}"),
        }
        let none = read(&nobodys, NOW, &One(schema));
        assert!(matches!(none, Err(Unread::Invalid(i)) if i.code == "missing_tenant"));
    }
    let avro = [
        ("omnilink-tenant", "acme"),
        ("content-type", "application/cloudevents+avro"),
    ];
    let number = written("\"int\"", Value::Int(5));
    let code = |record: &Record| match read(record, NOW, &One("\"int\"")) {
        Ok(Inbound::Foreign(json)) => json,
        Err(Unread::Waiting(why)) => why,
        Err(Unread::Invalid(invalid)) => invalid.code.into_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(code(&record(7, &number, &acme)), "5");
    assert_eq!(code(&record(8, &[], &acme)), "it is away");
    assert_eq!(code(&record(9, &[], &acme)), "unknown_schema");
    assert_eq!(code(&record(7, &number, &avro)), "unsupported_media_type");
}

#[test]
fn own_schemas_need_no_registry() {
    let mut record = Vec::new();
    let text = minimal("");
    let event = structured(&text, Form::OmniLink).unwrap().event;
    crate::envelope::avro::encode_ingress(&event, &mut record);
    let id = schemas::INGRESS.id;
    let none = Record::default();
    let text = to_json(id, &record, &none, &NoRegistry).unwrap();
    let read: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&read["id"], &read["data"]), (&"1".into(), &"1".into()));
    // Each of them can be read with.
    for schema in schemas::ALL {
        let record = [&[0], &schema.id.to_be_bytes()[..], &[1]].concat();
        let refused = to_json(schema.id, &record, &none, &NoRegistry).unwrap_err();
        assert!(matches!(refused, SchemaError::Refused(i) if i.code == "invalid_payload"));
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(datum in vec(any::<u8>(), 0..60)) {
        let schema = Schema::parse(ORDER, &[]).unwrap();
        if let Ok(text) = schema.to_json(&datum) {
            prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{}", text);
        }
    }
}
