//! The format of times.

use jiff::Timestamp;

use crate::base::clock::Millis;

/// Formats a time as RFC 3339 in UTC; empty if no calendar date exists for it.
pub fn rfc3339(at: Millis) -> String {
    Timestamp::from_millisecond(at.0)
        .map(|time| time.to_string())
        .unwrap_or_default()
}
