//! Records that become too large when they are written on, on both logs: each becomes a dead letter, and later records are
//! processed.
//!
//! On Kafka the tests lower `max.message.bytes` of a topic; the embedded log accepts 16 MiB everywhere.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use omnilink::{
    admission::Admission,
    base::clock::Millis,
    controls::SecretKeys,
    log::{Cleanup, Fetched, Log, Record, TopicSpec, header, record_size, topics::Names},
    projections::{DeadLetters, Reject, Rejection},
    replay::{History, IntoTopic, Query, replay},
    state::{Space, StateError, StateStore, Table},
    stream::{
        Context, Failure, Processor, Timer, Transform,
        dlq::{
            self,
            name::Name,
            redrive::{Pick, Redrive, Redriven},
        },
        lane::Running,
    },
    topology::{Deployment, Setup},
};

use crate::support::{LogKind, TestLog, append, on_both_logs, read_all, record, topology, value};

on_both_logs!(
    an_output_that_is_too_large_for_its_topic,
    a_dead_letter_that_does_not_fit_is_truncated,
    a_dead_letter_of_a_projection_is_truncated,
    a_record_between_two_stages,
    a_record_that_waits_for_a_limit,
    a_throttled_record,
    dead_letters_of_a_batch_have_bounded_headers,
    outputs_and_state_of_a_transform,
    transactions_end_when_they_are_large,
    records_too_large_for_a_redrive_or_replay_are_reported,
);

pub(super) const PARTITIONS: u32 = 3;
pub(super) const TENANT: (&str, &str) = ("omnilink-tenant", "acme");

/// The size limit of the topic, in bytes.
pub(super) fn limit(test_log: &TestLog) -> usize {
    match test_log.kind {
        LogKind::Local | LogKind::Memory => 16 << 20,
        LogKind::Kafka => 100_000,
    }
}

/// Text of this many tenths of the limit.
pub(super) fn tenths_of_limit(test_log: &TestLog, tenths: usize) -> String {
    "a".repeat(limit(test_log) / 10 * tenths)
}

pub(super) fn lower_limit(test_log: &TestLog, topic: &str, bytes: usize) {
    if test_log.kind == LogKind::Kafka {
        test_log.alter_topic(topic, &[("max.message.bytes", &bytes.to_string())]);
        // The broker applies the change with a delay.
        std::thread::sleep(Duration::from_secs(1));
    }
}

pub(super) struct Fixture {
    pub log: Arc<dyn Log>,
    pub names: Names,
    pub secrets: Arc<SecretKeys>,
    pub deployment: Deployment,
    pub source: String,
    pub out: String,
    _admission: Option<Running>,
}

pub(super) fn bare_fixture(test_log: &TestLog) -> Fixture {
    let log = test_log.open("a");
    let names = Names::new(&test_log.prefix);
    log.provision(&names.specs(PARTITIONS), true).unwrap();
    let foreign = |name: &str| format!("f{}{name}", test_log.prefix);
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
        spec(&test_log.topic("rekey.big"), Cleanup::Keep),
        state("topology.big"),
        state("topology.big.2"),
    ];
    log.provision(&specs, true).unwrap();
    let deployment = Deployment::new(Setup {
        // Provisioning would raise the limits that tests lower.
        provision: false,
        ..test_log.topology_setup(&log, PARTITIONS)
    });
    Fixture {
        log,
        names,
        secrets: Arc::new(SecretKeys::new([&STANDARD.encode([1; 32])[..]]).unwrap()),
        deployment,
        source,
        out,
        _admission: None,
    }
}

/// A log with one topology.
pub(super) fn fixture(test_log: &TestLog, steps: &str, prepare: impl FnOnce(&Fixture)) -> Fixture {
    let mut fixture = bare_fixture(test_log);
    prepare(&fixture);
    let file = format!(
        "name: big\nsource: {{ topic: {}, tenant: acme }}\nsteps:\n{steps}\n  - route: [ {{ to: {} }} ]\n",
        fixture.source, fixture.out
    );
    let set = topology::load(
        test_log.dir.path(),
        &[("big.yaml", &file)],
        &test_log.prefix,
    );
    fixture.deployment.deploy(&set).unwrap();
    fixture
}

/// A log with admission.
pub(super) fn admission_fixture(test_log: &TestLog) -> Fixture {
    let fixture = bare_fixture(test_log);
    let admission = Admission::new(&fixture.names, PARTITIONS, 24 * 3_600_000, false);
    Fixture {
        _admission: Some(test_log.start_lane(&fixture.log, admission, &Arc::default())),
        ..fixture
    }
}

impl Fixture {
    pub fn send(&self, values: &[String]) {
        // With one key, so that they are in order in one partition.
        let records = values.iter().map(|value| record("k", value)).collect();
        append(&*self.log, &self.source, records).unwrap();
    }

