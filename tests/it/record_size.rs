//! Records that are too large once they are written on, on both logs: each becomes a dead letter, and what comes behind it flows.
//!
//! On Kafka the topic in question is made narrow; the embedded log takes 16 MiB everywhere.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use omnilink::{
    admission::Admission,
    base::clock::Millis,
    controls::SecretKeys,
    envelope::{avro, foreign::NoRegistry},
    log::{
        Cleanup, Fetched, Log, LogError, Record, TopicSpec, header, record_size, survey,
        topics::Names,
    },
    projections::{DeadLetters, Reject, Rejection},
    replay::{History, IntoTopic, Query, replay},
    state::{Space, StateError, StateStore},
    stream::{
        Context, Failure, Processor, Timer, Transform,
        dlq::{
            self,
            name::Name,
            redrive::{Pick, Redrive, Redriven},
        },
        lane::{self, Running},
        progress::Progress,
    },
    topology::{Deployment, Setup},
};

use crate::{
    support::{Bed, Kind, append, on_both, read_all, record, value},
    topology_run::set,
};

on_both!(
    an_output_that_its_topic_does_not_take,
    a_letter_that_does_not_fit_is_cut,
    a_letter_of_a_projection_is_cut,
    a_record_between_two_stages,
    a_record_that_waits_for_a_limit,
    a_record_over_a_limit,
    letters_of_one_batch_do_not_repeat_its_headers_without_end,
    whatever_a_transform_emits_or_puts,
    transactions_end_when_they_are_large,
    what_does_not_go_back_or_into_a_topic_is_told,
);

const PARTITIONS: u32 = 3;
const TENANT: (&str, &str) = ("omnilink-tenant", "acme");

/// What the topic in question takes.
fn limit(bed: &Bed) -> usize {
    match bed.kind {
        Kind::Local | Kind::Memory => 16 << 20,
        Kind::Kafka => 100_000,
    }
}

/// A part of the limit.
fn part(bed: &Bed, tenths: usize) -> String {
    "a".repeat(limit(bed) / 10 * tenths)
}

fn narrow(bed: &Bed, topic: &str, bytes: usize) {
    if bed.kind == Kind::Kafka {
        bed.alter_topic(topic, &[("max.message.bytes", &bytes.to_string())]);
        // The broker says so at once, and goes by it a moment later.
        std::thread::sleep(Duration::from_secs(1));
    }
}

struct World {
    log: Arc<dyn Log>,
    names: Names,
    secrets: Arc<SecretKeys>,
    deployment: Deployment,
    source: String,
    out: String,
    _admission: Option<Running>,
}

fn bare_world(bed: &Bed) -> World {
    let log = bed.open("a");
    let names = Names::new(&bed.prefix);
    log.provision(&names.specs(PARTITIONS), true).unwrap();
    let foreign = |name: &str| format!("f{}{name}", bed.prefix);
    let (source, out) = (foreign("in"), foreign("out"));
    let spec = |name: &str, cleanup| TopicSpec {
        name: name.into(),
        partitions: PARTITIONS,
        cleanup,
    };
    let state = |processor: &str| spec(&names.state(processor), Cleanup::Compact);
    let specs = [
        spec(&source, Cleanup::Keep),
        spec(&out, Cleanup::Keep),
        spec(&bed.topic("rekey.big"), Cleanup::Keep),
        state("topology.big"),
        state("topology.big.2"),
    ];
    log.provision(&specs, true).unwrap();
    let deployment = Deployment::new(Setup {
        log: Arc::clone(&log),
        names: names.clone(),
        clock: Arc::clone(&bed.clock),
        schemas: Arc::new(NoRegistry),
        partitions: PARTITIONS,
        // What was made narrow stays so.
        provision: false,
        make_foreign: false,
        lanes: bed.lanes(),
    });
    World {
        log,
        names,
        secrets: Arc::new(SecretKeys::new([&STANDARD.encode([1; 32])[..]]).unwrap()),
        deployment,
        source,
        out,
        _admission: None,
    }
}

