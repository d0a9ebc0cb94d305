//! What a lane and a rebuild drive: it turns records into rows, and stores the offsets of its partitions beside them.

use std::{collections::BTreeMap, time::Duration};

use super::{
    error::ProjectionError,
    link::Link,
    offsets::{self, Owned},
};
use crate::{
    log::{Fetched, TopicId},
    store::Session,
};

/// Writes the rows of the partitions that it owns. The methods block, and must be called from a thread outside the runtime.
///
/// After an error everything uncommitted is discarded ([`Pipe::reset`]), and the partitions must be taken again.
pub(super) trait Pipe: Send {
    /// The owned partitions, each with the next offset to add.
    fn owned(&self) -> Vec<(u32, u64)>;

    /// Takes ownership of exactly these partitions, and drops all others. `topic` is the id of the current topic, if the log has one.
    fn take(&mut self, partitions: &[u32], topic: Option<TopicId>) -> Result<(), ProjectionError>;

    /// The partitions of the last [`Pipe::take`], each with its committed offset. A reset does not change them.
    fn last_taken(&self) -> &BTreeMap<u32, Owned>;

    /// The partitions of the last [`Pipe::take`] that have another owner now.
    fn taken_by_others(&self) -> Result<Vec<u32>, ProjectionError>;

    /// The number of committed transactions.
    fn commits(&self) -> u64;

    /// Adds records, in order within each partition. Records of partitions that are not owned, and records that were added before, are
    /// ignored. Full batches are submitted; the rest waits for [`Pipe::push`].
    ///
    /// After [`ProjectionError::Row`] the caller must take the partitions again and add their records again.
    fn add(&mut self, records: Vec<Fetched>) -> Result<(), ProjectionError>;

    /// Whether all added records are in flight or committed.
    fn is_empty(&self) -> bool;

    /// Submits the open batch if it is due, and reports the commits since the last call. With `backlog`, more records follow at once,
    /// so a batch may wait for them.
    fn push(&mut self, backlog: bool) -> Result<(), ProjectionError>;

    /// Commits all added records, and waits at most `timeout` for each batch.
    fn flush(&mut self, timeout: Duration) -> Result<(), ProjectionError>;

    /// Discards everything uncommitted. The partitions must be taken again.
    fn reset(&mut self);
}

/// [`Pipe::taken_by_others`] of a projection that took `taken`.
pub(super) fn taken_by_others(
    link: &Link,
    projection: &str,
    taken: &BTreeMap<u32, Owned>,
) -> Result<Vec<u32>, ProjectionError> {
    let current = link.wait("reading offsets", async {
        let mut connection = link.store.connect(Session::Service).await?;
        Ok(offsets::positions(&mut connection, projection).await?)
    })?;
    let others = current.into_iter().filter(|(partition, owned)| {
        let taken = taken.get(partition);
        taken.is_some_and(|taken| taken.epoch != owned.epoch)
    });
    Ok(others.map(|(partition, _)| partition).collect())
}
