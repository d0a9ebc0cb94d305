//! Spaces the retries of held calls, so that they come one after another, at the rate at which the tool can take them.

use crate::base::clock::Millis;

/// The maximum time that a call is held beyond the earliest possible time, in milliseconds.
const AHEAD_MAX_MS: f64 = 60_000.0;
/// The maximum interval between calls, in milliseconds.
const SPACING_MAX_MS: f64 = 1_000.0;

/// The time of the next retry, in milliseconds since the Unix epoch.
#[derive(Debug, Default)]
pub(super) struct Pacer(f64);

impl Pacer {
    /// Assigns a time to a call, not before `after`.
    pub(super) fn next(&mut self, after: Millis, spacing_ms: f64) -> Millis {
        let after = after.0 as f64;
        // Limits a backlog that was built up while the tool was slower.
        let at = self.0.clamp(after, after + AHEAD_MAX_MS);
        self.0 = at + spacing_ms.clamp(0.01, SPACING_MAX_MS);
        if at < after + AHEAD_MAX_MS {
            return Millis(at as i64);
        }
        // The backlog is full: spread the rest over the second half, so that they do not come at once.
        Millis((after + AHEAD_MAX_MS * rand::random_range(0.5..1.0)) as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_follow_each_other_and_are_bounded() {
        let mut pacer = Pacer::default();
        let times: Vec<_> = (0..4).map(|_| pacer.next(Millis(1_000), 10.0).0).collect();
        assert_eq!(times, [1_000, 1_010, 1_020, 1_030]);
        // Unused times do not accumulate.
        assert_eq!(pacer.next(Millis(5_000), 10.0).0, 5_000);
        for _ in 0..200 {
            let at = pacer.next(Millis(5_000), 1e9).0;
            assert!((5_000..=65_000).contains(&at), "{at}");
        }
        // A tool that is fast again gets its calls without delay.
        assert_eq!(pacer.next(Millis(90_000), 10.0).0, 90_000);
    }
}
