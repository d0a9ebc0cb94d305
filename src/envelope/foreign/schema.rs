//! A schema, made ready to read with: names are resolved, and everything is bounded.

use std::collections::HashMap;

use apache_avro::{
    Schema as Parsed,
    schema::{InnerDecimalSchema, NamespaceRef, UuidSchema},
};

use super::super::Invalid;

/// The deepest nesting of a schema.
const MAX_DEPTH: usize = 256;
/// The most digits after the point of a decimal: what Postgres can hold.
const MAX_SCALE: usize = 16_383;

/// A parsed schema.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Schema {
    pub(super) nodes: Vec<Node>,
    pub(super) root: At,
}

/// A place in [`Schema::nodes`].
pub(super) type At = usize;

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
    Array(At),
    Map(At),
    Union(Vec<At>),
    Record(Vec<(String, At)>),
}

/// What a number means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Int {
    /// 32 bits.
    Short,
    /// 64 bits.
    Long,
    Date,
    /// Of a day, so many a second.
    Time(i64),
    /// So many a second; whether it is UTC.
    Timestamp(i64, bool),
}

/// How many bytes there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Length {
    Written,
    Fixed(usize),
}

/// What bytes mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bytes {
    Plain,
    /// With so many digits after the point.
    Decimal(usize),
    BigDecimal,
    Uuid,
    Duration,
}

fn unusable(why: impl std::fmt::Display) -> Invalid {
    Invalid {
        code: "unsupported_schema".into(),
        message: format!("the schema cannot be read with: {why}"),
    }
}

impl Schema {
    /// Reads a schema; `references` are those that it names.
    pub fn parse(text: &str, references: &[String]) -> Result<Self, Invalid> {
        let (root, others) = if references.is_empty() {
            (Parsed::parse_str(text).map_err(unusable)?, Vec::new())
        } else {
            Parsed::parse_str_with_list(text, references).map_err(unusable)?
        };
        let mut names = HashMap::new();
        for schema in others.iter().chain([&root]) {
            collect(schema, None, &mut names, 0)?;
        }
        let mut compiler = Compiler {
            names,
            done: HashMap::new(),
            nodes: Vec::new(),
        };
        let root = compiler.node(&root, None, 0)?;
        Ok(Self {
            nodes: compiler.nodes,
            root,
        })
    }
}

/// A named type and the namespace that it stands in.
type Named<'s> = (&'s Parsed, Option<String>);

/// Finds all named types.
fn collect<'s>(
    schema: &'s Parsed,
    namespace: NamespaceRef<'_>,
    names: &mut HashMap<String, Named<'s>>,
    depth: usize,
) -> Result<(), Invalid> {
    if depth > MAX_DEPTH {
        return Err(unusable("it is nested too deep"));
    }
    if let Some(name) = schema
        .name()
        .filter(|_| !matches!(schema, Parsed::Ref { .. }))
    {
        let full = name.fully_qualified_name(namespace);
        let standing = namespace.map(ToString::to_string);
        names.insert(full.fullname(None), (schema, standing));
    }
    match schema {
        Parsed::Array(array) => collect(&array.items, namespace, names, depth + 1),
        Parsed::Map(map) => collect(&map.types, namespace, names, depth + 1),
        Parsed::Union(union) => union
            .variants()
            .iter()
            .try_for_each(|variant| collect(variant, namespace, names, depth + 1)),
        Parsed::Record(record) => {
            let full = record.name.fully_qualified_name(namespace);
            record
                .fields
                .iter()
                .try_for_each(|field| collect(&field.schema, full.namespace(), names, depth + 1))
        }
        _ => Ok(()),
    }
}

struct Compiler<'s> {
    names: HashMap<String, Named<'s>>,
    /// Named types that have their place already; they may be within themselves.
    done: HashMap<String, At>,
    nodes: Vec<Node>,
}

