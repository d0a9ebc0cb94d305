//! `/v1/topics`. A topic's report is defined in [`crate::log::Surveyed`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::log::{Cleanup, TopicSpec, topics::Names};

/// The maximum length of a topic's name (Kafka's limit).
const NAME_MAX: usize = 249;
/// The maximum number of partitions of a topic.
const PARTITIONS_MAX: u32 = 10_000;

/// Which topics to create. Existing ones are checked but not changed.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTopics {
    /// Topics other than OmniLink's own; if empty, OmniLink's own topics are created.
    #[serde(default)]
    pub names: Vec<String>,
    /// The number of partitions of the named topics; default: `topics.partitions`.
    pub partitions: Option<u32>,
}

/// Why topics cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum BadTopics {
    /// Partitions are given without names.
    #[error(
        "the partitions of the system's own topics are `topics.partitions`; name a topic to choose"
    )]
    OwnPartitions,
    /// Kafka does not accept the name.
    #[error("`{0}`: a topic's name has 1 to {NAME_MAX} of the characters A-Z a-z 0-9 . _ -")]
    Name(String),
    /// The name is reserved for OmniLink's own topics.
    #[error("`{name}` begins as the system's own topics do (`{prefix}`)")]
    Own {
        /// The name.
        name: String,
        /// `topics.prefix`.
        prefix: String,
    },
}

impl CreateTopics {
    /// The topics to create; `partitions` is the setting `topics.partitions`.
    pub fn specs(&self, own: &Names, partitions: u32) -> Result<Vec<TopicSpec>, BadTopics> {
        if self.names.is_empty() {
            return match self.partitions {
                Some(_) => Err(BadTopics::OwnPartitions),
                None => Ok(own.specs(partitions)),
            };
        }
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let spec = |name: &String| {
            if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(good) {
                return Err(BadTopics::Name(name.clone()));
            }
            if own.is_own(name) {
                return Err(BadTopics::Own {
                    name: name.clone(),
                    prefix: own.prefix.to_string(),
                });
            }
            Ok(TopicSpec {
                name: name.as_str().into(),
                partitions: self
                    .partitions
                    .unwrap_or(partitions)
                    .clamp(1, PARTITIONS_MAX),
                cleanup: Cleanup::Keep,
            })
        };
        self.names.iter().map(spec).collect()
    }
}
