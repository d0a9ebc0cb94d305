//! Sources of topologies on Kafka that are recreated, truncated by retention, or get more partitions: no record is skipped
//! silently.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use omnilink::{
    base::clock::{Clock, SystemClock},
    log::{Log, Record, topics::Names},
    stream::lag,
    topology::Deployment,
};
use serde_json::json;

use crate::support::{
    KafkaAdmin, LogKind, TestLog, append, assert_notice, read_all,
    topology::{self, json_record, numbers},
    wait_until,
};

/// Partitions of the system's topics.
const PARTITIONS: u32 = 2;

/// A topology that copies from one foreign topic to another.
struct Fixture {
    test_log: TestLog,
    kafka: KafkaAdmin,
    log: Arc<dyn Log>,
    deployment: Option<Deployment>,
    source: String,
    out: String,
    sent: u64,
}

impl Fixture {
    fn new(partitions: i32) -> Option<Self> {
        let test_log = TestLog::new(LogKind::Kafka)?;
        let kafka = test_log.kafka_admin();
        let (source, out) = (
            format!("f{}in", test_log.prefix),
            format!("f{}out", test_log.prefix),
        );
        kafka.create_topic(&source, partitions);
        kafka.create_topic(&out, 1);
        let log = test_log.open("a");
        let names = Names::new(&test_log.prefix);
        log.provision(&names.specs(PARTITIONS), true).unwrap();
        Some(Self {
            test_log,
            kafka,
            log,
            deployment: None,
            source,
            out,
            sent: 0,
        })
    }

    fn start(&mut self, steps: &str, source: &str) {
        let (topic, out) = (&self.source, &self.out);
        let file = format!(
            "name: moved\nsource: {{ topic: {topic}, tenant: acme{source} }}\nsteps: [ {steps} route: [ {{ to: {out} }} ] ]\n"
        );
        let set = topology::load(
            self.test_log.dir.path(),
            &[("moved.yaml", &file)],
            &self.test_log.prefix,
        );
        let mut deployment = Deployment::new(self.test_log.topology_setup(&self.log, PARTITIONS));
        deployment.deploy(&set).unwrap();
        self.deployment = Some(deployment);
    }

    fn stop(&mut self) {
        self.deployment = None;
    }

    fn send(&mut self, count: u64) {
        let records: Vec<Record> = (self.sent..self.sent + count)
            .map(|n| json_record(&n.to_string(), &json!({ "n": n })))
            .collect();
        append(&*self.log, &self.source, records).unwrap();
        self.sent += count;
    }

    /// Asserts that all sent records are written once.
    fn assert_all(&self, what: &str) {
        self.assert_written(what, (0..self.sent).collect());
    }

    fn assert_written(&self, what: &str, wanted: Vec<u64>) {
        let deadline = Instant::now() + Duration::from_secs(40);
        loop {
            let mut received = numbers(&read_all(&*self.log, &self.out, wanted.len()));
            received.sort_unstable();
            if received == wanted {
                return;
            }
            assert!(
                Instant::now() < deadline && received.len() <= wanted.len(),
                "{what}: {received:?} instead of {} records; {:?}",
                wanted.len(),
                self.troubles()
            );
        }
    }

    fn troubles(&self) -> Vec<String> {
        let deployment = self.deployment.iter();
        deployment
            .flat_map(Deployment::progress)
            .filter_map(|(_, progress)| progress.trouble())
            .collect()
    }

    fn assert_notice(&self, parts: &[&str]) {
        assert_notice(&self.source, parts);
    }
}

const PLAIN: (&str, &str) = ("", "");
/// Its state is behind a `rekey` topic.
const DEDUPE: (&str, &str) = ("{ key: [n] }, { dedupe: { window: 1h } },", "");
/// Its state has as many partitions as the source.
const KEYED: (&str, &str) = ("{ dedupe: { window: 1h } },", ", key: [n]");

/// 20 records; the topic is recreated, 10; recreated, 40; and 5 after a restart.
fn recreate_source((steps, source): (&str, &str), running: bool, partitions: [i32; 3]) {
    let Some(mut fixture) = Fixture::new(partitions[0]) else {
        return;
    };
    fixture.start(steps, source);
    fixture.send(20);
    fixture.assert_all("before");
    for (count, partitions) in [10, 40].into_iter().zip(&partitions[1..]) {
        if !running {
            fixture.stop();
        }
        fixture
            .kafka
            .recreate_topic(&*fixture.log, &fixture.source, *partitions);
        fixture.send(count);
        if !running {
            fixture.start(steps, source);
        }
        fixture.assert_all("recreated");
        fixture.assert_notice(&["deleted and recreated", "topology.moved"]);
    }
    fixture.stop();
    fixture.start(steps, source);
    fixture.send(5);
    fixture.assert_all("after a restart");
    assert_eq!(fixture.troubles(), Vec::<String>::new());
    let positions = fixture
        .log
        .positions("topology.moved", &fixture.source)
        .unwrap();
    let of = ("topology.moved", &*fixture.source);
    let positions = lag::from_start(&positions);
    let lag = lag::items(&*fixture.log, of, &positions, SystemClock.now());
    assert!(lag.unwrap().iter().all(|item| item.records == Some(0)));
}

#[test]
fn a_source_recreated_while_running_is_read_from_its_start() {
    recreate_source(PLAIN, true, [1; 3]);
    recreate_source(PLAIN, true, [3, 1, 3]);
}

