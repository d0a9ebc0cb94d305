//! Pauses between tries, and between transactions.

use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

/// Pauses that double, with jitter.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The first pause.
    pub first: Duration,
    /// The longest.
    pub most: Duration,
}

impl Backoff {
    /// The pause before try `attempt` (from 0): between half and all of the doubled one.
    pub fn pause(&self, attempt: u32) -> Duration {
        self.pause_by(attempt, &mut rand::rng())
    }

    /// As [`Backoff::pause`], spread by the given source: a simulation gives one with a seed.
    pub fn pause_by(&self, attempt: u32, jitter: &mut impl Rng) -> Duration {
        let whole = self
            .first
            .saturating_mul(1 << attempt.min(16))
            .min(self.most);
        whole.mul_f64(jitter.random_range(0.5..=1.0))
    }
}

/// How often a pause looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);

/// Sleeps, until `stopping` says to end: for threads that run until they are asked to stop.
pub fn sleep(pause: Duration, stopping: impl Fn() -> bool) {
    let until = Instant::now() + pause;
    while !stopping() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(LOOK));
    }
}

/// The longest rest between two transactions of whoever commits in groups and is busy.
const REST: Duration = Duration::from_millis(20);
/// After so many records it is that long.
const RESTING: u32 = 200;
/// Records that are worth a transaction of their own: nobody rests for more.
pub const WORTH: usize = 2_000;

/// How long to rest after a transaction of so many records, so that the next has more of them: a transaction costs a broker or
/// a database about as much as some hundred records. Few records, as an idle system has them, are not kept waiting.
pub fn rest(records: usize) -> Duration {
    REST * RESTING.min(records as u32) / RESTING
}
