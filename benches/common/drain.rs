//! How fast a full topic is worked off, seen from outside in the same way for everyone: by what is committed.
#![allow(dead_code, reason = "not every bench uses all of it")]

use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(20);
/// By this share a process has started, joined its group, and been compiled where it is in time.
const WARM: f64 = 0.2;

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
        let first = self.seen.iter().find(|(_, done)| share(done) > 0.0);
        let warm = self.seen.iter().find(|(_, done)| share(done) >= WARM);
        let first = first.map_or(*last, |(at, _)| *at);
        let (from, share) = warm.map_or((0.0, 0.0), |(at, done)| (*at, share(done)));
        // Few records may have been one commit.
        let steady = (share < 0.9).then(|| (1.0 - share) * records as f64 / (last - from));
        let whole = records as f64 / last;
        Drained {
            first,
            whole,
            steady: steady.unwrap_or(whole),
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
    /// Records a second, of the last four fifths.
    pub steady: f64,
}

impl Drained {
    pub fn note(&self) -> String {
        format!(
            "of the last four fifths; {:.0}/s from the start, the first commit after {:.2} s",
            self.whole, self.first
        )
    }
}
