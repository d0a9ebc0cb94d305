//! The projection of `odoo.webhook_events`: what became of each delivery of Odoo.

use std::sync::Arc;

use omnilink::{
    base::{
        clock::{Clock, Millis, SystemClock},
        id::Tenant,
    },
    envelope::{DIALECT, Data, Event, avro},
    log::{Append, Fetched, Log, Polled, Record},
    projections::{ODOO, ODOO_DLQ, ODOO_INGRESS, Projector, Setup, projected, rebuild_odoo},
    stream::dlq,
};
use serde_json::json;

use crate::support::{
    projections::{DLQ, Database, INGRESS, MemoryLog, all_partitions, event},
    wait_until,
};

const RECEIVED: Millis = Millis(1_700_000_000_000);

/// A delivery to a source, in this dialect.
fn delivery(n: usize, dialect: &str) -> Event<'static> {
    Event {
        tenant: Tenant::new("acme").unwrap(),
        source: "/webhooks/acme/odoo".into(),
        kind: "expense.submitted".into(),
        extensions: json!({ DIALECT: dialect, "other": 1 }).to_string().into(),
        data: Data::Json(format!(r#"{{"n":{n}}}"#).into()),
        ..event(n, &format!("x{n}"))
    }
}

/// A dead letter of `ingress`.
fn letter(event: &Event<'_>, redriven: u32, failed_at: Millis) -> Record {
    let mut value = Vec::new();
    avro::encode_ingress(event, &mut value);
    let mut headers = Vec::new();
    if redriven > 0 {
        let count = redriven.to_string().into();
        headers.push(("omnilink.dlq.redriven".to_owned(), Some(count)));
    }
    let rejected = Fetched {
        topic: 0,
        partition: 0,
        offset: 7,
        timestamp: RECEIVED,
        record: Record {
            key: Some(event.record_key().into_bytes().into()),
            value: Some(value.into()),
            headers,
        },
    };
    let reason = dlq::Reason {
        topic: "t.ingress",
        stage: "admission",
        code: "invalid_payload",
        message: "too deep",
        failed_at,
    };
    dlq::record(&rejected, None, &reason)
}

/// An event as the port appends it to `ingress`.
fn received(event: &Event<'_>) -> Record {
    let mut value = Vec::new();
    avro::encode_ingress(event, &mut value);
    Record {
        key: Some(event.record_key().into_bytes().into()),
        value: Some(value.into()),
        headers: Vec::new(),
    }
}

fn put(log: &MemoryLog, record: Record) {
    put_on(log, DLQ, record);
}

fn put_on(log: &MemoryLog, topic: &str, record: Record) {
    let append = Append {
        topic: topic.into(),
        record,
    };
    let appended = log.append(vec![append], None);
    appended.blocking_recv().unwrap().unwrap();
}

struct Running {
    events: Setup,
    letters: Setup,
    ingress: Setup,
    _projectors: [Projector; 3],
}

fn start(database: &Database, log: &Arc<MemoryLog>) -> Running {
    let events = database.setup(log);
    let letters = Setup {
        topic: DLQ.into(),
        ..database.setup(log)
    };
    let ingress = Setup {
        topic: INGRESS.into(),
        ..database.setup(log)
    };
    let first = log.members();
    let odoo = Projector::start_odoo(&events).unwrap();
    log.notify(first, Polled::Assigned(all_partitions()));
    let odoo_dlq = Projector::start_odoo_dlq(&letters).unwrap();
    log.notify(first + 1, Polled::Assigned(all_partitions()));
    let odoo_ingress = Projector::start_odoo_ingress(&ingress).unwrap();
    log.notify(first + 2, Polled::Assigned(all_partitions()));
    Running {
        events,
        letters,
        ingress,
        _projectors: [odoo, odoo_dlq, odoo_ingress],
    }
}

fn rows(database: &Database) -> Vec<String> {
    database.texts(
        "SELECT concat_ws('|', id, source, event_type, aggregate_type, aggregate_id, payload, status, retry_count, error_message, \
         CASE WHEN status <> 'pending' THEN EXTRACT(EPOCH FROM received_at)::bigint END, processed_at IS NOT NULL) FROM odoo.webhook_events ORDER BY id",
    )
}

#[test]
fn a_delivery_is_pending_until_it_is_completed_or_failed() {
    let Some(database) = Database::new() else {
        return;
    };
    let log = MemoryLog::new();
    for (n, dialect) in [(1, "ipai"), (2, "ipai-body"), (3, "odoo-native")] {
        log.add_at(&delivery(n, dialect), RECEIVED);
    }
    // Others are not Odoo's: another dialect, no dialect, a source that is not one of the tenant's own, what is no event.
    log.add_at(&delivery(10, "github"), RECEIVED);
    log.add_at(
        &Event {
            extensions: "{}".into(),
            ..delivery(11, "ipai")
        },
        RECEIVED,
    );
    log.add_at(
        &Event {
            source: "/webhooks/acmes/odoo".into(),
            ..delivery(12, "ipai")
        },
        RECEIVED,
    );
    log.add_raw(b"x", b"{}".to_vec());
    let now = SystemClock.now();
    // Failed, failed again after it was redriven, and failed but admitted after that.
    put(&log, letter(&delivery(4, "ipai"), 0, now));
    put(&log, letter(&delivery(5, "ipai"), 0, Millis(now.0 - 5)));
    put(&log, letter(&delivery(5, "ipai"), 1, now));
    put(&log, letter(&delivery(1, "ipai"), 1, now));
    put(&log, letter(&delivery(13, "stripe"), 0, now));
    // All of them were received; two still wait to be admitted, and one that is not Odoo's.
    for n in [1, 2, 3, 4, 5, 7, 8] {
        put_on(&log, INGRESS, received(&delivery(n, "ipai")));
    }
    put_on(&log, INGRESS, received(&delivery(14, "github")));
    let running = start(&database, &log);
    let row = |n: usize, rest: &str| {
        let about = format!("/webhooks/acme/odoo|expense.submitted|order|x{n}");
        format!("e{n}|{about}|{{\"n\": {n}}}|{rest}|1700000000|t")
    };
    let pending = |n: usize| {
        format!("e{n}|/webhooks/acme/odoo|expense.submitted|order|x{n}|{{\"n\": {n}}}|pending|0|f")
    };
    let expected = [
        row(1, "completed|1"),
        row(2, "completed|0"),
        row(3, "completed|0"),
        row(4, "failed|0|invalid_payload: too deep"),
        row(5, "failed|1|invalid_payload: too deep"),
        pending(7),
        pending(8),
    ];
    wait_until("seven rows", || rows(&database) == expected);
    let read = |setup: &Setup, projection: &str| {
        let positions = projected(&setup.store, projection);
        let positions = database.runtime.block_on(positions).unwrap();
        positions.values().sum::<u64>()
    };
    wait_until("all is read", || {
        (
            read(&running.events, ODOO),
            read(&running.letters, ODOO_DLQ),
            read(&running.ingress, ODOO_INGRESS),
        ) == (7, 5, 8)
    });
    assert_eq!(rows(&database), expected);

    // A rebuild reads the topics in another order, and has the same rows.
    database.run("UPDATE odoo.webhook_events SET status = 'wrong'; DELETE FROM odoo.webhook_events WHERE id = 'e4'");
    let rebuilt = rebuild_odoo(&running.events, &INGRESS.into(), &mut |done, total| {
        assert!(done <= total);
    });
    assert_eq!(rebuilt.unwrap().records, 7 + 5 + 8);
    assert_eq!(rows(&database), expected);
    // The projectors go on in the new table.
    log.add_at(&delivery(4, "ipai"), RECEIVED);
    let completed = row(4, "completed|0");
    wait_until("it is admitted", || rows(&database)[3] == completed);
    put(&log, letter(&delivery(6, "ipai"), 0, now));
    wait_until("one more", || rows(&database).len() == 8);
    // What was pending is admitted, or fails.
    log.add_at(&delivery(7, "ipai"), RECEIVED);
    put(&log, letter(&delivery(8, "ipai"), 0, now));
    let ended = [
        row(7, "completed|0"),
        row(8, "failed|0|invalid_payload: too deep"),
    ];
    wait_until("nothing is pending", || rows(&database)[6..] == ended);
}
