//! Replay on both logs: by time, tenant, type and entity, with and without the index.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use omnilink::{
    base::{
        clock::{Clock, Millis, SystemClock},
        id::Tenant,
    },
    envelope::{Data, Entity, Event, TimeSource, avro},
    log::{Log, Record, header, topics::Names},
    replay::{
        EntityName, History, IntoTopic, Lines, Query, Replayed, StateError, TypePattern, as_of,
        replay,
    },
};
use serde_json::{Value, json};

use crate::support::{TestLog, append, on_both_logs, read_all};

on_both_logs!(
    replay_is_in_order_and_filtered,
    the_index_hides_no_records,
    follow_reads_new_records,
    an_entity_as_of_a_time,
    replay_into_a_topic,
);

const PARTITIONS: u32 = 3;

pub(super) struct Fixture {
    log: Arc<dyn Log>,
    names: Names,
    dir: std::path::PathBuf,
}

pub(super) fn fixture(test_log: &TestLog) -> Fixture {
    let log = test_log.open("a");
    let names = Names::new(&test_log.prefix);
    log.provision(&names.specs(PARTITIONS), true).unwrap();
    Fixture {
        log,
        names,
        dir: test_log.dir.path().join("index"),
    }
}

pub(super) fn event(tenant: &str, n: u64, kind: &str, entity: Option<&str>, data: &str) -> Record {
    let event = Event {
        tenant: Tenant::new(tenant).unwrap(),
        id: n.to_string().into(),
        source: "/shop".into(),
        kind: kind.to_owned().into(),
        subject: None,
        entity: entity.map(|id| Entity {
            kind: "order".into(),
            external_id: id.to_owned().into(),
            display_name: None,
        }),
        correlation_id: None,
        causation_id: None,
        time: 1_700_000_000_000_000 + n as i64,
        time_source: TimeSource::Producer,
        data: Data::Json(data.to_owned().into()),
        extensions: "{\"traceparent\":\"tp\"}".into(),
        tombstone: false,
        idempotency_key: None,
    };
    let mut value = Vec::new();
    avro::encode_event(&event, Millis(1_700_000_000_000), &mut value);
    Record {
        key: Some(event.record_key().into()),
        value: Some(value.into()),
        headers: Vec::new(),
    }
}

impl Fixture {
    pub fn history(&self) -> History<'_> {
        History {
            log: &*self.log,
            names: &self.names,
            index_dir: self.dir.clone(),
        }
    }

    pub fn add(&self, records: Vec<Record>) {
        append(&*self.log, &self.names.events, records).unwrap();
    }

    pub fn run(&self, query: &Query) -> (Vec<Value>, Replayed) {
        let mut out = Vec::new();
        let mut sink = Lines::new(&mut out, &self.names.events);
        let done = replay(&self.history(), query, &mut sink, &mut |_| true).unwrap();
        drop(sink);
        let lines: Vec<Value> = out
            .split(|b| *b == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        assert_eq!(lines.len() as u64, done.events);
        assert!(query.follow || done.done == done.total, "{done:?}");
        (lines, done)
    }

    pub fn ids(&self, query: &Query) -> Vec<u64> {
        let (lines, _) = self.run(query);
        lines
            .iter()
            .map(|line| line["id"].as_str().unwrap().parse().unwrap())
            .collect()
    }
}

fn tenant(name: &str) -> Tenant {
    Tenant::new(name).unwrap()
}

fn order(id: &str) -> EntityName {
    format!("order:{id}").parse().unwrap()
}

