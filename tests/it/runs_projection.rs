//! The projection of the topic `runs`: rows are what the whole history of a run makes of it, whatever the batches were.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use omnilink::{
    base::clock::SystemClock,
    log::{Append, Cleanup, Log, Polled, header},
    projections::{Projector, RUNS, Setup, projected, rebuild_runs},
    runs::RunRecord,
    stream::progress::Progress,
};
use serde_json::{Value, json};

use crate::support::{
    TestLog, append, cpu_time, on_both_logs,
    projections::{Database, MemoryLog, all_partitions},
    read_all,
    runs::{Story, encoded, good, started},
    wait_until,
};

const TABLES: [&str; 4] = ["runs", "run_steps", "run_events", "approvals"];

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

/// All rows of all tables.
fn rows(database: &Database) -> Vec<String> {
    let all = TABLES.map(|table| {
        database.texts(&format!(
            "SELECT row_to_json(t)::text FROM omnilink.{table} t ORDER BY 1"
        ))
    });
    all.concat()
}

fn stored(database: &Database) -> usize {
    database.number("SELECT count(*) FROM omnilink.run_events") as usize
}

/// The stories, and their records in the order of a log with many runs at once.
fn told(count: usize) -> (Vec<Story>, Vec<RunRecord>) {
    let mut stories = Vec::new();
    for n in 0..count {
        let mut story = Story::start(["acme", "beta"][n % 2], &json!({ "n": n }));
        story.live(n);
        stories.push(story);
    }
    let longest = stories.iter().map(|story| story.records.len()).max();
    let records = (0..longest.unwrap_or_default())
        .flat_map(|n| stories.iter().filter_map(move |story| story.records.get(n)))
        .cloned()
        .collect();
    (stories, records)
}

fn assert_status(database: &Database, stories: &[Story]) {
    let mut expected: Vec<String> = stories
        .iter()
        .map(|story| {
            let status = story.run.status().name();
            format!("{} {status} {}", story.run_id, story.records.len())
        })
        .collect();
    expected.sort();
    let rows = database
        .texts("SELECT run_id || ' ' || status || ' ' || seq FROM omnilink.runs ORDER BY 1");
    assert_eq!(rows, expected);
}

on_both_logs!(histories_become_rows);

