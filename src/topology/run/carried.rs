//! The format of records between the stages of a topology, and of those that wait for a limit: Avro (`schemas/rekey.avsc`), encoded
//! and decoded by hand.

use std::sync::Arc;

use bytes::Bytes;

use super::{key::KeyValues, message::Message};
use crate::{
    base::{clock::Millis, id::Tenant, varint},
    envelope::{
        Invalid,
        avro::fields::{HEAD, Reader, broken, put_array, put_bytes, put_head, put_optional},
        schemas::REKEY,
    },
    log::{Fetched, Headers, Record},
    stream::{Origin, Rejected},
    topology::vrl::document::Document,
};

/// Bytes of all fields but the values, for most records.
const ROOM: usize = 256;

fn put_headers(headers: &Headers, out: &mut Vec<u8>) {
    put_array(headers.iter(), out, |(name, value), out| {
        put_bytes(name.as_bytes(), out);
        put_optional(value.as_deref(), out);
    });
}

/// Encodes a message in Confluent's wire format.
pub(crate) fn encode(message: &Message) -> Result<Bytes, Rejected> {
    let origin = &message.origin.record;
    let text = match &message.raw {
        // A value that is the origin's is not written twice.
        Some(raw) if origin.record.value.as_ref() == Some(raw) => None,
        _ => Some(message.json()?),
    };
    let value = text.as_deref();
    let source = origin.record.value.as_deref();
    let room = ROOM + value.map_or(0, <[u8]>::len) + source.map_or(0, <[u8]>::len);
    let mut out = Vec::with_capacity(room);
    put_head(REKEY, &mut out);
    let tenant = message.tenant.as_ref().map(|t| t.as_str().as_bytes());
    put_optional(tenant, &mut out);
    put_optional(value, &mut out);
    put_array(message.key_values.texts(), &mut out, put_bytes);
    put_optional(message.key.as_deref(), &mut out);
    put_headers(&message.headers, &mut out);
    // The field `tombstone`, which is not used any more.
    out.push(0);
    let redriven = i32::try_from(message.redriven).unwrap_or(i32::MAX);
    varint::put_zigzag(redriven.into(), &mut out);
    put_bytes(message.origin.topic.as_bytes(), &mut out);
    varint::put_zigzag(origin.partition.into(), &mut out);
    varint::put_zigzag(origin.offset as i64, &mut out);
    varint::put_zigzag(origin.timestamp.0, &mut out);
    put_optional(origin.record.key.as_deref(), &mut out);
    put_optional(source, &mut out);
    put_headers(&origin.record.headers, &mut out);
    Ok(out.into())
}

/// Decodes what [`encode`] wrote. The message's bytes are slices of `bytes`.
pub(crate) fn decode(bytes: &Bytes) -> Result<Message, Rejected> {
    let mut head = Vec::with_capacity(HEAD);
    put_head(REKEY, &mut head);
    let fields = bytes
        .strip_prefix(&*head)
        .ok_or_else(|| damaged("is not in OmniLink's schema `rekey`"))?;
    let read = Fields(Reader::new(fields), bytes).read();
    let (mut message, text) =
        read.map_err(|e| damaged(format!("cannot be read: {}", e.message)))?;
    message.raw = text.or_else(|| message.origin.record.record.value.clone());
    if let Some(json) = &message.raw {
        message.document = Document::read(json)
            .map_err(|e| damaged(format!("holds a value that is no JSON: {e}")))?;
    }
    Ok(message)
}

/// The fields of a carried record, and the bytes that they are slices of.
struct Fields<'a>(Reader<'a>, &'a Bytes);

