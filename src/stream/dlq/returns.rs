//! Which dead letters were redriven, and how often: records of the topic `state.dlq`.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::name::Name;
use crate::log::{Log, LogError, read_ranges, topics::Names};

/// How often each dead letter was redriven, by name.
#[derive(Debug, Default)]
pub struct Returns(HashMap<Name, u32>);

/// A record of `state.dlq`: redriven letters of one partition, as ranges of offsets.
#[derive(Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) partition: u32,
    pub(super) ranges: Vec<(u64, u64)>,
}

impl Returns {
    /// Reads all records about letters that still exist.
    pub fn load(log: &dyn Log, names: &Names) -> Result<Self, LogError> {
        let mut starts = Vec::new();
        for partition in 0..log.partitions(&names.dlq)? {
            starts.push(log.offset_range(&names.dlq, partition)?.start);
        }
        let marks = log.offset_range(&names.redriven, 0)?;
        let mut times = HashMap::new();
        let mut reader = log.reader(&names.redriven)?;
        read_ranges(&mut *reader, &[(0, marks.start, marks.end)], |record| {
            let value = record.record.value.unwrap_or_default();
            let Ok(Note { partition, ranges }) = serde_json::from_slice(&value) else {
                return Ok(());
            };
            let start = starts.get(partition as usize).copied().unwrap_or(u64::MAX);
            for (from, to) in ranges {
                for offset in from.max(start)..to {
                    *times.entry(Name { partition, offset }).or_default() += 1;
                }
            }
            Ok(())
        })?;
        Ok(Self(times))
    }

    /// How often a letter was redriven.
    pub fn times(&self, name: Name) -> u32 {
        self.0.get(&name).copied().unwrap_or(0)
    }
}
