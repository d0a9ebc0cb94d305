//! The other end of a connection.

use std::net::IpAddr;

/// The address at the other end of the connection, as an extension of requests.
#[derive(Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);
