//! How records of foreign topics are written: bytes to values. A new codec is a variant here, how it is named in files, and a
//! file that reads it.

mod csv;
mod file;

use std::sync::Arc;

use bytes::Bytes;
use vrl::value::{ObjectMap, Value};

pub(crate) use self::file::read;
use crate::topology::vrl::{document::Document, json};
use crate::{
    envelope::{
        avro, foreign,
        foreign::{Framing, Schemas},
        json::without_mark,
        kafka::Unread,
    },
    log::Record,
    stream::{Failure, Rejected},
};

/// How the records of a topic are written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Codec {
    /// A JSON value.
    Json,
    /// UTF-8 text; `.` is a string.
    Text,
    /// Rows of fields; each row is a record of its own.
    Csv(Arc<csv::Layout>),
    /// Avro in Confluent's wire format; `.` is its JSON.
    Avro,
}

/// One value of a record, which may hold several.
#[derive(Debug)]
pub(crate) struct Part {
    /// The value.
    pub(crate) value: Value,
    /// Its JSON text, where it came as such.
    pub(crate) json: Option<Bytes>,
    /// Its own bytes, where the record holds others too.
    pub(crate) alone: Option<Bytes>,
}

impl Part {
    fn whole(value: Value) -> Self {
        Self {
            value,
            json: None,
            alone: None,
        }
    }

    /// A value that came as JSON text, perhaps behind a byte order mark.
    pub(crate) fn json(text: &Bytes) -> Result<Self, Rejected> {
        let text = &text.slice_ref(without_mark(text));
        match json::read(text, text) {
            Ok(value) => Ok(Self {
                json: Some(text.clone()),
                ..Self::whole(value)
            }),
            Err(e) => Err(Rejected::new(
                "invalid_payload",
                format!("the value is no JSON: {e}"),
            )),
        }
    }
}

impl Codec {
    /// The values of a record, the bad ones with why; no value at all is `null`.
    pub(crate) fn decode(
        &self,
        record: &Record,
        schemas: &dyn Schemas,
    ) -> Result<Vec<Result<Part, Rejected>>, Failure> {
        let Some(value) = &record.value else {
            return Ok(vec![Ok(Part::whole(Value::Null))]);
        };
        let part = match self {
            Self::Json => Part::json(value)?,
            Self::Text => Part::whole(text(value)?.into()),
            Self::Csv(layout) => return Ok(layout.rows(value)?),
            Self::Avro => {
                let id = avro::schema_id(value).ok_or_else(|| not_confluents(record, value))?;
                let json = foreign::to_json(id, value, record, schemas).map_err(Unread::from)?;
                Part::json(&json.into())?
            }
        };
        Ok(vec![Ok(part)])
    }

    /// The bytes of a value: its JSON, or a text as it is where the codec is `text`.
    pub(crate) fn encode(&self, document: &Document) -> Result<Bytes, Rejected> {
        match document.as_text() {
            Some(text) if *self == Self::Text => Ok(text.clone()),
            _ => json_of(document),
        }
    }

    /// The bytes of what a test gives. Of Avro it gives the JSON, for there is no registry to ask.
    pub(crate) fn given(&self, value: &serde_json::Value) -> Bytes {
        match value {
            serde_json::Value::String(text) if matches!(self, Self::Text | Self::Csv(_)) => {
                text.clone().into()
            }
            value => value.to_string().into(),
        }
    }

    /// What reads the records that tests give.
    pub(crate) fn in_tests(&self) -> Self {
        match self {
            Self::Avro => Self::Json,
            other => other.clone(),
        }
    }
}

/// Why a value is not read as Avro.
fn not_confluents(record: &Record, value: &[u8]) -> Rejected {
    let message = match Framing::of(record, value) {
        Some(framing) => framing.to_string(),
        None => "the value is no Avro in Confluent's wire format: a zero byte and a schema's id come first".into(),
    };
    Rejected::new("invalid_payload", message)
}

/// The JSON text of a document.
pub(crate) fn json_of(document: &Document) -> Result<Bytes, Rejected> {
    let written = document.to_json();
    written.map(Bytes::from).map_err(|e| {
        let message = format!("the value has no JSON form: {e}");
        Rejected::new(e.code(), message)
    })
}

/// For the fuzz target: how many fields each row has, or what is wrong with it.
pub fn read_csv(
    record: &Bytes,
    columns: Option<Vec<String>>,
    delimiter: u8,
) -> Vec<Result<usize, Rejected>> {
    let layout = csv::Layout { columns, delimiter };
    match layout.rows(record) {
        Err(rejected) => vec![Err(rejected)],
        Ok(rows) => rows
            .into_iter()
            .map(|row| {
                let part = row?;
                Ok(part.value.as_object().map_or(0, ObjectMap::len))
            })
            .collect(),
    }
}

fn text(bytes: &[u8]) -> Result<&str, Rejected> {
    std::str::from_utf8(bytes)
        .map_err(|e| Rejected::new("invalid_utf8", format!("the value is not UTF-8 text: {e}")))
}
