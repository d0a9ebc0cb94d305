//! The dialects `ipai` and `ipai-body` of Odoo's bridge: `{event_type, aggregate_type, aggregate_id, payload}`.

use crate::bridges::{
    call::Call,
    content::{Content, Object},
    draft::{About, Draft},
    refusal::Refusal,
    signature::sha256_hex,
    timestamp::{self, TOLERANCE_S, Unit},
};

const SIGNATURE: &str = "x-ipai-signature";
const TIMESTAMP: &str = "x-ipai-timestamp";
pub(super) const DELIVERY: &str = "x-idempotency-key";

/// `ipai`: the signature covers `{timestamp}.{body}`. The id is the header `x-idempotency-key`, or else the SHA-256 of that text.
pub(super) fn verify(call: &Call<'_>) -> Result<String, Refusal> {
    let signatures = call.headers.signatures(SIGNATURE)?;
    let time = call.headers.timestamp(TIMESTAMP)?;
    timestamp::check(time, Unit::Milliseconds, call.now, TOLERANCE_S)?;
    let signed: [&[u8]; 3] = [time.as_bytes(), b".", call.body];
    if !call.is_signed(&signed, &signatures) {
        return Err(Refusal::invalid_signature());
    }
    let key = call.headers.one(DELIVERY)?;
    Ok(key.map_or_else(|| sha256_hex(&signed), str::to_owned))
}

/// `ipai-body`: the signature covers the body and follows `sha256=`.
pub(super) fn verify_body(call: &Call<'_>) -> Result<String, Refusal> {
    call.verify_body(SIGNATURE)?;
    Ok(sha256_hex(&[call.body]))
}

/// The event's id is that of the delivery.
pub(super) fn read<'a>(
    call: &Call<'a>,
    delivery: &'a str,
    content: &'a Content<'_>,
) -> Result<Draft<'a>, Refusal> {
    draft(call, delivery, content, &content.object()?)
}

/// Like [`read`], but an `id` in the body has precedence over that of the delivery.
pub(super) fn read_body<'a>(
    call: &Call<'a>,
    delivery: &'a str,
    content: &'a Content<'_>,
) -> Result<Draft<'a>, Refusal> {
    let body = content.object()?;
    let own = body.optional("id")?;
    let mut draft = draft(call, delivery, content, &body)?;
    if let Some(id) = own {
        draft.id = id;
    }
    Ok(draft)
}

fn draft<'a>(
    call: &Call<'a>,
    id: &'a str,
    content: &'a Content<'_>,
    body: &Object<'a>,
) -> Result<Draft<'a>, Refusal> {
    let kind = body.named("event_type")?;
    let about = About {
        kind: body.named("aggregate_type")?,
        external_id: body.named("aggregate_id")?,
        display_name: None,
    };
    let correlation_id = match call.headers.one("x-correlation-id")? {
        Some(text) => Some(text.into()),
        None => body.optional("correlation_id")?,
    };
    Ok(Draft {
        about: Some(about),
        correlation_id,
        ..Draft::new(id, kind, body.get("payload").unwrap_or(content.text()))
    })
}
