//! A deadline for the body of a request, so that a client that sends a byte a second does not hold resources.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::ingest::body::DEADLINE;

/// A body that fails with [`SlowBodyError::TooSlow`] if it has not ended in time.
pub(super) struct TimedBody {
    body: Incoming,
    deadline: Pin<Box<Sleep>>,
}

/// The body did not arrive in time, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum SlowBodyError {
    /// It did not arrive in time.
    #[error("the body did not arrive within {} seconds", DEADLINE.as_secs())]
    TooSlow,
    /// The client disconnected, or violated the framing.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

impl TimedBody {
    /// Starts the deadline.
    pub(super) fn new(body: Incoming) -> Self {
        Self {
            body,
            deadline: Box::pin(sleep_until(Instant::now() + DEADLINE)),
        }
    }
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = SlowBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, SlowBodyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(SlowBodyError::Broken)));
        }
        let late = self.deadline.as_mut().poll(context);
        late.map(|()| Some(Err(SlowBodyError::TooSlow)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