    /// The field `n` of each output.
    pub fn numbers(&self, at_least: usize) -> Vec<u64> {
        let all = read_all(&*self.log, &self.out, at_least);
        let number = |f: &Fetched| {
            let value = f.record.value.as_deref().unwrap();
            let value: serde_json::Value = serde_json::from_slice(value).unwrap();
            value["n"].as_u64().unwrap()
        };
        all.iter().map(number).collect()
    }

    pub fn letters(&self, at_least: usize) -> Vec<Fetched> {
        read_all(&*self.log, &self.names.dlq, at_least)
    }

    pub fn redrive(&self, pick: &Pick) -> Redriven {
        let redrive = Redrive {
            log: &*self.log,
            names: &self.names,
            secrets: &self.secrets,
        };
        redrive.run(pick, &mut |_| true).unwrap()
    }
}

pub(super) fn said<'a>(letter: &'a Fetched, name: &str) -> &'a str {
    let value = header(&letter.record.headers, &format!("{}{name}", dlq::PREFIX));
    std::str::from_utf8(value.unwrap_or_default()).unwrap()
}

pub(super) fn small(n: u64) -> String {
    format!(r#"{{"n":{n}}}"#)
}

pub(super) fn twice(n: u64, text: &str) -> String {
    format!(r#"{{"n":{n},"twice":"{text}"}}"#)
}

pub(super) const COPY: &str = "  - map: |\n      .copy = .twice";

fn an_output_that_is_too_large_for_its_topic(test_log: TestLog) {
    let fixture = fixture(&test_log, COPY, |w| {
        lower_limit(&test_log, &w.out, limit(&test_log));
    });
    let large = twice(1, &tenths_of_limit(&test_log, 6));
    fixture.send(&[small(0), large.clone(), small(2), small(3)]);
    assert_eq!(fixture.numbers(3), [0, 2, 3]);
    let letters = fixture.letters(1);
    assert_eq!(letters.len(), 1);
    assert_eq!(said(&letters[0], "code"), "record_too_large");
    let message = said(&letters[0], "message");
    assert!(message.contains(&fixture.out), "{message}");
    assert_eq!(value(&letters[0]), large);
    assert!(!dlq::is_truncated(&letters[0].record));
}

fn a_dead_letter_that_does_not_fit_is_truncated(test_log: TestLog) {
    let fixture = fixture(&test_log, COPY, |w| {
        lower_limit(&test_log, &w.names.dlq, limit(&test_log));
    });
    // Not JSON. It fits into the source topic, but not with the headers that a dead letter adds.
    let garbage = "x".repeat(limit(&test_log) - 150);
    fixture.send(&[garbage.clone(), small(1)]);
    assert_eq!(fixture.numbers(1), [1]);
    let letters = fixture.letters(1);
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert!(record_size(&letter.record) <= limit(&test_log));
    assert_eq!(said(letter, "truncated"), garbage.len().to_string());
    assert_eq!(letter.record.key.as_deref(), Some(&b"k"[..]));
    let cut = value(letter);
    assert!(cut.len() > garbage.len() - 1000 && cut.len() < garbage.len());
    // It cannot be redriven.
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
        let done = fixture.redrive(&pick);
        assert_eq!((done.redriven, done.truncated), (0, 1), "{pick:?}");
    }
}

fn a_dead_letter_of_a_projection_is_truncated(test_log: TestLog) {
    let fixture = bare_fixture(&test_log);
    lower_limit(&test_log, &fixture.names.dlq, limit(&test_log));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let letters = DeadLetters {
        log: Arc::clone(&fixture.log),
        dlq: Arc::clone(&fixture.names.dlq),
        topic: Arc::clone(&fixture.names.events),
        stage: "events",
        clock: Arc::clone(&test_log.clock),
        runtime: runtime.handle().clone(),
    };
    let rejected = Fetched {
        topic: 0,
        partition: 0,
        offset: 3,
        timestamp: Millis(1),
        record: record("k", &"x".repeat(limit(&test_log))),
    };
    let rejection = Rejection {
        record: &rejected,
        code: "postgres_22003".into(),
        message: "it does not go into a row".into(),
    };
    letters.reject(&[rejection]).unwrap();
    let letters = fixture.letters(1);
    assert_eq!(said(&letters[0], "truncated"), limit(&test_log).to_string());
    assert_eq!(said(&letters[0], "code"), "postgres_22003");
}

fn a_record_between_two_stages(test_log: TestLog) {
    let steps = format!("{COPY}\n  - key: [n]\n  - dedupe: {{ window: 1h }}");
    let fixture = fixture(&test_log, &steps, |_| {
        lower_limit(&test_log, &test_log.topic("rekey.big"), limit(&test_log));
    });
    fixture.send(&[twice(1, &tenths_of_limit(&test_log, 4)), small(2)]);
    assert_eq!(fixture.numbers(1), [2]);
    let letters = fixture.letters(1);
    assert_eq!(letters.len(), 1);
    assert_eq!(said(&letters[0], "code"), "record_too_large");
    assert_eq!(said(&letters[0], "topic"), fixture.source);
}

fn a_record_that_waits_for_a_limit(test_log: TestLog) {
    let limited = "  - rate_limit: { policy: slow, limit: 1, window: 2s, over: defer }";
    let steps = format!("  - key: [tenant]\n{COPY}\n{limited}");
    let fixture = fixture(&test_log, &steps, |w| {
        for processor in ["topology.big", "topology.big.2"] {
            lower_limit(&test_log, &w.names.state(processor), limit(&test_log));
        }
    });
    fixture.send(&[small(0), twice(1, &tenths_of_limit(&test_log, 4)), small(2)]);
    assert_eq!(fixture.numbers(2), [0, 2]);
    let letters = fixture.letters(1);
    assert_eq!(letters.len(), 1);
    assert_eq!(said(&letters[0], "code"), "record_too_large");
    let message = said(&letters[0], "message");
    // On the embedded log one lane runs all stages.
    let what = match test_log.kind {
        LogKind::Local | LogKind::Memory => "rekey.big",
        LogKind::Kafka => "row of state",
    };
    assert!(message.contains(what), "{message}");
}

fn a_throttled_record(test_log: TestLog) {
    let limited = "  - rate_limit: { policy: slow, limit: 1, window: 1h, over: reject }";
    let steps = format!("  - key: [tenant]\n{limited}");
    let fixture = fixture(&test_log, &steps, |w| {
        lower_limit(&test_log, &w.names.throttled, limit(&test_log));
    });
    let padded = |n, length| format!(r#"{{"n":{n},"pad":"{}"}}"#, "a".repeat(length));
    fixture.send(&[
        padded(0, 1),
        padded(1, limit(&test_log) - 200),
        padded(2, 1),
    ]);
    let throttled = read_all(&*fixture.log, &fixture.names.throttled, 1);
    assert_eq!(
        throttled.iter().map(value).collect::<Vec<_>>(),
        [padded(2, 1)]
    );
    assert_eq!(fixture.numbers(1), [0]);
    let letters = fixture.letters(1);
    assert_eq!(letters.len(), 1);
    assert_eq!(said(&letters[0], "code"), "record_too_large");
}

fn dead_letters_of_a_batch_have_bounded_headers(test_log: TestLog) {
    const ITEMS: usize = 500;
    let fixture = admission_fixture(&test_log);
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
    append(&*fixture.log, &fixture.names.ingress, vec![record]).unwrap();
    let letters = fixture.letters(ITEMS);
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
    let events = read_all(&*fixture.log, &fixture.names.events, 1);
    assert_eq!(events.len(), 1);
}

/// Emits or stores values that are too large, after a change of state; counts its records in its state.
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

const SEEN: Table<String, u64> = Table::new("seen", b's');
const LARGE: Table<String, Bytes> = Table::new("large", b'l');

impl Transform for LargeOne {
    fn process(&mut self, input: &Fetched, cx: &mut Context<'_>) -> Result<(), Failure> {
        let seen = cx.get(&SEEN, "seen")?.unwrap_or(0) + 1;
        cx.put(&SEEN, "seen", &seen);
        cx.emit(&self.out, record("k", &seen.to_string()));
        let large = "x".repeat(self.bytes);
        match &*value(input) {
            "emit" => cx.emit(&self.out, record("k", &large)),
            "put" => cx.put(&LARGE, "large", &large.into()),
            "key" => cx.put(&LARGE, &"k".repeat(70_000), &"x".into()),
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

/// On Kafka the output topic accepts `max_bytes`.
fn large(
    test_log: &TestLog,
    bytes: usize,
    max_bytes: usize,
) -> (Fixture, Running, Arc<AtomicUsize>) {
    let fixture = bare_fixture(test_log);
    let state = test_log.spec("state.large", PARTITIONS, Cleanup::Compact);
    fixture.log.provision(&[state], true).unwrap();
    lower_limit(test_log, &fixture.out, max_bytes);
    lower_limit(test_log, &test_log.topic("state.large"), limit(test_log));
    let closed = Arc::default();
    let processor = Large {
        names: [fixture.source.as_str().into(), fixture.out.as_str().into()],
        bytes,
        closed: Arc::clone(&closed),
        clock: Arc::clone(&test_log.clock),
    };
    let running = test_log.start_lane(&fixture.log, processor, &Arc::default());
    (fixture, running, closed)
}

fn outputs_and_state_of_a_transform(test_log: TestLog) {
    let (fixture, _running, _) = large(&test_log, limit(&test_log) + 1000, limit(&test_log));
    let words = ["", "emit", "put", "key", "timer", "", "later", ""];
    fixture.send(&words.map(str::to_owned));
    let letters = fixture.letters(5);
    let mut reported: Vec<_> = letters
        .iter()
        .map(|l| {
            // An output of a timer has no input record: the dead letter is that of the timer.
            let of = match &l.record.value {
                Some(_) => value(l),
                None => String::from_utf8_lossy(l.record.key.as_ref().unwrap()).into_owned(),
            };
            (said(l, "code"), of)
        })
        .collect();
    reported.sort();
    assert_eq!(reported.len(), 5);
    for (letter, word) in reported
        .iter()
        .zip(["emit", "key", "later", "put", "timer"])
    {
        assert_eq!(*letter, ("record_too_large", word.to_owned()));
    }
    // None of them has changed the state.
    let out = read_all(&*fixture.log, &fixture.out, 4);
    let mut out: Vec<_> = out.iter().map(value).collect();
    out.sort();
    assert_eq!(out, ["1", "2", "3", "4"]);
}

fn transactions_end_when_they_are_large(test_log: TestLog) {
    let (fixture, running, closed) = large(&test_log, 1_000_000, 2_000_000);
    drop(running);
    let emits = vec!["emit".to_owned(); 64];
    fixture.send(&emits);
    let before = closed.load(Ordering::Relaxed);
    let processor = Large {
        names: [fixture.source.as_str().into(), fixture.out.as_str().into()],
        bytes: 1_000_000,
        closed: Arc::clone(&closed),
        clock: Arc::clone(&test_log.clock),
    };
    let _running = test_log.start_lane(&fixture.log, processor, &Arc::default());
    let out = read_all(&*fixture.log, &fixture.out, 128);
    assert_eq!(out.len(), 128);
    let transactions = closed.load(Ordering::Relaxed) - before;
    assert!((4..16).contains(&transactions), "{transactions}");
}

fn records_too_large_for_a_redrive_or_replay_are_reported(test_log: TestLog) {
    let fixture = admission_fixture(&test_log);
    // A complete letter, of a record that does not fit into its topic with the headers of a redrive.
    let rejected = Fetched {
        topic: 0,
        partition: 0,
        offset: 3,
        timestamp: Millis(1),
        record: record("k", &"x".repeat(limit(&test_log) - 700)),
    };
    let reason = dlq::Reason {
        topic: &fixture.source,
        stage: "s",
        code: "large",
        message: "",
        failed_at: Millis(1),
    };
    let mut letter = dlq::record(&rejected, None, &reason);
    let room = limit(&test_log) - record_size(&letter);
    let grown = "x".repeat(limit(&test_log) - 700 + room);
    letter.value = Some(grown.into());
    let fits = dlq::record(
        &Fetched {
            record: record("k", "fits"),
            ..rejected.clone()
        },
        None,
        &reason,
    );
    lower_limit(&test_log, &fixture.source, limit(&test_log) - 400);
    append(&*fixture.log, &fixture.names.dlq, vec![letter, fits]).unwrap();
    let done = fixture.redrive(&Pick::All);
    let expected = match test_log.kind {
        // The headers of a letter are longer than those of a redrive.
        LogKind::Local | LogKind::Memory => (2, 0),
        LogKind::Kafka => (1, 1),
    };
    assert_eq!((done.redriven, done.too_large), expected);

    // A replay skips records that are too large for the topic, and reports them.
    lower_limit(&test_log, &fixture.out, 1000);
    let bytes = if test_log.kind == LogKind::Local {
        200
    } else {
        5000
    };
    for (id, bytes) in [("a", 10), ("b", bytes), ("c", 10)] {
        let event = format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"t","data":"{}"}}"#,
            "x".repeat(bytes)
        );
        let mut one = record("k", &event);
        one.headers = vec![(TENANT.0.into(), Some(TENANT.1.into()))];
        append(&*fixture.log, &fixture.names.ingress, vec![one]).unwrap();
    }
    read_all(&*fixture.log, &fixture.names.events, 3);
    let history = History {
        log: &*fixture.log,
        names: &fixture.names,
        index_dir: test_log.dir.path().join("index"),
    };
    let mut sink = IntoTopic::new(&*fixture.log, &fixture.names, &fixture.out).unwrap();
    let done = replay(&history, &Query::default(), &mut sink, &mut |_| true).unwrap();
    let expected = match test_log.kind {
        LogKind::Local | LogKind::Memory => (3, 0),
        LogKind::Kafka => (2, 1),
    };
    assert_eq!((done.events, done.too_large), expected);
    let copied = read_all(&*fixture.log, &fixture.out, expected.0 as usize);
    assert_eq!(copied.len() as u64, expected.0);
}
