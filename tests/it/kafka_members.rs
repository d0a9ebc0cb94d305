//! Consumer group members that replace each other on Kafka: the new owner sees all commits of the old one, and does not wait for
//! a member that is gone.

use std::time::{Duration, Instant};

use omnilink::{
    log::{Class, Cleanup, Lane, Log, LogError, Polled, Transaction},
    state::{Changes, Space},
};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::support::{LogKind, TestLog, append, poll_records, record, wait_for_assignment};

const WAIT: Duration = Duration::from_secs(20);
/// Less than the session timeout of 10 s: a member that has partitions before did not wait for it.
const BEFORE_SESSION_TIMEOUT: Duration = Duration::from_secs(8);

/// A log with the topic `in` and the changelog of the processor `p`.
fn test_log(partitions: u32) -> Option<TestLog> {
    let test_log = TestLog::new(LogKind::Kafka)?;
    let log = test_log.open("admin");
    let specs = [
        test_log.spec("in", partitions, Cleanup::Keep),
        test_log.spec("state.p", partitions, Cleanup::Compact),
    ];
    log.provision(&specs, true).unwrap();
    Some(test_log)
}

fn lane(test_log: &TestLog, log: &dyn Log) -> Box<dyn Lane> {
    log.lane("p", &[test_log.topic("in")]).unwrap()
}

/// Commits one transaction of a lane, with the position `next` and `key` = `value` in its state.
fn commit(lane: &mut dyn Lane, partition: u32, next: u64, value: &str) {
    let mut state = Changes::default();
    state.put(&Space::new("p", partition), "key", value.to_owned());
    lane.commit(Transaction {
        outputs: vec![],
        state,
        positions: vec![(0, partition, next)],
    })
    .unwrap();
}

fn state_value(lane: &dyn Lane, partition: u32) -> Option<String> {
    let value = lane
        .state()
        .get(&Space::new("p", partition), b"key")
        .unwrap();
    value.map(|v| String::from_utf8(v.to_vec()).unwrap())
}

/// A producer with an open transaction that has written `key` = `value` to the changelog.
fn open_transaction(test_log: &TestLog, id: &str, timeout: &str, value: &str) -> BaseProducer {
    let producer: BaseProducer = test_log
        .client()
        .set("transactional.id", id)
        .set("transaction.timeout.ms", timeout)
        .create()
        .unwrap();
    producer.init_transactions(WAIT).unwrap();
    producer.begin_transaction().unwrap();
    let changelog = test_log.topic("state.p");
    let record = BaseRecord::to(&changelog)
        .partition(0)
        .key("key")
        .payload(value);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(WAIT).unwrap();
    producer
}

/// Runs a lane on node `a` that commits once and stops.
fn previous_owner(test_log: &TestLog) {
    let log = test_log.open("a");
    append(&*log, &test_log.topic("in"), vec![record("k", "1")]).unwrap();
    let mut previous = lane(test_log, &*log);
    wait_for_assignment(&mut *previous);
    poll_records(&mut *previous, 1);
    commit(&mut *previous, 0, 1, "first");
}

#[test]
fn a_restore_waits_for_the_marker_of_the_last_commit() {
    let Some(test_log) = test_log(1) else { return };
    previous_owner(&test_log);
    // For readers of the changelog, this is a commit whose marker is late.
    let producer = open_transaction(&test_log, &test_log.topic("late"), "60000", "second");
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(4));
        producer.commit_transaction(WAIT).unwrap();
    });
    let log = test_log.open("b");
    let mut new_owner = lane(&test_log, &*log);
    wait_for_assignment(&mut *new_owner);
    assert_eq!(state_value(&*new_owner, 0).as_deref(), Some("second"));
    late.join().unwrap();
}

#[test]
fn a_restore_names_an_open_transaction() {
    let Some(test_log) = test_log(1) else { return };
    previous_owner(&test_log);
    let producer = open_transaction(&test_log, &test_log.topic("late"), "60000", "second");
    let log = test_log.open("b");
    let mut new_owner = lane(&test_log, &*log);
    let assigned = assigned(&mut *new_owner);
    let error = new_owner.open(assigned[0].0, assigned[0].1).unwrap_err();
    assert_eq!(error.class(), Class::Retriable, "{error}");
    let LogError::Unavailable(why) = &error else {
        panic!("{error}")
    };
    let text = why.to_string();
    let named = format!(
        "`{}`/0 has an open transaction at offset ",
        test_log.topic("state.p")
    );
    assert!(text.starts_with(&named), "{text}");
    // The error is retriable.
    producer.abort_transaction(WAIT).unwrap();
    new_owner.open(assigned[0].0, assigned[0].1).unwrap();
    assert_eq!(state_value(&*new_owner, 0).as_deref(), Some("first"));
}

