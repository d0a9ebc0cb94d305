//! Limits by policy: sliding windows that never exceed their limit, and requests in flight.
//!
//! [`Times`] is one window, a pure function of the stored times and the given time. [`Policy`] defines what is counted and by what,
//! [`Subject`] has the windows of a key, [`Ask`] is what one request takes from them, and [`Limiter`] decides, in memory or in Redis for
//! all nodes (`docs/limits.md`).

mod ask;
mod headers;
mod limiter;
mod memory;
mod plan;
mod policy;
mod shared;
mod sliding;
mod subject;

pub use ask::{Ask, Grants, Standing};
pub use headers::{headers, rate_headers, retry_after};
pub use limiter::{Decision, Lease, Limiter, Outcome, RedisOptions};
pub use policy::{Kind, MAX_CONCURRENCY, MAX_RPM, OnBackendDown, Per, Policy};
pub use sliding::{Damaged, Limit, Times};
pub use subject::Subject;
