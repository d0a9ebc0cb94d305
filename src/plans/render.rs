//! Evaluates templates. The result depends only on the template and the context; work, memory and result size are bounded.

use std::collections::BTreeMap;

use minijinja::{
    ErrorKind, Value as Dynamic,
    value::{Serde, ValueKind},
};
use serde_json::{Map, Number, Value};

use super::expression::{Expression, Part, Template};

/// The maximum size of a rendered input, in bytes of JSON.
pub const RENDERED_MAX: usize = 128 * 1024;
/// The maximum nesting depth of a result.
const DEPTH_MAX: usize = 128;

/// Why a template cannot be rendered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RenderError {
    /// It refers to something that does not exist.
    #[error("`{0}` refers to something that does not exist")]
    Undefined(String),
    /// It used up its fuel: too many instructions, or too much intermediate output.
    #[error("`{0}` takes too much work")]
    OutOfFuel(String),
    /// The result is too large.
    #[error("the result has more than {0} bytes")]
    TooLarge(usize),
    /// The result cannot be written as JSON, such as an infinite number.
    #[error("the result of `{0}` has no JSON form: {1}")]
    NoJson(String, &'static str),
    /// Any other error, such as an operation that the types do not support.
    #[error("`{expression}`: {message}")]
    Failed {
        /// The text between the braces.
        expression: String,
        /// What is wrong, as text for people.
        message: String,
    },
}

/// The values that expressions can refer to. Cheap to clone: values are shared.
#[derive(Clone, Debug, Default)]
pub struct Context {
    names: BTreeMap<String, Dynamic>,
    steps: BTreeMap<String, Dynamic>,
}

impl Context {
    /// An empty context.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a name: `params`, `slots`, `step`, `input`.
    #[must_use]
    pub fn with(mut self, name: &str, value: &Value) -> Self {
        self.names
            .insert(name.to_owned(), Dynamic::from(Serde(value)));
        self
    }

    /// Adds members of a step: its `output`, and `input` where that may be used.
    #[must_use]
    pub fn with_step(mut self, id: &str, members: &[(&str, &Value)]) -> Self {
        let members = members.iter();
        let members = members.map(|(name, value)| (*name, Dynamic::from(Serde(value))));
        self.steps
            .insert(id.to_owned(), Dynamic::from_pairs(members));
        self
    }

    fn root(&self) -> Dynamic {
        let mut names = self.names.clone();
        let steps = Dynamic::from_pairs(self.steps.clone());
        names.insert("steps".to_owned(), steps);
        Dynamic::from_pairs(names)
    }
}

impl Expression {
    /// Evaluates the expression. The result must have at most `most` bytes as JSON.
    pub fn render(&self, context: &Context, most: usize) -> Result<Value, RenderError> {
        let mut budget = Budget { most, left: most };
        let value = self.evaluate(&context.root(), &mut budget)?;
        budget.fits(value)
    }

    fn evaluate(&self, root: &Dynamic, budget: &mut Budget) -> Result<Value, RenderError> {
        let source = || self.source().to_owned();
        let value = self
            .compiled
            .eval(root.clone())
            .map_err(|error| match error.kind() {
                ErrorKind::UndefinedError => RenderError::Undefined(source()),
                ErrorKind::OutOfFuel => RenderError::OutOfFuel(source()),
                _ => RenderError::Failed {
                    expression: source(),
                    message: error.detail().unwrap_or("it fails").to_owned(),
                },
            })?;
        budget.json(&value, self, DEPTH_MAX)
    }
}

impl Template {
    /// The value with all expressions evaluated. It must have at most `most` bytes as JSON ([`RENDERED_MAX`] for an input).
    /// Within a longer text, texts are inserted as they are, all other values as compact JSON.
    pub fn render(&self, context: &Context, most: usize) -> Result<Value, RenderError> {
        let mut budget = Budget { most, left: most };
        let value = self.evaluate(&context.root(), &mut budget)?;
        budget.fits(value)
    }

