//! Plans: which steps a run has, their order, their tools, and how they are undone. Plans are data; this module is pure, without
//! I/O or a clock.
//!
//! A plan is read once from its JSON ([`Plan::read`]), which reports everything that is wrong with it ([`Fault`], each with a JSON
//! pointer), and is then checked against the existing tools ([`Plan::check_tools`]).
//!
//! | file | holds |
//! |---|---|
//! | `plan`, `step` | the model, and parsing it |
//! | `graph` | dependencies: unknown ones, cycles, ancestors |
//! | `expression`, `reference`, `render` | expressions `{{ … }}`: compiling them, finding their references, evaluating them |
//! | `tool`, `builtin` | definitions of tools |
//! | `digits` | decimal digits of every script |
//! | `template` | goals with slots instead of their values |
//! | `shape` | what plans for the same template have in common |
//! | `cache` | finding the plan of an earlier goal that means the same |
//! | `jcs` | the canonical form of JSON (RFC 8785), from which a plan's hash is computed |
//! | `read`, `fault` | reading JSON, and reporting all its faults at once |

mod builtin;
pub mod cache;
mod digits;
mod expression;
mod fault;
mod graph;
pub mod jcs;
mod plan;
pub(crate) mod read;
mod reference;
mod render;
pub mod shape;
mod step;
pub mod template;
mod tool;

pub use self::{
    builtin::{BUILTINS, SIGNAL_FORMAT},
    expression::{EXPRESSION_MAX, Expression, ExpressionError, Template},
    fault::{Fault, Pointer},
    plan::{PLAN_MAX, Plan, STEPS_MAX},
    render::{Context, RENDERED_MAX, RenderError},
    step::{Call, OnExhausted, Retry, Step, When},
    tool::{Builtin, Kind, Lane, Limit, Rate, Risk, Thresholds, Tool, Worker},
};
