//! A writer's schema, compiled for reading: names are resolved, and nesting and sizes are bounded.
//!
//! It is not parsed by the Avro library, which is too strict for schemas of existing data. To read data, only its shape matters: names of
//! types, fields and symbols may contain any characters (Java's `com.acme.Shop$` is not a valid name by the standard), as long as both
//! ends of a reference agree; `default`, `aliases`, `order`, `doc` and unknown properties have no effect; a logical type that is unknown,
//! or does not fit its type, is ignored, as the standard requires.

mod names;

use serde_json::{Map, Value};

use self::names::{Names, Namespace, named};
use super::super::{Invalid, json::truncated};

/// The deepest nesting of a schema.
const MAX_DEPTH: usize = 256;
/// The most digits after the point of a decimal: what Postgres can hold.
const MAX_SCALE: usize = 16_383;

/// A parsed schema.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Schema {
    pub(super) nodes: Vec<Node>,
    pub(super) root: NodeId,
}

/// An index into [`Schema::nodes`].
pub(super) type NodeId = usize;

/// A type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Node {
    Null,
    Boolean,
    Int(Int),
    Float,
    Double,
    Bytes(Length, Bytes),
    Text,
    Enum(Vec<String>),
    Array(NodeId),
    Map(NodeId),
    Union(Vec<NodeId>),
    Record(Vec<(String, NodeId)>),
}

/// The meaning of an `int` or `long`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Int {
    /// A 32-bit integer.
    Short,
    /// A 64-bit integer.
    Long,
    /// Days since 1970-01-01.
    Date,
    /// A time of day, with this many units per second.
    Time(i64),
    /// A timestamp, with this many units per second, and whether it is in UTC.
    Timestamp(i64, bool),
}

/// The length of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Length {
    /// The length precedes the bytes.
    Written,
    Fixed(usize),
}

/// The meaning of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bytes {
    Plain,
    /// A decimal with this many digits after the point.
    Decimal(usize),
    BigDecimal,
    Uuid,
    Duration,
}

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
enum SchemaError {
    #[error("it is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    #[error("it is nested too deep")]
    TooDeep,
    #[error("there is no type `{}`", truncated(.0))]
    UnknownType(String),
    #[error("`{}` is defined more than once, in different ways, and named by another type", truncated(.0))]
    Ambiguous(String),
    #[error("{kind} needs `{attribute}`, {what}")]
    Missing {
        kind: &'static str,
        attribute: &'static str,
        what: &'static str,
    },
    #[error("a type is a name, an object or a list of types")]
    NoType,
    #[error("a record has two fields `{}`", truncated(.0))]
    SameField(String),
    #[error("a decimal has too many digits after the point")]
    TooManyDigits,
}

impl From<SchemaError> for Invalid {
    fn from(why: SchemaError) -> Self {
        Self {
            code: "unsupported_schema".into(),
            message: format!("the schema cannot be read with: {why}"),
        }
    }
}

impl Schema {
    /// Parses a schema. `references` are the texts of all schemas that it references, directly or indirectly.
    pub fn parse(text: &str, references: &[String]) -> Result<Self, Invalid> {
        Ok(Self::read(text, references)?)
    }

    fn read(text: &str, references: &[String]) -> Result<Self, SchemaError> {
        let root: Value = serde_json::from_str(text)?;
        let others = references.iter().map(|text| serde_json::from_str(text));
        let others: Vec<Value> = others.collect::<Result<_, _>>()?;
        let mut names = Names::default();
        for schema in others.iter().chain([&root]) {
            names.collect(schema, &Namespace::none(), 0)?;
        }
        let mut compiler = Compiler {
            names,
            nodes: Vec::new(),
        };
        let root = compiler.node(&root, &Namespace::none(), 0)?;
        Ok(Self {
            nodes: compiler.nodes,
            root,
        })
    }
}

struct Compiler<'s> {
    names: Names<'s>,
    nodes: Vec<Node>,
}

