//! `rate_limit`: the limit holds over restarts, waiting records are kept, and records beyond the queue are throttled.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use omnilink::{
    base::clock::{ManualClock, Millis},
    log::{
        Log, header,
        local::{LocalLog, LocalOptions},
        topics::Names,
    },
    topology::{Deployment, Setup},
};
use serde_json::json;

use crate::support::{
    LogKind, TestLog, append, on_both_logs, read_all,
    topology::{self, Fixture, PARTITIONS, json_record, numbers, wait_for_topics},
};

on_both_logs!(the_limit_holds_over_restarts);

const LIMIT: usize = 4;
const SECOND: i64 = 1000;

/// A topology that limits the records of a tenant, defers those over the limit, and deduplicates.
pub(super) fn limited(topic: &str, out: &str) -> String {
    format!(
        r"
name: slow
source: {{ topic: {topic}, tenant: acme }}
steps:
  - key: [tenant]
  - rate_limit: {{ policy: slow, limit: {LIMIT}, window: 1s, over: defer }}
  - key: [tenant, n]
  - dedupe: {{ window: 24h }}
  - key: [tenant]
  - filter: .n != 3
  - route: [ {{ when: .n == 5, to: ingress }}, {{ to: {out} }} ]
"
    )
}

/// The earliest times at which records with these arrival times may pass.
fn earliest(arrived: &[i64]) -> Vec<i64> {
    let mut earliest: Vec<i64> = Vec::new();
    for (n, at) in arrived.iter().enumerate() {
        let before = n.checked_sub(1).map_or(*at, |n| earliest[n]);
        let room = n.checked_sub(LIMIT).map_or(*at, |n| earliest[n] + SECOND);
        earliest.push((*at).max(before).max(room));
    }
    earliest
}

/// Asserts that all records passed once, in order, and no earlier than the limit allows.
pub(super) fn assert_limited(log: &dyn Log, rekey: &str, out: &str, sent: u64, filtered: &[u64]) {
    let kept: Vec<u64> = (0..sent).filter(|n| !filtered.contains(n)).collect();
    let waiting = Duration::from_millis((sent as i64 / LIMIT as i64 * SECOND) as u64);
    let deadline = Instant::now() + waiting + Duration::from_secs(20);
    let mut all = Vec::new();
    while all.len() < kept.len() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
        all = read_all(log, out, 0);
    }
    let passed: Vec<u64> = numbers(&all);
    assert_eq!(passed, kept);
    // All records have the same key, so they are in order in one partition.
    let arrived = read_all(log, rekey, sent as usize);
    assert_eq!(arrived.len() as u64, sent);
    let arrived: Vec<i64> = arrived.iter().map(|f| f.timestamp.0).collect();
    let earliest = earliest(&arrived);
    for fetched in &all {
        let n = numbers(std::slice::from_ref(fetched))[0] as usize;
        assert!(
            fetched.timestamp.0 >= earliest[n],
            "record {n} passed {} ms too early",
            earliest[n] - fetched.timestamp.0
        );
    }
}

fn the_limit_holds_over_restarts(test_log: TestLog) {
    let mut sent = 0;
    for round in 0..3 {
        let mut fixture = Fixture::new(&test_log);
        let (topic, out) = (
            format!("{}orders", fixture.foreign),
            format!("{}out", fixture.foreign),
        );
        let set = topology::load(
            test_log.dir.path(),
            &[("slow.yaml", &limited(&topic, &out))],
            &test_log.prefix,
        );
        let deployed = fixture.deployment.deploy(&set).unwrap();
        assert_eq!(deployed.started, ["slow"]);
        for _ in 0..7 {
            // One key, so that their order is known.
            append(
                &*fixture.log,
                &topic,
                vec![json_record("k", &json!({ "n": sent }))],
            )
            .unwrap();
            sent += 1;
        }
        let rekey = format!("{}rekey.slow", test_log.prefix);
        wait_for_topics(&*fixture.log, &[&rekey]);
        if round < 2 {
            // Stops while records wait.
            read_all(&*fixture.log, &rekey, sent as usize);
            std::thread::sleep(Duration::from_millis(500));
        } else {
            assert_limited(&*fixture.log, &rekey, &out, sent, &[3, 5]);
            let dead = read_all(&*fixture.log, &fixture.names.dlq, 1);
            // A record that passed the limit and that `ingress` refuses becomes a dead letter of the source.
            assert_eq!(numbers(&dead), [5]);
            assert_eq!(
                header(&dead[0].record.headers, "omnilink.dlq.topic"),
                Some(topic.as_bytes())
            );
            assert_eq!(
                header(&dead[0].record.headers, "omnilink.dlq.stage"),
                Some(&b"topology.slow.2"[..])
            );
        }
    }
}

