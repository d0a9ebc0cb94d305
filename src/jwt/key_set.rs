//! The public keys of an issuer: a JSON Web Key Set (RFC 7517).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

/// The maximum number of keys in a set.
const KEYS_MAX: usize = 100;

/// The keys that can verify tokens; other keys of the set are skipped.
pub(super) struct KeySet(Vec<PublicKey>);

struct PublicKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// Why a text is not a usable key set.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// It is not JSON with an array `keys`.
    #[error("it is not a JSON Web Key Set: {0}")]
    Json(#[from] serde_json::Error),
    /// No key is for RS256, ES256 or EdDSA.
    #[error("it has no key for RS256, ES256 or EdDSA")]
    NoKey,
    /// It has too many keys.
    #[error("it has more than {KEYS_MAX} keys")]
    TooMany,
}

impl KeySet {
    /// Parses a set. Keys that are malformed or not for the accepted algorithms are skipped.
    pub(super) fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let Set { keys } = serde_json::from_slice(text)?;
        if keys.len() > KEYS_MAX {
            return Err(KeySetError::TooMany);
        }
        let keys: Vec<_> = keys.into_iter().filter_map(PublicKey::read).collect();
        if keys.is_empty() {
            return Err(KeySetError::NoKey);
        }
        Ok(Self(keys))
    }

    /// Finds the key of a token by its id, or for a token without an id, the only key for its algorithm.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&DecodingKey> {
        let fits = |key: &&PublicKey| {
            key.algorithm == algorithm && (id.is_none() || key.id.as_deref() == id)
        };
        let mut found = self.0.iter().filter(fits);
        let key = found.next()?;
        (id.is_some() || found.next().is_none()).then_some(&key.key)
    }
}

impl PublicKey {
    fn read(value: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let for_signatures = |usage: &PublicKeyUse| *usage == PublicKeyUse::Signature;
        if !jwk
            .common
            .public_key_use
            .as_ref()
            .is_none_or(for_signatures)
        {
            return None;
        }
        let (algorithm, key) = match &jwk.algorithm {
            AlgorithmParameters::RSA(rsa) => {
                let (n, e) = (number(&rsa.n)?, number(&rsa.e)?);
                let key = DecodingKey::from_rsa_raw_components(&n, &e);
                (Algorithm::RS256, key)
            }
            AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
                let key = DecodingKey::from_ec_components(&ec.x, &ec.y).ok()?;
                (Algorithm::ES256, key)
            }
            AlgorithmParameters::OctetKeyPair(ed) if ed.curve == EllipticCurve::Ed25519 => {
                let key = DecodingKey::from_ed_components(&ed.x).ok()?;
                (Algorithm::EdDSA, key)
            }
            _ => return None,
        };
        // A key for another algorithm, such as RS512 or PS256, must not be used for this one.
        let named = jwk.common.key_algorithm.map(|named| named.to_string());
        let named_for = |named: String| match algorithm {
            Algorithm::EdDSA => named == "EdDSA" || named == "Ed25519",
            Algorithm::ES256 => named == "ES256",
            _ => named == "RS256",
        };
        named.is_none_or(named_for).then_some(Self {
            id: jwk.common.key_id,
            algorithm,
            key,
        })
    }
}

/// Decodes a big-endian number in base64url; some issuers add leading zeros.
fn number(text: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Some(bytes[zeros..].to_vec())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(keys: &Value) -> Result<KeySet, KeySetError> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    #[test]
    fn keys_are_found_by_id_and_algorithm_and_others_left_out() {
        let x = URL_SAFE_NO_PAD.encode([7; 32]);
        let ed = |id: &str| json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": id });
        let rsa = json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode([0, 9, 9]), "e": "AQAB", "kid": "rsa" });
        let ec =
            json!({ "kty": "EC", "crv": "P-256", "x": x, "y": x, "kid": "ec", "alg": "ES256" });
        let with = |key: &Value, field: &str, value: &str| {
            let mut key = key.clone();
            key[field] = json!(value);
            key["kid"] = json!("bad");
            key
        };
        let keys = set(&json!([
            { "kty": "oct", "k": "c2VjcmV0", "kid": "bad" },
            { "kty": "new", "kid": "bad" },
            { "kid": "bad" },
            5,
            with(&ed(""), "crv", "X25519"),
            with(&ec, "crv", "P-384"),
            with(&rsa, "use", "enc"),
            with(&rsa, "alg", "PS256"),
            with(&ec, "x", "!"),
            ed("one"),
            rsa,
            ec,
        ]))
        .unwrap();
        assert_eq!(keys.0.len(), 3);
        assert!(keys.find(Some("one"), Algorithm::EdDSA).is_some());
        assert!(keys.find(Some("one"), Algorithm::RS256).is_none());
        assert!(keys.find(Some("rsa"), Algorithm::RS256).is_some());
        assert!(keys.find(Some("ec"), Algorithm::ES256).is_some());
        assert!(keys.find(Some("bad"), Algorithm::RS256).is_none());
        // A token without an id gets the only key for its algorithm.
        assert!(keys.find(None, Algorithm::EdDSA).is_some());
        let two = set(&json!([ed("one"), ed("two")])).unwrap();
        assert!(two.find(None, Algorithm::EdDSA).is_none());
        assert!(two.find(Some("two"), Algorithm::EdDSA).is_some());
        assert_eq!(number("AAkJ").unwrap(), [9, 9]);
    }

    #[test]
    fn a_text_without_a_usable_key_is_refused() {
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"keys":[]}"#,
            r#"{"keys":[{"kty":"oct","k":"eA"}]}"#,
        ] {
            assert!(KeySet::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let many: Vec<_> = (0..=KEYS_MAX)
            .map(|n| json!({ "kid": n.to_string() }))
            .collect();
        assert!(matches!(set(&json!(many)), Err(KeySetError::TooMany)));
    }
}
