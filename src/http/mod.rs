//! Outgoing HTTP requests: one client with TLS, timeouts, bounded response bodies, and a guard over the addresses it may reach.
//!
//! All outgoing calls use it: the schema registry, key sets of issuers, workers of steps.

mod client;
mod endpoint;
mod reach;

pub use client::{Client, NoRoots, Options, RequestError};
pub use endpoint::{Endpoint, EndpointError};
pub use reach::{Forbidden, Reach};
