//! HTTP/1.1 connections that are kept open between requests.
//!
//! A connection has no task of its own: the request that uses it drives it. So a request wakes one task, not three.

use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, Weak},
    task::{Context, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Request, Response, Uri,
    client::conn::http1::{self, SendRequest},
    header::{HOST, HeaderValue},
    http::uri::{Authority, PathAndQuery},
    rt::{Read, Write},
};
use parking_lot::Mutex;
use tower::Service;

use super::error::RequestError;

/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(30);

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Exchanged = Result<Response<Bytes>, RequestError>;

/// Opens connections of one scheme with `C`. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub(super) struct Pool<C> {
    connector: C,
    idle: Arc<Mutex<Idle>>,
}

#[derive(Default)]
struct Idle {
    /// The connection that was used last is at the end.
    connections: HashMap<Authority, Vec<(Open, Instant)>>,
    /// A task closes connections that have been idle for too long.
    swept: bool,
}

struct Open {
    sender: SendRequest<Full<Bytes>>,
    connection: Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>,
}

/// Why there is no response.
enum Failed {
    /// The connection was closed before anything was sent.
    NotSent(Box<Request<Full<Bytes>>>),
    Error(RequestError),
}

impl<C> Pool<C>
where
    C: Service<Uri> + Clone,
    C::Response: Read + Write + Unpin + Send + 'static,
    C::Error: Into<BoxError>,
{
    pub(super) fn new(connector: C) -> Self {
        Self {
            connector,
            idle: Arc::default(),
        }
    }

    /// Sends a request, and reads the whole response, of at most `max` bytes.
    pub(super) async fn send(&self, request: Request<Bytes>, max: usize) -> Exchanged {
        let uri = request.uri().clone();
        let server = uri.authority().ok_or(RequestError::NoHost)?;
        let mut request = origin_form(request, server)?.map(Full::new);
        loop {
            let (mut open, reused) = match self.take(server) {
                Some(open) => (open, true),
                // In a box, because it is large and rare.
                None => (Box::pin(self.connect(uri.clone())).await?, false),
            };
            match open.exchange(request, max).await {
                Ok(response) => {
                    if open.sender.is_ready() {
                        self.put(server, open);
                    }
                    return Ok(response);
                }
                Err(Failed::Error(error)) => return Err(error),
                // The server has closed an idle connection.
                Err(Failed::NotSent(unsent)) if reused => request = *unsent,
                Err(Failed::NotSent(_)) => {
                    return Err(RequestError::Connect("the connection was closed".into()));
                }
            }
        }
    }

    async fn connect(&self, uri: Uri) -> Result<Open, RequestError> {
        let mut connector = self.connector.clone();
        let ready = poll_fn(|cx| connector.poll_ready(cx)).await;
        ready.map_err(|error| RequestError::connecting(error.into()))?;
        let io = connector.call(uri).await;
        let io = io.map_err(|error| RequestError::connecting(error.into()))?;
        let made = http1::handshake(io).await;
        let (sender, connection) = made.map_err(|error| RequestError::connecting(error.into()))?;
        Ok(Open {
            sender,
            connection: Box::pin(connection),
        })
    }

    /// An idle connection that the server has not closed.
    fn take(&self, server: &Authority) -> Option<Open> {
        let mut closed = Vec::new();
        let mut idle = self.idle.lock();
        let connections = idle.connections.get_mut(server)?;
        let open = loop {
            let Some((mut open, _)) = connections.pop() else {
                break None;
            };
            if open.is_open() {
                break Some(open);
            }
            closed.push(open);
        };
        drop(idle);
        open
    }

    fn put(&self, server: &Authority, open: Open) {
        let mut idle = self.idle.lock();
        let now = Instant::now();
        match idle.connections.get_mut(server) {
            Some(connections) => connections.push((open, now)),
            None => {
                idle.connections.insert(server.clone(), vec![(open, now)]);
            }
        }
        if !std::mem::replace(&mut idle.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(&self.idle)));
        }
    }
}

/// Closes connections that have been idle for too long, until there is none.
async fn sweep(idle: Weak<Mutex<Idle>>) {
    loop {
        tokio::time::sleep(IDLE / 3).await;
        let Some(idle) = idle.upgrade() else {
            return;
        };
        let mut closed = Vec::new();
        let mut idle = idle.lock();
        idle.connections.retain(|_, connections| {
            let kept = connections.partition_point(|(_, since)| since.elapsed() > IDLE);
            closed.extend(connections.drain(..kept));
            !connections.is_empty()
        });
        if idle.connections.is_empty() {
            idle.swept = false;
            return;
        }
    }
}

impl Open {
    /// Whether the server has not closed the connection, as far as is known here.
    fn is_open(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        self.connection.as_mut().poll(&mut context).is_pending() && self.sender.is_ready()
    }

    async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        max: usize,
    ) -> Result<Response<Bytes>, Failed> {
        let sent = self.sender.try_send_request(request);
        let mut response = pin!(async {
            let response = sent.await.map_err(|mut error| match error.take_message() {
                Some(unsent) => Failed::NotSent(Box::new(unsent)),
                None => Failed::Error(RequestError::Request(error.into_error())),
            })?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, max).collect().await.map_err(|error| {
                Failed::Error(if error.is::<LengthLimitError>() {
                    RequestError::TooLarge {
                        status: head.status,
                        max,
                    }
                } else {
                    RequestError::Body(error)
                })
            })?;
            Ok(Response::from_parts(head, body.to_bytes()))
        });
        let (connection, mut ended) = (&mut self.connection, false);
        poll_fn(|cx| {
            // Errors of the connection reach the response too.
            ended = ended || connection.as_mut().poll(cx).is_ready();
            let done = response.as_mut().poll(cx);
            if done.is_ready() && !ended {
                // It learns that the response was read to its end, and is ready for the next request.
                let _ = connection.as_mut().poll(cx);
            }
            done
        })
        .await
    }
}

/// The request as HTTP/1.1 wants it: with the path as its target, and the header `Host`.
fn origin_form(
    mut request: Request<Bytes>,
    server: &Authority,
) -> Result<Request<Bytes>, RequestError> {
    let scheme = request.uri().scheme_str();
    let host = match (scheme, server.port_u16()) {
        (Some("http"), Some(80)) | (Some("https"), Some(443)) | (_, None) => server.host(),
        (_, Some(_)) => server.as_str().rsplit('@').next().unwrap_or_default(),
    };
    if !request.headers().contains_key(HOST) {
        let host = HeaderValue::from_str(host).map_err(|_| RequestError::NoHost)?;
        request.headers_mut().insert(HOST, host);
    }
    let target = request.uri().path_and_query().cloned();
    *request.uri_mut() = target
        .unwrap_or_else(|| PathAndQuery::from_static("/"))
        .into();
    Ok(request)
}
