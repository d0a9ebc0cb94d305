//! Unusual records of foreign producers: times, byte order marks, headers.

use std::sync::Arc;

use bytes::Bytes;
use omnilink::{
    base::clock::{Clock, SystemClock},
    envelope::{TimeSource, avro},
    log::{Cleanup, Log, Record, TopicSpec, header, topics::Names},
    topology::{Deployment, check},
};

use crate::support::{TestLog, append, on_both_logs, read_all};

on_both_logs!(byte_order_marks_and_headers);

const PARTITIONS: u32 = 1;

struct Fixture {
    log: Arc<dyn Log>,
    names: Names,
    source: String,
    _deployment: Deployment,
}

fn fixture(test_log: &TestLog) -> Fixture {
    let log = test_log.open("a");
    let names = Names::new(&test_log.prefix);
    log.provision(&names.specs(PARTITIONS), true).unwrap();
    let source = format!("f{}in", test_log.prefix);
    let spec = TopicSpec {
        name: source.as_str().into(),
        partitions: PARTITIONS,
        cleanup: Cleanup::Keep,
    };
    log.provision(&[spec], true).unwrap();
    let file = format!(
        "name: partners\nsource: {{ topic: {source} }}\nsteps:\n  - normalise:\n      map: |\n        \
         . = {{ \"id\": .ref, \"source\": \"/map\", \"type\": \"t\", \"data\": to_unix_timestamp!(%timestamp) }}\n        \
         %tenant = \"acme\"\n  - route: [ {{ to: ingress }} ]\n"
    );
    let path = test_log.dir.path().join("partners.yaml");
    std::fs::write(&path, file).unwrap();
    let checked = check(&[path], &test_log.prefix);
    let problems: Vec<_> = checked.problems.iter().map(|p| p.render(false)).collect();
    let set = checked
        .set
        .unwrap_or_else(|| panic!("{}", problems.join("\n")));
    let mut deployment = Deployment::new(test_log.topology_setup(&log, PARTITIONS));
    deployment.deploy(&set).unwrap();
    Fixture {
        log,
        names,
        source,
        _deployment: deployment,
    }
}

const TENANT: (&str, &str) = ("omnilink-tenant", "acme");

fn binary(id: &'static str) -> [(&'static str, &'static str); 5] {
    [
        TENANT,
        ("ce_specversion", "1.0"),
        ("ce_id", id),
        ("ce_source", "/s"),
        ("ce_type", "t"),
    ]
}

fn record(headers: &[(&str, &str)], value: Option<&str>) -> Record {
    let copy = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Record {
        key: None,
        value: value.map(copy),
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Some(copy(value))))
            .collect(),
    }
}

fn byte_order_marks_and_headers(test_log: TestLog) {
    let fixture = fixture(&test_log);
    let plain = r#"{"specversion":"1.0","id":"headerless","source":"/s","type":"t"}"#;
    let twice = [
        &binary("twice")[..],
        &[("ce_subject", "a"), ("ce_subject", "b")],
    ]
    .concat();
    let tenants = [&binary("tenants")[..], &[("omnilink-tenant", "beta")]].concat();
    let sent = vec![
        record(&[TENANT], Some(&format!("\u{feff}{plain}"))),
        record(&[], Some("\u{feff} {\"ref\":\"mapped\"}")),
        record(&binary("null"), None),
        record(&twice, Some("1")),
        record(&tenants, Some("1")),
    ];
    append(&*fixture.log, &fixture.source, sent).unwrap();
    let events = read_all(&*fixture.log, &fixture.names.ingress, 3);
    let mut ids: Vec<_> = events
        .iter()
        .map(|f| {
            let event = avro::decode_ingress(f.record.value.as_ref().unwrap()).unwrap();
            assert!(!event.tombstone);
            event.id.to_string()
        })
        .collect();
    ids.sort();
    assert_eq!(ids, ["headerless", "mapped", "null"]);
    let dead = read_all(&*fixture.log, &fixture.names.dlq, 2);
    assert_eq!(dead.len(), 2);
    for letter in &dead {
        let code = header(&letter.record.headers, "omnilink.dlq.code").unwrap();
        assert_eq!(code, b"invalid_payload");
    }
}

