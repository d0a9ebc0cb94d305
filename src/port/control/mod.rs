//! What controls runs: cancel, pause, resume, signals, and decisions about approvals and incidents.
//!
//! | file | holds |
//! |---|---|
//! | `runs` | the handlers of `/v1/runs/{id}/…` |
//! | `retry` | the handler of `/v1/runs/{id}/retry` |
//! | `decide` | the handler of `/v1/approvals/{id}` |
//! | `decided` | the decisions lately taken in, for those that are sent again |
//! | `sent` | a request up to its checked body, in the contract's order of checks |
//! | `tell` | the record on `commands`, the run's answer, and the entry of the audit log |

pub(crate) mod decide;
mod decided;
pub(crate) mod retry;
pub(crate) mod runs;
mod sent;
mod tell;

use decided::Decided;
use tokio::sync::Semaphore;

/// Records that are being appended at once; beyond it requests are refused.
const APPENDS_MAX: usize = 1024;

/// What all requests that control runs share.
pub(crate) struct Controlling {
    appends: Semaphore,
    decided: Decided,
}

impl Default for Controlling {
    fn default() -> Self {
        Self {
            appends: Semaphore::new(APPENDS_MAX),
            decided: Decided::default(),
        }
    }
}
