//! The processors of all nodes, as commands find them without a node: what each reads, and how far it is.

use std::{cell::OnceCell, collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};

use super::{output, runtime};
use crate::{
    admission,
    config::Config,
    log::{Log, LogError, topics::Names},
    node::{postgres, storage, topologies},
    notify, planner, projections, saga,
    store::{Store, StoreError},
    stream::lag::from_start,
    workers,
};

/// Time limit for reading the positions of projections from Postgres.
const POSTGRES_TIMEOUT: Duration = Duration::from_secs(10);

/// A processor and the topic that it reads.
pub(super) struct Processor {
    pub(super) name: String,
    pub(super) topic: Arc<str>,
    pub(super) kind: Kind,
}

/// What a processor does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// It writes to OmniLink's topics, and commits its position with what it writes.
    System,
    /// The same for a stage of a topology, whose topic may not exist.
    Topology,
    /// It calls other systems: its position stays before the oldest call that has not ended.
    Effect,
    /// The same; before its first start there is nothing to read for it.
    Notification,
    /// It writes to Postgres, where its position is stored.
    Projection,
}

/// All processors, with the topologies of the folder on this machine, and the reason if those cannot be read.
pub(super) fn processors(config: &Config, names: &Names) -> (Vec<Processor>, Option<String>) {
    let reads = |kind: Kind, name: &str, topic: &str| Processor {
        name: name.to_owned(),
        topic: topic.into(),
        kind,
    };
    let mut all = vec![
        reads(Kind::System, admission::NAME, &names.ingress),
        reads(Kind::System, saga::NAME, &names.commands),
        reads(Kind::Effect, workers::NAME, &names.steps),
        reads(Kind::Effect, planner::NAME, &names.goals),
    ];
    for (name, topic) in notify::processors(&config.notify, names) {
        all.push(reads(Kind::Notification, &name, &topic));
    }
    for (name, topic) in projections::topics(names) {
        all.push(reads(Kind::Projection, name, &topic));
    }
    let trouble = match topologies::read_files(config, &[]).map(|(_, checked)| checked.set) {
        Ok(Some(set)) => {
            let stages = set.processors();
            all.extend(stages.map(|(name, topic)| reads(Kind::Topology, name, topic)));
            None
        }
        Ok(None) => Some("the topology files have errors; `omnilink check` shows them".to_owned()),
        Err(error) => Some(output::in_one_line(&error)),
    };
    (all, trouble)
}

/// Whether a position cannot be read because the topic does not exist.
pub(super) fn is_without_topic(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(LogError::UnknownTopic(_)))
}

/// The next offset of each partition that projections have started, by projection.
type Projected = BTreeMap<&'static str, BTreeMap<u32, u64>>;

/// The positions of processors at a moment.
pub(super) struct Positions<'a> {
    config: &'a Config,
    log: &'a dyn Log,
    /// Those in Postgres, which is asked once, or why it does not answer.
    projected: OnceCell<Result<Projected, String>>,
}

impl<'a> Positions<'a> {
    pub(super) fn new(config: &'a Config, log: &'a dyn Log) -> Self {
        Self {
            config,
            log,
            projected: OnceCell::new(),
        }
    }

    /// The next offset of a processor in each partition of its topic (partition, offset): 0 where it has no position yet.
    pub(super) fn of(&self, one: &Processor) -> anyhow::Result<Vec<(u32, u64)>> {
        Ok(match one.kind {
            Kind::Projection => from_start(&self.projected(one)?),
            Kind::Notification => {
                let positions = self.log.positions(&one.name, &one.topic)?;
                let positions = (0..).zip(positions);
                positions
                    .filter_map(|(partition, next)| Some((partition, next?)))
                    .collect()
            }
            Kind::System | Kind::Topology | Kind::Effect => {
                from_start(&self.log.positions(&one.name, &one.topic)?)
            }
        })
    }

    fn projected(&self, one: &Processor) -> anyhow::Result<Vec<Option<u64>>> {
        let read = || read_projected(self.config).map_err(|error| output::in_one_line(&error));
        let all = self.projected.get_or_init(read).as_ref();
        let all = all.map_err(|why| anyhow!("{why}"))?;
        let next = all.get(&*one.name);
        Ok((0..self.log.partitions(&one.topic)?)
            .map(|partition| next?.get(&partition).copied())
            .collect())
    }
}

fn read_projected(config: &Config) -> anyhow::Result<Projected> {
    let store = if let Some(url) = &config.postgres_url {
        Store::new(url.expose())?
    } else {
        let file = postgres::url_file(&config.data_dir);
        let url = std::fs::read_to_string(&file)
            .with_context(|| format!("{} cannot be read", file.display()))?;
        Store::new(url.trim())?
    };
    let names = storage::names(config);
    let query = async {
        let mut all = Projected::new();
        for (name, _) in projections::topics(&names) {
            all.insert(name, projections::projected(&store, name).await?);
        }
        Ok::<_, StoreError>(all)
    };
    let query = async { tokio::time::timeout(POSTGRES_TIMEOUT, query).await };
    runtime()?
        .block_on(query)
        .with_context(|| {
            format!(
                "Postgres did not answer within {} s",
                POSTGRES_TIMEOUT.as_secs()
            )
        })?
        .context("Postgres")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{base::clock::SystemClock, config::Sources, log::memory::MemoryLog};

    #[test]
    fn every_processor_is_listed_once_and_notifications_begin_at_their_start() {
        let webhook =
            json!({ "url": "http://h", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" });
        let notify = json!([{ "on": ["run.failed", "dlq"], "to": { "webhook": webhook } }]);
        let sources = Sources {
            env: vec![
                ("OMNILINK__NOTIFY".into(), notify.to_string()),
                ("OMNILINK__TOPOLOGIES_DIR".into(), "/nonexistent".into()),
            ],
            ..Sources::default()
        };
        let config = Config::load(&sources).unwrap();
        let names = storage::names(&config);
        let (all, trouble) = processors(&config, &names);
        assert_eq!(trouble, None);
        let reads = |start: &str, topic: &Arc<str>| {
            let of = all.iter().filter(|one| one.name.starts_with(start));
            let [one] = &of.collect::<Vec<_>>()[..] else {
                panic!("{start}");
            };
            assert_eq!(one.topic, *topic, "{start}");
            *one
        };
        reads("admission", &names.ingress);
        reads("saga", &names.commands);
        let workers = reads("workers", &names.steps);
        reads("planner", &names.goals);
        reads("notify.dlq.", &names.dlq);
        let runs = reads("notify.runs.", &names.runs);
        assert_eq!(all.len(), 6 + projections::topics(&names).len());

        let log = MemoryLog::new(Arc::new(SystemClock));
        let positions = Positions::new(&config, &log);
        let error = positions.of(runs).unwrap_err();
        assert!(is_without_topic(&error), "{error}");
        log.provision(&names.specs(2), true).unwrap();
        assert_eq!(positions.of(runs).unwrap(), []);
        assert_eq!(positions.of(workers).unwrap(), [(0, 0), (1, 0)]);
    }
}
