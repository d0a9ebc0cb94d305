//! The projector: rows in the documented form, exactly once over failures.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use omnilink::{
    base::clock::Millis,
    envelope::Data,
    log::{Polled, header},
    projections::Projector,
    store::months::Month,
};

use crate::support::{
    projections::{DLQ, Database, EVENTS, MemoryLog, PARTITIONS, all_partitions, event},
    wait_until,
};

#[test]
fn an_event_becomes_a_row_and_an_entity() {
    let Some(database) = Database::new() else {
        return;
    };
    let log = MemoryLog::new();
    let at = Millis(1_735_689_600_123);
    let mut first = event(1, "o\0one");
    first.subject = Some("s\0".into());
    first.correlation_id = Some("c".into());
    first.extensions = r#"{"dataschema":"urn:x","note":"\u0000"}"#.into();
    first.data =
        Data::Json(r#"{"a":1.10,"gone":null,"text":"\u0000\\u0000","deep":{"x":1,"y":2}}"#.into());
    first.entity.as_mut().unwrap().display_name = Some("One".into());
    log.add_at(&first, at);
    let mut second = event(2, "o\0one");
    second.data = Data::Json(r#"{"deep":{"x":null,"z":3}}"#.into());
    log.add_at(&second, at);
    let mut binary = event(3, "two");
    binary.data = Data::Binary(b"\x00\xff".as_slice().into());
    log.add_at(&binary, at);
    let mut null = event(4, "two");
    null.data = Data::Json("null".into());
    null.kind = "order.deleted".into();
    log.add_at(&null, at);
    let mut without = event(5, "");
    without.entity = None;
    without.data = Data::Absent;
    log.add_at(&without, at);
    let _projector = database.start_projector(&log);
    wait_until("all rows are there", || database.rows() == 5);

    let row = |id: &str, columns: &str| {
        database.text(&format!(
            "SELECT concat_ws('|', {columns}) FROM omnilink.events WHERE id = '{id}'"
        ))
    };
    assert_eq!(
        row(
            "e1",
            "tenant, source, type, subject, entity_type, entity_id, correlation_id, causation_id, time_source"
        ),
        "acme|/shop|order.paid|s\u{fffd}|order|o\u{fffd}one|c|producer"
    );
    assert_eq!(
        row(
            "e1",
            "time AT TIME ZONE 'UTC', received_at AT TIME ZONE 'UTC'"
        ),
        "2023-11-14 22:13:20.000001|2025-01-01 00:00:00.123"
    );
    assert_eq!(
        row("e1", "data, extensions"),
        "{\"a\": 1.10, \"deep\": {\"x\": 1, \"y\": 2}, \"gone\": null, \"text\": \"\u{fffd}\\\\u0000\"}|\
         {\"note\": \"\u{fffd}\", \"dataschema\": \"urn:x\"}"
    );
    assert_eq!(row("e3", "data, data_base64"), "\\x00ff");
    assert_eq!(row("e4", "data, data_base64"), "null");
    assert_eq!(
        row(
            "e5",
            "data, data_base64, entity_type, entity_id, extensions"
        ),
        "{}"
    );
    assert!(row("e5", "tableoid::regclass").ends_with("events_2025_01"));

    let entity = |id: &str| {
        database.text(&format!(
            "SELECT concat_ws('|', display_name, state, version, last_event_id, last_event_at = to_timestamp(1700000000) + \
             version * interval '1 us', deleted_at AT TIME ZONE 'UTC') FROM omnilink.entities WHERE external_id = '{id}'"
        ))
    };
    assert_eq!(
        entity("o\u{fffd}one"),
        "One|{\"a\": 1.10, \"deep\": {\"y\": 2, \"z\": 3}, \"text\": \"\u{fffd}\\\\u0000\"}|2|e2|t"
    );
    assert_eq!(entity("two"), "{}|2|e4|f|2023-11-14 22:13:20.000004");
    assert_eq!(database.number("SELECT count(*) FROM omnilink.entities"), 2);
}

#[test]
fn an_idle_projector_writes_a_row_immediately() {
    let Some(database) = Database::new() else {
        return;
    };
    let log = MemoryLog::new();
    let _projector = database.start_projector(&log);
    log.add(&event(0, "a"));
    wait_until("the first row", || database.rows() == 1);
    let times: Vec<Duration> = (1..20)
        .map(|n| {
            let began = Instant::now();
            log.add(&event(n, "a"));
            wait_until("a row", || database.rows() == n as i64 + 1);
            began.elapsed()
        })
        .collect();
    // Most of the time is the new connection that counts the rows.
    let best = times.iter().min().unwrap();
    assert!(*best < Duration::from_millis(100), "{times:?}");
}

#[test]
fn rows_are_written_once_over_lost_connections_and_projectors() {
    let Some(database) = Database::new() else {
        return;
    };
    let log = MemoryLog::new();
    // A backlog, so that transactions have several batches.
    let mut added = 40_000;
    log.add_many(0, added);
    let mut projector = Some(database.start_projector(&log));
    for round in 0..30 {
        log.add_many(added, added + 1_000);
        added += 1_000;
        std::thread::sleep(Duration::from_millis(15));
        database.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND application_name = 'omnilink projection'",
        );
        if round % 10 == 9 {
            // The old one is dropped with its uncommitted work.
            drop(projector.take());
            projector = Some(database.start_projector(&log));
        }
    }
    wait_until("all rows are there", || database.rows() >= added as i64);
    database.assert_exactly_once(&log);
}

#[test]
fn a_failing_log_stalls_the_projector_until_it_recovers() {
    let Some(database) = Database::new() else {
        return;
    };
    let log = MemoryLog::new();
    let setup = database.setup(&log);
    let _projector = Projector::start(&setup, 1).unwrap();
    log.notify(0, Polled::Assigned(all_partitions()));
    log.add_many(0, 500);
    wait_until("rows", || database.rows() == 500);
    log.down.store(true, Ordering::Relaxed);
    wait_until("it stalls", || setup.progress.trouble().is_some());
    log.add_many(500, 1_000);
    let members = log.members();
    log.down.store(false, Ordering::Relaxed);
    log.notify(members.max(1), Polled::Assigned(all_partitions()));
    wait_until("rows", || database.rows() == 1_000);
    wait_until("it runs", || setup.progress.trouble().is_none());
    database.assert_exactly_once(&log);
}

#[test]
fn a_stale_owner_is_fenced() {
    let Some(database) = Database::new() else {
        return;
    };
    let log = MemoryLog::new();
    let zombie = database.start_projector(&log);
    log.add_many(0, 2_000);
    wait_until("some rows", || database.rows() > 0);
    // Both own all partitions, while records are appended.
    let owner = database.start_projector(&log);
    for n in 1..20 {
        log.add_many(n * 2_000, (n + 1) * 2_000);
        std::thread::sleep(Duration::from_millis(10));
    }
    wait_until("all rows are there", || database.rows() >= 40_000);
    database.assert_exactly_once(&log);
    // The later one kept them: at most one change of owner for each partition and owner.
    let epochs = database
        .number("SELECT max(epoch) FROM omnilink.projection_offsets WHERE projection = 'events'");
    assert!(epochs <= 4, "{epochs} changes of owner");
    log.notify(0, Polled::Lost(all_partitions()));
    drop(zombie);
    log.add_many(40_000, 41_000);
    wait_until("the owner goes on", || database.rows() == 41_000);
    drop(owner);
}

#[test]
fn an_owner_that_hangs_in_its_transaction_is_terminated() {
    use sqlx::Connection;
    let Some(database) = Database::new() else {
        return;
    };
    let log = MemoryLog::new();
    log.add_many(0, 1_000);
    drop(database.start_projector(&log));
    log.add_many(1_000, 2_000);
    // A stopped node: its transaction has updated positions and then hangs.
    let stopped = database.runtime.block_on(async {
        let options = database
            .options
            .clone()
            .application_name("omnilink projection");
        let mut connection = sqlx::PgConnection::connect_with(&options).await.unwrap();
        // Statement by statement: sent together they would all be in the transaction that BEGIN opens.
        for statement in [
            "UPDATE omnilink.projection_offsets SET backend = pg_backend_pid()",
            "BEGIN",
            "UPDATE omnilink.projection_offsets SET next = next + 1",
        ] {
            sqlx::raw_sql(statement)
                .execute(&mut connection)
                .await
                .unwrap();
        }
        connection
    });
    let _projector = database.start_projector(&log);
    let began = Instant::now();
    wait_until("all rows are there", || database.rows() == 2_000);
    assert!(began.elapsed() < Duration::from_secs(10));
    drop(stopped);
    database.assert_exactly_once(&log);
}

#[test]
fn invalid_records_become_dead_letters_and_stop_nothing() {
    let Some(database) = Database::new() else {
        return;
    };
    let log = MemoryLog::new();
    let setup = database.setup(&log);
    // A backlog, so that a transaction has several batches.
    log.add_many(0, 30_000);
    // A time before the first date of Postgres: the whole batch fails.
    let mut poison = event(100_000, "o3");
    poison.time = -400_000_000_000_000_000;
    log.add(&poison);
    log.add_many(30_000, 31_500);
    poison.id = "e100001".into();
    log.add(&poison);
    log.add_raw(b"acme/order/o3", b"not Avro".to_vec());
    log.add_many(31_500, 32_000);
    let projector = Projector::start(&setup, 1).unwrap();
    log.notify(0, Polled::Assigned(all_partitions()));
    wait_until("the good rows are there", || database.rows() == 32_000);
    wait_until("the positions are past the bad ones", || {
        database.number("SELECT sum(next) FROM omnilink.projection_offsets") == log.events() as i64
    });
    drop(projector);

    let dead = log.records(DLQ);
    assert_eq!(dead.len(), 3);
    assert_eq!(setup.progress.rejections(), 3);
    let text = |n: usize, name: &str| {
        let value = header(&dead[n].record.headers, &format!("omnilink.dlq.{name}")).unwrap();
        String::from_utf8(value.to_vec()).unwrap()
    };
    let mut codes: Vec<String> = (0..3).map(|n| text(n, "code")).collect();
    codes.sort();
    assert_eq!(
        codes,
        ["invalid_payload", "postgres_22008", "postgres_22008"]
    );
    assert_eq!(text(0, "topic"), EVENTS);
    assert_eq!(text(0, "stage"), "events");
    for (n, letter) in dead.iter().enumerate() {
        let number = |name: &str| text(n, name).parse::<u64>().unwrap();
        let at = (number("partition"), number("offset"));
        let original = log
            .records(EVENTS)
            .into_iter()
            .find(|r| (u64::from(r.partition), r.offset) == at)
            .unwrap();
        assert_eq!(original.record.value, letter.record.value, "byte for byte");
        assert_eq!(original.record.key, letter.record.key);
    }
    // The entity is the same as without the invalid records.
    assert_eq!(
        database.number("SELECT count(*) FROM omnilink.events WHERE entity_id = 'o3'"),
        database.number("SELECT version FROM omnilink.entities WHERE external_id = 'o3'")
    );
}

#[test]
fn a_position_beyond_the_end_of_the_log_is_an_error() {
    let Some(database) = Database::new() else {
        return;
    };
    let log = MemoryLog::new();
    log.add_many(0, 100);
    drop({
        let projector = database.start_projector(&log);
        wait_until("rows", || database.rows() == 100);
        projector
    });
    log.clear();
    log.add_many(0, 10);
    let setup = database.setup(&log);
    let member = log.members();
    let _projector = Projector::start(&setup, 1).unwrap();
    log.notify(member, Polled::Assigned(all_partitions()));
    wait_until("the error is reported", || {
        setup
            .progress
            .trouble()
            .is_some_and(|t| t.contains("omnilink rebuild"))
    });
    assert_eq!(database.rows(), 100);
}

#[test]
fn months_are_created_for_old_events_and_moved_out_of_the_default_partition() {
    let Some(database) = Database::new() else {
        return;
    };
    let log = MemoryLog::new();
    let months = |database: &Database| {
        database.texts(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
                        WHERE i.inhparent = 'omnilink.events'::regclass ORDER BY 1",
        )
    };
    let ahead = months(&database);
    assert_eq!(
        ahead.len(),
        3,
        "this month, the next, and the default: {ahead:?}"
    );

    // Rows that were written while their month could not be created.
    let old = Millis(1_420_070_400_000 + 86_400_000);
    database.run(&format!(
        "INSERT INTO omnilink.events SELECT 'acme', 'x' || n, '/', 't', NULL, NULL, NULL, NULL, NULL, now(), 'producer', \
         to_timestamp({} / 1000.0), NULL, NULL, '{{}}', 99, n FROM generate_series(1, 10) n",
        old.0
    ));
    log.add_at(&event(1, "a"), old);
    // Before partitions by month existed, and times far away, from wrong clocks.
    log.add_at(&event(2, "a"), Millis(5));
    log.add_at(&event(3, "a"), Millis(4_000_000_000_000));
    let _projector = database.start_projector(&log);
    wait_until("all rows", || database.rows() == 13);
    assert_eq!(
        database.number("SELECT count(*) FROM omnilink.events_2015_01"),
        11
    );
    assert_eq!(
        database.number("SELECT count(*) FROM omnilink.events_default"),
        2
    );
    assert_eq!(months(&database).len(), 4);
    assert_eq!(Month::of(old), Month::of(Millis(1_420_070_400_000)));
    assert_eq!(PARTITIONS, 4);
}
