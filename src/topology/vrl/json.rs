//! VRL's values as JSON: the same as with `serde_json`, at half the cost. Strings that are read are slices of the record's bytes,
//! not copies; strings that are written are scanned for escapes eight bytes at a time. Numbers that VRL cannot represent keep their
//! digits ([`super::number`]).

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use vrl::value::{KeyString, ObjectMap, Value};

use super::number;
use crate::envelope::json::{put_string, put_utf8};

/// Levels of nesting, the same as `serde_json`'s limit.
const MOST_LEVELS: u8 = 127;

/// Why a value has no JSON form.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unwritable {
    /// A string that is not UTF-8.
    #[error("a text is not UTF-8 ({0}); write its bytes with `encode_base64` or `encode_base16`")]
    Utf8(std::str::Utf8Error),
    /// An error of `serde_json`.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl Unwritable {
    /// The code of a record that cannot be written.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Utf8(_) => "invalid_utf8",
            Self::Json(_) => "invalid_payload",
        }
    }
}

/// Reads a JSON text that is a slice of `bytes`; if it is not, its strings are copied.
pub(crate) fn read(text: &[u8], bytes: &Bytes) -> Result<Value, serde_json::Error> {
    match std::str::from_utf8(text) {
        Ok(text) => read_text(text, bytes),
        // It says where.
        Err(_) => serde_json::from_slice(text),
    }
}

/// As [`read`].
pub(crate) fn read_text(text: &str, bytes: &Bytes) -> Result<Value, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Part::of(bytes, text).deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// Reads a JSON text; the texts of some fields of an object are not parsed, but given to `leave`.
pub(crate) fn read_but(
    fields: &[&'static str],
    text: &Bytes,
    leave: impl FnMut(&'static str, &str),
) -> Result<Value, serde_json::Error> {
    let (Some(b'{'), Ok(string)) = (text.first(), std::str::from_utf8(text)) else {
        return read(text, text);
    };
    let all = But {
        fields,
        part: Part::of(text, string),
        leave,
    };
    let mut reader = serde_json::Deserializer::from_str(string);
    let read = reader.deserialize_map(all)?;
    reader.end()?;
    Ok(Value::Object(read))
}

/// A text as a slice of `bytes`, or as a copy if it is not one.
fn part(text: &str, bytes: &Bytes) -> Bytes {
    match number::place(text, bytes) {
        Some(range) => bytes.slice(range),
        None => Bytes::copy_from_slice(text.as_bytes()),
    }
}

/// As [`part`], as a value.
fn text(text: &str, bytes: &Bytes) -> Value {
    Value::Bytes(part(text, bytes))
}

/// Writes a value that was read from `record`, or made of what was.
pub(crate) fn write(value: &Value, record: &Bytes, out: &mut Vec<u8>) -> Result<(), Unwritable> {
    match value {
        Value::Object(fields) => {
            out.push(b'{');
            for (n, (name, value)) in fields.iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                put_string(name, out);
                out.push(b':');
                write(value, record, out)?;
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                write(item, record, out)?;
            }
            out.push(b']');
        }
        Value::Bytes(bytes) if number::stands_in(bytes, record) => out.extend_from_slice(bytes),
        Value::Bytes(bytes) => {
            let text = std::str::from_utf8(bytes).map_err(Unwritable::Utf8)?;
            put_string(text, out);
        }
        Value::String(text) => put_utf8(text.as_bytes(), out),
        other => serde_json::to_writer(out, other)?,
    }
    Ok(())
}

/// A value within these bytes.
#[derive(Clone, Copy)]
struct Part<'b> {
    bytes: &'b Bytes,
    /// Numbers may lose digits, so each is checked; this many levels may follow.
    exact: Option<u8>,
}

impl<'b> Part<'b> {
    fn of(bytes: &'b Bytes, text: &str) -> Self {
        let exact = number::may_lose_digits(text.as_bytes()).then_some(MOST_LEVELS);
        Self { bytes, exact }
    }

