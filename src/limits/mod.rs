//! Limits: sliding windows that never hold more than their limit, and requests in flight, by policy.
//!
//! [`Times`] is one window, as a pure function of what is kept and the time that is handed in. [`Policy`] says what is counted and
//! by what, [`Subject`] the windows of a key, [`Ask`] what one request takes of them, [`Limiter`] decides: in memory, or in Redis
//! for all nodes (`docs/limits.md`).

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
