//! The timestamp of a signature, and the tolerance within which it is accepted.

use super::refusal::Refusal;
use crate::base::clock::Millis;

/// The usual tolerance of senders: five minutes in both directions.
pub(super) const TOLERANCE_S: u32 = 300;

/// Smaller numbers are seconds: in milliseconds they would be before 1973-03-03.
const FIRST_MILLISECONDS: i64 = 100_000_000_000;

/// The unit of a timestamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unit {
    /// Seconds since 1970.
    Seconds,
    /// Milliseconds since 1970; a value below 10^11 counts as seconds.
    Milliseconds,
}

/// 401 unless the text is a number within the tolerance: `invalid_timestamp`, `stale_timestamp`.
pub(super) fn check(text: &str, unit: Unit, now: Millis, tolerance_s: u32) -> Result<(), Refusal> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number: Option<i64> = text.parse().ok().filter(|_| digits);
    let Some(number) = number else {
        return Err(Refusal::unauthenticated(
            "invalid_timestamp",
            "the timestamp is not a whole number of seconds or milliseconds since 1970",
        ));
    };
    let millis = match unit {
        Unit::Milliseconds if number >= FIRST_MILLISECONDS => number,
        Unit::Seconds | Unit::Milliseconds => number.saturating_mul(1000),
    };
    if millis.abs_diff(now.0) > u64::from(tolerance_s) * 1000 {
        return Err(Refusal::unauthenticated(
            "stale_timestamp",
            format!("the timestamp is more than {tolerance_s} s away from the server's clock"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_700_000_000_000);

    fn code(text: &str, unit: Unit) -> String {
        check(text, unit, NOW, TOLERANCE_S)
            .err()
            .map_or_else(String::new, |refusal| refusal.code.into_owned())
    }

    #[test]
    fn the_window_goes_both_ways_and_its_ends_are_in_it() {
        for good in ["1699999700", "1700000300", "1700000000"] {
            assert_eq!(code(good, Unit::Seconds), "");
            assert_eq!(code(good, Unit::Milliseconds), "");
            assert_eq!(code(&format!("{good}000"), Unit::Milliseconds), "");
        }
        for stale in ["1699999699", "1700000301", "0", "9223372036854775807"] {
            assert_eq!(code(stale, Unit::Seconds), "stale_timestamp");
        }
        assert_eq!(code("1699999699999", Unit::Milliseconds), "stale_timestamp");
        assert_eq!(code("1700000300001", Unit::Milliseconds), "stale_timestamp");
        // If the sender uses seconds, a value is never interpreted as milliseconds.
        assert_eq!(code("1700000000000", Unit::Seconds), "stale_timestamp");
        for none in [
            "",
            "x",
            "-1",
            "+1700000000",
            "1700000000.0",
            "17e8",
            "99999999999999999999",
        ] {
            assert_eq!(code(none, Unit::Seconds), "invalid_timestamp", "{none}");
        }
    }
}
