//! OmniLink's own topics.

use std::sync::Arc;

const DAY_MS: i64 = 24 * 3600 * 1000;
/// How long records of `audit` are kept unless told otherwise, in days.
const AUDIT_DAYS: u32 = 90;

/// What happens to old records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cleanup {
    /// Kept for ever.
    Keep,
    /// Dropped when older than this many milliseconds.
    Delete {
        /// The age from which records are dropped, in milliseconds.
        retention_ms: i64,
    },
    /// The last record a key is kept.
    Compact,
    /// The last record a key is kept, but none that is older than this.
    CompactDelete {
        /// The age from which records are dropped, in milliseconds.
        retention_ms: i64,
    },
}

/// A topic to be made or checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicSpec {
    /// The whole name, prefix included.
    pub name: Arc<str>,
    /// The number of partitions.
    pub partitions: u32,
    /// What happens to old records.
    pub cleanup: Cleanup,
}

/// The names of the system's topics under one prefix.
#[derive(Clone, Debug)]
pub struct Names {
    /// `topics.prefix`, such as `omnilink.`; also in front of consumer groups and transactional ids.
    pub prefix: Arc<str>,
    /// Events as they came.
    pub ingress: Arc<str>,
    /// Admitted events: the history.
    pub events: Arc<str>,
    /// Keys, sources, switches, policies.
    pub controls: Arc<str>,
    /// Who did what.
    pub audit: Arc<str>,
    /// What runs are told.
    pub commands: Arc<str>,
    /// What has happened to runs.
    pub runs: Arc<str>,
    /// Calls of steps, for workers.
    pub steps: Arc<str>,
    /// Requests for plans.
    pub goals: Arc<str>,
    /// The plans of goals that succeeded, and what is known about them.
    pub plans: Arc<str>,
    /// Over a limit of a topology.
    pub throttled: Arc<str>,
    /// Rejected, with why.
    pub dlq: Arc<str>,
    /// Which of these went back to their topics.
    pub redriven: Arc<str>,
    /// Which times have started workflows.
    pub cron: Arc<str>,
    /// How long records of `audit` are kept, in days.
    audit_days: u32,
}

impl Names {
    /// The names under `prefix`.
    pub fn new(prefix: &str) -> Self {
        let name = |n: &str| -> Arc<str> { format!("{prefix}{n}").into() };
        Self {
            prefix: prefix.into(),
            ingress: name("ingress"),
            events: name("events"),
            controls: name("controls"),
            audit: name("audit"),
            commands: name("commands"),
            runs: name("runs"),
            steps: name("steps"),
            goals: name("goals"),
            plans: name("plans"),
            throttled: name("throttled"),
            dlq: name("dlq"),
            redriven: name("state.dlq"),
            cron: name("state.cron"),
            audit_days: AUDIT_DAYS,
        }
    }

    /// With another retention of the topic `audit`, in days.
    #[must_use]
    pub fn with_audit_days(self, days: u32) -> Self {
        Self {
            audit_days: days,
            ..self
        }
    }

    /// How long records of `audit` are kept, in milliseconds.
    pub fn audit_retention_ms(&self) -> i64 {
        i64::from(self.audit_days) * DAY_MS
    }

    /// The changelog topic of a processor's keyed state.
    pub fn state(&self, processor: &str) -> Arc<str> {
        format!("{}state.{processor}", self.prefix).into()
    }

    /// Whether a topic is one of the system's: nobody else writes there.
    pub fn is_own(&self, topic: &str) -> bool {
        let Some(name) = topic.strip_prefix(&*self.prefix) else {
            return false;
        };
        let own = |spec: &TopicSpec| *spec.name == *topic;
        !self.prefix.is_empty()
            || name.starts_with("state.")
            || name.starts_with("rekey.")
            || self.specs(1).iter().any(own)
    }

    /// All topics, with their policies.
    pub fn specs(&self, partitions: u32) -> Vec<TopicSpec> {
        let spec = |name: &Arc<str>, partitions, cleanup| TopicSpec {
            name: Arc::clone(name),
            partitions,
            cleanup,
        };
        let delete = |days: i64| Cleanup::Delete {
            retention_ms: days * DAY_MS,
        };
        vec![
            spec(&self.ingress, partitions, delete(7)),
            spec(&self.events, partitions, Cleanup::Keep),
            spec(&self.controls, 1, Cleanup::Compact),
            spec(&self.audit, partitions, delete(self.audit_days.into())),
            spec(&self.commands, partitions, delete(7)),
            spec(&self.runs, partitions, Cleanup::Keep),
            spec(&self.steps, partitions, delete(7)),
            spec(&self.goals, partitions, delete(7)),
            spec(&self.plans, partitions, Cleanup::Compact),
            spec(&self.throttled, partitions, delete(7)),
            spec(&self.dlq, partitions, delete(30)),
            // Outlives what it is about.
            spec(&self.redriven, 1, delete(31)),
            spec(&self.cron, 1, Cleanup::Compact),
            spec(
                &self.state("admission"),
                partitions,
                Cleanup::CompactDelete {
                    retention_ms: 2 * DAY_MS,
                },
            ),
            spec(&self.state("saga"), partitions, Cleanup::Compact),
        ]
    }
}