/// A log with one topology on it.
fn world(bed: &Bed, steps: &str, prepare: impl FnOnce(&World)) -> World {
    let mut world = bare_world(bed);
    prepare(&world);
    let file = format!(
        "name: big\nsource: {{ topic: {}, tenant: acme }}\nsteps:\n{steps}\n  - route: [ {{ to: {} }} ]\n",
        world.source, world.out
    );
    let set = set(bed.dir.path(), &[("big.yaml", &file)], &bed.prefix);
    world.deployment.deploy(&set).unwrap();
    world
}

/// A log with admission.
fn admitting(bed: &Bed) -> World {
    let world = bare_world(bed);
    let setup = lane::Setup {
        log: Arc::clone(&world.log),
        dlq: Arc::clone(&world.names.dlq),
        clock: Arc::clone(&bed.clock),
        progress: Arc::default(),
    };
    let admission = Admission::new(&world.names, PARTITIONS, 24 * 3_600_000, false);
    World {
        _admission: Some(lane::start(Arc::new(admission), setup).unwrap()),
        ..world
    }
}

impl World {
    fn send(&self, values: &[String]) {
        // One key: they lie behind each other.
        let records = values.iter().map(|value| record("k", value)).collect();
        append(&*self.log, &self.source, records).unwrap();
    }

    /// The numbers of what came out.
    fn numbers(&self, at_least: usize) -> Vec<u64> {
        let all = read_all(&*self.log, &self.out, at_least);
        let number = |f: &Fetched| {
            let value = f.record.value.as_deref().unwrap();
            let value: serde_json::Value = serde_json::from_slice(value).unwrap();
            value["n"].as_u64().unwrap()
        };
        all.iter().map(number).collect()
    }

    fn letters(&self, at_least: usize) -> Vec<Fetched> {
        read_all(&*self.log, &self.names.dlq, at_least)
    }

    fn redrive(&self, pick: &Pick) -> Redriven {
        let redrive = Redrive {
            log: &*self.log,
            names: &self.names,
            secrets: &self.secrets,
        };
        redrive.run(pick, &mut |_| true).unwrap()
    }
}

fn said<'a>(letter: &'a Fetched, name: &str) -> &'a str {
    let value = header(&letter.record.headers, &format!("{}{name}", dlq::PREFIX));
    std::str::from_utf8(value.unwrap_or_default()).unwrap()
}

