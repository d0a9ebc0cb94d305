//! Admission through the public door, on both logs: every form in, each event once, the rest to the dead letters.

use std::sync::Arc;

use omnilink::{
    admission::Admission,
    envelope::{Data, avro},
    log::{Fetched, Log, Record, header, partition_for, topics::Names},
    stream::lane::{self, Running, Setup},
};

use crate::support::{Bed, append, on_both, read_all, value};

on_both!(
    every_form_is_read,
    once_over_restarts,
    misplaced_records_find_their_partition
);

const PARTITIONS: u32 = 4;

struct World {
    log: Arc<dyn Log>,
    names: Names,
    running: Option<Running>,
}

fn world(bed: &Bed) -> World {
    let log = bed.open("a");
    let names = Names::new(&bed.prefix);
    log.provision(&names.specs(PARTITIONS), true).unwrap();
    let setup = Setup {
        log: Arc::clone(&log),
        dlq: Arc::clone(&names.dlq),
        clock: Arc::clone(&bed.clock),
        progress: Arc::default(),
    };
    let admission = Admission::new(&names, PARTITIONS, 24 * 3_600_000, false);
    let running = Some(lane::start(Arc::new(admission), setup).unwrap());
    World {
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

fn every_form_is_read(bed: Bed) {
    let world = world(&bed);
    let ingress = &*world.names.ingress;
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
    append(&*world.log, ingress, sent).unwrap();
    let events = read_all(&*world.log, &world.names.events, 6);
    assert_eq!(
        ids(&events),
        ["b1", "b2", "bin", "gone", "headerless", "struct"]
    );
    for fetched in &events {
        let (event, received_at) =
            avro::decode_event(fetched.record.value.as_ref().unwrap()).unwrap();
        assert_eq!(event.tenant.as_str(), "acme");
        // A null value is an event without data, and deletes nothing.
        assert!(!event.tombstone);
        assert_eq!(event.data == Data::Absent, event.id == "gone");
        let key = fetched.record.key.as_ref().unwrap();
        assert_eq!(key, event.record_key().as_bytes());
        assert_eq!(fetched.partition, partition_for(key, PARTITIONS));
        assert!((0..60_000).contains(&(bed.clock.now().0 - received_at.0)));
    }
    let dead = read_all(&*world.log, &world.names.dlq, 4);
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

fn once_over_restarts(bed: Bed) {
    for round in 0..3 {
        let mut world = world(&bed);
        for n in 0..40 {
            // Each is sent twice in each round, and in every round again.
            let one = raw(
                "x",
                Some(&envelope(&format!("e{n:02}"), &n.to_string())),
                &[TENANT],
            );
            append(&*world.log, &world.names.ingress, vec![one.clone(), one]).unwrap();
        }
        let fresh = raw(
            "x",
            Some(&envelope(&format!("round{round}"), "1")),
            &[TENANT],
        );
        append(&*world.log, &world.names.ingress, vec![fresh]).unwrap();
        let events = read_all(&*world.log, &world.names.events, 41 + round);
        let mut expected: Vec<_> = (0..40).map(|n| format!("e{n:02}")).collect();
        expected.extend((0..=round).map(|r| format!("round{r}")));
        assert_eq!(ids(&events), expected);
        drop(world.running.take());
    }
}

fn misplaced_records_find_their_partition(bed: Bed) {
    let world = world(&bed);
    for n in 0..30 {
        // All under one key of the producer's own: most belong elsewhere.
        let one = raw(
            "producer-key",
            Some(&envelope(&format!("e{n:02}"), &format!("entity{}", n % 5))),
            &[TENANT],
        );
        append(&*world.log, &world.names.ingress, vec![one]).unwrap();
    }
    let events = read_all(&*world.log, &world.names.events, 30);
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
