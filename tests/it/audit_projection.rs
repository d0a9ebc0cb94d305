//! The projection of the topic `audit`: rows in the documented form, exactly once over failures, rebuilt, and bounded by retention.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use omnilink::{
    audit::{Entry, NO_TENANT, Outcome},
    base::{
        clock::{Clock, Millis, SystemClock},
        id::Tenant,
    },
    log::{Append, Cleanup, Log, Polled, topics::Names},
    projections::{AUDIT, Projector, Setup, projected, rebuild_audit},
    store::{
        audit::expire,
        keys::{self, KeyRow},
    },
    stream::progress::Progress,
};
use serde_json::{Value, json};

use crate::support::{
    TestLog, append, on_both_logs,
    projections::{Database, MemoryLog, all_partitions},
    read_all, wait_until,
};

const TOPIC: &str = "t.audit";

fn entry(tenant: &str, action: &str, detail: Value) -> Entry {
    let tenant = Tenant::new(tenant).unwrap();
    let entry = Entry::new(Some(&tenant), action, Outcome::Ok, SystemClock.now());
    let Value::Object(detail) = detail else {
        panic!("{detail}");
    };
    entry.detail(detail)
}

fn setup(database: &Database, log: &Arc<dyn Log>, topic: &str, dlq: &str) -> Setup {
    Setup {
        store: database.store(),
        log: Arc::clone(log),
        topic: topic.into(),
        dlq: dlq.into(),
        clock: Arc::new(SystemClock),
        runtime: database.runtime.handle().clone(),
        progress: Arc::new(Progress::default()),
    }
}

fn key_row(id: &str) -> KeyRow {
    KeyRow {
        tenant: "acme".into(),
        id: id.into(),
        name: "shop".into(),
        principal: "shop".into(),
        kind: "service".into(),
        prefix: "abcdefgh".into(),
        scopes: r#"{"permissions":["events:write"]}"#.into(),
        max_rpm: 60,
        max_concurrency: 5,
        created_at: Millis(1_700_000_000_000),
        expires_at: None,
        revoked_at: None,
    }
}

on_both_logs!(
    entries_become_rows,
    the_topic_is_kept_as_long_as_the_setting_says
);