/// The process has not checked the topic's id when its new records arrive: until it has, they are read from the old position.
#[test]
fn a_source_recreated_in_between_two_checks_is_read_completely() {
    for (steps, source) in [PLAIN, DEDUPE] {
        let Some(mut fixture) = Fixture::new(1) else {
            return;
        };
        let other = fixture.test_log.open("b");
        fixture.start(steps, source);
        fixture.send(10);
        fixture.assert_all("before");
        fixture.kafka.recreate_topic(&*other, &fixture.source, 1);
        fixture.send(50);
        let deadline = Instant::now() + Duration::from_secs(40);
        let wanted: Vec<u64> = (0..60).collect();
        let received = || {
            let mut received = numbers(&read_all(&*fixture.log, &fixture.out, 60));
            received.sort_unstable();
            received
        };
        let all = |received: &[u64]| {
            let mut once = received.to_vec();
            once.dedup();
            once == wanted
        };
        while !all(&received()) {
            assert!(Instant::now() < deadline, "{:?}", received());
        }
        // Without dedupe, records read before the check may be processed twice.
        let received = received();
        let twice = received.iter().zip(&received[1..]).filter(|(a, b)| a == b);
        let twice: Vec<u64> = twice.map(|(n, _)| *n).collect();
        assert!(twice.iter().all(|n| *n >= 20), "{twice:?}");
        if !steps.is_empty() {
            assert_eq!(received, wanted);
        }
        fixture.assert_notice(&["deleted and recreated", "topology.moved"]);
    }
}

#[test]
fn a_source_recreated_after_a_stop_is_read_from_its_start() {
    recreate_source(PLAIN, false, [1; 3]);
    recreate_source(PLAIN, false, [1, 3, 2]);
}

#[test]
fn a_source_recreated_before_dedupe_while_running() {
    recreate_source(DEDUPE, true, [3; 3]);
}

#[test]
fn a_source_recreated_before_dedupe_after_a_stop() {
    recreate_source(DEDUPE, false, [1; 3]);
}

#[test]
fn a_source_recreated_before_state_by_partition_while_running() {
    recreate_source(KEYED, true, [3, 3, 2]);
}

#[test]
fn a_source_recreated_before_state_by_partition_after_a_stop() {
    recreate_source(KEYED, false, [1; 3]);
}

#[test]
fn unread_records_deleted_by_retention_are_reported() {
    let Some(mut fixture) = Fixture::new(1) else {
        return;
    };
    fixture.start("", "");
    fixture.send(20);
    fixture.assert_all("before");
    fixture.stop();
    fixture.send(50);
    let marks = fixture.log.offset_range(&fixture.source, 0).unwrap();
    fixture
        .kafka
        .delete_records_before(&fixture.source, 0, marks.end as i64);
    fixture.send(10);
    let position = fixture.log.committed("topology.moved", &fixture.source, 0);
    let position = position.unwrap().unwrap();
    let faults = fixture
        .log
        .position_faults("topology.moved", &fixture.source);
    let [fault] = &faults.unwrap()[..] else {
        panic!("one fault");
    };
    assert!(!fault.stalls);
    let offsets = format!("offsets {position} to {}", marks.end);
    assert!(fault.detail.contains(&offsets), "{fault:?}");
    fixture.start("", "");
    let received = (0..20).chain(70..80).collect();
    fixture.assert_written("after retention", received);
    fixture.assert_notice(&[&offsets, "retention"]);
    let faults = fixture
        .log
        .position_faults("topology.moved", &fixture.source);
    assert_eq!(faults.unwrap(), []);
}

#[test]
fn new_partitions_of_a_source_are_read_without_state() {
    let Some(mut fixture) = Fixture::new(1) else {
        return;
    };
    fixture.start("", "");
    fixture.send(10);
    fixture.assert_all("before");
    fixture.kafka.add_partitions(&fixture.source, 3);
    fixture.send(30);
    fixture.assert_all("partitions added while running");
    fixture.stop();
    fixture.kafka.add_partitions(&fixture.source, 4);
    fixture.send(20);
    fixture.start("", "");
    fixture.assert_all("partitions added while stopped");
    let positions = fixture.log.positions("topology.moved", &fixture.source);
    assert_eq!(positions.unwrap().len(), 4);
}

/// New partitions change the partition of a key, but not that of its state: the topology stalls with a reason and a remedy.
fn partitions_added_before_state(running: bool) {
    let Some(mut fixture) = Fixture::new(1) else {
        return;
    };
    let (steps, source) = KEYED;
    fixture.start(steps, source);
    fixture.send(10);
    fixture.assert_all("before");
    if !running {
        fixture.stop();
    }
    fixture.kafka.add_partitions(&fixture.source, 3);
    let state = format!("{}state.topology.moved", fixture.test_log.prefix);
    if running {
        wait_until("the stall", || !fixture.troubles().is_empty());
    }
    fixture.send(30);
    if !running {
        fixture.start(steps, source);
        wait_until("the stall", || !fixture.troubles().is_empty());
    }
    let troubles = fixture.troubles().join("; ");
    for part in [
        &*fixture.source,
        "has grown to 3 partitions",
        &format!("--topic {state} --partitions 3"),
    ] {
        assert!(troubles.contains(part), "{part} in {troubles}");
    }
    assert!(!troubles.contains("topics.partitions"), "{troubles}");
    fixture.kafka.add_partitions(&state, 3);
    fixture.assert_all("after the remedy");
    wait_until("no stall", || fixture.troubles().is_empty());
    fixture.stop();
    fixture.start(steps, source);
    fixture.send(5);
    fixture.assert_all("after a restart");
}

#[test]
fn new_partitions_of_a_source_with_state_stall_while_running() {
    partitions_added_before_state(true);
}

#[test]
fn new_partitions_of_a_source_with_state_stall_at_the_start() {
    partitions_added_before_state(false);
}
