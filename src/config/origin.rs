//! Origins listed in `cors`.

use std::fmt;

/// An origin whose pages may call the port from a browser and whose webhooks it accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// `*`: any origin.
    Any,
    /// A single origin, such as `https://app.example.com`, in lower case.
    One(String),
}

impl AllowedOrigin {
    /// Parses `*`, or a scheme, a host and an optional port.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        let text = text.to_ascii_lowercase();
        let (scheme, authority) = text.split_once("://")?;
        let good =
            |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b'?' | b'#' | b'@' | b'\\' | b',');
        let is_origin = matches!(scheme, "http" | "https")
            && !host(authority).is_empty()
            && authority.bytes().all(good);
        is_origin.then_some(Self::One(text))
    }

    /// Whether it allows the value of a header `Origin` (RFC 6454).
    pub fn allows(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::One(allowed) => allowed.eq_ignore_ascii_case(origin),
        }
    }

    /// Whether it allows the sender that a header `WebHook-Request-Origin` names: a host (`CloudEvents` HTTP Webhooks 1.0.2,
    /// section 4.1), or an origin.
    pub fn allows_sender(&self, sender: &str) -> bool {
        match self {
            Self::Any => true,
            Self::One(allowed) => {
                let authority = allowed.split_once("://").map_or("", |(_, rest)| rest);
                let is = |text: &str| text.eq_ignore_ascii_case(sender);
                is(allowed) || is(authority) || is(host(authority))
            }
        }
    }
}

/// The host of an authority, without the port.
fn host(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::One(origin) => f.write_str(origin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_origins_and_matches_senders() {
        for good in [
            "*",
            "https://a.example",
            "HTTP://localhost:5173",
            "http://[::1]:80",
        ] {
            assert!(AllowedOrigin::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "a.example",
            "ftp://a",
            "https://",
            "https://a/",
            "https://a/b",
            "https://u@a",
            "null",
        ] {
            assert_eq!(AllowedOrigin::parse(bad), None, "{bad}");
        }
        let one = AllowedOrigin::parse("https://App.example:8443").unwrap();
        assert!(one.allows("https://app.example:8443") && !one.allows("https://app.example"));
        for sender in [
            "app.example",
            "APP.example:8443",
            "https://app.example:8443",
        ] {
            assert!(one.allows_sender(sender), "{sender}");
        }
        assert!(!one.allows_sender("example") && !one.allows_sender(""));
        assert!(AllowedOrigin::Any.allows("null") && AllowedOrigin::Any.allows_sender("x"));
    }
}
