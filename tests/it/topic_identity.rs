//! Positions are kept with the id of their topic. When a topic on Kafka is recreated, truncated or gets more partitions, lanes,
//! effects, projections and the replay index do not skip records silently.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use omnilink::{
    admission::Admission,
    base::clock::{Clock, SystemClock},
    envelope::avro,
    log::{Cleanup, Log, LogError, Polled, Record, Transaction, Work, topics::Names},
    projections::{PROJECTION, Projector, RebuildTables, rebuild},
    replay::{History, Lines, Query, replay},
    state::{Changes, Space},
    stream::{lane, progress::Progress},
};

use crate::support::{
    LogKind, TestLog, append, assert_notice, output, poll_records,
    projections::{Database, event},
    read_all, record, wait_for_assignment, wait_until,
};

/// Partitions of the system's topics.
const PARTITIONS: u32 = 2;

/// The position of a lane that is behind gets out of range.
#[test]
fn a_running_lane_reports_records_deleted_by_retention() {
    let Some(test_log) = TestLog::new(LogKind::Kafka) else {
        return;
    };
    let kafka = test_log.kafka_admin();
    let input = format!("f{}in", test_log.prefix);
    kafka.create_topic(&input, 1);
    let log = test_log.open("a");
    let topics = [input.clone()];
    let fill = |count: usize| {
        let large = "x".repeat(10_000);
        let records = (0..count).map(|_| record("k", &large)).collect();
        append(&*log, &input, records).unwrap();
    };
    fill(10);
    let mut lane = log.lane("p", &topics).unwrap();
    wait_for_assignment(&mut *lane);
    poll_records(&mut *lane, 10);
    let positions = vec![(0, 0, 10)];
    lane.commit(Transaction {
        positions,
        ..Transaction::default()
    })
    .unwrap();
    // More than the consumer prefetches.
    for _ in 0..40 {
        fill(100);
    }
    kafka.delete_records_before(&input, 0, 4_005);
    let mut read = 0;
    let error = wait_for_error(|| {
        let mut out = Vec::new();
        lane.poll(Duration::from_millis(100), &mut out)?;
        read += out.len();
        Ok((read >= 4_000).then_some(read))
    });
    drop(lane);
    let mut lane = log.lane("p", &topics).unwrap();
    assert_eq!(wait_for_assignment(&mut *lane)[0].2, 4_005, "{error}");
    assert_notice(&input, &["offsets 10 to 4005", "retention"]);
}

/// A topic keeps its id while it exists, on either log.
#[test]
fn an_id_is_the_topics_own() {
    for kind in [LogKind::Local, LogKind::Kafka] {
        let (Some(test_log), Some(other)) = (TestLog::new(kind), TestLog::new(kind)) else {
            continue;
        };
        let id = |test_log: &TestLog, name: &str| {
            let log = test_log.open("a");
            log.provision(&[test_log.spec(name, 2, Cleanup::Keep)], true)
                .unwrap();
            let described = log.describe(&test_log.topic(name)).unwrap().unwrap();
            assert_eq!(described.partitions, 2);
            described.id.unwrap()
        };
        let one = id(&test_log, "one");
        assert_eq!(id(&test_log, "one"), one);
        assert_ne!(id(&test_log, "two"), one);
        assert_ne!(id(&other, "one"), one);
        assert_eq!(one.to_string().parse(), Ok(one));
    }
}

