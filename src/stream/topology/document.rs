//! `.` of the programs: a record's value, whose `data` are read only as far as a program looks into them.
//!
//! Most of an event is its `data`, of which a program reads a field or two. Until one changes something in them they stay the text that they
//! are: no tree is built, and they go on as they came, every digit of every number.

use std::{
    borrow::Cow,
    cell::{Cell, OnceCell},
};

use bytes::Bytes;
use vrl::{
    compiler::{SecretTarget, Target},
    path::{OwnedSegment, OwnedTargetPath, OwnedValuePath, PathPrefix},
    value::{ObjectMap, Value},
};

use super::{json, vrl::Vrl};
use crate::envelope::json::{member, put_string};

const DATA: &str = "data";
/// Bytes of most documents' JSON.
const USUAL: usize = 1024;

/// A JSON value.
#[derive(Clone, Debug)]
pub(super) struct Document {
    /// An object without its `data` while those are unread.
    value: Value,
    data: Option<Unread>,
}

/// A JSON text that was checked when it came in.
#[derive(Clone, Debug)]
struct Unread {
    text: Bytes,
    read: OnceCell<Value>,
}

impl From<Value> for Document {
    fn from(value: Value) -> Self {
        Self { value, data: None }
    }
}

impl Document {
    /// An object, and the text of its `data`.
    pub(super) fn with_data(fields: ObjectMap, text: Bytes) -> Self {
        let read = OnceCell::new();
        Self {
            value: Value::Object(fields),
            data: Some(Unread { text, read }),
        }
    }

    /// Reads a JSON text that was checked before.
    pub(super) fn read(text: &Bytes) -> Result<Self, serde_json::Error> {
        let (value, data) = json::read_but(DATA, text)?;
        Ok(match (value, data) {
            (Value::Object(fields), Some(data)) => Self::with_data(fields, data),
            (value, _) => value.into(),
        })
    }

    /// All of it, to be changed.
    pub(super) fn whole(&mut self) -> &mut Value {
        if let Some(data) = self.data.take()
            && let Value::Object(fields) = &mut self.value
        {
            fields.insert(DATA.into(), data.into_value());
        }
        &mut self.value
    }

    fn into_value(mut self) -> Value {
        self.whole();
        self.value
    }

    /// Whether it is an object with this field.
    pub(super) fn has(&self, field: &str) -> bool {
        self.data.is_some() && field == DATA
            || matches!(&self.value, Value::Object(fields) if fields.contains_key(field))
    }

    /// What is at a path.
    pub(super) fn get(&self, path: &OwnedValuePath) -> Option<Cow<'_, Value>> {
        match (&self.data, &*path.segments) {
            (Some(_), []) => Some(Cow::Owned(self.clone().into_value())),
            (Some(data), [OwnedSegment::Field(first), rest @ ..]) if &**first == DATA => {
                if is_names(rest) {
                    data.find(rest).map(Cow::Owned)
                } else {
                    data.read().get(rest).map(Cow::Borrowed)
                }
            }
            _ => self.value.get(path).map(Cow::Borrowed),
        }
    }

    /// Whether it is an object.
    pub(super) fn is_object(&self) -> bool {
        self.value.is_object()
    }

    /// A text.
    pub(super) fn as_text(&self) -> Option<&Bytes> {
        self.value.as_bytes()
    }

    /// Its JSON text.
    pub(super) fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut out = Vec::with_capacity(USUAL);
        self.write(&mut out)?;
        Ok(out)
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        let (Some(data), Value::Object(fields)) = (&self.data, &self.value) else {
            return json::write(&self.value, out);
        };
        let put_data = |out: &mut Vec<u8>| {
            put_string(DATA, out);
            out.push(b':');
            out.extend_from_slice(&data.text);
        };
        let mut due = true;
        out.push(b'{');
        for (n, (name, value)) in fields.iter().enumerate() {
            // Names are in order.
            if due && &**name > DATA {
                due = false;
                put_data(out);
                out.push(b',');
            }
            put_string(name, out);
            out.push(b':');
            json::write(value, out)?;
            if n + 1 < fields.len() {
                out.push(b',');
            }
        }
        if due {
            if !fields.is_empty() {
                out.push(b',');
            }
            put_data(out);
        }
        out.push(b'}');
        Ok(())
    }
}

