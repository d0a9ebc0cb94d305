//! Checks of `doctor`: keys that are old, unused or about to expire, and issuers of tokens.

use hyper::{Method, StatusCode};
use serde_json::Value;

use super::{
    client::Client,
    findings::{Findings, Status},
};
use crate::{
    base::clock::{Clock, Millis, SystemClock},
    config::{Config, Jwks},
    jwt,
};

const CHECK: &str = "keys";
const DAY_MS: i64 = 24 * 3_600_000;
/// A secret older than this should be rotated.
const OLD_MS: i64 = 90 * DAY_MS;
/// A key that expires within this time is reported.
const SOON_MS: i64 = 14 * DAY_MS;
/// A node must have run this long before a key without uses counts as unused.
const OBSERVED_MS: i64 = DAY_MS;
/// The maximum number of pages of keys that are read; a page has 1,000.
const PAGES: usize = 20;
/// The maximum number of keys that a finding names.
const NAMED: usize = 10;

/// Checks the keys that the node lists: of all tenants for an operator, else of the tenant of the key in use.
pub(super) async fn keys(client: &Client, found: &mut Findings) {
    let (read, of) = match read(client, "&tenant=*").await {
        Err(StatusCode::FORBIDDEN) => (read(client, "").await, "this tenant"),
        read => (read, "all tenants"),
    };
    let keys = match read {
        Ok(Some(keys)) => keys,
        // The check of the node reports it.
        Ok(None) => return,
        Err(StatusCode::FORBIDDEN) => {
            let detail = "the key in use lacks the permission `admin`, which lists keys";
            return found.add(CHECK, Status::Skipped, detail);
        }
        Err(status) => {
            return found.add(
                CHECK,
                Status::Warning,
                format!("keys cannot be listed: {status}"),
            );
        }
    };
    let now = SystemClock.now();
    let started = started(client).await;
    let troubles = judge(&keys, now, started);
    if troubles.is_empty() {
        let detail = format!("{} keys of {of}", keys.len());
        found.add(CHECK, Status::Ok, detail);
    }
    for trouble in troubles {
        found.add(CHECK, Status::Warning, trouble);
    }
}

/// Checks that the key sets of `auth.jwt` can be fetched, and that issuers cannot be confused.
pub(super) async fn issuers(config: &Config, found: &mut Findings) {
    const CHECK: &str = "issuers";
    for issuer in &config.jwt {
        match jwt::probe(&issuer.jwks).await {
            Err(error) => {
                found.add(CHECK, Status::Failed, format!("{}: {error}", issuer.issuer));
            }
            Ok(()) if unencrypted(&issuer.jwks) => {
                let detail = format!(
                    "{}: its key set is fetched without TLS; anyone who can change the response can forge tokens",
                    issuer.issuer
                );
                found.add(CHECK, Status::Warning, detail);
            }
            Ok(()) => found.add(CHECK, Status::Ok, issuer.issuer.clone()),
        }
    }
    for (a, b) in jwt::ambiguous(&config.jwt) {
        let detail = format!(
            "tokens of {a} and {b} can have the same principal in the same tenant, so actions cannot be attributed; \
             take `principal` from claims that differ, or give them different tenants"
        );
        found.add(CHECK, Status::Warning, detail);
    }
}

/// Whether the key set is fetched over plain HTTP from another machine.
fn unencrypted(jwks: &Jwks) -> bool {
    let Jwks::Url(url) = jwks else {
        return false;
    };
    let uri: Result<hyper::Uri, _> = url.parse();
    uri.is_ok_and(|uri| {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let address = host.parse::<std::net::IpAddr>();
        let local = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
        uri.scheme_str() == Some("http") && !local
    })
}

/// All keys of the tenants that the query names; `None` if no node answers and accepts the key.
async fn read(client: &Client, tenants: &str) -> Result<Option<Vec<Value>>, StatusCode> {
    let mut keys = Vec::new();
    let first = format!("/v1/keys?limit=1000{tenants}");
    let mut path = first.clone();
    for _ in 0..PAGES {
        let Ok(mut page) = client.call(Method::GET, &path, None).await else {
            return Ok(None);
        };
        match page.status {
            StatusCode::UNAUTHORIZED => return Ok(None),
            status if !status.is_success() => return Err(status),
            _ => {}
        }
        if let Value::Array(items) = page.body["items"].take() {
            keys.extend(items);
        }
        match page.body["next_cursor"].as_str() {
            Some(cursor) => path = format!("{first}&cursor={cursor}"),
            None => break,
        }
    }
    Ok(Some(keys))
}

/// When the node started.
async fn started(client: &Client) -> Option<Millis> {
    let metrics = client.text("/metrics").await.ok()?;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("process_start_time_seconds "))?;
    let seconds: f64 = line.trim().parse().ok()?;
    // Float to integer casts saturate.
    Some(Millis((seconds * 1000.0) as i64))
}