/// Commits of a lane are kept with the id of their topic, on any node.
#[test]
fn a_lane_opens_only_at_positions_of_the_same_topic() {
    let Some(test_log) = TestLog::new(LogKind::Kafka) else {
        return;
    };
    let kafka = test_log.kafka_admin();
    let input = format!("f{}in", test_log.prefix);
    kafka.create_topic(&input, 1);
    let log = test_log.open("a");
    let specs = [
        test_log.spec("state.p", 1, Cleanup::Compact),
        test_log.spec("out", 1, Cleanup::Keep),
    ];
    log.provision(&specs, true).unwrap();
    let topics = [input.clone()];
    let group = format!("{}p", test_log.prefix);
    let some = |from: u64, to: u64| -> Vec<Record> {
        (from..to).map(|n| record("k", &n.to_string())).collect()
    };
    let commit = |log: &dyn Log, count: usize| {
        let mut lane = log.lane("p", &topics).unwrap();
        wait_for_assignment(&mut *lane);
        let taken = poll_records(&mut *lane, count);
        let next = taken.last().unwrap().offset + 1;
        let mut state = Changes::default();
        state.put(&Space::new("p", 0), "next", next.to_string());
        let outputs = taken
            .iter()
            .map(|f| output(&test_log.topic("out"), f.record.clone()));
        lane.commit(Transaction {
            outputs: outputs.collect(),
            state,
            positions: vec![(0, 0, next)],
        })
        .unwrap();
        next
    };
    let opened = |log: &dyn Log| {
        let mut lane = log.lane("p", &topics).unwrap();
        wait_for_assignment(&mut *lane)[0].2
    };
    append(&*log, &input, some(0, 20)).unwrap();
    assert_eq!(commit(&*log, 20), 20);
    // The new topic is longer than the position, so offsets do not show that it is another one. Only node `a` has a copy of the
    // state.
    for _ in 0..2 {
        kafka.recreate_topic(&*log, &input, 1);
        append(&*log, &input, some(0, 40)).unwrap();
        assert_eq!(log.committed("p", &input, 0).unwrap(), None);
        let other = test_log.open("b");
        assert_eq!(opened(&*other), 0);
        assert_eq!(opened(&*log), 0);
        assert_eq!(commit(&*log, 40), 40);
        assert_eq!(opened(&*other), 40);
        drop(other);
        std::fs::remove_dir_all(test_log.dir.path().join("b")).unwrap();
    }
    // As a version that kept no ids has left it: the topic that is met first is taken for the one that was read.
    kafka.commit_offset(&group, &input, 0, 30);
    assert_eq!(opened(&*log), 30);
    kafka.recreate_topic(&*log, &input, 1);
    append(&*log, &input, some(0, 50)).unwrap();
    assert_eq!(opened(&*log), 0);
    // The same topic with a shorter log: neither skips records nor resets the position.
    assert_eq!(commit(&*log, 50), 50);
    kafka.commit_offset(&group, &input, 0, 70);
    let mut lane = log.lane("p", &topics).unwrap();
    let error =
        wait_for_error(
            || match lane.poll(Duration::from_millis(100), &mut Vec::new())? {
                Polled::Assigned(partitions) if !partitions.is_empty() => lane.open(0, 0).map(Some),
                _ => Ok(None),
            },
        );
    let LogError::LostEnd {
        position: 70,
        end: 50,
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert!(error.to_string().contains("--reset-offsets"), "{error}");
    let faults = log.position_faults("p", &input).unwrap();
    assert!(
        faults[0].stalls && faults[0].detail.contains(&input),
        "{faults:?}"
    );
    drop(lane);
    // The remedy in the message.
    kafka.commit_offset(&group, &input, 0, 45);
    assert_eq!(opened(&*log), 45);
    assert_eq!(log.position_faults("p", &input).unwrap(), []);
}

/// Calls until there is an error, and returns it.
fn wait_for_error<T>(mut call: impl FnMut() -> Result<Option<T>, LogError>) -> LogError {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        match call() {
            Ok(Some(_)) => panic!("no error"),
            Ok(None) => {}
            Err(error) => return error,
        }
    }
    panic!("no result within 30 s");
}

