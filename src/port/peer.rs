//! The other end of a connection.

use std::net::IpAddr;

use axum::Extension;

/// The address at the other end of the connection.
#[derive(Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// As handlers take it.
pub(crate) type FromPeer = Extension<Peer>;
