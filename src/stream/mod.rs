//! The runtime of processors: lanes for transforms, effects, timers, the dead-letter queue, lag.
//!
//! | kind | runs in | guarantee |
//! |---|---|---|
//! | transform | [`lane`] | exactly once: outputs, changes of state and positions in one transaction of the log |
//! | project | `crate::projections` | exactly once: rows and position in one transaction of Postgres |
//! | effect | [`effect`] | at least once, an idempotency key on every call |

pub mod appends;
pub(crate) mod consumer;
pub mod dlq;
pub mod effect;
mod failure;
pub mod lag;
pub mod lane;
pub mod progress;
pub(crate) mod size_limits;
pub mod stall;
pub(crate) mod timers;
pub(crate) mod transform;
mod writes;

pub use failure::{Failure, Rejected};
pub use transform::{Context, Origin, Processor, Timer, Transform};
