//! Certificates for tests, and connections that trust them.

use std::{net::SocketAddr, path::Path, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, KeyPair};
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, SupportedProtocolVersion,
        crypto::ring,
        pki_types::{CertificateDer, ServerName},
        version::{TLS12, TLS13},
    },
};

/// A certificate for `localhost` that signs itself.
pub struct Made {
    pub der: CertificateDer<'static>,
    pub cert_pem: String,
    pub key_pem: String,
}

impl Made {
    pub fn new() -> Self {
        Self::until(100)
    }

    /// Expires after this many days.
    pub fn until(days: i64) -> Self {
        let mut params = CertificateParams::new(["localhost".into()]).unwrap();
        let now = std::time::SystemTime::now();
        let day = std::time::Duration::from_hours(24);
        params.not_before = (now - 2 * day).into();
        params.not_after = if days >= 0 {
            (now + day * days as u32).into()
        } else {
            (now - day).into()
        };
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        Self {
            der: cert.der().clone(),
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    /// Writes `cert.pem` and `key.pem`.
    pub fn write(&self, dir: &Path) {
        std::fs::write(dir.join("key.pem"), &self.key_pem).unwrap();
        std::fs::write(dir.join("cert.pem"), &self.cert_pem).unwrap();
    }

    /// A client that trusts it and offers this protocol.
    pub fn connector(&self, protocol: &str) -> TlsConnector {
        self.connector_with(protocol, &[&TLS12, &TLS13])
    }

    pub fn connector_with(
        &self,
        protocol: &str,
        versions: &[&'static SupportedProtocolVersion],
    ) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        TlsConnector::from(Arc::new(config))
    }

    pub async fn connect(&self, address: SocketAddr, protocol: &str) -> TlsStream<TcpStream> {
        connect(&self.connector(protocol), address).await.unwrap()
    }
}

pub async fn connect(
    connector: &TlsConnector,
    address: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    // A request in two writes would wait for an acknowledgement in between, up to 40 ms.
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").unwrap();
    connector.connect(name, stream).await
}

pub type Http1 = http1::SendRequest<Full<Bytes>>;
pub type Http2 = http2::SendRequest<Full<Bytes>>;

/// A client on this connection, and the task that ends with the connection.
pub async fn http1(stream: TlsStream<TcpStream>) -> (Http1, JoinHandle<hyper::Result<()>>) {
    let (client, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    (client, tokio::spawn(connection))
}

/// A client on this connection, and the task that ends with the connection.
pub async fn http2(stream: TlsStream<TcpStream>) -> (Http2, JoinHandle<hyper::Result<()>>) {
    let executor = TokioExecutor::new();
    let (client, connection) = http2::handshake(executor, TokioIo::new(stream))
        .await
        .unwrap();
    (client, tokio::spawn(connection))
}