fn entries_become_rows(test_log: TestLog) {
    let Some(database) = Database::new() else {
        return;
    };
    let log = test_log.open("one");
    let (topic, dlq) = (test_log.topic("audit"), test_log.topic("dlq"));
    let delete = Cleanup::Delete {
        retention_ms: 86_400_000,
    };
    let specs = [
        test_log.spec("audit", 2, delete),
        test_log.spec("dlq", 2, delete),
    ];
    log.provision(&specs, true).unwrap();
    let (store, rows) = (database.store(), [key_row("k1"), key_row("k2")]);
    let write = keys::replace(&store, &rows, &[]);
    database.runtime.block_on(write).unwrap();

    let rejected = json!({
        "source": "odoo", "code": "invalid_signature", "message": "no", "body_hash": "abc", "body_head": STANDARD.encode(b"\x00{}"),
    });
    let start = json!({
        "request_id": "r1", "run_id": "run1", "kind": "workflow", "type": "pay", "source": "/shop", "status": "duplicate", "code": null,
    });
    let full = entry("acme", "key.created", json!({ "nul": "a\0b", "n": 1.5 }))
        .by("ann", Some("bob"))
        .resource("key", "k1")
        .client("2001:db8::1".parse().unwrap(), Some(b"curl/8"));
    let entries = [
        full.clone(),
        // The log may hold an entry twice: it is one row.
        full.clone(),
        Entry::new(
            None,
            "authentication.failed",
            Outcome::Denied,
            SystemClock.now(),
        ),
        entry("acme", "webhook.rejected", rejected)
            .resource("source", "odoo")
            .client([192, 0, 2, 7].into(), None),
        entry("acme", "start", start)
            .by("ann", None)
            .resource("run", "run1"),
        entry("acme", "key.used", json!({})).resource("key", "k1"),
        entry("acme", "key.used", json!({})).resource("key", "unknown"),
    ];
    let mut records: Vec<_> = entries.iter().map(|e| e.encode().unwrap()).collect();
    // Records that are none of the topic's: not Avro, a detail that is no object, an address and a time that are none.
    let mut bad = records[0].clone();
    bad.value = Some("{}".into());
    let mut no_object = entry("acme", "run.read", json!({}));
    no_object.detail = "[]".into();
    let mut no_address = entry("acme", "run.read", json!({}));
    no_address.address = Some("nowhere".into());
    let mut no_time = entry("acme", "run.read", json!({}));
    no_time.at = i64::MAX;
    records.push(bad);
    records.extend([no_object, no_address, no_time].map(|e| e.encode().unwrap()));
    append(log.as_ref(), &topic, records).unwrap();

    let setup = setup(&database, &log, &topic, &dlq);
    let _projector = Projector::start_audit(&setup).unwrap();
    wait_until("all rows", || {
        database.number("SELECT count(*) FROM omnilink.audit_log") == 6
    });
    let letters = read_all(log.as_ref(), &dlq, 4);
    assert_eq!(letters.len(), 4);
    for letter in &letters {
        let code = omnilink::log::header(&letter.record.headers, "omnilink.dlq.code");
        assert_eq!(code, Some(&b"invalid_payload"[..]));
    }
    let row = database.text(
        "SELECT row_to_json(a) FROM (SELECT tenant, id, principal, on_behalf_of, action, resource_type, resource_id, outcome, \
         host(address) AS address, user_agent, detail FROM omnilink.audit_log WHERE action = 'key.created') a",
    );
    assert_eq!(
        serde_json::from_str::<Value>(&row).unwrap(),
        json!({
            "tenant": "acme", "id": full.id, "principal": "ann", "on_behalf_of": "bob", "action": "key.created", "resource_type": "key",
            "resource_id": "k1", "outcome": "ok", "address": "2001:db8::1", "user_agent": "curl/8",
            "detail": { "nul": "a\u{fffd}b", "n": 1.5 },
        })
    );
    assert_eq!(
        database.number("SELECT (EXTRACT(EPOCH FROM at) * 1000000)::bigint FROM omnilink.audit_log WHERE action = 'key.created'"),
        full.at
    );
    assert_eq!(
        database.text("SELECT tenant || outcome FROM omnilink.audit_log WHERE action = 'authentication.failed'"),
        format!("{NO_TENANT}denied")
    );
    assert_eq!(
        database.text(
            "SELECT concat_ws('|', tenant, id, source, host(address), code, message, body_hash, encode(body_head, 'hex')) \
             FROM omnilink.rejections"
        ),
        format!("acme|{}|odoo|192.0.2.7|invalid_signature|no|abc|007b7d", entries[3].id)
    );
    assert_eq!(
        database.text(
            "SELECT concat_ws('|', tenant, request_id, run_id, kind, type, principal, source, status, code) \
             FROM omnilink.orchestration_requests"
        ),
        "acme|r1|run1|workflow|pay|ann|/shop|duplicate"
    );
    assert_eq!(
        database
            .texts("SELECT id || (last_used_at IS NOT NULL) FROM omnilink.api_keys ORDER BY id"),
        ["k1true", "k2false"]
    );
}

fn the_topic_is_kept_as_long_as_the_setting_says(test_log: TestLog) {
    let log = test_log.open("one");
    for days in [90, 5, 400] {
        let names = Names::new(&test_log.prefix).with_audit_days(days);
        log.provision(&names.specs(1), true).unwrap();
        log.keep_for(&names.audit, names.audit_retention_ms());
        let kept = Some(Cleanup::Delete {
            retention_ms: i64::from(days) * 86_400_000,
        });
        wait_until("it is changed", || {
            log.cleanup(&names.audit).unwrap() == kept
        });
        // Other topics are as they were.
        let dlq = Cleanup::Delete {
            retention_ms: 30 * 86_400_000,
        };
        assert_eq!(log.cleanup(&names.dlq).unwrap(), Some(dlq));
    }
}

