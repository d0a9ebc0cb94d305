//! Lanes and sources of the embedded log: one owner of all partitions, which fences its predecessor.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    LocalError, Shared, position_row,
    reader::{LocalReader, UpTo},
    sequencer::Ownership,
};
use crate::{
    chaos::{Bug, pause, planted},
    log::{
        Fetched, Finished, Lane, LogError, OffsetRange, Output, Polled, Reader, Source, TopicId,
        Transaction, Work,
    },
    state::{Changes, StateStore},
};

fn all_partitions(shared: &Shared, topics: &[String]) -> Result<Vec<(usize, u32)>, LogError> {
    let catalogue = shared.catalogue.read();
    let mut all = Vec::new();
    for (index, topic) in topics.iter().enumerate() {
        all.extend((0..catalogue.topic(topic)?.partitions).map(|p| (index, p)));
    }
    Ok(all)
}

/// Commits, and waits until the commit is durable.
fn commit(
    shared: &Shared,
    outputs: &[Output],
    state: Changes,
    ownership: Ownership<'_>,
) -> Result<(), LogError> {
    let (answer, acknowledged) = oneshot::channel();
    shared
        .sequence(outputs, Some(state), Some(ownership), answer)
        .map_err(|(_, error)| error)?;
    match acknowledged.blocking_recv() {
        Ok(result) => result.map(drop),
        Err(_) => Err(LocalError::Stopped.into()),
    }
}

pub(super) struct LocalLane {
    shared: Arc<Shared>,
    processor: Arc<str>,
    epoch: u64,
    topics: Vec<String>,
    reader: LocalReader,
    announced: bool,
}

impl LocalLane {
    pub(super) fn new(
        shared: Arc<Shared>,
        processor: &str,
        topics: &[String],
    ) -> Result<Self, LogError> {
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let reader = LocalReader::new(Arc::clone(&shared), &names, UpTo::Sequenced)?;
        let processor: Arc<str> = processor.into();
        let epoch = shared.sequencer.lock().own(&processor);
        Ok(Self {
            shared,
            processor,
            epoch,
            topics: topics.to_vec(),
            reader,
            announced: false,
        })
    }
}

impl Lane for LocalLane {
    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError> {
        if !self.announced {
            self.announced = true;
            return Ok(Polled::Assigned(all_partitions(
                &self.shared,
                &self.topics,
            )?));
        }
        self.reader.poll(wait, out)?;
        Ok(Polled::Records)
    }

    fn open(&mut self, topic: usize, partition: u32) -> Result<u64, LogError> {
        let name = &self.topics[topic];
        let committed = self.shared.committed(&self.processor, name, partition)?;
        let next = match committed {
            Some(next) => self
                .shared
                .read_on(&self.processor, name, partition, next)?,
            None => 0,
        };
        self.reader.assign_at(topic, partition, next)?;
        Ok(next)
    }

    fn seek(&mut self, topic: usize, partition: u32, offset: u64) -> Result<(), LogError> {
        self.reader.assign_at(topic, partition, offset)
    }

    fn pause(&mut self) {
        self.reader.release_all();
    }

