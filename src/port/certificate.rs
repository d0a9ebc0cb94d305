//! A certificate and its private key, read from PEM files.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio_rustls::rustls::{
    self, InconsistentKeys,
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};
use x509_cert::{Certificate as X509, der::Decode};

use crate::{base::clock::Millis, telemetry::PartStatus};

/// A certificate is reported as expiring from this long before its end.
const EXPIRES_SOON: Duration = Duration::from_hours(14 * 24);
/// The size limit of a file, in bytes; chains have a few kilobytes.
const FILE_BYTES: u64 = 1 << 20;

/// The paths of the certificate and its key.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate, followed by its intermediates.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Why a certificate cannot be used. It names the file and never contains any part of a key.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("{}: cannot be read: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The operating system's error.
        error: io::Error,
    },
    /// A file is not PEM.
    #[error("{}: is not a PEM file: {reason}", file.display())]
    Pem {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// The certificate file contains no certificate.
    #[error("{}: contains no certificate (a block `BEGIN CERTIFICATE`)", .0.display())]
    NoCertificate(PathBuf),
    /// A certificate in the file is not valid X.509.
    #[error("{}: certificate {position} is not a valid X.509 certificate", file.display())]
    NotX509 {
        /// The file.
        file: PathBuf,
        /// The number of the certificate in the file, from 1.
        position: usize,
    },
    /// The key file contains no usable key.
    #[error(
        "{}: contains no private key in PKCS#8, PKCS#1 or SEC1 form; an encrypted key must be decrypted first",
        .0.display()
    )]
    NoKey(PathBuf),
    /// TLS does not support this kind of key, or the key is damaged.
    #[error("{}: the private key cannot be used; supported are RSA (2048 to 8192 bits), ECDSA (P-256, P-384) and Ed25519", .0.display())]
    UnusableKey(PathBuf),
    /// The key does not belong to the certificate.
    #[error(
        "{}: the private key is not that of the first certificate in {}; the server's own certificate comes first",
        key.display(), cert.display()
    )]
    Mismatch {
        /// The key file.
        key: PathBuf,
        /// The certificate file.
        cert: PathBuf,
    },
}

/// The content of both files, not parsed yet. It has no `Debug` because it contains a key.
pub(super) struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
}

/// The hash of both files, which detects a change.
pub(super) type Fingerprint = [u8; 32];

/// A certificate that can be served.
#[derive(Clone)]
pub struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    not_before: Millis,
    not_after: Millis,
}

impl Contents {
    /// Reads both files.
    pub(super) fn read(files: &Files) -> Result<Self, CertificateError> {
        Ok(Self {
            cert: read(&files.cert)?,
            key: read(&files.key)?,
        })
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        let mut hash = Sha256::new();
        hash.update((self.cert.len() as u64).to_be_bytes());
        hash.update(&self.cert);
        hash.update(&self.key);
        hash.finalize().into()
    }

    /// Parses both; `files` is only used in errors.
    pub(super) fn parse(
        &self,
        files: &Files,
        provider: &CryptoProvider,
    ) -> Result<Certificate, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(&self.cert)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| not_pem(&files.cert, &error))?;
        let mut validity = None;
        for (index, certificate) in chain.iter().enumerate() {
            let parsed = X509::from_der(certificate).map_err(|_| CertificateError::NotX509 {
                file: files.cert.clone(),
                position: index + 1,
            })?;
            validity.get_or_insert(*parsed.tbs_certificate().validity());
        }
        let Some(validity) = validity else {
            return Err(CertificateError::NoCertificate(files.cert.clone()));
        };
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| match error {
            pem::Error::NoItemsFound => CertificateError::NoKey(files.key.clone()),
            error => not_pem(&files.key, &error),
        })?;
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                CertificateError::Mismatch {
                    key: files.key.clone(),
                    cert: files.cert.clone(),
                }
            }
            rustls::Error::InvalidCertificate(_) => CertificateError::NotX509 {
                file: files.cert.clone(),
                position: 1,
            },
            _ => CertificateError::UnusableKey(files.key.clone()),
        })?;
        let millis =
            |time: x509_cert::time::Time| Millis(time.to_unix_duration().as_millis() as i64);
        Ok(Certificate {
            key: Arc::new(key),
            not_before: millis(validity.not_before),
            not_after: millis(validity.not_after),
        })
    }
}

impl Certificate {
    /// Reads and checks both files.
    pub fn load(files: &Files) -> Result<Self, CertificateError> {
        Contents::read(files)?.parse(files, &rustls::crypto::ring::default_provider())
    }

    /// Degraded if the certificate is not valid yet, has expired, or will expire soon.
    pub fn status(&self, now: Millis) -> PartStatus {
        if now < self.not_before {
            let from = Time(self.not_before);
            return PartStatus::degraded(format!("the certificate is valid only from {from}"));
        }
        let end = Time(self.not_after);
        if now > self.not_after {
            return PartStatus::degraded(format!("the certificate expired at {end}"));
        }
        let detail = format!("the certificate expires at {end}");
        if self.not_after.0 - now.0 < EXPIRES_SOON.as_millis() as i64 {
            return PartStatus::degraded(detail);
        }
        PartStatus::ok(detail)
    }
}

/// A timestamp that is displayed as RFC 3339.
struct Time(Millis);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_second(self.0.0.div_euclid(1000)) {
            Ok(time) => write!(f, "{time}"),
            Err(_) => write!(f, "{} ms", self.0.0),
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, CertificateError> {
    let limited = || {
        if std::fs::metadata(file)?.len() > FILE_BYTES {
            return Err(io::Error::other("it has more than 1 MiB"));
        }
        std::fs::read(file)
    };
    limited().map_err(|error| CertificateError::Read {
        file: file.to_owned(),
        error,
    })
}

/// Leaves out the parser's error text, which quotes the file.
fn not_pem(file: &Path, error: &pem::Error) -> CertificateError {
    let reason = match error {
        pem::Error::MissingSectionEnd { .. } => "a block has no end",
        pem::Error::IllegalSectionStart { .. } => "the first line of a block is malformed",
        pem::Error::Base64Decode(_) => "a block is not base64",
        _ => "it is malformed",
    };
    CertificateError::Pem {
        file: file.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Status;

    #[test]
    fn its_end_is_reported_from_14_days_before() {
        const DAY: i64 = 86_400_000;
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
        let files = Files {
            cert: folder.path().join("cert.pem"),
            key: folder.path().join("key.pem"),
        };
        std::fs::write(&files.cert, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        let certificate = Certificate::load(&files).unwrap();
        let (from, end) = (certificate.not_before, certificate.not_after);
        for (now, status, word) in [
            (Millis(from.0 - 1), Status::Degraded, "valid only from"),
            (from, Status::Ok, "expires at"),
            (Millis(end.0 - 15 * DAY), Status::Ok, "expires at"),
            (Millis(end.0 - 13 * DAY), Status::Degraded, "expires at"),
            (Millis(end.0 + 1), Status::Degraded, "expired at"),
        ] {
            let report = certificate.status(now);
            assert_eq!(report.status, status, "{now:?}");
            assert!(report.detail.contains(word), "{}", report.detail);
        }
    }
}
