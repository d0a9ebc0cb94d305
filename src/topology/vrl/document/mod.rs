//! `.` of the programs: a record's value, whose fields are read only as far as a program looks into them.
//!
//! A program reads a field or two of an event, and most of an event is its `data`. What a program does not touch stays JSON text
//! ([`Unread`]): it is not parsed, and is written as it came, with every digit of every number.

mod subject;
#[cfg(test)]
mod tests;
mod unread;

use std::borrow::Cow;

use bytes::Bytes;
use vrl::{
    path::{OwnedSegment, OwnedValuePath},
    value::{ObjectMap, Value},
};

use self::unread::{FIELDS, Field};
pub(crate) use self::{
    subject::{Subject, into_fields},
    unread::Unread,
};
use super::json;
use crate::envelope::json::{put_string, put_utf8};

/// Enough bytes for the JSON of most documents.
const USUAL: usize = 1024;

/// A JSON value.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// What is read. It is an object as long as any field is unread.
    value: Value,
    /// Fields of the same object; none of them is in `value`.
    unread: Unread,
}

impl From<Value> for Document {
    fn from(value: Value) -> Self {
        Self {
            value,
            unread: Unread::default(),
        }
    }
}

impl Document {
    /// A value that was read from a record.
    pub(crate) fn within(value: Value, record: &Bytes) -> Self {
        Self {
            value,
            unread: Unread::within(record),
        }
    }

    /// An object: these fields, and of those that are not read yet the others.
    pub(crate) fn with_unread(fields: ObjectMap, mut unread: Unread) -> Self {
        for name in fields.keys() {
            unread.forget(name);
        }
        Self {
            value: Value::Object(fields),
            unread,
        }
    }

    /// Reads a JSON text that was checked before.
    pub(crate) fn read(text: &Bytes) -> Result<Self, serde_json::Error> {
        let mut unread = Unread::within(text);
        let value = json::read_but(&FIELDS, text, |name, json| unread.json(name, json))?;
        Ok(Self { value, unread })
    }

    /// The whole value, to be changed.
    pub(crate) fn whole(&mut self) -> &mut Value {
        if let Value::Object(fields) = &mut self.value {
            fields.extend(self.unread.take_all());
        }
        &mut self.value
    }

    /// What is read, with this field, to be changed.
    fn with_field(&mut self, name: &str) -> &mut Value {
        if let Some(value) = self.unread.take(name)
            && let Value::Object(fields) = &mut self.value
        {
            fields.insert(name.into(), value);
        }
        &mut self.value
    }

    /// The whole value.
    fn to_value(&self) -> Value {
        let mut value = self.value.clone();
        if let Value::Object(fields) = &mut value {
            let unread = self.unread.fields();
            fields.extend(unread.map(|field| (field.name().into(), field.value())));
        }
        value
    }

    /// The unread field that a path leads into, and the rest of the path.
    fn unread_at<'p>(&self, path: &'p OwnedValuePath) -> Option<(Field<'_>, &'p [OwnedSegment])> {
        match &*path.segments {
            [OwnedSegment::Field(first), rest @ ..] => Some((self.unread.field(first)?, rest)),
            _ => None,
        }
    }

    /// Whether it is an object with this field.
    #[cfg(test)]
    pub(crate) fn has(&self, field: &str) -> bool {
        self.unread.field(field).is_some()
            || matches!(&self.value, Value::Object(fields) if fields.contains_key(field))
    }

    /// The value at a path.
    pub(crate) fn get(&self, path: &OwnedValuePath) -> Option<Cow<'_, Value>> {
        match self.unread_at(path) {
            Some((field, rest)) if is_names(rest) => field.find(rest).map(Cow::Owned),
            Some((field, rest)) => field.read().get(rest).map(Cow::Borrowed),
            None if path.is_root() && !self.unread.is_empty() => Some(Cow::Owned(self.to_value())),
            None => self.value.get(path).map(Cow::Borrowed),
        }
    }

    /// Writes the value at a path as JSON, and returns whether there is one; `null` counts as none.
    pub(crate) fn put(
        &self,
        path: &OwnedValuePath,
        out: &mut Vec<u8>,
    ) -> Result<bool, json::Unwritable> {
        let text = self.unread_at(path);
        if let Some(text) = text.and_then(|(field, rest)| field.text(rest)) {
            put_utf8(text, out);
            return Ok(true);
        }
        match self.get(path).as_deref() {
            None | Some(Value::Null) => Ok(false),
            Some(value) => json::write(value, self.unread.record(), out).map(|()| true),
        }
    }

    /// The record that it was read from.
    pub(crate) fn record(&self) -> &Bytes {
        self.unread.record()
    }

    /// A string.
    pub(crate) fn as_text(&self) -> Option<&Bytes> {
        self.value.as_bytes()
    }

    /// Its JSON text.
    pub(crate) fn to_json(&self) -> Result<Vec<u8>, json::Unwritable> {
        let mut out = Vec::with_capacity(USUAL);
        self.write(&mut out)?;
        Ok(out)
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), json::Unwritable> {
        let Value::Object(fields) = &self.value else {
            return json::write(&self.value, self.unread.record(), out);
        };
        // Both are sorted by name.
        let mut unread = self.unread.fields().peekable();
        out.push(b'{');
        for (name, value) in fields {
            while let Some(field) = unread.next_if(|field| field.name() < &**name) {
                put_plain_name(field.name(), out);
                field.put(out);
            }
            put_comma(out);
            put_string(name, out);
            out.push(b':');
            json::write(value, self.unread.record(), out)?;
        }
        for field in unread {
            put_plain_name(field.name(), out);
            field.put(out);
        }
        out.push(b'}');
        Ok(())
    }
}

/// Writes the comma between an object's members.
fn put_comma(out: &mut Vec<u8>) {
    // No value ends with a brace that opens.
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
}

/// Writes the name of an object's next member, in which nothing needs escapes.
fn put_plain_name(name: &'static str, out: &mut Vec<u8>) {
    put_comma(out);
    out.reserve(name.len() + 3);
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn is_names(path: &[OwnedSegment]) -> bool {
    path.iter().all(OwnedSegment::is_field)
}
