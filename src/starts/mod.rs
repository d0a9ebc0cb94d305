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

use crate::{
    api::problem::INVALID_IDEMPOTENCY_KEY,
    envelope::{IDENTIFIER_MAX, Invalid},
};

pub use self::{
    fault::{too_large, unwritable},
    fields::{NamedWorkflow, StartFields, StartTarget, user_of, value},
    goal::{GuardedGoal, Guardian},
    record::{Checked, KAFKA},
    resolve::{Named, inline, resolve, to_raw},
};

/// Checks the length of an idempotency key that is an attribute of a start.
pub fn check_idempotency_key(key: &str) -> Result<(), Invalid> {
    if key.len() <= IDENTIFIER_MAX {
        return Ok(());
    }
    Err(Invalid {
        code: INVALID_IDEMPOTENCY_KEY.code.into(),
        message: format!("`idempotencykey` may have at most {IDENTIFIER_MAX} bytes"),
    })
}