#[test]
fn a_hanging_previous_owner_is_fenced() {
    let Some(test_log) = test_log(1) else { return };
    previous_owner(&test_log);
    // The transactional id of the lane on node `a`, which is in its committed offsets.
    let producer = open_transaction(&test_log, &test_log.topic("p-a-0"), "60000", "never");
    let begun = Instant::now();
    let log = test_log.open("b");
    let mut new_owner = lane(&test_log, &*log);
    wait_for_assignment(&mut *new_owner);
    assert!(
        begun.elapsed() < Duration::from_secs(25),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(state_value(&*new_owner, 0).as_deref(), Some("first"));
    producer.commit_transaction(WAIT).unwrap_err();
}

fn assigned(lane: &mut dyn Lane) -> Vec<(usize, u32)> {
    let deadline = Instant::now() + WAIT;
    while Instant::now() < deadline {
        if let Polled::Assigned(partitions) = lane
            .poll(Duration::from_millis(50), &mut Vec::new())
            .unwrap()
            && !partitions.is_empty()
        {
            return partitions;
        }
    }
    panic!("no partitions within {WAIT:?}");
}

/// For all partitions, also with a store that has some of them already.
#[test]
fn the_state_of_all_partitions_is_restored() {
    const PARTITIONS: u32 = 8;
    let Some(test_log) = test_log(PARTITIONS) else {
        return;
    };
    let log = test_log.open("a");
    let input = test_log.topic("in");
    append(
        &*log,
        &input,
        (0..64).map(|n| record(&n.to_string(), "x")).collect(),
    )
    .unwrap();
    let mut first = lane(&test_log, &*log);
    wait_for_assignment(&mut *first);
    poll_records(&mut *first, 64);
    for partition in 0..PARTITIONS {
        commit(&mut *first, partition, 1, "one");
    }
    drop(first);
    drop(log);
    for (round, node) in ["b", "a", "b", "b"].into_iter().enumerate() {
        let log = test_log.open(node);
        let mut new_owner = lane(&test_log, &*log);
        let begun = Instant::now();
        let partitions = assigned(&mut *new_owner);
        let joined = begun.elapsed();
        new_owner.prepare(&partitions).unwrap();
        eprintln!(
            "{node}: assigned after {joined:?}, restored {:?} later",
            begun.elapsed().saturating_sub(joined)
        );
        for partition in 0..PARTITIONS {
            assert_eq!(
                new_owner.open(0, partition).unwrap(),
                1 + (round as u64).min(1) * u64::from(partition % 2)
            );
            let value = match (round, partition % 2) {
                (0, _) | (_, 0) => "one".to_owned(),
                (round, _) => format!("round {}", round - 1),
            };
            assert_eq!(
                state_value(&*new_owner, partition),
                Some(value),
                "{node} {partition}"
            );
            if partition % 2 == 1 {
                commit(&mut *new_owner, partition, 2, &format!("round {round}"));
            }
        }
    }
}

/// As after a crash: the group waits neither for a rebalance response of the old member nor for its session to time out.
#[test]
fn a_restarted_member_gets_its_partitions_immediately() {
    let Some(test_log) = test_log(4) else { return };
    let mut gone = Vec::new();
    for life in 0..3 {
        let log = test_log.open_in("a", &test_log.dir.path().join(format!("life-{life}")));
        let begun = Instant::now();
        let mut lane = lane(&test_log, &*log);
        assert_eq!(wait_for_assignment(&mut *lane).len(), 4);
        assert!(
            begun.elapsed() < BEFORE_SESSION_TIMEOUT,
            "life {life}: {:?}",
            begun.elapsed()
        );
        // It is not polled any more, but does not leave its group.
        gone.push((log, lane));
    }
    // Dropping the earlier members does not take partitions from the last one.
    let (_log, mut last) = gone.pop().unwrap();
    drop(gone);
    append(
        &*test_log.open("writer"),
        &test_log.topic("in"),
        vec![record("k", "1")],
    )
    .unwrap();
    poll_records(&mut *last, 1);
}

/// The same for sources of projections and the work of effects.
#[test]
fn restarted_sources_and_work_get_their_partitions_immediately() {
    let Some(test_log) = test_log(4) else { return };
    let topic = test_log.topic("in");
    let mut gone: Vec<Box<dyn std::any::Any>> = Vec::new();
    for life in 0..2 {
        let log = test_log.open_in("a", &test_log.dir.path().join(format!("life-{life}")));
        let mut source = log.source("rows", &topic).unwrap();
        let mut work = log.work("calls", &topic).unwrap();
        let (begun, mut shares) = (Instant::now(), [0, 0]);
        while shares != [4, 4] {
            assert!(
                begun.elapsed() < BEFORE_SESSION_TIMEOUT,
                "life {life}: {shares:?}"
            );
            let mut out = Vec::new();
            if let Polled::Assigned(all) = source.poll(Duration::from_millis(20), &mut out).unwrap()
            {
                shares[0] = all.len();
            }
            if let Polled::Assigned(all) = work.poll(Duration::from_millis(20), &mut out).unwrap() {
                shares[1] = all.len();
            }
        }
        gone.push(Box::new((source, work, log)));
    }
}

#[test]
fn a_member_that_stops_leaves_its_group() {
    let Some(test_log) = test_log(2) else { return };
    for node in ["a", "b", "c"] {
        let log = test_log.open(node);
        let begun = Instant::now();
        let mut lane = lane(&test_log, &*log);
        assert_eq!(wait_for_assignment(&mut *lane).len(), 2);
        eprintln!("{node}: {:?}", begun.elapsed());
        assert!(
            begun.elapsed() < BEFORE_SESSION_TIMEOUT,
            "{node}: {:?}",
            begun.elapsed()
        );
    }
}
