//! Finds stalled processors: once a second it compares the positions that lanes report with the end offsets of the log.
//!
//! One request fetches the end offsets of all partitions (on Kafka one to each broker, and a second one for high watermarks). A partition
//! is read only if its position has not moved for ten seconds although its end offset is higher, because on Kafka there may be only
//! transaction markers left; the result is remembered until the end offset changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::progress::{Progress, Suspect};
use crate::log::{Log, LogError};

/// Time limit for reading the first record of a suspect. If it expires, a record is assumed to exist.
const READ: Duration = Duration::from_secs(2);

/// Compares positions and end offsets of these processors, and records the result in each of them.
pub fn check(log: &dyn Log, processors: &[Arc<Progress>]) -> Result<(), LogError> {
    let positions = processors.iter().flat_map(|one| one.positions());
    let at: BTreeSet<(Arc<str>, u32)> = positions.map(|(t, p, _)| (t, p)).collect();
    let at: Vec<(Arc<str>, u32)> = at.into_iter().collect();
    if at.is_empty() {
        return Ok(());
    }
    let ends = super::lag::ends(log, &at)?;
    let find = |topic: &str, partition: u32| {
        let at = at.binary_search_by(|(t, p)| (&**t, *p).cmp(&(topic, partition)));
        ends[at.ok()?]
    };
    for processor in processors {
        let suspects = processor.observe(find);
        if suspects.is_empty() {
            continue;
        }
        for (suspect, has_records) in read(log, suspects)? {
            processor.confirm(&suspect, has_records);
        }
    }
    Ok(())
}

/// Reads whether each suspect has a record.
fn read(log: &dyn Log, suspects: Vec<Suspect>) -> Result<Vec<(Suspect, bool)>, LogError> {
    let mut by_topic: BTreeMap<Arc<str>, Vec<Suspect>> = BTreeMap::new();
    for suspect in suspects {
        let topic = Arc::clone(&suspect.topic);
        by_topic.entry(topic).or_default().push(suspect);
    }
    let mut all = Vec::new();
    for (topic, suspects) in by_topic {
        let at: Vec<_> = suspects.iter().map(|s| (s.partition, s.next)).collect();
        let first = super::lag::first_records(log, &topic, &at, READ)?;
        all.extend(suspects.into_iter().zip(first).map(|(suspect, first)| {
            let has_records = !matches!(first, super::lag::First::None);
            (suspect, has_records)
        }));
    }
    Ok(all)
}
