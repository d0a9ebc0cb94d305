//! Reads ranges of offsets completely.

use std::time::{Duration, Instant};

use super::{Fetched, LogError, Reader, Unavailable};

/// The longest wait for the next record.
const DEADLINE: Duration = Duration::from_secs(10);

/// Reads the ranges (partition, first offset, one past the last) of different partitions, and passes each record to `take`, in order
/// within a partition. A range may include offsets without records.
pub fn read_ranges(
    reader: &mut dyn Reader,
    ranges: &[(u32, u64, u64)],
    mut take: impl FnMut(Fetched) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let mut open: Vec<(u32, u64)> = Vec::with_capacity(ranges.len());
    for (partition, from, to) in ranges.iter().filter(|(_, from, to)| from < to) {
        reader.assign_range(*partition, *from, *to)?;
        open.push((*partition, *to));
    }
    let mut records = Vec::new();
    let mut last_record = Instant::now();
    while !open.is_empty() {
        reader.poll(Duration::from_millis(100), &mut records)?;
        if !records.is_empty() {
            last_record = Instant::now();
        } else if last_record.elapsed() > DEADLINE {
            let partitions: Vec<String> = open.iter().map(|(p, _)| p.to_string()).collect();
            return Err(LogError::Unavailable(Unavailable::NoRecord {
                of: format!("partition {}", partitions.join(", ")),
                within: DEADLINE,
            }));
        }
        for record in records.drain(..) {
            let Some(at) = open.iter().position(|(p, _)| *p == record.partition) else {
                continue;
            };
            let to = open[at].1;
            if record.offset + 1 >= to {
                open.swap_remove(at);
            }
            if record.offset < to {
                take(record)?;
            }
        }
        open.retain(|(partition, _)| !reader.at_end(*partition));
    }
    Ok(())
}
