//! Size limits of topics on Kafka: lowered, raised and changed while a lane runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use omnilink::{
    envelope::avro,
    log::{Cleanup, Fetched, Log, LogError, Record, TopicSpec, survey, topics::Names},
    state::{Space, StateError, StateStore},
    stream::{Context, Failure, Processor, Transform, dlq, lane, progress::Progress},
};

use crate::{
    record_size::{
        COPY, PARTITIONS, TENANT, admission_fixture, bare_fixture, fixture, lower_limit, said,
        small, twice,
    },
    support::{LogKind, TestLog, append, read_all, record, value},
};

fn test_log() -> Option<TestLog> {
    TestLog::new(LogKind::Kafka)
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
    let Some(test_log) = test_log() else { return };
    // A topic that was created earlier with another limit.
    let fixture = admission_fixture(&test_log);
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
    test_log.produce(&fixture.names.ingress, &sent, &[]);
    let events = read_all(&*fixture.log, &fixture.names.events, 5);
    let id = |f: &Fetched| {
        let event = f.record.value.as_deref().unwrap();
        avro::decode_event(event).unwrap().0.id.into_owned()
    };
    let mut ids: Vec<_> = events.iter().map(id).collect();
    ids.sort();
    assert_eq!(ids, ["good0", "good1", "good2", "good3", "large"]);
    let letters = fixture.letters(3);
    assert_eq!(letters.len(), 3);
    assert!(letters.iter().all(|l| !dlq::is_truncated(&l.record)));
    assert!(
        letters
            .iter()
            .all(|l| said(l, "code") != "record_too_large")
    );
}

#[test]
fn large_records_stop_nothing_where_topics_keep_low_limits() {
    let Some(test_log) = test_log() else { return };
    let fixture = admission_fixture(&test_log);
    for topic in [&fixture.names.events, &fixture.names.dlq] {
        lower_limit(&test_log, topic, 1_000_000);
    }
    let sent = [
        record("k", &"x".repeat(1_020_000)),
        event("large", TIME, 1_040_000),
        event("good", TIME, 10),
    ];
    test_log.produce(&fixture.names.ingress, &sent, &[]);
    let events = read_all(&*fixture.log, &fixture.names.events, 1);
    assert_eq!(events.len(), 1);
    let letters = fixture.letters(2);
    assert_eq!(letters.len(), 2);
    assert!(letters.iter().all(|l| dlq::is_truncated(&l.record)));
    let codes: Vec<_> = letters.iter().map(|l| said(l, "code")).collect();
    assert!(codes.contains(&"record_too_large"), "{codes:?}");
}

#[test]
fn records_that_a_codec_enlarges() {
    let Some(test_log) = test_log() else { return };
    let fixture = fixture(&test_log, "  - filter: .n != 9", |_| ());
    let large = format!(r#"{{"n":1,"a":"{}"}}"#, "a".repeat(3_000_000));
    let sent = [record("k", &large), record("k", &small(2))];
    test_log.produce(&fixture.source, &sent, &[("compression.codec", "zstd")]);
    assert_eq!(fixture.numbers(1), [2]);
    let letters = fixture.letters(1);
    assert_eq!(said(&letters[0], "code"), "record_too_large");
    assert_eq!(value(&letters[0]), large);
}

/// The limit of 1000 bytes is set at the beginning, or after the lane has read a higher one.
#[test]
fn an_output_topic_with_a_low_limit() {
    for later in [false, true] {
        let Some(test_log) = test_log() else { return };
        let fixture = fixture(&test_log, COPY, |w| {
            if !later {
                lower_limit(&test_log, &w.out, 1000);
            }
        });
        fixture.send(&[small(0)]);
        assert_eq!(fixture.numbers(1), [0]);
        if later {
            lower_limit(&test_log, &fixture.out, 1000);
        }
        // Small records that together are too large for one batch.
        let mut sent = vec![twice(1, &"a".repeat(2500))];
        sent.extend((2..100).map(small));
        fixture.send(&sent);
        let expected: Vec<_> = (0..100).filter(|n| *n != 1).collect();
        assert_eq!(fixture.numbers(99), expected, "{later}");
        let letters = fixture.letters(1);
        assert_eq!(letters.len(), 1);
        assert_eq!(said(&letters[0], "code"), "record_too_large");
    }
}

/// Waits until the broker applies a change, and makes the log read the limits again.
fn refresh_limits(log: &dyn Log) {
    std::thread::sleep(Duration::from_secs(1));
    log.forget_record_limits();
}

#[test]
fn limits_of_system_topics_are_raised_only_when_provisioning() {
    let Some(test_log) = test_log() else { return };
    let log = test_log.open("a");
    let names = Names::new(&test_log.prefix);
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
    test_log.alter_topic(
        &names.dlq,
        &[
            ("max.message.bytes", "1048588"),
            ("cleanup.policy", "delete"),
            ("retention.ms", "2592000000"),
        ],
    );
    refresh_limits(&*log);
    let reported = troubles(&*log);
    assert_eq!(reported.len(), 1, "{reported:?}");
    assert!(reported[0].contains("max.message.bytes"), "{reported:?}");
    log.provision(&specs, false).unwrap();
    refresh_limits(&*log);
    assert_eq!(log.record_limit(&names.dlq), 1_048_588);
    log.provision(&specs, true).unwrap();
    refresh_limits(&*log);
    assert_eq!(log.record_limit(&names.dlq), 8 << 20);
    assert_eq!(
        log.cleanup(&names.dlq).unwrap(),
        kept,
        "other settings are kept"
    );
    assert_eq!(troubles(&*log), Vec::<String>::new());
}

/// Blocks in `process` until the gate is opened.
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
fn a_lane_stops_in_time_without_brokers() {
    use omnilink::log::kafka::{KafkaLog, KafkaOptions};

    use crate::chaos::parts::Parts;
    if test_log().is_none() {
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
        clock: Arc::clone(&TestLog::new(LogKind::Local).unwrap().clock),
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
    let began = Instant::now();
    drop(running);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn an_append_that_is_too_large_fails_alone() {
    let Some(test_log) = test_log() else { return };
    let fixture = bare_fixture(&test_log);
    lower_limit(&test_log, &fixture.out, 1000);
    let records = vec![record("k", "a"), record("k", &"x".repeat(2000))];
    let error = append(&*fixture.log, &fixture.out, records).unwrap_err();
    assert!(matches!(error, LogError::TooLarge(_)), "{error}");
    append(&*fixture.log, &fixture.out, vec![record("k", "b")]).unwrap();
    let all = read_all(&*fixture.log, &fixture.out, 2);
    assert_eq!(all.iter().map(value).collect::<Vec<_>>(), ["a", "b"]);
}
