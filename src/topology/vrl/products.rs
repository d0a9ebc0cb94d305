//! Finds where one step of a VRL program could allocate without bound: a string times a number that producers may choose, and an
//! array that is filled up to an index. It looks at the program's syntax, before it is compiled.
//!
//! A product is refused unless neither factor can be a string, or the other one is a small constant. Whether an expression can be a
//! string follows from literals, operators, what functions return, and assignments before the product.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
};

use vrl::{
    compiler::{Function, value::kind},
    parser::{
        Literal, Program,
        ast::{
            Assignment, AssignmentOp, AssignmentTarget, Block, Container, Expr, FunctionCall, Node,
            Op, Opcode, Predicate, Query, QueryTarget, RootExpr, Unary,
        },
    },
    path::{OwnedSegment, OwnedValuePath},
};

/// The largest constant that a string may be multiplied by.
const FACTOR: i64 = 16;
/// Bytes that a product with a literal string may have.
const LITERAL: usize = 65_536;
/// The highest index of a path: an assignment beyond an array's end fills the array, in the compiler's types too.
pub(crate) const INDEX: isize = 1_000;

/// An expression without bound: where, what it is, and what to write instead.
pub(crate) struct Unbounded {
    pub(crate) at: Range<usize>,
    pub(crate) what: String,
    pub(crate) instead: &'static str,
    /// The compiler itself would allocate without bound.
    pub(crate) in_compiler: bool,
}

/// Finds all expressions without bound.
pub(crate) fn unbounded(program: Program, functions: &[Box<dyn Function>]) -> Vec<Unbounded> {
    let returns = functions.iter().map(|f| (f.identifier(), f.return_kind()));
    let mut walk = Walk {
        returns: returns.collect(),
        no_text: BTreeSet::new(),
        found: Vec::new(),
    };
    for root in program {
        if let RootExpr::Expr(expr) = root.into_inner() {
            walk.expr(expr);
        }
    }
    walk.found
}

/// What is known of an expression's value.
#[derive(Clone, Copy)]
struct Gives {
    text: bool,
    /// Bytes of a literal text.
    literal: Option<usize>,
    /// A literal number.
    constant: Option<i64>,
}

const NO_TEXT: Gives = Gives {
    text: false,
    literal: None,
    constant: None,
};
const ANYTHING: Gives = Gives {
    text: true,
    ..NO_TEXT
};

fn gives(text: bool) -> Gives {
    Gives { text, ..NO_TEXT }
}

struct Walk {
    /// What each function returns.
    returns: HashMap<&'static str, u16>,
    /// Variables and paths that hold no string here.
    no_text: BTreeSet<String>,
    found: Vec<Unbounded>,
}

impl Walk {
    fn expr(&mut self, node: Node<Expr>) -> Gives {
        match node.into_inner() {
            Expr::Literal(literal) => match literal.into_inner() {
                Literal::String(text) => {
                    let text = text.to_string();
                    Gives {
                        literal: (!text.contains("{{")).then_some(text.len()),
                        ..ANYTHING
                    }
                }
                Literal::RawString(text) => Gives {
                    literal: Some(text.len()),
                    ..ANYTHING
                },
                Literal::Integer(constant) => Gives {
                    constant: Some(constant),
                    ..NO_TEXT
                },
                // A text times a float is an error, whatever it is.
                Literal::Float(_) => Gives {
                    constant: Some(0),
                    ..NO_TEXT
                },
                Literal::Boolean(_) | Literal::Regex(_) | Literal::Timestamp(_) | Literal::Null => {
                    NO_TEXT
                }
            },
            Expr::Container(container) => self.container(container.into_inner()),
            Expr::IfStatement(statement) => {
                let statement = statement.into_inner();
                match statement.predicate.into_inner() {
                    Predicate::One(one) => {
                        self.expr(*one);
                    }
                    Predicate::Many(many) => {
                        for one in many {
                            self.expr(one);
                        }
                    }
                }
                let before = self.no_text.clone();
                let one = self.block(statement.if_node.into_inner());
                let after = std::mem::replace(&mut self.no_text, before);
                let other = match statement.else_node {
                    Some(block) => self.block(block.into_inner()),
                    None => NO_TEXT,
                };
                self.no_text.retain(|known| after.contains(known));
                gives(one.text || other.text)
            }
            Expr::Op(op) => {
                let at = op.span();
                self.op(op.into_inner(), at.start()..at.end())
            }
            Expr::Assignment(assignment) => self.assignment(assignment.into_inner()),
            Expr::Query(query) => self.query(query.inner()),
            Expr::FunctionCall(call) => self.call(call.into_inner()),
            Expr::Variable(name) => gives(!self.no_text.contains(&**name)),
            Expr::Unary(unary) => {
                let Unary::Not(not) = unary.into_inner();
                self.expr(*not.into_inner().take().1);
                NO_TEXT
            }
            Expr::Abort(abort) => {
                if let Some(message) = abort.into_inner().message {
                    self.expr(*message);
                }
                NO_TEXT
            }
            Expr::Return(answer) => {
                self.expr(*answer.into_inner().expr);
                NO_TEXT
            }
            Expr::Break(_) => NO_TEXT,
        }
    }

