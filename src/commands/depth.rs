//! How many triggers in a row led to an event: a header of records on `ingress` and `events`, so that an endless loop of events
//! and workflows that trigger each other is stopped.
//!
//! Runs started by a request or a time have depth 0, as have events from outside. An event that a run emits has the depth of the
//! run. A run that an event starts has the depth of the event plus one.

use bytes::Bytes;

use crate::log::{Headers, header};

/// The header: a decimal number. Without it the depth is 0.
pub const HEADER: &str = "omnilink.depth";
/// The maximum depth of a run that a trigger starts.
pub const MAX: u32 = 10;

/// The depth of a record.
pub fn of(headers: &Headers) -> u32 {
    let text = header(headers, HEADER).and_then(|value| std::str::from_utf8(value).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The headers of a record of this depth.
pub fn headers(depth: u32) -> Headers {
    if depth == 0 {
        return Headers::new();
    }
    vec![(HEADER.to_owned(), Some(Bytes::from(depth.to_string())))]
}

/// The headers to copy to a record derived from one with these headers: only the depth.
pub fn carried(from: &Headers) -> Headers {
    if from.is_empty() {
        return Headers::new();
    }
    headers(of(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_depth_goes_along_alone() {
        assert_eq!(headers(0), Headers::new());
        let mut record = headers(7);
        record.push(("a".into(), None));
        assert_eq!(of(&record), 7);
        assert_eq!(carried(&record), headers(7));
        let broken = vec![(HEADER.to_owned(), Some(Bytes::from("-1")))];
        assert_eq!(of(&broken), 0);
    }
}
