//! Outgoing HTTP requests: one client with TLS, timeouts, bounded response bodies, and a guard over the addresses it may reach.
//!
//! All outgoing calls use it: the schema registry, key sets of issuers, workers of steps, notifications. What is sent is signed as
//! Standard Webhooks say ([`SigningKey`]).

mod breaker;
mod client;
mod endpoint;
mod error;
mod pool;
mod reach;
mod retry_after;
mod signature;

pub use breaker::{Breaker, Pass, State as BreakerState};
pub use client::{Client, Options};
pub use endpoint::{Endpoint, EndpointError};
pub use error::{NoRoots, RequestError};
pub use reach::{Forbidden, Reach};
pub use retry_after::ms as retry_after_ms;
pub use signature::{NoSecret, SIGNATURE_HEADERS, SigningKey};
