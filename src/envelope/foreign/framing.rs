//! Other ways to identify a record's schema than Confluent's five-byte header. They are detected only to give a helpful error message:
//! none of them is supported.

use std::fmt;

use super::super::json::truncated;
use crate::{
    base::hex::hex,
    log::{Record, header},
};

/// How a record identifies its schema.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Framing {
    /// An id, or a GUID, in a header: Confluent's `__value_schema_id`, Apicurio's `apicurio.value.…`.
    Header(String),
    /// A zero byte and an id of 8 bytes: Apicurio's default until its version 3.
    LongId(u64),
    /// A byte 1 and a GUID: Confluent's format with GUIDs before the value.
    Guid(uuid::Uuid),
    /// Avro's single-object encoding, with the schema's fingerprint.
    SingleObject(u64),
    /// An Avro object container file, which includes the schema.
    File,
    /// AWS Glue's schema registry.
    Glue(uuid::Uuid),
    /// Azure's schema registry, in the header `content-type`.
    Azure(String),
}

impl Framing {
    /// Detects the framing of a record, other than Confluent's five-byte header.
    pub fn of(record: &Record, value: &[u8]) -> Option<Self> {
        let headers = record.headers.iter();
        let mut names = headers.map(|(name, _)| name.as_str());
        let of_schema = |name: &&str| {
            *name == "__value_schema_id"
                || ["apicurio.value.", "apicurio.registry."]
                    .iter()
                    .any(|start| name.starts_with(start))
        };
        if let Some(name) = names.find(of_schema) {
            return Some(Self::Header(truncated(name).to_owned()));
        }
        let content_type = header(&record.headers, "content-type").unwrap_or_default();
        if let Ok(text) = std::str::from_utf8(content_type)
            && text.starts_with("avro/binary+")
        {
            return Some(Self::Azure(truncated(text).to_owned()));
        }
        let guid = |at: usize| {
            let bytes = value.get(at..at + 16)?;
            let guid = uuid::Uuid::from_slice(bytes).ok()?;
            // Any 16 bytes are a GUID, but generated ones have a version and a variant.
            let made = matches!(guid.get_version_num(), 1..=8);
            (made && guid.get_variant() == uuid::Variant::RFC4122).then_some(guid)
        };
        match value {
            [0, 0, 0, 0, 0, a, b, c, d, ..] if (a | b | c | d) != 0 => {
                let id = u32::from_be_bytes([*a, *b, *c, *d]);
                Some(Self::LongId(id.into()))
            }
            [1, ..] => guid(1).map(Self::Guid),
            [3, 0 | 5, ..] => guid(2).map(Self::Glue),
            [0xc3, 1, fingerprint @ ..] => {
                let fingerprint = fingerprint.first_chunk()?;
                Some(Self::SingleObject(u64::from_le_bytes(*fingerprint)))
            }
            [b'O', b'b', b'j', 1, ..] => Some(Self::File),
            _ => None,
        }
    }
}

impl fmt::Display for Framing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "its schema's id is in the header `{name}`"),
            Self::LongId(id) => write!(
                f,
                "its schema's id seems to be one of 8 bytes ({id}), as Apicurio's clients write it"
            ),
            Self::Guid(guid) => write!(
                f,
                "it seems to name its schema by GUID ({guid}), as Confluent's clients can"
            ),
            Self::SingleObject(fingerprint) => write!(
                f,
                "it is in Avro's single-object encoding, with the schema's fingerprint {fingerprint:016x}"
            ),
            Self::File => write!(f, "it is a whole Avro file (`Obj`), schema and all"),
            Self::Glue(guid) => write!(
                f,
                "it is in the format of AWS Glue's schema registry ({guid})"
            ),
            Self::Azure(content_type) => write!(
                f,
                "it is in the format of Azure's schema registry (`{content_type}`)"
            ),
        }?;
        write!(
            f,
            "; what is read is Confluent's wire format: a zero byte, 4 bytes of the id, and the value"
        )
    }
}

/// The first bytes of a value, for a message.
pub(super) fn beginning(value: &[u8]) -> String {
    format!("0x{}", hex(&value[..value.len().min(9)]))
}
