//! Answers that are sent while they are produced: a thread that may block writes them, and waits while the client does not read.

use std::{
    io::{self, Write},
    time::Duration,
};

use axum::{body::Body, http::header, response::Response};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use tokio::{runtime::Handle, sync::mpsc};

/// The number of bytes that are sent together.
const CHUNK: usize = 64 * 1024;
/// The number of chunks that are buffered for the client.
const QUEUED_CHUNKS: usize = 4;
/// If a client reads nothing for this long, the answer is aborted.
const CLIENT_TIMEOUT: Duration = Duration::from_mins(1);

/// Why an answer was aborted.
pub(crate) type Aborted = Box<dyn std::error::Error + Send + Sync>;

/// `None` marks the end; a channel that closes without it means an aborted answer.
type Chunks = mpsc::Sender<Option<Bytes>>;

/// Writes to the client. Data is sent when a chunk is full or on a flush. Clones write to the same client.
pub(crate) struct Out {
    chunk: Vec<u8>,
    chunks: Chunks,
    runtime: Handle,
}

/// Detects whether the client has disconnected.
pub(crate) struct Watch(Chunks);

impl Watch {
    /// Whether the client has closed the connection.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl Clone for Out {
    fn clone(&self) -> Self {
        Self {
            chunk: Vec::with_capacity(CHUNK),
            chunks: self.chunks.clone(),
            runtime: self.runtime.clone(),
        }
    }
}

impl Out {
    pub(crate) fn watch(&self) -> Watch {
        Watch(self.chunks.clone())
    }

    fn send_chunk(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        self.send(Some(chunk.into()))
    }

    fn send(&mut self, chunk: Option<Bytes>) -> io::Result<()> {
        let sending = self.chunks.send(chunk);
        let sent = self
            .runtime
            .block_on(async { tokio::time::timeout(CLIENT_TIMEOUT, sending).await });
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

/// Writes a line of JSON.
pub(crate) fn line(out: &mut Out, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

/// Answers with what `work` writes, on a thread that may block. An error aborts the answer, so that a partial answer is not mistaken for
/// a complete one.
pub(crate) fn respond(
    media: &'static str,
    work: impl FnOnce(&mut Out) -> Result<(), Aborted> + Send + 'static,
) -> Response {
    let (chunks, reader) = mpsc::channel(QUEUED_CHUNKS);
    let mut out = Out {
        chunk: Vec::with_capacity(CHUNK),
        chunks,
        runtime: Handle::current(),
    };
    tokio::task::spawn_blocking(move || {
        let done = work(&mut out).and_then(|()| {
            out.flush()?;
            Ok(out.send(None)?)
        });
        if let Err(error) = done
            && !out.chunks.is_closed()
        {
            tracing::warn!(%error, "an answer was aborted");
        }
    });
    let chunks = stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        match reader.recv().await {
            Some(Some(chunk)) => Some((Ok(chunk), Some(reader))),
            Some(None) => None,
            None => Some((Err(io::Error::other("aborted")), None)),
        }
    });
    let mut response = Response::new(Body::from_stream(chunks));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(media),
    );
    response
}