/// Warnings about keys, with advice.
fn judge(keys: &[Value], now: Millis, started: Option<Millis>) -> Vec<String> {
    let time = |key: &Value, field: &str| {
        let time: jiff::Timestamp = key[field].as_str()?.parse().ok()?;
        Some(time.as_millisecond())
    };
    let valid: Vec<_> = keys
        .iter()
        .filter(|key| time(key, "expires_at").is_none_or(|at| at > now.0))
        .collect();
    let named = |is: &dyn Fn(&Value) -> bool, what: &str, advice: &str| {
        let keys: Vec<_> = valid.iter().filter(|key| is(key)).collect();
        let text = |key: &Value, field: &str| key[field].as_str().unwrap_or("-").to_owned();
        let mut names: Vec<_> = keys
            .iter()
            .take(NAMED)
            .map(|key| {
                let [name, id, tenant] = ["name", "id", "tenant"].map(|field| text(key, field));
                format!("{name} ({id} of {tenant})")
            })
            .collect();
        if keys.len() > NAMED {
            names.push(format!("and {} more", keys.len() - NAMED));
        }
        (!keys.is_empty()).then(|| format!("{what}: {}; {advice}", names.join(", ")))
    };
    let old = |key: &Value| {
        let renewed = time(key, "rotated_at").or(time(key, "created_at"));
        renewed.is_some_and(|at| now.0 - at > OLD_MS)
    };
    // A key counts as unused if the node has run for at least a day and has seen no use.
    let observed = started.is_some_and(|at| now.0 - at.0 > OBSERVED_MS);
    let unused = |key: &Value| {
        let created = time(key, "created_at").is_some_and(|at| now.0 - at > OBSERVED_MS);
        observed && created && time(key, "last_used_at").is_none()
    };
    let expiring = |key: &Value| time(key, "expires_at").is_some_and(|at| at - now.0 <= SOON_MS);
    let unenforced = |key: &Value| key["limits_enforced"] == Value::Bool(false);
    [
        named(
            &old,
            "their secret is older than 90 days",
            "`omnilink keys rotate ID` gives a new one",
        ),
        named(
            &unused,
            "not used since this node started",
            "`omnilink keys revoke ID` revokes those that are not needed",
        ),
        named(
            &expiring,
            "they expire within 14 days",
            "create new ones, or change `expires_at`",
        ),
        named(
            &unenforced,
            "made before limits were enforced, so that `max_rpm` and `max_concurrency` only warn",
            "`omnilink keys rotate ID` enforces them",
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_named_by_what_is_wrong_with_them() {
        let now = Millis(1_800_000_000_000);
        let at = |days: i64| {
            let time = jiff::Timestamp::from_millisecond(now.0 + days * DAY_MS).unwrap();
            time.to_string()
        };
        let key = |name: &str, created: i64| {
            json!({
                "id": format!("id-{name}"), "name": name, "tenant": "acme", "created_at": at(created),
                "last_used_at": at(0), "limits_enforced": true,
            })
        };
        let with = |mut key: Value, field: &str, value: Value| {
            key[field] = value;
            key
        };
        let keys = [
            key("good", -89),
            key("old", -91),
            with(key("rotated", -300), "rotated_at", json!(at(-1))),
            with(key("unused", -2), "last_used_at", Value::Null),
            with(key("new", 0), "last_used_at", Value::Null),
            with(key("soon", -1), "expires_at", json!(at(13))),
            with(key("later", -1), "expires_at", json!(at(15))),
            with(key("over", -91), "expires_at", json!(at(-1))),
            with(key("warns", -1), "limits_enforced", json!(false)),
        ];
        let started = Some(Millis(now.0 - 2 * DAY_MS));
        let troubles = judge(&keys, now, started);
        let names = ["old", "unused", "soon", "warns"];
        assert_eq!(troubles.len(), names.len());
        for (trouble, name) in troubles.iter().zip(names) {
            assert!(
                trouble.contains(&format!(": {name} (id-{name} of acme);")),
                "{trouble}"
            );
        }
        // A node that has just started has not seen any uses yet.
        assert_eq!(judge(&keys, now, Some(now)).len(), 3);
        assert_eq!(judge(&keys, now, None).len(), 3);
        let many: Vec<_> = (0..12).map(|n| key(&n.to_string(), -91)).collect();
        assert!(judge(&many, now, started)[0].contains("and 2 more;"));
        assert!(judge(&keys[..1], now, started).is_empty());
    }

    #[test]
    fn only_key_sets_from_other_machines_need_tls() {
        let url = |url: &str| unencrypted(&Jwks::Url(url.into()));
        assert!(url("http://id.example.com/keys"));
        for good in [
            "https://id.example.com/",
            "http://localhost:1/",
            "http://127.0.0.1/",
            "http://[::1]:1/",
        ] {
            assert!(!url(good), "{good}");
        }
        assert!(!unencrypted(&Jwks::File("keys.json".into())));
    }
}
