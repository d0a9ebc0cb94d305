//! The dialect `standard-webhooks` (github.com/standard-webhooks/standard-webhooks, `spec/standard-webhooks.md`), signatures `v1`.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::bridges::{
    call::Call,
    content::{Content, string},
    draft::Draft,
    refusal::Refusal,
    signature::{self, Algorithm, Encoding},
    timestamp::{self, TOLERANCE_S, Unit},
};

pub(super) const DELIVERY: &str = "webhook-id";

/// The bytes of a secret: base64, usually after `whsec_`.
pub(crate) fn key(secret: &str) -> Option<Vec<u8>> {
    let text = secret.strip_prefix("whsec_").unwrap_or(secret);
    STANDARD.decode(text).ok().filter(|key| !key.is_empty())
}

/// The signed text is `{webhook-id}.{webhook-timestamp}.{body}`; one of the signatures in `webhook-signature`, separated by spaces, must
/// match.
pub(super) fn verify(call: &Call<'_>) -> Result<String, Refusal> {
    let signatures = call.headers.signatures("webhook-signature")?;
    let time = call.headers.timestamp("webhook-timestamp")?;
    let id = call.headers.required(DELIVERY)?;
    timestamp::check(time, Unit::Seconds, call.now, TOLERANCE_S)?;
    let signed: [&[u8]; 5] = [id.as_bytes(), b".", time.as_bytes(), b".", call.body];
    let keys: Vec<_> = call.secrets.at(call.now).filter_map(key).collect();
    let given: Vec<_> = signatures
        .iter()
        .flat_map(|text| text.split(' '))
        .filter_map(|one| one.strip_prefix("v1,"))
        .collect();
    let keys = keys.iter().map(Vec::as_slice);
    if !signature::verify(Algorithm::Sha256, Encoding::Base64, keys, &signed, &given) {
        return Err(Refusal::invalid_signature());
    }
    Ok(id.to_owned())
}

/// `{type, timestamp?, data}`. If a body has no `data`, the whole body is the data.
pub(super) fn read<'a>(id: &'a str, content: &'a Content<'_>) -> Result<Draft<'a>, Refusal> {
    let body = content.object()?;
    let time = body.get("timestamp").and_then(string);
    Ok(Draft {
        time: time.map(Into::into),
        ..Draft::new(
            id,
            body.named("type")?,
            body.get("data").unwrap_or(content.text()),
        )
    })
}
