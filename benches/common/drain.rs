//! How fast a full topic is worked off, seen from outside in the same way for everyone: by what is committed.
#![allow(dead_code, reason = "not every bench uses all of it")]

use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(20);
/// By this share a process has started, joined its group, and been compiled where it is in time.
const WARM: f64 = 0.2;
/// So much of all must lie between two commits for a rate.
const ENOUGH: f64 = 0.4;

/// What is committed, over time.
pub struct Drain {
    start: Instant,
    /// Seconds, and how far each part was: one after the other, as records pass them.
    seen: Vec<(f64, Vec<u64>)>,
}

impl Drain {
    pub fn begin() -> Self {
        Self {
            start: Instant::now(),
            seen: Vec::new(),
        }
    }

    pub fn see(&mut self, done: Vec<u64>) {
        if self.seen.last().is_none_or(|(_, last)| *last != done) {
            self.seen.push((self.start.elapsed().as_secs_f64(), done));
        }
    }

    /// Looks until this says that all is done.
    pub fn watch(&mut self, deadline: Duration, mut look: impl FnMut() -> (Vec<u64>, bool)) {
        loop {
            let (done, all) = look();
            assert!(
                self.start.elapsed() < deadline,
                "{done:?} after {deadline:?}"
            );
            self.see(done);
            if all {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }

    pub fn end(self, records: usize) -> Drained {
        let (last, ends) = self.seen.last().expect("it was looked at");
        // The slowest part says how far all of it is.
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
        let from = seen.iter().find(|(_, share)| *share >= WARM);
        // The last commit may have waited for its time with nothing left to do.
        let to = seen.iter().rfind(|(_, share)| *share < 1.0);
        // Few records are few commits, which say nothing of a rate.
        let steady = from.zip(to).and_then(|(from, to)| {
            let done = to.1 - from.1;
            (done >= ENOUGH).then(|| done * records as f64 / (to.0 - from.0))
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

/// What came of it.
#[derive(Clone, Copy)]
pub struct Drained {
    /// Seconds until the first commit: starting, joining the group, the first batch.
    pub first: f64,
    /// Records a second, from the start of the process to the last commit.
    pub whole: f64,
    /// Records a second, between the first fifth and the last commit but one; all of it where those were too few.
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
