//! Webhook bridges: convert a sender's request, which is signed in the sender's own way, into an event, or refuse it with a code.
//!
//! ```text
//! headers, body ─► signature, timestamp (dialect) ─► JSON ─► dialect or mapping ─► the envelope's own rules ─► event
//! ```
//!
//! Nothing here reads a clock, a socket or a log: the caller passes everything in, checks in its window of identities whether an event is
//! a duplicate, and appends it. [`Source::parse`] reads the definition of a source as sent to `POST /v1/integrations`.

mod call;
mod content;
mod dialect;
mod draft;
mod event;
mod headers;
mod mapping;
mod members;
mod refusal;
mod secrets;
mod shape;
mod signature;
mod source;
mod timestamp;

use self::{call::Call, event::event, headers::Headers};
pub use self::{
    dialect::{
        Dialect,
        hmac::{Parameters, Place, Template},
        odoo::Fields,
    },
    draft::Window,
    event::{Outcome, Received},
    mapping::Mapping,
    members::Fault,
    refusal::{Reason, Refusal},
    secrets::{Secret, Secrets},
    shape::{Shape, TestResult},
    signature::{Algorithm, Encoding},
    source::{Definition, Source, secret_faults},
};
use crate::base::{clock::Millis, id::Tenant};

/// A request to a source.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Names in any case, values as received.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The body as received, still with its content encoding.
    pub body: &'a [u8],
    /// Whether the sender identified the source by its token (`/v1/hooks/{token}`), which is the only authentication of senders that do
    /// not sign.
    pub by_token: bool,
    /// The time of receipt.
    pub now: Millis,
}

/// Verifies a request and builds its event. A refused request has no effect.
pub fn receive(
    source: &Source,
    tenant: &Tenant,
    request: &Request<'_>,
) -> Result<Outcome, Refusal> {
    if !source.dialect.signs() && !request.by_token {
        return Err(Refusal::unknown_source());
    }
    let call = Call {
        headers: Headers(request.headers),
        body: request.body,
        now: request.now,
        source: &source.name,
        secrets: &source.secrets,
    };
    let delivery = source.dialect.verify(&call)?;
    event(source, tenant, &call, &delivery)
}
