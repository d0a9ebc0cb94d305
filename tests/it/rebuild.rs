//! Rebuild: new tables are filled beside the old ones under load, and swapped without a gap.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use omnilink::{
    log::Polled,
    projections::{ProjectionError, Projector, RebuildTables, rebuild},
};
use sqlx::{Connection, PgConnection};

use crate::support::{
    projections::{DLQ, Database, MemoryLog, all_partitions, event},
    wait_until,
};

const BOTH: RebuildTables = RebuildTables {
    events: true,
    entities: true,
};

/// Counts rows repeatedly: the number must never decrease.
fn watch(database: &Database, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<u32> {
    let options = database.options.clone();
    database.runtime.spawn(async move {
        let mut connection = PgConnection::connect_with(&options).await.unwrap();
        let mut before = (0, 0, 0);
        let mut times = 0;
        while !stop.load(Ordering::Relaxed) {
            let now = sqlx::query_as::<_, (i64, i64, i64)>(
                "SELECT (SELECT count(*) FROM omnilink.events), (SELECT count(*) FROM omnilink.entities), \
                 (SELECT sum(version)::bigint FROM omnilink.entities)",
            )
            .fetch_one(&mut connection)
            .await
            .expect("a reader meets no error");
            assert!(now.0 >= before.0 && now.1 >= before.1 && now.2 >= before.2, "{now:?} after {before:?}");
            // One statement is one snapshot: each event is counted in its entity.
            assert_eq!(now.0, now.2, "events and entities differ");
            before = now;
            times += 1;
        }
        times
    })
}

#[test]
fn a_rebuild_under_load_has_no_gap_and_loses_nothing() {
    let Some(database) = Database::new() else {
        return;
    };
    let log = MemoryLog::new();
    log.add_many(0, 20_000);
    let projector = database.start_projector(&log);
    wait_until("rows", || database.rows() >= 10_000);
    database.run("CREATE VIEW public.paid AS SELECT count(*) AS n FROM omnilink.events WHERE type = 'order.paid'");

    let stop = Arc::new(AtomicBool::new(false));
    let reader = watch(&database, Arc::clone(&stop));
    let feeder = {
        let (log, stop) = (Arc::clone(&log), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut n = 20_000;
            while !stop.load(Ordering::Relaxed) {
                log.add_many(n, n + 20);
                n += 20;
                std::thread::sleep(Duration::from_millis(5));
            }
            n
        })
    };
    let setup = database.setup(&log);
    let mut told = Vec::new();
    for what in [
        BOTH,
        RebuildTables {
            events: true,
            entities: false,
        },
        RebuildTables {
            events: false,
            entities: true,
        },
        BOTH,
    ] {
        // Wrong rows are corrected.
        if what.entities {
            database
                .run("UPDATE omnilink.entities SET display_name = 'wrong' WHERE ctid = '(0,1)'");
        }
        let rebuilt = rebuild(&setup, what, &mut |done, total| told.push((done, total))).unwrap();
        assert!(rebuilt.records >= 10_000, "{rebuilt:?}");
        assert!(rebuilt.paused < Duration::from_secs(5), "{rebuilt:?}");
        if what.entities {
            assert_eq!(
                database
                    .number("SELECT count(*) FROM omnilink.entities WHERE display_name = 'wrong'"),
                0
            );
        }
    }
    assert!(told.iter().all(|(done, total)| done <= total && *done > 0));
    stop.store(true, Ordering::Relaxed);
    let added = feeder.join().unwrap();
    wait_until("the projector goes on", || database.rows() == added as i64);
    assert!(database.runtime.block_on(reader).unwrap() > 5);
    drop(projector);
    database.assert_exactly_once(&log);

    // No old tables are left, the view shows the new rows, and grants and policies of readers exist.
    assert_eq!(
        database.texts("SELECT c.relname FROM pg_class c WHERE c.relname LIKE '%rebuild%'"),
        [""; 0]
    );
    assert_eq!(database.number("SELECT n FROM public.paid"), added as i64);
    assert_eq!(
        database.number("SELECT count(*) FROM pg_policies WHERE schemaname = 'omnilink'"),
        12
    );
    assert_eq!(
        database.number(
            "SELECT count(*) FROM information_schema.role_table_grants \
             WHERE grantee = 'omnilink_reader' AND table_name IN ('events', 'entities')"
        ),
        2
    );
    assert_eq!(
        database.number("SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                         WHERE n.nspname = 'omnilink' AND c.relispartition AND c.relkind = 'r' AND NOT c.relrowsecurity"),
        0
    );
    assert_eq!(
        database.text("SELECT reloptions FROM pg_class WHERE relname = 'entities_all'"),
        "{fillfactor=70}"
    );
    assert_eq!(
        database.texts("SELECT conname FROM pg_constraint WHERE conname LIKE 'within%'"),
        [""; 0]
    );
}

#[test]
fn without_a_projector_a_rebuild_ends_at_the_committed_position() {
    let Some(database) = Database::new() else {
        return;
    };
    let log = MemoryLog::new();
    log.add_many(0, 1_000);
    drop({
        let projector = database.start_projector(&log);
        wait_until("rows", || database.rows() == 1_000);
        projector
    });
    log.add_many(1_000, 1_500);
    database
        .run("DELETE FROM omnilink.events WHERE log_offset % 3 = 0; TRUNCATE omnilink.entities");
    let rebuilt = rebuild(&database.setup(&log), BOTH, &mut |_, _| {}).unwrap();
    assert_eq!(rebuilt.records, 1_000);
    assert_eq!(database.rows(), 1_000);
    let _projector = database.start_projector(&log);
    wait_until("rows", || database.rows() == 1_500);
    database.assert_exactly_once(&log);
}

