//! Authentication by API key or token, and a limit on wrong ones.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE},
};
use parking_lot::Mutex;

use super::{
    Shared,
    problem::{Limit, Problem},
};
use crate::{
    api::problem::{INVALID_KEY, RATE_LIMIT_EXCEEDED, UNAUTHORIZED},
    base::clock::Millis,
    config::{AUTHENTICATION, Network},
    controls::{Key, TEXT_MAX, text_is_good},
    jwt::Refusal,
};

/// Names the user on whose behalf a request is made.
const ON_BEHALF_OF: &str = "omnilink-on-behalf-of";
/// The number of wrong keys that an address may send in a window.
const LIMIT: usize = 30;
/// The window, in seconds.
const WINDOW_S: u32 = 60;
/// The number of addresses remembered at once; about 2 MiB.
const ADDRESSES: usize = 16_384;

/// Returns the key that a request is made with. A valid key or token passes whatever its address did before.
pub(super) async fn authenticate(
    shared: &Shared,
    headers: &HeaderMap,
    peer: IpAddr,
) -> Result<Arc<Key>, Problem> {
    if !shared.controls.readable() {
        return Err(Problem::log_unavailable());
    }
    let challenge = HeaderValue::from_static("Bearer realm=\"omnilink\"");
    let Some(token) = bearer(headers) else {
        let detail = "a key is needed: `Authorization: Bearer omni.…`";
        return Err(Problem::new(&UNAUTHORIZED, detail).header(WWW_AUTHENTICATE, challenge));
    };
    let now = shared.clock.now();
    let found = holder(shared, token, now).await;
    let address = client(headers, peer, &shared.trusted_proxies);
    let reason = match found {
        Ok(key) => {
            shared.uses.used(&shared.audit, &key, address, headers, now);
            return Ok(key);
        }
        Err(reason) => reason,
    };
    shared.meters.wrong_keys.increment(1);
    if let Err(wait) = shared.attempts.failed(address, now) {
        return Err(limited(wait));
    }
    shared
        .uses
        .failed(&shared.audit, reason, address, headers, now);
    // The answer does not reveal what is wrong with the key.
    let challenge = HeaderValue::from_static("Bearer realm=\"omnilink\", error=\"invalid_token\"");
    Err(Problem::new(&INVALID_KEY, "the key is not valid").header(WWW_AUTHENTICATE, challenge))
}

/// Finds the holder of an API key or of an issuer's token. The error is the reason for the audit log.
async fn holder(shared: &Shared, token: &[u8], now: Millis) -> Result<Arc<Key>, &'static str> {
    let token = std::str::from_utf8(token).map_err(|_| "malformed")?;
    if let Some(key) = shared.controls.authenticate(token, now) {
        return Ok(key);
    }
    match &shared.jwt {
        Some(jwt) if !token.starts_with("omni.") => {
            let holder = jwt.authenticate(token, now).await;
            holder.map_err(Refusal::name)
        }
        _ => Err(shared.controls.refusal(token)),
    }
}

/// The user on whose behalf a request is made: `Omnilink-On-Behalf-Of`. The caller must check separately, after the permission for the
/// request, whether the key may name a user.
pub(super) fn on_behalf_of(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(ON_BEHALF_OF).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = std::str::from_utf8(value.as_bytes()).ok();
    match text.filter(|text| text_is_good(text)) {
        Some(text) if values.next().is_none() => Ok(Some(text)),
        _ => Err(Problem::invalid(format!(
            "`Omnilink-On-Behalf-Of` must occur exactly once, as UTF-8 of 1 to {TEXT_MAX} bytes without control characters"
        ))),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}

/// The client's address: the peer's, or if that is a trusted proxy, the rightmost address in its headers that is not trusted.
pub(super) fn client(headers: &HeaderMap, peer: IpAddr, trusted: &[Network]) -> IpAddr {
    let trusts = |address: IpAddr| trusted.iter().any(|n| n.contains(address));
    let mut address = peer.to_canonical();
    if !trusts(address) {
        return address;
    }
    let forwarded = headers.get_all("x-forwarded-for");
    let hops = forwarded
        .iter()
        .rev()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.rsplit(','));
    for hop in hops {
        let Ok(hop) = hop.trim().parse::<IpAddr>() else {
            break;
        };
        address = hop.to_canonical();
        if !trusts(address) {
            break;
        }
    }
    address
}

