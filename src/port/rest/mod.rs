//! All other routes, by way of axum.

pub(crate) mod admin;
pub(crate) mod keys;
pub(crate) mod letters;
pub(crate) mod readers;
pub(crate) mod rebuild;
pub(crate) mod replay;
pub(crate) mod routes;
pub(crate) mod schemas;
pub(crate) mod seats;
pub(crate) mod stream;
pub(crate) mod tools;
