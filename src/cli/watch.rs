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
    progress: Arc<Progress>,
    records: Gauge,
    age: Gauge,
    stalled: Gauge,
}

/// Collects what is to be watched.
pub(super) struct Watch {
    log: Arc<dyn Log>,
    watched: Vec<One>,
    changing: Watched,
}

/// Processors that come and go while they are watched.
#[derive(Clone, Default)]
pub(super) struct Watched(Arc<Mutex<Vec<(String, One)>>>);

impl Watched {
    /// These, in place of those before.
    pub(super) fn replace(&self, processors: &[(String, Arc<Progress>)]) {
        let mut watched = self.0.lock();
        for (name, gone) in watched.iter() {
            if !processors.iter().any(|(kept, _)| kept == name) {
                gone.records.set(0.0);
                gone.age.set(0.0);
                gone.stalled.set(0.0);
            }
        }
        *watched = processors
            .iter()
            .map(|(name, progress)| (name.clone(), One::of(name.clone(), progress)))
            .collect();
    }
}

impl One {
    fn of(name: String, progress: &Arc<Progress>) -> Self {
        Self {
            progress: Arc::clone(progress),
            records: gauge!("omnilink_lag_records", "processor" => name.clone()),
            age: gauge!("omnilink_lag_age_seconds", "processor" => name.clone()),
            stalled: gauge!("omnilink_stalled", "processor" => name),
        }
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
            watched: Vec::new(),
            changing: Watched::default(),
        }
    }

    pub(super) fn processor(&mut self, name: &'static str, progress: &Arc<Progress>) {
        self.watched.push(One::of(name.to_owned(), progress));
    }

    /// Processors that may change after the start.
    pub(super) fn changing(&self) -> Watched {
        self.changing.clone()
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
                for (_, watched) in self.changing.0.lock().iter() {
                    self.measure(watched);
                }
            }
        }
    }

    fn measure(&self, watched: &One) {
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
