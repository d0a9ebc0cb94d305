//! Tokens of issuers (JWT, RFC 7519), which are accepted besides API keys: `auth.jwt`.
//!
//! A valid token makes its holder a caller of kind `person`, with the principal, tenant and permissions that the configuration derives
//! from its claims. Only RS256, ES256 and EdDSA are accepted, and only with a key of the matching type from the issuer's set, so that a
//! token cannot choose how it is verified (RFC 8725).
//!
//! | file | holds |
//! |---|---|
//! | `issuer` | verifies a token of one issuer, and reads its claims |
//! | `key_set` | the public keys of an issuer (RFC 7517) |
//! | `source` | fetches a key set, and keeps the last valid one |
//! | `signature` | ring as the backend of `jsonwebtoken` |
//! | `cache` | verified tokens |

mod cache;
mod issuer;
mod key_set;
mod signature;
mod source;

use std::sync::Arc;

use cache::{Cache, Verified};
use issuer::Issuer;
use jsonwebtoken::{dangerous::insecure_decode_claims, decode_header};
use serde::Deserialize;

use crate::{
    base::clock::Millis,
    config::{FromToken, JwtIssuer},
    controls::Key,
    http::NoRoots,
    telemetry::PartStatus,
};

pub use issuer::Refusal;
pub use source::{FetchError, probe};

/// The size limit of a token, in bytes.
const TOKEN_MAX: usize = 16 * 1024;

/// The issuers of `auth.jwt`. Dropping it stops fetching key sets.
pub struct Jwt {
    issuers: Vec<Issuer>,
    cache: Cache,
}

impl Jwt {
    /// Starts fetching the key sets, on the current runtime. Fails if a URL needs root certificates and there are none.
    pub fn start(issuers: &[JwtIssuer]) -> Result<Self, NoRoots> {
        signature::install();
        let issuers = issuers.iter().map(Issuer::start);
        Ok(Self {
            issuers: issuers.collect::<Result<_, _>>()?,
            cache: Cache::default(),
        })
    }

    /// Returns the holder of the token. This only waits if the key set does not contain the token's key and may be fetched now.
    pub async fn authenticate(&self, token: &str, now: Millis) -> Result<Arc<Key>, Refusal> {
        if token.len() > TOKEN_MAX || memchr::memchr_iter(b'.', token.as_bytes()).count() != 2 {
            return Err(Refusal::Malformed);
        }
        let hash = cache::hash(token);
        if let Some(key) = self.cache.get(&hash, now, |v| self.serves(v)) {
            return Ok(key);
        }
        // The future is boxed so that requests with an API key do not carry its state.
        Box::pin(self.verify(token, hash, now)).await
    }

    /// Whether the key set that verified the token is still in use.
    fn serves(&self, verified: &Verified) -> bool {
        let source = &self.issuers[verified.issuer].source;
        source.generation() == Some(verified.generation)
    }

    async fn verify(&self, token: &str, hash: [u8; 32], now: Millis) -> Result<Arc<Key>, Refusal> {
        #[derive(Deserialize)]
        struct IssuedBy {
            iss: String,
        }
        let header = decode_header(token).map_err(|error| issuer::header_refusal(&error))?;
        let claims = insecure_decode_claims::<IssuedBy>(token);
        let IssuedBy { iss } = claims.map_err(|_| Refusal::Malformed)?;
        let mut refusal = Refusal::UnknownIssuer;
        // The same issuer may be configured several times, with different audiences.
        for (index, issuer) in self.issuers.iter().enumerate() {
            if *issuer.name != *iss {
                continue;
            }
            match issuer.verify(token, &header).await {
                Ok(good) => {
                    let verified = Verified {
                        key: Arc::clone(&good.key),
                        issuer: index,
                        generation: good.generation,
                        until: good.until,
                    };
                    self.cache.put(hash, verified, now, |v| self.serves(v));
                    return Ok(good.key);
                }
                Err(why) => refusal = why,
            }
        }
        Err(refusal)
    }

    /// The state of the key sets, for `/readyz`.
    pub fn status(&self) -> PartStatus {
        let troubles: Vec<_> = self
            .issuers
            .iter()
            .filter_map(|issuer| Some((issuer, issuer.source.trouble()?)))
            .collect();
        let detail = troubles
            .iter()
            .map(|(issuer, (why, _))| format!("{}: {why}", issuer.name))
            .collect::<Vec<_>>()
            .join("; ");
        if detail.is_empty() {
            PartStatus::ok("")
        } else if troubles.iter().all(|(_, (_, serves))| *serves) {
            PartStatus::degraded(detail)
        } else {
            PartStatus::down(detail)
        }
    }
}

/// Pairs of issuers whose tokens may have the same principal in the same tenant; then it would be unclear who acted.
pub fn ambiguous(issuers: &[JwtIssuer]) -> Vec<(&str, &str)> {
    fn may_agree(a: &FromToken<String>, b: &FromToken<String>) -> bool {
        match (a.fixed(), b.fixed()) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        }
    }
    let mut pairs = Vec::new();
    for (index, a) in issuers.iter().enumerate() {
        for b in &issuers[index + 1..] {
            let agree = may_agree(&a.principal, &b.principal) && may_agree(&a.tenant, &b.tenant);
            let pair = (a.issuer.as_str(), b.issuer.as_str());
            if a.issuer != b.issuer && agree && !pairs.contains(&pair) {
                pairs.push(pair);
            }
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn issuers_are_ambiguous_if_principal_and_tenant_may_agree() {
        let issuer = |name: &str, principal: serde_json::Value, tenant: serde_json::Value| {
            let issuer = json!({
                "issuer": name, "audience": "a", "jwks": "k.json", "principal": principal,
                "tenant": tenant, "permissions": "events:write",
            });
            serde_json::from_value::<JwtIssuer>(issuer).unwrap()
        };
        let claim = json!({ "claim": "x" });
        let pairs = |a: &JwtIssuer, b: &JwtIssuer| ambiguous(&[a.clone(), b.clone()]).len();
        let any = issuer("a", claim.clone(), claim.clone());
        assert_eq!(
            ambiguous(&[any.clone(), issuer("b", claim.clone(), json!("t"))]),
            [("a", "b")]
        );
        assert_eq!(pairs(&any, &any), 0);
        let fixed = |name: &str, principal: &str, tenant: &str| {
            issuer(name, json!(principal), json!(tenant))
        };
        assert_eq!(pairs(&fixed("a", "p", "t"), &fixed("b", "p", "t")), 1);
        assert_eq!(pairs(&fixed("a", "p", "t"), &fixed("b", "q", "t")), 0);
        assert_eq!(pairs(&fixed("a", "p", "t"), &fixed("b", "p", "u")), 0);
        assert_eq!(pairs(&any, &fixed("b", "p", "u")), 1);
    }
}
