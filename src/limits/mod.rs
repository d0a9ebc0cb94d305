//! Rate limits: sliding windows as pure functions of their state and the time.

mod sliding;

pub use sliding::{Damaged, Limit, Times};