impl Compiler<'_> {
    fn node(
        &mut self,
        schema: &Parsed,
        namespace: NamespaceRef<'_>,
        depth: usize,
    ) -> Result<At, Invalid> {
        if depth > MAX_DEPTH {
            return Err(unusable("it is nested too deep"));
        }
        if let Some(name) = schema.name() {
            let full = name.fully_qualified_name(namespace).fullname(None);
            if let Some(at) = self.done.get(&full) {
                return Ok(*at);
            }
            if matches!(schema, Parsed::Ref { .. }) {
                let Some((named, standing)) = self.names.get(&full).cloned() else {
                    return Err(unusable(format!("there is no type `{full}`")));
                };
                return self.node(named, standing.as_deref(), depth + 1);
            }
            let at = self.put(Node::Null);
            self.done.insert(full, at);
            self.nodes[at] = self.describe(schema, namespace, depth)?;
            return Ok(at);
        }
        let node = self.describe(schema, namespace, depth)?;
        Ok(self.put(node))
    }

    fn put(&mut self, node: Node) -> At {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn describe(
        &mut self,
        schema: &Parsed,
        namespace: NamespaceRef<'_>,
        depth: usize,
    ) -> Result<Node, Invalid> {
        const SECOND: [i64; 3] = [1_000, 1_000_000, 1_000_000_000];
        let below = depth + 1;
        Ok(match schema {
            Parsed::Null => Node::Null,
            Parsed::Boolean => Node::Boolean,
            Parsed::Int => Node::Int(Int::Short),
            Parsed::Long => Node::Int(Int::Long),
            Parsed::Float => Node::Float,
            Parsed::Double => Node::Double,
            Parsed::Bytes => Node::Bytes(Length::Written, Bytes::Plain),
            Parsed::String | Parsed::Uuid(UuidSchema::String) => Node::Text,
            Parsed::Date => Node::Int(Int::Date),
            Parsed::TimeMillis => Node::Int(Int::Time(SECOND[0])),
            Parsed::TimeMicros => Node::Int(Int::Time(SECOND[1])),
            Parsed::TimestampMillis => Node::Int(Int::Timestamp(SECOND[0], true)),
            Parsed::TimestampMicros => Node::Int(Int::Timestamp(SECOND[1], true)),
            Parsed::TimestampNanos => Node::Int(Int::Timestamp(SECOND[2], true)),
            Parsed::LocalTimestampMillis => Node::Int(Int::Timestamp(SECOND[0], false)),
            Parsed::LocalTimestampMicros => Node::Int(Int::Timestamp(SECOND[1], false)),
            Parsed::LocalTimestampNanos => Node::Int(Int::Timestamp(SECOND[2], false)),
            Parsed::Decimal(decimal) => {
                let length = match &decimal.inner {
                    InnerDecimalSchema::Bytes => Length::Written,
                    InnerDecimalSchema::Fixed(fixed) => Length::Fixed(fixed.size),
                };
                if decimal.scale > MAX_SCALE {
                    return Err(unusable("a decimal has too many digits after the point"));
                }
                Node::Bytes(length, Bytes::Decimal(decimal.scale))
            }
            Parsed::BigDecimal => Node::Bytes(Length::Written, Bytes::BigDecimal),
            Parsed::Uuid(UuidSchema::Bytes) => Node::Bytes(Length::Written, Bytes::Uuid),
            Parsed::Uuid(UuidSchema::Fixed(fixed)) => {
                Node::Bytes(Length::Fixed(fixed.size), Bytes::Uuid)
            }
            Parsed::Duration(fixed) => Node::Bytes(Length::Fixed(fixed.size), Bytes::Duration),
            Parsed::Fixed(fixed) => Node::Bytes(Length::Fixed(fixed.size), Bytes::Plain),
            Parsed::Enum(symbols) => Node::Enum(symbols.symbols.clone()),
            Parsed::Array(array) => Node::Array(self.node(&array.items, namespace, below)?),
            Parsed::Map(map) => Node::Map(self.node(&map.types, namespace, below)?),
            Parsed::Union(union) => {
                let variants = union.variants().iter();
                let variants = variants.map(|variant| self.node(variant, namespace, below));
                Node::Union(variants.collect::<Result<_, _>>()?)
            }
            Parsed::Record(record) => {
                let full = record.name.fully_qualified_name(namespace);
                let fields = record.fields.iter().map(|field| {
                    let at = self.node(&field.schema, full.namespace(), below)?;
                    Ok((field.name.clone(), at))
                });
                Node::Record(fields.collect::<Result<_, Invalid>>()?)
            }
            // It has a name, and was looked up.
            Parsed::Ref { name } => return Err(unusable(format!("there is no type `{name}`"))),
        })
    }
}
