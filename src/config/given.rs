//! Values of keys, with the place where each was set.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;
use serde_saphyr::Spanned;

use super::{ENV_PREFIX, Problem};

/// The key under which librdkafka's own names stand.
pub(super) const PROPERTIES: &str = "kafka.properties";

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) place: String,
    pub(super) value: Value,
}

/// A typed value from the file, or the raw text of a variable or flag.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    /// A YAML number that is not an `i64`.
    Number(f64),
    Text(String),
    List(Vec<Value>),
    /// Each with its place.
    Map(Vec<(String, Given)>),
    /// Text of a variable or flag, not parsed yet.
    Raw(String),
}

impl Value {
    /// As JSON; the text of a variable or flag is parsed as JSON. The error is what it must be instead.
    pub(super) fn json(&self) -> Result<Json, &'static str> {
        Ok(match self {
            Self::Null => Json::Null,
            Self::Bool(b) => (*b).into(),
            Self::Int(i) => (*i).into(),
            Self::Number(n) => (*n).into(),
            Self::Text(text) => text.as_str().into(),
            Self::List(items) => items.iter().map(Self::json).collect::<Result<_, _>>()?,
            Self::Map(entries) => {
                let mut object = serde_json::Map::new();
                for (name, value) in entries {
                    object.insert(name.clone(), value.value.json()?);
                }
                Json::Object(object)
            }
            Self::Raw(text) => serde_json::from_str(text).map_err(|_| "JSON")?,
        })
    }
}

impl Given {
    pub(super) fn raw(text: &str, place: &str) -> Self {
        Self {
            place: place.to_owned(),
            value: Value::Raw(text.to_owned()),
        }
    }
}

/// The key of a variable, without the prefix: `KAFKA__PROPERTIES__SASL_PASSWORD` is `kafka.properties.sasl.password`. In
/// names of properties `_` stands for `.`, because librdkafka's names have dots and variables cannot.
pub(super) fn env_path(name: &str) -> String {
    let path = name.to_ascii_lowercase().replace("__", ".");
    match path
        .strip_prefix(PROPERTIES)
        .and_then(|rest| rest.strip_prefix('.'))
    {
        Some(property) => format!("{}.{}", PROPERTIES, property.replace('_', ".")),
        None => path,
    }
}

/// The name of the variable that sets a key.
pub(super) fn env_name(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// All leaves of a YAML file with their paths. Fails only for invalid YAML; keys are checked later.
pub(super) fn from_yaml(
    text: &str,
    file: &str,
    is_section: fn(&str) -> bool,
) -> Result<Vec<(String, Given)>, Problem> {
    let root: Spanned<Node> = serde_saphyr::from_str(text).map_err(|e| {
        let place = e.location().map_or_else(
            || file.to_owned(),
            |at| format!("{file}:{}:{}", at.line(), at.column()),
        );
        Problem {
            place,
            key: String::new(),
            // The error's own rendering quotes lines of the file, which may hold secrets.
            message: e.without_snippet().to_string(),
        }
    })?;
    let mut leaves = Vec::new();
    match root.value {
        Node::Map(entries) => flatten("", entries, (file, is_section), &mut leaves),
        Node::Null => {}
        _ => {
            return Err(Problem {
                place: format!("{file}:1:1"),
                key: String::new(),
                message: "a configuration is a mapping, such as `listen: 127.0.0.1:7700`".into(),
            });
        }
    }
    Ok(leaves)
}

fn flatten(
    prefix: &str,
    entries: Vec<(Spanned<String>, Spanned<Node>)>,
    (file, is_section): (&str, fn(&str) -> bool),
    leaves: &mut Vec<(String, Given)>,
) {
    for (key, node) in entries {
        let path = if prefix.is_empty() {
            key.value.clone()
        } else {
            format!("{prefix}.{}", key.value)
        };
        let place = place(file, &key);
        match node.value {
            // An unknown section stays a leaf and is reported once.
            Node::Map(entries) if is_section(&path) => {
                flatten(&path, entries, (file, is_section), leaves);
            }
            // `kafka:` with everything under it commented out.
            Node::Null if is_section(&path) => {}
            other => leaves.push((
                path,
                Given {
                    place,
                    value: other.value(file),
                },
            )),
        }
    }
}

/// Any YAML.
enum Node {
    Null,
    Bool(bool),
    Int(i64),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl Node {
    fn value(self, file: &str) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(b) => Value::Bool(b),
            Self::Int(i) => Value::Int(i),
            Self::Number(n) => Value::Number(n),
            Self::Text(t) => Value::Text(t),
            Self::List(items) => Value::List(items.into_iter().map(|n| n.value(file)).collect()),
            Self::Map(entries) => {
                let entry = |(key, node): (Spanned<String>, Spanned<Self>)| {
                    let place = place(file, &key);
                    let value = node.value.value(file);
                    (key.value, Given { place, value })
                };
                Value::Map(entries.into_iter().map(entry).collect())
            }
        }
    }
}

/// Where a key stands.
fn place(file: &str, key: &Spanned<String>) -> String {
    let at = key.referenced;
    format!("{file}:{}:{}", at.line(), at.column())
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("YAML")
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }

            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }

            fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Node, D::Error> {
                d.deserialize_any(self)
            }

            fn visit_bool<E>(self, v: bool) -> Result<Node, E> {
                Ok(Node::Bool(v))
            }

            fn visit_i64<E>(self, v: i64) -> Result<Node, E> {
                Ok(Node::Int(v))
            }

            fn visit_u64<E>(self, v: u64) -> Result<Node, E> {
                Ok(i64::try_from(v).map_or(Node::Number(v as f64), Node::Int))
            }

            fn visit_f64<E>(self, v: f64) -> Result<Node, E> {
                Ok(Node::Number(v))
            }

            fn visit_str<E: de::Error>(self, v: &str) -> Result<Node, E> {
                Ok(Node::Text(v.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Node::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Node::Map(entries))
            }
        }

        deserializer.deserialize_any(Any)
    }
}
