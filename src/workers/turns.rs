//! When calls that are held back come back: one after another, at the rate at which they can be taken.

use crate::base::clock::Millis;

/// The longest time that a call is held back beyond the time from which it could go, in milliseconds.
const AHEAD_MAX_MS: f64 = 60_000.0;
/// The largest step from one call to the next, in milliseconds.
const SPACING_MAX_MS: f64 = 1_000.0;

/// The next free turn, in milliseconds since the Unix epoch.
#[derive(Debug, Default)]
pub(super) struct Turns(f64);

impl Turns {
    /// The turn of one call, not before `after`.
    pub(super) fn next(&mut self, after: Millis, spacing_ms: f64) -> Millis {
        let after = after.0 as f64;
        // A time that was given while the tool was slower binds nobody.
        let at = self.0.clamp(after, after + AHEAD_MAX_MS);
        self.0 = at + spacing_ms.clamp(0.01, SPACING_MAX_MS);
        if at < after + AHEAD_MAX_MS {
            return Millis(at as i64);
        }
        // All turns are taken: somewhere in the last half, so that not all come at once.
        Millis((after + AHEAD_MAX_MS * rand::random_range(0.5..1.0)) as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_follow_each_other_and_are_bounded() {
        let mut turns = Turns::default();
        let times: Vec<_> = (0..4).map(|_| turns.next(Millis(1_000), 10.0).0).collect();
        assert_eq!(times, [1_000, 1_010, 1_020, 1_030]);
        // Turns that nobody took are gone.
        assert_eq!(turns.next(Millis(5_000), 10.0).0, 5_000);
        for _ in 0..200 {
            let at = turns.next(Millis(5_000), 1e9).0;
            assert!((5_000..=65_000).contains(&at), "{at}");
        }
        // And a quick tool gets its calls soon again.
        assert_eq!(turns.next(Millis(90_000), 10.0).0, 90_000);
    }
}
