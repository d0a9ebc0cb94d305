//! Admission on both logs: every input format, each event once, invalid records to the dead-letter queue.

use std::sync::Arc;

use omnilink::{
    admission::Admission,
    envelope::{Data, avro},
    log::{Fetched, Log, Record, header, partition_for, topics::Names},
    stream::lane::Running,
};

use crate::support::{TestLog, append, on_both_logs, read_all, value};

on_both_logs!(
    every_format_is_read,
    events_are_admitted_once_over_restarts,
    misplaced_records_are_forwarded_to_their_partition
);

const PARTITIONS: u32 = 4;

struct Fixture {
    log: Arc<dyn Log>,
    names: Names,
    running: Option<Running>,
}

fn fixture(test_log: &TestLog) -> Fixture {
    let log = test_log.open("a");
    let names = Names::new(&test_log.prefix);
    log.provision(&names.specs(PARTITIONS), true).unwrap();
    let admission = Admission::new(&names, PARTITIONS, 24 * 3_600_000, false);
    let running = Some(test_log.start_lane(&log, admission, &Arc::default()));
    Fixture {
        log,
        names,
        running,
    }
}

fn headers(list: &[(&str, &str)]) -> Vec<(String, Option<bytes::Bytes>)> {
    list.iter()
        .map(|(n, v)| ((*n).to_owned(), Some((*v).to_owned().into())))
        .collect()
}

fn raw(key: &str, value: Option<&str>, list: &[(&str, &str)]) -> Record {
    Record {
        key: Some(key.to_owned().into()),
        value: value.map(|v| v.to_owned().into()),
        headers: headers(list),
    }
}

const TENANT: (&str, &str) = ("omnilink-tenant", "acme");

fn envelope(id: &str, entity: &str) -> String {
    format!(
        r#"{{"specversion":"1.0","id":"{id}","source":"/shop","type":"order.paid","entitytype":"order","entityid":"{entity}","data":{{"n":"{id}"}}}}"#
    )
}

fn ids(events: &[Fetched]) -> Vec<String> {
    let mut ids: Vec<_> = events
        .iter()
        .map(|f| {
            avro::decode_event(f.record.value.as_ref().unwrap())
                .unwrap()
                .0
                .id
                .into_owned()
        })
        .collect();
    ids.sort();
    ids
}

