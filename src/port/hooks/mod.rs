//! Webhooks: `POST /v1/webhooks/{tenant}/{source}`, `POST /v1/hooks/{token}` and the paths of `webhooks.aliases`. Requests go directly
//! from hyper to an append. Before the answer they use only memory and the log, and Redis where several nodes share it.
//!
//! | file | holds |
//! |---|---|
//! | `target` | which source a path names |
//! | `sources` | sources ready for use, built from the integrations on `controls` |
//! | `receive` | the checks of a request, in order |
//! | `append` | appending the event to the log |
//! | `recent` | bodies without their own id, which are duplicates for a few seconds |
//! | `counts`, `rejections` | limits on refused requests, and their entries in the audit log |

mod append;
mod counts;
mod meters;
mod receive;
mod recent;
mod rejections;
pub(super) mod sources;
mod target;

pub(super) use receive::post;
pub(super) use target::Target;

use self::{
    counts::Counts, meters::Meters, recent::Recent, rejections::Rejections, sources::Sources,
    target::Aliases,
};
use crate::config::Alias;

/// Requests without a valid signature, or for an unknown source, that are allowed per source and address in a minute.
const FAILURES: u32 = 30;
/// The window of that limit, in seconds.
const FAILURES_WINDOW_S: u32 = 60;

/// The state that all webhook requests share.
pub(super) struct Hooks {
    pub(super) aliases: Aliases,
    pub(super) sources: Sources,
    recent: Recent,
    failures: Counts,
    rejections: Rejections,
    meters: Meters,
}

impl Hooks {
    pub(super) fn new(aliases: Vec<Alias>) -> Self {
        Self {
            aliases: Aliases::new(aliases),
            sources: Sources::default(),
            recent: Recent::default(),
            failures: Counts::new(FAILURES, FAILURES_WINDOW_S),
            rejections: Rejections::default(),
            meters: Meters::new(),
        }
    }
}
