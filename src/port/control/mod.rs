//! Run controls: cancel, pause, resume, retry, signals, and decisions about approvals and incidents.
//!
//! | file | holds |
//! |---|---|
//! | `runs` | the handlers of `/v1/runs/{id}/…` |
//! | `retry` | the handler of `/v1/runs/{id}/retry` |
//! | `batch` | the handler of `/v1/runs:batch`: one action on all runs that match a filter |
//! | `decide` | the handler of `/v1/approvals/{id}` |
//! | `recent` | the decisions that were recently accepted, for clients that send them again |
//! | `sent` | a request up to its checked body, in the order of checks of `docs/controls.md` |
//! | `send` | appending the record to `commands`, waiting for the run's answer, and the audit log |

pub(crate) mod batch;
pub(crate) mod decide;
mod recent;
pub(crate) mod retry;
pub(crate) mod runs;
mod send;
mod sent;

use std::sync::Arc;

use recent::RecentDecisions;
use tokio::sync::Semaphore;

/// The number of records appended at the same time; beyond it, requests are refused.
const APPENDS_MAX: usize = 1024;
/// The number of batch jobs of a node at the same time; beyond it, requests are refused.
const BATCHES_MAX: usize = 4;

/// The state that all run controls share.
pub(crate) struct Controlling {
    appends: Semaphore,
    batches: Arc<Semaphore>,
    decided: RecentDecisions,
}

impl Default for Controlling {
    fn default() -> Self {
        Self {
            appends: Semaphore::new(APPENDS_MAX),
            batches: Arc::new(Semaphore::new(BATCHES_MAX)),
            decided: RecentDecisions::default(),
        }
    }
}
