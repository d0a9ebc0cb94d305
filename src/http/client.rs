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
use hyper::{Request, Response, Uri, http::uri::Scheme};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{HttpConnector, dns::Name};
use tower::Service;

use super::{
    error::{NoRoots, RequestError},
    pool::Pool,
    reach::Reach,
};

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

/// An HTTP/1.1 client, with and without TLS, and with a connection pool. Redirects are returned as responses and never followed. Cheap
/// to clone; clones share the pool.
#[derive(Clone)]
pub struct Client {
    plain: Pool<HttpConnector<Resolver>>,
    tls: Result<Pool<HttpsConnector<HttpConnector<Resolver>>>, NoRoots>,
    options: Options,
}

impl Client {
    /// Creates a client. Without root certificates it can still send requests to `http://` URLs.
    pub fn new(options: Options) -> Self {
        let mut connector = HttpConnector::new_with_resolver(Resolver(options.reach.clone()));
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(options.connect_timeout));
        let plain = Pool::new(connector.clone());
        connector.enforce_http(false);
        let tls = match HttpsConnectorBuilder::new().with_native_roots() {
            Ok(builder) => Ok(Pool::new(
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
        let max = self.options.max_body_bytes;
        if request.uri().scheme() == Some(&Scheme::HTTPS) {
            let tls = self.tls.as_ref().map_err(Clone::clone)?;
            // In a box, so that requests without TLS do not carry its room too.
            Box::pin(tls.send(request, max)).await
        } else {
            self.plain.send(request, max).await
        }
    }
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpSocket},
    };

    use super::{super::Forbidden, *};

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

    /// Starts a server that answers `per_connection` requests of each connection with their first line and `Host`, and then closes it
    /// without saying so; returns its port, and how many connections it has accepted.
    async fn echo(per_connection: usize) -> (u16, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    for _ in 0..per_connection {
                        let mut head = Vec::new();
                        while !head.ends_with(b"\r\n\r\n") {
                            let mut byte = [0];
                            if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                                return;
                            }
                            head.push(byte[0]);
                        }
                        let head = String::from_utf8(head).unwrap();
                        let lines = head.lines();
                        let wanted =
                            lines.filter(|l| l.starts_with("GET") || l.starts_with("host"));
                        let text: Vec<_> = wanted.collect();
                        let text = text.join("|");
                        let length = text.len();
                        let answer =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}");
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        (port, accepted)
    }

    fn roomy() -> Client {
        let mut options = client(Reach::Configured).options;
        options.max_body_bytes = 1024;
        Client::new(options)
    }

    #[tokio::test]
    async fn connections_are_kept_and_targets_are_paths() {
        let ((port, accepted), client) = (echo(100).await, roomy());
        for path in ["/", "/a/b?c=d", ""] {
            let url = format!("http://127.0.0.1:{port}{path}");
            let body = get(&client, &url).await.unwrap().into_body();
            let target = if path.is_empty() { "/" } else { path };
            let expected = format!("GET {target} HTTP/1.1|host: 127.0.0.1:{port}");
            assert_eq!(body, expected.as_bytes());
        }
        assert_eq!(accepted.load(Ordering::Relaxed), 1);
        // As many as there are requests at a time.
        let url = format!("http://127.0.0.1:{port}/");
        let all = futures_util::future::join_all((0..20).map(|_| get(&client, &url))).await;
        assert!(all.iter().all(Result::is_ok));
        assert!(accepted.load(Ordering::Relaxed) <= 20);
    }

    #[tokio::test]
    async fn a_connection_that_the_server_has_closed_is_replaced() {
        let ((port, accepted), client) = (echo(2).await, roomy());
        let url = format!("http://127.0.0.1:{port}/");
        for n in 1..=6 {
            let response = get(&client, &url).await;
            assert!(response.is_ok(), "{n}: {response:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(accepted.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_connection_whose_response_was_not_read_to_its_end_is_not_used_again() {
        let ((port, accepted), narrow) = (echo(100).await, client(Reach::Configured));
        let url = format!("http://127.0.0.1:{port}/");
        for _ in 0..2 {
            let error = get(&narrow, &url).await;
            assert!(
                matches!(error, Err(RequestError::TooLarge { .. })),
                "{error:?}"
            );
        }
        assert_eq!(accepted.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_refused_connection_counts_as_not_sent() {
        // Bound but not listening: no other process gets the port.
        let closed = TcpSocket::new_v4().unwrap();
        closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = closed.local_addr().unwrap().port();
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