fn histories_become_rows(test_log: TestLog) {
    let Some(database) = Database::new() else {
        return;
    };
    let log = test_log.open("one");
    let (topic, dlq) = (test_log.topic("runs"), test_log.topic("dlq"));
    let specs = [
        test_log.spec("runs", 3, Cleanup::Keep),
        test_log.spec("dlq", 1, Cleanup::Keep),
    ];
    log.provision(&specs, true).unwrap();
    let setup = setup(&database, &log, &topic, &dlq);
    let (stories, records) = told(40);
    // Batches have the middle of histories; after a restart nothing is in memory.
    let mut projector = Projector::start_runs(&setup, 2).unwrap();
    for (n, part) in records.chunks(90).enumerate() {
        append(log.as_ref(), &topic, encoded(part)).unwrap();
        if n == 2 {
            wait_until("some rows", || stored(&database) > 100);
            drop(projector);
            projector = Projector::start_runs(&setup, 1).unwrap();
        }
    }
    wait_until("all rows", || stored(&database) == records.len());
    assert_status(&database, &stories);

    // The first succeeded: every field.
    let of = |table: &str, n: usize| {
        let sql = format!(
            "SELECT json_agg(t)::text FROM omnilink.{table} t WHERE run_id = '{}'",
            stories[n].run_id
        );
        serde_json::from_str::<Value>(&database.text(&sql)).unwrap()
    };
    let run = &of("runs", 0)[0];
    assert_eq!(run["params"], json!({ "n": 0 }));
    assert_eq!(run["output"], json!({ "paid": { "receipt": 1.5 } }));
    assert_eq!(run["plan"]["hash"], "ab".repeat(32));
    assert_eq!(run["plan"]["steps"][2]["id"], "pay");
    assert_eq!(
        (&run["trigger"], &run["principal"]),
        (&json!("request"), &json!("tester"))
    );
    assert_eq!(
        (&run["risk_score"], &run["error"]),
        (&json!(0.8), &Value::Null)
    );
    let approval = &of("approvals", 0)[0];
    assert_eq!(approval["status"], "approved");
    assert_eq!(approval["decided_by"], "ann");
    assert_eq!(approval["reason"], "checked");
    assert_eq!(approval["input"], json!({ "n": 0 }));
    assert!(
        approval["approval_id"]
            .as_str()
            .unwrap()
            .starts_with(&stories[0].run_id)
    );
    // The second was denied, and undone as far as that was possible.
    let steps = of("run_steps", 1);
    let status: Vec<_> = ["reserve", "note", "pay", "close"]
        .iter()
        .map(|id| {
            let step = steps
                .as_array()
                .unwrap()
                .iter()
                .find(|s| s["step_id"] == *id);
            step.unwrap()["status"].as_str().unwrap()
        })
        .collect();
    assert_eq!(
        status,
        [
            "compensated",
            "compensation_failed",
            "cancelled",
            "cancelled"
        ]
    );
    let error = &of("runs", 1)[0]["error"];
    assert_eq!(
        (&error["failed_step_id"], &error["code"]),
        (&json!("pay"), &json!("denied"))
    );
    assert_eq!(error["compensation_results"].as_array().unwrap().len(), 2);
    let first = &of("run_events", 1)[0];
    assert_eq!(first["record"]["causation"], "start:0:17");

    // From the first record on again: a rebuild, and records that are read twice.
    let before = rows(&database);
    rebuild_runs(&setup, &mut |_, _| {}).unwrap();
    assert_eq!(rows(&database), before);
    drop(projector);
    database.run("UPDATE omnilink.projection_offsets SET next = 0 WHERE projection = 'runs'");
    let _projector = Projector::start_runs(&setup, 1).unwrap();
    let again = Story::start("acme", &json!({}));
    append(log.as_ref(), &topic, again.encoded()).unwrap();
    wait_until("the new run", || {
        stored(&database) == records.len() + again.records.len()
    });
    let mut after = rows(&database);
    after.retain(|row| !row.contains(&again.run_id));
    assert_eq!(after, before);
}

