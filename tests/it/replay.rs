//! The history read back, on both logs: by time, tenant, type and entity, with and without the index.

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
        EntityName, History, IntoTopic, Lines, Parquet, Query, Replayed, StateError, TypePattern,
        as_of, replay,
    },
};
use serde_json::{Value, json};

use crate::support::{Bed, Kind, append, on_both, read_all};

on_both!(
    in_order_and_by_every_filter,
    the_index_leaves_nothing_out,
    it_follows,
    an_entity_as_it_was,
    into_a_topic,
);

const PARTITIONS: u32 = 3;

struct World {
    log: Arc<dyn Log>,
    names: Names,
    dir: std::path::PathBuf,
}

fn world(bed: &Bed) -> World {
    let log = bed.open("a");
    let names = Names::new(&bed.prefix);
    log.provision(&names.specs(PARTITIONS), true).unwrap();
    World {
        log,
        names,
        dir: bed.dir.path().join("index"),
    }
}

fn event(tenant: &str, n: u64, kind: &str, entity: Option<&str>, data: &str) -> Record {
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

impl World {
    fn history(&self) -> History<'_> {
        History {
            log: &*self.log,
            names: &self.names,
            index_dir: self.dir.clone(),
        }
    }

    fn add(&self, records: Vec<Record>) {
        append(&*self.log, &self.names.events, records).unwrap();
    }

    fn run(&self, query: &Query) -> (Vec<Value>, Replayed) {
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

    fn ids(&self, query: &Query) -> Vec<u64> {
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

fn in_order_and_by_every_filter(bed: Bed) {
    let world = world(&bed);
    assert!(world.ids(&Query::default()).is_empty());
    let mut times = Vec::new();
    for n in 0..40_u64 {
        let whose = if n % 4 == 0 { "other" } else { "acme" };
        let kind = if n % 2 == 0 {
            "order.paid"
        } else {
            "order.sent"
        };
        let entity = (n % 5 != 0).then(|| format!("{}", n % 3));
        // Each in a millisecond of its own.
        std::thread::sleep(Duration::from_millis(3));
        world.add(vec![event(whose, n, kind, entity.as_deref(), "{\"a\": 1}")]);
        times.push(SystemClock.now());
    }
    world.add(vec![Record {
        key: Some("acme/x/1".into()),
        value: Some("no event".into()),
        headers: Vec::new(),
    }]);
    let (lines, done) = world.run(&Query::default());
    assert_eq!(done.unreadable, 1);
    let all: Vec<u64> = (0..40).collect();
    let ids: Vec<u64> = lines
        .iter()
        .map(|line| line["id"].as_str().unwrap().parse().unwrap())
        .collect();
    assert_eq!(ids, all);
    let line = &lines[1];
    assert_eq!(line["omnilinktenant"], "acme");
    assert_eq!(line["omnilinktopic"], *world.names.events);
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
        world.ids(&query)
    };
    let paid = || vec![TypePattern::from("order.paid")];
    // Twice: the second time with the index, as far as it goes.
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

fn the_index_leaves_nothing_out(bed: Bed) {
    let world = world(&bed);
    let mut expected = Vec::new();
    let mut n = 0_u64;
    let mut add = |count: u64, expected: &mut Vec<u64>| {
        let mut records = Vec::new();
        for _ in 0..count {
            // One entity now and then, and many others.
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
            world.add(chunk.to_vec());
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
    assert_eq!(world.ids(&rare), expected);
    assert_eq!(files(&world.dir).len(), 1, "the one partition of its key");
    assert_eq!(world.ids(&anyone), expected);
    let first = files(&world.dir);
    assert_eq!(first.len(), PARTITIONS as usize);
    assert!(first.iter().any(|(_, length)| *length > 1_000), "{first:?}");
    let limit = 12_000 * 4;
    assert!(
        first.iter().map(|(_, length)| length).sum::<u64>() < limit,
        "{first:?}"
    );

    // It is extended from where it ended, and what it does not hold yet is read.
    add(5_000, &mut expected);
    assert_eq!(world.ids(&anyone), expected);
    assert_eq!(world.ids(&rest), e12(17_000));
    let second = files(&world.dir);
    assert!(
        second.iter().zip(&first).any(|(new, old)| new.1 > old.1),
        "{second:?}"
    );
    // With it, few of the records are read.
    let (_, done) = world.run(&rare);
    assert_eq!(done.events, expected.len() as u64);

    // A torn or foreign file is made anew.
    for (path, length) in &second {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(length - 5).unwrap();
    }
    assert_eq!(world.ids(&anyone), expected);
    assert_eq!(files(&world.dir), second);
    for (path, _) in &second {
        std::fs::write(path, b"nonsense that is no index at all").unwrap();
    }
    assert_eq!(world.ids(&anyone), expected);
    assert_eq!(files(&world.dir), second);
    // One that another replay is extending is read and left alone.
    let held: Vec<_> = second
        .iter()
        .map(|(path, _)| {
            let file = std::fs::File::open(path).unwrap();
            file.lock().unwrap();
            file
        })
        .collect();
    add(3_000, &mut expected);
    assert_eq!(world.ids(&anyone), expected);
    assert_eq!(files(&world.dir), second);
    drop(held);

    // The index of another log under the same names counts for nothing.
    let other = Bed::new(bed.kind).unwrap();
    let other_world = self::world(&other);
    let others: Vec<_> = (0..9_000_u64)
        .map(|n| event("acme", n, "t", Some(&format!("x{}", n % 900)), "{}"))
        .collect();
    other_world.add(others);
    other_world.add(vec![event("acme", 9_000, "t", Some("rare"), "{}")]);
    assert_eq!(other_world.ids(&anyone), [9_000]);
    let theirs = files(&other_world.dir);
    for (path, _) in &second {
        let name = path.file_name().unwrap().to_str().unwrap();
        let name = name.replace(&bed.prefix, &other.prefix);
        let mut bytes = std::fs::read(path).unwrap();
        let right = std::fs::read(other_world.dir.join(&name)).unwrap();
        // As if the topic had been made anew: the header is right.
        bytes[..16].copy_from_slice(&right[..16]);
        std::fs::write(other_world.dir.join(name), bytes).unwrap();
    }
    assert_eq!(other_world.ids(&anyone), [9_000]);
    assert_eq!(files(&other_world.dir), theirs);
}

/// Lines that a test reads while they are written.
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

fn it_follows(bed: Bed) {
    let world = Arc::new(world(&bed));
    world.add(vec![event("acme", 0, "t", Some("1"), "{}")]);
    let stop = Arc::new(AtomicBool::new(false));
    let lines = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let following = {
        let (world, stop, lines) = (Arc::clone(&world), Arc::clone(&stop), Arc::clone(&lines));
        std::thread::spawn(move || {
            let query = Query {
                tenant: Some(tenant("acme")),
                follow: true,
                ..Query::default()
            };
            let mut sink = Lines::new(Out(lines), &world.names.events);
            replay(&world.history(), &query, &mut sink, &mut |_| {
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
        world.add(vec![
            event("acme", n, "t", Some(&n.to_string()), "{}"),
            event("other", n, "t", Some(&n.to_string()), "{}"),
        ]);
    }
    wait_for(30);
    stop.store(true, Ordering::Relaxed);
    assert_eq!(following.join().unwrap().unwrap().events, 30);

    // Up to a time that is to come.
    let until = Millis(SystemClock.now().0 + 1_500);
    let query = Query {
        follow: true,
        until: Some(until),
        ..Query::default()
    };
    let late = {
        let world = Arc::clone(&world);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            world.add(vec![event("acme", 100, "t", Some("1"), "{}")]);
            std::thread::sleep(Duration::from_millis(1_500));
            world.add(vec![event("acme", 101, "t", Some("1"), "{}")]);
        })
    };
    let ids = world.ids(&query);
    late.join().unwrap();
    assert_eq!(ids.len(), 60);
    assert_eq!(ids.last(), Some(&100));
}

fn an_entity_as_it_was(bed: Bed) {
    let world = world(&bed);
    let mut moments = vec![SystemClock.now()];
    let life = [
        ("order.made", r#"{"total":1,"note":null}"#),
        ("order.paid", r#"{"total":2.50}"#),
        ("order.deleted", "{}"),
        ("order.made", r#"{"again":true}"#),
    ];
    for (n, (kind, data)) in life.iter().enumerate() {
        std::thread::sleep(Duration::from_millis(20));
        world.add(vec![
            event("acme", n as u64, kind, Some("1"), data),
            event("acme", 50 + n as u64, "noise", Some("2"), "{}"),
        ]);
        std::thread::sleep(Duration::from_millis(20));
        moments.push(SystemClock.now());
    }
    let name = "order:1".parse().unwrap();
    let acme = Some(tenant("acme"));
    let at = |moment: Millis| {
        as_of(&world.history(), acme.as_ref(), &name, moment, &mut |_| {
            true
        })
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
        as_of(&world.history(), None, name, SystemClock.now(), &mut |_| {
            true
        })
    };
    assert_eq!(anyone(&name).unwrap().version, 4);
    world.add(vec![event("other", 0, "t", Some("1"), "{}")]);
    std::thread::sleep(Duration::from_millis(5));
    let error = anyone(&name).unwrap_err();
    assert!(error.to_string().contains("acme, other"), "{error}");
}

fn into_a_topic(bed: Bed) {
    let world = world(&bed);
    let records: Vec<_> = (0..1_200_u64)
        .map(|n| event("acme", n, "t", Some(&(n % 3).to_string()), "{}"))
        .collect();
    world.add(records);
    let World { log, names, .. } = &world;
    for own in [&names.ingress, &names.events, &names.redriven] {
        let error = IntoTopic::new(&**log, names, own).err().unwrap();
        assert!(
            error.to_string().contains("OmniLink's own topics"),
            "{error}"
        );
    }
    // Not under the prefix: foreign topics are not.
    let copy = format!("copy-{}", bed.prefix.trim_end_matches('.'));
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
    let done = replay(&world.history(), &query, &mut sink, &mut |_| true).unwrap();
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

#[test]
fn into_parquet() {
    use arrow_array::{
        Array,
        cast::AsArray,
        types::{Int64Type, TimestampMicrosecondType},
    };
    let bed = Bed::new(Kind::Local).unwrap();
    let world = world(&bed);
    let mut records: Vec<_> = (0..20_000_u64)
        .map(|n| {
            event(
                "acme",
                n,
                "t",
                Some(&(n % 100).to_string()),
                &format!("{{\"n\":{n}}}"),
            )
        })
        .collect();
    records.push(event("acme", 20_000, "t", None, "null"));
    for chunk in records.chunks(1_000) {
        world.add(chunk.to_vec());
    }
    let path = bed.dir.path().join("events.parquet");
    let mut sink = Parquet::new(std::fs::File::create(&path).unwrap()).unwrap();
    let done = replay(&world.history(), &Query::default(), &mut sink, &mut |_| {
        true
    })
    .unwrap();
    assert_eq!(done.events, 20_001);
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(
        std::fs::File::open(&path).unwrap(),
    )
    .unwrap();
    let names: Vec<_> = reader
        .schema()
        .fields()
        .iter()
        .map(|f| f.name().clone())
        .collect();
    assert_eq!(names.len(), 20);
    assert_eq!(
        (&*names[0], &*names[14], &*names[19]),
        ("tenant", "data", "log_offset")
    );
    let mut seen = 0;
    for batch in reader.build().unwrap() {
        let batch = batch.unwrap();
        let column = |name| batch.column_by_name(name).unwrap();
        let ids = column("id").as_string::<i32>();
        let data = column("data").as_string::<i32>();
        let times = column("time").as_primitive::<TimestampMicrosecondType>();
        let entities = column("entity_id").as_string::<i32>();
        assert_eq!(
            column("log_offset")
                .as_primitive::<Int64Type>()
                .null_count(),
            0
        );
        for row in 0..batch.num_rows() {
            let n: u64 = ids.value(row).parse().unwrap();
            assert_eq!(times.value(row), 1_700_000_000_000_000 + n as i64);
            if n == 20_000 {
                assert!(entities.is_null(row));
                assert_eq!(data.value(row), "null");
            } else {
                assert_eq!(data.value(row), format!("{{\"n\":{n}}}"));
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 20_001);

    // One that was given up is no file.
    let path = bed.dir.path().join("part.parquet");
    let mut sink = Parquet::new(std::fs::File::create(&path).unwrap()).unwrap();
    let mut times = 0;
    replay(&world.history(), &Query::default(), &mut sink, &mut |_| {
        times += 1;
        times < 12
    })
    .unwrap();
    drop(sink);
    std::thread::sleep(Duration::from_millis(200));
    let part = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(
        std::fs::File::open(&path).unwrap(),
    );
    assert!(part.is_err());
}

/// A replay that follows holds a seat of its key and its tenant, and nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn replays_that_follow_keep_nobody_else_out() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use crate::port_node::{Node, scopes};
    let node = Node::start().await;
    let address = node.address;
    let open = async |key: &str| {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let head = format!(
            "GET /v1/replay?follow=true HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let reading = stream.read(&mut answer);
        let read = tokio::time::timeout(Duration::from_secs(10), reading).await;
        let text = String::from_utf8_lossy(&answer[..read.unwrap().unwrap()]).into_owned();
        (stream, text)
    };
    let mut held = Vec::new();
    let mut keys = Vec::new();
    for _ in 0..3 {
        keys.push(node.key("acme", scopes(&["admin"])).await);
    }
    // The key's own limit, then its tenant's.
    for (key, of, status) in [
        (0, "", "200"),
        (0, "", "200"),
        (0, "key", "429"),
        (1, "", "200"),
        (1, "", "200"),
        (2, "tenant", "429"),
    ] {
        let (stream, text) = open(&keys[key]).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
        if status == "429" {
            let text = text.to_ascii_lowercase();
            let limit = if of == "key" { 2 } else { 4 };
            for header in [
                "retry-after: 5".to_owned(),
                format!("ratelimit-policy: \"replays-of-{of}\";q={limit}"),
                format!("ratelimit: \"replays-of-{of}\";r=0;t=5"),
                format!("x-ratelimit-limit: {limit}"),
                "x-ratelimit-remaining: 0".to_owned(),
                "x-ratelimit-reset: 5".to_owned(),
                "content-type: application/problem+json".to_owned(),
                "\"code\":\"concurrency_limit_exceeded\"".to_owned(),
            ] {
                assert!(text.contains(&header), "{header}: {text}");
            }
        } else {
            held.push(stream);
        }
    }
    let others = node.key("beta", scopes(&["admin"])).await;
    let (stream, text) = open(&others).await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    drop(stream);
    // A client that is gone gives its seat back.
    drop(held);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !open(&keys[2]).await.1.starts_with("HTTP/1.1 200") {
        assert!(std::time::Instant::now() < deadline, "no seat came free");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Row, lines and file agree, from year 1 to 9999 and with no data or null.
#[test]
fn what_is_far_out_is_the_same_in_lines_and_files() {
    use arrow_array::{Array, cast::AsArray, types::TimestampMicrosecondType};
    let bed = Bed::new(Kind::Local).unwrap();
    let world = world(&bed);
    let times = [
        (-62_135_596_800_000_000, "0001-01-01T00:00:00Z"),
        (253_402_214_400_000_000, "9999-12-31T00:00:00Z"),
        (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
    ];
    for (n, (time, _)) in times.iter().enumerate() {
        let plain = event("acme", n as u64, "t", None, "null");
        let (mut event, _) = avro::decode_event(plain.value.as_ref().unwrap()).unwrap();
        event.time = *time;
        if n == 0 {
            event.data = Data::Absent;
        }
        let mut value = Vec::new();
        avro::encode_event(&event, Millis(1), &mut value);
        let value = Some(value.into());
        world.add(vec![Record {
            value,
            ..plain.clone()
        }]);
    }
    let (lines, _) = world.run(&Query::default());
    for (line, (_, text)) in lines.iter().zip(times) {
        assert_eq!(line["time"], text);
    }
    let members: Vec<_> = lines.iter().map(|line| line.get("data")).collect();
    assert_eq!(members, [None, Some(&Value::Null), Some(&Value::Null)]);

    let path = bed.dir.path().join("ends.parquet");
    let mut sink = Parquet::new(std::fs::File::create(&path).unwrap()).unwrap();
    replay(&world.history(), &Query::default(), &mut sink, &mut |_| {
        true
    })
    .unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file);
    let batch = reader.unwrap().build().unwrap().next().unwrap().unwrap();
    let column = |name| batch.column_by_name(name).unwrap();
    let found = column("time").as_primitive::<TimestampMicrosecondType>();
    assert_eq!(found.values().to_vec(), times.map(|(time, _)| time));
    let data = column("data").as_string::<i32>();
    assert!(data.is_null(0) && data.value(1) == "null" && data.value(2) == "null");
}
