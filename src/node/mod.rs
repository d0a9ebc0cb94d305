//! A running node: what it opens, what it starts and in which order, how it tells whether it is ready, and how it stops.

mod lags;
pub(crate) mod postgres;
mod run;
pub mod storage;
pub(crate) mod topologies;
pub(crate) mod watch;

pub use run::{Parts, run};
