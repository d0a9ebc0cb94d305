//! The values that placeholders of a goal stand for (`docs/guardian.md`). They are kept sealed, put into the input of a call just before
//! it is made, and replaced again in what comes back: records, rows and logs have the placeholders.
//!
//! | file | holds |
//! |---|---|
//! | `seal` | the values as sealed text, bound to a run |
//! | `values` | the opened values; binding them |
//! | `conceal` | placeholders instead of values in what comes back |
//! | `plan` | the same in the plan that a person gives |

mod conceal;
mod plan;
mod seal;
mod values;

pub use self::{
    seal::{SEALED_MAX, Unreadable, reseal, seal},
    values::{BOUND_MAX, BindError, TooLarge, Values},
};

/// The error code of a step whose values cannot be opened.
pub const UNREADABLE: &str = "sealed_slots_unreadable";
/// The error code of a step of a tool that must not get the values.
pub const REFUSED: &str = "sealed_slots";

/// The message about an input that does not match the schema of its tool once its placeholders have their values; `at` is the JSON pointer.
/// The schema's own message could quote a value.
pub fn mismatch(at: &str) -> String {
    format!(
        "`/input{at}` does not match the schema of the tool once its placeholders have their values"
    )
}

#[cfg(test)]
mod tests;
