//! One connection, HTTP/1.1 or HTTP/2 over TLS. It answers requests until the port stops, the connection is idle, or the client closes
//! it.

use std::{
    convert::Infallible,
    net::IpAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::Router;
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use http_body_util::{Either, Full};
use hyper::{
    Method, Request, Response,
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{
    Shared,
    hooks::{self, Target},
    ingest::events,
    peer::Peer,
    problem::Problem,
    rest::routes,
};
use crate::api::{Operation, problem::OVERLOADED};

/// The time limit for the head of a request; a connection without a request is closed after it.
const IDLE: Duration = Duration::from_mins(1);
/// The limits of a request head in HTTP/1.1: number of headers, and bytes.
const HEADERS: usize = 100;
const HEAD_BYTES: usize = 32 * 1024;
/// The number of concurrent requests on one HTTP/2 connection.
const STREAMS: u32 = 64;
/// The number of concurrent HTTP/2 requests on all connections; each may have buffered 64 KiB of its body.
const ALL_STREAMS: usize = 4096;
/// The flow-control windows of HTTP/2: how much a client may send before it is read, for each request and for the connection.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 128 * 1024;
/// How much of a response is buffered for the client in HTTP/2.
const SEND_BYTES: usize = 64 * 1024;
/// The connection is closed after so many requests that the client reset before they were accepted (CVE-2023-44487, "rapid reset"), or so
/// many frames that violated the protocol.
const PENDING_RESETS: usize = 20;
const ERROR_RESETS: usize = 128;
/// An HTTP/2 connection without traffic is pinged, and closed if it does not answer.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

type Body = Either<Full<Bytes>, axum::body::Body>;

/// What is needed to serve connections.
pub(super) struct Server {
    shared: Arc<Shared>,
    router: Router,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    streams: Semaphore,
    /// Cancelled when the drain timeout is over.
    abort: CancellationToken,
}

/// The concurrent requests of an HTTP/2 connection.
#[derive(Default)]
struct Activity {
    begun: AtomicU64,
    open: AtomicUsize,
}

impl Server {
    /// Cancelling `abort` closes all connections at once.
    pub(super) fn new(shared: Arc<Shared>, abort: CancellationToken) -> Arc<Self> {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .max_headers(HEADERS)
            .max_header_size(HEAD_BYTES)
            .max_buf_size(2 * HEAD_BYTES);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEAD_BYTES as u32)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BYTES)
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .max_local_error_reset_streams(ERROR_RESETS)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        Arc::new(Self {
            router: routes::router(Arc::clone(&shared)),
            shared,
            http1,
            http2,
            streams: Semaphore::new(ALL_STREAMS),
            abort,
        })
    }

    /// Serves an HTTP/1.1 connection until it ends.
    pub(super) async fn http1(
        self: &Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        peer: IpAddr,
    ) {
        let service = service_fn(move |request| Arc::clone(self).answer(request, peer));
        let connection = self.http1.serve_connection(TokioIo::new(stream), service);
        // `header_read_timeout` closes idle connections.
        let never = std::future::pending();
        self.drive(connection, http1::Connection::graceful_shutdown, never)
            .await;
    }

    /// Serves an HTTP/2 connection until it ends.
    pub(super) async fn http2(
        self: &Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: IpAddr,
    ) {
        let activity = Arc::<Activity>::default();
        let server = Arc::clone(self);
        let counted = Arc::clone(&activity);
        let service = service_fn(move |request| {
            let (server, activity) = (Arc::clone(&server), Arc::clone(&counted));
            async move {
                let _open = activity.begin();
                server.answer_within_limit(request, peer).await
            }
        });
        let connection = self.http2.serve_connection(TokioIo::new(stream), service);
        self.drive(
            connection,
            http2::Connection::graceful_shutdown,
            activity.idle(),
        )
        .await;
    }

    /// Runs a connection to its end. When the port stops or the connection is idle, the client is told to close, and requests in progress
    /// are finished.
    async fn drive<C: Future>(
        &self,
        connection: C,
        shut_down: fn(Pin<&mut C>),
        idle: impl Future<Output = ()>,
    ) {
        let mut connection = pin!(connection);
        // It has its own waker, so that a request polls only the connection and does not take a lock that all connections share.
        let mut end = FuturesUnordered::from_iter([async {
            tokio::select! {
                () = self.shared.stopping.cancelled() => {}
                () = idle => {}
            }
        }]);
        // A connection error needs no handling here: the client either has its answer or will send the request again.
        tokio::select! {
            biased;
            _ = &mut connection => return,
            _ = end.next() => {}
        }
        shut_down(connection.as_mut());
        tokio::select! {
            _ = connection => {}
            () = self.abort.cancelled() => {}
        }
    }

    /// In HTTP/2, the limit on connections does not limit the number of requests.
    async fn answer_within_limit(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: IpAddr,
    ) -> Result<Response<Body>, Infallible> {
        let Ok(_permit) = self.streams.try_acquire() else {
            let detail = "too many requests at once; send it again";
            let problem = Problem::new(&OVERLOADED, detail).retry_after(1);
            let response = problem.into_response(self.shared.ids.next());
            return Ok(response.map(Either::Left));
        };
        Arc::clone(&self).answer(request, peer).await
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: IpAddr,
    ) -> Result<Response<Body>, Infallible> {
        let Some(origin) = self.shared.cors.origin(request.headers()) else {
            return self.route(request, peer).await;
        };
        let mut response = self.route(request, peer).await?;
        self.shared.cors.add_headers(origin, &mut response);
        Ok(response)
    }

    async fn route(
        &self,
        request: Request<Incoming>,
        peer: IpAddr,
    ) -> Result<Response<Body>, Infallible> {
        let (method, path) = (request.method(), request.uri().path());
        let id = || self.shared.ids.next();
        let cors = &self.shared.cors;
        if let Some(answer) = cors.preflight(method, path, request.headers(), id) {
            return Ok(answer.map(Either::Left));
        }
        if *method == Method::POST && path == Operation::PostEvents.route().path {
            let response = events::post(&self.shared, request, peer).await;
            return Ok(response.map(Either::Left));
        }
        if *method == Method::POST && Target::of(path, &self.shared.hooks.aliases).is_some() {
            let response = hooks::post(&self.shared, request, peer).await;
            return Ok(response.map(Either::Left));
        }
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(Peer(peer));
        let response = self.router.clone().oneshot(request).await?;
        Ok(response.map(Either::Right))
    }
}

/// A request in progress.
struct Open<'a>(&'a Activity);

impl Activity {
    fn begin(&self) -> Open<'_> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(self)
    }

    /// Resolves when there was no request for [`IDLE`], at the latest after twice that time.
    async fn idle(&self) {
        loop {
            let before = self.begun.load(Ordering::Relaxed);
            tokio::time::sleep(IDLE).await;
            if self.open.load(Ordering::Relaxed) == 0
                && self.begun.load(Ordering::Relaxed) == before
            {
                return;
            }
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