#[test]
fn a_rebuild_accepts_a_log_that_lost_its_end() {
    let Some(database) = Database::new() else {
        return;
    };
    let log = MemoryLog::new();
    log.add_many(0, 1_000);
    let setup = database.setup(&log);
    let _projector = Projector::start(&setup, 1).unwrap();
    log.notify(0, Polled::Assigned(all_partitions()));
    wait_until("rows", || database.rows() == 1_000);
    log.clear();
    log.add_many(0, 300);
    log.notify(0, Polled::Revoked(all_partitions()));
    log.notify(0, Polled::Assigned(all_partitions()));
    wait_until("the stall", || setup.progress.trouble().is_some());
    let events = RebuildTables {
        events: true,
        entities: false,
    };
    assert!(matches!(
        rebuild(&setup, events, &mut |_, _| {}),
        Err(ProjectionError::AheadOfLog { .. })
    ));
    rebuild(&setup, BOTH, &mut |_, _| {}).unwrap();
    log.add_many(300, 400);
    wait_until("the projector continues", || {
        database.rows() == 400 && setup.progress.trouble().is_none()
    });
    database.assert_exactly_once(&log);
}

#[test]
fn rebuilds_run_one_at_a_time_and_remove_leftovers() {
    let Some(database) = Database::new() else {
        return;
    };
    let log = MemoryLog::new();
    log.add_many(0, 500);
    let _projector = database.start_projector(&log);
    wait_until("rows", || database.rows() == 500);
    let setup = database.setup(&log);
    let mut holder = database.runtime.block_on(async {
        let mut connection = PgConnection::connect_with(&database.options).await.unwrap();
        sqlx::raw_sql(
            "SELECT pg_advisory_lock(8029195109841330805); CREATE TABLE omnilink.events_rebuild (n integer); \
             ALTER TABLE omnilink.events_rebuild OWNER TO omnilink_service; \
             INSERT INTO omnilink.projection_offsets VALUES ('events.rebuild', 0, 7, 1, 1)",
        )
        .execute(&mut connection)
        .await
        .unwrap();
        connection
    });
    assert!(matches!(
        rebuild(&setup, BOTH, &mut |_, _| {}),
        Err(ProjectionError::RebuildRunning)
    ));
    // Closing the connection alone would release the lock only when the server notices.
    database.runtime.block_on(async {
        sqlx::raw_sql("SELECT pg_advisory_unlock_all()")
            .execute(&mut holder)
            .await
            .unwrap();
        holder.close().await.unwrap();
    });
    rebuild(&setup, BOTH, &mut |_, _| {}).unwrap();
    assert_eq!(database.rows(), 500);
    database.assert_exactly_once(&log);
}

#[test]
fn a_rebuild_skips_rejected_records() {
    let Some(database) = Database::new() else {
        return;
    };
    let log = MemoryLog::new();
    log.add_many(0, 12_000);
    let mut poison = event(100_000, "o3");
    poison.time = -400_000_000_000_000_000;
    log.add(&poison);
    log.add_raw(b"acme/order/o3", b"not Avro".to_vec());
    log.add_many(12_000, 24_000);
    let setup = database.setup(&log);
    let _projector = Projector::start(&setup, 1).unwrap();
    log.notify(0, Polled::Assigned(all_partitions()));
    wait_until("rows", || {
        database.rows() == 24_000 && setup.progress.rejections() == 2
    });
    let mut told = (0, 0);
    let rebuilt = rebuild(&setup, BOTH, &mut |done, total| told = (done, total)).unwrap();
    assert_eq!(rebuilt.records, 24_002);
    assert_eq!(told, (24_002, 24_002));
    assert_eq!(database.rows(), 24_000);
    assert_eq!(
        database.number("SELECT sum(version) FROM omnilink.entities"),
        24_000
    );
    // No record is rejected a second time.
    assert_eq!(log.records(DLQ).len(), 2);
}

#[test]
fn a_swap_blocked_by_readers_does_not_stop_the_projector() {
    let Some(database) = Database::new() else {
        return;
    };
    let log = MemoryLog::new();
    log.add_many(0, 1_000);
    let setup = database.setup(&log);
    let _projector = Projector::start(&setup, 1).unwrap();
    log.notify(0, Polled::Assigned(all_partitions()));
    wait_until("rows", || database.rows() == 1_000);
    // A slow report.
    let mut reader = database
        .runtime
        .block_on(PgConnection::connect_with(&database.options))
        .unwrap();
    let begin = sqlx::raw_sql("BEGIN; SELECT count(*) FROM omnilink.events");
    database
        .runtime
        .block_on(begin.execute(&mut reader))
        .unwrap();
    let rebuilding = {
        let setup = setup.clone();
        std::thread::spawn(move || rebuild(&setup, BOTH, &mut |_, _| {}))
    };
    // The first attempt is blocked by the report now; each takes at most 2 s.
    std::thread::sleep(Duration::from_secs(3));
    log.add_many(1_000, 1_100);
    wait_until("the projector goes on", || {
        database
            .number("SELECT sum(next) FROM omnilink.projection_offsets WHERE projection = 'events'")
            == 1_100
    });
    assert!(!rebuilding.is_finished());
    let end = sqlx::raw_sql("COMMIT").execute(&mut reader);
    database.runtime.block_on(end).unwrap();
    rebuilding.join().unwrap().unwrap();
    wait_until("rows", || database.rows() == 1_100);
    database.assert_exactly_once(&log);
}
