//! Connections: accepted up to a number, served by hyper, drained at the end.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::Router;
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::{Method, Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tower::ServiceExt;

use super::{
    DRAIN, Shared,
    hooks::{self, Target},
    ingest::events,
    peer::Peer,
    rest::routes,
};
use crate::api::Operation;

/// Connections at once. Beyond it they wait in the system's queue.
const CONNECTIONS: usize = 8192;
/// The whole head of a request must come within this time; a connection that asks nothing is closed after it.
const HEAD_DEADLINE: Duration = Duration::from_mins(1);
/// The most headers of a request, and the most bytes of its head.
const HEADERS: usize = 100;
const HEAD_BYTES: usize = 32 * 1024;
/// Pause after the system refused to accept: it has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

type Body = Either<Full<Bytes>, axum::body::Body>;

pub(super) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    shutdown: impl Future<Output = ()>,
) {
    let router = routes::router(Arc::clone(&shared));
    let stopping = shared.stopping.clone();
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_headers(HEADERS)
        .max_header_size(HEAD_BYTES)
        .max_buf_size(2 * HEAD_BYTES);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &permits) => accepted,
            () = &mut shutdown => break,
        };
        let Some((stream, peer, permit)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let connection = Connection {
            shared: Arc::clone(&shared),
            router: router.clone(),
            peer,
        };
        let service = service_fn(move |request| connection.clone().answer(request));
        let served = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            shared.meters.connections.increment(1.0);
            // Whatever ends a connection is the client's business: it has its answer, or asks again.
            let _ = served.await;
            shared.meters.connections.decrement(1.0);
            drop(permit);
        });
    }
    drop(listener);
    stopping.cancel();
    if tokio::time::timeout(DRAIN, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!(
            "some requests did not end within {} s and are cut off",
            DRAIN.as_secs()
        );
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, IpAddr, OwnedSemaphorePermit)> {
    // Never closed.
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            // Without it an answer waits for the client's acknowledgement of the one before; a socket that
            // cannot have it is only slower.
            let _ = stream.set_nodelay(true);
            Some((stream, peer.ip(), permit))
        }
        Err(error) => {
            tracing::warn!(%error, "a connection cannot be accepted");
            None
        }
    }
}

#[derive(Clone)]
struct Connection {
    shared: Arc<Shared>,
    router: Router,
    peer: IpAddr,
}

impl Connection {
    async fn answer(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, std::convert::Infallible> {
        let Some(origin) = self.shared.cors.origin(request.headers()) else {
            return self.routed(request).await;
        };
        let shared = Arc::clone(&self.shared);
        let mut response = self.routed(request).await?;
        shared.cors.add_headers(origin, &mut response);
        Ok(response)
    }

    async fn routed(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, std::convert::Infallible> {
        let (method, path) = (request.method(), request.uri().path());
        let id = || self.shared.ids.next();
        if let Some(answer) = self
            .shared
            .cors
            .preflight(method, path, request.headers(), id)
        {
            return Ok(answer.map(Either::Left));
        }
        if *method == Method::POST && path == Operation::PostEvents.route().path {
            return Ok(events::post(&self.shared, request, self.peer)
                .await
                .map(Either::Left));
        }
        if *method == Method::POST && Target::of(path, &self.shared.hooks.aliases).is_some() {
            return Ok(hooks::post(&self.shared, request, self.peer)
                .await
                .map(Either::Left));
        }
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(Peer(self.peer));
        let response = self.router.oneshot(request).await?;
        Ok(response.map(Either::Right))
    }
}
