//! What `up` watches while it runs: the lag of each processor, for metrics, and whether the log can still be written.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use metrics::{Gauge, gauge};
use parking_lot::Mutex;

use super::output;
use crate::{
    clock::{Clock, SystemClock},
    log::Log,
    stream::lag::{Lag, Progress, lag},
};

/// How often the log is asked whether it can be written.
const LOOK: Duration = Duration::from_millis(200);
/// How often the lag is measured: on Kafka that is a request for each partition.
const MEASURE: Duration = Duration::from_secs(5);

/// A processor whose lag is measured.
struct One {
    name: String,
    progress: Arc<Progress>,
    records: Gauge,
    age: Gauge,
    stalled: Gauge,
}

/// Collects what is to be watched.
pub(super) struct Watch {
    log: Arc<dyn Log>,
    watched: Watched,
}

/// The processors that are watched. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Watched(Arc<Mutex<Processors>>);

#[derive(Default)]
struct Processors {
    fixed: Vec<One>,
    /// These come and go.
    topologies: Vec<One>,
}

impl Watched {
    /// These topologies' processors, in place of those before.
    pub(super) fn replace(&self, processors: &[(String, Arc<Progress>)]) {
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
            .map(|(name, progress)| One::of(name.clone(), progress))
            .collect();
    }

    /// All of them, by name.
    pub(super) fn processors(&self) -> Vec<(String, Arc<Progress>)> {
        let watched = self.0.lock();
        let all = watched.fixed.iter().chain(&watched.topologies);
        all.map(|one| (one.name.clone(), Arc::clone(&one.progress)))
            .collect()
    }

    fn measure(&self, log: &dyn Log) {
        let watched = self.0.lock();
        for one in watched.fixed.iter().chain(&watched.topologies) {
            one.measure(log);
        }
    }
}

impl One {
    fn of(name: String, progress: &Arc<Progress>) -> Self {
        Self {
            progress: Arc::clone(progress),
            records: gauge!("omnilink_lag_records", "processor" => name.clone()),
            age: gauge!("omnilink_lag_age_seconds", "processor" => name.clone()),
            stalled: gauge!("omnilink_stalled", "processor" => name.clone()),
            name,
        }
    }
    fn measure(&self, log: &dyn Log) {
        let stalled = self.progress.trouble().is_some();
        self.stalled.set(f64::from(u8::from(stalled)));
        let now = SystemClock.now();
        let mut all = Lag::default();
        for (topic, partition, next) in self.progress.positions() {
            match lag(log, &topic, partition, next, now) {
                Ok(one) => {
                    all.records += one.records;
                    all.age_ms = all.age_ms.max(one.age_ms);
                }
                // The log is away: the gauges keep what was last known, and readiness says why.
                Err(error) => {
                    tracing::debug!(%error, "the lag cannot be measured");
                    return;
                }
            }
        }
        self.records.set(all.records as f64);
        self.age.set(all.age_ms as f64 / 1000.0);
    }
}

/// Watches until it is dropped.
pub(super) struct Watching {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(super) fn new(log: &Arc<dyn Log>) -> Self {
        Self {
            log: Arc::clone(log),
            watched: Watched::default(),
        }
    }

    pub(super) fn processor(&mut self, name: &'static str, progress: &Arc<Progress>) {
        let one = One::of(name.to_owned(), progress);
        self.watched.0.lock().fixed.push(one);
    }

    /// What is watched; some of it may change after the start.
    pub(super) fn watched(&self) -> Watched {
        self.watched.clone()
    }

    pub(super) fn start(self) -> std::io::Result<Watching> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || self.run(&flag))?;
        Ok(Watching {
            stop,
            thread: Some(thread),
        })
    }

    fn run(&self, stop: &AtomicBool) {
        let mut measured = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK);
            if let Some(why) = self.log.failure() {
                output::note(&format!(
                    "the log cannot be written any more, so the process ends; the next start recovers: {why}"
                ));
                std::process::exit(1);
            }
            if measured.elapsed() >= MEASURE {
                measured = Instant::now();
                self.watched.measure(&*self.log);
            }
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said why.
            let _ = thread.join();
        }
    }
}
