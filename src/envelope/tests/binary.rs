use proptest::{collection::vec, prelude::*};

use super::*;

type Header<'a> = (&'a str, &'a [u8]);

const REQUIRED: [Header<'_>; 4] = [
    ("ce-specversion", b"1.0"),
    ("ce-id", b"e-1"),
    ("ce-source", b"/shop"),
    ("ce-type", b"order.paid"),
];

fn http<'a>(
    more: &[Header<'a>],
    content_type: Option<&'a str>,
    body: &'a [u8],
) -> Result<Parsed<'a>, Invalid> {
    let headers = REQUIRED.into_iter().chain(more.iter().copied());
    parse_binary(
        headers,
        Binding::Http,
        content_type.map(str::as_bytes),
        Some(body),
        &acme(),
        NOW,
    )
}

#[test]
fn binary_and_structured_mode_give_the_same_event_and_hash() {
    let headers: [Header<'_>; 7] = [
        ("host", b"x"),
        ("CE-Subject", b"\"Euro%20%E2%82%AC%20%F0%9F%98%80\""),
        ("ce-time", b"2025-01-31T12:00:00Z"),
        ("ce-entitytype", b" order "),
        ("ce-entityid", b"7"),
        ("ce-correlationid", b"\"a\\\"b\""),
        ("ce-traceparent", b"00-1-2-03"),
    ];
    let binary = http(&headers, Some("application/json"), b" {\"a\" : 1}\n").unwrap();
    let body = r#"{"specversion":"1.0","id":"e-1","source":"/shop","type":"order.paid","subject":"Euro € 😀",
        "time":"2025-01-31T12:00:00Z","entitytype":"order","entityid":"7","correlationid":"a\"b",
        "datacontenttype":"application/json","traceparent":"00-1-2-03","data":{"a" : 1}}"#;
    assert_eq!(binary, structured(body, Form::CloudEvents).unwrap());
}

#[test]
fn data_is_read_by_its_content_type() {
    let data = |content_type, body| http(&[], content_type, body).map(|p| p.event.data.clone());
    let json = |text: &'static str| Ok(Data::Json(text.into()));
    let bytes = |bytes: &'static [u8]| Ok(Data::Binary(bytes.into()));
    assert_eq!(
        data(Some("application/json; charset=utf-8"), b"[1]"),
        json("[1]")
    );
    assert_eq!(
        data(Some("application/vnd.x+json"), b" null "),
        json("null")
    );
    assert_eq!(data(Some("text/plain"), b"[1]"), bytes(b"[1]"));
    assert_eq!(
        data(Some("application/octet-stream"), b"\xff"),
        bytes(b"\xff")
    );
    assert_eq!(data(None, b"[1]"), json("[1]"));
    assert_eq!(data(Some(""), b"[1"), bytes(b"[1"));
    assert_eq!(data(Some("application/json"), b""), Ok(Data::Absent));
    for wrong in [&b"[1"[..], b"[1]]", b"{\"a\":1,\"a\":1}", b"\xff", b" "] {
        refused(
            data(Some("application/json"), wrong),
            "invalid_payload",
            "not JSON",
        );
    }
    let deep = format!("{}{}", "[".repeat(127), "]".repeat(127));
    assert!(http(&[], Some("text/json"), deep.as_bytes()).is_ok());
    let deeper = format!("[{deep}]");
    refused(
        http(&[], Some("text/json"), deeper.as_bytes()),
        "invalid_payload",
        "129 deep with the envelope",
    );
    assert_eq!(data(None, b"\xef\xbb\xbf[1]"), json("[1]"));
    assert_eq!(data(Some("text/json"), b"\xef\xbb\xbf [1] "), json("[1]"));
    // Kafka producers often name it among the attributes.
    let named = http(&[("ce-datacontenttype", b"text/plain")], None, b"1").unwrap();
    assert_eq!(
        (named.event.data, &*named.event.extensions),
        (
            Data::Binary(b"1".into()),
            r#"{"datacontenttype":"text/plain"}"#
        )
    );
}

#[test]
fn each_wrong_header_has_its_code() {
    let cases: [(Header<'_>, &str); 15] = [
        (("ce-entityid", b"%00"), "invalid_payload"),
        (("ce-entityname", b"a%00"), "invalid_payload"),
        (("ce-id", b"again"), "invalid_payload"),
        (("CE-ID", b"again"), "invalid_payload"),
        (("ce-subject", b"\xff"), "invalid_payload"),
        (("ce-subject", b"%ff"), "invalid_payload"),
        (("ce-subject", b"\"open"), "invalid_payload"),
        (("ce-subject", b"\"a\"b\""), "invalid_payload"),
        (("ce-subject", b"\"\""), "invalid_payload"),
        (("ce-data", b"1"), "invalid_payload"),
        (("ce-data_base64", b"1"), "invalid_payload"),
        (("ce-no_such", b"1"), "invalid_payload"),
        (("ce-", b"1"), "invalid_payload"),
        (("ce-omnilinktenant", b"x"), "invalid_payload"),
        (("ce-time", b"now"), "invalid_payload"),
    ];
    for (header, code) in cases {
        refused(http(&[header], None, b"1"), code, header.0);
    }
    for missing in REQUIRED {
        let headers = REQUIRED.into_iter().filter(|header| *header != missing);
        let result = parse_binary(headers, Binding::Http, None, Some(b"1"), &acme(), NOW);
        refused(result, &missing.0.replace("ce-", "missing_"), missing.0);
    }
}

#[test]
fn attribute_values_are_text() {
    let parsed = http(
        &[("ce-rank", b"7"), ("ce-note", b"\"a \\\\ %22b%22\"")],
        None,
        b"",
    )
    .unwrap();
    assert_eq!(
        parsed.event.extensions,
        r#"{"note":"a \\ \"b\"","rank":"7"}"#
    );
    parsed.event.check().unwrap();
}

proptest! {
    #[test]
    fn never_panics_and_what_passes_is_sound(
        headers in vec(("ce[-_][a-z]{0,8}|ce-subject|ce_subject|\\PC{0,5}", vec(any::<u8>(), 0..20)), 0..8),
        values in vec("[ -~]{0,12}", 4),
        content_type in option::of("application/json|text/plain|[ -~]{0,9}"),
        body in option::of(vec(any::<u8>(), 0..20)),
    ) {
        for (binding, prefix) in [(Binding::Http, "ce-"), (Binding::Kafka, "ce_")] {
            let required: Vec<_> = ["specversion", "id", "source", "type"].map(|name| format!("{prefix}{name}")).into();
            let values = values.iter().enumerate().map(|(at, v)| if at == 0 { "1.0" } else { v.as_str() });
            let all = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
            let all = all.chain(required.iter().map(String::as_str).zip(values.map(str::as_bytes)));
            let content_type = content_type.as_deref().map(str::as_bytes);
            if let Ok(parsed) = parse_binary(all, binding, content_type, body.as_deref(), &acme(), NOW) {
                prop_assert_eq!(parsed.event.check(), Ok(()));
            }
        }
    }
}
