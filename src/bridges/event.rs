//! Builds the event of a verified request, with its dialect or the source's own mapping.

use serde_json::{Map, Value};

use super::{
    call::Call,
    content::Content,
    dialect::{Dialect, hmac::challenge},
    draft::{Window, finish_mapped},
    refusal::Refusal,
    signature::sha256_hex,
    source::Source,
};
use crate::{
    base::id::{Identity, Tenant},
    envelope::{DIALECT, Parsed},
};

/// The result of a valid request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// An event.
    Event(Box<Received>),
    /// Slack's verification of the URL: answered with 200 and this text, and nothing is stored.
    Challenge(String),
}

/// An event from a sender.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Received {
    /// The event. The same identity with another body hash is 422 `idempotency_mismatch`.
    pub parsed: Parsed<'static>,
    /// The identity that makes it a duplicate.
    pub identity: Identity,
    /// How long. With [`Window::Events`] the identity is [`crate::envelope::Event::identity`]; with [`Window::Short`] it is the same for
    /// all events of one body, which have different ids.
    pub window: Window,
}

/// Builds the event of a request with a valid signature; `delivery` is the id that its dialect found.
pub(super) fn event(
    source: &Source,
    tenant: &Tenant,
    call: &Call<'_>,
    delivery: &str,
) -> Result<Outcome, Refusal> {
    let content = Content::read(call.headers, call.body)?;
    if matches!(source.dialect, Dialect::Hmac(_))
        && let Some(challenge) = challenge(&content)
    {
        return Ok(Outcome::Challenge(challenge));
    }
    let path = format!("/webhooks/{tenant}/{}", source.name);
    let draft = source.dialect.read(call, delivery, &content);
    let (parsed, window) = match &source.mapping {
        None => {
            let draft = draft?;
            (draft.finish(&path, tenant, call.now)?, draft.window)
        }
        Some(mapping) => {
            // A mapping may be needed precisely because the body does not fit the dialect.
            let (id, window) = match &draft {
                Ok(draft) => (&*draft.id, draft.window),
                Err(_) => (delivery, Window::Events),
            };
            let envelope = mapping.run(call.headers, &content)?;
            let (parsed, own_id) = finish_mapped(&envelope, id, &path, tenant, call.now)?;
            (parsed, if own_id { Window::Events } else { window })
        }
    };
    let parsed = with_dialect(parsed, &source.dialect);
    let identity = match window {
        Window::Events => parsed.event.identity(),
        Window::Short(_) => {
            let body = sha256_hex(&[call.body]);
            Identity::of("webhook", &[tenant.as_str(), &path, &body])
        }
    };
    Ok(Outcome::Event(Box::new(Received {
        parsed,
        identity,
        window,
    })))
}

/// Adds the dialect if the sender is Odoo, so that the projection of `odoo.webhook_events` recognizes the event. The sender does not
/// choose it, so it is not part of what is compared between two requests.
fn with_dialect(mut parsed: Parsed<'static>, dialect: &Dialect) -> Parsed<'static> {
    if let Dialect::Ipai | Dialect::IpaiBody | Dialect::OdooNative(_) = dialect {
        let mut all: Map<String, Value> =
            serde_json::from_str(&parsed.event.extensions).unwrap_or_default();
        all.insert(DIALECT.to_owned(), dialect.name().into());
        parsed.event.extensions = Value::Object(all).to_string().into();
    }
    parsed
}