impl<'s> Compiler<'s> {
    fn put(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Compiles a type within a namespace.
    fn node(
        &mut self,
        schema: &'s Value,
        namespace: &Namespace,
        depth: usize,
    ) -> Result<NodeId, SchemaError> {
        if depth > MAX_DEPTH {
            return Err(SchemaError::TooDeep);
        }
        match schema {
            Value::String(name) => self.of_name(name, None, namespace, depth),
            Value::Array(variants) => {
                let variants = variants.iter();
                let variants = variants.map(|variant| self.node(variant, namespace, depth + 1));
                let node = Node::Union(variants.collect::<Result<_, _>>()?);
                Ok(self.put(node))
            }
            Value::Object(shape) => self.object(shape, shape, namespace, depth),
            _ => Err(SchemaError::NoType),
        }
    }

    /// Compiles a type that is written as an object. `logical` is the object with the logical type: some writers wrap a type in a second
    /// object.
    fn object(
        &mut self,
        shape: &'s Map<String, Value>,
        logical: &'s Map<String, Value>,
        namespace: &Namespace,
        depth: usize,
    ) -> Result<NodeId, SchemaError> {
        if depth > MAX_DEPTH {
            return Err(SchemaError::TooDeep);
        }
        let below = depth + 1;
        let kind = match shape.get("type") {
            Some(Value::String(kind)) => kind.as_str(),
            Some(Value::Object(inner)) => {
                let has = logical.contains_key(LOGICAL);
                return self.object(inner, if has { logical } else { inner }, namespace, below);
            }
            Some(other) => return self.node(other, namespace, below),
            None => return Err(SchemaError::NoType),
        };
        match kind {
            "array" => {
                let items = required(shape, "an array", "items", "a type")?;
                let node = Node::Array(self.node(items, namespace, below)?);
                Ok(self.put(node))
            }
            "map" => {
                let values = required(shape, "a map", "values", "a type")?;
                let node = Node::Map(self.node(values, namespace, below)?);
                Ok(self.put(node))
            }
            "record" | "error" | "enum" | "fixed" => self.definition(shape, namespace, depth),
            name => self.of_name(name, Some(logical), namespace, depth),
        }
    }

    /// Compiles the definition of a named type.
    fn definition(
        &mut self,
        shape: &'s Map<String, Value>,
        namespace: &Namespace,
        depth: usize,
    ) -> Result<NodeId, SchemaError> {
        let (name, within) = named(shape, namespace);
        // A name with conflicting definitions is not shared: each definition is compiled where it occurs.
        let name = name.filter(|name| !self.names.is_ambiguous(name));
        if let Some(at) = name.as_deref().and_then(|name| self.names.node(name)) {
            return Ok(at);
        }
        // A type may contain itself, so its index is assigned before its parts are compiled.
        let at = self.put(Node::Null);
        if let Some(name) = &name {
            self.names.set_node(name, at);
        }
        let node = self.described(shape, &within, depth)?;
        self.nodes[at] = node;
        Ok(at)
    }

    fn described(
        &mut self,
        shape: &'s Map<String, Value>,
        within: &Namespace,
        depth: usize,
    ) -> Result<Node, SchemaError> {
        Ok(match shape.get("type").and_then(Value::as_str) {
            Some("enum") => {
                let what = "a list of texts";
                let symbols = required(shape, "an enum", "symbols", what)?;
                let texts = symbols.as_array().and_then(|symbols| {
                    let symbols = symbols.iter();
                    symbols.map(|s| s.as_str().map(str::to_owned)).collect()
                });
                Node::Enum(texts.ok_or(SchemaError::Missing {
                    kind: "an enum",
                    attribute: "symbols",
                    what,
                })?)
            }
            Some("fixed") => {
                let what = "a number of bytes";
                let size = required(shape, "a fixed", "size", what)?.as_u64();
                let size = size.and_then(|size| usize::try_from(size).ok());
                let size = size.ok_or(SchemaError::Missing {
                    kind: "a fixed",
                    attribute: "size",
                    what,
                })?;
                let meaning = match logical_type(shape) {
                    Some("uuid") if size == 16 => Bytes::Uuid,
                    Some("duration") if size == 12 => Bytes::Duration,
                    Some("decimal") => decimal(shape)?,
                    _ => Bytes::Plain,
                };
                Node::Bytes(Length::Fixed(size), meaning)
            }
            _ => Node::Record(self.fields(shape, within, depth)?),
        })
    }

    fn fields(
        &mut self,
        shape: &'s Map<String, Value>,
        within: &Namespace,
        depth: usize,
    ) -> Result<Vec<(String, NodeId)>, SchemaError> {
        let missing = || SchemaError::Missing {
            kind: "a record",
            attribute: "fields",
            what: "a list of objects with `name` and `type`",
        };
        let fields = shape.get("fields").and_then(Value::as_array);
        let mut seen = std::collections::HashSet::new();
        let fields = fields.ok_or_else(missing)?.iter().map(|field| {
            let name = field.get("name").and_then(Value::as_str);
            let name = name.ok_or_else(missing)?;
            // Names in a JSON object must be unique.
            if !seen.insert(name) {
                return Err(SchemaError::SameField(name.to_owned()));
            }
            let schema = field.get("type").ok_or_else(missing)?;
            Ok((name.to_owned(), self.node(schema, within, depth + 1)?))
        });
        fields.collect()
    }

    /// Compiles a reference by name: to one of Avro's own types, or to a named type.
    fn of_name(
        &mut self,
        name: &str,
        logical: Option<&Map<String, Value>>,
        namespace: &Namespace,
        depth: usize,
    ) -> Result<NodeId, SchemaError> {
        if let Some(node) = primitive(name, logical)? {
            return Ok(self.put(node));
        }
        let unknown = || SchemaError::UnknownType(name.to_owned());
        let full = self.names.find(name, namespace).ok_or_else(unknown)?;
        if self.names.is_ambiguous(&full) {
            return Err(SchemaError::Ambiguous(full));
        }
        if let Some(at) = self.names.node(&full) {
            return Ok(at);
        }
        let (shape, enclosing) = self.names.definition(&full).ok_or_else(unknown)?;
        if depth >= MAX_DEPTH {
            return Err(SchemaError::TooDeep);
        }
        self.definition(shape, &enclosing, depth + 1)
    }
}

const LOGICAL: &str = "logicalType";

fn logical_type(shape: &Map<String, Value>) -> Option<&str> {
    shape.get(LOGICAL).and_then(Value::as_str)
}

fn required<'s>(
    shape: &'s Map<String, Value>,
    kind: &'static str,
    attribute: &'static str,
    what: &'static str,
) -> Result<&'s Value, SchemaError> {
    let found = shape.get(attribute);
    found.ok_or(SchemaError::Missing {
        kind,
        attribute,
        what,
    })
}