impl Unread {
    fn read(&self) -> &Value {
        let read = || json::read(&self.text, &self.text).unwrap_or(Value::Null);
        self.read.get_or_init(read)
    }

    fn into_value(self) -> Value {
        self.read();
        self.read.into_inner().unwrap_or(Value::Null)
    }

    /// What is at a path of names; the rest stays unread.
    fn find(&self, names: &[OwnedSegment]) -> Option<Value> {
        let mut text = std::str::from_utf8(&self.text).ok()?;
        for name in names {
            let OwnedSegment::Field(name) = name else {
                return None;
            };
            text = member(text, name)?;
        }
        json::read_text(text, &self.text).ok()
    }
}

fn is_names(path: &[OwnedSegment]) -> bool {
    path.iter().all(OwnedSegment::is_field)
}

/// The paths among these that lead to fields within `data`.
pub(super) fn into_data<'a>(
    paths: impl Iterator<Item = &'a OwnedTargetPath>,
) -> impl Iterator<Item = &'a OwnedValuePath> {
    let paths = paths.filter(|path| path.prefix == PathPrefix::Event);
    paths.map(|path| &path.path).filter(|path| {
        let [OwnedSegment::Field(first), rest @ ..] = &*path.segments else {
            return false;
        };
        &**first == DATA && !rest.is_empty() && is_names(rest)
    })
}

/// What a program works on.
#[derive(Debug)]
pub(super) struct Subject<'v> {
    pub(super) document: Document,
    pub(super) metadata: Value,
    /// Fields within `data` that the program reads, and those that it has.
    looks: &'v [OwnedValuePath],
    found: Vec<OnceCell<Option<Value>>>,
    /// The runtime has asked whether there is anything at all, as it does before each run.
    begun: Cell<bool>,
    /// All of it, for a program that reads it so.
    all: OnceCell<Value>,
}

impl<'v> Subject<'v> {
    pub(super) fn new(document: Document, metadata: Value, vrl: &'v Vrl) -> Self {
        let looks = match document.data {
            Some(_) => &*vrl.looks,
            None => &[],
        };
        Self {
            document,
            metadata,
            looks,
            found: vec![OnceCell::new(); looks.len()],
            begun: Cell::new(false),
            all: OnceCell::new(),
        }
    }

    /// The value, with all in it that a change at this path may touch.
    fn changing(&mut self, path: &OwnedValuePath) -> &mut Value {
        self.all.take();
        match path.segments.first() {
            Some(OwnedSegment::Field(first)) if &**first != DATA => &mut self.document.value,
            _ => self.document.whole(),
        }
    }
}

impl Target for Subject<'_> {
    fn target_insert(&mut self, path: &OwnedTargetPath, value: Value) -> Result<(), String> {
        match path.prefix {
            PathPrefix::Event => self.changing(&path.path).insert(&path.path, value),
            PathPrefix::Metadata => self.metadata.insert(&path.path, value),
        };
        Ok(())
    }

    fn target_get(&self, path: &OwnedTargetPath) -> Result<Option<&Value>, String> {
        let path = match path.prefix {
            PathPrefix::Event => &path.path,
            PathPrefix::Metadata => return Ok(self.metadata.get(&path.path)),
        };
        Ok(match (&self.document.data, &*path.segments) {
            (Some(data), [OwnedSegment::Field(first), rest @ ..]) if &**first == DATA => {
                match self.looks.iter().position(|look| look == path) {
                    Some(n) => self.found[n].get_or_init(|| data.find(rest)).as_ref(),
                    None => data.read().get(rest),
                }
            }
            (Some(_), []) if self.begun.replace(true) => {
                let all = || self.document.clone().into_value();
                Some(self.all.get_or_init(all))
            }
            _ => self.document.value.get(path),
        })
    }

    fn target_get_mut(&mut self, path: &OwnedTargetPath) -> Result<Option<&mut Value>, String> {
        Ok(match path.prefix {
            PathPrefix::Event => self.changing(&path.path).get_mut(&path.path),
            PathPrefix::Metadata => self.metadata.get_mut(&path.path),
        })
    }

    fn target_remove(
        &mut self,
        path: &OwnedTargetPath,
        compact: bool,
    ) -> Result<Option<Value>, String> {
        Ok(match path.prefix {
            // What lies above may go with it.
            PathPrefix::Event if compact => self
                .changing(&OwnedValuePath::root())
                .remove(&path.path, true),
            PathPrefix::Event => self.changing(&path.path).remove(&path.path, false),
            PathPrefix::Metadata => self.metadata.remove(&path.path, compact),
        })
    }
}

