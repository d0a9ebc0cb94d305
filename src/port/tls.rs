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

/// How often the files are compared with what is served.
const POLL: Duration = Duration::from_secs(5);

/// The certificate of the port. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    files: Files,
    served: Arc<Served>,
    acceptor: TlsAcceptor,
}

/// Reads the certificate again when its files change, until it is dropped.
pub struct Reloads(JoinHandle<()>);

/// The certificate that new handshakes get, and what is wrong with the files since.
struct Served {
    provider: Arc<CryptoProvider>,
    state: RwLock<State>,
}

struct State {
    certificate: Certificate,
    /// Of the files that `certificate` was read from.
    fingerprint: Fingerprint,
    /// Why the files as they are now are not served.
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
        // The versions of rustls that are safe: TLS 1.2 and 1.3.
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

    /// Looks at the files every five seconds and on SIGHUP. A pair that cannot be used is reported, and the one before stays.
    pub fn watch(&self) -> io::Result<Reloads> {
        let tls = self.clone();
        let mut hangup = signal(SignalKind::hangup())?;
        Ok(Reloads(tokio::spawn(async move {
            let mut poll = tokio::time::interval(POLL);
            // What could not be used the last time: a pair that is half written is only reported when it stays so.
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

    /// Serves what the files hold now. Returns what it could not use: the error's text. `before` is what the look before
    /// returned; it is reported if it is the same now, or at once.
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
                        tracing::info!("the certificate of the port was read again");
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
            tracing::warn!(error = %fault, "the new certificate of the port cannot be used; the one before is served");
            state.fault = Some(fault.clone());
        }
        Some(fault)
    }

    /// For `/readyz`: degraded while the files cannot be used, and from 14 days before the certificate's end.
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
                    "the certificate before is served, because the new one cannot be used: {fault}"
                )),
            }
        }
    }

    /// The handshake of a connection.
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
    /// One of the files.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The cryptography that was compiled in.
    #[error("no version of TLS can be used: {0}")]
    Provider(tokio_rustls::rustls::Error),
}
