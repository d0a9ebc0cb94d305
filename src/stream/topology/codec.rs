//! How records of foreign topics are written: bytes to a value and back. A new codec is a variant here, and nothing else.

use bytes::Bytes;
use vrl::value::Value;

use crate::stream::Rejected;

/// How the records of a topic are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Codec {
    /// A JSON value.
    Json,
    /// UTF-8 text; `.` is a string.
    Text,
}

impl Codec {
    /// All of them, by name.
    pub(super) const ALL: [(&'static str, Self); 2] = [("json", Self::Json), ("text", Self::Text)];

    /// By its name in files.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, codec)| *codec)
    }

    /// The value of a record; none is `null`.
    pub(super) fn decode(self, bytes: Option<&[u8]>) -> Result<Value, Rejected> {
        let Some(bytes) = bytes else {
            return Ok(Value::Null);
        };
        match self {
            Self::Json => serde_json::from_slice(bytes)
                .map_err(|e| invalid(format!("the value is no JSON: {e}"))),
            Self::Text => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(text.into()),
                Err(e) => Err(invalid(format!("the value is no UTF-8 text: {e}"))),
            },
        }
    }

    /// The bytes of a value.
    pub(super) fn encode(self, value: &Value) -> Result<Bytes, Rejected> {
        if self == Self::Text
            && let Some(text) = value.as_bytes()
        {
            return Ok(text.clone());
        }
        serde_json::to_vec(value)
            .map(Bytes::from)
            .map_err(|e| invalid(format!("the value has no JSON form: {e}")))
    }
}

fn invalid(message: String) -> Rejected {
    Rejected {
        code: "invalid_payload".into(),
        message,
        value: None,
    }
}