#[test]
fn a_thousand_records_wait_and_the_rest_is_throttled() {
    let test_log = TestLog::new(LogKind::Local).unwrap();
    let mut fixture = Fixture::new(&test_log);
    let (topic, out) = (
        format!("{}orders", fixture.foreign),
        format!("{}out", fixture.foreign),
    );
    let file = limited(&topic, &out).replace(
        &format!("limit: {LIMIT}, window: 1s"),
        "limit: 1, window: 1h",
    );
    let set = topology::load(
        test_log.dir.path(),
        &[("slow.yaml", &file)],
        &test_log.prefix,
    );
    fixture.deployment.deploy(&set).unwrap();
    let began = test_log.clock.now().0;
    let records = (0..1005)
        .map(|n| json_record("k", &json!({ "n": n })))
        .collect();
    append(&*fixture.log, &topic, records).unwrap();
    let throttled = read_all(&*fixture.log, &fixture.names.throttled, 4);
    // One passed immediately, a thousand wait; these were the last.
    assert_eq!(numbers(&throttled), [1001, 1002, 1003, 1004]);
    assert_eq!(numbers(&read_all(&*fixture.log, &out, 1)), [0]);
    let header_text = |name: &str| {
        let name = format!("omnilink.throttled.{name}");
        let value = header(&throttled[0].record.headers, &name).unwrap();
        String::from_utf8(value.to_vec()).unwrap()
    };
    assert_eq!(
        (
            header_text("policy"),
            header_text("limit"),
            header_text("window_s")
        ),
        ("slow".into(), "1".into(), "3600".into())
    );
    let retry_at: jiff::Timestamp = header_text("retry_at").parse().unwrap();
    assert!((3_590_000..3_700_000).contains(&(retry_at.as_millisecond() - began)));
}

/// 55 records with a limit of 20 in 10 s. The lane is stopped for an hour after 20: the others pass at the limit, not all at once.
#[test]
fn a_restarted_lane_releases_no_burst() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(Millis(1_800_000_000_000)));
    let mut options = LocalOptions::new(Arc::<ManualClock>::clone(&clock));
    options.min_free_bytes = 1 << 20;
    let log: Arc<dyn Log> = Arc::new(LocalLog::open(&dir.path().join("log"), options).unwrap());
    let names = Names::new("omnilink.");
    log.provision(&names.specs(PARTITIONS), true).unwrap();
    let file = limited("in", "out").replace(
        &format!("limit: {LIMIT}, window: 1s"),
        "limit: 20, window: 10s",
    );
    let set = topology::load(dir.path(), &[("slow.yaml", &file)], "omnilink.");
    let deploy = || {
        let mut deployment = Deployment::new(Setup {
            clock: Arc::<ManualClock>::clone(&clock),
            ..topology::setup(&log, "omnilink.", PARTITIONS)
        });
        deployment.deploy(&set).unwrap();
        deployment
    };
    let send = |numbers: std::ops::Range<u64>| {
        // Filtered records count too.
        let records = numbers
            .map(|n| json_record("k", &json!({ "n": 100 + n })))
            .collect();
        append(&*log, "in", records).unwrap();
    };
    // Asserts that exactly this many records pass.
    let assert_passed = |expected: usize| {
        assert_eq!(read_all(&*log, "out", expected).len(), expected);
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!(read_all(&*log, "out", expected).len(), expected);
    };
    let deployment = deploy();
    wait_for_topics(&*log, &["in", "out"]);
    send(0..50);
    assert_passed(20);
    drop(deployment);
    send(50..55);
    clock.advance(3_600_000);
    let deployment = deploy();
    assert_passed(40);
    clock.advance(9_999);
    assert_passed(40);
    drop(deployment);
    let _deployment = deploy();
    // The new owner does not know when the previous one's last records were committed: it may be as late as now.
    clock.advance(10_001);
    assert_passed(55);
    let all = read_all(&*log, "out", 55);
    assert_eq!(numbers(&all), (100..155).collect::<Vec<_>>());
    for first in &all {
        let window = first.timestamp.0..first.timestamp.0 + 10_000;
        let inside = all
            .iter()
            .filter(|f| window.contains(&f.timestamp.0))
            .count();
        assert!(inside <= 20, "{inside} in a window");
    }
}
