//! The named types of a schema, and the resolution of references to them.

use std::{collections::HashMap, rc::Rc};

use serde_json::{Map, Value};

use super::{MAX_DEPTH, NodeId, SchemaError};

/// The namespace that encloses a type; empty for none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Namespace(Rc<str>);

impl Namespace {
    pub(super) fn none() -> Self {
        Self("".into())
    }

    /// The full name of a name in this namespace.
    fn full(&self, name: &str) -> String {
        if self.0.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.0)
        }
    }
}

/// The full name of a definition, if it has one, and the namespace for its parts.
pub(super) fn named(
    shape: &Map<String, Value>,
    namespace: &Namespace,
) -> (Option<String>, Namespace) {
    let text = |name: &str| shape.get(name).and_then(Value::as_str);
    let stated = text("namespace").map(|stated| Namespace(stated.into()));
    let within = stated.unwrap_or_else(|| namespace.clone());
    match text("name") {
        None | Some("") => (None, within),
        Some(name) => match name.rsplit_once('.') {
            // A name with a dot is a full name, and includes the namespace.
            Some((space, last)) => {
                let within = Namespace(space.into());
                (Some(within.full(last)), within)
            }
            None => (Some(within.full(name)), within),
        },
    }
}

struct Definition<'s> {
    shape: &'s Map<String, Value>,
    /// The enclosing namespace.
    enclosing: Namespace,
    /// Whether there is a different definition with the same name.
    ambiguous: bool,
    /// The index of the compiled type, once it has one.
    node: Option<NodeId>,
}

/// All named types, by full name.
#[derive(Default)]
pub(super) struct Names<'s>(HashMap<String, Definition<'s>>);

impl<'s> Names<'s> {
    /// Collects all definitions in a schema: a type may be referenced before it is defined.
    pub(super) fn collect(
        &mut self,
        schema: &'s Value,
        namespace: &Namespace,
        depth: usize,
    ) -> Result<(), SchemaError> {
        if depth > MAX_DEPTH {
            return Err(SchemaError::TooDeep);
        }
        let below = depth + 1;
        let shape = match schema {
            Value::Array(variants) => {
                let mut variants = variants.iter();
                return variants.try_for_each(|variant| self.collect(variant, namespace, below));
            }
            Value::Object(shape) => shape,
            _ => return Ok(()),
        };
        let kind = match shape.get("type") {
            Some(Value::String(kind)) => kind.as_str(),
            Some(inner) => return self.collect(inner, namespace, below),
            None => return Ok(()),
        };
        let within = match kind {
            "record" | "error" | "enum" | "fixed" => {
                let (name, within) = named(shape, namespace);
                if let Some(name) = name {
                    self.define(name, shape, namespace);
                }
                within
            }
            _ => namespace.clone(),
        };
        let part = match kind {
            "array" => shape.get("items"),
            "map" => shape.get("values"),
            _ => None,
        };
        if let Some(part) = part {
            return self.collect(part, &within, below);
        }
        let fields = shape.get("fields").and_then(Value::as_array);
        let fields = fields.filter(|_| matches!(kind, "record" | "error"));
        let types = fields.into_iter().flatten().filter_map(|f| f.get("type"));
        for field in types {
            self.collect(field, &within, below)?;
        }
        Ok(())
    }

    fn define(&mut self, name: String, shape: &'s Map<String, Value>, enclosing: &Namespace) {
        let new = Definition {
            shape,
            enclosing: enclosing.clone(),
            ambiguous: false,
            node: None,
        };
        let known = self.0.entry(name).or_insert(new);
        known.ambiguous |= known.shape != shape;
    }

    /// Resolves a name: in the namespace, else as a full name.
    pub(super) fn find(&self, name: &str, namespace: &Namespace) -> Option<String> {
        let here = (!name.contains('.')).then(|| namespace.full(name));
        let nowhere = name.strip_prefix('.').unwrap_or(name).to_owned();
        let mut names = here.into_iter().chain([nowhere]);
        names.find(|name| self.0.contains_key(name))
    }

    pub(super) fn is_ambiguous(&self, full: &str) -> bool {
        self.0.get(full).is_some_and(|known| known.ambiguous)
    }

    pub(super) fn definition(&self, full: &str) -> Option<(&'s Map<String, Value>, Namespace)> {
        let known = self.0.get(full)?;
        Some((known.shape, known.enclosing.clone()))
    }

    pub(super) fn node(&self, full: &str) -> Option<NodeId> {
        self.0.get(full)?.node
    }

    pub(super) fn set_node(&mut self, full: &str, at: NodeId) {
        if let Some(known) = self.0.get_mut(full) {
            known.node = Some(at);
        }
    }
}