/// A log with a few topics in memory.
fn memory() -> (Arc<MemoryLog>, Arc<dyn Log>) {
    let log = MemoryLog::new();
    (Arc::clone(&log), log as Arc<dyn Log>)
}

fn add(log: &Arc<dyn Log>, from: usize, to: usize) {
    let records = (from..to).map(|n| {
        let tenant = format!("t{}", n % 7);
        let entry = entry(&tenant, "key.used", json!({ "n": n })).resource("key", "k");
        Append {
            topic: TOPIC.into(),
            record: entry.encode().unwrap(),
        }
    });
    let appended = log.append(records.collect(), None);
    appended.blocking_recv().unwrap().unwrap();
}

fn start(memory: &Arc<MemoryLog>, setup: &Setup) -> Projector {
    let member = memory.members();
    let projector = Projector::start_audit(setup).unwrap();
    memory.notify(member, Polled::Assigned(all_partitions()));
    projector
}

fn assert_once(database: &Database, added: usize) {
    assert_eq!(
        database.number("SELECT count(*) FROM omnilink.audit_log"),
        added as i64
    );
    assert_eq!(
        database.number("SELECT count(DISTINCT detail -> 'n') FROM omnilink.audit_log"),
        added as i64
    );
    let store = database.store();
    let positions = projected(&store, AUDIT);
    let positions = database.runtime.block_on(positions).unwrap();
    assert_eq!(positions.values().sum::<u64>(), added as u64);
}

#[test]
fn entries_are_written_once_over_lost_connections_and_projectors() {
    let Some(database) = Database::new() else {
        return;
    };
    let (memory, log) = memory();
    let setup = setup(&database, &log, TOPIC, "t.dlq");
    let mut added = 12_000;
    add(&log, 0, added);
    let mut projector = Some(start(&memory, &setup));
    for round in 0..20 {
        add(&log, added, added + 300);
        added += 300;
        std::thread::sleep(Duration::from_millis(15));
        database.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND application_name = 'omnilink projection'",
        );
        if round % 7 == 6 {
            drop(projector.take());
            projector = Some(start(&memory, &setup));
        }
    }
    // A second owner of all partitions fences the first.
    let _owner = start(&memory, &setup);
    add(&log, added, added + 500);
    added += 500;
    wait_until("all rows are there", || {
        database.number("SELECT count(*) FROM omnilink.audit_log") >= added as i64
    });
    assert_once(&database, added);
}

#[test]
fn a_row_that_postgres_refuses_is_a_dead_letter() {
    let Some(database) = Database::new() else {
        return;
    };
    let (memory, log) = memory();
    let setup = setup(&database, &log, TOPIC, "t.dlq");
    add(&log, 0, 700);
    // Its key is larger than an index takes.
    let mut refused = entry("t1", "run.read", json!({}));
    refused.id = (0..1_000)
        .map(|_| uuid::Uuid::now_v7().simple().to_string())
        .collect();
    let record = refused.encode().unwrap();
    append(log.as_ref(), TOPIC, vec![record.clone()]).unwrap();
    add(&log, 700, 900);
    let _projector = start(&memory, &setup);
    wait_until("the others are there", || {
        database.number("SELECT count(*) FROM omnilink.audit_log") == 900
    });
    wait_until("the letter", || memory.records("t.dlq").len() == 1);
    let letter = memory.records("t.dlq").remove(0).record;
    assert_eq!(letter.value, record.value);
    let code = omnilink::log::header(&letter.headers, "omnilink.dlq.code").unwrap();
    assert_eq!(code, b"postgres_54000");
}

