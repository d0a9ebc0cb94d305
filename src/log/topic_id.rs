//! The id that tells a topic from others of its name.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

/// The id that a topic was given when it was made. Shown as Kafka's own tools show it: URL-safe base64, 22 characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TopicId([u8; 16]);

impl TopicId {
    /// `None` for all zeros, which brokers before Kafka 2.8 answer with.
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// The bytes, most significant first.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// Text that is no topic id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no topic id: 22 characters of URL-safe base64 are one")]
pub struct InvalidTopicId;

impl FromStr for TopicId {
    type Err = InvalidTopicId;

    fn from_str(text: &str) -> Result<Self, InvalidTopicId> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidTopicId)?;
        let bytes = bytes.try_into().map_err(|_| InvalidTopicId)?;
        Self::from_bytes(bytes).ok_or(InvalidTopicId)
    }
}

/// A topic as the log has it now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Described {
    /// Its id; `None`: the brokers know no ids.
    pub id: Option<TopicId>,
    /// How many partitions there are, whatever is configured.
    pub partitions: u32,
}