#[test]
fn a_recreated_changelog_is_reported_and_a_complete_copy_is_kept() {
    let Some(test_log) = TestLog::new(LogKind::Kafka) else {
        return;
    };
    let kafka = test_log.kafka_admin();
    let input = format!("f{}in", test_log.prefix);
    kafka.create_topic(&input, 1);
    let changelog = test_log.topic("state.p");
    kafka.create_topic(&changelog, 1);
    let space = Space::new("p", 0);
    let topics = [input.clone()];
    let log = test_log.open("a");
    append(&*log, &input, vec![record("k", "1")]).unwrap();
    let mut lane = log.lane("p", &topics).unwrap();
    wait_for_assignment(&mut *lane);
    let taken = poll_records(&mut *lane, 1);
    let mut state = Changes::default();
    state.put(&space, "count", "1");
    lane.commit(Transaction {
        outputs: Vec::new(),
        state,
        positions: vec![(0, 0, taken[0].offset + 1)],
    })
    .unwrap();
    kafka.recreate_topic(&*log, &changelog, 1);
    // While the lane runs.
    let error = wait_for_error(|| {
        let polled = lane.poll(Duration::from_millis(100), &mut Vec::new())?;
        Ok((!matches!(polled, Polled::Records)).then_some(()))
    });
    assert!(
        matches!(&error, LogError::Recreated { topic, .. } if *topic == changelog),
        "{error}"
    );
    drop(lane);
    let mut lane = log.lane("p", &topics).unwrap();
    wait_for_assignment(&mut *lane);
    assert_notice(&changelog, &["complete", "p,"]);
    assert_eq!(lane.state().get(&space, b"count").unwrap().unwrap(), "1");
    drop(lane);
    // A node without a copy starts with empty state.
    let other = test_log.open("b");
    let mut lane = other.lane("p", &topics).unwrap();
    assert_eq!(wait_for_assignment(&mut *lane)[0].2, 1);
    assert_eq!(lane.state().get(&space, b"count").unwrap(), None);
}

fn open_work(log: &dyn Log, topic: &str) -> (Box<dyn Work>, u64) {
    let mut work = log.work("call", topic).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        match work
            .poll(Duration::from_millis(100), &mut Vec::new())
            .unwrap()
        {
            Polled::Assigned(partitions) if !partitions.is_empty() => {
                let finished = work.open(0).unwrap();
                return (work, finished.next());
            }
            Polled::Revoked(partitions) | Polled::Lost(partitions) => {
                work.release(&partitions).unwrap();
            }
            _ => {}
        }
    }
    panic!("no partitions within 30 s");
}

#[test]
fn finished_calls_of_an_effect_belong_to_the_topic() {
    let Some(test_log) = TestLog::new(LogKind::Kafka) else {
        return;
    };
    let kafka = test_log.kafka_admin();
    let input = format!("f{}in", test_log.prefix);
    kafka.create_topic(&input, 1);
    let log = test_log.open("a");
    let some =
        |count: u64| -> Vec<Record> { (0..count).map(|n| record("k", &n.to_string())).collect() };
    append(&*log, &input, some(20)).unwrap();
    let (mut work, next) = open_work(&*log, &input);
    assert_eq!(next, 0);
    let mut finished = omnilink::log::Finished::from(20);
    finished.insert(25);
    work.commit(0, &finished).unwrap();
    drop(work);
    let (mut work, next) = open_work(&*log, &input);
    assert_eq!(next, 20);
    kafka.recreate_topic(&*log, &input, 1);
    append(&*log, &input, some(40)).unwrap();
    let error = wait_for_error(|| {
        let mut out = Vec::new();
        work.poll(Duration::from_millis(100), &mut out)?;
        Ok((!out.is_empty()).then_some(out.len()))
    });
    assert!(
        matches!(
            error,
            LogError::Recreated { .. } | LogError::UnknownTopic(_)
        ),
        "{error}"
    );
    drop(work);
    let (mut work, next) = open_work(&*log, &input);
    assert_eq!(next, 0);
    // It is reported only once.
    work.commit(0, &omnilink::log::Finished::from(5)).unwrap();
    drop(work);
    kafka.delete_records_before(&input, 0, 30);
    let (work, next) = open_work(&*log, &input);
    assert_eq!(next, 30);
    assert_notice(&input, &["offsets 5 to 30", "call"]);
    drop(work);
    kafka.commit_offset(&format!("{}call", test_log.prefix), &input, 0, 90);
    let mut work = log.work("call", &input).unwrap();
    let error =
        wait_for_error(
            || match work.poll(Duration::from_millis(100), &mut Vec::new())? {
                Polled::Assigned(partitions) if !partitions.is_empty() => work.open(0).map(Some),
                _ => Ok(None),
            },
        );
    assert!(
        matches!(
            error,
            LogError::LostEnd {
                position: 90,
                end: 40,
                ..
            }
        ),
        "{error}"
    );
}

