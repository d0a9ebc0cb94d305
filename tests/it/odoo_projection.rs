//! The projection of `odoo.webhook_events`: what became of each delivery of Odoo.

use std::sync::Arc;

use omnilink::{
    base::{
        clock::{Clock, Millis, SystemClock},
        id::Tenant,
    },
    envelope::{DIALECT, Data, Event, avro},
    log::{Append, Fetched, Log, Polled, Record},
    projections::{ODOO, ODOO_DLQ, Projector, Setup, projected, rebuild_odoo},
    stream::dlq,
};
use serde_json::json;

use crate::support::{
    projections::{DLQ, Database, MemoryLog, all_partitions, event},
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

fn put(log: &MemoryLog, record: Record) {
    let append = Append {
        topic: DLQ.into(),
        record,
    };
    let appended = log.append(vec![append], None);
    appended.blocking_recv().unwrap().unwrap();
}

struct Running {
    events: Setup,
    letters: Setup,
    _projectors: [Projector; 2],
}

fn start(database: &Database, log: &Arc<MemoryLog>) -> Running {
    let events = database.setup(log);
    let letters = Setup {
        topic: DLQ.into(),
        ..database.setup(log)
    };
    let first = log.members();
    let odoo = Projector::start_odoo(&events).unwrap();
    log.notify(first, Polled::Assigned(all_partitions()));
    let odoo_dlq = Projector::start_odoo_dlq(&letters).unwrap();
    log.notify(first + 1, Polled::Assigned(all_partitions()));
    Running {
        events,
        letters,
        _projectors: [odoo, odoo_dlq],
    }
}

fn rows(database: &Database) -> Vec<String> {
    database.texts(
        "SELECT concat_ws('|', id, source, event_type, aggregate_type, aggregate_id, payload, status, retry_count, error_message, \
         EXTRACT(EPOCH FROM received_at)::bigint, processed_at IS NOT NULL) FROM odoo.webhook_events ORDER BY id",
    )
}

#[test]
fn a_delivery_is_completed_or_failed() {
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
    let running = start(&database, &log);
    let row = |n: usize, rest: &str| {
        let about = format!("/webhooks/acme/odoo|expense.submitted|order|x{n}");
        format!("e{n}|{about}|{{\"n\": {n}}}|{rest}|1700000000|t")
    };
    let expected = [
        row(1, "completed|1"),
        row(2, "completed|0"),
        row(3, "completed|0"),
        row(4, "failed|0|invalid_payload: too deep"),
        row(5, "failed|1|invalid_payload: too deep"),
    ];
    wait_until("five rows", || rows(&database) == expected);
    let read = |setup: &Setup, projection: &str| {
        let positions = projected(&setup.store, projection);
        let positions = database.runtime.block_on(positions).unwrap();
        positions.values().sum::<u64>()
    };
    wait_until("all is read", || {
        (
            read(&running.events, ODOO),
            read(&running.letters, ODOO_DLQ),
        ) == (7, 5)
    });
    assert_eq!(rows(&database), expected);

    // A rebuild reads the topics in another order, and has the same rows.
    database.run("UPDATE odoo.webhook_events SET status = 'wrong'; DELETE FROM odoo.webhook_events WHERE id = 'e4'");
    let rebuilt = rebuild_odoo(&running.events, &mut |done, total| assert!(done <= total)).unwrap();
    assert_eq!(rebuilt.records, 7 + 5);
    assert_eq!(rows(&database), expected);
    // The projectors go on in the new table.
    log.add_at(&delivery(4, "ipai"), RECEIVED);
    let completed = row(4, "completed|0");
    wait_until("it is admitted", || rows(&database)[3] == completed);
    put(&log, letter(&delivery(6, "ipai"), 0, now));
    wait_until("one more", || rows(&database).len() == 6);
}
