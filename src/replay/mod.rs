//! Replay: reads events back from the topic `events`, selected by append time, tenant, type and entity, and writes them in append order
//! to JSON Lines, a Parquet file or a topic.
//!
//! | file | does |
//! |---|---|
//! | `query` | selects events |
//! | `scan` | reads the partitions in parallel and merges them by append time |
//! | `index` | finds the offset ranges that may contain an entity, a type or a tenant |
//! | `lines`, `parquet`, `topic` | write the events |
//! | `state` | computes the state of an entity at a point in time |

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

/// The history to read.
pub struct History<'a> {
    /// The log with the topic `events`.
    pub log: &'a dyn Log,
    /// The names of its topics.
    pub names: &'a Names,
    /// The directory of the index. Replays create and extend the index, and it may be deleted at any time.
    pub index_dir: PathBuf,
}

/// Why a sink failed.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// A destination for events.
pub trait Sink {
    /// Writes an event. `record` is its record on `events`.
    fn event(
        &mut self,
        record: &Fetched,
        event: &Event<'_>,
        received_at: Millis,
    ) -> Result<(), SinkError>;

    /// The number of events that were skipped because they exceed the size limit of the destination.
    fn too_large(&self) -> u64 {
        0
    }

    /// Flushes buffered events, because no more are available for now.
    fn idle(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    /// Flushes buffered events and ends the output. Called once, after the last event.
    fn finish(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// The progress of a replay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, JsonSchema)]
pub struct Replayed {
    /// Offsets passed, whether or not their records matched.
    pub done: u64,
    /// Offsets to pass. With `follow`, those that existed at the start.
    pub total: u64,
    /// Events written to the sink.
    pub events: u64,
    /// Records of `events` that cannot be decoded; they are skipped.
    pub unreadable: u64,
    /// Events that exceed the size limit of the destination; they are skipped.
    pub too_large: u64,
}

/// Why a replay failed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The sink failed.
    #[error("{0}")]
    Sink(SinkError),
}
