//! Postgres is killed with commits that it had not written to disk: rows and positions are lost together.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use omnilink::{
    base::clock::SystemClock,
    embedded_postgres::{Embedded, EmbeddedError},
    log::{Log, Polled},
    projections::{Projector, Setup},
    store::Store,
    stream::progress::Progress,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::support::{
    projections::{DLQ, EVENTS, MemoryLog, all_partitions},
    wait_until,
};

/// The number of events, of distinct events, of entities, and the sum of the entities' versions; `None` while the server is down.
async fn state(store: &Store) -> Option<(i64, i64, i64, i64)> {
    let asked = async {
        let mut connection = store
            .connect(omnilink::store::Session::Service)
            .await
            .ok()?;
        sqlx::query_as(
            "SELECT (SELECT count(*) FROM omnilink.events), \
             (SELECT count(DISTINCT (log_partition, log_offset)) FROM omnilink.events), \
             (SELECT count(*) FROM omnilink.entities), (SELECT sum(version)::bigint FROM omnilink.entities)",
        )
        .fetch_one(&mut connection)
        .await
        .ok()
    };
    tokio::time::timeout(Duration::from_secs(5), asked)
        .await
        .ok()?
}

/// A migrated embedded server; `None` without Postgres binaries.
fn embedded(runtime: &Runtime) -> Option<(TempDir, Embedded)> {
    let dir = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir_in("/var/tmp")
        .unwrap();
    match runtime.block_on(Embedded::start(dir.path())) {
        Ok(server) => {
            runtime.block_on(server.store().migrate()).unwrap();
            Some((dir, server))
        }
        Err(EmbeddedError::NoBinaries | EmbeddedError::NoUser) => {
            eprintln!("SKIPPED: no Postgres is installed here");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn setup(runtime: &Runtime, store: &Store, log: &Arc<MemoryLog>) -> Setup {
    Setup {
        store: store.clone(),
        log: Arc::clone(log) as Arc<dyn Log>,
        topic: EVENTS.into(),
        dlq: DLQ.into(),
        clock: Arc::new(SystemClock),
        runtime: runtime.handle().clone(),
        progress: Arc::new(Progress::default()),
    }
}

#[test]
fn rows_are_written_once_over_kills_of_the_server() {
    let runtime = Runtime::new().unwrap();
    let Some((_dir, server)) = embedded(&runtime) else {
        return;
    };
    let store = server.store();
    let log = MemoryLog::new();
    let setup = setup(&runtime, &store, &log);
    let projector = Projector::start(&setup, 1).unwrap();
    log.notify(0, Polled::Assigned(all_partitions()));
    let mut added = 0;
    for _ in 0..4 {
        for _ in 0..20 {
            log.add_many(added, added + 250);
            added += 250;
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut file = String::new();
        wait_until("the server runs", || {
            file = std::fs::read_to_string(server.home().join("data/postmaster.pid"))
                .unwrap_or_default();
            file.contains("ready")
        });
        let pid = file.lines().next().unwrap();
        assert!(
            std::process::Command::new("kill")
                .args(["-s", "KILL", pid])
                .status()
                .unwrap()
                .success()
        );
        let before = runtime.block_on(state(&store)).map_or(0, |s| s.0);
        println!("killed after {added} events; {before} rows seen since");
    }
    let deadline = Instant::now() + Duration::from_mins(1);
    let last = loop {
        let now = runtime.block_on(state(&store));
        if now.is_some_and(|s| s.0 >= added as i64) || Instant::now() > deadline {
            break now.unwrap();
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(
        (last.0, last.1, last.3),
        (added as i64, added as i64, added as i64),
        "{:?}",
        setup.progress.trouble()
    );
    assert!(setup.progress.trouble().is_none());
    drop(projector);
    server.stop();
}

/// Signals the server's processes that serve the projector.
fn signal(store: &Store, runtime: &Runtime, name: &str) -> Vec<String> {
    let pids: Vec<i32> = runtime.block_on(async {
        let mut connection = store
            .connect(omnilink::store::Session::Login)
            .await
            .unwrap();
        sqlx::query_scalar(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'omnilink projection'",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap()
    });
    let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
    assert!(
        std::process::Command::new("kill")
            .args(["-s", name])
            .args(&pids)
            .status()
            .unwrap()
            .success()
    );
    pids
}

#[test]
fn the_projector_stops_soon_although_the_server_hangs() {
    let runtime = Runtime::new().unwrap();
    let Some((_dir, server)) = embedded(&runtime) else {
        return;
    };
    let store = server.store();
    let log = MemoryLog::new();
    let setup = setup(&runtime, &store, &log);
    let projector = Projector::start(&setup, 1).unwrap();
    log.notify(0, Polled::Assigned(all_partitions()));
    log.add_many(0, 10);
    wait_until("rows", || {
        runtime.block_on(state(&store)).is_some_and(|s| s.0 == 10)
    });
    let pids = signal(&store, &runtime, "STOP");
    log.add_many(10, 20);
    std::thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    drop(projector);
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    assert!(
        std::process::Command::new("kill")
            .args(["-s", "CONT"])
            .args(&pids)
            .status()
            .unwrap()
            .success()
    );
    // The next owner loses and duplicates nothing.
    let projector = Projector::start(&setup, 1).unwrap();
    log.notify(1, Polled::Assigned(all_partitions()));
    wait_until("rows", || {
        runtime
            .block_on(state(&store))
            .is_some_and(|s| (s.0, s.1, s.3) == (20, 20, 20))
    });
    drop(projector);
    server.stop();
}
