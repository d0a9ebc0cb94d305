//! A running node: opens storage, starts and stops its parts in order, and reports readiness.

mod lags;
pub(crate) mod postgres;
mod rebuild;
mod run;
pub mod storage;
pub(crate) mod topologies;
pub(crate) mod watch;

pub use run::{Parts, run};
