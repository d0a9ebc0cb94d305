//! Reading a body with limits on size, time and memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;

/// The time limit for a whole body.
const DEADLINE: Duration = Duration::from_secs(10);
/// Bodies up to this size have their own budget, so that large ones cannot use all of it.
const SMALL: usize = 64 * 1024;
/// The limit of each of the two budgets, in bytes.
const BUDGET: usize = 64 << 20;
/// The initial buffer of a body that arrives in pieces. It doubles as it fills, so that an announced length alone costs nothing.
const FIRST: usize = 4 * 1024;
/// How much of a refused body is read and discarded, so that a client that sends the whole body first still gets the answer.
const LINGER_BYTES: usize = 16 << 20;
const LINGER: Duration = Duration::from_secs(2);

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    /// The body is larger than the limit.
    #[error("it is too large")]
    TooLarge,
    /// The body did not arrive in time.
    #[error("it did not arrive within {} seconds", DEADLINE.as_secs())]
    Slow,
    /// The client disconnected, or violated the framing.
    #[error("it is incomplete, or its framing is wrong")]
    Broken,
    /// Too many bodies are being read.
    #[error("too many bodies at once; send it again")]
    Busy,
}

/// The two budgets for bodies that do not arrive in one piece, as bytes in use.
#[derive(Clone, Default)]
pub(crate) struct Budget {
    small: Arc<AtomicUsize>,
    large: Arc<AtomicUsize>,
}

struct Held(Arc<AtomicUsize>, usize);

impl Budget {
    /// Reserves memory for a body that is expected to grow to `bytes`; `None` if the budget is exhausted.
    fn take(&self, bytes: usize) -> Option<Held> {
        let pool = if bytes > SMALL {
            &self.large
        } else {
            &self.small
        };
        let before = pool.fetch_add(bytes, Ordering::Relaxed);
        let held = Held(Arc::clone(pool), bytes);
        (before + bytes <= BUDGET).then_some(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// The `Content-Length`, if the client sent it.
pub(crate) fn announced(body: &impl Body) -> Option<u64> {
    body.size_hint().exact()
}

/// Reads the whole body, at most `limit` bytes. A body that arrives in pieces uses its budget while it is read.
pub(crate) async fn read(
    body: &mut (impl Body<Data = Bytes> + Unpin),
    limit: usize,
    budget: &Budget,
) -> Result<Bytes, BodyError> {
    let expected = match announced(body) {
        Some(0) => return Ok(Bytes::new()),
        Some(announced) if announced > limit as u64 => return Err(BodyError::TooLarge),
        Some(announced) => announced as usize,
        None => limit,
    };
    tokio::time::timeout(DEADLINE, collect(body, expected, limit, budget))
        .await
        .unwrap_or(Err(BodyError::Slow))
}

async fn collect(
    body: &mut (impl Body<Data = Bytes> + Unpin),
    expected: usize,
    limit: usize,
    budget: &Budget,
) -> Result<Bytes, BodyError> {
    let mut whole = BytesMut::new();
    let mut held = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else {
            continue;
        };
        // A body in one piece, as nearly all are, is not copied.
        if whole.is_empty() && body.is_end_stream() {
            return if data.len() > limit {
                Err(BodyError::TooLarge)
            } else {
                Ok(data)
            };
        }
        if whole.len() + data.len() > limit {
            return Err(BodyError::TooLarge);
        }
        let needed = whole.len() + data.len();
        if needed > whole.capacity() {
            // The whole size of a large body is reserved at once; a small one doubles.
            let size = if needed > SMALL {
                expected.max(needed)
            } else {
                needed.next_power_of_two().clamp(FIRST, SMALL)
            };
            // The old reservation is released after the new one is made, because both buffers exist while the bytes are copied.
            held = Some(budget.take(size).ok_or(BodyError::Busy)?);
            whole.reserve(size - whole.len());
        }
        whole.extend_from_slice(&data);
    }
    drop(held);
    Ok(whole.freeze())
}

/// Reads and discards the rest of a body in the background, for at most [`LINGER`]. Closing at once would reset the connection while the
/// client is still sending, and the client would not get the answer.
pub(crate) fn discard(mut body: impl Body<Data = Bytes, Error: Send> + Unpin + Send + 'static) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(async move {
        let mut left = LINGER_BYTES;
        let drain = async {
            while let Some(Ok(frame)) = body.frame().await {
                left = match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                    Some(left) => left,
                    None => return,
                };
            }
        };
        // After this the connection is closed.
        let _ = tokio::time::timeout(LINGER, drain).await;
    });
}