fn every_format_is_read(test_log: TestLog) {
    let fixture = fixture(&test_log);
    let ingress = &*fixture.names.ingress;
    let structured = (
        "content-type",
        "application/cloudevents+json; charset=utf-8",
    );
    let batch = format!(
        "[{},{{\"specversion\":\"1.0\",\"id\":\"\"}},{}]",
        envelope("b1", "1"),
        envelope("b2", "2")
    );
    let binary = [
        TENANT,
        ("ce_specversion", "1.0"),
        ("ce_id", "bin"),
        ("ce_source", "/shop"),
        ("ce_type", "order.paid"),
        ("ce_entitytype", "order"),
        ("ce_entityid", "9"),
        ("content-type", "application/json"),
    ];
    let sent = vec![
        raw("x", Some(&envelope("struct", "1")), &[TENANT, structured]),
        raw("x", Some(&envelope("headerless", "1")), &[TENANT]),
        raw(
            "x",
            Some(&batch),
            &[
                TENANT,
                ("content-type", "application/cloudevents-batch+json"),
            ],
        ),
        raw("x", Some(r#"{"a":1}"#), &binary),
        raw(
            "acme/order/9",
            None,
            &[&binary[..2], &[("ce_id", "gone")], &binary[3..7]].concat(),
        ),
        raw("x", Some(&envelope("nobody", "1")), &[]),
        raw("x", Some("not json"), &[TENANT]),
        raw("x", Some("\0\0\0\0\u{7}avro"), &[TENANT]),
    ];
    append(&*fixture.log, ingress, sent).unwrap();
    let events = read_all(&*fixture.log, &fixture.names.events, 6);
    assert_eq!(
        ids(&events),
        ["b1", "b2", "bin", "gone", "headerless", "struct"]
    );
    for fetched in &events {
        let (event, received_at) =
            avro::decode_event(fetched.record.value.as_ref().unwrap()).unwrap();
        assert_eq!(event.tenant.as_str(), "acme");
        // A null value is an event without data, not a tombstone.
        assert!(!event.tombstone);
        assert_eq!(event.data == Data::Absent, event.id == "gone");
        let key = fetched.record.key.as_ref().unwrap();
        assert_eq!(key, event.record_key().as_bytes());
        assert_eq!(fetched.partition, partition_for(key, PARTITIONS));
        assert!((0..60_000).contains(&(test_log.clock.now().0 - received_at.0)));
    }
    let dead = read_all(&*fixture.log, &fixture.names.dlq, 4);
    let mut codes: Vec<_> = dead
        .iter()
        .map(|f| {
            String::from_utf8(
                header(&f.record.headers, "omnilink.dlq.code")
                    .unwrap()
                    .to_vec(),
            )
            .unwrap()
        })
        .collect();
    codes.sort();
    assert_eq!(
        codes,
        [
            "missing_id",
            "missing_tenant",
            "unknown_schema",
            "unrecognised_payload"
        ]
    );
    let item = dead
        .iter()
        .find(|f| header(&f.record.headers, "omnilink.dlq.code") == Some(b"missing_id"))
        .unwrap();
    assert_eq!(value(item), r#"{"specversion":"1.0","id":""}"#);
}

fn events_are_admitted_once_over_restarts(test_log: TestLog) {
    for round in 0..3 {
        let mut fixture = fixture(&test_log);
        for n in 0..40 {
            // Each event is sent twice in every round.
            let one = raw(
                "x",
                Some(&envelope(&format!("e{n:02}"), &n.to_string())),
                &[TENANT],
            );
            append(
                &*fixture.log,
                &fixture.names.ingress,
                vec![one.clone(), one],
            )
            .unwrap();
        }
        let fresh = raw(
            "x",
            Some(&envelope(&format!("round{round}"), "1")),
            &[TENANT],
        );
        append(&*fixture.log, &fixture.names.ingress, vec![fresh]).unwrap();
        let events = read_all(&*fixture.log, &fixture.names.events, 41 + round);
        let mut expected: Vec<_> = (0..40).map(|n| format!("e{n:02}")).collect();
        expected.extend((0..=round).map(|r| format!("round{r}")));
        assert_eq!(ids(&events), expected);
        drop(fixture.running.take());
    }
}

fn misplaced_records_are_forwarded_to_their_partition(test_log: TestLog) {
    let fixture = fixture(&test_log);
    for n in 0..30 {
        // All with the same key, chosen by the producer: most belong to other partitions.
        let one = raw(
            "producer-key",
            Some(&envelope(&format!("e{n:02}"), &format!("entity{}", n % 5))),
            &[TENANT],
        );
        append(&*fixture.log, &fixture.names.ingress, vec![one]).unwrap();
    }
    let events = read_all(&*fixture.log, &fixture.names.events, 30);
    assert_eq!(events.len(), 30);
    for entity in 0..5 {
        let key = format!("acme/order/entity{entity}");
        let mine: Vec<_> = events
            .iter()
            .filter(|f| f.record.key.as_deref() == Some(key.as_bytes()))
            .collect();
        assert!(
            mine.iter()
                .all(|f| f.partition == partition_for(key.as_bytes(), PARTITIONS))
        );
        // In the order in which they were sent.
        let order: Vec<_> = mine
            .iter()
            .map(|f| {
                avro::decode_event(f.record.value.as_ref().unwrap())
                    .unwrap()
                    .0
                    .id
                    .into_owned()
            })
            .collect();
        assert!(order.is_sorted(), "{order:?}");
        assert_eq!(order.len(), 6);
    }
}
