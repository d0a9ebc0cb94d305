//! Evaluates templates. The result depends only on the template and the context; work, memory and result size are bounded.

use std::collections::BTreeMap;

use minijinja::{
    Error, ErrorKind, Value as Dynamic,
    value::{Serde, ValueKind},
};
use serde_json::{Map, Number, Value};

use super::expression::{Expression, LENIENT, Part, Template};

/// The maximum size of a rendered input, in bytes of JSON.
pub const RENDERED_MAX: usize = 128 * 1024;
/// The maximum nesting depth of a result. Values that a run accepts have at most 64 levels; a template may add some around them.
const DEPTH_MAX: usize = 96;

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
    /// The result is nested too deeply.
    #[error("the result is nested more than {0} levels")]
    TooDeep(usize),
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
        let mut budget = Budget::new(most, Missing::Fails);
        let value = self.evaluate(&context.root(), &mut budget)?;
        budget.fits(value)
    }

    fn evaluate(&self, root: &Dynamic, budget: &mut Budget) -> Result<Value, RenderError> {
        let value = match budget.missing {
            Missing::Fails => self.compiled.eval(root.clone()),
            Missing::IsNull => self.evaluate_leniently(root),
        };
        let value = value.map_err(|error| self.error(&error));
        match value.and_then(|value| budget.json(&value, self, DEPTH_MAX)) {
            Err(
                RenderError::Undefined(_) | RenderError::Failed { .. } | RenderError::NoJson(..),
            ) if budget.missing == Missing::IsNull => {
                budget.take(4)?;
                Ok(Value::Null)
            }
            result => result,
        }
    }

    /// Compiles the expression for this one evaluation, because that is rarely needed.
    fn evaluate_leniently(&self, root: &Dynamic) -> Result<Dynamic, Error> {
        let compiled = LENIENT.compile_expression_owned(self.source().to_owned())?;
        compiled.eval(root.clone())
    }

    fn error(&self, error: &Error) -> RenderError {
        let source = self.source().to_owned();
        match error.kind() {
            ErrorKind::UndefinedError => RenderError::Undefined(source),
            ErrorKind::OutOfFuel => RenderError::OutOfFuel(source),
            _ => RenderError::Failed {
                expression: source,
                message: error.detail().unwrap_or("it fails").to_owned(),
            },
        }
    }
}

impl Template {
    /// The value with all expressions evaluated. It must have at most `most` bytes as JSON ([`RENDERED_MAX`] for an input).
    /// Within a longer text, texts are inserted as they are, all other values as compact JSON.
    pub fn render(&self, context: &Context, most: usize) -> Result<Value, RenderError> {
        self.render_as(Missing::Fails, context, most)
    }

    /// Like [`Self::render`], but a reference to something that does not exist gives null, and so does an expression that fails
    /// without it.
    pub fn render_leniently(&self, context: &Context, most: usize) -> Result<Value, RenderError> {
        self.render_as(Missing::IsNull, context, most)
    }

    fn render_as(
        &self,
        missing: Missing,
        context: &Context,
        most: usize,
    ) -> Result<Value, RenderError> {
        let mut budget = Budget::new(most, missing);
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

/// How references to something that does not exist are handled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Missing {
    Fails,
    IsNull,
}

/// The remaining size budget of a result, counted without JSON escapes.
struct Budget {
    most: usize,
    left: usize,
    missing: Missing,
}

impl Budget {
    fn new(most: usize, missing: Missing) -> Self {
        Self {
            most,
            left: most,
            missing,
        }
    }

    fn take(&mut self, bytes: usize) -> Result<(), RenderError> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(RenderError::TooLarge(self.most)),
        }
    }

    /// Checks the size again, now with JSON escapes, and the nesting depth.
    fn fits(&self, value: Value) -> Result<Value, RenderError> {
        if value.to_string().len() > self.most {
            return Err(RenderError::TooLarge(self.most));
        }
        if depth(&value) > DEPTH_MAX {
            return Err(RenderError::TooDeep(DEPTH_MAX));
        }
        Ok(value)
    }

    /// The value as JSON.
    fn json(
        &mut self,
        value: &Dynamic,
        of: &Expression,
        levels: usize,
    ) -> Result<Value, RenderError> {
        let no_json = |what| RenderError::NoJson(of.source().to_owned(), what);
        let inner_levels = || {
            let left = levels.checked_sub(1);
            left.ok_or(RenderError::TooDeep(DEPTH_MAX))
        };
        Ok(match value.kind() {
            ValueKind::Undefined if self.missing == Missing::Fails => {
                return Err(RenderError::Undefined(of.source().to_owned()));
            }
            ValueKind::Undefined | ValueKind::None => {
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
                let levels = inner_levels()?;
                let items = value.try_iter().map_err(|_| no_json("not a list"))?;
                let items = items.map(|item| self.json(&item, of, levels));
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            ValueKind::Map => {
                self.take(2)?;
                let levels = inner_levels()?;
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
                    members.insert(name, self.json(&member, of, levels)?);
                }
                Value::Object(members)
            }
            _ => return Err(no_json("neither text, number, list nor mapping")),
        })
    }
}

/// The nesting depth of a value.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
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
    fn what_is_missing_is_null_where_nothing_may_fail() {
        let context = Context::new()
            .with("step", &json!({ "input": { "n": 5 }, "output": null }))
            .with("params", &json!({ "long": "a".repeat(60_000) }));
        let render = |value: &Value| template(value).render_leniently(&context, RENDERED_MAX);
        for (text, expected) in [
            ("{{ step.output }}", json!(null)),
            ("{{ step.output.id }}", json!(null)),
            ("{{ step.output.a.b[0] }}", json!(null)),
            ("x {{ step.output.a.b }}", json!("x null")),
            ("{{ [step.input.n, step.output.id] }}", json!([5, null])),
            ("{{ {'id': step.output.id} }}", json!({ "id": null })),
            ("{{ step.output.n + 1 }}", json!(null)),
            ("{{ step.output.n / step.output.m }}", json!(null)),
            ("{{ step.output|length }}", json!(null)),
            ("{{ step.output.id|default('none') }}", json!("none")),
            ("{{ step.output.id is defined }}", json!(false)),
            ("{{ 'a' if step.output.ok else 'b' }}", json!("b")),
            ("{{ step.input.n * 2 }}", json!(10)),
        ] {
            assert_eq!(render(&text.into()), Ok(expected), "{text}");
        }
        // Work and results are bounded as usual.
        let large = render(&"{{ params.long ~ params.long ~ params.long }}".into());
        assert_eq!(large, Err(RenderError::TooLarge(RENDERED_MAX)));
        let work = render(&"{{ range(100000)|map('string')|join|length }}".into());
        assert!(
            matches!(work, Err(RenderError::OutOfFuel(_)) | Ok(Value::Null)),
            "{work:?}"
        );
    }

    #[test]
    fn a_result_has_levels_of_its_own_beside_those_of_values() {
        let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
        for (levels, good) in [(94, true), (95, false), (200, false)] {
            let context = Context::new().with("params", &nested(levels));
            let value = json!({ "a": ["{{ params }}"] });
            let rendered = template(&value).render(&context, RENDERED_MAX);
            if good {
                assert_eq!(rendered, Ok(json!({ "a": [nested(levels)] })));
            } else {
                assert_eq!(rendered, Err(RenderError::TooDeep(DEPTH_MAX)), "{levels}");
            }
        }
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
