//! Answers that are made while they are sent: a thread that may block writes, the client's reading holds it back.

use std::{
    io::{self, Write},
    time::Duration,
};

use axum::{body::Body, http::header, response::Response};
use bytes::Bytes;
use futures_util::stream;
use tokio::{runtime::Handle, sync::mpsc};

/// Bytes that go out together.
const CHUNK: usize = 64 * 1024;
/// Chunks that may wait for the client.
const WAITING: usize = 4;
/// A client that reads nothing for so long is given up.
const PATIENCE: Duration = Duration::from_mins(1);

/// Why an answer was not finished.
pub(crate) type Broken = Box<dyn std::error::Error + Send + Sync>;

/// `None` is the end: without it the answer was broken off.
type Way = mpsc::Sender<Option<Bytes>>;

/// The way to the client. What is written goes out when a chunk is full, or is flushed; clones write to the same client.
pub(crate) struct Out {
    chunk: Vec<u8>,
    way: Way,
    runtime: Handle,
}

/// Sees whether the client is still there.
pub(crate) struct Watch(Way);

impl Watch {
    /// Whether the client has gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl Clone for Out {
    fn clone(&self) -> Self {
        Self {
            chunk: Vec::with_capacity(CHUNK),
            way: self.way.clone(),
            runtime: self.runtime.clone(),
        }
    }
}

impl Out {
    pub(crate) fn watch(&self) -> Watch {
        Watch(self.way.clone())
    }

    fn send_chunk(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        self.send(Some(chunk.into()))
    }

    fn send(&mut self, what: Option<Bytes>) -> io::Result<()> {
        let sending = self.way.send(what);
        let sent = self
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, sending).await });
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK {
            self.send_chunk()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        self.send_chunk()
    }
}

/// Answers with what `work` writes, on a thread that may block. An error breaks the answer off, so that nobody takes a
/// part for the whole.
pub(crate) fn respond(
    media: &'static str,
    work: impl FnOnce(&mut Out) -> Result<(), Broken> + Send + 'static,
) -> Response {
    let (way, reader) = mpsc::channel(WAITING);
    let mut out = Out {
        chunk: Vec::with_capacity(CHUNK),
        way,
        runtime: Handle::current(),
    };
    tokio::task::spawn_blocking(move || {
        let done = work(&mut out).and_then(|()| {
            out.flush()?;
            Ok(out.send(None)?)
        });
        if let Err(error) = done
            && !out.way.is_closed()
        {
            tracing::warn!(%error, "an answer was broken off");
        }
    });
    let chunks = stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        match reader.recv().await {
            Some(Some(chunk)) => Some((Ok(chunk), Some(reader))),
            Some(None) => None,
            None => Some((Err(io::Error::other("broken off")), None)),
        }
    });
    let mut response = Response::new(Body::from_stream(chunks));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(media),
    );
    response
}
