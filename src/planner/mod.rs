//! Plans goals: an effect over the topic `goals`, whose answers are records of `commands` (`docs/plans.md`).
//!
//! A plan comes from the cache of plans that have succeeded, from a workflow whose examples match, or from a language model. The cache
//! follows the topic `plans` on every node; it and the index of vectors are derived from the topic.
//!
//! | file | holds |
//! |---|---|
//! | `effect`, `answered` | one request, from the record to the answer; whether it was answered before |
//! | `answer`, `explain` | the stages, up to an answer; the same for people, without an answer |
//! | `listing`, `refuted` | cached plans as people see them; labels from their feedback |
//! | `goal`, `bind` | a goal and its slots; the params of a workflow for it |
//! | `lookup`, `entry`, `examples` | the cache and the catalogue |
//! | `table`, `follow`, `qdrant` | the entries that this node has read, the thread that reads them, the index outside the process |
//! | `vectors` | vectors of texts |
//! | `llm/`, `second_look`, `bounds` | language models: plans, the look for prompt injection, what plans of models may do without approval |
//! | `meters` | metrics |

mod answer;
mod answered;
mod bind;
mod bounds;
mod effect;
mod entry;
mod examples;
mod explain;
mod follow;
mod goal;
mod listing;
mod llm;
mod lookup;
mod meters;
mod qdrant;
mod refuted;
mod second_look;
mod table;
mod vectors;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use parking_lot::Mutex;

pub use self::{
    bounds::{Bounds, PLANNER_EVENT, PLANNER_HOST},
    effect::EffectParts,
    follow::Following,
    listing::Place,
    lookup::{EMBEDDINGS_UNAVAILABLE, QDRANT_UNAVAILABLE},
    qdrant::{Qdrant, QdrantError},
    refuted::WrongHit,
    vectors::{NoVectors, Vector, Vectors},
};
use self::{
    effect::Planning,
    examples::Examples,
    llm::{Models, endpoint::Endpoint},
    meters::Saved,
    refuted::Refuted,
    second_look::SecondLook,
    table::Table,
};
use crate::{
    base::clock::Clock,
    config::{BreakerSettings, Config, LanguageModel, Plans, Secret, SecretUrl},
    http::EndpointError,
    log::{Log, topics::Names},
    stream::{effect as effects, progress::Progress},
    telemetry::PartStatus,
    workflows::Current,
};

/// The name of the effect, and of its consumer group; the principal of its answers.
pub const NAME: &str = "planner";
/// The number of goals that a node plans at the same time.
const CALLS: usize = 1024;
/// Longer than any call may take: each has its own limits.
const CALL_MAX: Duration = Duration::from_hours(8 * 24);
/// How long a stop waits for calls in flight.
pub const DRAIN: Duration = Duration::from_secs(10);

/// The settings of a planner.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `planner`.
    pub models: Vec<LanguageModel>,
    /// `guardian.llm`.
    pub second_look: Option<LanguageModel>,
    /// `breaker.*`.
    pub breaker: BreakerSettings,
    /// `plans.*`.
    pub plans: Plans,
    /// `allow.planner_hosts` and `allow.planner_events`.
    pub bounds: Bounds,
    /// The folder of the model of the embeddings; `None`: without embeddings.
    pub model_dir: Option<PathBuf>,
    /// `qdrant.url` and `qdrant.api_key`.
    pub qdrant: Option<(SecretUrl, Option<Secret>)>,
    /// `topics.prefix`.
    pub prefix: String,
}

impl Settings {
    /// Those of a configuration.
    pub fn of(config: &Config) -> Self {
        let qdrant = config.qdrant_url.clone();
        Self {
            models: config.planner.clone(),
            second_look: config.guardian_llm.clone(),
            breaker: config.breaker,
            plans: config.plans,
            bounds: Bounds {
                hosts: config.allow_planner_hosts.clone(),
                events: config.allow_planner_events.clone(),
            },
            model_dir: Some(config.model_dir()),
            qdrant: qdrant.map(|url| (url, config.qdrant_api_key.clone())),
            prefix: config.topics.prefix.clone(),
        }
    }
}