fn start_admission(test_log: &TestLog, log: &Arc<dyn Log>) -> lane::Running {
    let names = Names::new(&test_log.prefix);
    let admission = Admission::new(&names, PARTITIONS, 3_600_000, false);
    test_log.start_lane(log, admission, &Arc::default())
}

fn envelope(n: usize) -> Record {
    let text = format!(
        r#"{{"specversion":"1.0","id":"{n}","source":"/shop","type":"order.paid","entitytype":"order","entityid":"{n}","data":{{"n":{n}}}}}"#
    );
    let mut record = record("x", &text);
    record.headers = vec![("omnilink-tenant".into(), Some("acme".into()))];
    record
}

/// Partitions added to `ingress` from outside are not used, and records that others write to them are forwarded.
#[test]
fn partitions_added_to_a_system_topic_are_reported_and_forwarded() {
    let Some(test_log) = TestLog::new(LogKind::Kafka) else {
        return;
    };
    let kafka = test_log.kafka_admin();
    let names = Names::new(&test_log.prefix);
    let specs = names.specs(PARTITIONS);
    let open = |node: &str| {
        let log = test_log.open(node);
        log.provision(&specs, true).unwrap();
        log
    };
    let log = open("a");
    let running = start_admission(&test_log, &log);
    append(&*log, &names.ingress, (0..10).map(envelope).collect()).unwrap();
    assert_eq!(read_all(&*log, &names.events, 10).len(), 10);
    kafka.add_partitions(&names.ingress, 4);
    let reported = |log: &dyn Log| {
        let troubles = log.troubles().join("; ");
        troubles.contains(&*names.ingress) && troubles.contains("do not set topics.partitions to 4")
    };
    wait_until("the trouble", || reported(&*log));
    // Records from others in all partitions, and from our own producer.
    let sent: Vec<(i32, Record)> = (10..50).map(|n| ((n % 4) as i32, envelope(n))).collect();
    kafka.send(&names.ingress, &sent);
    append(&*log, &names.ingress, (50..60).map(envelope).collect()).unwrap();
    let received = |log: &dyn Log, at_least: usize| {
        let mut ids: Vec<u64> = read_all(log, &names.events, at_least)
            .iter()
            .map(|f| {
                let (event, _) = avro::decode_event(f.record.value.as_ref().unwrap()).unwrap();
                event.id.parse().unwrap()
            })
            .collect();
        ids.sort_unstable();
        ids
    };
    wait_until("all events", || received(&*log, 60).len() >= 60);
    assert_eq!(received(&*log, 60), (0..60).collect::<Vec<_>>());
    // Each record is forwarded at most once.
    let written: u64 = (0..4)
        .map(|partition| log.offset_range(&names.ingress, partition).unwrap().end)
        .sum();
    assert!(written < 250, "{written} offsets of `ingress`");
    drop(running);
    drop(log);
    // The same at a start, with a duplicate.
    kafka.send(
        &names.ingress,
        &[(3, envelope(60)), (2, envelope(61)), (3, envelope(11))],
    );
    let log = open("a");
    let running = start_admission(&test_log, &log);
    wait_until("the rest", || received(&*log, 62).len() >= 62);
    assert_eq!(received(&*log, 62), (0..62).collect::<Vec<_>>());
    wait_until("the trouble", || reported(&*log));
    let surveyed = omnilink::log::survey(&*log, &specs).unwrap();
    let ingress = surveyed.iter().find(|s| s.name == *names.ingress).unwrap();
    assert_eq!(ingress.partitions, Some(4));
    assert!(ingress.trouble.is_some() && !ingress.stalls, "{ingress:?}");
    drop(running);
    drop(log);
    // If all topics have that many partitions, the configuration is wrong.
    for spec in &specs {
        if spec.partitions == PARTITIONS && spec.name != names.ingress {
            kafka.add_partitions(&spec.name, 4);
        }
    }
    let error = test_log.open("a").provision(&specs, true).unwrap_err();
    assert!(
        error.to_string().contains("set topics.partitions to 4"),
        "{error}"
    );
}

/// A record of `events`.
fn admitted(n: usize) -> Record {
    let event = event(n, &format!("o{}", n % 5));
    let mut value = Vec::new();
    avro::encode_event(&event, SystemClock.now(), &mut value);
    Record {
        key: Some(event.record_key().into()),
        value: Some(value.into()),
        headers: Vec::new(),
    }
}

