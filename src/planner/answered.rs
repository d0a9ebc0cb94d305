//! Whether requests were answered before a crash: the partitions of `commands` are read from the time of the oldest request on. Requests
//! that come back together share what is read, or else each of them would read all answers to the others.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::Deserialize;

use crate::{
    base::clock::Millis,
    commands::{Command, plan::KIND},
    log::{Log, LogError, partition_for},
    runs::PlanRequest,
};

/// The clocks of nodes and brokers may differ by this much, in milliseconds.
const SKEW_MS: i64 = 60_000;
/// The time limit: without a result the goal is planned again, and the run takes the first answer.
const LIMIT: Duration = Duration::from_secs(10);
const POLL_WAIT: Duration = Duration::from_millis(100);

/// The answers on `commands`. What is read is kept as long as somebody asks.
pub(super) struct Answers {
    log: Arc<dyn Log>,
    commands: Arc<str>,
    partitions: Mutex<HashMap<u32, Weak<Mutex<Scan>>>>,
}

/// The answers in a part of a partition.
#[derive(Default)]
struct Scan {
    /// The offsets that were read: from this one on, up to the next.
    from: u64,
    next: u64,
    /// The runs and requests that have an answer there.
    answered: HashSet<(String, u64)>,
}

/// The part of an answer that says what it is for.
#[derive(Deserialize)]
struct Answered {
    request: u64,
}

impl Answers {
    pub(super) fn new(log: &Arc<dyn Log>, commands: &Arc<str>) -> Self {
        Self {
            log: Arc::clone(log),
            commands: Arc::clone(commands),
            partitions: Mutex::default(),
        }
    }

    /// Whether there is an answer. Blocks.
    pub(super) fn have(&self, request: &PlanRequest) -> Result<bool, LogError> {
        let partitions = self.log.partitions(&self.commands)?;
        let partition = partition_for(request.run_id.as_bytes(), partitions);
        let from = Millis(request.at.saturating_sub(SKEW_MS));
        let from = self.log.offset_at(&self.commands, partition, from)?;
        let end = self.log.offset_range(&self.commands, partition)?.end;
        let scan = self.scan(partition);
        let mut scan = scan.lock();
        if scan.from == scan.next {
            (scan.from, scan.next) = (from, from);
        }
        if from < scan.from {
            let before = scan.from;
            // A poll may return more than was wanted.
            if self.read(partition, (from, before), &mut scan.answered)? >= before {
                scan.from = from;
            }
        }
        if scan.next < end {
            let next = scan.next;
            scan.next = self.read(partition, (next, end), &mut scan.answered)?;
        }
        let request_number = u64::try_from(request.seq).unwrap_or_default();
        Ok(scan
            .answered
            .contains(&(request.run_id.clone(), request_number)))
    }

    fn scan(&self, partition: u32) -> Arc<Mutex<Scan>> {
        let mut partitions = self.partitions.lock();
        partitions.retain(|_, scan| scan.strong_count() > 0);
        if let Some(scan) = partitions.get(&partition).and_then(Weak::upgrade) {
            return scan;
        }
        let scan = Arc::default();
        partitions.insert(partition, Arc::downgrade(&scan));
        scan
    }

    /// Adds the answers between two offsets. Returns the next offset: less than the second one after [`LIMIT`].
    fn read(
        &self,
        partition: u32,
        (from, end): (u64, u64),
        answered: &mut HashSet<(String, u64)>,
    ) -> Result<u64, LogError> {
        let mut reader = self.log.reader(&self.commands)?;
        reader.assign(partition, from)?;
        let (began, mut next) = (Instant::now(), from);
        let mut records = Vec::new();
        while next < end && began.elapsed() < LIMIT {
            reader.poll(POLL_WAIT, &mut records)?;
            for fetched in records.drain(..) {
                next = fetched.offset + 1;
                answered.extend(fetched.record.value.as_deref().and_then(answer));
            }
            // Offsets at the end may have no records.
            if next < end && reader.at_end(partition) {
                next = end;
            }
        }
        Ok(next)
    }
}

/// The run and the request that a record of `commands` answers.
fn answer(value: &[u8]) -> Option<(String, u64)> {
    let command = Command::decode(value).filter(|command| command.kind == KIND)?;
    let answered: Answered = serde_json::from_str(&command.body).ok()?;
    Some((command.run_id, answered.request))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::clock::ManualClock,
        log::{Append, memory::MemoryLog, topics::Names},
    };

    const MINUTE_MS: i64 = 60_000;

    fn request(run: &str, seq: i64, minute: i64) -> PlanRequest {
        PlanRequest {
            tenant: "acme".into(),
            run_id: run.into(),
            seq,
            at: minute * MINUTE_MS,
            goal: "Go".into(),
            inputs: "{}".into(),
        }
    }

    fn command(run: &str, kind: &str, seq: i64) -> Command {
        Command {
            tenant: "acme".into(),
            run_id: run.into(),
            kind: kind.into(),
            at: 0,
            principal: "planner".into(),
            on_behalf_of: None,
            traceparent: None,
            tracestate: None,
            body: serde_json::json!({ "version": 1, "request": seq }).to_string(),
        }
    }

    #[test]
    fn requests_share_what_is_read_of_a_partition() {
        let clock = Arc::new(ManualClock::at(Millis(0)));
        let log = Arc::new(MemoryLog::new(Arc::<ManualClock>::clone(&clock)));
        let names = Names::new("t.");
        log.provision(&names.specs(1), true).unwrap();
        let append = |command: &Command| {
            clock.advance(10 * MINUTE_MS);
            let append = Append {
                topic: Arc::clone(&names.commands),
                record: command.encode().unwrap(),
            };
            let appended = log.append(vec![append], None).blocking_recv();
            appended.unwrap().unwrap();
        };
        append(&command("a", KIND, 2));
        append(&command("b", "start", 2));
        append(&command("c", KIND, 2));
        let log: Arc<dyn Log> = log.clone();
        let answers = Answers::new(&log, &names.commands);
        let has = |run: &str, seq, minute| answers.have(&request(run, seq, minute)).unwrap();
        let kept = answers.scan(0);
        let read = || {
            let scan = kept.lock();
            (scan.from, scan.next)
        };
        // Only what was appended from a minute before the request on.
        assert!(has("c", 2, 30));
        assert_eq!(read(), (2, 3));
        assert!(!has("c", 4, 30) && !has("b", 2, 20));
        assert_eq!(read(), (1, 3));
        assert!(has("a", 2, 10) && !has("d", 2, 30));
        assert_eq!(read(), (0, 3));
        append(&command("d", KIND, 2));
        assert!(has("d", 2, 30));
        assert_eq!(read(), (0, 4));
        // What nobody needs any more is forgotten.
        drop(kept);
        assert!(has("d", 2, 40));
        assert_eq!(answers.scan(0).lock().next, 0);
    }
}
