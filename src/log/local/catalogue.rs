//! The topics of the embedded log, which are stored and never deleted. Each partition has its own slot.

use std::{collections::HashMap, sync::Arc};

use uuid::Uuid;

use super::error::LocalError;
use crate::{
    log::{Cleanup, LogError, TopicId, TopicSpec},
    state::DiskStore,
};

/// A topic, with the slots of its partitions.
#[derive(Clone, Debug)]
pub(super) struct Topic {
    pub(super) name: Arc<str>,
    pub(super) partitions: u32,
    /// `None`: the topic has not been provisioned since the log was opened, so nothing is deleted.
    pub(super) cleanup: Option<Cleanup>,
    /// The slot of its partition 0; the others follow.
    pub(super) first_slot: usize,
}

/// All topics. The slot of a partition is its index among all partitions, in the order of creation. The key of a batch in the store is
/// `slot(4) offset(8)`, big-endian.
#[derive(Default)]
pub(super) struct Catalogue {
    topics: Vec<Topic>,
    by_name: HashMap<Arc<str>, usize>,
    /// The id of this log, from which topic ids are derived: another directory is another log.
    id: Uuid,
}

const ROW: &[u8] = b"topics";
const ID: &[u8] = b"log.id";

impl Catalogue {
    pub(super) fn load(store: &DiskStore) -> Result<Self, LogError> {
        let mut catalogue = Self {
            id: log_id(store)?,
            ..Self::default()
        };
        let Some(row) = store.meta(ROW)? else {
            return Ok(catalogue);
        };
        let rows: Vec<(String, u32)> = serde_json::from_slice(&row)
            .map_err(|error| LocalError::DamagedTopics(Arc::new(error)))?;
        for (name, partitions) in rows {
            catalogue.add(name.into(), partitions, None);
        }
        Ok(catalogue)
    }

    fn add(&mut self, name: Arc<str>, partitions: u32, cleanup: Option<Cleanup>) {
        let first_slot = self.slots();
        self.by_name.insert(Arc::clone(&name), self.topics.len());
        self.topics.push(Topic {
            name,
            partitions,
            cleanup,
            first_slot,
        });
    }

    /// Creates missing topics and checks the partition counts of the others. Cleanup policies follow the configuration at every start.
    pub(super) fn provision(
        &mut self,
        store: &DiskStore,
        specs: &[TopicSpec],
        create: bool,
    ) -> Result<(), LogError> {
        for spec in specs {
            if let Some(index) = self.by_name.get(&spec.name) {
                let topic = &mut self.topics[*index];
                if topic.partitions != spec.partitions {
                    return Err(LogError::PartitionCount {
                        topic: spec.name.to_string(),
                        expected: spec.partitions,
                        found: topic.partitions,
                        all: true,
                    });
                }
                topic.cleanup = Some(spec.cleanup);
            } else if create {
                self.add(Arc::clone(&spec.name), spec.partitions, Some(spec.cleanup));
            } else {
                return Err(LogError::UnknownTopic(spec.name.to_string()));
            }
        }
        let rows: Vec<(&str, u32)> = self
            .topics
            .iter()
            .map(|t| (&*t.name, t.partitions))
            .collect();
        let row = serde_json::to_vec(&rows).map_err(|error| LogError::Json {
            what: "the list of topics",
            source: Arc::new(error),
        })?;
        store.apply(&crate::state::Changes::default(), &[(ROW.to_vec(), row)])?;
        store.sync()?;
        Ok(())
    }

    pub(super) fn topic(&self, name: &str) -> Result<&Topic, LogError> {
        let index = self.by_name.get(name);
        index
            .map(|i| &self.topics[*i])
            .ok_or_else(|| LogError::UnknownTopic(name.into()))
    }

    /// The id of a topic, derived from that of the log: topics are never deleted and recreated.
    pub(super) fn topic_id(&self, name: &str) -> Option<TopicId> {
        TopicId::from_bytes(Uuid::new_v5(&self.id, name.as_bytes()).into_bytes())
    }

    pub(super) fn slot(&self, name: &str, partition: u32) -> Result<usize, LogError> {
        let topic = self.topic(name)?;
        if partition >= topic.partitions {
            return Err(LogError::UnknownTopic(format!("{name}/{partition}")));
        }
        Ok(topic.first_slot + partition as usize)
    }

    /// The error for a batch in this slot that cannot be read.
    pub(super) fn damaged(&self, slot: usize, base: u64) -> LocalError {
        let after = self.topics.partition_point(|t| t.first_slot <= slot);
        let topic = after.checked_sub(1).and_then(|at| self.topics.get(at));
        LocalError::DamagedBatch {
            topic: topic.map_or_else(|| "".into(), |t| Arc::clone(&t.name)),
            partition: topic.map_or(0, |t| slot - t.first_slot) as u32,
            base,
        }
    }

    pub(super) fn slots(&self) -> usize {
        self.topics
            .last()
            .map_or(0, |t| t.first_slot + t.partitions as usize)
    }

    pub(super) fn topics(&self) -> &[Topic] {
        &self.topics
    }
}

/// The id of the log, generated when it is opened for the first time.
fn log_id(store: &DiskStore) -> Result<Uuid, LogError> {
    if let Some(id) = store.meta(ID)?.and_then(|id| Uuid::from_slice(&id).ok()) {
        return Ok(id);
    }
    let id = Uuid::now_v7();
    let row = (ID.to_vec(), id.into_bytes().to_vec());
    store.apply(&crate::state::Changes::default(), &[row])?;
    store.sync()?;
    Ok(id)
}

/// The store's key of a batch.
pub(super) fn batch_key(slot: usize, base: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&(slot as u32).to_be_bytes());
    key[4..].copy_from_slice(&base.to_be_bytes());
    key
}

/// The base offset in a batch's key.
pub(super) fn base_of(key: &[u8]) -> u64 {
    let mut base = [0; 8];
    base.copy_from_slice(&key[4..12]);
    u64::from_be_bytes(base)
}
