//! The saga processor: from `commands` to `runs`, `steps` and `ingress`, exactly once.
//!
//! One partition of `commands` is one transform ([`transform`]). It keeps the runs that were active lately in memory, and writes
//! those that a transaction changed at its end: one row each.
//!
//! | file | holds |
//! |---|---|
//! | `transform` | records and timers in, decisions, rows and outputs out |
//! | `inbox` | a record of `commands` as an input of the core |
//! | `begin` | a start record as a run |
//! | `compile` | compiled plans, shared by the runs of one plan |
//! | `counts` | metrics |
//! | `live` | a run in memory, and the runs that are |
//! | `rows` | the tables of keyed state |
//! | `notices` | audit entries, and events about runs |
//! | `outputs` | what happened, as records |
//! | `tasks` | what becomes of work that is claimed |
//! | `emitted` | the events of `emit` |
//! | `surroundings` | what the core is told beside the input |
//! | `holds` | which calls the emergency controls hold |
//! | `view` | a run as readers see it |

mod begin;
mod compile;
mod counts;
mod emitted;
mod holds;
mod inbox;
mod live;
mod notices;
mod outputs;
mod rows;
mod surroundings;
mod tasks;
mod transform;
mod view;

use std::{sync::Arc, time::Duration};

use super::followers::Followers;
use crate::{
    log::topics::Names,
    state::{Space, StateError, StateStore, Window, WindowOptions},
    stream::{Processor, Transform},
};
use compile::Plans;
use counts::Meters;
use transform::Runs;

/// The processor's name.
pub const NAME: &str = "saga";
/// How long the identity of a run that has ended names it: 90 days (contract, section 2).
pub const IDENTITY_MS: i64 = 90 * 86_400 * 1000;
/// Identities in memory for each partition before they go to disk.
const SEAL_AT: usize = 27_000;

/// Settings of the processor.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long an approval may be decided.
    pub approval_expiry: Duration,
    /// From this risk score on a step waits for a person, whatever its lane.
    pub approve_above: f64,
    /// How long the identity of a run that has ended names it, in milliseconds.
    pub identity_ms: i64,
    /// Whether each end of a run is also an event.
    pub events: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            approval_expiry: Duration::from_hours(24),
            approve_above: 0.7,
            identity_ms: IDENTITY_MS,
            events: false,
        }
    }
}

/// The processor.
pub struct Sagas {
    names: Names,
    partitions: u32,
    settings: Settings,
    followers: Followers,
    plans: Arc<Plans>,
    meters: Arc<Meters>,
}

impl Sagas {
    /// For the topics of these names, which have `partitions` partitions each.
    pub fn new(names: &Names, partitions: u32, settings: Settings, followers: Followers) -> Self {
        Self {
            names: names.clone(),
            partitions,
            settings,
            followers,
            plans: Arc::default(),
            meters: Arc::new(Meters::new()),
        }
    }
}

impl Processor for Sagas {
    fn name(&self) -> &'static str {
        NAME
    }

    fn topics(&self) -> Vec<String> {
        vec![self.names.commands.to_string()]
    }

    fn transform(
        &self,
        space: &Space,
        state: &StateStore,
    ) -> Result<Box<dyn Transform>, StateError> {
        let options = WindowOptions {
            window_ms: self.settings.identity_ms,
            payload: 16,
            seal_at: SEAL_AT,
        };
        let ended = Window::load(state, space.clone(), options)?.log_deletes()?;
        let runs = Runs::new(
            self.names.clone(),
            self.partitions,
            self.settings.clone(),
            self.followers.clone(),
            (Arc::clone(&self.plans), Arc::clone(&self.meters)),
            ended,
        );
        Ok(Box::new(runs))
    }
}
