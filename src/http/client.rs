//! The HTTP client: connections, timeouts, the limit on response bodies, and the resolver that applies [`Reach`].

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{Request, Response, StatusCode, Uri, http::uri::Scheme};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client as Pool,
        connect::{HttpConnector, dns::Name},
    },
    rt::{TokioExecutor, TokioTimer},
};
use tower::Service;

use super::reach::{Forbidden, Reach};

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The time limit for establishing a connection.
    pub connect_timeout: Duration,
    /// The time limit for the whole exchange, from connecting to the last byte of the response.
    pub timeout: Duration,
    /// The maximum size of a response body, in bytes.
    pub max_body_bytes: usize,
    /// Which addresses the client may reach.
    pub reach: Reach,
}

/// There are no root certificates to verify a server's certificate with.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "https needs the machine's root certificates (the package ca-certificates, or SSL_CERT_FILE): {0}"
)]
pub struct NoRoots(#[source] Arc<io::Error>);

/// A request that did not get a usable response.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The address may not be reached.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The URL is `https://`, and there are no root certificates.
    #[error(transparent)]
    NoRoots(#[from] NoRoots),
    /// The URL has no host.
    #[error("the URL has no host")]
    NoHost,
    /// The response was not complete in time. The server may have acted on the request.
    #[error("no response within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// No connection could be established: the server has not seen the request.
    #[error("cannot connect: {}", root_cause(.0))]
    Connect(#[source] hyper_util::client::legacy::Error),
    /// The connection failed before the response. The server may have acted on the request.
    #[error("no response: {}", root_cause(.0))]
    Request(#[source] hyper_util::client::legacy::Error),
    /// The connection failed while the response body was read.
    #[error("the response was cut off: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The response body exceeds [`Options::max_body_bytes`].
    #[error("the response ({status}) has more than {max} bytes")]
    TooLarge {
        /// The status of the response.
        status: StatusCode,
        /// The limit, in bytes.
        max: usize,
    },
}

impl RequestError {
    /// Whether the request never reached the server, so that the server cannot have acted on it.
    pub fn not_sent(&self) -> bool {
        matches!(
            self,
            Self::Forbidden(_) | Self::NoRoots(_) | Self::NoHost | Self::Connect(_)
        )
    }
}

/// The message of the root cause: hyper's outer errors add no information.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// An HTTP/1.1 client, with and without TLS, and with a connection pool. Redirects are returned as responses and never followed. Cheap
/// to clone; clones share the pool.
#[derive(Clone)]
pub struct Client {
    plain: Pool<HttpConnector<Resolver>, Full<Bytes>>,
    tls: Result<Pool<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>, NoRoots>,
    options: Options,
}

impl Client {
    /// Creates a client. Without root certificates it can still send requests to `http://` URLs.
    pub fn new(options: Options) -> Self {
        let mut connector = HttpConnector::new_with_resolver(Resolver(options.reach.clone()));
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(options.connect_timeout));
        let mut pool = Pool::builder(TokioExecutor::new());
        pool.pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30));
        let plain = pool.build(connector.clone());
        connector.enforce_http(false);
        let tls = match HttpsConnectorBuilder::new().with_native_roots() {
            Ok(builder) => Ok(pool.build(
                builder
                    .https_only()
                    .enable_http1()
                    .wrap_connector(connector),
            )),
            Err(error) => Err(NoRoots(Arc::new(error))),
        };
        Self {
            plain,
            tls,
            options,
        }
    }

    /// Fails if `https://` URLs cannot be requested because there are no root certificates.
    pub fn check_tls(&self) -> Result<(), NoRoots> {
        self.tls.as_ref().map(drop).map_err(Clone::clone)
    }

    /// Sends a request and reads the whole response. Any status is a response, not an error.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, RequestError> {
        self.send_within(self.options.timeout, request).await
    }

    /// As [`Client::send`], with a time limit of its own for this request.
    pub async fn send_within(
        &self,
        limit: Duration,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, RequestError> {
        self.check_host(request.uri())?;
        let exchange = tokio::time::timeout(limit, self.exchange(request));
        exchange.await.unwrap_or(Err(RequestError::Timeout(limit)))
    }

    /// Checks the host of a URL. Literal addresses never pass through the resolver, so they are checked here.
    fn check_host(&self, uri: &Uri) -> Result<(), RequestError> {
        let host = uri.host().ok_or(RequestError::NoHost)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = host.to_ascii_lowercase();
        self.options.reach.check_host(&host)?;
        if let Ok(address) = host.parse::<IpAddr>() {
            self.options.reach.check_address(&host, address)?;
        }
        Ok(())
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, RequestError> {
        let request = request.map(Full::new);
        let response = if request.uri().scheme() == Some(&Scheme::HTTPS) {
            let tls = self.tls.as_ref().map_err(Clone::clone)?;
            tls.request(request).await
        } else {
            self.plain.request(request).await
        };
        let (head, body) = response.map_err(request_error)?.into_parts();
        let max = self.options.max_body_bytes;
        let body = Limited::new(body, max).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                RequestError::TooLarge {
                    status: head.status,
                    max,
                }
            } else {
                RequestError::Body(error)
            }
        })?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