/// The primitive type with this name, if there is one.
fn primitive(
    name: &str,
    logical: Option<&Map<String, Value>>,
) -> Result<Option<Node>, SchemaError> {
    const MILLIS: i64 = 1_000;
    const MICROS: i64 = 1_000_000;
    const NANOS: i64 = 1_000_000_000;
    let meaning = logical.and_then(logical_type).unwrap_or_default();
    Ok(Some(match (name, meaning) {
        ("null", _) => Node::Null,
        ("boolean", _) => Node::Boolean,
        ("int", "date") => Node::Int(Int::Date),
        ("int", "time-millis") => Node::Int(Int::Time(MILLIS)),
        ("int", _) => Node::Int(Int::Short),
        ("long", "time-micros") => Node::Int(Int::Time(MICROS)),
        ("long", "timestamp-millis") => Node::Int(Int::Timestamp(MILLIS, true)),
        ("long", "timestamp-micros") => Node::Int(Int::Timestamp(MICROS, true)),
        ("long", "timestamp-nanos") => Node::Int(Int::Timestamp(NANOS, true)),
        ("long", "local-timestamp-millis") => Node::Int(Int::Timestamp(MILLIS, false)),
        ("long", "local-timestamp-micros") => Node::Int(Int::Timestamp(MICROS, false)),
        ("long", "local-timestamp-nanos") => Node::Int(Int::Timestamp(NANOS, false)),
        ("long", _) => Node::Int(Int::Long),
        ("float", _) => Node::Float,
        ("double", _) => Node::Double,
        ("string", _) => Node::Text,
        ("bytes", "big-decimal") => Node::Bytes(Length::Written, Bytes::BigDecimal),
        ("bytes", "uuid") => Node::Bytes(Length::Written, Bytes::Uuid),
        ("bytes", "decimal") => {
            let meaning = logical.map(decimal).transpose()?;
            Node::Bytes(Length::Written, meaning.unwrap_or(Bytes::Plain))
        }
        ("bytes", _) => Node::Bytes(Length::Written, Bytes::Plain),
        _ => return Ok(None),
    }))
}

/// A decimal; plain bytes if precision or scale are invalid, as the standard requires.
fn decimal(shape: &Map<String, Value>) -> Result<Bytes, SchemaError> {
    let precision = shape.get("precision").and_then(Value::as_u64);
    let scale = match shape.get("scale") {
        None => Some(0),
        Some(scale) => scale.as_u64(),
    };
    let (Some(precision @ 1..), Some(scale)) = (precision, scale) else {
        return Ok(Bytes::Plain);
    };
    if scale > precision {
        return Ok(Bytes::Plain);
    }
    match usize::try_from(scale) {
        Ok(scale) if scale <= MAX_SCALE => Ok(Bytes::Decimal(scale)),
        _ => Err(SchemaError::TooManyDigits),
    }
}