fn replay_is_in_order_and_filtered(test_log: TestLog) {
    let fixture = fixture(&test_log);
    assert!(fixture.ids(&Query::default()).is_empty());
    let mut times = Vec::new();
    for n in 0..40_u64 {
        let whose = if n % 4 == 0 { "other" } else { "acme" };
        let kind = if n % 2 == 0 {
            "order.paid"
        } else {
            "order.sent"
        };
        let entity = (n % 5 != 0).then(|| format!("{}", n % 3));
        // Each event gets its own millisecond.
        std::thread::sleep(Duration::from_millis(3));
        fixture.add(vec![event(whose, n, kind, entity.as_deref(), "{\"a\": 1}")]);
        times.push(SystemClock.now());
    }
    fixture.add(vec![Record {
        key: Some("acme/x/1".into()),
        value: Some("no event".into()),
        headers: Vec::new(),
    }]);
    let (lines, done) = fixture.run(&Query::default());
    assert_eq!(done.unreadable, 1);
    let all: Vec<u64> = (0..40).collect();
    let ids: Vec<u64> = lines
        .iter()
        .map(|line| line["id"].as_str().unwrap().parse().unwrap())
        .collect();
    assert_eq!(ids, all);
    let line = &lines[1];
    assert_eq!(line["omnilinktenant"], "acme");
    assert_eq!(line["omnilinktopic"], *fixture.names.events);
    assert!(line["omnilinkpartition"].is_u64() && line["omnilinkoffset"].is_u64());
    assert_eq!(
        (&line["entitytype"], &line["entityid"]),
        (&json!("order"), &json!("1"))
    );
    assert_eq!(
        (&line["timesource"], &line["data"]),
        (&json!("producer"), &json!({"a": 1}))
    );
    assert_eq!(line["time"], "2023-11-14T22:13:20.000001Z");

    let only = |wanted: &dyn Fn(u64) -> bool| -> Vec<u64> {
        all.iter().copied().filter(|n| wanted(*n)).collect()
    };
    let query = |change: &dyn Fn(&mut Query)| {
        let mut query = Query::default();
        change(&mut query);
        fixture.ids(&query)
    };
    let paid = || vec![TypePattern::from("order.paid")];
    // Twice: the second replay uses the index.
    for _ in 0..2 {
        assert_eq!(
            query(&|q| q.tenant = Some(tenant("other"))),
            only(&|n| n % 4 == 0)
        );
        assert_eq!(query(&|q| q.types = paid()), only(&|n| n % 2 == 0));
        assert_eq!(
            query(&|q| q.types = vec!["order.s*".into()]),
            only(&|n| n % 2 == 1)
        );
        assert_eq!(
            query(&|q| q.entity = Some(order("1"))),
            only(&|n| n % 5 != 0 && n % 3 == 1)
        );
        assert_eq!(
            query(&|q| (q.entity, q.tenant) = (Some(order("1")), Some(tenant("other")))),
            only(&|n| n % 5 != 0 && n % 3 == 1 && n % 4 == 0)
        );
        assert_eq!(query(&|q| q.tenant = Some(tenant("nobody"))), [0; 0]);
        assert_eq!(
            query(&|q| (q.since, q.until) =
                (Some(Millis(times[9].0 + 1)), Some(Millis(times[29].0 + 1)))),
            only(&|n| (10..30).contains(&n))
        );
        assert_eq!(
            query(&|q| q.since = Some(Millis(times[39].0 + 1_000))),
            [0; 0]
        );
        assert_eq!(
            query(&|q| (q.until, q.types) = (Some(Millis(times[20].0 + 1)), paid())),
            only(&|n| n % 2 == 0 && n <= 20)
        );
    }
}

fn files(dir: &Path) -> Vec<(std::path::PathBuf, u64)> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.path(), entry.metadata().unwrap().len())
        })
        .collect();
    files.sort();
    files
}