fn request_error(error: hyper_util::client::legacy::Error) -> RequestError {
    if !error.is_connect() {
        return RequestError::Request(error);
    }
    let mut cause: &dyn std::error::Error = &error;
    loop {
        if let Some(forbidden) = forbidden(cause) {
            return RequestError::Forbidden(forbidden.clone());
        }
        match cause.source() {
            Some(inner) => cause = inner,
            None => return RequestError::Connect(error),
        }
    }
}

/// The resolver's refusal, which reaches us wrapped in an I/O error.
fn forbidden<'e>(cause: &'e (dyn std::error::Error + 'static)) -> Option<&'e Forbidden> {
    let io: &io::Error = cause.downcast_ref()?;
    io.get_ref()?.downcast_ref()
}

/// Resolves names with the system's resolver, and drops the addresses that may not be reached.
#[derive(Clone)]
struct Resolver(Reach);

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let reach = self.0.clone();
        Box::pin(async move {
            let host = name.as_str().to_ascii_lowercase();
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let mut refused = None;
            let mut allowed = Vec::new();
            for address in found {
                match reach.check_address(&host, address.ip()) {
                    Ok(()) => allowed.push(address),
                    Err(forbidden) => refused = Some(forbidden),
                }
            }
            match refused {
                Some(forbidden) if allowed.is_empty() => Err(io::Error::other(forbidden)),
                _ => Ok(allowed.into_iter()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn client(reach: Reach) -> Client {
        Client::new(Options {
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_millis(500),
            max_body_bytes: 16,
            reach,
        })
    }

    /// Starts a server that sends the same response on each connection, or nothing; returns its port.
    async fn server(response: Option<&'static str>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut head = [0; 1024];
                    let _ = stream.read(&mut head).await;
                    match response {
                        Some(text) => stream.write_all(text.as_bytes()).await.unwrap(),
                        None => std::future::pending().await,
                    }
                });
            }
        });
        port
    }

    async fn get(client: &Client, url: &str) -> Result<Response<Bytes>, RequestError> {
        client
            .send(Request::get(url).body(Bytes::new()).unwrap())
            .await
    }

    #[tokio::test]
    async fn responses_are_bounded_in_time_and_size_and_redirects_are_not_followed() {
        let any = client(Reach::Configured);
        let ok = server(Some("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")).await;
        let response = get(&any, &format!("http://localhost:{ok}/")).await.unwrap();
        assert_eq!(response.body(), "ok");
        let long = server(Some(
            "HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n01234567890123456",
        ))
        .await;
        let error = get(&any, &format!("http://127.0.0.1:{long}/")).await;
        assert!(
            matches!(error, Err(RequestError::TooLarge { max: 16, .. })),
            "{error:?}"
        );
        let silent = server(None).await;
        let error = get(&any, &format!("http://127.0.0.1:{silent}/"))
            .await
            .unwrap_err();
        assert!(
            matches!(error, RequestError::Timeout(_)) && !error.not_sent(),
            "{error:?}"
        );
        let moved = server(Some(
            "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n",
        ))
        .await;
        let response = get(&any, &format!("http://127.0.0.1:{moved}/"))
            .await
            .unwrap();
        assert_eq!(response.status(), 302);
    }

    #[tokio::test]
    async fn a_refused_connection_counts_as_not_sent() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = closed.local_addr().unwrap().port();
        drop(closed);
        let error = get(
            &client(Reach::Configured),
            &format!("http://127.0.0.1:{port}/"),
        )
        .await
        .unwrap_err();
        assert!(error.not_sent(), "{error:?}");
    }

    #[tokio::test]
    async fn names_are_checked_by_the_addresses_they_resolve_to() {
        let port = server(Some("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")).await;
        let listed = |host: &str| client(Reach::Listed(Arc::from([host.to_owned()])));
        // A host that the list names may have a private address.
        let url = format!("http://localhost:{port}/");
        assert!(get(&listed("localhost"), &url).await.is_ok());
        let error = get(&listed("example.com"), &url).await;
        assert!(
            matches!(error, Err(RequestError::Forbidden(Forbidden::NotListed(_)))),
            "{error:?}"
        );
        // A host that only matches a pattern may not.
        let error = get(
            &listed("*.localhost"),
            &format!("http://a.localhost:{port}/"),
        )
        .await;
        let refused = matches!(
            &error,
            Err(RequestError::Forbidden(Forbidden::Address { .. }) | RequestError::Connect(_))
        );
        assert!(refused, "{error:?}");
        let error = get(&client(Reach::Configured), "http://169.254.169.254/latest").await;
        assert!(
            matches!(
                error,
                Err(RequestError::Forbidden(Forbidden::Address { .. }))
            ),
            "{error:?}"
        );
    }
}
