//! Extreme values: keys that are equal in Postgres, numbers that are long there, the earliest and latest times.

use std::collections::BTreeMap;

use omnilink::{
    envelope::Data,
    log::{Polled, header, partition_for},
    projections::{Projector, RebuildTables, rebuild},
};

use crate::support::{
    projections::{DLQ, Database, MemoryLog, PARTITIONS, all_partitions, event},
    wait_until,
};

fn wait_until_read(database: &Database, log: &MemoryLog) {
    wait_until("all records are read", || {
        database
            .text("SELECT sum(next) FROM omnilink.projection_offsets WHERE projection = 'events'")
            == log.events().to_string()
    });
}

fn codes(log: &MemoryLog) -> BTreeMap<String, usize> {
    let mut codes = BTreeMap::new();
    for letter in log.records(DLQ) {
        let code = header(&letter.record.headers, "omnilink.dlq.code").unwrap();
        *codes
            .entry(String::from_utf8(code.to_vec()).unwrap())
            .or_default() += 1;
    }
    codes
}

/// Events from before U+0000 was refused in keys: two keys become one row, which two lanes write.
#[test]
fn two_lanes_that_write_one_entity_lose_nothing() {
    const PAIRS: usize = 16;
    const EACH: usize = 6;
    let Some(database) = Database::new() else {
        return;
    };
    let log = MemoryLog::new();
    let setup = database.setup(&log);
    let _projector = Projector::start(&setup, 2).unwrap();
    let (ours, theirs): (Vec<_>, Vec<_>) = all_partitions()
        .into_iter()
        .partition(|(_, p)| *p < PARTITIONS / 2);
    log.notify(0, Polled::Assigned(ours));
    log.notify(1, Polled::Assigned(theirs));
    // Pairs with one key in each lane.
    let lane = |id: &str| {
        partition_for(format!("acme/order/{id}").as_bytes(), PARTITIONS) < PARTITIONS / 2
    };
    let pairs: Vec<_> = (0..)
        .map(|n| (format!("o{n}\0"), format!("o{n}\u{fffd}")))
        .filter(|(a, b)| lane(a) != lane(b))
        .take(PAIRS)
        .collect();
    for round in 0..EACH {
        for (n, (a, b)) in pairs.iter().enumerate() {
            for (at, id) in [a, b].into_iter().enumerate() {
                let mut event = event(round * 1000 + n * 2 + at, id);
                event.data = Data::Json(format!(r#"{{"k{round}_{at}":1}}"#).into());
                log.add(&event);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    wait_until_read(&database, &log);
    assert_eq!(
        database.number("SELECT count(*) FROM omnilink.events"),
        (PAIRS * EACH * 2) as i64
    );
    assert_eq!(
        database.number("SELECT count(*) FROM omnilink.entities"),
        PAIRS as i64
    );
    let whole = format!(
        "SELECT count(*) FROM omnilink.entities WHERE version = {n} \
         AND (SELECT count(*) FROM jsonb_object_keys(state)) = {n}",
        n = EACH * 2
    );
    assert_eq!(database.number(&whole), PAIRS as i64);
    assert!(codes(&log).is_empty());
}

/// `count` members with the largest number, each 9 bytes of JSON and 131,072 digits in Postgres.
fn numbers(from: usize, count: usize) -> Data<'static> {
    let members: Vec<_> = (from..from + count)
        .map(|n| format!(r#""k{n}":1e131071"#))
        .collect();
    Data::Json(format!("{{{}}}", members.join(",")).into())
}

/// An event from before numbers were bounded, a restart, another event of its entity.
#[test]
fn numbers_that_are_huge_in_postgres_stop_nothing() {
    let Some(database) = Database::new() else {
        return;
    };
    let log = MemoryLog::new();
    let mut huge = event(0, "huge");
    huge.data = numbers(0, 9_000);
    log.add(&huge);
    log.add(&event(1, "other"));
    let projector = database.start_projector(&log);
    wait_until_read(&database, &log);
    drop(projector);
    log.add(&event(2, "huge"));
    log.add(&event(3, "other"));
    let _projector = database.start_projector(&log);
    wait_until_read(&database, &log);
    assert_eq!(
        codes(&log),
        BTreeMap::from([("entity_too_large".into(), 1)])
    );
    let versions = "SELECT string_agg(external_id || version, ' ' ORDER BY external_id) FROM omnilink.entities";
    assert_eq!(database.text(versions), "huge1 other2");
    assert_eq!(
        database.text("SELECT string_agg(id, ' ' ORDER BY id) FROM omnilink.events"),
        "e1 e2 e3"
    );

    // Each event is within its bound but the entity is not: only the events that exceed it are rejected, also by a rebuild.
    for n in 0..20 {
        let mut grows = event(100 + n, "grows");
        grows.data = numbers(n * 8, 8);
        log.add(&grows);
    }
    log.add(&event(200, "other"));
    wait_until_read(&database, &log);
    assert_eq!(
        codes(&log),
        BTreeMap::from([("entity_too_large".into(), 6)])
    );
    let grown = "SELECT version || ' ' || (SELECT count(*) FROM jsonb_object_keys(state)) FROM omnilink.entities \
                 WHERE external_id = 'grows'";
    assert_eq!(database.text(grown), "15 120");
    let what = RebuildTables {
        events: true,
        entities: true,
    };
    let setup = database.setup(&log);
    rebuild(&setup, what, &mut |_, _| ()).unwrap();
    assert_eq!(database.text(grown), "15 120");
    assert_eq!(database.text(versions), "grows15 huge1 other3");
}

#[test]
fn a_state_that_is_too_large_for_postgres_affects_only_its_own_events() {
    let Some(database) = Database::new() else {
        return;
    };
    let log = MemoryLog::new();
    for n in 0..40 {
        log.add(&event(n, &format!("o{}", n % 8)));
    }
    let projector = database.start_projector(&log);
    wait_until_read(&database, &log);
    drop(projector);
    // As written by an earlier release: 1.2 GB as text.
    database.run(
        "UPDATE omnilink.entities SET state = (SELECT jsonb_object_agg('k' || n, 1e131071::numeric) FROM generate_series(1, 9000) n) \
         WHERE external_id = 'o3'",
    );
    // Each read of it takes Postgres seconds.
    log.add(&event(40, "o3"));
    log.add(&event(41, "o4"));
    let _projector = database.start_projector(&log);
    let began = std::time::Instant::now();
    while codes(&log).is_empty() && began.elapsed() < std::time::Duration::from_mins(2) {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    wait_until_read(&database, &log);
    assert_eq!(codes(&log), BTreeMap::from([("postgres_54000".into(), 1)]));
    let versions =
        "SELECT string_agg(version::text, '' ORDER BY external_id) FROM omnilink.entities";
    assert_eq!(database.text(versions), "55556555");
    // A rebuild from the log is correct.
    let what = RebuildTables {
        events: true,
        entities: true,
    };
    rebuild(&database.setup(&log), what, &mut |_, _| ()).unwrap();
    assert_eq!(database.text(versions), "55566555");
}

#[test]
fn large_states_are_read_a_few_at_a_time() {
    let Some(database) = Database::new() else {
        return;
    };
    let log = MemoryLog::new();
    for n in 0..60 {
        let mut large = event(n, &format!("o{}", n % 30));
        large.data = numbers(n / 30 * 8, 8);
        log.add(&large);
    }
    let projector = database.start_projector(&log);
    wait_until_read(&database, &log);
    drop(projector);
    for n in 60..150 {
        log.add(&event(n, &format!("o{}", n % 30)));
    }
    let _projector = database.start_projector(&log);
    wait_until_read(&database, &log);
    assert_eq!(
        database.number(
            "SELECT count(*) FROM omnilink.entities WHERE version = 5 AND state ?& ARRAY['k15', 'k0'] AND state ? 'n'"
        ),
        30
    );
    assert_eq!(database.number("SELECT count(*) FROM omnilink.events"), 150);
    assert!(codes(&log).is_empty());
}

#[test]
fn the_earliest_and_latest_times_become_rows() {
    let Some(database) = Database::new() else {
        return;
    };
    let log = MemoryLog::new();
    let times = [
        (-62_135_596_800_000_000, "0001-01-01 00:00:00"),
        (-1, "1969-12-31 23:59:59.999999"),
        (253_402_214_400_000_000, "9999-12-31 00:00:00"),
        (253_402_300_799_999_999, "9999-12-31 23:59:59.999999"),
    ];
    for (n, (time, _)) in times.iter().enumerate() {
        let mut event = event(n, &format!("o{n}"));
        event.time = *time;
        event.kind = "order.deleted".into();
        event.data = if n == 0 {
            Data::Absent
        } else {
            Data::Json("null".into())
        };
        log.add(&event);
    }
    let _projector = database.start_projector(&log);
    wait_until_read(&database, &log);
    for (n, (_, text)) in times.iter().enumerate() {
        let row = database.text(&format!(
            "SELECT concat_ws('|', time AT TIME ZONE 'UTC', data) FROM omnilink.events WHERE id = 'e{n}'"
        ));
        let data = if n == 0 { "" } else { "|null" };
        assert_eq!(row, format!("{text}{data}"));
        let entity = database.text(&format!(
            "SELECT deleted_at AT TIME ZONE 'UTC' FROM omnilink.entities WHERE external_id = 'o{n}'"
        ));
        assert_eq!(entity, *text);
    }
}
