//! Writing an event as one line of JSON: a CloudEvent in structured mode, with OmniLink's metadata as extensions.

use std::io::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use memchr::{memchr2, memmem};

use super::{Data, Event, Rfc3339, TimeSource};

/// The position of an event's record.
#[derive(Clone, Copy, Debug)]
pub struct RecordPosition<'a> {
    /// The full name of the topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: u32,
    /// The offset.
    pub offset: u64,
}

/// Appends the event as JSON without line breaks, neither inside nor at the end.
pub fn write_line(event: &Event<'_>, position: Option<RecordPosition<'_>>, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"specversion":"1.0","id":"#);
    text(&event.id, out);
    member("source", &event.source, out);
    member("type", &event.kind, out);
    optional("subject", event.subject.as_deref(), out);
    out.extend_from_slice(br#","time":""#);
    Rfc3339(event.time).write(out);
    out.push(b'"');
    let source = match event.time_source {
        TimeSource::Producer => "producer",
        TimeSource::Receiver => "receiver",
    };
    extensions(&event.extensions, out);
    member("timesource", source, out);
    optional("correlationid", event.correlation_id.as_deref(), out);
    optional("causationid", event.causation_id.as_deref(), out);
    optional("idempotencykey", event.idempotency_key.as_deref(), out);
    if let Some(entity) = &event.entity {
        member("entitytype", &entity.kind, out);
        member("entityid", &entity.external_id, out);
        optional("entityname", entity.display_name.as_deref(), out);
    }
    member("omnilinktenant", event.tenant.as_str(), out);
    if let Some(position) = position {
        member("omnilinktopic", position.topic, out);
        let (partition, offset) = (position.partition, position.offset);
        // Writing to a `Vec` cannot fail.
        let _ = write!(
            out,
            r#","omnilinkpartition":{partition},"omnilinkoffset":{offset}"#
        );
    }
    if event.tombstone {
        out.extend_from_slice(br#","omnilinktombstone":true"#);
    }
    match &event.data {
        Data::Absent => {}
        Data::Json(json) => {
            out.extend_from_slice(br#","data":"#);
            on_one_line(json.as_bytes(), out);
        }
        Data::Binary(bytes) => {
            out.extend_from_slice(br#","data_base64":""#);
            out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            out.push(b'"');
        }
    }
    out.push(b'}');
}

fn member(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    text(value, out);
}

fn optional(name: &str, value: Option<&str>, out: &mut Vec<u8>) {
    if let Some(value) = value {
        member(name, value, out);
    }
}

fn text(value: &str, out: &mut Vec<u8>) {
    // Serializing a `&str` into a `Vec` cannot fail.
    let _ = serde_json::to_writer(out, value);
}

/// Appends the members of the object of extensions.
fn extensions(object: &str, out: &mut Vec<u8>) {
    // OmniLink's `timesource` replaces a producer's extension with the same name.
    let without;
    let object = if memmem::find(object.as_bytes(), b"\"timesource\"").is_some() {
        let mut members: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(object).unwrap_or_default();
        members.remove("timesource");
        without = serde_json::Value::Object(members).to_string();
        without.as_str()
    } else {
        object
    };
    let inner = object.trim().trim_start_matches('{').trim_end_matches('}');
    if !inner.trim().is_empty() {
        out.push(b',');
        on_one_line(inner.as_bytes(), out);
    }
}

/// Appends JSON text with its line breaks replaced by spaces. In valid JSON they only occur where white space is allowed.
fn on_one_line(json: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(json);
    if memchr2(b'\n', b'\r', json).is_some() {
        for byte in &mut out[start..] {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        base::{clock::Millis, id::Tenant},
        envelope::{Form, parse_structured},
    };

    fn line(body: &str) -> Value {
        let tenant = Tenant::new("acme").unwrap();
        let parsed = parse_structured(body.as_bytes(), Form::OmniLink, &tenant, Millis(1)).unwrap();
        let position = RecordPosition {
            topic: "omnilink.events",
            partition: 3,
            offset: 7,
        };
        let mut out = Vec::new();
        write_line(&parsed.event, Some(position), &mut out);
        assert!(!out.contains(&b'\n'));
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn all_fields_are_written() {
        let got = line(
            "{\"id\":\"1\\n\",\"source\":\"/s\",\"type\":\"t\",\"subject\":\"u\",\"time\":\"2025-01-31T12:00:00.5+01:00\",\n\
             \"entity\":{\"type\":\"order\",\"external_id\":\"9\",\"display_name\":\"Nine\"},\"correlationid\":\"c\",\
             \"timesource\":\"mine\",\"traceparent\":\"tp\",\"n\":5,\"data\":{\n\"a\": [1,\r\n 2.50]}}",
        );
        assert_eq!(
            got,
            json!({
                "specversion": "1.0", "id": "1\n", "source": "/s", "type": "t", "subject": "u",
                "time": "2025-01-31T11:00:00.5Z", "timesource": "producer", "traceparent": "tp", "n": 5,
                "correlationid": "c", "entitytype": "order", "entityid": "9", "entityname": "Nine",
                "omnilinktenant": "acme", "omnilinktopic": "omnilink.events",
                "omnilinkpartition": 3, "omnilinkoffset": 7, "data": {"a": [1, 2.5]}
            })
        );
    }

    #[test]
    fn absent_fields_are_omitted() {
        let got = line(r#"{"id":"1","source":"/s","type":"t","data":null}"#);
        assert_eq!(got["timesource"], "receiver");
        assert_eq!(got["data"], Value::Null);
        assert_eq!(got.as_object().unwrap().len(), 11, "{got}");
    }
}
