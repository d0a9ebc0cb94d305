//! Tests of the parsers, by tables of cases and by properties.

mod agents;
mod avro;
mod batch;
mod binary;
mod foreign;
mod kafka;
mod structured;

use std::borrow::Cow;

use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::base::clock::Millis;

/// The time at which these tests receive events.
const NOW: Millis = Millis(1_738_324_800_000);

fn acme() -> Tenant {
    Tenant::new("acme").unwrap()
}

fn structured(body: &str, form: Form) -> Result<Parsed<'_>, Invalid> {
    parse_structured(body.as_bytes(), form, &acme(), NOW)
}

/// A minimal event in OmniLink's form, with `more` members before the closing bracket.
fn minimal(more: &str) -> String {
    format!(r#"{{"id":"1","source":"/s","type":"t","data":1{more}}}"#)
}

fn refused<T: std::fmt::Debug>(result: Result<T, Invalid>, code: &str, about: &str) {
    let error = result.expect_err(about);
    assert_eq!(error.code, code, "{about}: {error}");
    assert!(
        error.message.len() < 300,
        "{about}: the message repeats the input"
    );
}

/// Arbitrary JSON.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,20})?(e[+-]?[0-9]{1,3})?",
        "\\PC{0,20}".prop_map(|text| serde_json::Value::from(text).to_string()),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(|items| format!("[{}]", items.join(","))),
            vec(inner, 0..6).prop_map(|values| {
                let members = values
                    .iter()
                    .enumerate()
                    .map(|(i, value)| format!("\"k{i}\": {value}"));
                format!("{{{}}}", members.collect::<Vec<_>>().join(" ,"))
            }),
        ]
    })
}

/// Like [`text`], for parts of a key.
fn key_text() -> impl Strategy<Value = Cow<'static, str>> {
    text().prop_map(|text| text.replace('\0', "_").into())
}

fn text() -> impl Strategy<Value = Cow<'static, str>> {
    prop_oneof!["[a-z0-9-]{1,20}", "\\PC{1,40}", "[\\x00-\\x7fä😀]{1,30}"].prop_map(Cow::Owned)
}

fn data() -> impl Strategy<Value = Data<'static>> {
    prop_oneof![
        Just(Data::Absent),
        json().prop_map(|text| Data::Json(text.into())),
        vec(any::<u8>(), 0..200).prop_map(|bytes| Data::Binary(bytes.into())),
    ]
}

/// An arbitrary valid event.
fn events() -> impl Strategy<Value = Event<'static>> {
    let source = prop_oneof![
        "/[a-z]{1,10}",
        "https://[a-z]{1,9}/%20[a-z?=&]{0,9}#f",
        "urn:[a-z]{2,5}:[0-9]{1,9}"
    ];
    let entity = (key_text(), key_text(), option::of(key_text())).prop_map(
        |(kind, external_id, display_name)| Entity {
            kind,
            external_id,
            display_name,
        },
    );
    let extensions = prop_oneof![
        Just("{}"),
        Just(
            r#"{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","n":-7,"b":true}"#
        ),
    ];
    (
        (
            "[A-Za-z0-9._-]{1,30}",
            key_text(),
            source,
            key_text(),
            option::of(text()),
        ),
        (
            option::of(entity),
            option::of(text()),
            option::of(text()),
            option::of(text()),
        ),
        (
            -62_135_596_800_000_000..=253_402_300_799_999_999_i64,
            any::<bool>(),
            data(),
            extensions,
            any::<bool>(),
        ),
    )
        .prop_map(
            |(
                (tenant, id, source, kind, subject),
                (entity, correlation_id, causation_id, idempotency_key),
                (time, producer, data, extensions, tombstone),
            )| Event {
                // Of an entity, and of nothing else.
                tombstone: tombstone && entity.is_some() && data == Data::Absent,
                tenant: Tenant::new(&tenant).unwrap(),
                id,
                source: source.into(),
                kind,
                subject,
                entity,
                correlation_id,
                causation_id,
                time,
                time_source: if producer {
                    TimeSource::Producer
                } else {
                    TimeSource::Receiver
                },
                data,
                extensions: extensions.into(),
                idempotency_key,
            },
        )
}