/// The planner of a node. Cheap to clone.
#[derive(Clone)]
pub struct Planner(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    catalog: Current,
    plans: Plans,
    bounds: Bounds,
    vectors: Vectors,
    table: Table,
    examples: Examples,
    models: Models,
    second_look: Option<SecondLook>,
    qdrant: Option<Qdrant>,
    saved: Saved,
    refuted: Refuted,
    /// Why the topic `plans` cannot be read.
    unread: Mutex<Option<String>>,
}

impl Planner {
    /// A planner with an empty cache. Connects to nothing yet.
    pub fn new(
        settings: &Settings,
        catalog: Current,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, EndpointError> {
        let endpoint = |model: &LanguageModel| {
            let clock = Arc::clone(&clock);
            Endpoint::new(model, settings.breaker, clock)
        };
        let models = settings.models.iter().map(endpoint);
        let models = models.collect::<Result<Vec<_>, _>>()?;
        let second_look = settings.second_look.as_ref().map(endpoint);
        let qdrant = settings.qdrant.as_ref().map(|(url, key)| {
            let clock = Arc::clone(&clock);
            Qdrant::new(url, key.as_ref(), &settings.prefix, clock)
        });
        let qdrant = qdrant.transpose()?;
        Ok(Self(Arc::new(Inner {
            catalog,
            plans: settings.plans,
            bounds: settings.bounds.clone(),
            vectors: Vectors::new(settings.model_dir.clone()),
            table: Table::new(settings.plans, qdrant.is_some()),
            examples: Examples::default(),
            models: Models::new(models),
            second_look: second_look.transpose()?.map(SecondLook),
            qdrant,
            saved: Saved::default(),
            refuted: Refuted::default(),
            unread: Mutex::default(),
            clock,
        })))
    }

    /// Starts to follow the topic `plans`, and loads the model of the embeddings. Dropping the returned value stops it.
    pub fn follow(&self, log: &Arc<dyn Log>, names: &Names) -> io::Result<Following> {
        follow::start(self.clone(), log, names)
    }

    /// Starts the effect on the current runtime. Dropping the returned value waits for calls in flight, at most for
    /// [`EffectParts::drain`]; calls that have not ended by then are repeated by the next owner of their partitions.
    pub fn start(
        &self,
        parts: EffectParts,
        log: &Arc<dyn Log>,
        names: &Names,
        progress: Arc<Progress>,
    ) -> io::Result<effects::Running> {
        let setup = effects::Setup {
            log: Arc::clone(log),
            name: NAME.to_owned(),
            topic: names.goals.to_string(),
            dlq: Arc::clone(&names.dlq),
            concurrency: CALLS,
            deadline: CALL_MAX,
            drain: parts.drain,
            clock: Arc::clone(&self.0.clock),
            runtime: tokio::runtime::Handle::current(),
            progress,
        };
        let planning = Planning::new(self.clone(), parts, log, names);
        effects::start(Arc::new(planning), setup)
    }

    /// The status of language models and of the topic `plans`.
    pub fn status(&self) -> PartStatus {
        let inner = &self.0;
        let unread = inner.unread.lock().clone();
        let look = inner.second_look.as_ref().and_then(|look| {
            let why = look.0.trouble()?;
            Some(format!("guardian.llm: {}: {why}", look.0.name()))
        });
        let troubles = inner.models.troubles();
        let troubles: Vec<_> = unread.into_iter().chain(troubles).chain(look).collect();
        if troubles.is_empty() {
            return PartStatus::ok("");
        }
        PartStatus::degraded(troubles.join("; "))
    }

    /// The status of the embeddings. They are missing only where there is something to compare goals with.
    pub fn embeddings_status(&self) -> PartStatus {
        let inner = &self.0;
        let Some(why) = inner.vectors.missing() else {
            return PartStatus::ok("");
        };
        let examples = inner.examples.of(&inner.catalog.get());
        let needed =
            !inner.models.is_empty() || !examples.is_empty() || inner.table.needs_vectors();
        if needed {
            PartStatus::degraded(format!("only goals with the same words are found: {why}"))
        } else {
            PartStatus::ok("")
        }
    }

    /// The status of Qdrant; `None`: it is not configured.
    pub fn qdrant_status(&self) -> Option<PartStatus> {
        let trouble = self.0.qdrant.as_ref()?.trouble();
        Some(trouble.map_or_else(
            || PartStatus::ok(""),
            |why| PartStatus::degraded(format!("plans are searched in memory: {why}")),
        ))
    }
}