    fn evaluate(&self, root: &Dynamic, budget: &mut Budget) -> Result<Value, RenderError> {
        Ok(match self {
            Self::Fixed(value) => {
                budget.take(value.to_string().len())?;
                value.clone()
            }
            Self::Expression(expression) => expression.evaluate(root, budget)?,
            Self::Text(parts) => {
                let mut text = String::new();
                for part in parts {
                    match part {
                        Part::Fixed(fixed) => {
                            budget.take(fixed.len())?;
                            text.push_str(fixed);
                        }
                        Part::Expression(expression) => match expression.evaluate(root, budget)? {
                            Value::String(inner) => text.push_str(&inner),
                            other => text.push_str(&other.to_string()),
                        },
                    }
                }
                Value::String(text)
            }
            Self::List(items) => {
                let items = items.iter().map(|item| item.evaluate(root, budget));
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            Self::Object(members) => {
                let members = members.iter().map(|(name, member)| {
                    budget.take(name.len() + 3)?;
                    Ok((name.clone(), member.evaluate(root, budget)?))
                });
                Value::Object(members.collect::<Result<_, _>>()?)
            }
        })
    }
}

/// The remaining size budget of a result, counted without JSON escapes.
struct Budget {
    most: usize,
    left: usize,
}

impl Budget {
    fn take(&mut self, bytes: usize) -> Result<(), RenderError> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(RenderError::TooLarge(self.most)),
        }
    }

    /// Checks the size again, now with JSON escapes.
    fn fits(&self, value: Value) -> Result<Value, RenderError> {
        if value.to_string().len() > self.most {
            return Err(RenderError::TooLarge(self.most));
        }
        Ok(value)
    }

    /// The value as JSON.
    fn json(
        &mut self,
        value: &Dynamic,
        of: &Expression,
        depth: usize,
    ) -> Result<Value, RenderError> {
        let no_json = |what| RenderError::NoJson(of.source().to_owned(), what);
        let Some(depth) = depth.checked_sub(1) else {
            return Err(no_json("it is nested too deeply"));
        };
        Ok(match value.kind() {
            ValueKind::Undefined => return Err(RenderError::Undefined(of.source().to_owned())),
            ValueKind::None => {
                self.take(4)?;
                Value::Null
            }
            ValueKind::Bool => {
                self.take(4)?;
                Value::Bool(value.is_true())
            }
            ValueKind::Number => {
                let number = number(value).ok_or_else(|| no_json("a number out of range"))?;
                self.take(number.to_string().len())?;
                Value::Number(number)
            }
            ValueKind::String => {
                let text = value.as_str().unwrap_or_default();
                self.take(text.len() + 2)?;
                text.into()
            }
            ValueKind::Seq | ValueKind::Iterable => {
                self.take(2)?;
                let items = value.try_iter().map_err(|_| no_json("not a list"))?;
                let items = items.map(|item| self.json(&item, of, depth));
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            ValueKind::Map => {
                self.take(2)?;
                let names = value.try_iter().map_err(|_| no_json("not a mapping"))?;
                let mut members = Map::new();
                for name in names {
                    let member = value
                        .get_item(&name)
                        .map_err(|_| no_json("not a mapping"))?;
                    let name = match name.as_str() {
                        Some(name) => name.to_owned(),
                        None => name.to_string(),
                    };
                    self.take(name.len() + 3)?;
                    members.insert(name, self.json(&member, of, depth)?);
                }
                Value::Object(members)
            }
            _ => return Err(no_json("neither text, number, list nor mapping")),
        })
    }
}

