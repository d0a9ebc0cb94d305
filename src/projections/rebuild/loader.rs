//! Loads the log into the new tables.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::super::{
    error::ProjectionError,
    lane::Setup,
    link::{Link, Stop, TIMEOUT},
    pipe::Pipe,
};
use crate::log::Reader;

/// How long the log may return no records although it has more.
const NO_RECORDS_TIMEOUT: Duration = Duration::from_secs(30);
/// Reads a topic and writes it to the new tables.
pub(super) struct Loader {
    topic: Arc<str>,
    pipe: Box<dyn Pipe>,
    reader: Box<dyn Reader>,
    /// The first offset of each partition.
    starts: BTreeMap<u32, u64>,
    /// The next offset of each partition.
    next: BTreeMap<u32, u64>,
}

/// The connections of a rebuild.
pub(super) fn link(setup: &Setup) -> Link {
    Link {
        calls: None,
        runtime: setup.runtime.clone(),
        store: setup.store.clone(),
        stop: Stop::default(),
    }
}

impl Loader {
    /// A loader of `topic` for empty tables. `pipe` makes what writes them, given the number of records that there are.
    pub(super) fn new(
        setup: &Setup,
        topic: &Arc<str>,
        pipe: impl FnOnce(u64) -> Box<dyn Pipe>,
    ) -> Result<Self, ProjectionError> {
        let mut starts = BTreeMap::new();
        let mut records = 0;
        for partition in 0..setup.log.partitions(topic)? {
            let range = setup.log.offset_range(topic, partition)?;
            starts.insert(partition, range.start);
            records += range.end - range.start;
        }
        let mut pipe = pipe(records);
        let partitions: Vec<u32> = starts.keys().copied().collect();
        pipe.take(&partitions, None)?;
        Ok(Self {
            topic: Arc::clone(topic),
            pipe,
            reader: setup.log.reader(topic)?,
            next: starts.clone(),
            starts,
        })
    }

    /// The number of records read.
    pub(super) fn done(&self) -> u64 {
        let done =
            |(partition, next): (&u32, &u64)| next - self.starts.get(partition).unwrap_or(next);
        self.next.iter().map(done).sum()
    }

    /// The number of records before the bounds that were not read yet.
    pub(super) fn missing(&self, bounds: &BTreeMap<u32, u64>) -> u64 {
        let missing = |(partition, next): (&u32, &u64)| {
            let bound = bounds.get(partition);
            bound.map_or(0, |bound| bound.saturating_sub(*next))
        };
        self.next.iter().map(missing).sum()
    }

    /// Loads and commits all records before the bounds, which are exclusive end offsets by partition. `progress` is called with how
    /// many records are done and missing.
    pub(super) fn load_up_to(
        &mut self,
        bounds: &BTreeMap<u32, u64>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), ProjectionError> {
        let bound = |partition: &u32| bounds.get(partition).copied().unwrap_or(0);
        for (partition, next) in &self.next {
            if *next < bound(partition) {
                self.reader.assign(*partition, *next)?;
            }
        }
        let mut last_records = Instant::now();
        while self.missing(bounds) > 0 {
            let mut records = Vec::new();
            self.reader.poll(Duration::from_millis(200), &mut records)?;
            records.retain(|record| {
                let Some(next) = self.next.get_mut(&record.partition) else {
                    return false;
                };
                let is_due = record.offset >= *next && record.offset < bound(&record.partition);
                if is_due {
                    *next = record.offset + 1;
                }
                is_due
            });
            if records.is_empty() {
                self.check_timeout(last_records, bounds)?;
                continue;
            }
            last_records = Instant::now();
            match self.pipe.add(records).and_then(|()| self.pipe.push(true)) {
                // Postgres refuses a row, as it did for the running projector: read again, and skip it.
                Err(ProjectionError::Row(_)) => self.restart()?,
                other => other?,
            }
            progress(self.done(), self.missing(bounds));
        }
        match self.pipe.flush(TIMEOUT) {
            Err(ProjectionError::Row(_)) => {
                self.restart()?;
                self.load_up_to(bounds, progress)
            }
            other => other,
        }
    }

    /// Seeks back to the committed offsets.
    fn restart(&mut self) -> Result<(), ProjectionError> {
        let partitions: Vec<u32> = self.next.keys().copied().collect();
        self.pipe.take(&partitions, None)?;
        for (partition, next) in self.pipe.owned() {
            let start = self.starts.get(&partition).copied().unwrap_or(0);
            self.next.insert(partition, next.max(start));
            self.reader.assign(partition, next.max(start))?;
        }
        Ok(())
    }

    /// Fails if the log has returned no records for too long.
    fn check_timeout(
        &self,
        last_records: Instant,
        bounds: &BTreeMap<u32, u64>,
    ) -> Result<(), ProjectionError> {
        let behind = self
            .next
            .iter()
            .find(|(partition, next)| bounds.get(partition).is_some_and(|bound| *next < bound));
        match behind {
            Some((partition, offset)) if last_records.elapsed() > NO_RECORDS_TIMEOUT => {
                Err(ProjectionError::NoRecords {
                    topic: self.topic.to_string(),
                    partition: *partition,
                    offset: *offset,
                    waited_s: NO_RECORDS_TIMEOUT.as_secs(),
                })
            }
            _ => Ok(()),
        }
    }
}
