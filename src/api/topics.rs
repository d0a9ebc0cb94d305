//! `/v1/topics`. What a topic is shown with is defined in [`crate::log::Surveyed`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::log::{Cleanup, TopicSpec, topics::Names};

/// The most characters of a topic's name (Kafka's limit).
const NAME_MAX: usize = 249;
/// The most partitions of a topic.
const PARTITIONS_MAX: u32 = 10_000;

/// Which topics to make. What exists is checked and left alone.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTopics {
    /// Topics that are none of OmniLink's own; empty: OmniLink's own.
    #[serde(default)]
    pub names: Vec<String>,
    /// Partitions of the named topics; `topics.partitions` unless given.
    pub partitions: Option<u32>,
}

/// Why topics cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BadTopics {
    /// Partitions without names.
    #[error(
        "the partitions of the system's own topics are `topics.partitions`; name a topic to choose"
    )]
    OwnPartitions,
    /// A name that Kafka does not take.
    #[error("`{0}`: a topic's name has 1 to {NAME_MAX} of the characters A-Z a-z 0-9 . _ -")]
    Name(String),
    /// The name of one of OmniLink's own.
    #[error("`{name}` begins as the system's own topics do (`{prefix}`)")]
    Own {
        /// The name.
        name: String,
        /// `topics.prefix`.
        prefix: String,
    },
}

impl CreateTopics {
    /// The topics that are meant; `partitions`: the setting `topics.partitions`.
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
