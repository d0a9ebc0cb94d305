//! Templates in plans: JSON texts with expressions such as `{{ params.x }}`. Between the braces is a minijinja expression;
//! statements (`{% … %}`) are plain text.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde_json::Value;

use super::{
    fault::Pointer,
    read::{Faults, listed, short},
    reference::{Called, Reference, called, references},
};

/// The maximum length of an expression, in bytes between the braces.
pub const EXPRESSION_MAX: usize = 4096;
/// The fuel of one expression: an instruction costs 1, each item that a filter visits 1/2, and each 64 bytes of output 1.
const FUEL: u64 = 100_000;

/// Filters that escape or format for display, which makes no sense for JSON data.
const DISABLED_FILTERS: [&str; 4] = ["safe", "escape", "e", "pprint"];

pub(super) static ENVIRONMENT: LazyLock<Environment<'static>> =
    LazyLock::new(|| environment(UndefinedBehavior::Strict));
/// The environment for expressions that must not fail because a value is missing: members of undefined values are undefined, too.
pub(super) static LENIENT: LazyLock<Environment<'static>> =
    LazyLock::new(|| environment(UndefinedBehavior::Chainable));
/// Global functions. Their names are not references to data.
const FUNCTIONS: [&str; 2] = ["range", "dict"];

fn environment(undefined: UndefinedBehavior) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(undefined);
    environment.set_fuel(Some(FUEL));
    for name in DISABLED_FILTERS {
        environment.remove_filter(name);
    }
    for name in ["debug", "namespace"] {
        environment.remove_global(name);
    }
    environment
}

/// One compiled expression. Cheap to clone.
#[derive(Clone)]
pub struct Expression {
    pub(super) compiled: Arc<minijinja::Expression<'static, 'static>>,
    source: Arc<str>,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{{ {} }}}}", self.source)
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

/// Why a text is no expression.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExpressionError {
    /// There is nothing between the braces.
    #[error("an empty expression")]
    Empty,
    /// It is longer than [`EXPRESSION_MAX`].
    #[error("an expression of {bytes} bytes; at most {EXPRESSION_MAX} are allowed")]
    TooLong {
        /// The length of the expression, in bytes.
        bytes: usize,
    },
    /// The engine cannot read it, for this reason.
    #[error("not an expression: {0}")]
    Syntax(String),
    /// It calls a filter that there is not.
    #[error("there is no filter `{0}`")]
    UnknownFilter(String),
    /// It calls a test that there is not.
    #[error("there is no test `is {0}`")]
    UnknownTest(String),
    /// The braces before it are never closed.
    #[error("`{{{{` without its `}}}}`")]
    Unclosed,
}

impl Expression {
    /// Compiles the text between the braces.
    pub fn compile(source: &str) -> Result<Self, ExpressionError> {
        let source = source.trim();
        if source.is_empty() {
            return Err(ExpressionError::Empty);
        }
        if source.len() > EXPRESSION_MAX {
            let bytes = source.len();
            return Err(ExpressionError::TooLong { bytes });
        }
        let compiled = ENVIRONMENT
            .compile_expression_owned(source.to_owned())
            .map_err(|error| {
                let detail = error.detail().unwrap_or("it cannot be read");
                ExpressionError::Syntax(detail.to_owned())
            })?;
        for called in called(source) {
            check_called(called)?;
        }
        Ok(Self {
            compiled: Arc::new(compiled),
            source: source.into(),
        })
    }

    /// The text between the braces.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The data that it refers to, without the global functions.
    pub(super) fn references(&self) -> Vec<Reference> {
        let mut all = references(&self.source);
        all.retain(|Reference(path)| path.len() > 1 || !FUNCTIONS.contains(&path[0].as_str()));
        all
    }
}