    fn block(&mut self, block: Block) -> Gives {
        block.into_iter().fold(NO_TEXT, |_, one| self.expr(one))
    }

    fn container(&mut self, container: Container) -> Gives {
        match container {
            Container::Group(group) => self.expr((*group).into_inner().into_inner()),
            Container::Block(block) => self.block(block.into_inner()),
            Container::Array(array) => {
                for one in array.into_inner() {
                    self.expr(one);
                }
                NO_TEXT
            }
            Container::Object(object) => {
                for (_, one) in object.into_inner() {
                    self.expr(one);
                }
                NO_TEXT
            }
        }
    }

    fn op(&mut self, op: Op, at: Range<usize>) -> Gives {
        let Op(left, opcode, right) = op;
        let left = self.expr(*left);
        let before = self.no_text.clone();
        let right = self.expr(*right);
        match opcode.into_inner() {
            Opcode::Mul => {
                self.product(left, right, at);
                let constant = left.constant.zip(right.constant);
                Gives {
                    constant: constant.and_then(|(left, right)| left.checked_mul(right)),
                    ..gives(left.text || right.text)
                }
            }
            // A string plus `null` is the string.
            Opcode::Add => gives(left.text || right.text),
            Opcode::Or | Opcode::Err => {
                // The right side may not have run.
                self.no_text.retain(|known| before.contains(known));
                gives(left.text || right.text)
            }
            Opcode::And => {
                self.no_text.retain(|known| before.contains(known));
                NO_TEXT
            }
            _ => NO_TEXT,
        }
    }

    fn product(&mut self, left: Gives, right: Gives, at: Range<usize>) {
        let small = |text: Gives, factor: Gives| {
            let Some(factor) = factor.constant else {
                return false;
            };
            let literal = text
                .literal
                .and_then(|len| len.checked_mul(usize::try_from(factor).ok()?));
            factor <= FACTOR || literal.is_some_and(|bytes| bytes <= LITERAL)
        };
        let fine = match (left.text, right.text) {
            (false, false) => true,
            (true, false) => small(left, right),
            (false, true) => small(right, left),
            (true, true) => false,
        };
        if !fine {
            self.found.push(Unbounded {
                at,
                what: "a product that may be a text as long as a number in the record says".into(),
                instead: "say that both are numbers (`int!(.count) * float!(.price)`, `to_int!(.count) * 2`); a text is repeated 16 times at most, by a constant",
                in_compiler: false,
            });
        }
    }

    fn assignment(&mut self, assignment: Assignment) -> Gives {
        match assignment {
            Assignment::Single { target, op, expr } => {
                let given = self.expr(*expr);
                self.assign(target, given.text || op == AssignmentOp::Merge);
                given
            }
            Assignment::Infallible { ok, err, op, expr } => {
                let given = self.expr(*expr);
                self.assign(ok, given.text || op == AssignmentOp::Merge);
                self.assign(err, true);
                ANYTHING
            }
        }
    }

    fn assign(&mut self, target: Node<AssignmentTarget>, text: bool) {
        let at = target.span();
        let target = target.into_inner();
        let (name, path) = match &target {
            AssignmentTarget::Noop => return,
            AssignmentTarget::Query(query) => (query.to_string(), Some(query.path.inner())),
            AssignmentTarget::Internal(variable, path) => {
                let path = path.as_ref();
                (name_of(variable, path), path)
            }
            AssignmentTarget::External(path) => (
                path.as_ref().map_or(".".into(), ToString::to_string),
                path.as_ref().map(|path| &path.path),
            ),
        };
        if let Some(path) = path {
            self.path(path, at.start()..at.end());
        }
        self.no_text
            .retain(|known| !within(known, &name) && !within(&name, known));
        if !text {
            self.no_text.insert(name);
        }
    }

    fn path(&mut self, path: &OwnedValuePath, at: Range<usize>) {
        if path.segments.iter().any(is_far) {
            self.found.push(Unbounded {
                at,
                what: format!("an index beyond {INDEX}, up to which an array would be filled"),
                instead: "append to it (`push`), or use an object, whose keys are texts",
                in_compiler: true,
            });
        }
    }

