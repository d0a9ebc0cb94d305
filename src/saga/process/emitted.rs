//! The events of the builtin tool `emit`.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{
    base::{clock::Millis, id::Tenant},
    commands::depth,
    envelope::{Form, Invalid, avro::encode_ingress, parse_structured},
    log::Record,
    runs::StepError,
};

/// The default source.
const SOURCE: &str = "/omnilink/runs";

/// The record on `ingress`. The event's id is `key`, the idempotency key of the call, so that it is admitted once. `depth` is the run's.
pub(super) fn record(
    (tenant, run_id): (&Tenant, &str),
    depth: u32,
    key: &str,
    input: &Value,
    now: Millis,
) -> Result<Record, StepError> {
    let body = body(run_id, key, input);
    let invalid = |e: Invalid| StepError::new(e.code, e.message);
    let parsed = parse_structured(&body, Form::OmniLink, tenant, now).map_err(invalid)?;
    let mut value = Vec::with_capacity(512);
    encode_ingress(&parsed.event, &mut value);
    Ok(Record {
        key: Some(Bytes::from(parsed.event.record_key())),
        value: Some(value.into()),
        headers: depth::headers(depth),
    })
}

fn body(run_id: &str, id: &str, input: &Value) -> Vec<u8> {
    let mut event = Map::new();
    event.insert("id".into(), id.into());
    event.insert("source".into(), SOURCE.into());
    event.insert("data".into(), Value::Null);
    event.insert("causationid".into(), run_id.into());
    for name in ["type", "source", "subject", "entity", "data"] {
        if let Some(given) = input.get(name).filter(|given| !given.is_null()) {
            event.insert(name.into(), given.clone());
        }
    }
    // A map of JSON values always has a JSON form.
    serde_json::to_vec(&event).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::envelope::avro::decode_ingress;

    #[test]
    fn an_event_has_the_id_of_its_step() {
        let tenant = Tenant::new("acme").unwrap();
        let input = json!({ "type": "order.paid", "data": { "total": 5 } });
        let call = "r:s:execute";
        let record = record((&tenant, "r"), 3, call, &input, Millis(5)).unwrap();
        assert_eq!(depth::of(&record.headers), 3);
        let value = record.value.unwrap();
        let event = decode_ingress(&value).unwrap();
        assert_eq!(&*event.id, "r:s:execute");
        assert_eq!(&*event.source, "/omnilink/runs");
        assert_eq!(&*event.kind, "order.paid");
        let broken = super::record((&tenant, "r"), 0, call, &json!({ "data": 1 }), Millis(5));
        assert_eq!(broken.unwrap_err().code, "missing_type");
    }
}