/// Checks that a filter or test exists: the engine itself reports an unknown one only when it evaluates it.
fn check_called(called: Called<'_>) -> Result<(), ExpressionError> {
    let (probe, missing) = match called {
        Called::Filter(name) => (
            format!("1|{name}"),
            ExpressionError::UnknownFilter(name.to_owned()),
        ),
        Called::Test(name) => (
            format!("1 is {name}"),
            ExpressionError::UnknownTest(name.to_owned()),
        ),
    };
    let probed = ENVIRONMENT.compile_expression_owned(probe);
    let result = probed.and_then(|probe| probe.eval(()));
    match result.map_err(|error| error.kind()) {
        Err(ErrorKind::UnknownFilter | ErrorKind::UnknownTest) => Err(missing),
        _ => Ok(()),
    }
}

/// A JSON value of a plan, whose texts may hold expressions.
#[derive(Clone, PartialEq, Debug)]
pub enum Template {
    /// A value without expressions.
    Fixed(Value),
    /// A text that is exactly one expression: the result keeps its JSON type.
    Expression(Expression),
    /// A text with expressions in it.
    Text(Vec<Part>),
    /// A list with expressions in at least one item.
    List(Vec<Template>),
    /// An object with expressions in at least one member.
    Object(Vec<(String, Template)>),
}

/// A part of a text.
#[derive(Clone, PartialEq, Debug)]
pub enum Part {
    /// Text outside expressions, which is copied.
    Fixed(String),
    /// Replaced by its value.
    Expression(Expression),
}

impl Template {
    /// Compiles all expressions of a value; those that cannot be compiled are reported and left out.
    pub(crate) fn read(value: &Value, at: &Pointer, faults: &mut Faults) -> Self {
        let before = faults.0.len();
        let read = match value {
            Value::String(text) => Self::of_text(text, at, faults),
            Value::Array(items) => {
                let items = items.iter().enumerate();
                let read: Vec<_> = items
                    .map(|(n, v)| Self::read(v, &at.at(n), faults))
                    .collect();
                if read.iter().all(Self::is_fixed) {
                    Self::Fixed(value.clone())
                } else {
                    Self::List(read)
                }
            }
            Value::Object(members) => {
                let members = members.iter();
                let read: Vec<_> = members
                    .map(|(name, v)| (name.clone(), Self::read(v, &at.at(name), faults)))
                    .collect();
                if read.iter().all(|(_, read)| read.is_fixed()) {
                    Self::Fixed(value.clone())
                } else {
                    Self::Object(read)
                }
            }
            _ => Self::Fixed(value.clone()),
        };
        if faults.0.len() > before {
            return Self::Fixed(Value::Null);
        }
        read
    }

    fn of_text(text: &str, at: &Pointer, faults: &mut Faults) -> Self {
        match parts(text) {
            Err(error) => {
                faults.add(at, error.to_string());
                Self::Fixed(Value::Null)
            }
            Ok(mut parts) => match &mut parts[..] {
                [] | [Part::Fixed(_)] => Self::Fixed(text.into()),
                [Part::Expression(expression)] => Self::Expression(expression.clone()),
                _ => Self::Text(parts),
            },
        }
    }

    /// Whether it has no expressions.
    pub fn is_fixed(&self) -> bool {
        matches!(self, Self::Fixed(_))
    }

    /// Reports references to anything outside the `known` paths.
    pub(crate) fn check_references(&self, at: &Pointer, known: &[&str], faults: &mut Faults) {
        self.expressions(at, &mut |at, expression| {
            for Reference(path) in expression.references() {
                let path = path.join(".");
                let good = known.iter().any(|known| {
                    let rest = path.strip_prefix(known);
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                });
                if !good {
                    let fault = faults.add(at, format!("there is no `{}` here", short(&path)));
                    fault.note = Some(format!("expressions refer to {} here", listed(known)));
                }
            }
        });
    }

    /// Whether an expression refers to this value, such as `params`, or to a part of it.
    pub fn refers_to(&self, name: &str) -> bool {
        let mut refers = false;
        self.expressions(&Pointer::root(), &mut |_, expression| {
            let references = expression.references();
            refers |= references.iter().any(|Reference(path)| path[0] == name);
        });
        refers
    }

