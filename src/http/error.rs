//! Errors of outgoing requests.

use std::{io, sync::Arc, time::Duration};

use hyper::StatusCode;

use super::reach::Forbidden;

/// There are no root certificates to verify a server's certificate with.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "https needs the machine's root certificates (the package ca-certificates, or SSL_CERT_FILE): {0}"
)]
pub struct NoRoots(#[source] pub(super) Arc<io::Error>);

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
    #[error("cannot connect: {}", root_cause(&**.0))]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection failed before the response. The server may have acted on the request.
    #[error("no response: {}", root_cause(.0))]
    Request(#[source] hyper::Error),
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
    /// A connection could not be established.
    pub(super) fn connecting(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        let mut cause: &(dyn std::error::Error + 'static) = &*error;
        loop {
            if let Some(forbidden) = forbidden(cause) {
                return Self::Forbidden(forbidden.clone());
            }
            match cause.source() {
                Some(inner) => cause = inner,
                None => return Self::Connect(error),
            }
        }
    }

    /// Whether the request never reached the server, so that the server cannot have acted on it.
    pub fn not_sent(&self) -> bool {
        matches!(
            self,
            Self::Forbidden(_) | Self::NoRoots(_) | Self::NoHost | Self::Connect(_)
        )
    }
}

/// The message of the root cause: hyper's outer errors add no information.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// The resolver's refusal, which reaches us wrapped in an I/O error.
fn forbidden<'e>(cause: &'e (dyn std::error::Error + 'static)) -> Option<&'e Forbidden> {
    let io: &io::Error = cause.downcast_ref()?;
    io.get_ref()?.downcast_ref()
}
