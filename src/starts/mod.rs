//! Starts of runs, from a parsed envelope to the record on `commands`: what the port and admission share. Pure.
//!
//! | file | holds |
//! |---|---|
//! | `fields` | the members of an envelope, checked one by one |
//! | `resolve` | workflow, plan and tools; params against schemas |
//! | `goal` | goals: the guardian, and the sealed values of placeholders |
//! | `record` | the start record |
//! | `fault` | why a start is refused |

mod fault;
mod fields;
mod goal;
mod record;
mod resolve;

pub use self::{
    fault::{too_large, unwritable},
    fields::{NamedWorkflow, StartFields, StartTarget, user_of, value},
    goal::{GuardedGoal, Guardian},
    record::{Checked, KAFKA},
    resolve::{Named, inline, resolve, to_raw},
};
