//! Pauses between attempts, and between group commits.

use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

/// Exponential backoff with jitter: the pause doubles with each attempt, up to a maximum.
///
/// ```
/// # use std::time::Duration;
/// # use omnilink::base::backoff::Backoff;
/// let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5) };
/// let fourth = backoff.pause(3);
/// assert!(fourth >= Duration::from_millis(400) && fourth <= Duration::from_millis(800));
/// assert!(backoff.pause(50) <= backoff.max);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The pause after the first failure, before jitter.
    pub first: Duration,
    /// The longest pause.
    pub max: Duration,
}

impl Backoff {
    /// The pause before retry `attempt` (from 0): a random duration between 50 % and 100 % of `first * 2^attempt`, capped at `max`.
    pub fn pause(&self, attempt: u32) -> Duration {
        self.pause_by(attempt, &mut rand::rng())
    }

    /// Like [`Backoff::pause`], with the given source of jitter: a simulation passes a seeded one.
    pub fn pause_by(&self, attempt: u32, jitter: &mut impl Rng) -> Duration {
        let full = self
            .first
            .saturating_mul(1 << attempt.min(16))
            .min(self.max);
        full.mul_f64(jitter.random_range(0.5..=1.0))
    }
}

/// The interval at which a sleeping thread checks whether to stop.
const STOP_CHECK: Duration = Duration::from_millis(20);

/// Sleeps for `pause`, or until `stopping` returns true: for threads that run until they are asked to stop.
pub fn sleep(pause: Duration, stopping: impl Fn() -> bool) {
    let until = Instant::now() + pause;
    while !stopping() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(STOP_CHECK));
    }
}

/// The longest pause between two group commits of a busy processor.
const MAX_COMMIT_PAUSE: Duration = Duration::from_millis(20);
/// A transaction of at least this many records is followed by [`MAX_COMMIT_PAUSE`].
const BUSY_RECORDS: u32 = 200;
/// A transaction with this many records commits at once: waiting for more would gain nothing.
pub const FULL_TRANSACTION: usize = 2_000;

/// How long to wait after a transaction of `records` records before the next one commits, so that the next holds more records: a
/// transaction costs a broker or a database about as much as a few hundred records. The pause is proportional to `records`, so an
/// idle system commits its few records without delay.
pub fn commit_pause(records: usize) -> Duration {
    MAX_COMMIT_PAUSE * BUSY_RECORDS.min(records as u32) / BUSY_RECORDS
}
