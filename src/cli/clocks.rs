//! Clocks that `doctor` compares: append times and the expiry of keys depend on them.

use std::time::{Duration, Instant};

use super::findings::{Findings, Status};
use crate::{
    audit::Entry,
    base::clock::{Clock, Millis, SystemClock},
    log::{Log, LogError, topics::Names},
};

const CHECK: &str = "clock";
/// Above this difference doctor warns.
const MAX_SKEW: Duration = Duration::from_secs(2);
/// The last entries of a partition of the audit log that are looked at.
const ENTRIES: u64 = 100;
/// Older entries tell nothing of the clocks as they are now.
const AGE_MAX: Duration = Duration::from_hours(24);
/// Time limit for reading them.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Reports the difference to a clock that tells its time, in milliseconds since the Unix epoch.
pub(super) fn compare(whose: &str, theirs: i64, found: &mut Findings) {
    let skew_ms = (SystemClock.now().0 - theirs).unsigned_abs();
    let status = if u128::from(skew_ms) > MAX_SKEW.as_millis() {
        Status::Warning
    } else {
        Status::Ok
    };
    found.add(CHECK, status, format!("{skew_ms} ms from that of {whose}"));
}

/// Reports brokers whose clock is wrong. They do not tell their time, but the times of appends are theirs.
pub(super) fn brokers(log: &dyn Log, names: &Names, found: &mut Findings) {
    let now = SystemClock.now();
    // A topic that cannot be read is reported by the check of topics.
    let mut topics = [&names.ingress, &names.events, &names.audit].into_iter();
    if let Some(topic) = topics.find(|topic| has_future(log, topic, now).unwrap_or(false)) {
        let detail = format!(
            "records of {topic} were appended more than {} s in the future: the clock of a broker is ahead of this machine's",
            MAX_SKEW.as_secs()
        );
        found.add(CHECK, Status::Warning, detail);
    }
    if let Ok(Some(by)) = behind(log, &names.audit, now) {
        let detail = format!(
            "entries of {} were appended up to {} s before they were made: the clock of a broker is behind that of a node",
            names.audit,
            by.as_secs()
        );
        found.add(CHECK, Status::Warning, detail);
    }
}

/// Whether records were appended in the future.
fn has_future(log: &dyn Log, topic: &str, now: Millis) -> Result<bool, LogError> {
    let soon = Millis(now.0 + MAX_SKEW.as_millis() as i64);
    for partition in 0..log.partitions(topic)? {
        // In this order: what is appended in between is at or after the end.
        let end = log.offset_range(topic, partition)?.end;
        if log.offset_at(topic, partition, soon)? < end {
            return Ok(true);
        }
    }
    Ok(false)
}

/// By how much the append times of entries of the audit log come before the times at which nodes made them, if that is too much.
fn behind(log: &dyn Log, audit: &str, now: Millis) -> Result<Option<Duration>, LogError> {
    let partitions = log.partitions(audit)?;
    let mut reader = log.reader(audit)?;
    for partition in 0..partitions {
        let range = log.offset_range(audit, partition)?;
        let from = range.end.saturating_sub(ENTRIES).max(range.start);
        reader.assign(partition, from)?;
    }
    let since = now.0 - AGE_MAX.as_millis() as i64;
    let (mut records, mut most) = (Vec::new(), 0_i64);
    let began = Instant::now();
    while began.elapsed() < TIMEOUT {
        records.clear();
        reader.poll(Duration::from_millis(100), &mut records)?;
        for fetched in &records {
            let entry = fetched.record.value.as_deref().and_then(Entry::decode);
            let Some(made) = entry.map(|entry| entry.at / 1_000) else {
                continue;
            };
            if made >= since {
                most = most.max(made - fetched.timestamp.0);
            }
        }
        if (0..partitions).all(|partition| reader.at_end(partition)) {
            break;
        }
    }
    let by = Duration::from_millis(most.unsigned_abs());
    Ok((by > MAX_SKEW).then_some(by))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        audit::{KEY_USED, Outcome},
        base::clock::ManualClock,
        cli::findings::Finding,
        log::{Append, memory::MemoryLog},
    };

    /// What is found where the clock of the broker differs by so much.
    fn found(broker_ms: i64) -> Vec<Finding> {
        let now = SystemClock.now();
        let clock = Arc::new(ManualClock::at(Millis(now.0 + broker_ms)));
        let log = MemoryLog::new(clock);
        let names = Names::new("t.");
        log.provision(&names.specs(2), true).unwrap();
        let append = Append {
            topic: Arc::clone(&names.audit),
            record: Entry::new(None, KEY_USED, Outcome::Ok, now)
                .encode()
                .unwrap(),
        };
        log.append(vec![append], None)
            .blocking_recv()
            .unwrap()
            .unwrap();
        let mut found = Findings::default();
        brokers(&log, &names, &mut found);
        found.0
    }

    #[test]
    fn a_broker_whose_clock_is_ahead_or_behind_is_seen() {
        for (broker_ms, expected) in [
            (-60_000, Some("up to 60 s before they were made")),
            (-1_000, None),
            (0, None),
            (1_000, None),
            (60_000, Some("more than 2 s in the future")),
        ] {
            let found = found(broker_ms);
            let details: Vec<_> = found.iter().map(|one| &*one.detail).collect();
            match expected {
                None => assert!(details.is_empty(), "{broker_ms}: {details:?}"),
                Some(text) => {
                    assert!(
                        details.len() == 1 && details[0].contains(text),
                        "{details:?}"
                    );
                    assert!(found[0].check == CHECK && found[0].status == Status::Warning);
                }
            }
        }
    }
}
