//! Times on the command line.

use crate::{
    base::clock::{Clock, Millis, SystemClock},
    envelope::parse_rfc3339,
};

/// An RFC 3339 time, a date (its beginning in UTC), or how long ago: `90s`, `15m`, `2h`, `7d`.
pub(super) fn parse(text: &str) -> Result<Millis, NotATime> {
    at(text, SystemClock.now()).ok_or_else(|| NotATime(text.to_owned()))
}

/// A text that names no time.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "`{0}` is not a time: give RFC 3339 such as 2026-01-31T12:00:00Z, a date, or how long ago, such as 90s, 15m, 2h, 7d"
)]
pub(super) struct NotATime(String);

fn at(text: &str, now: Millis) -> Option<Millis> {
    if let Some(micros) = parse_rfc3339(text) {
        return Some(Millis(micros.div_euclid(1000)));
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(Millis(time.as_millisecond()));
    }
    if let Ok(date) = text.parse::<jiff::civil::Date>() {
        let start = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        return Some(Millis(start.timestamp().as_millisecond()));
    }
    let unit = text.chars().last()?;
    let ms = match unit {
        's' => 1_000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        _ => return None,
    };
    let count: i64 = text[..text.len() - 1].parse().ok().filter(|n| *n >= 0)?;
    Some(Millis(now.0 - count.checked_mul(ms)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_ways_to_name_a_time() {
        let now = Millis(1_000_000_000_000);
        assert_eq!(at("1970-01-01T00:00:01.5Z", now), Some(Millis(1_500)));
        assert_eq!(
            at("9999-12-31T23:59:59.999999Z", now),
            Some(Millis(253_402_300_799_999))
        );
        assert_eq!(at("1970-01-02", now), Some(Millis(86_400_000)));
        assert_eq!(at("90s", now), Some(Millis(now.0 - 90_000)));
        assert_eq!(at("2h", now), Some(Millis(now.0 - 7_200_000)));
        for bad in [
            "",
            "h",
            "-1h",
            "1w",
            "1.5h",
            "yesterday",
            "99999999999999d",
            "1ä",
        ] {
            assert_eq!(at(bad, now), None, "{bad}");
        }
    }
}
