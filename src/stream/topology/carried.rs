//! Records on their way between the stages of a topology, and those that wait for a limit: Avro (`schemas/rekey.avsc`).

use std::sync::{Arc, LazyLock};

use apache_avro::{Schema, reader::datum::GenericDatumReader, writer::datum::GenericDatumWriter};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{json, message::Message};
use crate::{
    clock::Millis,
    envelope::schemas,
    id::Tenant,
    log::{Fetched, Headers, Record},
    stream::{Origin, Rejected},
};

static PARSED: LazyLock<Schema> = LazyLock::new(|| match Schema::parse_str(schemas::REKEY.text) {
    Ok(schema) => schema,
    Err(e) => unreachable!("the schema is compiled in, and a test parses it: {e}"),
});

#[derive(Serialize, Deserialize)]
struct Carried {
    tenant: Option<String>,
    value: Option<String>,
    key_values: Vec<String>,
    #[serde(with = "apache_avro::serde::bytes_opt")]
    key: Option<Vec<u8>>,
    headers: Vec<CarriedHeader>,
    tombstone: bool,
    redriven: i32,
    origin: CarriedOrigin,
}

#[derive(Serialize, Deserialize)]
struct CarriedHeader {
    name: String,
    #[serde(with = "apache_avro::serde::bytes_opt")]
    value: Option<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
struct CarriedOrigin {
    topic: String,
    partition: i32,
    offset: i64,
    timestamp: i64,
    #[serde(with = "apache_avro::serde::bytes_opt")]
    key: Option<Vec<u8>>,
    #[serde(with = "apache_avro::serde::bytes_opt")]
    value: Option<Vec<u8>>,
    headers: Vec<CarriedHeader>,
}

fn headers_out(headers: &Headers) -> Vec<CarriedHeader> {
    headers
        .iter()
        .map(|(name, value)| CarriedHeader {
            name: name.clone(),
            value: value.as_ref().map(|v| v.to_vec()),
        })
        .collect()
}

fn headers_in(headers: Vec<CarriedHeader>) -> Headers {
    headers
        .into_iter()
        .map(|header| (header.name, header.value.map(Bytes::from)))
        .collect()
}

/// In Confluent's wire format.
pub(super) fn encode(message: &Message) -> Result<Bytes, Rejected> {
    let origin = &message.origin.record;
    let carried = Carried {
        tenant: message.tenant.as_ref().map(ToString::to_string),
        value: match &message.raw {
            // Only what is text can be found again in the origin.
            Some(raw) if origin.record.value.as_ref() == Some(raw) => None,
            _ => Some(message.json()?),
        },
        key_values: message.key_values.clone(),
        key: message.key.as_ref().map(|k| k.to_vec()),
        headers: headers_out(&message.headers),
        tombstone: message.tombstone,
        redriven: i32::try_from(message.redriven).unwrap_or(i32::MAX),
        origin: CarriedOrigin {
            topic: message.origin.topic.to_string(),
            partition: origin.partition as i32,
            offset: origin.offset as i64,
            timestamp: origin.timestamp.0,
            key: origin.record.key.as_ref().map(|k| k.to_vec()),
            value: origin.record.value.as_ref().map(|v| v.to_vec()),
            headers: headers_out(&origin.record.headers),
        },
    };
    let mut out = vec![0];
    out.extend_from_slice(&schemas::REKEY.id.to_be_bytes());
    GenericDatumWriter::builder(&PARSED)
        .build()
        .and_then(|writer| writer.write_ser(&mut out, &carried))
        .map_err(|e| damaged(format!("cannot be written: {e}")))?;
    Ok(out.into())
}

/// Reads back what [`encode`] wrote.
pub(super) fn decode(bytes: &[u8]) -> Result<Message, Rejected> {
    let mut datum = bytes
        .strip_prefix(&[0])
        .and_then(|rest| rest.strip_prefix(&schemas::REKEY.id.to_be_bytes()))
        .ok_or_else(|| damaged("is not in OmniLink's schema `rekey`"))?;
    let carried: Carried = GenericDatumReader::builder(&PARSED)
        .build()
        .and_then(|reader| reader.read_deser(&mut datum))
        .map_err(|e| damaged(format!("cannot be read: {e}")))?;
    let tenant = match carried.tenant {
        Some(name) => Some(Tenant::new(&name).map_err(|e| damaged(e.to_string()))?),
        None => None,
    };
    let from = carried.origin;
    let value = from.value.map(Bytes::from);
    let raw = match carried.value {
        Some(text) => Some(Bytes::from(text)),
        None => value.clone(),
    };
    let json = raw.clone().unwrap_or(Bytes::from_static(b"null"));
    let decoded = json::read(&json, &json)
        .map_err(|e| damaged(format!("holds a value that is no JSON: {e}")))?;
    let origin = Origin {
        topic: Arc::from(from.topic),
        record: Fetched {
            topic: 0,
            partition: from.partition as u32,
            offset: from.offset as u64,
            timestamp: Millis(from.timestamp),
            record: Record {
                key: from.key.map(Bytes::from),
                value,
                headers: headers_in(from.headers),
            },
        },
    };
    Ok(Message {
        value: decoded,
        raw,
        key: carried.key.map(Bytes::from),
        headers: headers_in(carried.headers),
        tenant,
        tombstone: carried.tombstone,
        key_values: carried.key_values,
        redriven: u32::try_from(carried.redriven).unwrap_or(0),
        origin: Arc::new(origin),
    })
}

/// The origin of a carried record, if it can be read.
pub(super) fn origin(bytes: &[u8]) -> Option<Origin> {
    decode(bytes)
        .ok()
        .map(|message| Arc::unwrap_or_clone(message.origin))
}

fn damaged(what: impl std::fmt::Display) -> Rejected {
    Rejected {
        code: "invalid_payload".into(),
        message: format!("a record within a topology {what}"),
        value: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{envelope::foreign::NoRegistry, stream::topology::codec::Codec};

    #[test]
    fn a_record_comes_back_with_its_origin() {
        let headers: Headers = vec![
            ("a".into(), Some(Bytes::from_static(b"\xff"))),
            ("b".into(), None),
        ];
        let origin = Arc::new(Origin {
            topic: "shop.orders".into(),
            record: Fetched {
                topic: 0,
                partition: 2,
                offset: 1 << 40,
                timestamp: Millis(5),
                record: Record {
                    key: Some(Bytes::from_static(b"\x00k")),
                    value: Some(Bytes::from_static(b"{\"n\": 12345678901234567890.10}")),
                    headers,
                },
            },
        });
        for codec in [Codec::Json, Codec::Text] {
            let messages = Message::decode(&origin, &codec, None, &NoRegistry).unwrap();
            let mut message = messages.into_iter().next().unwrap().unwrap();
            message.tenant = Some(Tenant::new("acme").unwrap());
            message.key_values = vec!["1".into(), "\"x\"".into()];
            message.redriven = 2;
            let bytes = encode(&message).unwrap();
            let back = decode(&bytes).unwrap();
            assert_eq!(back.value, message.value);
            assert_eq!(back.origin, message.origin);
            assert_eq!((&back.key, &back.headers), (&message.key, &message.headers));
            assert_eq!(
                (&back.tenant, &back.key_values),
                (&message.tenant, &message.key_values)
            );
            assert_eq!(back.redriven, 2);
            // Every digit is there still.
            let record = back.to_foreign(&codec).unwrap();
            assert_eq!(record.value, origin.record.record.value);
            assert_eq!(super::origin(&bytes).as_ref(), Some(&*origin));
        }
        assert_eq!(decode(b"{}").unwrap_err().code, "invalid_payload");
    }
}
