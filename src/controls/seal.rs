//! Authenticated encryption ("sealing") with `secret_key`: XChaCha20-Poly1305, with the place of the sealed bytes as associated
//! data. The first key seals, all keys open.

use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The file in the data directory with the generated key: base64, one key per line.
pub const FILE: &str = "secret.key";

const VERSION: u8 = 1;
const NONCE: usize = 24;

/// Why there is no usable secret key, or why something cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// There is no key.
    #[error("`secret_key` holds no key")]
    NoKey,
    /// Not base64 of 32 bytes.
    #[error("{0} must hold base64 of 32 bytes a line: `openssl rand -base64 32` makes one")]
    BadKey(String),
    /// The key file cannot be read or created.
    #[error("{path}: {error}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// Sealed with an unknown key, for another place, or damaged.
    #[error("sealed with a key that is not in `secret_key`, or damaged")]
    Closed,
}

/// The keys of `secret_key`.
pub struct SecretKeys {
    ciphers: Vec<XChaCha20Poly1305>,
    signing: Vec<[u8; 32]>,
}

/// Shows how many there are, and none of them.
impl fmt::Debug for SecretKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SecretKeys")
            .field(&self.ciphers.len())
            .finish()
    }
}

impl SecretKeys {
    /// Parses base64 keys; the first seals.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Result<Self, SealError> {
        let keys = keys
            .into_iter()
            .map(|text| {
                let bytes = STANDARD
                    .decode(text.trim())
                    .map_err(|_| SealError::BadKey("`secret_key`".into()))?;
                let key: [u8; 32] = bytes
                    .try_into()
                    .map_err(|_| SealError::BadKey("`secret_key`".into()))?;
                Ok(key)
            })
            .collect::<Result<Vec<[u8; 32]>, SealError>>()?;
        if keys.is_empty() {
            return Err(SealError::NoKey);
        }
        let cipher = |key| XChaCha20Poly1305::new(&derive(key, SEALING).into());
        Ok(Self {
            ciphers: keys.iter().map(cipher).collect(),
            signing: keys.iter().map(|key| derive(key, SIGNING)).collect(),
        })
    }

    /// The keys in `data_dir`; creates one if there is none.
    pub fn open_or_create(data_dir: &Path) -> Result<Self, SealError> {
        let path = data_dir.join(FILE);
        let failed = |error| SealError::File {
            path: path.clone(),
            error,
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let text = STANDARD.encode(rand::random::<[u8; 32]>());
                write_private(&path, &text).map_err(failed)?;
                text
            }
            Err(e) => return Err(failed(e)),
        };
        Self::new(text.lines().filter(|line| !line.trim().is_empty())).map_err(|e| match e {
            SealError::BadKey(_) => SealError::BadKey(path.display().to_string()),
            other => other,
        })
    }

    /// Seals `plain`; the result can be opened only with the same `place`.
    pub fn seal(&self, plain: &[u8], place: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE] = rand::random();
        let payload = Payload {
            msg: plain,
            aad: place,
        };
        let mut sealed = vec![VERSION];
        sealed.extend_from_slice(&nonce);
        // Encryption fails only above 256 GiB; the empty result then cannot be opened.
        sealed.extend(
            self.ciphers[0]
                .encrypt(&XNonce::from(nonce), payload)
                .unwrap_or_default(),
        );
        sealed
    }

    /// A signature (HMAC-SHA256) over parts, valid for one purpose.
    pub fn sign(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        mac_over(&self.signing[0], purpose, parts)
            .finalize()
            .into_bytes()
            .into()
    }

    /// Whether any of the keys signed the parts for the purpose. Compares in constant time.
    pub fn signed(&self, purpose: &str, parts: &[&[u8]], signature: &[u8]) -> bool {
        self.signing.iter().any(|key| {
            mac_over(key, purpose, parts)
                .verify_slice(signature)
                .is_ok()
        })
    }

    /// Opens what [`SecretKeys::seal`] sealed for the same place.
    pub fn open(&self, sealed: &[u8], place: &[u8]) -> Result<Vec<u8>, SealError> {
        let (version, rest) = sealed.split_first().ok_or(SealError::Closed)?;
        let (nonce, cipher_text) = rest.split_first_chunk::<NONCE>().ok_or(SealError::Closed)?;
        if *version != VERSION {
            return Err(SealError::Closed);
        }
        self.ciphers
            .iter()
            .find_map(|cipher| {
                let payload = Payload {
                    msg: cipher_text,
                    aad: place,
                };
                cipher.decrypt(&XNonce::from(*nonce), payload).ok()
            })
            .ok_or(SealError::Closed)
    }
}

/// Purposes of derived keys.
const SEALING: &[u8] = b"omnilink seal 1";
const SIGNING: &[u8] = b"omnilink sign 1";

/// Derives the key for one purpose.
fn derive(key: &[u8; 32], purpose: &[u8]) -> [u8; 32] {
    let mut mac = hmac(key);
    mac.update(purpose);
    mac.finalize().into_bytes().into()
}

fn hmac(key: &[u8; 32]) -> Hmac<Sha256> {
    match Hmac::<Sha256>::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    }
}

/// An HMAC over the parts with their lengths, so that different splits of the same bytes differ.
fn mac_over(key: &[u8; 32], purpose: &str, parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = hmac(key);
    for part in std::iter::once(purpose.as_bytes()).chain(parts.iter().copied()) {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac
}

/// Writes a file that only its owner can read, atomically and durably.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let new = path.with_extension("new");
    // A leftover of a killed process may have other permissions.
    let _ = fs::remove_file(&new);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => fs::File::open(dir)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn opens_only_where_it_was_sealed_and_with_any_key_of_the_list() {
        let text = |n: u8| STANDARD.encode([n; 32]);
        let old = SecretKeys::new([&text(1)[..]]).unwrap();
        let both = SecretKeys::new([&text(2)[..], &text(1)]).unwrap();
        let sealed = old.seal(b"secret", b"here");
        assert_eq!(both.open(&sealed, b"here").unwrap(), b"secret");
        assert!(both.open(&sealed, b"there").is_err());
        assert!(old.open(&both.seal(b"secret", b"here"), b"here").is_err());
        for cut in 0..sealed.len() {
            assert!(old.open(&sealed[..cut], b"here").is_err());
        }
        assert!(SecretKeys::new([]).is_err());
        assert!(SecretKeys::new(["c2hvcnQ="]).is_err());
    }

    #[test]
    fn signatures_are_for_one_purpose_and_any_key_of_the_list() {
        let text = |n: u8| STANDARD.encode([n; 32]);
        let old = SecretKeys::new([&text(1)[..]]).unwrap();
        let both = SecretKeys::new([&text(2)[..], &text(1)]).unwrap();
        let signature = old.sign("a", &[b"x", b"yz"]);
        assert!(both.signed("a", &[b"x", b"yz"], &signature));
        assert!(!both.signed("b", &[b"x", b"yz"], &signature));
        assert!(!both.signed("a", &[b"xy", b"z"], &signature));
        assert!(!old.signed("a", &[b"x", b"yz"], &both.sign("a", &[b"x", b"yz"])));
    }

    #[test]
    fn the_key_file_is_created_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = SecretKeys::open_or_create(dir.path()).unwrap();
        let again = SecretKeys::open_or_create(dir.path()).unwrap();
        assert_eq!(again.open(&first.seal(b"x", b""), b"").unwrap(), b"x");
        let mode = fs::metadata(dir.path().join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
