//! The saga processor: from `commands` to `runs`, `steps` and `ingress`, exactly once.
//!
//! One partition of `commands` is one transform ([`transform`]). It keeps the runs that were active lately in memory, and writes
//! those that a transaction changed at its end: one row each.
//!
//! | file | holds |
//! |---|---|
//! | `transform` | the transform: processes records and timers |
//! | `inbox` | decoding records of `commands` |
//! | `begin` | reading a start record |
//! | `compile` | the cache of compiled plans |
//! | `goals` | requests for plans, plans that arrive, and records of cached plans |
//! | `counts` | metrics |
//! | `run_cache` | the cache of runs in memory |
//! | `rows` | the tables of keyed state |
//! | `stored` | reading and writing runs of keyed state |
//! | `compared` | stored runs compared with their histories, for the simulation |
//! | `stub` | what is remembered of an ended run |
//! | `notices` | events about runs |
//! | `audited` | audit entries |
//! | `outputs` | the records that follow from events |
//! | `sealed` | values of placeholders in calls and answers |
//! | `tasks` | records about the state of claimable tasks |
//! | `emitted` | the events of `emit` |
//! | `environment` | the environment of the core: time, settings, controls |
//! | `in_force` | the emergency controls in force: those of the topic, and those that the node holds |
//! | `holds` | which calls the emergency controls hold |
//! | `view` | a run as readers see it |

mod audited;
mod begin;
#[cfg(feature = "chaos")]
mod compared;
mod compile;
mod counts;
mod emitted;
mod environment;
mod goals;
mod holds;
mod in_force;
mod inbox;
mod notices;
mod outputs;
mod rows;
mod run_cache;
mod sealed;
mod stored;
mod stub;
mod tasks;
mod transform;
mod view;

use std::{sync::Arc, time::Duration};

use super::followers::Followers;
use crate::{
    controls::{Held, SecretKeys},
    log::topics::Names,
    state::{Space, StateError, StateStore, Window, WindowOptions},
    stream::{Processor, Transform},
};
#[cfg(feature = "chaos")]
pub use compared::StoredRuns;
use compile::Plans;
use counts::Meters;
use in_force::InForce;
use transform::Runs;

/// The processor's name.
pub const NAME: &str = "saga";
/// How long the identity of an ended run is remembered, in milliseconds: 90 days.
pub const IDENTITY_MS: i64 = 90 * 86_400 * 1000;
/// The number of identities in memory for each partition before they are written to disk.
const SEAL_AT: usize = 27_000;

/// Settings of the processor.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The time until an approval expires.
    pub approval_expiry: Duration,
    /// A step with a higher risk score needs approval, even if its lane does not demand one.
    pub approve_above: f64,
    /// How long the identity of an ended run is remembered, in milliseconds.
    pub identity_ms: i64,
    /// Whether the end of a run is also published as an event.
    pub events: bool,
    /// The keys that open the values of placeholders. Without them tools on Kafka cannot get any, and answers are not searched for them.
    pub secrets: Option<Arc<SecretKeys>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            approval_expiry: Duration::from_hours(24),
            approve_above: 0.7,
            identity_ms: IDENTITY_MS,
            events: false,
            secrets: None,
        }
    }
}

/// What the node of a lane holds by itself.
type OwnHolds = Arc<dyn Fn() -> Held + Send + Sync>;

/// The processor.
pub struct Sagas {
    names: Names,
    partitions: u32,
    settings: Settings,
    followers: Followers,
    plans: Arc<Plans>,
    meters: Arc<Meters>,
    own_holds: OwnHolds,
}

impl Sagas {
    /// A processor for the topics with these names, which have `partitions` partitions each.
    pub fn new(names: &Names, partitions: u32, settings: Settings, followers: Followers) -> Self {
        Self {
            names: names.clone(),
            partitions,
            settings,
            followers,
            plans: Arc::default(),
            meters: Arc::new(Meters::new()),
            own_holds: Arc::new(Held::default),
        }
    }

    /// Runs are also held by the controls that this node holds by itself ([`crate::controls::Controls::own_holds`]). `held` is called for
    /// each record, so it must be cheap.
    #[must_use]
    pub fn with_own_holds(mut self, held: impl Fn() -> Held + Send + Sync + 'static) -> Self {
        self.own_holds = Arc::new(held);
        self
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
            (
                self.followers.clone(),
                self.followers.carry(space.partition),
            ),
            (Arc::clone(&self.plans), Arc::clone(&self.meters)),
            ended,
            (InForce::load(state, space)?, Arc::clone(&self.own_holds)),
        );
        Ok(Box::new(runs))
    }

    /// Workers and clients wait for each step.
    fn is_awaited(&self) -> bool {
        true
    }
}