/// The number as JSON; `None` if it is out of range.
fn number(value: &Dynamic) -> Option<Number> {
    if value.is_integer() {
        let signed = i64::try_from(value.clone()).ok().map(Number::from);
        return signed.or_else(|| u64::try_from(value.clone()).ok().map(Number::from));
    }
    Number::from_f64(f64::try_from(value.clone()).ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::plans::{fault::Pointer, read::Faults};

    fn template(value: &Value) -> Template {
        let mut faults = Faults::default();
        let read = Template::read(value, &Pointer::root(), &mut faults);
        assert_eq!(faults.0, []);
        read
    }

    fn context() -> Context {
        Context::new()
            .with("params", &json!({ "n": 5, "big": 18_446_744_073_709_551_615_u64, "x": 1.5, "name": "Ann", "list": [1, "b", null],
                "nothing": null, "long": "a".repeat(60_000) }))
            .with_step("reserve", &[("output", &json!({ "id": "r-1", "ok": true }))])
    }

    #[expect(clippy::needless_pass_by_value, reason = "the tests read better so")]
    fn render(value: Value) -> Result<Value, RenderError> {
        template(&value).render(&context(), RENDERED_MAX)
    }

    #[test]
    fn one_expression_keeps_its_kind() {
        for (text, expected) in [
            ("{{ params.n }}", json!(5)),
            ("{{ params.big }}", json!(18_446_744_073_709_551_615_u64)),
            ("{{ params.x }}", json!(1.5)),
            ("{{ params.list }}", json!([1, "b", null])),
            ("{{ params.nothing }}", json!(null)),
            (
                "{{ steps.reserve.output }}",
                json!({ "id": "r-1", "ok": true }),
            ),
            (
                "{{ steps.reserve.output.ok and params.n > 4 }}",
                json!(true),
            ),
            ("{{ params.absent|default('d') }}", json!("d")),
            ("{{ params.absent is defined }}", json!(false)),
            ("{{ {'a': params.n} }}", json!({ "a": 5 })),
            ("{{ params.name|upper }}", json!("ANN")),
        ] {
            assert_eq!(render(text.into()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn longer_texts_hold_texts_as_they_are_and_json() {
        let value = json!({ "a": ["{{ params.name }}: {{ params.n }} {{ params.list }}"], "b": 1 });
        let expected = json!({ "a": ["Ann: 5 [1,\"b\",null]"], "b": 1 });
        assert_eq!(render(value), Ok(expected));
    }

    #[test]
    fn a_reference_to_nothing_is_an_error() {
        for text in [
            "{{ params.absent }}",
            "{{ steps.other.output }}",
            "x {{ params.absent }}",
            "{{ [params.absent] }}",
        ] {
            let result = render(text.into());
            assert!(
                matches!(result, Err(RenderError::Undefined(_))),
                "{text}: {result:?}"
            );
        }
        assert!(render("{{ params.absent + 1 }}".into()).is_err());
        assert!(matches!(
            render("{{ 1 / 0 }}".into()),
            Err(RenderError::NoJson(..) | RenderError::Failed { .. })
        ));
    }

    #[test]
    fn work_and_results_are_bounded() {
        let began = std::time::Instant::now();
        for text in [
            "{{ range(100000)|map('string')|join|length }}",
            "{{ range(90000)|list|sort(reverse=true)|map('string')|join(params.name)|length }}",
            "{{ params.long|replace('a', params.long)|length }}",
            "{{ (params.long * 10000)|length }}",
        ] {
            let result = render(text.into());
            assert!(
                matches!(
                    result,
                    Err(RenderError::OutOfFuel(_) | RenderError::Failed { .. })
                ),
                "{text}: {result:?}"
            );
        }
        let doubled = render("{{ params.long ~ params.long ~ params.long }}".into());
        assert_eq!(doubled, Err(RenderError::TooLarge(RENDERED_MAX)));
        let thrice = json!([
            "{{ params.long }}",
            "{{ params.long }}",
            "{{ params.long }}"
        ]);
        assert_eq!(render(thrice), Err(RenderError::TooLarge(RENDERED_MAX)));
        assert!(began.elapsed() < std::time::Duration::from_secs(10));
    }

    proptest! {
        #[test]
        fn a_result_never_has_more_bytes_than_it_may(text in "[a\"\\n{} ]{0,40}", most in 0_usize..200) {
            let value = json!(["{{ params.name }}", "n {{ params.list }}", text.replace('{', "("), { "k": "{{ params.n }}" }]);
            if let Ok(rendered) = template(&value).render(&context(), most) {
                prop_assert!(rendered.to_string().len() <= most);
            }
        }

        #[test]
        fn anything_between_braces_is_compiled_or_refused(source in "[a-z0-9.|()\\[\\]{}'\" +*~<>=-]{0,60}") {
            if let Ok(expression) = Expression::compile(&source) {
                let _ = expression.render(&context(), 1000);
            }
        }
    }
}
