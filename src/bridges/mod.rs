//! Webhook bridges: a request of a sender that signs in its own way becomes an event, or is refused with a code.
//!
//! ```text
//! headers, body ─► signature, timestamp (dialect) ─► JSON ─► dialect or mapping ─► the envelope's own rules ─► event
//! ```
//!
//! Nothing here reads a clock, a socket or a log: what takes requests in hands over all of it, asks its window of
//! identities whether an event is a duplicate, and appends. A definition of a source is [`Source::parse`]d as `POST /v1/integrations`
//! has it.

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
    shape::{Shape, Tried},
    signature::{Algorithm, Encoding},
    source::{Definition, Source, secret_faults},
};
use crate::base::{clock::Millis, id::Tenant};

/// A request to a source.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Names in any case, values as they came.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// As it came, no encoding taken off.
    pub body: &'a [u8],
    /// The sender named the source by its token (`/v1/hooks/{token}`), which is all that lets in who does not sign.
    pub by_token: bool,
    /// When it came.
    pub now: Millis,
}

/// Verifies a request and says what event it is. What is refused changes nothing.
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
