//! Fields of a document that are not read yet.

use std::cell::OnceCell;

use bytes::Bytes;
use vrl::{
    path::OwnedSegment,
    value::{KeyString, Value},
};

use super::{
    super::{json, number},
    put_plain_name,
};
use crate::envelope::{
    Entity, Rfc3339,
    json::{member, put_utf8},
};

/// The fields of an event, extensions left out.
pub(crate) const FIELDS: [&str; 12] = [
    "causationid",
    "correlationid",
    "data",
    "data_base64",
    "entity",
    "id",
    "idempotencykey",
    "source",
    "specversion",
    "subject",
    "time",
    "type",
];

/// Fields of an object, as ranges of the record that they came in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unread {
    record: Bytes,
    /// Texts that are not in the record.
    apart: String,
    /// In the order of their names.
    fields: Vec<Kept>,
}

#[derive(Clone, Debug)]
struct Kept {
    name: &'static str,
    content: Content,
    /// Its value, once a program has asked for all of it.
    read: OnceCell<Value>,
}

#[derive(Clone, Copy, Debug)]
enum Content {
    /// The same in all records.
    Fixed(&'static str),
    Text(Text),
    /// A JSON text that was checked when it came in.
    Json(Text),
    Time(Rfc3339),
    Entity {
        display_name: Option<Text>,
        external_id: Text,
        kind: Text,
    },
}

/// The range of a text.
#[derive(Clone, Copy, Debug)]
struct Text {
    start: u32,
    end: u32,
    /// In [`Unread::apart`], not in the record.
    apart: bool,
}

impl Unread {
    /// No fields yet. The texts of fields that are added should be slices of `record`: any other is copied.
    pub(crate) fn within(record: &Bytes) -> Self {
        Self {
            record: record.clone(),
            apart: String::new(),
            fields: Vec::new(),
        }
    }

    fn add(&mut self, name: &'static str, content: Content) {
        let read = OnceCell::new();
        let kept = Kept {
            name,
            content,
            read,
        };
        if self.fields.is_empty() {
            self.fields.reserve_exact(FIELDS.len());
        }
        // They come in order unless another program wrote the JSON. The last of several with the same name counts.
        if self.fields.last().is_none_or(|last| last.name < name) {
            self.fields.push(kept);
            return;
        }
        match self.fields.binary_search_by(|field| field.name.cmp(name)) {
            Ok(at) => self.fields[at] = kept,
            Err(at) => self.fields.insert(at, kept),
        }
    }

    /// Adds a text that is the same in all records.
    pub(crate) fn fixed(&mut self, name: &'static str, text: &'static str) {
        self.add(name, Content::Fixed(text));
    }

    /// Adds a text.
    pub(crate) fn text(&mut self, name: &'static str, text: &str) {
        let text = self.place(text);
        self.add(name, Content::Text(text));
    }

    /// Adds a text, if there is one.
    pub(crate) fn optional(&mut self, name: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    /// Adds a value by its JSON text, which was checked before.
    pub(crate) fn json(&mut self, name: &'static str, json: &str) {
        let text = self.place(json);
        self.add(name, Content::Json(text));
    }

    /// Adds a time in microseconds.
    pub(crate) fn time(&mut self, name: &'static str, micros: i64) {
        self.add(name, Content::Time(Rfc3339(micros)));
    }

    /// Adds the entity that an event is about.
    pub(crate) fn entity(&mut self, name: &'static str, entity: &Entity<'_>) {
        let display_name = entity.display_name.as_deref();
        let content = Content::Entity {
            display_name: display_name.map(|text| self.place(text)),
            external_id: self.place(&entity.external_id),
            kind: self.place(&entity.kind),
        };
        self.add(name, content);
    }

    fn place(&mut self, text: &str) -> Text {
        let (range, apart) = if let Some(range) = number::place(text, &self.record) {
            (range, false)
        } else {
            let start = self.apart.len();
            self.apart.push_str(text);
            (start..self.apart.len(), true)
        };
        Text {
            start: range.start as u32,
            end: range.end as u32,
            apart,
        }
    }

    /// The record that the fields came in.
    pub(crate) fn record(&self) -> &Bytes {
        &self.record
    }

    /// Drops all fields.
    pub(crate) fn forget_all(&mut self) {
        self.fields.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// All fields, in the order of their names.
    pub(crate) fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        self.fields.iter().map(|kept| Field { of: self, kept })
    }

    pub(crate) fn field(&self, name: &str) -> Option<Field<'_>> {
        self.fields().find(|field| field.name() == name)
    }

    /// Takes a field out, if it is one of them.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.field(name)?.read();
        let at = self.fields.iter().position(|kept| kept.name == name)?;
        self.fields.remove(at).read.into_inner()
    }