fn limited(wait: u32) -> Problem {
    Problem::limited(
        &RATE_LIMIT_EXCEEDED,
        "too many wrong keys from this address",
        &Limit {
            policy: AUTHENTICATION,
            quota: LIMIT as u32,
            window_s: Some(WINDOW_S),
            wait_s: wait,
        },
    )
}

/// The wrong keys of the last minute, by address.
#[derive(Default)]
pub(super) struct Attempts(Mutex<HashMap<IpAddr, Failures>>);

/// The times of the last failures in a ring buffer, which makes the window slide exactly.
struct Failures {
    at: [i64; LIMIT],
    next: usize,
}

impl Attempts {
    /// Counts a failure; beyond the limit, the error is the number of seconds until another one is allowed.
    fn failed(&self, address: IpAddr, now: Millis) -> Result<(), u32> {
        let window = i64::from(WINDOW_S) * 1000;
        let mut all = self.0.lock();
        if all.len() >= ADDRESSES {
            all.retain(|_, f| f.latest() > now.0 - window);
            if all.len() >= ADDRESSES {
                // An attack from very many addresses; clearing keeps memory bounded.
                all.clear();
            }
        }
        let failures = all.entry(network(address)).or_insert(Failures {
            at: [i64::MIN; LIMIT],
            next: 0,
        });
        let oldest = failures.at[failures.next];
        let free_at = oldest.saturating_add(window);
        if free_at > now.0 {
            return Err(((free_at - now.0 + 999) / 1000).clamp(1, i64::from(WINDOW_S)) as u32);
        }
        failures.at[failures.next] = now.0;
        failures.next = (failures.next + 1) % LIMIT;
        Ok(())
    }
}

impl Failures {
    fn latest(&self) -> i64 {
        self.at[(self.next + LIMIT - 1) % LIMIT]
    }
}

/// A single customer usually has a whole /64 of IPv6.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_a_minute_sliding() {
        let attempts = Attempts::default();
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        for n in 0..30 {
            assert_eq!(attempts.failed(address, Millis(n * 1000)), Ok(()));
        }
        assert_eq!(attempts.failed(address, Millis(30_000)), Err(30));
        assert_eq!(
            attempts.failed("10.0.0.2".parse().unwrap(), Millis(30_000)),
            Ok(())
        );
        assert_eq!(attempts.failed(address, Millis(59_999)), Err(1));
        assert_eq!(attempts.failed(address, Millis(60_000)), Ok(()));
        assert!(attempts.failed(address, Millis(60_001)).is_err());
    }

    #[test]
    fn memory_is_bounded() {
        let attempts = Attempts::default();
        for n in 0..40_000u32 {
            let _ = attempts.failed(IpAddr::from(n.to_be_bytes()), Millis(i64::from(n)));
        }
        assert!(attempts.0.lock().len() <= ADDRESSES);
    }

    #[test]
    fn who_is_acted_for_is_one_plain_text() {
        let header = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ON_BEHALF_OF, HeaderValue::from_bytes(value).unwrap());
            }
            on_behalf_of(&headers)
                .map(|text| text.map(str::to_owned))
                .map_err(|problem| problem.code())
        };
        assert_eq!(header(&[]).unwrap(), None);
        assert_eq!(
            header(&["Zoë %20".as_bytes()]).unwrap().as_deref(),
            Some("Zoë %20")
        );
        for bad in [
            &[&b""[..]][..],
            &[b"a\tb"],
            &[b"\xff"],
            &[b"a", b"a"],
            &[&[b'a'; 257]],
        ] {
            assert_eq!(
                header(bad),
                Err(&crate::api::problem::INVALID_PAYLOAD),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "x-forwarded-for",
            HeaderValue::from_static("6.6.6.6, 1.2.3.4, 10.0.0.9"),
        );
        let trusted = [Network::parse("10.0.0.0/8").unwrap()];
        let client = |peer: &str| client(&headers, peer.parse().unwrap(), &trusted).to_string();
        assert_eq!(client("10.0.0.1"), "1.2.3.4");
        assert_eq!(client("8.8.8.8"), "8.8.8.8");
    }
}
