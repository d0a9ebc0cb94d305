//! A running node: opens storage, starts and stops its parts in order, and reports readiness.

mod control_records;
mod cron;
mod effects;
pub(crate) mod event_schemas;
mod lags;
mod notify;
mod planner;
pub(crate) mod postgres;
mod rebuild;
mod run;
mod sagas;
pub mod storage;
pub(crate) mod topologies;
pub(crate) mod watch;
mod workers;
pub(crate) mod workflows;

pub use run::{Parts, run};