#[test]
fn a_rebuild_beside_the_projector_loses_nothing() {
    let Some(database) = Database::new() else {
        return;
    };
    let (memory, log) = memory();
    let setup = setup(&database, &log, TOPIC, "t.dlq");
    add(&log, 0, 30_000);
    let projector = start(&memory, &setup);
    wait_until("rows", || {
        database.number("SELECT count(*) FROM omnilink.audit_log") >= 10_000
    });
    let stop = Arc::new(AtomicBool::new(false));
    let feeder = {
        let (log, stop) = (Arc::clone(&log), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut n = 30_000;
            while !stop.load(Ordering::Relaxed) {
                add(&log, n, n + 20);
                n += 20;
                std::thread::sleep(Duration::from_millis(10));
            }
            n
        })
    };
    // Wrong rows are corrected.
    database.run("UPDATE omnilink.audit_log SET principal = 'wrong'; DELETE FROM omnilink.audit_log WHERE tenant = 't3'");
    for _ in 0..2 {
        let rebuilt = rebuild_audit(&setup, &mut |done, total| assert!(done <= total)).unwrap();
        assert!(rebuilt.records >= 10_000, "{rebuilt:?}");
        assert!(rebuilt.paused < Duration::from_secs(10), "{rebuilt:?}");
    }
    stop.store(true, Ordering::Relaxed);
    let added = feeder.join().unwrap();
    wait_until("the projector goes on", || {
        database.number("SELECT count(*) FROM omnilink.audit_log") >= added as i64
    });
    drop(projector);
    assert_once(&database, added);
    assert_eq!(
        database.number("SELECT count(*) FROM omnilink.audit_log WHERE principal = 'wrong'"),
        0
    );
    assert_eq!(
        database.texts("SELECT relname FROM pg_class WHERE relname LIKE '%rebuild%'"),
        [""; 0]
    );
    // The primary key and the indexes are those of the table.
    assert_eq!(
        database.number(
            "SELECT count(*) FROM pg_indexes WHERE schemaname = 'omnilink' AND tablename = 'audit_log_all' \
             AND indexname LIKE 'audit_log_all_%'"
        ),
        3
    );
    assert_eq!(
        database.number("SELECT count(*) FROM pg_policies WHERE tablename = 'audit_log'"),
        1
    );
}

#[test]
fn old_rows_are_deleted_in_steps() {
    let Some(database) = Database::new() else {
        return;
    };
    database.run(
        "INSERT INTO omnilink.audit_log (tenant, at, id, action, outcome, detail) \
         SELECT 't' || n % 3, now() - (n % 100) * interval '1 day' - interval '1 hour', n::text, 'x', 'ok', '{}' \
         FROM generate_series(0, 119999) n; \
         INSERT INTO omnilink.rejections (tenant, id, at, source, code) \
         VALUES ('acme', '1', now() - interval '91 days', 's', 'c'), ('acme', '2', now() - interval '89 days', 's', 'c')",
    );
    let deleted = database
        .runtime
        .block_on(expire(&database.store(), 90))
        .unwrap();
    // Those of the days 90 to 99, and a rejection.
    assert_eq!(deleted, 12_000 + 1);
    assert_eq!(
        database.number(
            "SELECT count(*) FROM omnilink.audit_log WHERE at < now() - interval '90 days'"
        ),
        0
    );
    assert_eq!(
        database.number("SELECT count(*) FROM omnilink.audit_log"),
        108_000
    );
    assert_eq!(database.text("SELECT id FROM omnilink.rejections"), "2");
    // Newest first of a tenant reads the primary key backwards, whatever else is in the table.
    database.run("ANALYZE omnilink.audit_log");
    let plan = database
        .texts_of("EXPLAIN SELECT * FROM omnilink.audit_log WHERE tenant = 't1' AND (at, id) < (now(), 'x') ORDER BY at DESC, id DESC LIMIT 101")
        .join("\n");
    assert!(plan.contains("Index Scan Backward"), "{plan}");
    assert!(!plan.contains("Sort"), "{plan}");
}
