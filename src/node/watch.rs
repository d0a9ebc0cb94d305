//! Watches a running node: whether the log can still be written, which processors stall, and their lag.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use metrics::Gauge;
use parking_lot::Mutex;
use serde_json::Map;

use crate::{
    audit::{Audit, Entry, Outcome},
    base::{
        clock::{Clock, Millis, SystemClock},
        threads,
    },
    log::{Log, LogError},
    notify::STALLED,
    stream::{
        lag::{self, Item, Lag},
        progress::{ProcessorStatus, Progress},
        stall,
    },
    telemetry::metrics::{PROCESSOR_LAG_RECORDS, PROCESSOR_LAG_SECONDS, PROCESSOR_STALLED},
};

/// Time between checks whether the log has failed.
const FAILURE_INTERVAL: Duration = Duration::from_millis(200);
/// Time between comparisons of positions with the ends of the log.
const STALL_INTERVAL: Duration = Duration::from_secs(1);
/// Time between measurements of the lag, which read the oldest waiting record of each partition.
const LAG_INTERVAL: Duration = Duration::from_secs(5);
/// How long questions for the lag may take of which one fails: what has not been asked for by then is unknown.
const LAG_PATIENCE: Duration = Duration::from_secs(10);

/// How long a stall of a processor is not recorded again.
const RECORD_INTERVAL: Duration = Duration::from_mins(10);

/// A watched processor and its gauges.
struct Processor {
    name: String,
    progress: Arc<Progress>,
    /// When a stall was recorded last.
    recorded: Mutex<Option<Instant>>,
    records: Gauge,
    age: Gauge,
    stalled: Gauge,
}

/// Collects the processors to watch, then starts watching.
pub(crate) struct Watch {
    log: Arc<dyn Log>,
    audit: Audit,
    watched: Watched,
}

/// The watched processors. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Watched(Arc<Mutex<Processors>>);

#[derive(Default)]
struct Processors {
    fixed: Vec<Arc<Processor>>,
    /// Replaced by a reload.
    topologies: Vec<Arc<Processor>>,
}

impl Watched {
    /// Replaces the processors of topologies.
    pub(crate) fn replace(&self, processors: &[(String, Arc<Progress>)]) {
        let mut watched = self.0.lock();
        for gone in &watched.topologies {
            if !processors.iter().any(|(kept, _)| *kept == gone.name) {
                gone.records.set(0.0);
                gone.age.set(0.0);
                gone.stalled.set(0.0);
            }
        }
        watched.topologies = processors
            .iter()
            .map(|(name, progress)| Arc::new(Processor::new(name.clone(), progress)))
            .collect();
    }

    /// A copy, so that the lock is not held during requests to the log.
    fn all(&self) -> Vec<Arc<Processor>> {
        let watched = self.0.lock();
        let all = watched.fixed.iter().chain(&watched.topologies);
        all.map(Arc::clone).collect()
    }

    /// The lag of each processor in each partition assigned to this node. What cannot be read is an item with the error; fails if nothing
    /// can be read.
    pub(crate) fn lags(&self, log: &dyn Log, now: Millis) -> Result<Vec<Item>, LogError> {
        let began = Instant::now();
        let mut items = Vec::new();
        // Set when the log does not answer: each further question would wait as long.
        let mut away: Option<LogError> = None;
        for one in self.all() {
            let positions = one.positions();
            if positions.is_empty()
                && let Some(why) = one.progress.trouble()
            {
                items.push(Item::unknown(one.name.clone(), why));
            }
            for (topic, positions) in positions {
                let read = match &away {
                    Some(error) => Err(error.clone()),
                    None => lag::items(log, (&one.name, &topic), &positions, now),
                };
                if let Err(error) = &read
                    && away.is_none()
                    // That says something about one topic alone.
                    && !matches!(error, LogError::UnknownTopic(_))
                    && (began.elapsed() >= LAG_PATIENCE || log.health().is_err())
                {
                    away = Some(error.clone());
                }
                items.extend(one.shown(read));
            }
        }
        match away {
            Some(error) if items.iter().all(|item| item.records.is_none()) => Err(error),
            _ => Ok(items),
        }
    }

    fn check(&self, log: &dyn Log, audit: &Audit) {
        let all = self.all();
        let progress: Vec<_> = all.iter().map(|one| Arc::clone(&one.progress)).collect();
        if let Err(error) = stall::check(log, &progress) {
            // Earlier findings stay, and readiness reports that the log is unavailable.
            tracing::debug!(%error, "the ends of the log cannot be read");
        }
        for one in all {
            let status = one.progress.status();
            let stalled = matches!(status, ProcessorStatus::Stalled(_));
            one.stalled.set(f64::from(u8::from(stalled)));
            if let ProcessorStatus::Stalled(why) = status {
                one.record(&why, audit);
            }
        }
    }

    fn measure(&self, log: &dyn Log) {
        for one in self.all() {
            match one.lag(log, SystemClock.now()) {
                Ok(lag) => {
                    one.records.set(lag.records as f64);
                    one.age.set(lag.age_ms as f64 / 1000.0);
                }
                // The gauges keep their last value.
                Err(error) => tracing::debug!(%error, "the lag cannot be measured"),
            }
        }
    }
}

impl Processor {
    fn new(name: String, progress: &Arc<Progress>) -> Self {
        Self {
            progress: Arc::clone(progress),
            recorded: Mutex::default(),
            records: PROCESSOR_LAG_RECORDS.gauge(&[&name]),
            age: PROCESSOR_LAG_SECONDS.gauge(&[&name]),
            stalled: PROCESSOR_STALLED.gauge(&[&name]),
            name,
        }
    }

