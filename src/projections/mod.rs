//! Projections: the tables `omnilink.events` and `omnilink.entities`, kept up with the topic `events`, exactly once.
//!
//! Beside them `omnilink.reader_grants`, which follows the topic `controls` (`readers`).
//!
//! Rows and position change in one transaction of Postgres, and a position is moved on by comparing: a stale owner moves
//! nothing and so writes nothing. The way of a record through this room:
//!
//! | file | does |
//! |---|---|
//! | `lane` | polls a share of the partitions; stalls, recovers, gives up |
//! | `assemble`, `rows`, `changed` | records → rows of one batch |
//! | `cache` | entities in memory |
//! | `link` | asks Postgres from a thread that blocks |
//! | `pipeline` | two batches at a time; halves a batch that fails |
//! | `writer`, `write`, `offsets` | batches on their way; one of them; the fence |
//! | `rebuild` | the tables anew, beside the old ones, and the swap |

mod assemble;
mod cache;
mod changed;
mod error;
mod lane;
mod link;
mod offsets;
mod pipeline;
mod readers;
mod rebuild;
mod reject;
mod rows;
mod target;
mod write;
mod writer;

pub use error::ProjectionError;
pub use lane::{Projector, Setup};
pub use offsets::projected;
pub use readers::{READER_GRANTS, ReaderGrants};
pub use rebuild::{Rebuilt, What, rebuild};
pub use reject::{DeadLetters, Reject, Rejection};
pub use target::PROJECTION;
