//! Addresses of keyed state, and batches of changes to it.

use std::sync::Arc;

use bytes::Bytes;

/// The state of one processor for one input partition.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Space {
    /// The processor, such as `admission`.
    pub processor: Arc<str>,
    /// The input partition.
    pub partition: u32,
}

impl Space {
    /// The space of a processor and partition.
    pub fn new(processor: &str, partition: u32) -> Self {
        Self {
            processor: processor.into(),
            partition,
        }
    }

    /// The stored key: `processor 0x00 partition(2, big-endian) key`. A processor's name has no 0x00.
    pub(super) fn row(&self, key: &[u8]) -> Vec<u8> {
        let mut row = Vec::with_capacity(self.prefix_len() + key.len());
        row.extend_from_slice(self.processor.as_bytes());
        row.push(0);
        row.extend_from_slice(&(self.partition as u16).to_be_bytes());
        row.extend_from_slice(key);
        row
    }

    /// Bytes of a stored key before the key itself.
    pub(super) fn prefix_len(&self) -> usize {
        self.processor.len() + 3
    }
}

/// One change of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The processor and partition whose row changes.
    pub space: Space,
    /// The key within the space.
    pub key: Bytes,
    /// The new value; `None` deletes.
    pub value: Option<Bytes>,
    /// Whether the changelog gets it. Upkeep that only rearranges rows on this node does not.
    pub logged: bool,
}

/// Changes in order, applied atomically.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes(pub Vec<Change>);

impl Changes {
    /// Sets a key.
    pub fn put(&mut self, space: &Space, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.push(space, key.into(), Some(value.into()), true);
    }

    /// Deletes a key.
    pub fn delete(&mut self, space: &Space, key: impl Into<Bytes>) {
        self.push(space, key.into(), None, true);
    }

    /// Sets (`Some`) or deletes a key on this node only.
    pub fn upkeep(&mut self, space: &Space, key: impl Into<Bytes>, value: Option<Bytes>) {
        self.push(space, key.into(), value, false);
    }

    /// The bytes of all keys and values.
    pub(crate) fn bytes(&self) -> usize {
        let bytes = |change: &Change| {
            let value = change.value.as_ref().map_or(0, Bytes::len);
            change.space.prefix_len() + change.key.len() + value
        };
        self.0.iter().map(bytes).sum()
    }

    fn push(&mut self, space: &Space, key: Bytes, value: Option<Bytes>, logged: bool) {
        self.0.push(Change {
            space: space.clone(),
            key,
            value,
            logged,
        });
    }
}
