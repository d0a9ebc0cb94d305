//! The events of the builtin tool `emit`.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::run_cache::About;
use crate::{
    base::{clock::Millis, id::Tenant},
    commands::{depth, start::Trace},
    envelope::{Form, Invalid, avro::encode_ingress, parse_structured},
    log::Record,
    runs::StepError,
};

/// The default source.
const SOURCE: &str = "/omnilink/runs";

/// The run that emits an event.
pub(super) struct Emitter<'a> {
    tenant: &'a Tenant,
    run_id: &'a str,
    depth: u32,
    trace: &'a Trace,
}

impl<'a> Emitter<'a> {
    pub(super) fn of(about: &'a About) -> Self {
        Self {
            tenant: &about.tenant,
            run_id: &about.run_id,
            depth: about.depth,
            trace: &about.trace,
        }
    }
}

/// The record on `ingress`. Its event has `key`, the idempotency key of the call, as its id, so that it is admitted once; and the depth
/// and the trace of the run.
pub(super) fn record(
    run: &Emitter<'_>,
    key: &str,
    input: &Value,
    now: Millis,
) -> Result<Record, StepError> {
    let body = body(run, key, input);
    let invalid = |e: Invalid| StepError::new(e.code, e.message);
    let parsed = parse_structured(&body, Form::OmniLink, run.tenant, now).map_err(invalid)?;
    let mut value = Vec::with_capacity(512);
    encode_ingress(&parsed.event, &mut value);
    Ok(Record {
        key: Some(Bytes::from(parsed.event.record_key())),
        value: Some(value.into()),
        headers: depth::headers(run.depth),
    })
}

fn body(run: &Emitter<'_>, id: &str, input: &Value) -> Vec<u8> {
    let mut event = Map::new();
    event.insert("id".into(), id.into());
    event.insert("source".into(), SOURCE.into());
    event.insert("data".into(), Value::Null);
    event.insert("causationid".into(), run.run_id.into());
    for (name, value) in run.trace.attributes() {
        event.insert(name.into(), value.into());
    }
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
    fn an_event_has_the_id_of_its_step_and_the_trace_of_its_run() {
        let tenant = Tenant::new("acme").unwrap();
        let trace = Trace {
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            tracestate: Some("a=1".into()),
        };
        let run = Emitter {
            tenant: &tenant,
            run_id: "r",
            depth: 3,
            trace: &trace,
        };
        let input = json!({ "type": "order.paid", "data": { "total": 5 } });
        let record = record(&run, "r:s:execute", &input, Millis(5)).unwrap();
        assert_eq!(depth::of(&record.headers), 3);
        let value = record.value.unwrap();
        let event = decode_ingress(&value).unwrap();
        assert_eq!(&*event.id, "r:s:execute");
        assert_eq!(&*event.source, "/omnilink/runs");
        assert_eq!(&*event.kind, "order.paid");
        assert_eq!(Trace::of(&event), trace);
        let broken = super::record(&run, "r:s:execute", &json!({ "data": 1 }), Millis(5));
        assert_eq!(broken.unwrap_err().code, "missing_type");
    }
}