impl Fields<'_> {
    /// The message without its value, and the value's JSON text where it is not the origin's.
    fn read(mut self) -> Result<(Message, Option<Bytes>), Invalid> {
        let tenant = match self.0.optional_text("tenant")? {
            Some(name) => Some(Tenant::new(&name).map_err(|_| broken("tenant"))?),
            None => None,
        };
        let text = self.optional("value")?;
        let key_values = self
            .0
            .array("key_values", |fields| fields.text("key_values"))?;
        let key = self.optional("key")?;
        let headers = self.headers("headers")?;
        self.0.boolean("tombstone")?;
        let redriven = self.0.long("redriven")?;
        let topic = Arc::from(self.0.text("topic")?);
        let number = |number: i64, field| u64::try_from(number).map_err(|_| broken(field));
        let partition = number(self.0.long("partition")?, "partition")?;
        let offset = number(self.0.long("offset")?, "offset")?;
        let timestamp = Millis(self.0.long("timestamp")?);
        let record = Record {
            key: self.optional("origin's key")?,
            value: self.optional("origin's value")?,
            headers: self.headers("origin's headers")?,
        };
        self.0.end()?;
        let origin = Origin {
            topic,
            record: Fetched {
                topic: 0,
                partition: u32::try_from(partition).map_err(|_| broken("partition"))?,
                offset,
                timestamp,
                record,
            },
        };
        let message = Message {
            document: vrl::value::Value::Null.into(),
            raw: None,
            key,
            headers,
            tenant,
            key_values: KeyValues::of_texts(&key_values),
            redriven: u32::try_from(redriven).unwrap_or(0),
            origin: Arc::new(origin),
        };
        Ok((message, text))
    }

    fn optional(&mut self, field: &'static str) -> Result<Option<Bytes>, Invalid> {
        let part = self.0.optional(field)?;
        Ok(part.map(|part| self.1.slice_ref(part)))
    }

    fn headers(&mut self, field: &'static str) -> Result<Headers, Invalid> {
        let all = self.1;
        self.0.array(field, |fields| {
            let name = fields.text(field)?.to_owned();
            let value = fields.optional(field)?;
            Ok((name, value.map(|part| all.slice_ref(part))))
        })
    }
}

/// The origin of a carried record, if it can be read.
pub(crate) fn origin(bytes: &Bytes) -> Option<Origin> {
    decode(bytes)
        .ok()
        .map(|message| Arc::unwrap_or_clone(message.origin))
}

fn damaged(what: impl std::fmt::Display) -> Rejected {
    Rejected {
        code: "invalid_payload".into(),
        message: format!("a record within a topology {what}"),
        value: None,
        stage: None,
    }
}

#[cfg(test)]
mod tests {
    use apache_avro::{
        Schema, reader::datum::GenericDatumReader, writer::datum::GenericDatumWriter,
    };

    use super::*;
    use crate::{envelope::foreign::NoRegistry, topology::run::codec::Codec};

    /// As anyone reads it who has the schema alone, and writes it again.
    fn again_by_schema(bytes: &[u8]) -> Vec<u8> {
        let schema = Schema::parse_str(REKEY.text).unwrap();
        let mut fields = &bytes[HEAD..];
        let reader = GenericDatumReader::builder(&schema).build().unwrap();
        let value = reader.read_value(&mut fields).unwrap();
        assert!(fields.is_empty());
        let mut out = bytes[..HEAD].to_vec();
        let writer = GenericDatumWriter::builder(&schema).build().unwrap();
        writer.write_value(&mut out, value).unwrap();
        out
    }

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
            message.key_values = KeyValues::of_texts(&["1", "\"x\""]);
            message.redriven = 2;
            let bytes = encode(&message).unwrap();
            assert_eq!(again_by_schema(&bytes), bytes);
            let back = decode(&bytes).unwrap();
            assert_eq!(back.json().unwrap(), message.json().unwrap());
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
        assert_eq!(
            decode(&Bytes::from_static(b"{}")).unwrap_err().code,
            "invalid_payload"
        );
    }

    #[test]
    fn what_is_cut_or_changed_never_panics() {
        let origin = Arc::new(Origin {
            topic: "t".into(),
            record: Fetched {
                topic: 0,
                partition: 0,
                offset: 1,
                timestamp: Millis(5),
                record: Record {
                    key: None,
                    value: Some(Bytes::from_static(b"[1, \"x\"]")),
                    headers: vec![("a".into(), None)],
                },
            },
        });
        let messages = Message::decode(&origin, &Codec::Json, None, &NoRegistry).unwrap();
        let whole = encode(messages[0].as_ref().unwrap()).unwrap();
        for at in 0..whole.len() {
            assert!(decode(&whole.slice(..at)).is_err());
            for byte in [0, 1, 2, 0x7f, 0x80, 0xff] {
                let mut changed = whole.to_vec();
                changed[at] = byte;
                // Some of it may well be another record.
                let _ = decode(&changed.into());
            }
        }
    }
}
