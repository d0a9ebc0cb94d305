//! Verified tokens, so that a signature is verified once per token rather than once per request.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;
use sha2::{Digest, Sha256};

use crate::{base::clock::Millis, controls::Key};

/// The maximum number of remembered tokens; a few MiB.
const TOKENS: usize = 8192;

/// A token that was verified.
pub(super) struct Verified {
    pub(super) key: Arc<Key>,
    /// The index of the token's issuer.
    pub(super) issuer: usize,
    /// The generation of the issuer's key set at the time.
    pub(super) generation: u64,
    /// When the token is no longer valid.
    pub(super) until: Millis,
}

/// Verified tokens by their SHA-256.
#[derive(Default)]
pub(super) struct Cache(RwLock<HashMap<[u8; 32], Verified>>);

pub(super) fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

impl Cache {
    /// The holder of a token, while the token is valid and `serves` accepts the key set that verified it.
    pub(super) fn get(
        &self,
        hash: &[u8; 32],
        now: Millis,
        serves: impl Fn(&Verified) -> bool,
    ) -> Option<Arc<Key>> {
        let tokens = self.0.read();
        let verified = tokens.get(hash)?;
        (verified.until > now && serves(verified)).then(|| Arc::clone(&verified.key))
    }

    /// Remembers a token. If there are too many, expired ones are evicted first.
    pub(super) fn put(
        &self,
        hash: [u8; 32],
        verified: Verified,
        now: Millis,
        serves: impl Fn(&Verified) -> bool,
    ) {
        let mut tokens = self.0.write();
        if tokens.len() >= TOKENS {
            tokens.retain(|_, v| v.until > now && serves(v));
            // Evicting a whole batch avoids doing this for each further token.
            if tokens.len() > TOKENS / 4 * 3 {
                tokens.clear();
            }
        }
        tokens.insert(hash, verified);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{base::id::Tenant, controls::Scopes};

    #[test]
    fn a_token_is_remembered_until_it_expires_or_its_key_set_changes_and_memory_is_bounded() {
        let key = Key::of_token(
            &Arc::from("i"),
            Tenant::new("acme").unwrap(),
            "ann".into(),
            Scopes::default(),
        );
        let key = Arc::new(key);
        let verified = || Verified {
            key: Arc::clone(&key),
            issuer: 0,
            generation: 3,
            until: Millis(100),
        };
        let cache = Cache::default();
        let get = |token: &str, now: i64, generation: u64| {
            let found = cache.get(&hash(token), Millis(now), |v| v.generation == generation);
            found.is_some()
        };
        cache.put(hash("a"), verified(), Millis(0), |_| true);
        assert!(get("a", 99, 3) && !get("a", 100, 3) && !get("a", 99, 4) && !get("b", 99, 3));
        for n in 0..3 * TOKENS {
            cache.put(hash(&n.to_string()), verified(), Millis(0), |_| true);
            assert!(get(&n.to_string(), 0, 3));
        }
        assert!(cache.0.read().len() <= TOKENS);
    }
}
