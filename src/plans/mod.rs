//! Plans: what the steps of a run do, in which order, with which tools, and how they are undone. Data, not code; pure, without
//! input, output or a clock.
//!
//! A plan is read once from its JSON ([`Plan::read`]), which reports everything that is wrong with it ([`Fault`], each with a JSON
//! pointer), and is then checked against the tools that there are ([`Plan::check_tools`]).
//!
//! | file | holds |
//! |---|---|
//! | `plan`, `step` | the model, and reading it |
//! | `graph` | dependencies: unknown ones, cycles, ancestors |
//! | `expression`, `reference`, `render` | `{{ … }}` in texts: parsed, what they refer to, evaluated |
//! | `tool`, `builtin` | definitions of tools |
//! | `jcs` | the canonical form of JSON (RFC 8785), of which a plan's hash is made |
//! | `read`, `fault` | reading JSON with all its faults at once |

mod builtin;
mod expression;
mod fault;
mod graph;
pub mod jcs;
mod plan;
pub(crate) mod read;
mod reference;
mod render;
mod step;
mod tool;

pub use self::{
    builtin::{BUILTINS, RESERVED},
    expression::{EXPRESSION_MAX, Expression, Template},
    fault::{Fault, Pointer},
    plan::{PLAN_MAX, Plan, STEPS_MAX},
    render::{Context, RENDERED_MAX, RenderError},
    step::{Call, OnExhausted, Retry, Step, When},
    tool::{Builtin, Kind, Lane, Limit, Rate, Risk, Thresholds, Tool, Worker},
};