    /// Records that it is stalled, once in a while.
    fn record(&self, why: &str, audit: &Audit) {
        let mut recorded = self.recorded.lock();
        if recorded.is_some_and(|at| at.elapsed() < RECORD_INTERVAL) {
            return;
        }
        *recorded = Some(Instant::now());
        let detail = Map::from_iter([("detail".to_owned(), why.into())]);
        let entry = Entry::new(None, STALLED, Outcome::Failed, SystemClock.now());
        audit.record(entry.resource("processor", &self.name).detail(detail));
    }

    fn positions(&self) -> BTreeMap<Arc<str>, Vec<(u32, u64)>> {
        let mut by_topic: BTreeMap<Arc<str>, Vec<(u32, u64)>> = BTreeMap::new();
        for (topic, partition, next) in self.progress.positions() {
            by_topic.entry(topic).or_default().push((partition, next));
        }
        by_topic
    }

    /// What was read of its lag in a topic.
    fn shown(&self, read: Result<Vec<Item>, LogError>) -> Vec<Item> {
        let held = match self.progress.status() {
            ProcessorStatus::Held(why) => Some(why),
            _ => None,
        };
        let unknown = |error: LogError| vec![Item::unknown(&self.name, error.to_string())];
        let items = read.unwrap_or_else(unknown).into_iter();
        items
            .map(|item| Item {
                held: held.clone(),
                ..item
            })
            .collect()
    }

    fn lag(&self, log: &dyn Log, now: Millis) -> Result<Lag, LogError> {
        let mut all = Lag::default();
        for (topic, positions) in self.positions() {
            for one in lag::lags(log, &topic, &positions, now)? {
                let one = one?;
                all.records += one.records;
                all.uncommitted += one.uncommitted;
                all.age_ms = all.age_ms.max(one.age_ms);
            }
        }
        Ok(all)
    }
}

/// Watches until it is dropped.
pub(crate) struct Watching {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Stalls are recorded in the audit log, from which people are notified.
    pub(crate) fn new(log: &Arc<dyn Log>, audit: Audit) -> Self {
        Self {
            log: Arc::clone(log),
            audit,
            watched: Watched::default(),
        }
    }

    pub(crate) fn processor(&mut self, name: &str, progress: &Arc<Progress>) {
        let one = Arc::new(Processor::new(name.to_owned(), progress));
        self.watched.0.lock().fixed.push(one);
    }

    /// A handle for changes after the start.
    pub(crate) fn watched(&self) -> Watched {
        self.watched.clone()
    }

    pub(crate) fn start(self) -> std::io::Result<Watching> {
        let mut watching = Watching {
            stop: Arc::default(),
            threads: Vec::new(),
        };
        let (log, stop) = (Arc::clone(&self.log), Arc::clone(&watching.stop));
        let thread = std::thread::Builder::new().name("watch".into());
        watching
            .threads
            .push(thread.spawn(move || watch_failure(&*log, &stop))?);
        let stop = Arc::clone(&watching.stop);
        // A separate thread: its requests to brokers block, which must not delay the exit when the log has failed.
        let thread = std::thread::Builder::new().name("lag".into());
        watching
            .threads
            .push(thread.spawn(move || self.watch_processors(&stop))?);
        Ok(watching)
    }

    fn watch_processors(&self, stop: &AtomicBool) {
        let (mut checked, mut measured) = (Instant::now(), Instant::now());
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(FAILURE_INTERVAL);
            if checked.elapsed() >= STALL_INTERVAL {
                checked = Instant::now();
                self.watched.check(&*self.log, &self.audit);
            }
            if measured.elapsed() >= LAG_INTERVAL {
                measured = Instant::now();
                self.watched.measure(&*self.log);
            }
        }
    }
}

fn watch_failure(log: &dyn Log, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(FAILURE_INTERVAL);
        if let Some(why) = log.failure() {
            crate::telemetry::print_note(&format!(
                "the log can no longer be written, so the process exits; the next start recovers: {why}"
            ));
            std::process::exit(1);
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            threads::join(thread);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Append, Cleanup, Record, TopicSpec, memory::MemoryLog};

    #[test]
    fn what_cannot_be_read_hides_no_other_lag() {
        let log = MemoryLog::new(Arc::new(SystemClock));
        let spec = TopicSpec {
            name: "in".into(),
            partitions: 1,
            cleanup: Cleanup::Keep,
        };
        log.provision(&[spec], true).unwrap();
        let append = || Append {
            topic: "in".into(),
            record: Record::default(),
        };
        let appended = log.append(vec![append(), append()], None);
        appended.blocking_recv().unwrap().unwrap();
        let processors = ["one", "two"].map(|name| (name.to_owned(), Arc::<Progress>::default()));
        let [one, two] = processors.each_ref().map(|(_, progress)| progress.lane());
        one.set_position("gone", 3, 7);
        one.set_position("in", 0, 1);
        two.set_position("in", 0, 0);
        let watched = Watched::default();
        watched.replace(&processors);
        let items = watched.lags(&log, SystemClock.now()).unwrap();
        let [gone, rest @ ..] = &items[..] else {
            panic!("{items:?}");
        };
        assert_eq!((&*gone.processor, gone.partition), ("one", Some(3)));
        assert_eq!(gone.records, None);
        assert!(
            gone.error.as_ref().unwrap().contains("`gone`/3"),
            "{gone:?}"
        );
        let known = rest.iter().map(|item| (&*item.processor, item.records));
        assert_eq!(
            known.collect::<Vec<_>>(),
            [("one", Some(1)), ("two", Some(2))]
        );
    }
}
