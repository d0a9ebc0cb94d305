//! The header `Retry-After` (RFC 9110, section 10.2.3).

use jiff::fmt::rfc2822::DateTimeParser;

use crate::base::clock::Millis;

/// The maximum pause, in milliseconds: an hour.
const MAX_MS: u64 = 3_600_000;

/// The pause in milliseconds. The value is a number of seconds or a date; `None` if it is neither.
pub fn ms(value: &str, now: Millis) -> Option<u64> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // A number too large to parse is more than an hour.
        let seconds = value.parse::<u64>().unwrap_or(u64::MAX);
        return Some(seconds.saturating_mul(1000).min(MAX_MS));
    }
    let at = DateTimeParser::new().parse_timestamp(value).ok()?;
    let wait = at.as_millisecond().saturating_sub(now.0);
    Some(u64::try_from(wait).unwrap_or(0).min(MAX_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_read_and_bounded() {
        let now = Millis(784_111_777_000);
        for (value, expected) in [
            ("0", Some(0)),
            (" 120 ", Some(120_000)),
            ("86400", Some(MAX_MS)),
            ("99999999999999999999999", Some(MAX_MS)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60_000)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Fri, 31 Dec 1999 23:59:59 GMT", Some(MAX_MS)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(ms(value, now), expected, "{value}");
        }
    }
}