    fn query(&mut self, query: &Query) -> Gives {
        let at = query.path.span();
        self.path(query.path.inner(), at.start()..at.end());
        let name = match query.target.inner() {
            QueryTarget::Internal(variable) => name_of(variable, Some(query.path.inner())),
            QueryTarget::External(prefix) => vrl::path::OwnedTargetPath {
                prefix: *prefix,
                path: query.path.inner().clone(),
            }
            .to_string(),
            QueryTarget::FunctionCall(call) => {
                self.call(call.clone());
                return ANYTHING;
            }
            QueryTarget::Container(container) => {
                self.container(container.clone());
                return ANYTHING;
            }
        };
        gives(!self.no_text.contains(&name))
    }

    fn call(&mut self, call: FunctionCall) -> Gives {
        for argument in call.arguments {
            self.expr(argument.into_inner().expr);
        }
        if let Some(closure) = call.closure {
            let closure = closure.into_inner();
            let before = self.no_text.clone();
            for variable in &closure.variables {
                self.no_text.retain(|known| !within(known, variable));
            }
            // The next run of the closure sees its assignments: repeat until nothing changes.
            let found = self.found.len();
            loop {
                let known = self.no_text.clone();
                self.block(closure.block.inner().clone());
                self.no_text.retain(|name| known.contains(name));
                if self.no_text == known {
                    break;
                }
                self.found.truncate(found);
            }
            // It may not have run at all.
            self.no_text.retain(|known| before.contains(known));
        }
        let returned = self.returns.get(&**call.ident);
        gives(returned.is_none_or(|kinds| kinds & kind::BYTES != 0))
    }
}

fn name_of(variable: &str, path: Option<&OwnedValuePath>) -> String {
    match path.filter(|path| !path.is_root()) {
        Some(path) => format!("{variable}.{path}"),
        None => variable.to_owned(),
    }
}

fn is_far(segment: &OwnedSegment) -> bool {
    matches!(segment, OwnedSegment::Index(index) if index.unsigned_abs() > INDEX.unsigned_abs())
}

/// Whether a path equals the other one or leads into it.
fn within(path: &str, other: &str) -> bool {
    path.strip_prefix(other).is_some_and(|rest| {
        rest.is_empty() || rest.starts_with(['.', '[']) || other.ends_with(['.', '%'])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(program: &str) -> usize {
        let parsed = vrl::parser::parse(program).unwrap_or_else(|e| panic!("{program}: {e}"));
        let broken = parsed
            .0
            .iter()
            .any(|root| matches!(root.inner(), RootExpr::Error(_)));
        assert!(!broken, "{program}");
        unbounded(parsed, &vrl::stdlib::all()).len()
    }

    #[test]
    fn products_with_a_text_are_found() {
        for bad in [
            r#".x = "x" * .count"#,
            r#".x = .count * "x" ?? """#,
            ".x = .a * .b ?? 0",
            ".x = .text * 1000 ?? 0",
            r#".x = "x" * int!(.count)"#,
            "n = length(.)\nm = n\n.x = \"x\" * m",
            ".x = string!(.a) * 17",
            "n = 5\nif .x == 1 { n = .y }\n.z = n * n ?? 0",
            ".n = 5\n. = .all\n.z = .n * 2000 ?? 0",
            "n = 1\nfor_each(array!(.items)) -> |_, item| { .x = n * 3000 ?? 0\n n = item }",
            ".a.b[1001] = 1",
            ".a[-1000000000] = 1",
            "x = []\nx[1000000000] = 1",
            r#"{ "a": ["x" * .n ?? 0] }"#,
            r#"if true { .x = "x" * .n ?? 0 } else { .y = upcase("x" * .n ?? "") }"#,
            r#"abort "x" * .n ?? """#,
            r#".x, err = "x" * .n"#,
        ] {
            assert_ne!(found(bad), 0, "{bad}");
        }
        for good in [
            ".x = int!(.a) * int!(.b)",
            ".x = to_float!(.a) * 100",
            r#".x = "-" * 80"#,
            ".x = string!(.a) * 2",
            ".x = .price * 2 ?? 0",
            "n = int!(.a)\nm = n * 1000\n.x = m * n",
            ".n = int!(.n)\n.price = float!(.price)\n.total = .n * .price",
            ".n = to_int(.n) ?? 0\n.x = (.n - 1) * 1000",
            "n, err = to_int(.n)\n.x = n * 1000",
            "x = 0\nfor_each(array!(.items)) -> |_, item| { x = x + 1\n x = x * 1000 }",
            ".a[3] = length(.) * 99",
            ".x = 100 * 100 * 100",
        ] {
            assert_eq!(found(good), 0, "{good}");
        }
    }
}