    fn exact(self, text: &str, left: u8) -> Result<Value, serde_json::Error> {
        let mut reader = serde_json::Deserializer::from_str(text);
        match text.as_bytes().first() {
            Some(b'-' | b'0'..=b'9') => {
                Ok(number::exact(text).unwrap_or_else(|| self::text(text, self.bytes)))
            }
            Some(b'{' | b'[') => {
                let Some(left) = left.checked_sub(1) else {
                    return Err(serde::de::Error::custom("recursion limit exceeded"));
                };
                reader.deserialize_any(Self {
                    exact: Some(left),
                    ..self
                })
            }
            _ => reader.deserialize_any(self),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        match self.exact {
            None => reader.deserialize_any(self),
            Some(left) => {
                let text = <&RawValue>::deserialize(reader)?.get();
                self.exact(text, left).map_err(serde::de::Error::custom)
            }
        }
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any valid JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(match i64::try_from(value) {
            Ok(value) => Value::Integer(value),
            Err(_) => Value::from_f64_or_zero(value as f64),
        })
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // JSON has no value that is not a number.
        Ok(Value::from_f64_or_zero(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Value, E> {
        Ok(text(value, self.bytes))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(text(value, self.bytes))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut all = ObjectMap::new();
        while let Some(name) = members.next_key::<KeyString>()? {
            all.insert(name, members.next_value_seed(self)?);
        }
        Ok(Value::Object(all))
    }
}

/// The name of a member, copied only if it has escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// An object within these bytes, without some fields.
struct But<'a, F> {
    fields: &'a [&'static str],
    part: Part<'a>,
    leave: F,
}

impl<'de, F: FnMut(&'static str, &str)> Visitor<'de> for But<'_, F> {
    type Value = ObjectMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<ObjectMap, A::Error> {
        let mut all = ObjectMap::new();
        while let Some(Name(name)) = members.next_key::<Name<'de>>()? {
            if let Some(field) = self.fields.iter().find(|field| **field == name) {
                (self.leave)(field, members.next_value::<&RawValue>()?.get());
            } else {
                all.insert(name.into(), members.next_value_seed(self.part)?);
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::envelope::json::canonical_hash;

    pub(in crate::topology) fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
            "[ -~]{0,40}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
                prop::collection::vec((any::<String>(), inner), 0..14)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// Whether it has a number that VRL cannot represent.
    pub(in crate::topology) fn has_large(json: &serde_json::Value) -> bool {
        match json {
            serde_json::Value::Number(number) => number.is_u64() && !number.is_i64(),
            serde_json::Value::Array(items) => items.iter().any(has_large),
            serde_json::Value::Object(members) => members.values().any(has_large),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn it_is_what_serde_json_makes_of_it(json in any_json(), within in any::<bool>()) {
            let text = json.to_string();
            let bytes = Bytes::from(text.clone());
            let ours = read(if within { &bytes } else { text.as_bytes() }, &bytes).unwrap();
            let mut written = Vec::new();
            write(&ours, &bytes, &mut written).unwrap();
            let written = String::from_utf8(written).unwrap();
            if has_large(&json) {
                // VRL has no such number, and `serde_json` makes floats of them.
                // Written as an integer or as a float, the value is the same to the last digit.
                if within {
                    let canonical = |text: &str| canonical_hash(text.as_bytes()).unwrap();
                    prop_assert_eq!(canonical(&written), canonical(&text));
                }
            } else {
                let theirs: Value = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(&ours, &theirs);
                prop_assert_eq!(written, serde_json::to_string(&theirs).unwrap());
            }
        }
    }

    #[test]
    fn what_is_no_json_is_refused_with_its_place() {
        let refused = |text: &'static [u8]| {
            let bytes = Bytes::from_static(text);
            read(&bytes, &bytes).unwrap_err().to_string()
        };
        assert_eq!(refused(b"{} x"), "trailing characters at line 1 column 4");
        assert_eq!(
            refused(b"[\"\xff\"]"),
            "invalid unicode code point at line 1 column 3"
        );
        let deep = "[".repeat(200);
        let bytes = Bytes::from(deep);
        assert!(read(&bytes, &bytes).is_err());
    }

    #[test]
    fn what_only_vrl_knows_is_written_as_vrl_does() {
        let mut fields = ObjectMap::new();
        fields.insert("bytes".into(), Value::from(&b"a\"\n"[..]));
        fields.insert("far".into(), Value::from_f64_or_zero(f64::INFINITY));
        let time = chrono::DateTime::from_timestamp_millis(5).unwrap();
        fields.insert("time".into(), Value::Timestamp(time));
        let value = Value::Object(fields);
        let mut written = Vec::new();
        write(&value, &Bytes::new(), &mut written).unwrap();
        assert_eq!(written, serde_json::to_vec(&value).unwrap());
    }

    #[test]
    fn what_is_no_text_has_no_json() {
        let value = Value::Array(vec![Value::from(&b"a\x84"[..])]);
        let error = write(&value, &Bytes::new(), &mut Vec::new()).unwrap_err();
        assert_eq!(error.code(), "invalid_utf8");
    }

    #[test]
    fn numbers_keep_their_digits() {
        let text = r#"{"a":18446744073709551615,"b":[ 18446744073709551614 ,0.10000000000000000555],"c":"18446744073709551613","d":1e5}"#;
        let bytes = Bytes::from(text);
        let read = read(&bytes, &bytes).unwrap();
        let Value::Object(fields) = &read else {
            panic!("{read}")
        };
        assert_eq!(fields["a"], Value::from("18446744073709551615"));
        let mut written = Vec::new();
        write(&read, &bytes, &mut written).unwrap();
        let expected = text.replace(' ', "").replace("1e5", "100000.0");
        assert_eq!(String::from_utf8(written).unwrap(), expected);
        // A copy of the digits is a text, and so is a text of the record.
        let copies = Value::from(vec![
            Value::from(String::from("18446744073709551615")),
            fields["c"].clone(),
        ]);
        let mut written = Vec::new();
        write(&copies, &bytes, &mut written).unwrap();
        assert_eq!(
            written,
            br#"["18446744073709551615","18446744073709551613"]"#
        );
        let deep = format!(
            "{}18446744073709551615{}",
            "[".repeat(5000),
            "]".repeat(5000)
        );
        assert!(super::read(deep.as_bytes(), &Bytes::new()).is_err());
    }
}