fn small(n: u64) -> String {
    format!(r#"{{"n":{n}}}"#)
}

fn twice(n: u64, text: &str) -> String {
    format!(r#"{{"n":{n},"twice":"{text}"}}"#)
}

const COPY: &str = "  - map: |\n      .copy = .twice";

fn an_output_that_its_topic_does_not_take(bed: Bed) {
    let world = world(&bed, COPY, |w| narrow(&bed, &w.out, limit(&bed)));
    let large = twice(1, &part(&bed, 6));
    world.send(&[small(0), large.clone(), small(2), small(3)]);
    assert_eq!(world.numbers(3), [0, 2, 3]);
    let letters = world.letters(1);
    assert_eq!(letters.len(), 1);
    assert_eq!(said(&letters[0], "code"), "record_too_large");
    let message = said(&letters[0], "message");
    assert!(message.contains(&world.out), "{message}");
    assert_eq!(value(&letters[0]), large);
    assert!(!dlq::is_truncated(&letters[0].record));
}

fn a_letter_that_does_not_fit_is_cut(bed: Bed) {
    let world = world(&bed, COPY, |w| narrow(&bed, &w.names.dlq, limit(&bed)));
    // No JSON. It fits the source, and the reasons that a letter adds are too much.
    let garbage = "x".repeat(limit(&bed) - 150);
    world.send(&[garbage.clone(), small(1)]);
    assert_eq!(world.numbers(1), [1]);
    let letters = world.letters(1);
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert!(record_size(&letter.record) <= limit(&bed));
    assert_eq!(said(letter, "truncated"), garbage.len().to_string());
    assert_eq!(letter.record.key.as_deref(), Some(&b"k"[..]));
    let cut = value(letter);
    assert!(cut.len() > garbage.len() - 1000 && cut.len() < garbage.len());
    // Nothing puts it back.
    for pick in [
        Pick::All,
        Pick::Code(said(letter, "code").to_owned()),
        Pick::Names(
            [Name {
                partition: letter.partition,
                offset: letter.offset,
            }]
            .into(),
        ),
    ] {
        let done = world.redrive(&pick);
        assert_eq!((done.redriven, done.truncated), (0, 1), "{pick:?}");
    }
}

fn a_letter_of_a_projection_is_cut(bed: Bed) {
    let world = bare_world(&bed);
    narrow(&bed, &world.names.dlq, limit(&bed));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let letters = DeadLetters {
        log: Arc::clone(&world.log),
        dlq: Arc::clone(&world.names.dlq),
        topic: Arc::clone(&world.names.events),
        stage: "events",
        clock: Arc::clone(&bed.clock),
        runtime: runtime.handle().clone(),
    };
    let rejected = Fetched {
        topic: 0,
        partition: 0,
        offset: 3,
        timestamp: Millis(1),
        record: record("k", &"x".repeat(limit(&bed))),
    };
    let rejection = Rejection {
        record: &rejected,
        code: "postgres_22003".into(),
        message: "it does not go into a row".into(),
    };
    letters.reject(&[rejection]).unwrap();
    let letters = world.letters(1);
    assert_eq!(said(&letters[0], "truncated"), limit(&bed).to_string());
    assert_eq!(said(&letters[0], "code"), "postgres_22003");
}

fn a_record_between_two_stages(bed: Bed) {
    let steps = format!("{COPY}\n  - key: [n]\n  - dedupe: {{ window: 1h }}");
    let world = world(&bed, &steps, |_| {
        narrow(&bed, &bed.topic("rekey.big"), limit(&bed));
    });
    world.send(&[twice(1, &part(&bed, 4)), small(2)]);
    assert_eq!(world.numbers(1), [2]);
    let letters = world.letters(1);
    assert_eq!(letters.len(), 1);
    assert_eq!(said(&letters[0], "code"), "record_too_large");
    assert_eq!(said(&letters[0], "topic"), world.source);
}

fn a_record_that_waits_for_a_limit(bed: Bed) {
    let limited = "  - rate_limit: { policy: slow, limit: 1, window: 2s, over: defer }";
    let steps = format!("  - key: [tenant]\n{COPY}\n{limited}");
    let world = world(&bed, &steps, |w| {
        for processor in ["topology.big", "topology.big.2"] {
            narrow(&bed, &w.names.state(processor), limit(&bed));
        }
    });
    world.send(&[small(0), twice(1, &part(&bed, 4)), small(2)]);
    assert_eq!(world.numbers(2), [0, 2]);
    let letters = world.letters(1);
    assert_eq!(letters.len(), 1);
    assert_eq!(said(&letters[0], "code"), "record_too_large");
    let message = said(&letters[0], "message");
    // One lane reads, maps and passes on to the next on the embedded log.
    let what = match bed.kind {
        Kind::Local | Kind::Memory => "rekey.big",
        Kind::Kafka => "row of state",
    };
    assert!(message.contains(what), "{message}");
}

fn a_record_over_a_limit(bed: Bed) {
    let limited = "  - rate_limit: { policy: slow, limit: 1, window: 1h, over: reject }";
    let steps = format!("  - key: [tenant]\n{limited}");
    let world = world(&bed, &steps, |w| {
        narrow(&bed, &w.names.throttled, limit(&bed));
    });
    let padded = |n, length| format!(r#"{{"n":{n},"pad":"{}"}}"#, "a".repeat(length));
    world.send(&[padded(0, 1), padded(1, limit(&bed) - 200), padded(2, 1)]);
    let throttled = read_all(&*world.log, &world.names.throttled, 1);
    assert_eq!(
        throttled.iter().map(value).collect::<Vec<_>>(),
        [padded(2, 1)]
    );
    assert_eq!(world.numbers(1), [0]);
    let letters = world.letters(1);
    assert_eq!(letters.len(), 1);
    assert_eq!(said(&letters[0], "code"), "record_too_large");
}

fn letters_of_one_batch_do_not_repeat_its_headers_without_end(bed: Bed) {
    const ITEMS: usize = 500;
    let world = admitting(&bed);
    let items: Vec<_> = (0..ITEMS).map(|n| format!(r#"{{"id":"{n}"}}"#)).collect();
    let good = r#"{"specversion":"1.0","id":"good","source":"/s","type":"t","data":1}"#;
    let header = |name: &str, value: String| (name.to_owned(), Some(value.into()));
    let record = Record {
        key: Some("k".into()),
        value: Some(format!("[{},{good}]", items.join(",")).into()),
        headers: vec![
            header(TENANT.0, TENANT.1.into()),
            header("content-type", "application/cloudevents-batch+json".into()),
            header("mine", "h".repeat(500_000)),
        ],
    };
    append(&*world.log, &world.names.ingress, vec![record]).unwrap();
    let letters = world.letters(ITEMS);
    let mut values: Vec<_> = letters.iter().map(value).collect();
    let mut expected = items;
    values.sort();
    expected.sort();
    assert_eq!(values, expected);
    let bytes: usize = letters.iter().map(|l| record_size(&l.record)).sum();
    assert!(bytes < 8 << 20, "{bytes}");
    let whole = |l: &&Fetched| !dlq::is_truncated(&l.record);
    let whole: Vec<_> = letters.iter().filter(whole).collect();
    assert!((5..20).contains(&whole.len()), "{}", whole.len());
    let kept = |l: &Fetched| omnilink::log::header(&l.record.headers, "mine").map(<[u8]>::len);
    assert!(whole.iter().all(|l| kept(l) == Some(500_000)));
    let events = read_all(&*world.log, &world.names.events, 1);
    assert_eq!(events.len(), 1);
}

/// Emits or puts what is too large, after a change of state; counts in its state what it has seen.
struct Large {
    names: [Arc<str>; 2],
    bytes: usize,
    closed: Arc<AtomicUsize>,
    clock: Arc<dyn omnilink::base::clock::Clock>,
}

impl Processor for Large {
    fn name(&self) -> &'static str {
        "large"
    }
    fn topics(&self) -> Vec<String> {
        vec![self.names[0].to_string()]
    }
    fn transform(&self, _: &Space, _: &StateStore) -> Result<Box<dyn Transform>, StateError> {
        Ok(Box::new(LargeOne {
            out: Arc::clone(&self.names[1]),
            bytes: self.bytes,
            closed: Arc::clone(&self.closed),
            clock: Arc::clone(&self.clock),
        }))
    }
}

struct LargeOne {
    out: Arc<str>,
    bytes: usize,
    closed: Arc<AtomicUsize>,
    clock: Arc<dyn omnilink::base::clock::Clock>,
}

impl Transform for LargeOne {
    fn process(&mut self, input: &Fetched, cx: &mut Context<'_>) -> Result<(), Failure> {
        let before = cx.get(b"seen")?;
        let seen = before.map_or(1, |n| n[0] + 1);
        cx.put(b"seen", vec![seen]);
        cx.emit(&self.out, record("k", &seen.to_string()));
        let large = "x".repeat(self.bytes);
        match &*value(input) {
            "emit" => cx.emit(&self.out, record("k", &large)),
            "put" => cx.put(b"large", large),
            "key" => cx.put(&vec![b'k'; 70_000], "x"),
            "timer" => cx.set_timer(large, self.clock.now()),
            "later" => cx.set_timer("later", self.clock.now()),
            _ => {}
        }
        Ok(())
    }

    fn fire(&mut self, _: Timer<'_>, cx: &mut Context<'_>) -> Result<(), Failure> {
        cx.emit(&self.out, record("k", &"x".repeat(self.bytes)));
        cx.emit(&self.out, record("k", "fired"));
        Ok(())
    }

    fn close(&mut self, _: &mut Context<'_>) -> Result<(), Failure> {
        self.closed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// On Kafka the topic of its outputs takes `takes` bytes.
fn large(bed: &Bed, bytes: usize, takes: usize) -> (World, Running, Arc<AtomicUsize>) {
    let world = bare_world(bed);
    let state = bed.spec("state.large", PARTITIONS, Cleanup::Compact);
    world.log.provision(&[state], true).unwrap();
    narrow(bed, &world.out, takes);
    narrow(bed, &bed.topic("state.large"), limit(bed));
    let closed = Arc::default();
    let processor = Large {
        names: [world.source.as_str().into(), world.out.as_str().into()],
        bytes,
        closed: Arc::clone(&closed),
        clock: Arc::clone(&bed.clock),
    };
    let setup = lane::Setup {
        log: Arc::clone(&world.log),
        dlq: Arc::clone(&world.names.dlq),
        clock: Arc::clone(&bed.clock),
        progress: Arc::default(),
    };
    let running = lane::start(Arc::new(processor), setup).unwrap();
    (world, running, closed)
}

fn whatever_a_transform_emits_or_puts(bed: Bed) {
    let (world, _running, _) = large(&bed, limit(&bed) + 1000, limit(&bed));
    let words = ["", "emit", "put", "key", "timer", "", "later", ""];
    world.send(&words.map(str::to_owned));
    let letters = world.letters(5);
    let mut told: Vec<_> = letters
        .iter()
        .map(|l| {
            // What a timer emits has no input to blame: the letter is the timer's.
            let of = match &l.record.value {
                Some(_) => value(l),
                None => String::from_utf8_lossy(l.record.key.as_ref().unwrap()).into_owned(),
            };
            (said(l, "code"), of)
        })
        .collect();
    told.sort();
    assert_eq!(told.len(), 5);
    for (letter, word) in told.iter().zip(["emit", "key", "later", "put", "timer"]) {
        assert_eq!(*letter, ("record_too_large", word.to_owned()));
    }
    // None of them left anything behind.
    let out = read_all(&*world.log, &world.out, 4);
    let mut out: Vec<_> = out.iter().map(value).collect();
    out.sort();
    assert_eq!(out, ["1", "2", "3", "4"]);
}

fn transactions_end_when_they_are_large(bed: Bed) {
    let (world, running, closed) = large(&bed, 1_000_000, 2_000_000);
    drop(running);
    let emits = vec!["emit".to_owned(); 64];
    world.send(&emits);
    let before = closed.load(Ordering::Relaxed);
    let processor = Large {
        names: [world.source.as_str().into(), world.out.as_str().into()],
        bytes: 1_000_000,
        closed: Arc::clone(&closed),
        clock: Arc::clone(&bed.clock),
    };
    let setup = lane::Setup {
        log: Arc::clone(&world.log),
        dlq: Arc::clone(&world.names.dlq),
        clock: Arc::clone(&bed.clock),
        progress: Arc::default(),
    };
    let _running = lane::start(Arc::new(processor), setup).unwrap();
    let out = read_all(&*world.log, &world.out, 128);
    assert_eq!(out.len(), 128);
    let transactions = closed.load(Ordering::Relaxed) - before;
    assert!((4..16).contains(&transactions), "{transactions}");
}

fn what_does_not_go_back_or_into_a_topic_is_told(bed: Bed) {
    let world = admitting(&bed);
    // A letter that is whole, of a record that its topic would not take with the marks of a redrive.
    let rejected = Fetched {
        topic: 0,
        partition: 0,
        offset: 3,
        timestamp: Millis(1),
        record: record("k", &"x".repeat(limit(&bed) - 700)),
    };
    let reason = dlq::Reason {
        topic: &world.source,
        stage: "s",
        code: "large",
        message: "",
        failed_at: Millis(1),
    };
    let mut letter = dlq::record(&rejected, None, &reason);
    let room = limit(&bed) - record_size(&letter);
    let grown = "x".repeat(limit(&bed) - 700 + room);
    letter.value = Some(grown.into());
    let fits = dlq::record(
        &Fetched {
            record: record("k", "fits"),
            ..rejected.clone()
        },
        None,
        &reason,
    );
    narrow(&bed, &world.source, limit(&bed) - 400);
    append(&*world.log, &world.names.dlq, vec![letter, fits]).unwrap();
    let done = world.redrive(&Pick::All);
    let expected = match bed.kind {
        // The reasons of a letter are longer than the marks of a redrive.
        Kind::Local | Kind::Memory => (2, 0),
        Kind::Kafka => (1, 1),
    };
    assert_eq!((done.redriven, done.too_large), expected);

    // A replay leaves out what its topic does not take, and says so.
    narrow(&bed, &world.out, 1000);
    let bytes = if bed.kind == Kind::Local { 200 } else { 5000 };
    for (id, bytes) in [("a", 10), ("b", bytes), ("c", 10)] {
        let event = format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"t","data":"{}"}}"#,
            "x".repeat(bytes)
        );
        let mut one = record("k", &event);
        one.headers = vec![(TENANT.0.into(), Some(TENANT.1.into()))];
        append(&*world.log, &world.names.ingress, vec![one]).unwrap();
    }
    read_all(&*world.log, &world.names.events, 3);
    let history = History {
        log: &*world.log,
        names: &world.names,
        index_dir: bed.dir.path().join("index"),
    };
    let mut sink = IntoTopic::new(&*world.log, &world.names, &world.out).unwrap();
    let done = replay(&history, &Query::default(), &mut sink, &mut |_| true).unwrap();
    let expected = match bed.kind {
        Kind::Local | Kind::Memory => (3, 0),
        Kind::Kafka => (2, 1),
    };
    assert_eq!((done.events, done.too_large), expected);
    let copied = read_all(&*world.log, &world.out, expected.0 as usize);
    assert_eq!(copied.len() as u64, expected.0);
}

#[cfg(feature = "kafka")]
mod on_kafka {
    use super::*;

    fn bed() -> Option<Bed> {
        Bed::new(Kind::Kafka)
    }

    fn event(id: &str, time: &str, bytes: usize) -> Record {
        let event = format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"t","time":"{time}","data":"{}"}}"#,
            "x".repeat(bytes)
        );
        let mut one = record("k", &event);
        one.headers = vec![(TENANT.0.into(), Some(TENANT.1.into()))];
        one
    }

    const TIME: &str = "2026-01-01T00:00:00Z";

    #[test]
    fn large_records_on_ingress_stop_nothing() {
        let Some(bed) = bed() else { return };
        // As it was made before, by somebody else.
        let world = admitting(&bed);
        let mut sent = Vec::new();
        for (n, bad) in [
            record("k", &"x".repeat(999_850)),
            record("k", &"x".repeat(1_020_000)),
            event("bad", "yesterday", 999_500),
            event("large", TIME, 1_040_000),
        ]
        .into_iter()
        .enumerate()
        {
            sent.push(bad);
            sent.push(event(&format!("good{n}"), TIME, 10));
        }
        bed.produce(&world.names.ingress, &sent, &[]);
        let events = read_all(&*world.log, &world.names.events, 5);
        let id = |f: &Fetched| {
            let event = f.record.value.as_deref().unwrap();
            avro::decode_event(event).unwrap().0.id.into_owned()
        };
        let mut ids: Vec<_> = events.iter().map(id).collect();
        ids.sort();
        assert_eq!(ids, ["good0", "good1", "good2", "good3", "large"]);
        let letters = world.letters(3);
        assert_eq!(letters.len(), 3);
        assert!(letters.iter().all(|l| !dlq::is_truncated(&l.record)));
        assert!(
            letters
                .iter()
                .all(|l| said(l, "code") != "record_too_large")
        );
    }

    #[test]
    fn large_records_stop_nothing_where_topics_stayed_narrow() {
        let Some(bed) = bed() else { return };
        let world = admitting(&bed);
        for topic in [&world.names.events, &world.names.dlq] {
            narrow(&bed, topic, 1_000_000);
        }
        let sent = [
            record("k", &"x".repeat(1_020_000)),
            event("large", TIME, 1_040_000),
            event("good", TIME, 10),
        ];
        bed.produce(&world.names.ingress, &sent, &[]);
        let events = read_all(&*world.log, &world.names.events, 1);
        assert_eq!(events.len(), 1);
        let letters = world.letters(2);
        assert_eq!(letters.len(), 2);
        assert!(letters.iter().all(|l| dlq::is_truncated(&l.record)));
        let codes: Vec<_> = letters.iter().map(|l| said(l, "code")).collect();
        assert!(codes.contains(&"record_too_large"), "{codes:?}");
    }

    #[test]
    fn what_a_codec_makes_large() {
        let Some(bed) = bed() else { return };
        let world = world(&bed, "  - filter: .n != 9", |_| ());
        let large = format!(r#"{{"n":1,"a":"{}"}}"#, "a".repeat(3_000_000));
        let sent = [record("k", &large), record("k", &small(2))];
        bed.produce(&world.source, &sent, &[("compression.codec", "zstd")]);
        assert_eq!(world.numbers(1), [2]);
        let letters = world.letters(1);
        assert_eq!(said(&letters[0], "code"), "record_too_large");
        assert_eq!(value(&letters[0]), large);
    }

    /// The first topic takes 1000 bytes from the beginning on, or when the lane has learnt that it takes more.
    #[test]
    fn a_narrow_sink() {
        for later in [false, true] {
            let Some(bed) = bed() else { return };
            let world = world(&bed, COPY, |w| {
                if !later {
                    narrow(&bed, &w.out, 1000);
                }
            });
            world.send(&[small(0)]);
            assert_eq!(world.numbers(1), [0]);
            if later {
                narrow(&bed, &world.out, 1000);
            }
            // Small ones that are too large for one batch together.
            let mut sent = vec![twice(1, &"a".repeat(2500))];
            sent.extend((2..100).map(small));
            world.send(&sent);
            let expected: Vec<_> = (0..100).filter(|n| *n != 1).collect();
            assert_eq!(world.numbers(99), expected, "{later}");
            let letters = world.letters(1);
            assert_eq!(letters.len(), 1);
            assert_eq!(said(&letters[0], "code"), "record_too_large");
        }
    }

    /// The broker goes by a change a moment after it has taken it, and the log asks again.
    fn settled(log: &dyn Log) {
        std::thread::sleep(Duration::from_secs(1));
        log.forget_record_limits();
    }

    #[test]
    fn own_topics_are_widened_unless_nothing_may_be_made() {
        let Some(bed) = bed() else { return };
        let log = bed.open("a");
        let names = Names::new(&bed.prefix);
        let specs = names.specs(PARTITIONS);
        log.provision(&specs, true).unwrap();
        let troubles = |log: &dyn Log| -> Vec<String> {
            let found = survey(log, &specs).unwrap();
            found
                .into_iter()
                .filter_map(|topic| topic.trouble)
                .collect()
        };
        assert_eq!(troubles(&*log), Vec::<String>::new());
        assert_eq!(log.record_limit(&names.ingress), 2 << 20);
        assert_eq!(log.record_limit(&names.dlq), 8 << 20);
        let kept = log.cleanup(&names.dlq).unwrap();
        bed.alter_topic(
            &names.dlq,
            &[
                ("max.message.bytes", "1048588"),
                ("cleanup.policy", "delete"),
                ("retention.ms", "2592000000"),
            ],
        );
        settled(&*log);
        let told = troubles(&*log);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("max.message.bytes"), "{told:?}");
        log.provision(&specs, false).unwrap();
        settled(&*log);
        assert_eq!(log.record_limit(&names.dlq), 1_048_588);
        log.provision(&specs, true).unwrap();
        settled(&*log);
        assert_eq!(log.record_limit(&names.dlq), 8 << 20);
        assert_eq!(log.cleanup(&names.dlq).unwrap(), kept, "all else stays");
        assert_eq!(troubles(&*log), Vec::<String>::new());
    }

    /// Waits in `process` until it may go on.
    struct Gate(Arc<AtomicBool>);

    impl Processor for Gate {
        fn name(&self) -> &'static str {
            "gate"
        }
        fn topics(&self) -> Vec<String> {
            vec!["in".into()]
        }
        fn transform(&self, _: &Space, _: &StateStore) -> Result<Box<dyn Transform>, StateError> {
            Ok(Box::new(Self(Arc::clone(&self.0))))
        }
    }

    impl Transform for Gate {
        fn process(&mut self, _: &Fetched, cx: &mut Context<'_>) -> Result<(), Failure> {
            while !self.0.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
            cx.emit(&"out".into(), record("k", "v"));
            Ok(())
        }
    }

    #[test]
    fn a_lane_stops_in_time_though_no_broker_answers() {
        use omnilink::log::kafka::{KafkaLog, KafkaOptions};

        use crate::chaos::parts::Parts;
        if bed().is_none() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let parts = Parts::kafka(dir.path());
        let options = KafkaOptions {
            brokers: parts.brokers.clone(),
            node: "a".into(),
            ..KafkaOptions::default()
        };
        let state = StateStore::open(&dir.path().join("state")).unwrap();
        let log: Arc<dyn Log> = Arc::new(KafkaLog::connect(options, state).unwrap());
        let spec = |name: &str| TopicSpec {
            name: name.into(),
            partitions: 1,
            cleanup: Cleanup::Keep,
        };
        let specs = ["in", "out", "dlq"].map(spec);
        log.provision(&specs, true).unwrap();
        append(&*log, "in", vec![record("k", "v")]).unwrap();
        let gate = Arc::<AtomicBool>::default();
        let progress = Arc::<Progress>::default();
        let setup = lane::Setup {
            log: Arc::clone(&log),
            dlq: "dlq".into(),
            clock: Arc::clone(&Bed::new(Kind::Local).unwrap().clock),
            progress: Arc::clone(&progress),
        };
        let running = lane::start(Arc::new(Gate(Arc::clone(&gate))), setup).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while progress.positions().is_empty() {
            assert!(Instant::now() < deadline, "{:?}", progress.trouble());
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_secs(1));
        parts.kill("kafka");
        gate.store(true, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(300));
        let asked = Instant::now();
        drop(running);
        assert!(
            asked.elapsed() < Duration::from_secs(10),
            "{:?}",
            asked.elapsed()
        );
    }

    #[test]
    fn an_append_that_no_topic_takes_is_refused_alone() {
        let Some(bed) = bed() else { return };
        let world = bare_world(&bed);
        narrow(&bed, &world.out, 1000);
        let records = vec![record("k", "a"), record("k", &"x".repeat(2000))];
        let error = append(&*world.log, &world.out, records).unwrap_err();
        assert!(matches!(error, LogError::TooLarge(_)), "{error}");
        append(&*world.log, &world.out, vec![record("k", "b")]).unwrap();
        let all = read_all(&*world.log, &world.out, 2);
        assert_eq!(all.iter().map(value).collect::<Vec<_>>(), ["a", "b"]);
    }
}