    /// The ids of the steps whose outputs its expressions refer to, sorted.
    pub fn step_outputs(&self) -> Vec<String> {
        let mut ids = std::collections::BTreeSet::new();
        self.expressions(&Pointer::root(), &mut |_, expression| {
            for Reference(path) in expression.references() {
                if let [first, id, ..] = &path[..]
                    && first == "steps"
                {
                    ids.insert(id.clone());
                }
            }
        });
        ids.into_iter().collect()
    }

    /// Calls `visit` with each expression and its JSON pointer.
    pub(super) fn expressions(&self, at: &Pointer, visit: &mut impl FnMut(&Pointer, &Expression)) {
        match self {
            Self::Fixed(_) => {}
            Self::Expression(expression) => visit(at, expression),
            Self::Text(parts) => {
                for part in parts {
                    if let Part::Expression(expression) = part {
                        visit(at, expression);
                    }
                }
            }
            Self::List(items) => {
                for (n, item) in items.iter().enumerate() {
                    item.expressions(&at.at(n), visit);
                }
            }
            Self::Object(members) => {
                for (name, member) in members {
                    member.expressions(&at.at(name), visit);
                }
            }
        }
    }
}

/// Splits a text at its expressions. Braces and quotes inside an expression are skipped, so `{{ "}}" }}` is one expression.
fn parts(text: &str) -> Result<Vec<Part>, ExpressionError> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let inside = &rest[start + 2..];
        let end = end(inside).ok_or(ExpressionError::Unclosed)?;
        if start > 0 {
            parts.push(Part::Fixed(rest[..start].to_owned()));
        }
        parts.push(Part::Expression(Expression::compile(&inside[..end])?));
        rest = &inside[end + 2..];
    }
    if !rest.is_empty() {
        parts.push(Part::Fixed(rest.to_owned()));
    }
    Ok(parts)
}

/// The end of the expression at the start of `text`: the first `}}` outside quotes and nested braces.
pub(super) fn end(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    let mut depth = 0_u32;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), _) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '{') => depth += 1,
            (None, '}') if depth > 0 => depth -= 1,
            (None, '}') if text[at..].starts_with("}}") => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &Value) -> Result<Template, String> {
        let mut faults = Faults::default();
        let read = Template::read(value, &Pointer::root(), &mut faults);
        match faults.0.first() {
            None => Ok(read),
            Some(fault) => Err(format!("{}: {}", fault.at, fault.message)),
        }
    }

    #[test]
    fn texts_are_split_at_expressions() {
        let parts = |text: &str| match read(&text.into()).unwrap() {
            Template::Text(parts) => parts.len(),
            Template::Expression(_) => 1,
            _ => 0,
        };
        assert_eq!(parts("{{ params.a }}"), 1);
        assert_eq!(parts("{{ \"}}\" }}"), 1);
        assert_eq!(parts("{{ {'a': {'b': 1}}.a }}"), 1);
        assert_eq!(parts(" {{ params.a }}"), 2);
        assert_eq!(parts("{{ params.a }} and {{ params.b }}!"), 4);
        assert_eq!(parts("{% if x %} } }} {#"), 0);
    }

    #[test]
    fn invalid_expressions_are_refused_with_their_place() {
        let value = serde_json::json!({ "a": ["x", { "b": "{{ params. }}" }] });
        let error = read(&value).unwrap_err();
        assert!(error.starts_with("/a/1/b: not an expression"), "{error}");
        for bad in [
            "{{ x",
            "{{ }}",
            "{{ 'a }}",
            "{{ a b }}",
            "{{ a|nothing }}",
            "{{ a is nothing }}",
            "{{ a|safe }}",
        ] {
            assert!(read(&bad.into()).is_err(), "{bad}");
        }
        for good in [
            "{{ a|default(1) }}",
            "{{ a is divisibleby(2) }}",
            "{{ a is in [1] }}",
        ] {
            assert!(read(&good.into()).is_ok(), "{good}");
        }
        let long = format!("{{{{ {} }}}}", "1+".repeat(3000));
        assert!(read(&long.into()).unwrap_err().contains("at most 4096"));
    }
}
