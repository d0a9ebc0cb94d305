//! Names of dead letters.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::Serialize;

/// The name of a dead letter: its partition and offset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, JsonSchema)]
#[schemars(inline, with = "String", extend("pattern" = "^[0-9]+:[0-9]+$"))]
pub struct Name {
    /// The partition of the dead-letter topic.
    pub partition: u32,
    /// Its offset in that partition.
    pub offset: u64,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

impl FromStr for Name {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let parsed = text.split_once(':').and_then(|(partition, offset)| {
            Some(Self {
                partition: partition.parse().ok()?,
                offset: offset.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| NotAName(text.to_owned()))
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The text is not the name of a dead letter.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not a name PARTITION:OFFSET as shown by `dlq list`")]
pub struct NotAName(String);
