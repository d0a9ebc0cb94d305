//! One issuer: verifies its tokens, and derives callers from their claims.

use std::sync::Arc;

use jsonwebtoken::{
    Algorithm, Header, Validation, decode,
    errors::{Error, ErrorKind},
};
use serde_json::{Map, Value};

use super::source::Source;
use crate::{
    base::{clock::Millis, id::Tenant},
    config::{Claim, FromToken, JwtIssuer, Texts},
    controls::{Constraints, Key, Scopes, text_is_good},
    http::NoRoots,
};

/// The tolerated clock skew, in seconds.
const SKEW_S: u64 = 60;
/// The maximum number of permissions of a token, and the maximum length of one in bytes; the same as for keys.
const PERMISSIONS_MAX: usize = 1000;
const PERMISSION_BYTES: usize = 512;

type Claims = Map<String, Value>;

/// Why a token is refused. The reason is recorded in the audit log, but clients do not learn it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It is not a JWT.
    Malformed,
    /// Its issuer is not in `auth.jwt`.
    UnknownIssuer,
    /// Its algorithm is not accepted.
    Algorithm,
    /// The issuer's key set does not contain its key.
    UnknownKey,
    /// The signature does not match the key.
    Signature,
    /// It is for another audience.
    Audience,
    /// It has expired.
    Expired,
    /// It is not valid yet.
    NotYetValid,
    /// A required claim is missing or invalid.
    Claims,
}

impl Refusal {
    /// The name in the audit log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_signing_key",
            Self::Signature => "signature",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Claims => "claims",
        }
    }
}

/// An issuer and its key set.
pub(super) struct Issuer {
    pub(super) name: Arc<str>,
    pub(super) source: Source,
    validation: Validation,
    principal: FromToken<String>,
    tenant: FromToken<String>,
    permissions: FromToken<Texts>,
    constraints: Constraints,
}

/// A token that was verified.
pub(super) struct VerifiedToken {
    pub(super) key: Arc<Key>,
    /// The generation of the key set that verified it.
    pub(super) generation: u64,
    /// When the token stops being valid.
    pub(super) until: Millis,
}

impl Issuer {
    pub(super) fn start(issuer: &JwtIssuer) -> Result<Self, NoRoots> {
        Ok(Self {
            name: Arc::from(issuer.issuer.as_str()),
            source: Source::start(&issuer.jwks)?,
            validation: validation(issuer),
            principal: issuer.principal.clone(),
            tenant: issuer.tenant.clone(),
            permissions: issuer.permissions.clone(),
            constraints: issuer.constraints.clone(),
        })
    }

    /// Verifies a token whose claim `iss` is this issuer.
    pub(super) async fn verify(
        &self,
        token: &str,
        header: &Header,
    ) -> Result<VerifiedToken, Refusal> {
        if !ALGORITHMS.contains(&header.alg) {
            return Err(Refusal::Algorithm);
        }
        let mut fetched = false;
        loop {
            if let Some((set, generation)) = self.source.current()
                && let Some(key) = set.find(header.kid.as_deref(), header.alg)
            {
                let mut validation = self.validation.clone();
                validation.algorithms = vec![header.alg];
                let decoded = decode::<Claims>(token, key, &validation);
                let claims = decoded.map_err(|error| refusal(&error))?.claims;
                return Ok(VerifiedToken {
                    until: expiry(&claims).ok_or(Refusal::Claims)?,
                    key: Arc::new(self.caller(&claims)?),
                    generation,
                });
            }
            if fetched || !self.source.fetch_again().await {
                return Err(Refusal::UnknownKey);
            }
            fetched = true;
        }
    }

    /// Derives the caller from the claims.
    fn caller(&self, claims: &Claims) -> Result<Key, Refusal> {
        let principal = one(&self.principal, claims).filter(|p| text_is_good(p));
        let tenant = one(&self.tenant, claims).and_then(|tenant| Tenant::new(tenant).ok());
        let scopes = Scopes {
            permissions: several(&self.permissions, claims).ok_or(Refusal::Claims)?,
            constraints: self.constraints.clone(),
        };
        let (Some(principal), Some(tenant)) = (principal, tenant) else {
            return Err(Refusal::Claims);
        };
        Ok(Key::of_token(
            &self.name,
            tenant,
            principal.to_owned(),
            scopes,
        ))
    }
}

const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

fn validation(issuer: &JwtIssuer) -> Validation {
    let mut validation = Validation::new(Algorithm::RS256);
    validation.leeway = SKEW_S;
    validation.validate_nbf = true;
    validation.set_issuer(&[&issuer.issuer]);
    validation.set_audience(issuer.audience.as_slice());
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    validation
}