fn the_index_hides_no_records(test_log: TestLog) {
    let fixture = fixture(&test_log);
    let mut expected = Vec::new();
    let mut n = 0_u64;
    let mut add = |count: u64, expected: &mut Vec<u64>| {
        let mut records = Vec::new();
        for _ in 0..count {
            // One rare entity among many others.
            let rare = n % 2_900 == 7;
            let entity = if rare {
                "rare".to_owned()
            } else {
                format!("e{}", n % 1_000)
            };
            if rare {
                expected.push(n);
            }
            records.push(event("acme", n, "t", Some(&entity), "{}"));
            n += 1;
        }
        for chunk in records.chunks(500) {
            fixture.add(chunk.to_vec());
        }
    };
    let rare = Query {
        tenant: Some(tenant("acme")),
        entity: Some(order("rare")),
        ..Query::default()
    };
    let anyone = Query {
        entity: Some(order("rare")),
        ..Query::default()
    };
    let rest = Query {
        entity: Some(order("e12")),
        ..Query::default()
    };
    let e12 = |n: u64| -> Vec<u64> {
        (0..n)
            .filter(|n| n % 1_000 == 12 && n % 2_900 != 7)
            .collect()
    };
    add(12_000, &mut expected);
    assert_eq!(fixture.ids(&rare), expected);
    assert_eq!(files(&fixture.dir).len(), 1, "the one partition of its key");
    assert_eq!(fixture.ids(&anyone), expected);
    let first = files(&fixture.dir);
    assert_eq!(first.len(), PARTITIONS as usize);
    assert!(first.iter().any(|(_, length)| *length > 1_000), "{first:?}");
    let limit = 12_000 * 4;
    assert!(
        first.iter().map(|(_, length)| length).sum::<u64>() < limit,
        "{first:?}"
    );

    // The index is extended at its end, and records beyond it are read.
    add(5_000, &mut expected);
    assert_eq!(fixture.ids(&anyone), expected);
    assert_eq!(fixture.ids(&rest), e12(17_000));
    let second = files(&fixture.dir);
    assert!(
        second.iter().zip(&first).any(|(new, old)| new.1 > old.1),
        "{second:?}"
    );
    // With the index, few records are read.
    let (_, done) = fixture.run(&rare);
    assert_eq!(done.events, expected.len() as u64);

    // A damaged or foreign file is recreated.
    for (path, length) in &second {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(length - 5).unwrap();
    }
    assert_eq!(fixture.ids(&anyone), expected);
    assert_eq!(files(&fixture.dir), second);
    for (path, _) in &second {
        std::fs::write(path, b"nonsense that is no index at all").unwrap();
    }
    assert_eq!(fixture.ids(&anyone), expected);
    assert_eq!(files(&fixture.dir), second);
    // An index that another replay is extending is read and not changed.
    let held: Vec<_> = second
        .iter()
        .map(|(path, _)| {
            let file = std::fs::File::open(path).unwrap();
            file.lock().unwrap();
            file
        })
        .collect();
    add(3_000, &mut expected);
    assert_eq!(fixture.ids(&anyone), expected);
    assert_eq!(files(&fixture.dir), second);
    drop(held);

    // The index of another log with the same topic names is not used.
    let other = TestLog::new(test_log.kind).unwrap();
    let other_fixture = self::fixture(&other);
    let others: Vec<_> = (0..9_000_u64)
        .map(|n| event("acme", n, "t", Some(&format!("x{}", n % 900)), "{}"))
        .collect();
    other_fixture.add(others);
    other_fixture.add(vec![event("acme", 9_000, "t", Some("rare"), "{}")]);
    assert_eq!(other_fixture.ids(&anyone), [9_000]);
    let theirs = files(&other_fixture.dir);
    for (path, _) in &second {
        let name = path.file_name().unwrap().to_str().unwrap();
        let name = name.replace(&test_log.prefix, &other.prefix);
        let mut bytes = std::fs::read(path).unwrap();
        let right = std::fs::read(other_fixture.dir.join(&name)).unwrap();
        // As if the topic had been recreated: the header is correct.
        bytes[..16].copy_from_slice(&right[..16]);
        std::fs::write(other_fixture.dir.join(name), bytes).unwrap();
    }
    assert_eq!(other_fixture.ids(&anyone), [9_000]);
    assert_eq!(files(&other_fixture.dir), theirs);
}

