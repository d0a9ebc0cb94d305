//! Limits: sliding windows as pure functions of what is kept and the time that is handed in.

mod sliding;

pub use sliding::{Damaged, Limit, Times};
