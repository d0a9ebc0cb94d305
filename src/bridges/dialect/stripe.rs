//! The dialect `stripe` (docs.stripe.com/webhooks, "Verify webhook signatures manually").

use crate::bridges::{
    call::Call,
    content::{Content, Object, scalar, string},
    draft::{About, Draft},
    refusal::Refusal,
    signature::sha256_hex,
    timestamp::{self, TOLERANCE_S, Unit},
};
use crate::envelope::{
    Rfc3339,
    json::{member, put_string},
};

/// `Stripe-Signature: t={seconds},v1={hex},…` signs `{t}.{body}`; one `v1` must match, and other schemes are ignored.
pub(super) fn verify(call: &Call<'_>) -> Result<String, Refusal> {
    let header = call.headers.signatures("stripe-signature")?;
    let of = |wanted: &str| -> Vec<&str> {
        let parts = header.iter().flat_map(|text| text.split(','));
        let parts = parts.filter_map(|part| part.trim().split_once('='));
        let named = parts.filter(|(name, _)| *name == wanted);
        named.map(|(_, value)| value).collect()
    };
    let [time] = of("t")[..] else {
        return Err(Refusal::unauthenticated(
            "missing_timestamp",
            "`Stripe-Signature` must have `t` once",
        ));
    };
    let signatures = of("v1");
    if signatures.is_empty() {
        return Err(Refusal::missing_signature("stripe-signature"));
    }
    timestamp::check(time, Unit::Seconds, call.now, TOLERANCE_S)?;
    if !call.is_signed(&[time.as_bytes(), b".", call.body], &signatures) {
        return Err(Refusal::invalid_signature());
    }
    // Only used by a mapping, for a body without an id.
    Ok(sha256_hex(&[call.body]))
}

/// The type is `stripe.{type}`, the id is the event's, the entity is `data.object`, data is the whole body.
pub(super) fn read<'a>(content: &'a Content<'_>) -> Result<Draft<'a>, Refusal> {
    let body = content.object()?;
    let id = body.named("id")?;
    let kind = format!("stripe.{}", body.named("type")?);
    let object = body.get("data").and_then(|data| member(data, "object"));
    let created: Option<i64> = body.get("created").and_then(|text| text.parse().ok());
    let micros = created.and_then(|seconds| seconds.checked_mul(1_000_000));
    Ok(Draft {
        about: object.and_then(about),
        time: micros.map(|micros| Rfc3339(micros).to_string()),
        compared: compared(&body),
        ..Draft::new(id, kind, content.text())
    })
}

fn about(object: &str) -> Option<About<'_>> {
    let named = |name| member(object, name).filter(|text| *text != "\"\"");
    Some(About {
        kind: named("object").and_then(string)?,
        external_id: named("id").and_then(scalar)?,
        display_name: None,
    })
}

/// The body without `pending_webhooks`, which decreases with each retry.
fn compared(body: &Object<'_>) -> Option<String> {
    body.get("pending_webhooks")?;
    let mut out = Vec::new();
    let kept = body.0.iter().filter(|(name, _)| name != "pending_webhooks");
    for (name, value) in kept {
        out.push(if out.is_empty() { b'{' } else { b',' });
        put_string(name, &mut out);
        out.push(b':');
        out.extend_from_slice(value.as_bytes());
    }
    out.push(b'}');
    String::from_utf8(out).ok()
}
