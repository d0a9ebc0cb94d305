//! The conformance suite that every log must pass, run against the embedded log, the log in memory, and Kafka. The log in memory
//! keeps every record, so compaction and retention do not apply to it.

use std::time::{Duration, Instant};

use omnilink::{
    base::clock::{Clock, SystemClock},
    log::{
        Class, Cleanup, LogError, OffsetRange, Output, Record, Transaction, partition_for,
        read_ranges, survey,
    },
    state::{Changes, Space},
};

use crate::support::{
    LogKind, TestLog, append, output, poll_records, read_all, record, value, wait_for_assignment,
};

macro_rules! on_all_logs {
    ($($name:ident),* ; $($drops:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $name() { super::$name(super::TestLog::new(super::LogKind::Memory).unwrap()); })*
        }
        on_both_logs!($($name,)* $($drops,)*);
    };
}

macro_rules! on_both_logs {
    ($($name:ident),* $(,)?) => {
        mod local {
            $(#[test] fn $name() { super::$name(super::TestLog::new(super::LogKind::Local).unwrap()); })*
        }
        mod kafka {
            $(#[test] fn $name() { if let Some(test_log) = super::TestLog::new(super::LogKind::Kafka) { super::$name(test_log); } })*
        }
        /// A broker that requires SASL_SSL, to which only `kafka.properties` give access.
        mod kafka_sasl {
            $(#[test] fn $name() { if let Some(test_log) = super::TestLog::sasl() { super::$name(test_log); } })*
        }
    };
}

on_all_logs!(
    records_of_a_key_keep_their_order_and_partition,
    tombstones_and_headers_are_kept,
    records_may_name_their_partition,
    a_transaction_is_atomic_and_a_lane_resumes_after_it,
    uncommitted_records_are_never_read,
    a_lane_is_read_to_its_end_though_markers_follow_its_records,
    a_stale_owner_is_fenced,
    state_is_restored,
    offsets_are_found_by_time,
    a_reader_seeks_and_reports_its_end,
    committed_positions_of_all_partitions,
    cleanup_policies_are_described_and_surveyed,
    topics_are_created_and_checked;
    compaction_keeps_the_last_record_of_a_key,
    retention_deletes_old_records,
);

fn records_of_a_key_keep_their_order_and_partition(test_log: TestLog) {
    let log = test_log.open("a");
    log.provision(&[test_log.spec("in", 4, Cleanup::Keep)], true)
        .unwrap();
    let topic = test_log.topic("in");
    let keys = ["alpha", "beta", "gamma", "delta", "eps"];
    let mut expected = vec![Vec::new(); 4];
    for n in 0..40 {
        let key = keys[n % keys.len()];
        let positions = append(
            &*log,
            &topic,
            vec![record(key, &n.to_string()), record(key, &format!("{n}b"))],
        )
        .unwrap();
        let partition = partition_for(key.as_bytes(), 4);
        assert_eq!(positions[0].partition, partition);
        assert_eq!(positions[1].offset, positions[0].offset + 1);
        expected[partition as usize].extend([n.to_string(), format!("{n}b")]);
    }
    let all = read_all(&*log, &topic, 80);
    for (partition, values) in expected.into_iter().enumerate() {
        let got: Vec<_> = all
            .iter()
            .filter(|f| f.partition as usize == partition)
            .map(value)
            .collect();
        assert_eq!(got, values);
    }
    let marks = log
        .offset_range(&topic, partition_for(b"alpha", 4))
        .unwrap();
    assert_eq!(marks.start, 0);
    assert!(marks.end >= 16);
}

fn records_may_name_their_partition(test_log: TestLog) {
    let log = test_log.open("a");
    log.provision(&[test_log.spec("in", 4, Cleanup::Keep)], true)
        .unwrap();
    let topic = test_log.topic("in");
    let to = |partition: Option<u32>, value: &str| Output {
        partition,
        ..output(&topic, record("k", value))
    };
    let append = |records| log.append_to(records, None).blocking_recv().unwrap();
    // The first call may come before the log knows the topic's partitions.
    let records = (0..4).rev().map(|p| to(Some(p), &format!("to {p}")));
    let at = append(records.chain([to(None, "by key")]).collect()).unwrap();
    let partitions: Vec<_> = at.iter().map(|at| at.partition).collect();
    let by_key = partition_for(b"k", 4);
    assert_eq!(partitions, [3, 2, 1, 0, by_key]);
    for p in 0..4 {
        let missing = append(vec![to(Some(4 + p), "nowhere")]).unwrap_err();
        assert!(matches!(missing, LogError::UnknownTopic(_)), "{missing}");
    }
    let all = read_all(&*log, &topic, 5);
    assert_eq!(all.len(), 5);
    for fetched in &all {
        let expected = format!("to {}", fetched.partition);
        assert!(value(fetched) == expected || fetched.partition == by_key);
    }
}

fn tombstones_and_headers_are_kept(test_log: TestLog) {
    let log = test_log.open("a");
    log.provision(&[test_log.spec("in", 1, Cleanup::Keep)], true)
        .unwrap();
    let topic = test_log.topic("in");
    let sent = Record {
        key: Some("k".into()),
        value: None,
        headers: vec![
            ("a".into(), Some("1".into())),
            ("a".into(), None),
            ("b".into(), Some("".into())),
        ],
    };
    let keyless = Record {
        key: None,
        value: Some("".into()),
        headers: vec![],
    };
    append(&*log, &topic, vec![sent.clone(), keyless.clone()]).unwrap();
    let all = read_all(&*log, &topic, 2);
    assert_eq!(all[0].record, sent);
    assert_eq!(all[1].record, keyless);
    let age = SystemClock.now().0 - all[0].timestamp.0;
    assert!(
        (-1000..60_000).contains(&age),
        "append time is now, not {age} ms ago"
    );
}

fn a_transaction_is_atomic_and_a_lane_resumes_after_it(test_log: TestLog) {
    let log = test_log.open("a");
    let specs = [
        test_log.spec("in", 2, Cleanup::Keep),
        test_log.spec("out", 2, Cleanup::Keep),
        test_log.spec("state.p", 2, Cleanup::Compact),
    ];
    log.provision(&specs, true).unwrap();
    let (input, out) = (test_log.topic("in"), test_log.topic("out"));
    for n in 0..10 {
        append(&*log, &input, vec![record(&n.to_string(), &n.to_string())]).unwrap();
    }
    let mut lane = log.lane("p", std::slice::from_ref(&input)).unwrap();
    wait_for_assignment(&mut *lane);
    let taken = poll_records(&mut *lane, 10);
    let first: Vec<_> = taken.iter().filter(|f| f.partition == 0).collect();
    let mut state = Changes::default();
    let space = Space::new("p", 0);
    state.put(&space, "count", first.len().to_string());
    let next = first.last().unwrap().offset + 1;
    lane.commit(Transaction {
        outputs: first
            .iter()
            .map(|f| output(&out, f.record.clone()))
            .collect(),
        state,
        positions: vec![(0, 0, next)],
    })
    .unwrap();
    assert_eq!(read_all(&*log, &out, first.len()).len(), first.len());
    drop(lane);
    assert_eq!(log.committed("p", &input, 0).unwrap(), Some(next));
    assert_eq!(log.committed("p", &input, 1).unwrap(), None);
    drop(log);
    let log = test_log.open("a");
    let mut lane = log.lane("p", std::slice::from_ref(&input)).unwrap();
    let opened = wait_for_assignment(&mut *lane);
    assert!(opened.contains(&(0, 0, next)), "{opened:?}");
    assert_eq!(
        lane.state().get(&space, b"count").unwrap().unwrap(),
        first.len().to_string()
    );
    // The other partition was not committed: only it is read again.
    let again = poll_records(&mut *lane, 10 - first.len());
    assert!(again.iter().all(|f| f.partition == 1));
}

fn uncommitted_records_are_never_read(test_log: TestLog) {
    let log = test_log.open("a");
    log.provision(
        &[
            test_log.spec("in", 1, Cleanup::Keep),
            test_log.spec("out", 1, Cleanup::Keep),
        ],
        true,
    )
    .unwrap();
    let (input, out) = (test_log.topic("in"), test_log.topic("out"));
    append(&*log, &input, vec![record("k", "1")]).unwrap();
    let mut lane = log.lane("p", std::slice::from_ref(&input)).unwrap();
    wait_for_assignment(&mut *lane);
    poll_records(&mut *lane, 1);
    // One output goes to a topic that does not exist: no output of the transaction may be read.
    let failed = lane.commit(Transaction {
        outputs: vec![
            output(&out, record("k", "half")),
            output(&test_log.topic("nowhere"), record("k", "x")),
        ],
        state: Changes::default(),
        positions: vec![(0, 0, 1)],
    });
    assert!(failed.is_err());
    drop(lane);
    assert!(read_all(&*log, &out, 0).is_empty());
    assert_eq!(log.committed("p", &input, 0).unwrap(), None);
    append(&*log, &out, vec![record("k", "whole")]).unwrap();
    let all = read_all(&*log, &out, 1);
    assert_eq!(all.iter().map(value).collect::<Vec<_>>(), ["whole"]);
}

/// On Kafka the marker of a transaction is an offset without a record.
fn a_lane_is_read_to_its_end_though_markers_follow_its_records(test_log: TestLog) {
    let log = test_log.open("a");
    let specs = [
        test_log.spec("in", 1, Cleanup::Keep),
        test_log.spec("out", 1, Cleanup::Keep),
    ];
    log.provision(&specs, true).unwrap();
    let (input, out) = (test_log.topic("in"), test_log.topic("out"));
    append(&*log, &input, vec![record("k", "1")]).unwrap();
    let mut writer = log.lane("writer", std::slice::from_ref(&input)).unwrap();
    wait_for_assignment(&mut *writer);
    poll_records(&mut *writer, 1);
    writer
        .commit(Transaction {
            outputs: vec![output(&out, record("k", "2"))],
            state: Changes::default(),
            positions: vec![(0, 0, 1)],
        })
        .unwrap();

    let mut lane = log.lane("p", std::slice::from_ref(&out)).unwrap();
    wait_for_assignment(&mut *lane);
    assert_eq!(lane.handed_out(0, 0).unwrap(), 0);
    let end = lane.offset_range(0, 0).unwrap().end;
    let taken = poll_records(&mut *lane, 1);
    let next = taken[0].offset + 1;
    let deadline = Instant::now() + Duration::from_secs(20);
    while lane.handed_out(0, 0).unwrap() < end {
        assert!(Instant::now() < deadline, "not read to {end} within 20 s");
        let mut more = Vec::new();
        lane.poll(Duration::from_millis(50), &mut more).unwrap();
        assert!(more.is_empty());
    }
    // Kafka's end has no record: only it has to be asked.
    if next < end {
        let range = |start| OffsetRange { start, end };
        assert!(lane.is_empty(0, 0, range(next)).unwrap());
        assert!(!lane.is_empty(0, 0, range(0)).unwrap());
    }
    // Read again from a position, it is not at its end until its record came again.
    lane.seek(0, 0, 0).unwrap();
    assert_eq!(lane.handed_out(0, 0).unwrap(), 0);
    assert_eq!(poll_records(&mut *lane, 1)[0].offset, taken[0].offset);
}

fn a_stale_owner_is_fenced(test_log: TestLog) {
    let log = test_log.open("a");
    log.provision(
        &[
            test_log.spec("in", 1, Cleanup::Keep),
            test_log.spec("out", 1, Cleanup::Keep),
        ],
        true,
    )
    .unwrap();
    let (input, out) = (test_log.topic("in"), test_log.topic("out"));
    append(&*log, &input, vec![record("k", "1")]).unwrap();
    let mut zombie = log.lane("p", std::slice::from_ref(&input)).unwrap();
    wait_for_assignment(&mut *zombie);
    poll_records(&mut *zombie, 1);
    let other = match test_log.kind {
        LogKind::Local | LogKind::Memory => None,
        // The same node is started again while the first one still runs.
        LogKind::Kafka => Some(test_log.open_in("a", &test_log.dir.path().join("again"))),
    };
    let mut new_owner = other
        .as_ref()
        .unwrap_or(&log)
        .lane("p", std::slice::from_ref(&input))
        .unwrap();
    let error = zombie
        .commit(Transaction {
            outputs: vec![output(&out, record("k", "zombie"))],
            state: Changes::default(),
            positions: vec![(0, 0, 1)],
        })
        .unwrap_err();
    assert_eq!(error.class(), Class::Fatal, "{error}");
    drop(zombie);
    wait_for_assignment(&mut *new_owner);
    poll_records(&mut *new_owner, 1);
    new_owner
        .commit(Transaction {
            outputs: vec![output(&out, record("k", "heir"))],
            state: Changes::default(),
            positions: vec![(0, 0, 1)],
        })
        .unwrap();
    let all = read_all(&*log, &out, 1);
    assert_eq!(all.iter().map(value).collect::<Vec<_>>(), ["heir"]);
}

fn state_is_restored(test_log: TestLog) {
    let log = test_log.open("a");
    let specs = [
        test_log.spec("in", 2, Cleanup::Keep),
        test_log.spec("state.p", 2, Cleanup::Compact),
    ];
    log.provision(&specs, true).unwrap();
    let input = test_log.topic("in");
    for n in 0..6 {
        append(&*log, &input, vec![record(&n.to_string(), "x")]).unwrap();
    }
    let mut lane = log.lane("p", std::slice::from_ref(&input)).unwrap();
    wait_for_assignment(&mut *lane);
    let space = Space::new("p", 1);
    let taken = poll_records(&mut *lane, 6);
    let next = taken
        .iter()
        .filter(|f| f.partition == 1)
        .map(|f| f.offset + 1)
        .max()
        .unwrap();
    for n in 0..3 {
        let mut state = Changes::default();
        state.put(&space, "kept", n.to_string());
        state.put(&space, format!("dropped{n}"), "x");
        if n > 0 {
            state.delete(&space, format!("dropped{}", n - 1));
        }
        state.upkeep(&space, "here", Some("only".into()));
        lane.commit(Transaction {
            outputs: vec![],
            state,
            positions: vec![(0, 1, next)],
        })
        .unwrap();
    }
    drop(lane);
    drop(log);
    // Another node with an empty directory; on the embedded log the same node.
    let log = test_log.open("b");
    let mut lane = log.lane("p", std::slice::from_ref(&input)).unwrap();
    let opened = wait_for_assignment(&mut *lane);
    assert!(opened.contains(&(0, 1, next)));
    let get = |key: &str| lane.state().get(&space, key.as_bytes()).unwrap();
    assert_eq!(get("kept").unwrap(), "2");
    assert_eq!(get("dropped0"), None);
    assert_eq!(get("dropped1"), None);
    assert_eq!(get("dropped2").unwrap(), "x");
    assert_eq!(get("here").is_some(), test_log.kind == LogKind::Local);
}

fn offsets_are_found_by_time(test_log: TestLog) {
    let log = test_log.open("a");
    log.provision(&[test_log.spec("in", 1, Cleanup::Keep)], true)
        .unwrap();
    let topic = test_log.topic("in");
    for n in 0..5 {
        append(&*log, &topic, vec![record("k", &n.to_string())]).unwrap();
        std::thread::sleep(Duration::from_millis(15));
    }
    let all = read_all(&*log, &topic, 5);
    for fetched in &all {
        assert_eq!(
            log.offset_at(&topic, 0, fetched.timestamp).unwrap(),
            fetched.offset
        );
    }
    assert_eq!(
        log.offset_at(&topic, 0, omnilink::base::clock::Millis(0))
            .unwrap(),
        0
    );
    let later = omnilink::base::clock::Millis(all[4].timestamp.0 + 1);
    assert_eq!(log.offset_at(&topic, 0, later).unwrap(), 5);
}

fn a_reader_seeks_and_reports_its_end(test_log: TestLog) {
    let log = test_log.open("a");
    log.provision(&[test_log.spec("in", 1, Cleanup::Keep)], true)
        .unwrap();
    let topic = test_log.topic("in");
    let records = (0..3_000).map(|n| record("k", &n.to_string())).collect();
    append(&*log, &topic, records).unwrap();
    let mut reader = log.reader(&topic).unwrap();
    let mut read = |from: u64, to: u64| {
        let mut values = Vec::new();
        read_ranges(&mut *reader, &[(0, from, to)], |fetched| {
            values.push(value(&fetched));
            Ok(())
        })
        .unwrap();
        values
    };
    // Forwards, backwards, over ranges already read, and beyond the end.
    for (from, to) in [(10, 20), (2_990, 3_100), (5, 6), (0, 3_000), (1_500, 1_600)] {
        let expected: Vec<_> = (from..to.min(3_000)).map(|n| n.to_string()).collect();
        assert_eq!(read(from, to), expected, "{from} to {to}");
    }
    assert!(read(7, 7).is_empty());
    let mut out = Vec::new();
    reader.assign(0, 2_999).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !reader.at_end(0) {
        assert!(Instant::now() < deadline);
        reader.poll(Duration::from_millis(50), &mut out).unwrap();
    }
    assert_eq!(out.len(), 1);
    append(&*log, &topic, vec![record("k", "more")]).unwrap();
    while out.len() < 2 {
        assert!(Instant::now() < deadline);
        reader.poll(Duration::from_millis(50), &mut out).unwrap();
    }
    assert_eq!(value(&out[1]), "more");
}

fn committed_positions_of_all_partitions(test_log: TestLog) {
    let log = test_log.open("a");
    log.provision(&[test_log.spec("in", 3, Cleanup::Keep)], true)
        .unwrap();
    let input = test_log.topic("in");
    for n in 0..20 {
        append(&*log, &input, vec![record(&n.to_string(), "x")]).unwrap();
    }
    assert_eq!(log.positions("p", &input).unwrap(), [None, None, None]);
    let mut lane = log.lane("p", std::slice::from_ref(&input)).unwrap();
    wait_for_assignment(&mut *lane);
    poll_records(&mut *lane, 20);
    lane.commit(Transaction {
        positions: vec![(0, 2, 1)],
        ..Transaction::default()
    })
    .unwrap();
    assert_eq!(log.positions("p", &input).unwrap(), [None, None, Some(1)]);
}

fn cleanup_policies_are_described_and_surveyed(test_log: TestLog) {
    let log = test_log.open("a");
    let policies = [
        ("keep", Cleanup::Keep),
        (
            "delete",
            Cleanup::Delete {
                retention_ms: 5_000,
            },
        ),
        ("compact", Cleanup::Compact),
        (
            "both",
            Cleanup::CompactDelete {
                retention_ms: 7_000,
            },
        ),
    ];
    let specs: Vec<_> = policies
        .iter()
        .map(|(name, cleanup)| test_log.spec(name, 1, *cleanup))
        .collect();
    assert!(
        survey(&*log, &specs)
            .unwrap()
            .iter()
            .all(|t| t.trouble.is_some())
    );
    log.provision(&specs, true).unwrap();
    for (name, cleanup) in policies {
        assert_eq!(
            log.cleanup(&test_log.topic(name)).unwrap(),
            Some(cleanup),
            "{name}"
        );
    }
    append(&*log, &test_log.topic("keep"), vec![record("k", "v")]).unwrap();
    let found = survey(&*log, &specs).unwrap();
    assert!(found.iter().all(|t| t.trouble.is_none()), "{found:?}");
    assert_eq!((found[0].records, found[0].partitions), (1, Some(1)));
    let mut other = specs.clone();
    other[0].partitions = 2;
    other[1].cleanup = Cleanup::Keep;
    let found = survey(&*log, &other).unwrap();
    assert!(found[0].trouble.as_ref().unwrap().contains("partitions"));
    assert!(
        found[1]
            .trouble
            .as_ref()
            .unwrap()
            .contains("should be: keep")
    );
}

fn topics_are_created_and_checked(test_log: TestLog) {
    let log = test_log.open("a");
    let spec = test_log.spec("in", 3, Cleanup::Keep);
    assert!(matches!(
        log.provision(std::slice::from_ref(&spec), false),
        Err(LogError::UnknownTopic(_))
    ));
    log.provision(std::slice::from_ref(&spec), true).unwrap();
    log.provision(std::slice::from_ref(&spec), false).unwrap();
    assert_eq!(log.partitions(&spec.name).unwrap(), 3);
    let other = test_log.spec("in", 4, Cleanup::Keep);
    let error = log.provision(&[other], true).unwrap_err();
    assert!(
        matches!(
            error,
            LogError::PartitionCount {
                expected: 4,
                found: 3,
                ..
            }
        ),
        "{error}"
    );
}

fn compaction_keeps_the_last_record_of_a_key(test_log: TestLog) {
    let log = test_log.open("a");
    log.provision(&[test_log.spec("c", 1, Cleanup::Compact)], true)
        .unwrap();
    let topic = test_log.topic("c");
    eager_cleaning(
        &test_log,
        &topic,
        &[
            ("cleanup.policy", "compact"),
            ("message.timestamp.type", "LogAppendTime"),
            ("min.cleanable.dirty.ratio", "0.01"),
            ("segment.ms", "200"),
        ],
    );
    for n in 0..30 {
        append(
            &*log,
            &topic,
            vec![record(&format!("k{}", n % 3), &n.to_string())],
        )
        .unwrap();
    }
    std::thread::sleep(Duration::from_millis(300));
    append(&*log, &topic, vec![record("last", "x")]).unwrap();
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        log.tidy().unwrap();
        let all = read_all(&*log, &topic, 4);
        let values: Vec<_> = all.iter().map(value).collect();
        // Offsets do not change.
        assert!(
            all.iter()
                .all(|f| f.offset == 30 || f.offset.to_string() == value(f))
        );
        if values == ["27", "28", "29", "x"] {
            break;
        }
        assert!(Instant::now() < deadline, "still {values:?}");
    }
    let positions = append(&*log, &topic, vec![record("more", "y")]).unwrap();
    assert_eq!(positions[0].offset, 31);
}

fn retention_deletes_old_records(test_log: TestLog) {
    let log = test_log.open("a");
    let spec = test_log.spec("r", 1, Cleanup::Delete { retention_ms: 300 });
    log.provision(std::slice::from_ref(&spec), true).unwrap();
    let topic = test_log.topic("r");
    eager_cleaning(
        &test_log,
        &topic,
        &[
            ("cleanup.policy", "delete"),
            ("retention.ms", "300"),
            ("segment.ms", "100"),
        ],
    );
    for n in 0..10 {
        append(&*log, &topic, vec![record("k", &n.to_string())]).unwrap();
    }
    std::thread::sleep(Duration::from_millis(700));
    append(&*log, &topic, vec![record("k", "new")]).unwrap();
    let deadline = Instant::now() + Duration::from_mins(1);
    while log.offset_range(&topic, 0).unwrap().start == 0 {
        log.tidy().unwrap();
        assert!(Instant::now() < deadline, "nothing was dropped");
        std::thread::sleep(Duration::from_millis(300));
    }
    // Opening a source at an offset outside the log is an error.
    let start = log.offset_range(&topic, 0).unwrap().start;
    let mut source = log.source("s", &topic).unwrap();
    let mut out = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !matches!(source.poll(Duration::from_millis(100), &mut out).unwrap(), omnilink::log::Polled::Assigned(p) if !p.is_empty())
    {
        assert!(Instant::now() < deadline);
    }
    assert!(matches!(
        source.open(0, 0),
        Err(LogError::OutOfRange { .. })
    ));
    assert!(matches!(
        source.open(0, 99),
        Err(LogError::OutOfRange { .. })
    ));
    source.open(0, start).unwrap();
}

/// On Kafka, makes the cleaner run early (these settings replace all others of the topic); the embedded log is cleaned by `tidy`.
fn eager_cleaning(test_log: &TestLog, topic: &str, settings: &[(&str, &str)]) {
    if test_log.kind == LogKind::Kafka {
        test_log.alter_topic(topic, settings);
    }
}