/// A writer whose lines the test reads while they are written.
struct Out(Arc<parking_lot::Mutex<Vec<u8>>>);
impl std::io::Write for Out {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn follow_reads_new_records(test_log: TestLog) {
    let fixture = Arc::new(fixture(&test_log));
    fixture.add(vec![event("acme", 0, "t", Some("1"), "{}")]);
    let stop = Arc::new(AtomicBool::new(false));
    let lines = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let following = {
        let (fixture, stop, lines) = (Arc::clone(&fixture), Arc::clone(&stop), Arc::clone(&lines));
        std::thread::spawn(move || {
            let query = Query {
                tenant: Some(tenant("acme")),
                follow: true,
                ..Query::default()
            };
            let mut sink = Lines::new(Out(lines), &fixture.names.events);
            replay(&fixture.history(), &query, &mut sink, &mut |_| {
                !stop.load(Ordering::Relaxed)
            })
        })
    };
    let wait_for = |count: usize| {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            let got = memchr::memchr_iter(b'\n', &lines.lock()).count();
            if got >= count {
                return;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "{got} of {count} lines"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait_for(1);
    for n in 1..30 {
        fixture.add(vec![
            event("acme", n, "t", Some(&n.to_string()), "{}"),
            event("other", n, "t", Some(&n.to_string()), "{}"),
        ]);
    }
    wait_for(30);
    stop.store(true, Ordering::Relaxed);
    assert_eq!(following.join().unwrap().unwrap().events, 30);

    // Until a time in the future.
    let until = Millis(SystemClock.now().0 + 1_500);
    let query = Query {
        follow: true,
        until: Some(until),
        ..Query::default()
    };
    let late = {
        let fixture = Arc::clone(&fixture);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            fixture.add(vec![event("acme", 100, "t", Some("1"), "{}")]);
            std::thread::sleep(Duration::from_millis(1_500));
            fixture.add(vec![event("acme", 101, "t", Some("1"), "{}")]);
        })
    };
    let ids = fixture.ids(&query);
    late.join().unwrap();
    assert_eq!(ids.len(), 60);
    assert_eq!(ids.last(), Some(&100));
}

fn an_entity_as_of_a_time(test_log: TestLog) {
    let fixture = fixture(&test_log);
    let mut moments = vec![SystemClock.now()];
    let life = [
        ("order.made", r#"{"total":1,"note":null}"#),
        ("order.paid", r#"{"total":2.50}"#),
        ("order.deleted", "{}"),
        ("order.made", r#"{"again":true}"#),
    ];
    for (n, (kind, data)) in life.iter().enumerate() {
        std::thread::sleep(Duration::from_millis(20));
        fixture.add(vec![
            event("acme", n as u64, kind, Some("1"), data),
            event("acme", 50 + n as u64, "noise", Some("2"), "{}"),
        ]);
        std::thread::sleep(Duration::from_millis(20));
        moments.push(SystemClock.now());
    }
    let name = "order:1".parse().unwrap();
    let acme = Some(tenant("acme"));
    let at = |moment: Millis| {
        as_of(
            &fixture.history(),
            acme.as_ref(),
            &name,
            moment,
            &mut |_| true,
        )
        .map(|state| serde_json::to_value(state).unwrap())
    };
    let error = at(moments[0]).unwrap_err();
    assert!(matches!(error, StateError::Unknown { .. }), "{error}");
    let states: Vec<Value> = moments[1..]
        .iter()
        .map(|moment| at(*moment).unwrap())
        .collect();
    let folded: Vec<_> = states
        .iter()
        .map(|s| {
            (
                s["state"].clone(),
                s["version"].clone(),
                s["deleted_at"].is_string(),
            )
        })
        .collect();
    assert_eq!(
        folded,
        [
            (json!({"total": 1}), json!(1), false),
            (json!({"total": 2.5}), json!(2), false),
            (json!({"total": 2.5}), json!(3), true),
            (json!({"again": true}), json!(4), false),
        ]
    );
    assert_eq!(states[1]["last_event_id"], "1");
    assert_eq!(states[1]["tenant"], "acme");

    let anyone = |name: &EntityName| {
        as_of(
            &fixture.history(),
            None,
            name,
            SystemClock.now(),
            &mut |_| true,
        )
    };
    assert_eq!(anyone(&name).unwrap().version, 4);
    fixture.add(vec![event("other", 0, "t", Some("1"), "{}")]);
    std::thread::sleep(Duration::from_millis(5));
    let error = anyone(&name).unwrap_err();
    assert!(error.to_string().contains("acme, other"), "{error}");
}

fn replay_into_a_topic(test_log: TestLog) {
    let fixture = fixture(&test_log);
    let records: Vec<_> = (0..1_200_u64)
        .map(|n| event("acme", n, "t", Some(&(n % 3).to_string()), "{}"))
        .collect();
    fixture.add(records);
    let Fixture { log, names, .. } = &fixture;
    for own in [&names.ingress, &names.events, &names.redriven] {
        let error = IntoTopic::new(&**log, names, own).err().unwrap();
        assert!(
            error.to_string().contains("OmniLink's own topics"),
            "{error}"
        );
    }
    // Outside the prefix: foreign topics are allowed.
    let copy = format!("copy-{}", test_log.prefix.trim_end_matches('.'));
    assert!(
        IntoTopic::new(&**log, names, &copy).is_err(),
        "it is not made by the way"
    );
    let spec = omnilink::log::TopicSpec {
        name: copy.as_str().into(),
        partitions: 2,
        cleanup: omnilink::log::Cleanup::Keep,
    };
    log.provision(&[spec], true).unwrap();
    let mut sink = IntoTopic::new(&**log, names, &copy).unwrap();
    let query = Query {
        entity: Some(order("1")),
        ..Query::default()
    };
    let done = replay(&fixture.history(), &query, &mut sink, &mut |_| true).unwrap();
    assert_eq!(done.events, 400);
    let copied = read_all(&**log, &copy, 400);
    let ids: Vec<u64> = copied
        .iter()
        .map(|f| {
            let line: Value = serde_json::from_slice(f.record.value.as_ref().unwrap()).unwrap();
            line["id"].as_str().unwrap().parse().unwrap()
        })
        .collect();
    let expected: Vec<u64> = (0..1_200).filter(|n| n % 3 == 1).collect();
    assert_eq!(ids, expected);
    let record = &copied[0].record;
    assert_eq!(record.key.as_deref(), Some(&b"acme/order/1"[..]));
    assert_eq!(
        header(&record.headers, "omnilink-tenant"),
        Some(&b"acme"[..])
    );
    let media = header(&record.headers, "content-type").unwrap();
    assert!(media.starts_with(b"application/cloudevents+json"));
}
