//! The response headers about a limit.
//!
//! `RateLimit-Policy` and `RateLimit` follow draft-ietf-httpapi-ratelimit-headers-11: lists of strings with parameters (RFC 9651). `t` is
//! the time within which no more than `r` items may be used. While some remain, it is the time until all are free again, so that `r` in
//! `t` is no faster than the policy itself; when none remain, it is the time until one may come, which is also `Retry-After`.

use super::ask::Standing;

/// Names in lower case, with values: the headers of the draft, and the older `X-RateLimit-*`, whose reset is in remaining seconds.
pub fn headers(standing: &Standing) -> [(&'static str, String); 5] {
    let Standing {
        limit, remaining, ..
    } = standing;
    let [policy, rate] = rate_headers(standing);
    [
        policy,
        rate,
        ("x-ratelimit-limit", limit.to_string()),
        ("x-ratelimit-remaining", remaining.to_string()),
        ("x-ratelimit-reset", reset(standing).to_string()),
    ]
}

/// Only the headers of the draft.
pub fn rate_headers(standing: &Standing) -> [(&'static str, String); 2] {
    let Standing {
        limit, remaining, ..
    } = standing;
    let name = string(&standing.policy);
    let reset = reset(standing);
    let measure = standing.window_s.map_or_else(
        || r#";qu="concurrent-requests""#.to_owned(),
        |window| format!(";w={window}"),
    );
    [
        ("ratelimit-policy", format!("{name};q={limit}{measure}")),
        ("ratelimit", format!("{name};r={remaining};t={reset}")),
    ]
}

/// The value of `Retry-After` in a refusal: seconds, at least 1.
pub fn retry_after(standing: &Standing) -> u64 {
    seconds(standing.wait_ms).max(1)
}

/// The draft requires that it is never later than `Retry-After`.
fn reset(standing: &Standing) -> u64 {
    if standing.remaining == 0 {
        retry_after(standing)
    } else {
        seconds(standing.full_ms)
    }
}

fn seconds(ms: u64) -> u64 {
    ms.div_ceil(1000)
}

/// Encodes a string of structured fields; characters that it cannot contain are left out.
fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars().filter(|c| matches!(c, ' '..='~')) {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(remaining: u32, wait_ms: u64, window_s: Option<u32>) -> Standing {
        Standing {
            policy: r#"a "b"\ü"#.into(),
            limit: 600,
            window_s,
            remaining,
            wait_ms,
            full_ms: 59_001,
        }
    }

    #[test]
    fn they_say_how_the_limit_stands() {
        let values = |s: &Standing| headers(s).map(|(_, value)| value);
        let some = standing(12, 0, Some(60));
        let policy = r#""a \"b\"\\";q=600;w=60"#;
        let limit = r#""a \"b\"\\";r=12;t=60"#;
        assert_eq!(values(&some), [policy, limit, "600", "12", "60"]);
        let none = standing(0, 3_200, Some(60));
        let limit = r#""a \"b\"\\";r=0;t=4"#;
        assert_eq!(values(&none), [policy, limit, "600", "0", "4"]);
        assert_eq!(retry_after(&none), 4);
        let busy = standing(0, 0, None);
        let policy = r#""a \"b\"\\";q=600;qu="concurrent-requests""#;
        let limit = r#""a \"b\"\\";r=0;t=1"#;
        assert_eq!(values(&busy), [policy, limit, "600", "0", "1"]);
    }
}