/// The refusal of a header that cannot be parsed: `alg` may be one that the library does not know, such as `none`.
pub(super) fn header_refusal(error: &Error) -> Refusal {
    match error.kind() {
        ErrorKind::Json(error) if error.to_string().contains("unknown variant") => {
            Refusal::Algorithm
        }
        _ => Refusal::Malformed,
    }
}

fn refusal(error: &Error) -> Refusal {
    match error.kind() {
        ErrorKind::InvalidSignature => Refusal::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => Refusal::Algorithm,
        ErrorKind::InvalidAudience => Refusal::Audience,
        ErrorKind::ExpiredSignature => Refusal::Expired,
        ErrorKind::ImmatureSignature => Refusal::NotYetValid,
        ErrorKind::MissingRequiredClaim(_)
        | ErrorKind::InvalidClaimFormat(_)
        | ErrorKind::InvalidIssuer
        | ErrorKind::InvalidSubject => Refusal::Claims,
        _ => Refusal::Malformed,
    }
}

/// When a token stops being valid, including the skew.
fn expiry(claims: &Claims) -> Option<Millis> {
    let seconds = claims.get("exp")?.as_f64()?;
    // Float to integer casts saturate.
    Some(Millis(((seconds + SKEW_S as f64) * 1000.0) as i64))
}

/// The value of a claim, found by its name or, if the name starts with `/`, by JSON pointer.
fn claim<'c>(Claim { claim }: &Claim, claims: &'c Claims) -> Option<&'c Value> {
    let Some(path) = claim.strip_prefix('/') else {
        return claims.get(claim);
    };
    let (first, rest) = match path.find('/') {
        Some(end) => path.split_at(end),
        None => (path, ""),
    };
    let first = first.replace("~1", "/").replace("~0", "~");
    claims.get(&first)?.pointer(rest)
}

fn one<'c>(from: &'c FromToken<String>, claims: &'c Claims) -> Option<&'c str> {
    match from {
        FromToken::Fixed(text) => Some(text),
        FromToken::Claim(name) => claim(name, claims)?.as_str(),
    }
}

/// Permissions, from an array of texts or one text separated by spaces; none if the claim is missing. Texts that are not permissions are
/// skipped, because issuers put other things into the claim as well.
fn several(from: &FromToken<Texts>, claims: &Claims) -> Option<Vec<String>> {
    let name = match from {
        FromToken::Fixed(_) => return from.fixed_permissions(),
        FromToken::Claim(name) => name,
    };
    let texts: Vec<&str> = match claim(name, claims) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => text.split(' ').collect(),
        Some(Value::Array(items)) => items.iter().map(Value::as_str).collect::<Option<_>>()?,
        Some(_) => return None,
    };
    let good = |text: &&str| text.len() <= PERMISSION_BYTES && Scopes::is_permission(text);
    let permissions: Vec<_> = texts.into_iter().filter(good).map(str::to_owned).collect();
    (permissions.len() <= PERMISSIONS_MAX).then_some(permissions)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(value: Value) -> Claims {
        let Value::Object(claims) = value else {
            panic!("{value}");
        };
        claims
    }

    #[test]
    fn claims_are_named_or_pointed_to() {
        let claims = claims(json!({
            "sub": "ann", "https://id/org": "acme", "a/b": { "c~": [1, "x"] }, "n": 5,
        }));
        let text = |name: &str| {
            let from = FromToken::Claim(Claim { claim: name.into() });
            one(&from, &claims).map(str::to_owned)
        };
        assert_eq!(text("sub").as_deref(), Some("ann"));
        assert_eq!(text("/sub").as_deref(), Some("ann"));
        assert_eq!(text("https://id/org").as_deref(), Some("acme"));
        assert_eq!(text("/a~1b/c~0/1").as_deref(), Some("x"));
        for none in ["n", "no", "/", "/a/b", "/sub/x"] {
            assert_eq!(text(none), None, "{none}");
        }
    }

    #[test]
    fn permissions_are_a_list_or_a_text_with_spaces() {
        let from = FromToken::Claim(Claim { claim: "p".into() });
        let read = |p: Value| several(&from, &claims(json!({ "p": p })));
        let list = |texts: &[&str]| Some(texts.iter().map(ToString::to_string).collect());
        assert_eq!(
            read(json!(["a:b", "c:*", "a*b", ""])),
            list(&["a:b", "c:*"])
        );
        assert_eq!(read(json!("openid  a:b")), list(&["openid", "a:b"]));
        assert_eq!(read(json!(null)), list(&[]));
        assert_eq!(several(&from, &Map::new()), list(&[]));
        assert_eq!(read(json!([1])), None);
        assert_eq!(read(json!(1)), None);
        assert_eq!(read(json!(vec!["a"; 1001])), None);
        let fixed = FromToken::Fixed(Texts::One("a:b c:d".into()));
        assert_eq!(several(&fixed, &Map::new()), list(&["a:b", "c:d"]));
    }
}