#[test]
fn tables_of_a_recreated_topic_are_kept_until_a_rebuild() {
    let (Some(test_log), Some(database)) = (TestLog::new(LogKind::Kafka), Database::new()) else {
        return;
    };
    let kafka = test_log.kafka_admin();
    let names = Names::new(&test_log.prefix);
    let log = test_log.open("a");
    log.provision(&names.specs(PARTITIONS), true).unwrap();
    let send = |from: usize, to: usize| {
        append(&*log, &names.events, (from..to).map(admitted).collect()).unwrap();
    };
    let rows = || database.number("SELECT count(*) FROM omnilink.events");
    let progress = Arc::<Progress>::default();
    let setup = omnilink::projections::Setup {
        store: database.store(),
        log: Arc::clone(&log),
        topic: Arc::clone(&names.events),
        dlq: Arc::clone(&names.dlq),
        clock: Arc::new(SystemClock),
        runtime: database.runtime.handle().clone(),
        progress: Arc::clone(&progress),
    };
    let projector = Projector::start(&setup, 1).unwrap();
    send(0, 30);
    wait_until("30 rows", || rows() == 30);
    // The new topic is longer than the position in the old one.
    kafka.recreate_topic(&*log, &names.events, PARTITIONS as i32);
    send(100, 300);
    let stalls = || {
        let trouble = progress.trouble().unwrap_or_default();
        trouble.contains("recreated") && trouble.contains("omnilink rebuild events entities")
    };
    wait_until("the stall", stalls);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(rows(), 30);
    drop(projector);
    let projector = Projector::start(&setup, 1).unwrap();
    wait_until("the stall after a restart", stalls);
    assert_eq!(rows(), 30);
    let only = RebuildTables {
        events: true,
        entities: false,
    };
    let error = rebuild(&setup, only, &mut |_, _| ()).unwrap_err();
    assert!(error.to_string().contains("recreated"), "{error}");
    let all = RebuildTables {
        events: true,
        entities: true,
    };
    rebuild(&setup, all, &mut |_, _| ()).unwrap();
    wait_until("200 rows", || rows() == 200);
    wait_until("no stall", || progress.trouble().is_none());
    send(300, 310);
    wait_until("210 rows", || rows() == 210);
    drop(projector);
    // After retention in `events` the projector continues and reports it.
    send(310, 340);
    for partition in 0..PARTITIONS {
        let end = log.offset_range(&names.events, partition).unwrap().end;
        kafka.delete_records_before(&names.events, partition as i32, end as i64);
    }
    send(340, 350);
    let _projector = Projector::start(&setup, 1).unwrap();
    wait_until("220 rows", || rows() == 220);
    assert_notice(&names.events, &["retention", PROJECTION]);
}

#[test]
fn the_index_of_a_recreated_topic_is_rebuilt() {
    let Some(test_log) = TestLog::new(LogKind::Kafka) else {
        return;
    };
    let kafka = test_log.kafka_admin();
    let names = Names::new(&test_log.prefix);
    let log = test_log.open("a");
    log.provision(&names.specs(1), true).unwrap();
    let history = History {
        log: &*log,
        names: &names,
        index_dir: test_log.dir.path().join("index"),
    };
    let file = history.index_dir.join(format!("{}-0.index", names.events));
    let header = || std::fs::read(&file).unwrap()[..16].to_vec();
    let query = Query {
        tenant: Some(event(0, "o").tenant),
        ..Query::default()
    };
    let read = || {
        let mut sink = Lines::new(Vec::new(), &names.events);
        replay(&history, &query, &mut sink, &mut |_| true)
            .unwrap()
            .events
    };
    append(&*log, &names.events, (0..3).map(admitted).collect()).unwrap();
    assert_eq!(read(), 3);
    let before = header();
    assert_eq!(read(), 3);
    assert_eq!(header(), before);
    kafka.recreate_topic(&*log, &names.events, 1);
    append(&*log, &names.events, (0..5).map(admitted).collect()).unwrap();
    assert_eq!(read(), 5);
    assert_ne!(header(), before);
}
