//! Owners that follow each other on Kafka: nothing that the former one committed is missed, and nobody waits for one that is gone.

use std::time::{Duration, Instant};

use omnilink::{
    log::{Class, Cleanup, Lane, Log, LogError, Polled, Transaction},
    state::{Changes, Space},
};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::support::{Bed, Kind, append, record, settle, take};

const WAIT: Duration = Duration::from_secs(20);
/// A group's session lasts for 10 s: whoever has partitions before did not wait for it.
const AT_ONCE: Duration = Duration::from_secs(8);

/// A topic `in` with so many partitions, a record in each, and the changelog of the processor `p`.
fn bed(partitions: u32) -> Option<Bed> {
    let bed = Bed::new(Kind::Kafka)?;
    let log = bed.open("maker");
    let specs = [
        bed.spec("in", partitions, Cleanup::Keep),
        bed.spec("state.p", partitions, Cleanup::Compact),
    ];
    log.provision(&specs, true).unwrap();
    Some(bed)
}

fn lane(bed: &Bed, log: &dyn Log) -> Box<dyn Lane> {
    log.lane("p", &[bed.topic("in")]).unwrap()
}

/// One transaction of a lane: it has read up to `next`, and `key` is `value` since.
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

fn kept(lane: &dyn Lane, partition: u32) -> Option<String> {
    let value = lane
        .state()
        .get(&Space::new("p", partition), b"key")
        .unwrap();
    value.map(|v| String::from_utf8(v.to_vec()).unwrap())
}

/// A producer with a transaction open that has written `key` = `value` to the changelog.
fn open_transaction(bed: &Bed, id: &str, timeout: &str, value: &str) -> BaseProducer {
    let producer: BaseProducer = bed
        .client()
        .set("transactional.id", id)
        .set("transaction.timeout.ms", timeout)
        .create()
        .unwrap();
    producer.init_transactions(WAIT).unwrap();
    producer.begin_transaction().unwrap();
    let changelog = bed.topic("state.p");
    let record = BaseRecord::to(&changelog)
        .partition(0)
        .key("key")
        .payload(value);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(WAIT).unwrap();
    producer
}

/// A lane on node `a` that has committed once, and ended.
fn former_owner(bed: &Bed) {
    let log = bed.open("a");
    append(&*log, &bed.topic("in"), vec![record("k", "1")]).unwrap();
    let mut former = lane(bed, &*log);
    settle(&mut *former);
    take(&mut *former, 1);
    commit(&mut *former, 0, 1, "first");
}

#[test]
fn a_restore_waits_for_the_marker_of_the_last_commit() {
    let Some(bed) = bed(1) else { return };
    former_owner(&bed);
    // A commit whose marker lags, as far as readers of the changelog can tell.
    let producer = open_transaction(&bed, &bed.topic("late"), "60000", "second");
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(4));
        producer.commit_transaction(WAIT).unwrap();
    });
    let log = bed.open("b");
    let mut heir = lane(&bed, &*log);
    settle(&mut *heir);
    assert_eq!(kept(&*heir, 0).as_deref(), Some("second"));
    late.join().unwrap();
}

#[test]
fn a_transaction_that_nobody_ends_is_named() {
    let Some(bed) = bed(1) else { return };
    former_owner(&bed);
    let producer = open_transaction(&bed, &bed.topic("late"), "60000", "second");
    let log = bed.open("b");
    let mut heir = lane(&bed, &*log);
    let assigned = assigned(&mut *heir);
    let error = heir.open(assigned[0].0, assigned[0].1).unwrap_err();
    assert_eq!(error.class(), Class::Retriable, "{error}");
    let LogError::Unavailable(why) = &error else {
        panic!("{error}")
    };
    let text = why.to_string();
    let named = format!(
        "`{}`/0 has an open transaction at offset ",
        bed.topic("state.p")
    );
    assert!(text.starts_with(&named), "{text}");
    // It may be tried again.
    producer.abort_transaction(WAIT).unwrap();
    heir.open(assigned[0].0, assigned[0].1).unwrap();
    assert_eq!(kept(&*heir, 0).as_deref(), Some("first"));
}

