//! TLS of the port: the certificate that is served, its reload, and the handshake.

use std::{fmt, io, path::Path, sync::Arc, time::Duration};

use parking_lot::RwLock;
use tokio::{
    net::TcpStream,
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::{CryptoProvider, ring},
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
    },
    server::TlsStream,
};

use super::certificate::{Certificate, CertificateError, Contents, Files, Fingerprint};
use crate::{
    base::clock::Clock,
    telemetry::{PartStatus, Status},
};

/// How often the files are compared with the served certificate.
const POLL: Duration = Duration::from_secs(5);

/// The certificate of the port. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    files: Files,
    served: Arc<Served>,
    acceptor: TlsAcceptor,
}

/// Reloads the certificate when its files change, until this is dropped.
pub struct Reloads(JoinHandle<()>);

/// The certificate for new handshakes, and the error of a later version of the files.
struct Served {
    provider: Arc<CryptoProvider>,
    state: RwLock<State>,
}

struct State {
    certificate: Certificate,
    /// The fingerprint of the files from which `certificate` was read.
    fingerprint: Fingerprint,
    /// Why the current files are not served.
    fault: Option<String>,
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.state.read().certificate.key))
    }
}

impl Tls {
    /// Reads the certificate and its key.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let files = Files {
            cert: cert.to_owned(),
            key: key.to_owned(),
        };
        let provider = Arc::new(ring::default_provider());
        let contents = Contents::read(&files)?;
        let served = Arc::new(Served {
            state: RwLock::new(State {
                certificate: contents.parse(&files, &provider)?,
                fingerprint: contents.fingerprint(),
                fault: None,
            }),
            provider: Arc::clone(&provider),
        });
        // The versions that rustls considers safe: TLS 1.2 and 1.3.
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Provider)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&served) as _);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            files,
            served,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }

    /// Checks the files every five seconds and on SIGHUP. If a new pair cannot be used, this is reported, and the previous one stays in
    /// use.
    pub fn watch(&self) -> io::Result<Reloads> {
        let tls = self.clone();
        let mut hangup = signal(SignalKind::hangup())?;
        Ok(Reloads(tokio::spawn(async move {
            let mut poll = tokio::time::interval(POLL);
            // The error of the last check: a pair that is still being written is only reported if the error persists.
            let mut refused = None;
            loop {
                let at_once = tokio::select! {
                    _ = poll.tick() => false,
                    _ = hangup.recv() => true,
                };
                let (tls, before) = (tls.clone(), refused.take());
                let looked =
                    tokio::task::spawn_blocking(move || tls.reload(before.as_deref(), at_once));
                refused = looked.await.ok().flatten();
            }
        })))
    }

    /// Loads the current files. Returns the error if they cannot be used. `before` is the result of the last check; an error is reported
    /// if it is the same again, or if `at_once` is set.
    fn reload(&self, before: Option<&str>, at_once: bool) -> Option<String> {
        let fault = match Contents::read(&self.files) {
            Ok(contents) => {
                let fingerprint = contents.fingerprint();
                if fingerprint == self.served.state.read().fingerprint {
                    self.served.state.write().fault = None;
                    return None;
                }
                match contents.parse(&self.files, &self.served.provider) {
                    Ok(certificate) => {
                        *self.served.state.write() = State {
                            certificate,
                            fingerprint,
                            fault: None,
                        };
                        tracing::info!("the certificate of the port was reloaded");
                        return None;
                    }
                    Err(error) => error.to_string(),
                }
            }
            Err(error) => error.to_string(),
        };
        let mut state = self.served.state.write();
        let reported = state.fault.as_ref() == Some(&fault);
        if !reported && (at_once || before == Some(&*fault)) {
            tracing::warn!(error = %fault, "the new certificate of the port cannot be used; the previous one is still served");
            state.fault = Some(fault.clone());
        }
        Some(fault)
    }

    /// The status for `/readyz`: degraded while the files cannot be used, and from 14 days before the certificate expires.
    pub fn probe(
        &self,
        clock: Arc<dyn Clock>,
    ) -> impl Fn() -> PartStatus + Send + Sync + use<> + 'static {
        let served = Arc::clone(&self.served);
        move || {
            let state = served.state.read();
            let status = state.certificate.status(clock.now());
            match &state.fault {
                None if status.status == Status::Ok => PartStatus::ok(""),
                None => status,
                Some(fault) => PartStatus::degraded(format!(
                    "the previous certificate is still served, because the new one cannot be used: {fault}"
                )),
            }
        }
    }

    /// Performs the TLS handshake of a connection.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }
}

impl Drop for Reloads {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why the port cannot use TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The cryptography provider does not support the TLS versions.
    #[error("no version of TLS can be used: {0}")]
    Provider(tokio_rustls::rustls::Error),
}
