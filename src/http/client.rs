//! The client.

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
    /// A connection must stand within this time.
    pub connect_timeout: Duration,
    /// The whole answer must be there within this time, connecting included.
    pub timeout: Duration,
    /// The most bytes of an answer's body.
    pub body_bytes: usize,
    /// Which addresses it may reach.
    pub reach: Reach,
}

/// There is nothing to judge a server's certificate by.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "https needs the machine's root certificates (the package ca-certificates, or SSL_CERT_FILE): {0}"
)]
pub struct NoRoots(#[source] Arc<io::Error>);

/// A request got no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The address may not be reached.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The URL asks for TLS.
    #[error(transparent)]
    NoRoots(#[from] NoRoots),
    /// The URL has no host.
    #[error("the URL has no host")]
    NoHost,
    /// The answer was not there in time; the server may have done what it was asked.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// No connection came about: the server has seen nothing of the request.
    #[error("cannot connect: {}", innermost(.0))]
    Connect(#[source] hyper_util::client::legacy::Error),
    /// The connection broke; the server may have done what it was asked.
    #[error("no answer: {}", innermost(.0))]
    Request(#[source] hyper_util::client::legacy::Error),
    /// The answer broke off.
    #[error("the answer broke off: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer's body is too large.
    #[error("the answer ({status}) has more than {most} bytes")]
    TooLarge {
        /// The status of the answer.
        status: StatusCode,
        /// The most bytes that are read.
        most: usize,
    },
}

impl RequestError {
    /// Whether the server cannot have done anything: the request never reached it.
    pub fn not_sent(&self) -> bool {
        matches!(
            self,
            Self::Forbidden(_) | Self::NoRoots(_) | Self::NoHost | Self::Connect(_)
        )
    }
}

/// The innermost cause: the layers around it say nothing more.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Sends requests over HTTP/1.1, in plain or over TLS, and keeps connections. Redirects are answers: they are never followed. Cheap to
/// clone; clones share the connections.
#[derive(Clone)]
pub struct Client {
    plain: Pool<HttpConnector<Resolver>, Full<Bytes>>,
    tls: Result<Pool<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>, NoRoots>,
    options: Options,
}

impl Client {
    /// Makes a client. Without root certificates it still speaks plain HTTP.
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

    /// Whether it can speak TLS.
    pub fn tls(&self) -> Result<(), NoRoots> {
        self.tls.as_ref().map(drop).map_err(Clone::clone)
    }

    /// Sends a request and reads its whole answer.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, RequestError> {
        self.check(request.uri())?;
        let answered = tokio::time::timeout(self.options.timeout, self.answer(request));
        answered
            .await
            .unwrap_or(Err(RequestError::Timeout(self.options.timeout)))
    }

    /// Literal addresses are never resolved: they are judged here.
    fn check(&self, uri: &Uri) -> Result<(), RequestError> {
        let host = uri.host().ok_or(RequestError::NoHost)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = host.to_ascii_lowercase();
        self.options.reach.host(&host)?;
        if let Ok(address) = host.parse::<IpAddr>() {
            self.options.reach.address(&host, address)?;
        }
        Ok(())
    }

    async fn answer(&self, request: Request<Bytes>) -> Result<Response<Bytes>, RequestError> {
        let request = request.map(Full::new);
        let answered = if request.uri().scheme() == Some(&Scheme::HTTPS) {
            let tls = self.tls.as_ref().map_err(Clone::clone)?;
            tls.request(request).await
        } else {
            self.plain.request(request).await
        };
        let (head, body) = answered.map_err(failed)?.into_parts();
        let most = self.options.body_bytes;
        let body = Limited::new(body, most).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                RequestError::TooLarge {
                    status: head.status,
                    most,
                }
            } else {
                RequestError::Body(error)
            }
        })?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

fn failed(error: hyper_util::client::legacy::Error) -> RequestError {
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

/// The guard's own error, which passed through an I/O error.
fn forbidden<'e>(cause: &'e (dyn std::error::Error + 'static)) -> Option<&'e Forbidden> {
    let io: &io::Error = cause.downcast_ref()?;
    io.get_ref()?.downcast_ref()
}

/// Resolves names as the system does, and lets through what may be reached.
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
                match reach.address(&host, address.ip()) {
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
            body_bytes: 16,
            reach,
        })
    }

    /// A server that gives one answer to each connection, or none.
    async fn server(answer: Option<&'static str>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut head = [0; 1024];
                    let _ = stream.read(&mut head).await;
                    match answer {
                        Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
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
    async fn answers_are_bounded_in_time_and_size_and_redirects_are_not_followed() {
        let any = client(Reach::Configured);
        let ok = server(Some("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")).await;
        let answer = get(&any, &format!("http://localhost:{ok}/")).await.unwrap();
        assert_eq!(answer.body(), "ok");
        let long = server(Some(
            "HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n01234567890123456",
        ))
        .await;
        let error = get(&any, &format!("http://127.0.0.1:{long}/")).await;
        assert!(
            matches!(error, Err(RequestError::TooLarge { most: 16, .. })),
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
        let answer = get(&any, &format!("http://127.0.0.1:{moved}/"))
            .await
            .unwrap();
        assert_eq!(answer.status(), 302);
    }

    #[tokio::test]
    async fn a_connection_that_is_refused_was_not_sent() {
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
    async fn names_are_judged_by_what_they_resolve_to() {
        let port = server(Some("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")).await;
        let listed = |host: &str| client(Reach::Listed(Arc::from([host.to_owned()])));
        // By its own name it may be private.
        let url = format!("http://localhost:{port}/");
        assert!(get(&listed("localhost"), &url).await.is_ok());
        let error = get(&listed("example.com"), &url).await;
        assert!(
            matches!(error, Err(RequestError::Forbidden(Forbidden::NotListed(_)))),
            "{error:?}"
        );
        // By a pattern it may not.
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
