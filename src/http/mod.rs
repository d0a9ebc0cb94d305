//! Requests to other servers: one client, with TLS, deadlines, bounded answers, and a guard over the addresses that may be reached.
//!
//! Everything that calls out uses it: the schema registry today.

mod client;
mod endpoint;
mod reach;

pub use client::{Client, NoRoots, Options, RequestError};
pub use endpoint::{Endpoint, EndpointError};
pub use reach::{Forbidden, Reach};