    fn release(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError> {
        for (topic, partition) in partitions {
            self.reader.release(*topic, *partition);
        }
        Ok(())
    }

    fn commit(&mut self, mut transaction: Transaction) -> Result<(), LogError> {
        if planted(Bug::NoTransaction)
            && !transaction.outputs.is_empty()
            && !transaction.positions.is_empty()
        {
            let outputs = std::mem::take(&mut transaction.outputs);
            self.commit(Transaction {
                outputs,
                ..Transaction::default()
            })?;
            pause();
        }
        let positions = transaction
            .positions
            .iter()
            .map(|(topic, partition, next)| {
                let row = position_row(&self.processor, &self.topics[*topic], *partition);
                (row, next.to_be_bytes().to_vec())
            })
            .collect();
        let ownership = Ownership {
            processor: &self.processor,
            epoch: self.epoch,
            positions,
        };
        commit(
            &self.shared,
            &transaction.outputs,
            transaction.state,
            ownership,
        )
    }

    fn offset_range(&self, topic: usize, partition: u32) -> Result<OffsetRange, LogError> {
        let slot = self
            .shared
            .catalogue
            .read()
            .slot(&self.topics[topic], partition)?;
        Ok(self.shared.sequencer.lock().sequenced(slot))
    }

    fn handed_out(&self, topic: usize, partition: u32) -> Result<u64, LogError> {
        Ok(self.reader.handed_out(topic, partition))
    }

    fn state(&self) -> &StateStore {
        &self.shared.state
    }
}

pub(super) struct LocalSource {
    shared: Arc<Shared>,
    topic: String,
    reader: LocalReader,
    announced: bool,
}

impl LocalSource {
    pub(super) fn new(shared: Arc<Shared>, topic: &str) -> Result<Self, LogError> {
        let reader = LocalReader::new(Arc::clone(&shared), &[topic], UpTo::Durable)?;
        Ok(Self {
            shared,
            topic: topic.to_owned(),
            reader,
            announced: false,
        })
    }
}

impl Source for LocalSource {
    fn topic_id(&mut self) -> Result<Option<TopicId>, LogError> {
        Ok(self.shared.catalogue.read().topic_id(&self.topic))
    }

    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError> {
        if !self.announced {
            self.announced = true;
            let topics = std::slice::from_ref(&self.topic);
            return Ok(Polled::Assigned(all_partitions(&self.shared, topics)?));
        }
        self.reader.poll(wait, out)?;
        Ok(Polled::Records)
    }

    fn open(&mut self, partition: u32, offset: u64) -> Result<(), LogError> {
        let slot = self.shared.catalogue.read().slot(&self.topic, partition)?;
        let OffsetRange { start, end } = self.shared.sequencer.lock().durable(slot);
        if offset < start || offset > end {
            return Err(LogError::OutOfRange {
                topic: self.topic.clone(),
                partition,
                offset,
                start,
                end,
            });
        }
        self.reader.assign_at(0, partition, offset)
    }

    fn release(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError> {
        for (topic, partition) in partitions {
            self.reader.release(*topic, *partition);
        }
        Ok(())
    }
}

/// The input of an effect: a source that stores its position, and the work finished beyond it, in the store of the log.
pub(super) struct LocalWork {
    source: LocalSource,
    processor: Arc<str>,
    epoch: u64,
}

impl LocalWork {
    pub(super) fn new(shared: Arc<Shared>, processor: &str, topic: &str) -> Result<Self, LogError> {
        let processor: Arc<str> = processor.into();
        let epoch = shared.sequencer.lock().own(&processor);
        Ok(Self {
            source: LocalSource::new(shared, topic)?,
            processor,
            epoch,
        })
    }
}

impl Work for LocalWork {
    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError> {
        self.source.poll(wait, out)
    }

    fn open(&mut self, partition: u32) -> Result<Finished, LogError> {
        let shared = &self.source.shared;
        let row = position_row(&self.processor, &self.source.topic, partition);
        let value = shared.store.meta(&row)?.unwrap_or_default();
        let finished = match value.split_at_checked(8) {
            Some((next, rest)) => {
                let next = u64::from_be_bytes(next.try_into().unwrap_or_default());
                let mut finished = Finished::parse(next, &String::from_utf8_lossy(rest));
                let topic = &self.source.topic;
                finished.skip_to(shared.read_on(&self.processor, topic, partition, next)?);
                finished
            }
            None => Finished::default(),
        };
        let reader = &mut self.source.reader;
        reader.assign_at(0, partition, finished.next())?;
        Ok(finished)
    }

    fn commit(&mut self, partition: u32, finished: &Finished) -> Result<(), LogError> {
        let row = position_row(&self.processor, &self.source.topic, partition);
        let mut value = finished.next().to_be_bytes().to_vec();
        value.extend_from_slice(finished.metadata().as_bytes());
        let ownership = Ownership {
            processor: &self.processor,
            epoch: self.epoch,
            positions: vec![(row, value)],
        };
        commit(&self.source.shared, &[], Changes::default(), ownership)
    }

    fn pause(&mut self, partition: u32) -> Result<(), LogError> {
        self.source.reader.release(0, partition);
        Ok(())
    }

    fn resume(&mut self, partition: u32, offset: u64) -> Result<(), LogError> {
        self.source.reader.assign_at(0, partition, offset)
    }

    fn release(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError> {
        self.source.release(partitions)
    }
}
