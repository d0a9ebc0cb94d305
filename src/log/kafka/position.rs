//! The positions that a node stores beside its copy of a lane's state, each with the id of its topic.

use std::sync::Arc;

use crate::{
    base::clock::Millis,
    log::{LogError, TopicId, identity::StoredPosition},
    state::{Changes, StateStore},
};

/// The changelog offset up to which this node's copy of the state is current, and when it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Followed {
    pub(super) next: u64,
    pub(super) at: Millis,
    /// The changelog's topic id; `None`: written by a version without topic ids.
    pub(super) id: Option<TopicId>,
}

impl Followed {
    /// `next(8) milliseconds(8)`, then the topic id (16), if known.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut row = self.next.to_be_bytes().to_vec();
        row.extend_from_slice(&self.at.0.to_be_bytes());
        row.extend(self.id.into_iter().flat_map(TopicId::to_bytes));
        row
    }

    fn from_bytes(row: &[u8]) -> Option<Self> {
        let next = u64::from_be_bytes(row.get(..8)?.try_into().ok()?);
        let at = row.get(8..16).and_then(|at| at.try_into().ok());
        let id = row.get(16..32).and_then(|id| id.try_into().ok());
        Some(Self {
            next,
            at: Millis(at.map_or(0, i64::from_be_bytes)),
            id: id.and_then(TopicId::from_bytes),
        })
    }
}

/// The position rows of one processor in the local store.
#[derive(Clone)]
pub(super) struct Positions {
    state: StateStore,
    processor: Arc<str>,
}

impl Positions {
    pub(super) fn new(state: &StateStore, processor: &Arc<str>) -> Self {
        Self {
            state: state.clone(),
            processor: Arc::clone(processor),
        }
    }

    pub(super) fn changelog_row(&self, partition: u32) -> Vec<u8> {
        format!("changelog/{}/{partition}", self.processor).into_bytes()
    }

    pub(super) fn followed(&self, partition: u32) -> Result<Option<Followed>, LogError> {
        let row = self.state.meta(&self.changelog_row(partition))?;
        Ok(row.and_then(|row| Followed::from_bytes(&row)))
    }

    pub(super) fn reflects_row(&self, topic: usize, partition: u32) -> Vec<u8> {
        format!("reflects/{}/{topic}/{partition}", self.processor).into_bytes()
    }

    /// The input position that this node's copy of the state reflects.
    pub(super) fn reflects(
        &self,
        topic: usize,
        partition: u32,
    ) -> Result<Option<StoredPosition>, LogError> {
        let row = self.state.meta(&self.reflects_row(topic, partition))?;
        Ok(row.and_then(|row| StoredPosition::from_bytes(&row)))
    }

    pub(super) fn set_reflects(
        &self,
        (topic, partition): (usize, u32),
        position: StoredPosition,
    ) -> Result<(), LogError> {
        let row = (self.reflects_row(topic, partition), position.to_bytes());
        Ok(self.state.apply(&Changes::default(), &[row])?)
    }
}

/// The changelog key of the record that holds the input position that the state reflects.
pub(super) const POSITION: &[u8] = b"\0position";
/// Bytes of its value, at most.
pub(super) const POSITION_BYTES: usize = 25;

/// The value of a [`POSITION`] record: `topic index(1) next offset(8)`, then the id of the input topic (16), if known.
pub(super) fn to_record(topic: usize, position: StoredPosition) -> Vec<u8> {
    let mut value = vec![topic as u8];
    value.extend(position.to_bytes());
    value
}

pub(super) fn from_record(value: &[u8]) -> Option<(usize, StoredPosition)> {
    let (topic, position) = value.split_first()?;
    matches!(position.len(), 8 | 24).then_some(())?;
    Some((usize::from(*topic), StoredPosition::from_bytes(position)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_and_without_an_id_are_read() {
        for id in [None, TopicId::from_bytes([3; 16])] {
            let position = StoredPosition { next: 300, id };
            let value = to_record(2, position);
            assert!(value.len() <= POSITION_BYTES);
            assert_eq!(from_record(&value), Some((2, position)));
            let followed = Followed {
                next: 7,
                at: Millis(1_800_000_000_000),
                id,
            };
            assert_eq!(Followed::from_bytes(&followed.to_bytes()), Some(followed));
        }
        assert_eq!(from_record(&[1, 2, 3]), None);
        assert_eq!(from_record(&[]), None);
    }
}
