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
mod headers;
mod mapping;
mod members;
mod refusal;
mod secrets;
mod signature;
mod source;
mod timestamp;

use self::{call::Call, content::Content, draft::finish_mapped, headers::Headers};
pub use self::{
    dialect::{
        Dialect,
        hmac::{Parameters, Place, Template},
        odoo::Fields,
    },
    draft::Window,
    mapping::Mapping,
    members::Fault,
    refusal::{Reason, Refusal},
    secrets::{Secret, Secrets},
    signature::{Algorithm, Encoding},
    source::Source,
};
use crate::{
    base::{
        clock::Millis,
        id::{Identity, Tenant},
    },
    envelope::Parsed,
};

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

/// What a good request is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// An event.
    Event(Box<Received>),
    /// Slack's question whether this URL is meant for it: 200 with this text, and nothing is kept.
    Challenge(String),
}

/// An event that a sender has sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Received {
    /// The event; the same identity with another hash is 422 `idempotency_mismatch`.
    pub parsed: Parsed<'static>,
    /// What makes it a duplicate.
    pub identity: Identity,
    /// For how long. With [`Window::Events`] the identity is [`crate::envelope::Event::identity`]; with [`Window::Short`] it is
    /// the same for all events of one body, whose own ids differ.
    pub window: Window,
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
    let content = Content::read(call.headers, call.body)?;
    if matches!(source.dialect, Dialect::Hmac(_))
        && let Some(challenge) = dialect::hmac::challenge(&content)
    {
        return Ok(Outcome::Challenge(challenge));
    }
    let path = format!("/webhooks/{tenant}/{}", source.name);
    let draft = source.dialect.read(&call, &delivery, &content);
    let (parsed, window) = match &source.mapping {
        None => {
            let draft = draft?;
            (draft.finish(&path, tenant, call.now)?, draft.window)
        }
        Some(mapping) => {
            // A body that is none of the dialect's own is what the mapping is for.
            let (id, window) = match &draft {
                Ok(draft) => (&*draft.id, draft.window),
                Err(_) => (&*delivery, Window::Events),
            };
            let envelope = mapping.run(call.headers, &content)?;
            let (parsed, own_id) = finish_mapped(&envelope, id, &path, tenant, call.now)?;
            (parsed, if own_id { Window::Events } else { window })
        }
    };
    let identity = match window {
        Window::Events => parsed.event.identity(),
        Window::Short(_) => {
            let body = signature::sha256_hex(&[call.body]);
            Identity::of("webhook", &[tenant.as_str(), &path, &body])
        }
    };
    Ok(Outcome::Event(Box::new(Received {
        parsed,
        identity,
        window,
    })))
}