/// There are none.
impl SecretTarget for Subject<'_> {
    fn get_secret(&self, _: &str) -> Option<&str> {
        None
    }

    fn insert_secret(&mut self, _: &str, _: &str) {}

    fn remove_secret(&mut self, _: &str) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::{
            problem::{Problems, SourceFile},
            vrl::{BOUNDS, Machine, Use, compile},
            yaml,
        },
        *,
    };

    const EVENT: &str = r#"{"id":"e1","entity":{"type":"order","tags":{}},"zone":"eu","data" : {"order": 17, "amount":12.50,
        "a\u006dount": 13.75, "big": 12345678901234567890.10, "lines":[{"sku":"A"},{"sku":"B"}], "customer":{"id":5,"name":"J\u00f6"},
        "nothing":null, "odd name":"x\"y"}}"#;

    fn program(text: &str) -> Vrl {
        // Any JSON text is one of YAML's.
        let node = yaml::parse(&serde_json::to_string(text).unwrap()).unwrap();
        let mut problems = Problems::of(Arc::new(SourceFile {
            name: "test".into(),
            text: text.into(),
        }));
        let vrl = compile(node.text().unwrap(), Use::Map, &mut problems);
        vrl.unwrap_or_else(|| panic!("{text}: {:?}", problems.found))
    }

    fn json(document: &Document) -> serde_json::Value {
        serde_json::from_slice(&document.to_json().unwrap()).unwrap()
    }

    /// What a program leaves behind, and whether `data` are unread still.
    fn run(vrl: &Vrl, document: Document) -> (serde_json::Value, Value, String, bool) {
        let mut subject = Subject::new(document, Value::Object(ObjectMap::new()), vrl);
        let result = Machine::new(BOUNDS).run(vrl, &mut subject);
        let unread = subject.document.data.is_some();
        let result = format!("{result:?}");
        (json(&subject.document), subject.metadata, result, unread)
    }

    #[test]
    fn a_program_sees_and_leaves_the_same_as_with_all_of_it_read() {
        let not_read = [
            ".gross = float!(.data.amount) * 1.19",
            ".a = .data.amount\n.b = .data.amount\n.c = .data.customer.name",
            ".a = exists(.data.amount)\n.b = exists(.data.none)\n.c = exists(.data.nothing)\n.d = exists(.data)",
            ".a = .data.none\n.b = .data.order.deeper\n.c = .data.nothing.deeper\n.d = .data.lines.sku",
            ".a = .data.lines[1].sku\n.b = .data.lines[-1]\n.c = .data[0]\n.d = .data.\"odd name\"",
            ".all = .data\n.big = .data.big",
            "%key = .data.order\n%whole = .",
            ".copy = .",
            ".first = .\n.id = 2\n.second = .",
            ".a = unnest!(.data.lines)\n.zone = 1\n.b = unnest!(.data.lines)",
            "del(.entity)\ndel(.id)\ndel(.zone)\n.x = .data.order",
            ".entity.tags.a.b = .data.customer",
            "for_each(object!(.data)) -> |k, v| { %keys = push(array!(%keys || []), k) }",
            ".data.order",
            ".a = int!(.data.customer.name)",
        ];
        let read = [
            ".data.amount = 1",
            ".data.new.deep = .data.amount\n.data.amount = .data.new.deep\n.b = .data.amount",
            ".a = del(.data.amount)\n.b = .data.amount",
            "del(.data)\n.a = exists(.data)",
            ".data = {\"a\": .data.order}\n.b = .data.a",
            ".data = 5",
            ".data.lines[0].sku = \"C\"",
            ". = {\"only\": .data.order}",
            ". = merge(object!(.), {\"id\": 7})",
            ". = object!(.)\n. |= {\"data\": 1}",
            ".data = object!(.data)\n.data |= {\"order\": 1}",
            "del(.)",
            ".[0] = 1",
            "del(.entity.tags, compact: true)",
            "del(.data.customer.id, compact: true)\ndel(.data.customer.name, compact: true)",
            ".data.a, .err = int(.data.order)",
            ". = .data",
        ];
        for (programs, unread) in [(&not_read[..], true), (&read[..], false)] {
            for text in programs {
                let vrl = program(text);
                let bytes = Bytes::from_static(EVENT.as_bytes());
                let lazy = Document::read(&bytes).unwrap();
                assert!(lazy.data.is_some());
                let whole = Document::from(json::read(&bytes, &bytes).unwrap());
                let (lazy, whole) = (run(&vrl, lazy), run(&vrl, whole));
                let shown = |json: &serde_json::Value| {
                    // Numbers that were not read keep digits that others lose.
                    json.to_string()
                        .replace("12345678901234567890.10", "1.2345678901234567e19")
                };
                assert_eq!(shown(&lazy.0), shown(&whole.0), "{text}");
                assert_eq!((lazy.1, lazy.2), (whole.1, whole.2), "{text}");
                assert_eq!(lazy.3, unread, "{text}");
            }
        }
    }

    #[test]
    fn what_is_not_touched_goes_on_as_it_came() {
        for (event, after) in [
            (
                r#"{"data":[1.50, "\u00e9"]}"#,
                r#"{"data":[1.50, "\u00e9"]}"#,
            ),
            (
                r#"{"zone":1,"data": {"b":1e2,"a":0} ,"id":"x"}"#,
                r#"{"data":{"b":1e2,"a":0},"id":"x","zone":1}"#,
            ),
            (r#"{"id":"x","data":1.0}"#, r#"{"data":1.0,"id":"x"}"#),
            (
                r#"{"data":1.0,"data":2.0,"a":{}}"#,
                r#"{"a":{},"data":2.0}"#,
            ),
            (r#"{"a":1.0}"#, r#"{"a":1.0}"#),
            (r"[1.50]", r"[1.5]"),
            (r"[1.451233629614798e-30]", r"[1.451233629614798e-30]"),
            ("null", "null"),
        ] {
            let document = Document::read(&Bytes::from_static(event.as_bytes())).unwrap();
            let written = document.to_json().unwrap();
            assert_eq!(String::from_utf8(written).unwrap(), after);
        }
        assert!(Document::read(&Bytes::from_static(b"{} x")).is_err());
        assert!(Document::read(&Bytes::from_static(b"{\"data\":{]}")).is_err());
    }

    proptest::proptest! {
        /// Whatever the data are, and whatever path leads into them: the same as with all of them read, and as they came.
        #[test]
        fn any_data_are_the_same_unread(
            data in json::tests::any_json(),
            names in proptest::collection::vec("[a-c]?", 0..3),
            wide in proptest::bool::ANY,
        ) {
            // Names that are really there, as far as they go.
            let mut at = &data;
            let mut path = OwnedValuePath::single_field("data");
            for name in names {
                let first = at.as_object().and_then(|fields| fields.iter().next());
                let name = first.map_or(&name, |(name, _)| name);
                path.push_field(name);
                at = at.get(name).unwrap_or(&serde_json::Value::Null);
            }
            let event = serde_json::json!({"a": 1, "data": data, "z": null});
            let text = if wide {
                serde_json::to_string_pretty(&event)
            } else {
                serde_json::to_string(&event)
            };
            let bytes = Bytes::from(text.unwrap());
            let unread = Document::read(&bytes).unwrap();
            let whole = Document::from(json::read(&bytes, &bytes).unwrap());
            proptest::prop_assert_eq!(unread.get(&path), whole.get(&path));
            proptest::prop_assert_eq!(json(&unread), event);
            proptest::prop_assert_eq!(unread.into_value(), whole.into_value());
        }
    }

    #[test]
    fn fields_are_found_by_path() {
        let document = Document::read(&Bytes::from_static(EVENT.as_bytes())).unwrap();
        for (path, expected) in [
            ("data.amount", "13.75"),
            ("data.customer.name", r#""Jö""#),
            ("data.lines[0].sku", r#""A""#),
            ("entity.type", r#""order""#),
        ] {
            let path = vrl::path::parse_value_path(path).unwrap();
            let value = document.get(&path).unwrap();
            assert_eq!(serde_json::to_string(&*value).unwrap(), expected);
        }
        let path = vrl::path::parse_value_path("data.none").unwrap();
        assert_eq!(document.get(&path), None);
        assert!(document.has("data") && document.has("id") && !document.has("none"));
        let all = document.get(&OwnedValuePath::root()).unwrap().into_owned();
        let order = vrl::path::parse_value_path("data.order").unwrap();
        assert_eq!(all.get(&order), Some(&Value::Integer(17)));
    }
}
