//! HMACs over a body, compared in constant time.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{EagerHash, Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::base::hex::hex;

/// The hash function of an HMAC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    /// HMAC-SHA1, which is not broken as an HMAC; new senders use SHA-256.
    Sha1,
    /// HMAC-SHA256.
    Sha256,
}

/// The encoding of a signature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// Hexadecimal.
    Hex,
    /// RFC 4648, section 4, with padding.
    Base64,
}

/// Signs the concatenated parts, in the sender's encoding; hexadecimal is in lower case.
pub(super) fn sign(
    algorithm: Algorithm,
    encoding: Encoding,
    key: &[u8],
    parts: &[&[u8]],
) -> String {
    let digest = match algorithm {
        Algorithm::Sha1 => mac::<Sha1>(key, parts),
        Algorithm::Sha256 => mac::<Sha256>(key, parts),
    };
    match encoding {
        Encoding::Hex => hex(&digest),
        Encoding::Base64 => STANDARD.encode(digest),
    }
}

/// Whether two signatures are the same text, compared in a time that only depends on their lengths.
pub(super) fn same(expected: &str, given: &str) -> bool {
    expected.as_bytes().ct_eq(given.as_bytes()).into()
}

/// Whether one of the signatures was made with one of the keys.
pub(super) fn verify<'k>(
    algorithm: Algorithm,
    encoding: Encoding,
    keys: impl Iterator<Item = &'k [u8]>,
    parts: &[&[u8]],
    given: &[&str],
) -> bool {
    let mut good = false;
    for key in keys {
        let expected = sign(algorithm, encoding, key, parts);
        // All signatures are compared, so that the time does not reveal which one matched.
        for given in given {
            good |= same(&expected, given);
        }
    }
    good
}

/// The SHA-256 of the concatenated parts, in hexadecimal.
pub(super) fn sha256_hex(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hex(&hash.finalize())
}

fn mac<H: EagerHash>(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let Ok(mut mac) = <Hmac<H> as KeyInit>::new_from_slice(key) else {
        unreachable!("HMAC takes keys of any length");
    };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_rfc_2202_and_rfc_4231() {
        let parts: &[&[u8]] = &[b"what do ya want ", b"for nothing?"];
        let sign = |algorithm, encoding| sign(algorithm, encoding, b"Jefe", parts);
        assert_eq!(
            sign(Algorithm::Sha1, Encoding::Hex),
            "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"
        );
        assert_eq!(
            sign(Algorithm::Sha256, Encoding::Hex),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            sign(Algorithm::Sha256, Encoding::Base64),
            "W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM="
        );
    }

    #[test]
    fn one_good_signature_under_one_good_key_is_enough() {
        let keys = [&b"old"[..], b"new"];
        let good = sign(Algorithm::Sha256, Encoding::Hex, b"new", &[b"body"]);
        let check = |given: &[&str]| {
            verify(
                Algorithm::Sha256,
                Encoding::Hex,
                keys.into_iter(),
                &[b"body"],
                given,
            )
        };
        assert!(check(&["", &good]));
        assert!(!check(&[]));
        assert!(!check(&[&good[1..], &good.to_uppercase(), ""]));
    }
}
