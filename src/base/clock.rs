//! The clock, passed in as a value: pure code never reads the system time.

use std::{
    fmt::Debug,
    sync::{
        LazyLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser};

/// Milliseconds since 1970-01-01T00:00:00Z, like Kafka's timestamps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Millis(pub i64);

/// As RFC 3339 in UTC, such as `2026-01-31T12:00:00.5Z`.
impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let time = Timestamp::from_millisecond(self.0).map_err(ser::Error::custom)?;
        serializer.collect_str(&time)
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Timestamp::deserialize(deserializer).map(|time| Self(time.as_millisecond()))
    }
}

/// A source of the current time.
pub trait Clock: Send + Sync + Debug {
    /// The wall-clock time. It may be set, also backwards.
    fn now(&self) -> Millis;

    /// The time since some moment in the past, the same for all clocks of a kind in this process. It never goes back: for
    /// pauses, deadlines and ages.
    fn monotonic(&self) -> Duration;
}

/// The system clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

/// When the process first asked for the monotonic time.
static FIRST_ASKED: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Clock for SystemClock {
    fn now(&self) -> Millis {
        // A system clock set before 1970 reads as 1970.
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Millis(since_epoch.as_millis() as i64)
    }

    fn monotonic(&self) -> Duration {
        FIRST_ASKED.elapsed()
    }
}

/// A clock that only moves when told to: for tests and simulation.
#[derive(Debug, Default)]
pub struct ManualClock {
    now: AtomicI64,
    /// Milliseconds that it was moved on.
    monotonic: AtomicU64,
}

impl ManualClock {
    /// A clock set to `at`.
    pub fn at(at: Millis) -> Self {
        Self {
            now: AtomicI64::new(at.0),
            monotonic: AtomicU64::new(0),
        }
    }

    /// Advances both times by `ms` milliseconds. A negative `ms` only sets the wall clock back.
    pub fn advance(&self, ms: i64) {
        self.now.fetch_add(ms, Ordering::SeqCst);
        let moved = u64::try_from(ms).unwrap_or(0);
        self.monotonic.fetch_add(moved, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Millis {
        Millis(self.now.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.monotonic.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_is_set_back_leaves_the_monotonic_time() {
        let clock = ManualClock::at(Millis(1_000));
        clock.advance(500);
        clock.advance(-700);
        assert_eq!(clock.now(), Millis(800));
        assert_eq!(clock.monotonic(), Duration::from_millis(500));
    }
}
