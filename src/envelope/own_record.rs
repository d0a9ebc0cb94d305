//! Values of OmniLink's own topics: `0`, the schema's id in four bytes, then the Avro datum. They are written in the current schema, and
//! read in all of them.

use std::sync::OnceLock;

use apache_avro::{
    Error, Schema as AvroSchema, reader::datum::GenericDatumReader,
    writer::datum::GenericDatumWriter,
};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    schemas::{self, Schema},
    upgrade::upgrade,
};
use crate::base::record::Record;

/// Encodes and decodes values of one schema. The reader and the writer are created once: each creation resolves the schema, which takes
/// longer than a record.
pub struct OwnRecord {
    schema: Schema,
    parsed: OnceLock<AvroSchema>,
    writer: OnceLock<GenericDatumWriter<'static>>,
    reader: OnceLock<GenericDatumReader<'static>>,
}

impl OwnRecord {
    /// For a schema that is compiled in.
    pub const fn new(schema: Schema) -> Self {
        Self {
            schema,
            parsed: OnceLock::new(),
            writer: OnceLock::new(),
            reader: OnceLock::new(),
        }
    }

    fn parsed(&'static self) -> &'static AvroSchema {
        self.parsed
            .get_or_init(|| match AvroSchema::parse_str(self.schema.text) {
                Ok(schema) => schema,
                Err(e) => unreachable!("the schema is compiled in, and a test parses it: {e}"),
            })
    }

    /// The bytes of a value.
    pub fn encode<T: Serialize>(&'static self, value: &T) -> Result<Vec<u8>, Error> {
        let writer = if let Some(writer) = self.writer.get() {
            writer
        } else {
            let new = GenericDatumWriter::builder(self.parsed()).build()?;
            self.writer.get_or_init(|| new)
        };
        let mut bytes = Vec::with_capacity(256);
        bytes.push(0);
        bytes.extend_from_slice(&self.schema.id.to_be_bytes());
        writer.write_ser(&mut bytes, value)?;
        Ok(bytes)
    }

    /// The record with this key and value, without headers.
    pub fn record<T: Serialize>(
        &'static self,
        key: impl Into<Bytes>,
        value: &T,
    ) -> Result<Record, Error> {
        Ok(Record {
            key: Some(key.into()),
            value: Some(self.encode(value)?.into()),
            headers: Vec::new(),
        })
    }

    /// The value; `None` for anything but bytes of this schema, or of an earlier version.
    pub fn decode<T: DeserializeOwned>(&'static self, bytes: &[u8]) -> Option<T> {
        let rest = bytes.strip_prefix(&[0])?;
        let (id, datum) = rest.split_first_chunk::<4>()?;
        let id = u32::from_be_bytes(*id);
        if id == self.schema.id {
            return self.datum(datum);
        }
        let written = schemas::by_id(id).filter(|written| {
            written.topic == self.schema.topic && written.version < self.schema.version
        })?;
        let current = upgrade(written, &self.schema, bytes).ok()?;
        self.datum(current.get(5..)?)
    }

    fn datum<T: DeserializeOwned>(&'static self, mut datum: &[u8]) -> Option<T> {
        let reader = if let Some(reader) = self.reader.get() {
            reader
        } else {
            let new = GenericDatumReader::builder(self.parsed()).build().ok()?;
            self.reader.get_or_init(|| new)
        };
        reader.read_deser(&mut datum).ok()
    }
}
