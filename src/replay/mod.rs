//! The history read back: events of the topic `events` by time of appending, tenant, type and entity, in the order in which they
//! were appended, into lines of JSON, a Parquet file or a topic.
//!
//! | file | does |
//! |---|---|
//! | `query` | which events |
//! | `scan` | reads the partitions side by side, merged by time |
//! | `index` | which stretches of a partition can hold an entity, a type, a tenant |
//! | `lines`, `parquet`, `topic` | where they go |
//! | `state` | an entity as it was at a moment |

mod index;
mod lines;
mod parquet;
mod query;
mod scan;
mod state;
mod topic;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

pub use self::{
    lines::Lines,
    parquet::Parquet,
    query::{EntityName, EntityNameError, Query, TypePattern},
    scan::replay,
    state::{EntityState, StateError, as_of},
    topic::IntoTopic,
};
use crate::{
    base::clock::Millis,
    envelope::Event,
    log::{Fetched, Log, LogError, topics::Names},
};

/// What is read.
pub struct History<'a> {
    /// The log.
    pub log: &'a dyn Log,
    /// The names of its topics.
    pub names: &'a Names,
    /// Where the index lies; it is made and extended on the way, and may be deleted at any time.
    pub index_dir: PathBuf,
}

/// Why a sink takes no more.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// Where events go.
pub trait Sink {
    /// Takes an event; `record`: as it lies on `events`.
    fn event(
        &mut self,
        record: &Fetched,
        event: &Event<'_>,
        received_at: Millis,
    ) -> Result<(), SinkError>;

    /// Events that it was given and left out, because they are larger than its topic takes.
    fn too_large(&self) -> u64 {
        0
    }

    /// There is nothing more at hand: what has gathered shall go out.
    fn idle(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    /// These were all.
    fn finish(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// How far a replay is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, JsonSchema)]
pub struct Replayed {
    /// Offsets passed.
    pub done: u64,
    /// Offsets to be passed; while it follows, those there were at the beginning.
    pub total: u64,
    /// Events that went into the sink.
    pub events: u64,
    /// Records of `events` that hold no event of a known version; they are left out.
    pub unreadable: u64,
    /// Events that are larger than the topic takes that they should go into; they are left out.
    pub too_large: u64,
}

/// What ends a replay before its end.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The sink takes no more.
    #[error("{0}")]
    Sink(SinkError),
}
