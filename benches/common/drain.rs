//! The rate at which a full topic is processed, measured for OmniLink and its peers by committed offsets.
#![allow(dead_code, reason = "not every bench uses all of it")]

use std::time::{Duration, Instant};

const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The share of records after which a process counts as warmed up: it has started and joined its group, and a JVM has compiled.
const WARM_UP: f64 = 0.2;
/// The minimum share of records between two commits from which a rate is computed.
const MIN_SHARE: f64 = 0.4;

/// Committed offsets over time.
pub struct Drain {
    start: Instant,
    /// Seconds, and the progress of each stage.
    seen: Vec<(f64, Vec<u64>)>,
}

impl Drain {
    pub fn begin() -> Self {
        Self {
            start: Instant::now(),
            seen: Vec::new(),
        }
    }

    pub fn record(&mut self, done: Vec<u64>) {
        if self.seen.last().is_none_or(|(_, last)| *last != done) {
            self.seen.push((self.start.elapsed().as_secs_f64(), done));
        }
    }

    /// Polls the progress until everything is done.
    pub fn watch(&mut self, deadline: Duration, mut look: impl FnMut() -> (Vec<u64>, bool)) {
        loop {
            let (done, all) = look();
            assert!(
                self.start.elapsed() < deadline,
                "{done:?} after {deadline:?}"
            );
            self.record(done);
            if all {
                return;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    pub fn end(self, records: usize) -> Drained {
        let (last, ends) = self.seen.last().expect("progress was recorded");
        // The slowest stage determines the progress.
        let share = |done: &[u64]| {
            let shares = done.iter().zip(ends);
            shares
                .map(|(done, end)| *done as f64 / (*end).max(1) as f64)
                .fold(1.0, f64::min)
        };
        let seen: Vec<(f64, f64)> = self
            .seen
            .iter()
            .map(|(at, done)| (*at, share(done)))
            .collect();
        let first = seen.iter().find(|(_, share)| *share > 0.0);
        let from = seen.iter().find(|(_, share)| *share >= WARM_UP);
        // The last commit may have waited for its interval.
        let to = seen.iter().rfind(|(_, share)| *share < 1.0);
        // Too few commits give no reliable rate.
        let steady = from.zip(to).and_then(|(from, to)| {
            let done = to.1 - from.1;
            (done >= MIN_SHARE).then(|| done * records as f64 / (to.0 - from.0))
        });
        let whole = records as f64 / last;
        Drained {
            first: first.map_or(*last, |(at, _)| *at),
            whole,
            steady: steady.unwrap_or(whole),
            is_steady: steady.is_some(),
        }
    }
}

/// The result.
#[derive(Clone, Copy)]
pub struct Drained {
    /// Seconds until the first commit: start, joining the group, the first batch.
    pub first: f64,
    /// Records per second, from the start of the process to the last commit.
    pub whole: f64,
    /// Records per second between the first fifth and the last commit but one; `whole` if there are too few commits.
    pub steady: f64,
    is_steady: bool,
}

impl Drained {
    pub fn note(&self) -> String {
        let what = if self.is_steady {
            "from the first fifth on"
        } else {
            "too few commits for a rate without the start"
        };
        format!(
            "{what}; {:.0}/s from the start, the first commit after {:.2} s",
            self.whole, self.first
        )
    }
}
