//! What every log must do: one suite, run against the embedded log, the log in memory, and Kafka. The log in memory keeps every record, so
//! that compaction and retention are not asked of it.

use std::time::{Duration, Instant};

use omnilink::{
    base::clock::{Clock, SystemClock},
    log::{Class, Cleanup, LogError, Record, Transaction, partition_for, read_ranges, survey},
    state::{Changes, Space},
};

use crate::support::{Bed, Kind, append, output, read_all, record, settle, take, value};

macro_rules! on_all {
    ($($name:ident),* ; $($drops:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $name() { super::$name(super::Bed::new(super::Kind::Memory).unwrap()); })*
        }
        on_both!($($name,)* $($drops,)*);
    };
}

macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod local {
            $(#[test] fn $name() { super::$name(super::Bed::new(super::Kind::Local).unwrap()); })*
        }
        mod kafka {
            $(#[test] fn $name() { if let Some(bed) = super::Bed::new(super::Kind::Kafka) { super::$name(bed); } })*
        }
        /// A broker that demands SASL_SSL: what reaches it goes through `kafka.properties` alone.
        mod kafka_sasl {
            $(#[test] fn $name() { if let Some(bed) = super::Bed::sasl() { super::$name(bed); } })*
        }
    };
}

on_all!(
    order_and_partition_of_keys,
    tombstones_and_headers,
    transaction_is_atomic_and_resumes,
    uncommitted_is_never_seen,
    stale_owner_is_fenced,
    state_comes_back,
    positions_by_time,
    a_reader_seeks_and_knows_its_end,
    committed_positions_of_all_partitions,
    policies_are_told,
    topics_are_made_and_checked;
    compaction_keeps_the_last,
    retention_drops_the_old,
);

fn order_and_partition_of_keys(bed: Bed) {
    let log = bed.open("a");
    log.provision(&[bed.spec("in", 4, Cleanup::Keep)], true)
        .unwrap();
    let topic = bed.topic("in");
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

fn tombstones_and_headers(bed: Bed) {
    let log = bed.open("a");
    log.provision(&[bed.spec("in", 1, Cleanup::Keep)], true)
        .unwrap();
    let topic = bed.topic("in");
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

fn transaction_is_atomic_and_resumes(bed: Bed) {
    let log = bed.open("a");
    let specs = [
        bed.spec("in", 2, Cleanup::Keep),
        bed.spec("out", 2, Cleanup::Keep),
        bed.spec("state.p", 2, Cleanup::Compact),
    ];
    log.provision(&specs, true).unwrap();
    let (input, out) = (bed.topic("in"), bed.topic("out"));
    for n in 0..10 {
        append(&*log, &input, vec![record(&n.to_string(), &n.to_string())]).unwrap();
    }
    let mut lane = log.lane("p", std::slice::from_ref(&input)).unwrap();
    settle(&mut *lane);
    let taken = take(&mut *lane, 10);
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
    let log = bed.open("a");
    let mut lane = log.lane("p", std::slice::from_ref(&input)).unwrap();
    let opened = settle(&mut *lane);
    assert!(opened.contains(&(0, 0, next)), "{opened:?}");
    assert_eq!(
        lane.state().get(&space, b"count").unwrap().unwrap(),
        first.len().to_string()
    );
    // The other partition was not committed: it comes again, the first does not.
    let again = take(&mut *lane, 10 - first.len());
    assert!(again.iter().all(|f| f.partition == 1));
}

fn uncommitted_is_never_seen(bed: Bed) {
    let log = bed.open("a");
    log.provision(
        &[
            bed.spec("in", 1, Cleanup::Keep),
            bed.spec("out", 1, Cleanup::Keep),
        ],
        true,
    )
    .unwrap();
    let (input, out) = (bed.topic("in"), bed.topic("out"));
    append(&*log, &input, vec![record("k", "1")]).unwrap();
    let mut lane = log.lane("p", std::slice::from_ref(&input)).unwrap();
    settle(&mut *lane);
    take(&mut *lane, 1);
    // One output goes to a topic that is not there: nothing of the transaction may be seen.
    let failed = lane.commit(Transaction {
        outputs: vec![
            output(&out, record("k", "half")),
            output(&bed.topic("nowhere"), record("k", "x")),
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

fn stale_owner_is_fenced(bed: Bed) {
    let log = bed.open("a");
    log.provision(
        &[
            bed.spec("in", 1, Cleanup::Keep),
            bed.spec("out", 1, Cleanup::Keep),
        ],
        true,
    )
    .unwrap();
    let (input, out) = (bed.topic("in"), bed.topic("out"));
    append(&*log, &input, vec![record("k", "1")]).unwrap();
    let mut zombie = log.lane("p", std::slice::from_ref(&input)).unwrap();
    settle(&mut *zombie);
    take(&mut *zombie, 1);
    let other = match bed.kind {
        Kind::Local | Kind::Memory => None,
        // The same node started again, while the first still runs.
        Kind::Kafka => Some(bed.open_in("a", &bed.dir.path().join("again"))),
    };
    let mut heir = other
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
    settle(&mut *heir);
    take(&mut *heir, 1);
    heir.commit(Transaction {
        outputs: vec![output(&out, record("k", "heir"))],
        state: Changes::default(),
        positions: vec![(0, 0, 1)],
    })
    .unwrap();
    let all = read_all(&*log, &out, 1);
    assert_eq!(all.iter().map(value).collect::<Vec<_>>(), ["heir"]);
}

fn state_comes_back(bed: Bed) {
    let log = bed.open("a");
    let specs = [
        bed.spec("in", 2, Cleanup::Keep),
        bed.spec("state.p", 2, Cleanup::Compact),
    ];
    log.provision(&specs, true).unwrap();
    let input = bed.topic("in");
    for n in 0..6 {
        append(&*log, &input, vec![record(&n.to_string(), "x")]).unwrap();
    }
    let mut lane = log.lane("p", std::slice::from_ref(&input)).unwrap();
    settle(&mut *lane);
    let space = Space::new("p", 1);
    let taken = take(&mut *lane, 6);
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
    // Another node with an empty disk; on the embedded log the same one.
    let log = bed.open("b");
    let mut lane = log.lane("p", std::slice::from_ref(&input)).unwrap();
    let opened = settle(&mut *lane);
    assert!(opened.contains(&(0, 1, next)));
    let get = |key: &str| lane.state().get(&space, key.as_bytes()).unwrap();
    assert_eq!(get("kept").unwrap(), "2");
    assert_eq!(get("dropped0"), None);
    assert_eq!(get("dropped1"), None);
    assert_eq!(get("dropped2").unwrap(), "x");
    assert_eq!(get("here").is_some(), bed.kind == Kind::Local);
}

fn positions_by_time(bed: Bed) {
    let log = bed.open("a");
    log.provision(&[bed.spec("in", 1, Cleanup::Keep)], true)
        .unwrap();
    let topic = bed.topic("in");
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

fn a_reader_seeks_and_knows_its_end(bed: Bed) {
    let log = bed.open("a");
    log.provision(&[bed.spec("in", 1, Cleanup::Keep)], true)
        .unwrap();
    let topic = bed.topic("in");
    let records = (0..3_000).map(|n| record("k", &n.to_string())).collect();
    append(&*log, &topic, records).unwrap();
    let mut reader = log.reader(&topic).unwrap();
    let mut stretch = |from: u64, to: u64| {
        let mut values = Vec::new();
        read_ranges(&mut *reader, &[(0, from, to)], |fetched| {
            values.push(value(&fetched));
            Ok(())
        })
        .unwrap();
        values
    };
    // Forwards, backwards, over what was read already, and beyond the end.
    for (from, to) in [(10, 20), (2_990, 3_100), (5, 6), (0, 3_000), (1_500, 1_600)] {
        let expected: Vec<_> = (from..to.min(3_000)).map(|n| n.to_string()).collect();
        assert_eq!(stretch(from, to), expected, "{from} to {to}");
    }
    assert!(stretch(7, 7).is_empty());
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

fn committed_positions_of_all_partitions(bed: Bed) {
    let log = bed.open("a");
    log.provision(&[bed.spec("in", 3, Cleanup::Keep)], true)
        .unwrap();
    let input = bed.topic("in");
    for n in 0..20 {
        append(&*log, &input, vec![record(&n.to_string(), "x")]).unwrap();
    }
    assert_eq!(log.positions("p", &input).unwrap(), [None, None, None]);
    let mut lane = log.lane("p", std::slice::from_ref(&input)).unwrap();
    settle(&mut *lane);
    take(&mut *lane, 20);
    lane.commit(Transaction {
        positions: vec![(0, 2, 1)],
        ..Transaction::default()
    })
    .unwrap();
    assert_eq!(log.positions("p", &input).unwrap(), [None, None, Some(1)]);
}

fn policies_are_told(bed: Bed) {
    let log = bed.open("a");
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
        .map(|(name, cleanup)| bed.spec(name, 1, *cleanup))
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
            log.cleanup(&bed.topic(name)).unwrap(),
            Some(cleanup),
            "{name}"
        );
    }
    append(&*log, &bed.topic("keep"), vec![record("k", "v")]).unwrap();
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

fn topics_are_made_and_checked(bed: Bed) {
    let log = bed.open("a");
    let spec = bed.spec("in", 3, Cleanup::Keep);
    assert!(matches!(
        log.provision(std::slice::from_ref(&spec), false),
        Err(LogError::UnknownTopic(_))
    ));
    log.provision(std::slice::from_ref(&spec), true).unwrap();
    log.provision(std::slice::from_ref(&spec), false).unwrap();
    assert_eq!(log.partitions(&spec.name).unwrap(), 3);
    let other = bed.spec("in", 4, Cleanup::Keep);
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

fn compaction_keeps_the_last(bed: Bed) {
    let log = bed.open("a");
    log.provision(&[bed.spec("c", 1, Cleanup::Compact)], true)
        .unwrap();
    let topic = bed.topic("c");
    eager_cleaning(
        &bed,
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
        // Offsets stay what they were.
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

fn retention_drops_the_old(bed: Bed) {
    let log = bed.open("a");
    let spec = bed.spec("r", 1, Cleanup::Delete { retention_ms: 300 });
    log.provision(std::slice::from_ref(&spec), true).unwrap();
    let topic = bed.topic("r");
    eager_cleaning(
        &bed,
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
    // What was dropped is skipped by whoever still asks for it, and an exact position there is refused.
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

/// On Kafka the cleaner is hurried (these settings replace all others of the topic); the embedded log is tidied by hand.
fn eager_cleaning(bed: &Bed, topic: &str, settings: &[(&str, &str)]) {
    if bed.kind == Kind::Kafka {
        bed.alter_topic(topic, settings);
    }
}
