//! Projections: the tables `omnilink.events` and `omnilink.entities` follow the topic `events`, exactly once. The tables
//! `omnilink.reader_grants` and `omnilink.emergency_controls` follow the topic `controls` (`mirror`: `readers`, `emergency`).
//!
//! Rows and offset change in one Postgres transaction, and the offset is advanced by compare-and-set. A stale owner of a partition
//! cannot advance the offset, so its rows are rolled back too. A record passes through these files:
//!
//! | file | does |
//! |---|---|
//! | `lane` | polls the assigned partitions; retries after errors; reacts to rebalances |
//! | `assemble`, `rows`, `changed` | turns records into the rows of one batch |
//! | `cache` | entities in memory |
//! | `partitions` | creates the monthly partitions of `events` |
//! | `link` | calls Postgres from a blocking thread |
//! | `pipeline` | assembles one batch while another is written; bisects a batch that fails |
//! | `writer`, `write`, `offsets` | batches in flight; writing one batch; the offsets and the fence |
//! | `rebuild` | fills new tables from the log and swaps them in |

mod assemble;
mod cache;
mod changed;
mod emergency;
mod error;
mod lane;
mod link;
mod mirror;
mod offsets;
mod partitions;
mod pipeline;
mod readers;
mod rebuild;
mod reject;
mod rows;
mod target;
mod write;
mod writer;

pub use emergency::{EMERGENCY_CONTROLS, EmergencyTable};
pub use error::ProjectionError;
pub use lane::{Projector, Setup};
pub use offsets::projected;
pub use readers::{READER_GRANTS, ReaderGrants};
pub use rebuild::{RebuildTables, Rebuilt, rebuild};
pub use reject::{DeadLetters, Reject, Rejection};
pub use target::PROJECTION;
