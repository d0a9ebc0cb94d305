//! Topic ids, which distinguish topics of the same name.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

/// The id that a topic got when it was created. Displayed as by Kafka's tools: URL-safe base64, 22 characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TopicId([u8; 16]);

impl TopicId {
    /// `None` for all zeros, which brokers before Kafka 2.8 return.
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// The 16 bytes, most significant first.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// A text is not a topic id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a topic id: expected 22 characters of URL-safe base64")]
pub struct InvalidTopicId;

impl FromStr for TopicId {
    type Err = InvalidTopicId;

    fn from_str(text: &str) -> Result<Self, InvalidTopicId> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidTopicId)?;
        let bytes = bytes.try_into().map_err(|_| InvalidTopicId)?;
        Self::from_bytes(bytes).ok_or(InvalidTopicId)
    }
}

/// The current description of a topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Described {
    /// The topic id; `None`: the brokers have no topic ids.
    pub id: Option<TopicId>,
    /// The number of existing partitions, whatever is configured.
    pub partitions: u32,
}