#[cfg(feature = "kafka")]
#[test]
fn implausible_times_are_refused() {
    use std::time::Duration;

    use rdkafka::{
        ClientConfig,
        message::{Header, OwnedHeaders},
        producer::{BaseProducer, BaseRecord, Producer},
    };

    use crate::support::{LogKind, env_or_skip};

    let Some(test_log) = TestLog::new(LogKind::Kafka) else {
        return;
    };
    let fixture = fixture(&test_log);
    // Since Kafka 3.6 brokers refuse such times by default; older ones, and many settings, do not.
    let lenient = [
        ("message.timestamp.type", "CreateTime"),
        ("message.timestamp.after.max.ms", "9223372036854775807"),
    ];
    test_log.alter_topic(&fixture.source, &lenient);
    let brokers = env_or_skip("OMNILINK_TEST_KAFKA").unwrap();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .unwrap();
    let now = SystemClock.now().0;
    let meant = now - 3_600_000;
    let given = [
        ("none", -1),
        ("seconds", now / 1000),
        ("micros", now * 1000),
        ("ahead", now + 2 * 86_400_000),
        ("meant", meant),
    ];
    for (id, timestamp) in given {
        let value = format!(r#"{{"ref":"{id}"}}"#);
        let record = BaseRecord::<(), _>::to(&fixture.source)
            .payload(&value)
            .timestamp(timestamp);
        producer.send(record).map_err(|(e, _)| e).unwrap();
        let mut headers = OwnedHeaders::new();
        let binary_id = format!("ce-{id}");
        for (key, value) in binary("").iter().filter(|(name, _)| *name != "ce_id") {
            headers = headers.insert(Header {
                key,
                value: Some(*value),
            });
        }
        headers = headers.insert(Header {
            key: "ce_id",
            value: Some(&binary_id),
        });
        let record = BaseRecord::<(), _>::to(&fixture.source)
            .payload("x")
            .headers(headers)
            .timestamp(timestamp);
        producer.send(record).map_err(|(e, _)| e).unwrap();
    }
    // A dead letter keeps the time of the record.
    let record = BaseRecord::<(), _>::to(&fixture.source)
        .payload("no JSON")
        .timestamp(now / 1000);
    producer.send(record).map_err(|(e, _)| e).unwrap();
    producer.flush(Duration::from_secs(20)).unwrap();

    let events = read_all(&*fixture.log, &fixture.names.ingress, given.len() * 2);
    assert_eq!(events.len(), given.len() * 2);
    let near = |ms: i64, wanted: i64| (wanted - 1_000..wanted + 120_000).contains(&ms);
    for fetched in &events {
        let event = avro::decode_ingress(fetched.record.value.as_ref().unwrap()).unwrap();
        let wanted = if event.id.ends_with("meant") {
            meant
        } else {
            now
        };
        assert!(
            near(event.time / 1000, wanted),
            "{}: {}",
            event.id,
            event.time
        );
        if let omnilink::envelope::Data::Json(text) = &event.data {
            assert_eq!(event.time_source, TimeSource::Receiver);
            let seconds: i64 = text.parse().unwrap();
            assert!(
                near(seconds * 1000, wanted),
                "{}: %timestamp is {seconds}",
                event.id
            );
        }
    }
    let dead = read_all(&*fixture.log, &fixture.names.dlq, 1);
    let timestamp = header(&dead[0].record.headers, "omnilink.dlq.timestamp").unwrap();
    let timestamp = std::str::from_utf8(timestamp).unwrap().parse().unwrap();
    assert!(near(timestamp, now), "{timestamp}");
}
