//! Times as they travel.

use jiff::Timestamp;

use crate::base::clock::Millis;

/// RFC 3339 in UTC; empty for what no calendar holds.
pub fn rfc3339(at: Millis) -> String {
    Timestamp::from_millisecond(at.0)
        .map(|time| time.to_string())
        .unwrap_or_default()
}