#[test]
fn a_former_owner_that_hangs_is_fenced() {
    let Some(bed) = bed(1) else { return };
    former_owner(&bed);
    // As the lane on node `a` names itself, which wrote that into its committed offsets.
    let producer = open_transaction(&bed, &bed.topic("p-a-0"), "60000", "never");
    let begun = Instant::now();
    let log = bed.open("b");
    let mut heir = lane(&bed, &*log);
    settle(&mut *heir);
    assert!(
        begun.elapsed() < Duration::from_secs(25),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(kept(&*heir, 0).as_deref(), Some("first"));
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

/// All partitions at once, and with a store that has some of them already.
#[test]
fn the_state_of_all_partitions_is_restored() {
    const PARTITIONS: u32 = 8;
    let Some(bed) = bed(PARTITIONS) else { return };
    let log = bed.open("a");
    let input = bed.topic("in");
    append(
        &*log,
        &input,
        (0..64).map(|n| record(&n.to_string(), "x")).collect(),
    )
    .unwrap();
    let mut first = lane(&bed, &*log);
    settle(&mut *first);
    take(&mut *first, 64);
    for partition in 0..PARTITIONS {
        commit(&mut *first, partition, 1, "one");
    }
    drop(first);
    drop(log);
    for (round, node) in ["b", "a", "b", "b"].into_iter().enumerate() {
        let log = bed.open(node);
        let mut heir = lane(&bed, &*log);
        let begun = Instant::now();
        let partitions = assigned(&mut *heir);
        let joined = begun.elapsed();
        heir.prepare(&partitions).unwrap();
        eprintln!(
            "{node}: assigned after {joined:?}, restored {:?} later",
            begun.elapsed().saturating_sub(joined)
        );
        for partition in 0..PARTITIONS {
            assert_eq!(
                heir.open(0, partition).unwrap(),
                1 + (round as u64).min(1) * u64::from(partition % 2)
            );
            let value = match (round, partition % 2) {
                (0, _) | (_, 0) => "one".to_owned(),
                (round, _) => format!("round {}", round - 1),
            };
            assert_eq!(kept(&*heir, partition), Some(value), "{node} {partition}");
            if partition % 2 == 1 {
                commit(&mut *heir, partition, 2, &format!("round {round}"));
            }
        }
    }
}

/// As after a crash: the member that was there is not asked, and its session is not waited for.
#[test]
fn a_member_that_comes_back_takes_its_place_at_once() {
    let Some(bed) = bed(4) else { return };
    let mut gone = Vec::new();
    for life in 0..3 {
        let log = bed.open_in("a", &bed.dir.path().join(format!("life-{life}")));
        let begun = Instant::now();
        let mut lane = lane(&bed, &*log);
        assert_eq!(settle(&mut *lane).len(), 4);
        assert!(
            begun.elapsed() < AT_ONCE,
            "life {life}: {:?}",
            begun.elapsed()
        );
        // It is not polled any more, and does not leave its group.
        gone.push((log, lane));
    }
    // Each may end: the last life's place is not theirs to give up.
    let (_log, mut last) = gone.pop().unwrap();
    drop(gone);
    append(
        &*bed.open("writer"),
        &bed.topic("in"),
        vec![record("k", "1")],
    )
    .unwrap();
    take(&mut *last, 1);
}

/// So do those of projections and of effects.
#[test]
fn sources_and_work_come_back_at_once_too() {
    let Some(bed) = bed(4) else { return };
    let topic = bed.topic("in");
    let mut gone: Vec<Box<dyn std::any::Any>> = Vec::new();
    for life in 0..2 {
        let log = bed.open_in("a", &bed.dir.path().join(format!("life-{life}")));
        let mut source = log.source("rows", &topic).unwrap();
        let mut work = log.work("calls", &topic).unwrap();
        let (begun, mut shares) = (Instant::now(), [0, 0]);
        while shares != [4, 4] {
            assert!(begun.elapsed() < AT_ONCE, "life {life}: {shares:?}");
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
fn a_member_that_ends_leaves_its_group() {
    let Some(bed) = bed(2) else { return };
    for node in ["a", "b", "c"] {
        let log = bed.open(node);
        let begun = Instant::now();
        let mut lane = lane(&bed, &*log);
        assert_eq!(settle(&mut *lane).len(), 2);
        eprintln!("{node}: {:?}", begun.elapsed());
        assert!(begun.elapsed() < AT_ONCE, "{node}: {:?}", begun.elapsed());
    }
}
