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
struct Watched {
    name: &'static str,
    progress: Arc<Progress>,
    records: Gauge,
    age: Gauge,
    stalled: Gauge,
}

/// Collects what is to be watched.
pub(super) struct Watch {
    log: Arc<dyn Log>,
    watched: Vec<Watched>,
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
            watched: Vec::new(),
        }
    }

    pub(super) fn processor(&mut self, name: &'static str, progress: &Arc<Progress>) {
        self.watched.push(Watched {
            name,
            progress: Arc::clone(progress),
            records: gauge!("omnilink_lag_records", "processor" => name),
            age: gauge!("omnilink_lag_age_seconds", "processor" => name),
            stalled: gauge!("omnilink_stalled", "processor" => name),
        });
    }

    /// What is watched, by name.
    pub(super) fn processors(&self) -> Vec<(&'static str, Arc<Progress>)> {
        let named = |watched: &Watched| (watched.name, Arc::clone(&watched.progress));
        self.watched.iter().map(named).collect()
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
                for watched in &self.watched {
                    self.measure(watched);
                }
            }
        }
    }

    fn measure(&self, watched: &Watched) {
        let stalled = watched.progress.trouble().is_some();
        watched.stalled.set(f64::from(u8::from(stalled)));
        let now = SystemClock.now();
        let mut all = Lag::default();
        for (topic, partition, next) in watched.progress.positions() {
            match lag(&*self.log, &topic, partition, next, now) {
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
        watched.records.set(all.records as f64);
        watched.age.set(all.age_ms as f64 / 1000.0);
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
