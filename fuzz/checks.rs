//! What must hold for any input whatever: shared by the fuzz targets and by the test that runs their corpora.

use std::sync::Arc;

use bytes::Bytes;
use omnilink::{
    base::{clock::Millis, id::Tenant},
    envelope::{
        Binding, Body, Event, Form, Item, avro, canonical_hash,
        foreign::{NoRegistry, Schema, SchemaError, Schemas},
        kafka::{self, Content, Inbound, Unread},
        parse, parse_batch, parse_binary, parse_structured, schemas,
    },
    log::Record,
    topology::{check_texts, read_csv},
};

type Header<'a> = (&'a str, &'a [u8]);

const NOW: Millis = Millis(1_738_324_800_000);
const FORMS: [Form; 2] = [Form::CloudEvents, Form::OmniLink];

fn tenant() -> Tenant {
    Tenant::new("acme").expect("a plain name")
}

/// What is taken in satisfies the rules, and survives the way over the log.
fn sound(event: &Event<'_>) {
    assert_eq!(event.check(), Ok(()));
    let [mut ingress, mut events, mut copied] = [const { Vec::new() }; 3];
    avro::encode_ingress(event, &mut ingress);
    avro::encode_event(event, NOW, &mut events);
    assert_eq!(avro::decode_ingress(&ingress).as_ref(), Ok(event));
    assert_eq!(
        avro::events_from_ingress(&ingress, NOW, &mut copied),
        Ok(())
    );
    assert_eq!(copied, events);
}

fn sound_content(content: &Content<'_>) {
    match content {
        Content::Event(event) => sound(event),
        Content::Start(start) => sound(&start.event),
    }
}

/// One event as JSON.
pub(crate) fn structured(data: &[u8]) {
    for form in FORMS {
        if let Ok(parsed) = parse_structured(data, form, &tenant(), NOW) {
            sound(&parsed.event);
            let text = data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data);
            assert_eq!(canonical_hash(text), Ok(parsed.body_hash.of_all()));
        }
    }
}

/// Many events as JSON.
pub(crate) fn batch(data: &[u8]) {
    for form in FORMS {
        if let Ok(items) = parse_batch(data, form, 50, &tenant(), NOW) {
            check_items(items, form);
        }
    }
    match parse(data, 50, &tenant(), NOW) {
        Ok(Body::One(parsed)) => sound(&parsed.event),
        Ok(Body::Batch(items)) => check_items(items, Form::OmniLink),
        Err(_) => {}
    }
}

/// An item says the same alone.
fn check_items(items: Vec<Item<'_>>, form: Form) {
    assert!(items.len() <= 50);
    for Item { raw, parsed } in items {
        let alone = parse_structured(raw, form, &tenant(), NOW);
        assert_eq!(parsed.is_ok(), alone.is_ok());
        if let Ok(parsed) = parsed {
            sound(&parsed.event);
            assert_eq!(Ok(parsed), alone);
        }
    }
}

/// One event in headers and a body.
pub(crate) fn binary(data: &[u8]) {
    let (headers, body) = headers_and_body(data);
    let content_type = headers
        .iter()
        .find(|(name, _)| *name == "content-type")
        .map(|(_, value)| *value);
    for binding in [Binding::Http, Binding::Kafka] {
        let headers = headers.iter().copied();
        if let Ok(parsed) = parse_binary(headers, binding, content_type, body, &tenant(), NOW) {
            sound(&parsed.event);
        }
    }
}

/// Records of `ingress` and `events`, with their heads and without.
pub(crate) fn avro(data: &[u8]) {
    check_record(data);
    for schema in schemas::ALL {
        let head = schema.id.to_be_bytes();
        check_record(&[&[0], &head[..], data].concat());
    }
}

fn check_record(record: &[u8]) {
    let mut copied = Vec::new();
    let copy = avro::events_from_ingress(record, NOW, &mut copied);
    if let Ok(event) = avro::decode_ingress(record) {
        assert_eq!(copy, Ok(()));
        assert_eq!(avro::decode_event(&copied), Ok((event.clone(), NOW)));
        if event.check().is_ok() {
            sound(&event);
        }
    }
    if let Ok((event, received_at)) = avro::decode_event(record) {
        let mut again = Vec::new();
        avro::encode_event(&event, received_at, &mut again);
        assert_eq!(avro::decode_event(&again), Ok((event, received_at)));
    }
}

