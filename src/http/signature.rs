//! Signatures of requests to workers and receivers of notifications, as Standard Webhooks have them (github.com/standard-webhooks/standard-webhooks,
//! `spec/standard-webhooks.md`, `v1`).

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use hyper::header::HeaderName;
use sha2::Sha256;

use crate::config::Secret;

/// The names of the headers with the id, the time and the signature, in this order.
pub const SIGNATURE_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("webhook-id"),
    HeaderName::from_static("webhook-timestamp"),
    HeaderName::from_static("webhook-signature"),
];

/// A secret, ready to sign with. Never displayed.
#[derive(Clone)]
pub struct SigningKey(Hmac<Sha256>);

/// A secret cannot be used. Never holds the secret.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the secret cannot be used: {0}")]
pub struct NoSecret(String);

impl SigningKey {
    /// Reads `whsec_` and base64, or a reference to it (`env:NAME`, `file:PATH`, relative to `base`).
    pub fn read(text: &str, base: &Path) -> Result<Self, NoSecret> {
        let env = |name: &str| std::env::var(name).ok();
        let secret = Secret::resolve(text, base, &env).map_err(|e| NoSecret(e.to_string()))?;
        Self::of(&secret)
    }

    /// Of a secret that was resolved: `whsec_` and base64.
    pub fn of(secret: &Secret) -> Result<Self, NoSecret> {
        let bytes = secret.expose().trim().strip_prefix("whsec_");
        let bytes = bytes.and_then(|encoded| STANDARD.decode(encoded).ok());
        let bytes = bytes.filter(|bytes| !bytes.is_empty());
        let bytes =
            bytes.ok_or_else(|| NoSecret("it must be `whsec_` and base64 of its bytes".into()))?;
        Hmac::new_from_slice(&bytes)
            .map(Self)
            .map_err(|e| NoSecret(e.to_string()))
    }

    /// The value of `webhook-signature`. `timestamp`: seconds since the Unix epoch, as in `webhook-timestamp`.
    pub fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        let mut mac = self.0.clone();
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the reference implementations of Standard Webhooks.
    #[test]
    fn the_vectors_of_standard_webhooks() {
        let vectors = [
            (
                "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                "1649367553",
                r#"{"email":"test@example.com","username":"test_user"}"#,
                "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
            ),
            (
                "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                "1614265330",
                r#"{"test": 2432232314}"#,
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
        ];
        for (secret, id, time, body, expected) in vectors {
            let key = SigningKey::read(secret, Path::new("")).unwrap();
            assert_eq!(key.sign(id, time, body.as_bytes()), expected);
        }
    }

    #[test]
    fn references_are_resolved_and_errors_hold_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("s"),
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n",
        )
        .unwrap();
        assert!(SigningKey::read("file:s", dir.path()).is_ok());
        for wrong in [
            "file:none",
            "env:OMNILINK_NO_SUCH_SECRET",
            "whsec_",
            "hunter2",
            "whsec_!!",
        ] {
            let error = SigningKey::read(wrong, dir.path()).err().unwrap();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
