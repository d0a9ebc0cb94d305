//! Finds processors that stall: compares the positions that lanes report with the ends of the log, once a second for all of them.
//!
//! One request asks for the ends of all partitions (on Kafka one to each broker, and a second one for high watermarks). A partition
//! is read only if its position has not moved for ten seconds though its end lies behind it, for on Kafka markers of transactions
//! may be all that is there; what was found is remembered until the end moves.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::progress::{Progress, Suspect};
use crate::log::{Log, LogError};

/// How long the first record of a suspect may take to be read. One that does not come counts as there.
const READ: Duration = Duration::from_secs(2);

/// Compares positions and ends of all these processors, and notes in each what it finds.
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

/// Whether there is a record in each of them.
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
