//! Functions that are looked at before they run.

use bytes::Bytes;
use vrl::{
    compiler::{
        Context, Expression, ExpressionError, Function, Resolved, TypeState,
        expression::query::{Query, Target},
        function::{ArgumentList, Compiled, Example, FunctionCompileContext, Parameter, closure},
        state::TypeInfo,
    },
    path::OwnedTargetPath,
    value::Value,
};

use super::checks::{Refused, weigh};

/// Values that a function may make of a product.
const NODES: usize = 1 << 20;

/// Says why a function may not run with these arguments.
pub(super) type Check = fn(&[Option<Value>]) -> Result<(), Refused>;

/// What is done before or after a function runs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Guard {
    /// The arguments of these names are checked.
    Arguments(&'static [&'static str], Check),
    /// What it copies for each element of an array is bounded.
    Unnest,
    /// Its answer is copied.
    Fresh,
}

/// A function, and what is looked at before it runs.
#[derive(Debug)]
pub(super) struct Guarded {
    pub(super) function: Box<dyn Function>,
    pub(super) guard: Guard,
}

impl Function for Guarded {
    fn identifier(&self) -> &'static str {
        self.function.identifier()
    }

    fn usage(&self) -> &'static str {
        self.function.usage()
    }

    fn category(&self) -> &'static str {
        self.function.category()
    }

    fn return_kind(&self) -> u16 {
        self.function.return_kind()
    }

    fn pure(&self) -> bool {
        self.function.pure()
    }

    fn examples(&self) -> &'static [Example] {
        self.function.examples()
    }

    fn compile(
        &self,
        state: &TypeState,
        ctx: &mut FunctionCompileContext,
        arguments: ArgumentList,
    ) -> Compiled {
        let name = self.identifier();
        let look = match self.guard {
            Guard::Arguments(watched, check) => Look::Arguments(
                watched
                    .iter()
                    .map(|keyword| arguments.optional(keyword))
                    .collect(),
                check,
            ),
            Guard::Unnest => Look::Unnest(Box::new(arguments.required_query("path")?)),
            Guard::Fresh => Look::Fresh,
        };
        let inner = self.function.compile(state, ctx, arguments)?;
        Ok(Box::new(Call { name, inner, look }))
    }

    fn parameters(&self) -> &'static [Parameter] {
        self.function.parameters()
    }

    fn closure(&self) -> Option<closure::Definition> {
        self.function.closure()
    }
}

#[derive(Clone, Debug)]
enum Look {
    Arguments(Vec<Option<Box<dyn Expression>>>, Check),
    Unnest(Box<Query>),
    Fresh,
}

#[derive(Clone, Debug)]
struct Call {
    name: &'static str,
    inner: Box<dyn Expression>,
    look: Look,
}

impl Expression for Call {
    fn resolve(&self, ctx: &mut Context<'_>) -> Resolved {
        let fine = match &self.look {
            Look::Fresh => return self.inner.resolve(ctx).map(fresh),
            Look::Arguments(watched, check) => {
                let mut given = Vec::with_capacity(watched.len());
                for argument in watched {
                    given.push(match argument {
                        Some(argument) => Some(argument.resolve(ctx)?),
                        None => None,
                    });
                }
                check(&given)
            }
            Look::Unnest(query) => unnested(query, ctx)?,
        };
        match fine {
            Ok(()) => self.inner.resolve(ctx),
            Err(why) => Err(ExpressionError::from(format!("`{}` {why}", self.name))),
        }
    }

    fn type_info(&self, state: &TypeState) -> TypeInfo {
        self.inner.type_info(state)
    }
}

fn fresh(value: Value) -> Value {
    match value {
        Value::Bytes(text)
            if text
                .first()
                .is_some_and(|b| b.is_ascii_digit() || *b == b'-') =>
        {
            Value::Bytes(Bytes::copy_from_slice(&text))
        }
        value => value,
    }
}

/// Each element becomes a copy of all that lies around it.
fn unnested(query: &Query, ctx: &mut Context<'_>) -> Result<Result<(), Refused>, ExpressionError> {
    let look = |root: &Value| {
        let copies = root
            .get(query.path())
            .and_then(Value::as_array)
            .map_or(0, <[Value]>::len);
        if copies.saturating_mul(weigh(root).nodes) > NODES {
            return Err(Refused::Nodes { most: NODES });
        }
        Ok(())
    };
    Ok(match query.target() {
        Target::External(prefix) => {
            let root = ctx.target().target_get(&OwnedTargetPath::root(*prefix));
            root.ok().flatten().map_or(Ok(()), look)
        }
        Target::Internal(variable) => ctx.state().variable(variable.ident()).map_or(Ok(()), look),
        Target::FunctionCall(call) => look(&call.resolve(ctx)?),
        Target::Container(container) => look(&container.resolve(ctx)?),
    })
}
