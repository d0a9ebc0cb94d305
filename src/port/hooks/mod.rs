//! Webhooks: `POST /v1/webhooks/{tenant}/{source}`, `POST /v1/hooks/{token}` and the paths of `webhooks.aliases`, straight from
//! hyper to an append. Nothing but memory and the log is used before the answer, and Redis where several nodes share it.
//!
//! | file | holds |
//! |---|---|
//! | `target` | which source a path names |
//! | `sources` | sources that are ready for use, made of the integrations on `controls` |
//! | `take` | the checks of a request, in order |
//! | `append` | an event's way into the log |
//! | `recent` | bodies without an id of their own, which are duplicates for some seconds |
//! | `counts`, `rejections` | what is refused: how often, and its entries in the audit log |

mod append;
mod counts;
mod meters;
mod recent;
mod rejections;
pub(super) mod sources;
mod take;
mod target;

pub(super) use take::post;
pub(super) use target::Target;

use self::{
    counts::Counts, meters::Meters, recent::Recent, rejections::Rejections, sources::Sources,
    target::Aliases,
};
use crate::config::Alias;

/// Requests without a valid signature, or of no known source, that a source and address may send in a minute.
const FAILURES: u32 = 30;
/// Their window, in seconds.
const FAILURES_WINDOW_S: u32 = 60;

/// What requests of webhooks share.
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