#[test]
fn what_is_no_record_is_a_dead_letter() {
    let Some(database) = Database::new() else {
        return;
    };
    let memory = MemoryLog::new();
    let log: Arc<dyn Log> = memory.clone();
    let mut story = Story::start("acme", &json!({ "n": 1 }));
    story.succeed();
    let mut records = story.encoded();
    let wrong = |change: fn(&mut RunRecord)| {
        let mut record = story.records[0].clone();
        change(&mut record);
        record.encode().unwrap()
    };
    let mut bad = records[0].clone();
    bad.value = Some("{}".into());
    records.extend([
        bad,
        wrong(|record| record.at = i64::MAX),
        wrong(|record| record.seq = 0),
        wrong(|record| record.body = "[]".into()),
        // Postgres refuses these two.
        wrong(|record| (record.seq, record.body) = (1_000, "{".into())),
        wrong(|record| {
            (record.seq, record.body) = (1_001, format!(r#"{{"n":1{}}}"#, "0".repeat(140_000)));
        }),
        // A type of a later version, and one whose fields are not as they should be: they are history.
        wrong(|record| (record.seq, record.kind) = (1_002, "later".into())),
        wrong(|record| {
            (record.seq, record.kind, record.body) =
                (1_003, "step_held".into(), r#"{"step_id":7}"#.into());
        }),
    ]);
    let records = records.into_iter().map(|record| Append {
        topic: "t.runs".into(),
        record,
    });
    let appended = log.append(records.collect(), None);
    appended.blocking_recv().unwrap().unwrap();
    let setup = setup(&database, &log, "t.runs", "t.dlq");
    let _projector = start(&memory, &setup);
    wait_until("rows", || stored(&database) == story.records.len() + 2);
    let letters = read_all(log.as_ref(), "t.dlq", 6);
    let mut codes: Vec<_> = letters
        .iter()
        .map(|letter| {
            let code = header(&letter.record.headers, "omnilink.dlq.code").unwrap();
            String::from_utf8(code.to_vec()).unwrap()
        })
        .collect();
    codes.sort();
    assert_eq!(codes[..4], ["invalid_payload"; 4]);
    assert!(
        codes[4..]
            .iter()
            .all(|code| code.starts_with("postgres_22")),
        "{codes:?}"
    );
    assert_eq!(
        database.text("SELECT status || ' ' || seq FROM omnilink.runs"),
        "succeeded 1003"
    );
}

fn start(memory: &Arc<MemoryLog>, setup: &Setup) -> Projector {
    let member = memory.members();
    let projector = Projector::start_runs(setup, 1).unwrap();
    memory.notify(member, Polled::Assigned(all_partitions()));
    projector
}

fn put(log: &Arc<dyn Log>, records: &[RunRecord]) {
    let records = encoded(records).into_iter().map(|record| Append {
        topic: "t.runs".into(),
        record,
    });
    let appended = log.append(records.collect(), None);
    appended.blocking_recv().unwrap().unwrap();
}

/// While a rebuild runs the projector goes on, and the tables never have fewer runs than before.
#[test]
fn a_rebuild_runs_beside_the_projector() {
    let Some(database) = Database::new() else {
        return;
    };
    let memory = MemoryLog::new();
    let log: Arc<dyn Log> = memory.clone();
    let setup = setup(&database, &log, "t.runs", "t.dlq");
    let (stories, records) = told(200);
    let (before, after) = records.split_at(records.len() / 2);
    put(&log, before);
    let _projector = start(&memory, &setup);
    wait_until("the first half", || stored(&database) == before.len());
    let runs = database.number("SELECT count(*) FROM omnilink.runs");
    std::thread::scope(|scope| {
        let rebuilding = scope.spawn(|| {
            for _ in 0..3 {
                rebuild_runs(&setup, &mut |_, _| {}).unwrap();
            }
        });
        for part in after.chunks(50) {
            put(&log, part);
            assert!(database.number("SELECT count(*) FROM omnilink.runs") >= runs);
        }
        rebuilding.join().unwrap();
    });
    wait_until("all rows", || stored(&database) == records.len());
    assert_status(&database, &stories);
    let positions = database
        .runtime
        .block_on(projected(&database.store(), RUNS))
        .unwrap();
    assert_eq!(
        positions.values().sum::<u64>(),
        records.len() as u64,
        "{positions:?}"
    );
    let live = rows(&database);
    rebuild_runs(&setup, &mut |_, _| {}).unwrap();
    assert_eq!(rows(&database), live);
}

/// What a run costs: `cargo test --test it -- runs_in_bulk --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn runs_in_bulk() {
    for spread in [false, true] {
        let Some(database) = Database::new() else {
            return;
        };
        measure(&database, spread);
    }
}

/// With `spread` no batch has two records of a run.
fn measure(database: &Database, spread: bool) {
    let memory = MemoryLog::new();
    let log: Arc<dyn Log> = memory.clone();
    let setup = setup(database, &log, "t.runs", "t.dlq");
    let count = 20_000_usize;
    let plan = json!({ "steps": [
        { "id": "a", "tool": "t", "input": { "n": "{{ params.n }}" } },
        { "id": "b", "tool": "t", "depends_on": ["a"] },
    ]});
    let mut records = Vec::new();
    for n in 0..count {
        let asked = started(&json!({ "n": n, "text": "x".repeat(100) }));
        let mut story = Story::start_of("acme", &plan, asked);
        story.answer("a", 1, good(&json!({ "ok": true })));
        story.answer("b", 1, good(&json!({ "ok": true })));
        records.append(&mut story.records);
    }
    if spread {
        records.sort_by_key(|record| record.seq);
    }
    put(&log, &records);
    let begun = Instant::now();
    let own = cpu_time("self");
    let _projector = start(&memory, &setup);
    wait_until("all rows", || stored(database) == records.len());
    let took = begun.elapsed();
    let backends = database
        .texts("SELECT pid FROM pg_stat_activity WHERE application_name = 'omnilink projection'");
    let postgres: Duration = backends.iter().map(|pid| cpu_time(pid)).sum();
    println!(
        "{count} runs of {} records, spread: {spread}, in {took:?}: {:.0} runs/s; CPU a run: {} µs here, {} µs in Postgres",
        records.len() / count,
        count as f64 / took.as_secs_f64(),
        cpu_time("self").saturating_sub(own).as_micros() / count as u128,
        postgres.as_micros() / count as u128
    );
}