    /// Drops a field, if it is one of them.
    pub(crate) fn forget(&mut self, name: &str) {
        self.fields.retain(|kept| kept.name != name);
    }

    /// Takes all fields out.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = (KeyString, Value)> {
        for field in self.fields() {
            field.read();
        }
        let all = std::mem::take(&mut self.fields).into_iter();
        all.filter_map(|kept| Some((kept.name.into(), kept.read.into_inner()?)))
    }

    fn bytes(&self, text: Text) -> &[u8] {
        let all = if text.apart {
            self.apart.as_bytes()
        } else {
            &self.record
        };
        &all[text.start as usize..text.end as usize]
    }

    fn str(&self, text: Text) -> &str {
        // They were `str` when they were placed.
        std::str::from_utf8(self.bytes(text)).unwrap_or_default()
    }

    fn text_value(&self, text: Text) -> Value {
        Value::Bytes(if text.apart {
            Bytes::copy_from_slice(self.bytes(text))
        } else {
            self.record.slice(text.start as usize..text.end as usize)
        })
    }
}

/// One unread field.
#[derive(Clone, Copy)]
pub(crate) struct Field<'a> {
    of: &'a Unread,
    kept: &'a Kept,
}

impl<'a> Field<'a> {
    pub(crate) fn name(self) -> &'static str {
        self.kept.name
    }

    /// Its value, which is kept.
    pub(crate) fn read(self) -> &'a Value {
        self.kept.read.get_or_init(|| self.make())
    }

    /// Its value, which is not kept.
    pub(crate) fn value(self) -> Value {
        self.kept.read.get().cloned().unwrap_or_else(|| self.make())
    }

    fn make(self) -> Value {
        match self.kept.content {
            Content::Fixed(text) => text.into(),
            Content::Text(text) => self.of.text_value(text),
            Content::Json(text) => {
                json::read_text(self.of.str(text), &self.of.record).unwrap_or(Value::Null)
            }
            Content::Time(time) => time.to_string().into(),
            Content::Entity { .. } => {
                let texts = self.entity().into_iter().flatten();
                let texts =
                    texts.map(|(name, text)| (KeyString::from(name), self.of.text_value(text)));
                Value::Object(texts.collect())
            }
        }
    }

    /// The texts of an entity, in the order of their names.
    fn entity(self) -> [Option<(&'static str, Text)>; 3] {
        match self.kept.content {
            Content::Entity {
                display_name,
                external_id,
                kind,
            } => [
                display_name.map(|text| ("display_name", text)),
                Some(("external_id", external_id)),
                Some(("type", kind)),
            ],
            _ => [None; 3],
        }
    }

    fn entity_text(self, name: &str) -> Option<Text> {
        let Content::Entity {
            display_name,
            external_id,
            kind,
        } = self.kept.content
        else {
            return None;
        };
        match name {
            "display_name" => display_name,
            "external_id" => Some(external_id),
            "type" => Some(kind),
            _ => None,
        }
    }

    /// The value at a path within the field; the rest stays unread.
    pub(crate) fn find(self, names: &[OwnedSegment]) -> Option<Value> {
        match (self.kept.content, names) {
            (Content::Json(text), _) => {
                let mut text = self.of.str(text);
                for name in names {
                    let OwnedSegment::Field(name) = name else {
                        return None;
                    };
                    text = member(text, name)?;
                }
                json::read_text(text, &self.of.record).ok()
            }
            (_, []) => Some(self.value()),
            (_, [OwnedSegment::Field(name)]) => {
                let text = self.entity_text(name)?;
                Some(self.of.text_value(text))
            }
            _ => None,
        }
    }

    /// The text at a path within the field, where it need not be parsed.
    pub(crate) fn text(self, path: &[OwnedSegment]) -> Option<&'a [u8]> {
        match (self.kept.content, path) {
            (Content::Fixed(text), []) => Some(text.as_bytes()),
            (Content::Text(text), []) => Some(self.of.bytes(text)),
            (_, [OwnedSegment::Field(name)]) => Some(self.of.bytes(self.entity_text(name)?)),
            _ => None,
        }
    }

    /// Writes the field's value as JSON.
    pub(crate) fn put(self, out: &mut Vec<u8>) {
        match self.kept.content {
            Content::Fixed(text) => put_utf8(text.as_bytes(), out),
            Content::Text(text) => put_utf8(self.of.bytes(text), out),
            Content::Json(text) => out.extend_from_slice(self.of.bytes(text)),
            Content::Time(time) => {
                out.push(b'"');
                time.write(out);
                out.push(b'"');
            }
            Content::Entity { .. } => {
                out.push(b'{');
                for (name, text) in self.entity().into_iter().flatten() {
                    put_plain_name(name, out);
                    put_utf8(self.of.bytes(text), out);
                }
                out.push(b'}');
            }
        }
    }
}
