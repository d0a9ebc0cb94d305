//! OmniLink's own topics.

use std::sync::Arc;

const DAY_MS: i64 = 24 * 3600 * 1000;
/// The default retention of `audit`, in days.
const AUDIT_DAYS: u32 = 90;

/// The cleanup policy of a topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cleanup {
    /// Records are kept for ever.
    Keep,
    /// Records are deleted after the retention time.
    Delete {
        /// The retention time, in milliseconds.
        retention_ms: i64,
    },
    /// The last record of each key is kept.
    Compact,
    /// The last record of each key is kept until the retention time.
    CompactDelete {
        /// The retention time, in milliseconds.
        retention_ms: i64,
    },
}

/// A topic to be created or checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicSpec {
    /// The full name, including the prefix.
    pub name: Arc<str>,
    /// The number of partitions.
    pub partitions: u32,
    /// The cleanup policy.
    pub cleanup: Cleanup,
}

/// The names of OmniLink's topics with one prefix.
#[derive(Clone, Debug)]
pub struct Names {
    /// `topics.prefix`, such as `omnilink.`; also the prefix of consumer groups and transactional ids.
    pub prefix: Arc<str>,
    /// Events as received.
    pub ingress: Arc<str>,
    /// Admitted events: the history.
    pub events: Arc<str>,
    /// Keys, sources, switches, policies.
    pub controls: Arc<str>,
    /// The audit log.
    pub audit: Arc<str>,
    /// Commands to runs.
    pub commands: Arc<str>,
    /// Events of runs.
    pub runs: Arc<str>,
    /// Calls of steps, for workers.
    pub steps: Arc<str>,
    /// Requests for plans.
    pub goals: Arc<str>,
    /// Cached plans of goals that succeeded, with their metadata.
    pub plans: Arc<str>,
    /// Records that exceeded a rate limit of a topology.
    pub throttled: Arc<str>,
    /// Dead letters: rejected records with the reason.
    pub dlq: Arc<str>,
    /// Which dead letters have been redriven.
    pub redriven: Arc<str>,
    /// The scheduled times for which workflows have been started.
    pub cron: Arc<str>,
    /// The retention of `audit`, in days.
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

    /// The retention of `audit`, in milliseconds.
    pub fn audit_retention_ms(&self) -> i64 {
        i64::from(self.audit_days) * DAY_MS
    }

    /// The changelog topic of a processor's keyed state.
    pub fn state(&self, processor: &str) -> Arc<str> {
        format!("{}state.{processor}", self.prefix).into()
    }

    /// Whether a topic is one of OmniLink's own, to which no other producer writes.
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
            // Kept longer than the dead letters.
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
