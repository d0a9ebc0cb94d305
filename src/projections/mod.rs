//! Projections: tables follow topics, exactly once. `omnilink.events` and `omnilink.entities` follow the topic `events`; `audit_log`
//! and `rejections` the topic `audit`; `odoo.webhook_events` follows `ingress`, `events` and `dlq`; `runs`, `run_steps`,
//! `run_history` and `approvals` the topic `runs`, `tasks` the topic `steps`. Small tables follow the topic `controls` as whole sets (`controlled`).
//!
//! Rows and offset change in one Postgres transaction, and the offset is advanced by compare-and-set. A stale owner of a partition
//! cannot advance the offset, so its rows are rolled back too. A record passes through these files:
//!
//! | file | does |
//! |---|---|
//! | `lane` | polls the assigned partitions; retries after errors; reacts to rebalances |
//! | `pipe` | what a lane drives: `pipeline` for events and entities, `batches` for the others |
//! | `events`, `audit`, `odoo`, `runs`, `tasks` | one projector each |
//! | `assemble`, `rows`, `changed`, `column` | turns records into the rows of one batch |
//! | `insert` | inserts rows that most likely are new |
//! | `cache` | entities in memory |
//! | `partitions` | creates the monthly partitions of `events` |
//! | `link` | calls Postgres from a blocking thread |
//! | `pipeline` | assembles one batch while another is written; bisects a batch that fails |
//! | `writer`, `write`, `offsets` | batches in flight; writing one batch; the offsets and the fence |
//! | `rebuild` | fills new tables from the log and swaps them in |

mod assemble;
mod audit;
mod batches;
mod cache;
mod changed;
mod column;
mod controlled;
mod error;
mod events;
mod insert;
mod lane;
mod link;
mod odoo;
mod offsets;
mod partitions;
mod pipe;
mod pipeline;
mod rebuild;
mod reject;
mod retention;
mod rows;
mod runs;
mod target;
mod tasks;
mod write;
mod writer;

use std::sync::Arc;

pub use controlled::{ControlledTable, ControlledTables, NotWritten};
pub use error::ProjectionError;
pub use lane::{Projector, Setup};
pub use offsets::projected;
pub use rebuild::{
    RebuildTables, Rebuilt, rebuild, rebuild_audit, rebuild_odoo, rebuild_runs, rebuild_tasks,
};
pub use reject::{DeadLetters, Reject, Rejection};
pub use retention::Retention;
pub use target::{AUDIT, ODOO, ODOO_DLQ, ODOO_INGRESS, PROJECTION, RUNS, TASKS};

use crate::log::topics::Names;

/// All projections whose position is stored in Postgres, with the topic that each reads.
pub fn topics(names: &Names) -> [(&'static str, Arc<str>); 7] {
    [
        (PROJECTION, Arc::clone(&names.events)),
        (AUDIT, Arc::clone(&names.audit)),
        (ODOO, Arc::clone(&names.events)),
        (ODOO_DLQ, Arc::clone(&names.dlq)),
        (RUNS, Arc::clone(&names.runs)),
        (TASKS, Arc::clone(&names.steps)),
        (ODOO_INGRESS, Arc::clone(&names.ingress)),
    ]
}