/// Any record of a foreign topic.
pub(crate) fn kafka(data: &[u8]) {
    let (headers, body) = headers_and_body(data);
    let record = Record {
        key: None,
        value: body.map(Bytes::copy_from_slice),
        headers: headers
            .into_iter()
            .map(|(name, value)| {
                (
                    name.to_owned(),
                    (value != b"\0").then(|| Bytes::copy_from_slice(value)),
                )
            })
            .collect(),
    };
    match kafka::read(&record, NOW, &Known) {
        Ok(Inbound::One(content)) => sound_content(&content),
        Ok(Inbound::Own(own)) => sound(&own.event),
        Ok(Inbound::Batch(items)) => items
            .iter()
            .filter_map(|(_, content)| content.as_ref().ok())
            .for_each(sound_content),
        Ok(Inbound::Foreign(json)) => assert!(!json.is_empty()),
        Err(Unread::Invalid(error)) => {
            assert!(!error.code.is_empty() && error.message.len() < 1000);
        }
        Err(Unread::Waiting(why)) => panic!("nothing is waited for: {why}"),
    }
}

/// A registry that knows two schemas.
struct Known;

const CLOUD: &str = r#"{"type":"record","name":"C","fields":[{"name":"specversion","type":"string"},{"name":"id","type":"string"},
    {"name":"source","type":"string"},{"name":"type","type":"string"},{"name":"data","type":{"type":"map","values":["null","long"]}}]}"#;

impl Schemas for Known {
    fn get(&self, id: u32) -> Result<Arc<Schema>, SchemaError> {
        match id {
            1 => Ok(Arc::new(Schema::parse(CLOUD, &[]).expect("a plain schema"))),
            other => NoRegistry.get(other),
        }
    }
}

/// A schema on the first line, what is written under it behind that.
pub(crate) fn foreign(data: &[u8]) {
    let end = data.iter().position(|b| *b == b'\n').unwrap_or(data.len());
    let datum = data.get(end + 1..).unwrap_or_default();
    let Ok(schema) = std::str::from_utf8(&data[..end]) else {
        return;
    };
    let Ok(schema) = Schema::parse(schema, &[]) else {
        return;
    };
    if let Ok(json) = schema.to_json(datum) {
        assert!(json.len() <= (64 << 10) + 64 * datum.len());
        // A text's last byte may be the one over serde_json's depth of 127; OmniLink's is 128.
        let parsed = serde_json::from_str::<serde_json::Value>(&json);
        assert!(parsed.is_ok() || json.matches(['[', '{']).count() > 127);
    }
}

/// One event in the agents' form, alone and on a topic.
pub(crate) fn agents(data: &[u8]) {
    structured(data);
    kafka(&[b"omnilink-tenant: acme\n\n", data].concat());
}

/// Rows with names of their own, and under given ones.
pub(crate) fn csv(data: &[u8]) {
    let record = Bytes::copy_from_slice(data);
    let columns = vec!["a".to_owned(), "b".to_owned()];
    for (columns, delimiter) in [(None, b','), (Some(columns), b';')] {
        let given = columns.is_some();
        let rows = read_csv(&record, columns, delimiter);
        assert!(rows.len() <= kafka::BATCH_MAX + 1);
        for row in rows {
            match row {
                Ok(fields) => assert!(!given || fields == 2),
                Err(rejected) => assert!(
                    [
                        "invalid_csv",
                        "invalid_utf8",
                        "wrong_columns",
                        "batch_too_large"
                    ]
                    .contains(&&*rejected.code)
                ),
            }
        }
    }
}

/// A topology file: what is wrong with it lies within it.
pub(crate) fn topology(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let checked = check_texts([("fuzz.yaml".into(), Ok(text.to_owned()))], "omnilink.");
    assert!(checked.set.is_some() || !checked.problems.is_empty());
    for problem in &checked.problems {
        assert!(problem.render(false).starts_with("fuzz.yaml"));
    }
}

/// Lines `name: value`, an empty line, the body.
fn headers_and_body(data: &[u8]) -> (Vec<Header<'_>>, Option<&[u8]>) {
    let mut headers = Vec::new();
    let mut rest = data;
    loop {
        let (line, after) = match rest.iter().position(|b| *b == b'\n') {
            Some(end) => (&rest[..end], Some(&rest[end + 1..])),
            None => (rest, None),
        };
        if line.is_empty() {
            return (headers, after);
        }
        if let Some(colon) = line.windows(2).position(|pair| pair == b": ")
            && let Ok(name) = std::str::from_utf8(&line[..colon])
        {
            headers.push((name, &line[colon + 2..]));
        }
        match after {
            Some(after) => rest = after,
            None => return (headers, None),
        }
    }
}
