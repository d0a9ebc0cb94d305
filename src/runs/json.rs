//! JSON that is passed on without being parsed.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, value::RawValue};

/// The maximum nesting depth of values that a run accepts, and of the inputs of its steps. Records, rows and responses add levels around
/// them, and most JSON parsers stop at 128.
pub const DEPTH_MAX: usize = 64;

/// Why a run cannot store a value.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It has more than [`DEPTH_MAX`] levels.
    #[error("it is nested more than {} levels", DEPTH_MAX)]
    TooDeep,
    /// It is not JSON or not UTF-8, or has a number that no double holds or half of a surrogate pair.
    #[error("it is not JSON that can be read: {0}")]
    NotJson(#[from] serde_json::Error),
}

/// The text of a JSON value. Cheap to clone; compared as text.
#[derive(Clone)]
pub struct Json(Arc<RawValue>);

impl Json {
    /// The JSON text of a value.
    pub fn of(value: &Value) -> Self {
        // A `Value` always has a JSON text.
        let raw = serde_json::value::to_raw_value(value).unwrap_or_else(|_| null());
        Self(raw.into())
    }

    /// Parses a value from outside, and formats it again. [`Json::value`] can read the result.
    pub fn read(text: &[u8]) -> Result<Self, Unreadable> {
        read_value(text).map(|value| Self::of(&value))
    }

    /// Wraps a text that OmniLink has written; checks the JSON grammar only. For values from outside use [`Json::read`].
    pub fn parse(text: String) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text).map(|raw| Self(raw.into()))
    }

    /// Wraps JSON that was checked before.
    pub fn of_raw(raw: Box<RawValue>) -> Self {
        Self(raw.into())
    }

    /// `{}`.
    pub fn empty_object() -> Self {
        Self::of(&Value::Object(serde_json::Map::new()))
    }

    /// `null`.
    pub fn null() -> Self {
        static NULL: LazyLock<Json> = LazyLock::new(|| Json(null().into()));
        NULL.clone()
    }

    /// Whether both share the same text in memory. Cheaper than a comparison of the texts.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The text.
    pub fn text(&self) -> &str {
        self.0.get()
    }

    /// The nesting depth.
    pub fn depth(&self) -> usize {
        depth(self.text().as_bytes())
    }

    /// The value.
    pub fn value(&self) -> Value {
        // Cannot fail: it was checked when it was accepted.
        serde_json::from_str(self.0.get()).unwrap_or_default()
    }
}

/// Deserializes an optional member for which `null` is a value and not the same as absent, with
/// `#[serde(default, deserialize_with = "present")]`.
pub fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Json>, D::Error> {
    Json::deserialize(deserializer).map(Some)
}

/// Like [`present`], but keeps the text unchanged, whatever its nesting depth. It works only directly on JSON text, not on content that
/// serde has buffered, as for tagged enums.
pub fn present_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Json>, D::Error> {
    json_text(deserializer).map(Some)
}

/// Deserializes a member like [`present_text`].
pub fn json_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Json::of_raw)
}

/// Parses a value from outside.
pub fn read_value(text: &[u8]) -> Result<Value, Unreadable> {
    if depth(text) > DEPTH_MAX {
        return Err(Unreadable::TooDeep);
    }
    Ok(serde_json::from_slice(text)?)
}

/// The nesting depth of a JSON text: 0 for a value that is neither an array nor an object.
pub fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut quoted, mut escaped) = (false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Json {}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    /// Parses into a [`Value`] first, because serde buffers the content of tagged enums.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(|value| Self::of(&value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(levels: usize) -> String {
        format!("{}{}", "[".repeat(levels), "]".repeat(levels))
    }

    #[test]
    fn values_that_are_accepted_can_be_read_again() {
        for (text, levels) in [
            ("0", 0),
            (r#" {"a":"]]}[[{\"[","b":[{}]}"#, 3),
            ("[[],[[]]]", 3),
        ] {
            assert_eq!(depth(text.as_bytes()), levels, "{text}");
            let read = Json::read(text.as_bytes()).unwrap();
            assert_eq!(read.value(), serde_json::from_str::<Value>(text).unwrap());
        }
        assert!(Json::read(nested(DEPTH_MAX).as_bytes()).is_ok());
        let deep = Json::read(nested(DEPTH_MAX + 1).as_bytes());
        assert!(matches!(deep, Err(Unreadable::TooDeep)));
        for text in [r#""\ud800""#, "1e400", "{", "1 2", "\u{feff}1"] {
            let read = Json::read(text.as_bytes());
            assert!(matches!(read, Err(Unreadable::NotJson(_))), "{text}");
        }
        assert!(Json::read(b"\"\xff\"").is_err());
    }

    #[test]
    fn texts_of_any_depth_are_read_back() {
        #[derive(Deserialize)]
        struct Row {
            #[serde(default, deserialize_with = "present_text")]
            input: Option<Json>,
            #[serde(deserialize_with = "json_text")]
            data: Json,
        }
        let deep = nested(1000);
        let row: Row = serde_json::from_str(&format!(r#"{{"input":{deep},"data":null}}"#)).unwrap();
        assert_eq!(row.input.unwrap().text(), deep);
        assert_eq!(row.data, Json::null());
    }
}
