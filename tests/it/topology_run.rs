//! Topologies at work: their own tests, both logs, restarts, kills, changes while they run.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use omnilink::{
    base::clock::{ManualClock, Millis, SystemClock},
    controls::SecretKeys,
    envelope::{avro, foreign::NoRegistry},
    log::{
        Cleanup, Fetched, Log, Record, TopicSpec, header,
        local::{LocalLog, LocalOptions},
        topics::Names,
    },
    stream::dlq::{
        redrive::{Pick, Redrive},
        redriven,
    },
    topology::{Deployed, Deployment, Set, Setup, check, find, rehearse, render},
};
use serde_json::{Value, json};

use crate::{
    support::{Bed, append, on_both, read_all, value},
    topology_kills::open,
};

on_both!(
    an_order_becomes_an_event_once,
    the_limit_holds_and_nothing_is_lost_over_restarts,
    what_was_redriven_passes_dedupe_once,
);

pub(super) const PARTITIONS: u32 = 3;

/// Checks the text of a file.
pub(super) fn set(dir: &Path, files: &[(&str, &str)], prefix: &str) -> Set {
    let mut paths = Vec::new();
    for (name, text) in files {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        paths.push(path);
    }
    let checked = check(&paths, prefix);
    let problems: Vec<_> = checked.problems.iter().map(|p| p.render(false)).collect();
    checked
        .set
        .unwrap_or_else(|| panic!("{}", problems.join("\n")))
}

#[test]
fn the_tests_in_files_pass() {
    let checked = check(
        &find(Path::new("tests/topologies/right")).unwrap(),
        "omnilink.",
    );
    let mut told = 0;
    let outcomes = rehearse(&checked.set.unwrap(), |_| told += 1);
    assert_eq!(told, outcomes.len());
    assert!(outcomes.len() >= 13, "{}", outcomes.len());
    for outcome in &outcomes {
        assert!(outcome.passed(), "{}", render(outcome, false));
    }
}

#[test]
fn a_test_that_fails_shows_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let file = r"
name: wrong
source: { topic: shop.orders, tenant: acme }
steps:
  - filter: .total != 0
  - route: [ { when: .total == 1, to: ingress }, { to: shop.out } ]
tests:
  - name: otherwise
    given: [ { total: 2, state: paid, items: [ 1, 2 ] }, { total: 3 }, { total: 1 } ]
    then:
      shop.out: [ { total: 3 }, { total: 2, state: open, items: [ 1 ] } ]
      ingress: []
  - name: lost and found
    given: [ { total: 0 }, { total: 5 } ]
    then: { shop.out: [ { total: 5 }, { total: 6 } ], dlq: [] }
";
    let set = set(dir.path(), &[("wrong.yaml", file)], "omnilink.");
    let outcomes = rehearse(&set, |_| ());
    let texts: Vec<String> = outcomes.iter().map(|o| render(o, false)).collect();
    let (first, second) = (&texts[0], &texts[1]);
    assert!(first.contains("wrong.yaml:8: otherwise"), "{first}");
    for line in [
        "shop.out: 2 records expected (-), 2 came (+)",
        ".items",
        "- [1]",
        "+ [1,2]",
        ".state",
        "- \"open\"",
        "+ \"paid\"",
        "note: a record went to the dead letters, missing_id",
    ] {
        assert!(first.contains(line), "{line} in\n{first}");
    }
    assert!(second.contains("- {\"total\":6}"), "{second}");
    assert!(!second.contains("dlq"), "{second}");
}

/// A log with a deployment on it.
struct World {
    log: Arc<dyn Log>,
    names: Names,
    secrets: Arc<SecretKeys>,
    deployment: Deployment,
    /// In front of foreign topics.
    foreign: String,
}

fn world(bed: &Bed) -> World {
    let log = bed.open("a");
    let names = Names::new(&bed.prefix);
    log.provision(&names.specs(PARTITIONS), true).unwrap();
    let foreign = format!("f{}", bed.prefix);
    let topics: Vec<TopicSpec> = ["orders", "out"]
        .iter()
        .map(|name| TopicSpec {
            name: format!("{foreign}{name}").into(),
            partitions: PARTITIONS,
            cleanup: Cleanup::Keep,
        })
        .collect();
    log.provision(&topics, true).unwrap();
    let secrets = Arc::new(SecretKeys::new([&STANDARD.encode([1; 32])[..]]).unwrap());
    let deployment = Deployment::new(Setup {
        log: Arc::clone(&log),
        names: names.clone(),
        clock: Arc::clone(&bed.clock),
        schemas: Arc::new(NoRegistry),
        partitions: PARTITIONS,
        provision: true,
        make_foreign: false,
        lanes: bed.lanes(),
    })
    .with_secrets(Arc::clone(&secrets));
    World {
        log,
        names,
        secrets,
        deployment,
        foreign,
    }
}

/// Waits until a topology has made these topics.
fn made(log: &dyn Log, topics: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while topics.iter().any(|topic| log.partitions(topic).is_err()) {
        assert!(Instant::now() < deadline, "{topics:?} are not made");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(super) fn json_record(key: &str, value: &Value) -> Record {
    Record {
        key: Some(key.to_owned().into()),
        value: Some(value.to_string().into()),
        headers: Vec::new(),
    }
}

fn an_order_becomes_an_event_once(bed: Bed) {
    let mut world = world(&bed);
    let topic = format!("{}orders", world.foreign);
    let file = format!(
        r#"
name: orders
source: {{ topic: {topic}, tenant: acme }}
steps:
  - map: |
      . = {{ "type": "order." + string!(.state), "id": to_string!(.event_id), "source": "/shop",
            "entity": {{ "type": "order", "external_id": to_string!(.order_id) }}, "data": . }}
  - key: [source, id]
  - dedupe: {{ window: 24h }}
  - route: [ {{ when: '.type == "order.test"', to: drop }}, {{ to: ingress }} ]
"#
    );
    let set = set(bed.dir.path(), &[("orders.yaml", &file)], &bed.prefix);
    world.deployment.deploy(&set).unwrap();
    made(&*world.log, &[&format!("{}rekey.orders", bed.prefix)]);
    for n in 0..30 {
        let order = json!({ "event_id": n, "order_id": n % 5, "state": if n == 7 { "test" } else { "paid" } });
        // Twice, from two producers that key it differently.
        let twice = vec![
            json_record(&n.to_string(), &order),
            json_record("x", &order),
        ];
        append(&*world.log, &topic, twice).unwrap();
    }
    append(
        &*world.log,
        &topic,
        vec![json_record("bad", &json!({ "state": 7 }))],
    )
    .unwrap();
    let admitted = read_all(&*world.log, &world.names.ingress, 29);
    let mut ids: Vec<i64> = admitted
        .iter()
        .map(|f| {
            let event = avro::decode_ingress(f.record.value.as_ref().unwrap()).unwrap();
            assert_eq!(f.record.key.as_deref(), Some(event.record_key().as_bytes()));
            event.id.parse().unwrap()
        })
        .collect();
    ids.sort_unstable();
    let expected: Vec<i64> = (0..30).filter(|n| *n != 7).collect();
    let troubles: Vec<_> = world
        .deployment
        .progress()
        .iter()
        .filter_map(|(name, progress)| Some((name.clone(), progress.trouble()?)))
        .collect();
    assert_eq!(ids, expected, "{troubles:?}");
    let dead = read_all(&*world.log, &world.names.dlq, 1);
    assert_eq!(dead.len(), 1);
    assert_eq!(value(&dead[0]), r#"{"state":7}"#);
    assert_eq!(dead[0].record.key.as_deref(), Some(&b"bad"[..]));
    let said = |name: &str| header(&dead[0].record.headers, &format!("omnilink.dlq.{name}"));
    assert_eq!(said("code"), Some(&b"vrl_error"[..]));
    assert_eq!(said("stage"), Some(&b"topology.orders"[..]));
    assert_eq!(said("topic"), Some(topic.as_bytes()));
}

const LIMIT: usize = 4;
const SECOND: i64 = 1000;

/// `file` limits all records of a tenant, lets those over the limit wait, and remembers those that went on.
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

/// The earliest times at which records that came at these times may go on.
fn earliest(came: &[i64]) -> Vec<i64> {
    let mut earliest: Vec<i64> = Vec::new();
    for (n, at) in came.iter().enumerate() {
        let before = n.checked_sub(1).map_or(*at, |n| earliest[n]);
        let room = n.checked_sub(LIMIT).map_or(*at, |n| earliest[n] + SECOND);
        earliest.push((*at).max(before).max(room));
    }
    earliest
}

pub(super) fn numbers(all: &[Fetched]) -> Vec<u64> {
    all.iter()
        .map(|f| {
            let value: Value = serde_json::from_slice(f.record.value.as_ref().unwrap()).unwrap();
            value["n"].as_u64().unwrap()
        })
        .collect()
}

/// All that came is there once and in order, no sooner than the limit lets it.
pub(super) fn assert_limited(log: &dyn Log, rekey: &str, out: &str, sent: u64, left_out: &[u64]) {
    let kept: Vec<u64> = (0..sent).filter(|n| !left_out.contains(n)).collect();
    let waiting = Duration::from_millis((sent as i64 / LIMIT as i64 * SECOND) as u64);
    let deadline = Instant::now() + waiting + Duration::from_secs(20);
    let mut all = Vec::new();
    while all.len() < kept.len() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
        all = read_all(log, out, 0);
    }
    let gone: Vec<u64> = numbers(&all);
    assert_eq!(gone, kept);
    // All of them have one key: one partition, in order.
    let came = read_all(log, rekey, sent as usize);
    assert_eq!(came.len() as u64, sent);
    let came: Vec<i64> = came.iter().map(|f| f.timestamp.0).collect();
    let earliest = earliest(&came);
    for fetched in &all {
        let n = numbers(std::slice::from_ref(fetched))[0] as usize;
        assert!(
            fetched.timestamp.0 >= earliest[n],
            "record {n} went on {} ms too early",
            earliest[n] - fetched.timestamp.0
        );
    }
}

fn the_limit_holds_and_nothing_is_lost_over_restarts(bed: Bed) {
    let mut sent = 0;
    for round in 0..3 {
        let mut world = world(&bed);
        let (topic, out) = (
            format!("{}orders", world.foreign),
            format!("{}out", world.foreign),
        );
        let set = set(
            bed.dir.path(),
            &[("slow.yaml", &limited(&topic, &out))],
            &bed.prefix,
        );
        let deployed = world.deployment.deploy(&set).unwrap();
        assert_eq!(deployed.started, ["slow"]);
        for _ in 0..7 {
            // One partition, so that their order is known.
            append(
                &*world.log,
                &topic,
                vec![json_record("k", &json!({ "n": sent }))],
            )
            .unwrap();
            sent += 1;
        }
        let rekey = format!("{}rekey.slow", bed.prefix);
        made(&*world.log, &[&rekey]);
        if round < 2 {
            // Stopped while records wait.
            read_all(&*world.log, &rekey, sent as usize);
            std::thread::sleep(Duration::from_millis(500));
        } else {
            assert_limited(&*world.log, &rekey, &out, sent, &[3, 5]);
            let dead = read_all(&*world.log, &world.names.dlq, 1);
            // What the limit let go and `ingress` does not take is the source's record.
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

/// Dedupe has seen it, a step behind that refused it: mended and redriven it goes on, and that once.
fn what_was_redriven_passes_dedupe_once(bed: Bed) {
    let mut world = world(&bed);
    let (topic, out) = (
        format!("{}orders", world.foreign),
        format!("{}out", world.foreign),
    );
    // Between the two steps lies another topic, and the record waits.
    let file = |map: &str| {
        format!(
            r"
name: mended
source: {{ topic: {topic}, tenant: acme }}
steps:
  - key: [id]
  - dedupe: {{ window: 24h }}
  - key: [tenant]
  - rate_limit: {{ policy: slow, limit: 1, window: 1s, over: defer }}
  - map: {map}
  - route: [ {{ to: {out} }} ]
"
        )
    };
    let deploy = |world: &mut World, map: &str| {
        let set = set(bed.dir.path(), &[("mended.yaml", &file(map))], &bed.prefix);
        world.deployment.deploy(&set).unwrap();
    };
    deploy(&mut world, ".n = int!(.n)");
    let orders = [json!({ "id": 1, "n": 1 }), json!({ "id": 2, "n": "2" })];
    let send = |world: &World, orders: &[Value]| {
        let records = orders.iter().map(|order| json_record("k", order)).collect();
        append(&*world.log, &topic, records).unwrap();
    };
    made(&*world.log, &[&format!("{}rekey.mended.2", bed.prefix)]);
    send(&world, &orders);
    assert_eq!(read_all(&*world.log, &world.names.dlq, 1).len(), 1);
    assert_eq!(numbers(&read_all(&*world.log, &out, 1)), [1]);
    deploy(&mut world, ".n = to_int!(.n)");
    let redrive = Redrive {
        log: &*world.log,
        names: &world.names,
        secrets: &world.secrets,
    };
    let redriven = redrive.run(&Pick::All, &mut |_| true).unwrap();
    assert_eq!(redriven.redriven, 1);
    let came = |at_least: usize| {
        let mut came = numbers(&read_all(&*world.log, &out, at_least));
        came.sort_unstable();
        came
    };
    assert_eq!(came(2), [1, 2]);
    // As after a crash in the middle of a redrive; by a producer; and marked by somebody who may not.
    let back = read_all(&*world.log, &topic, 3).pop().unwrap().record;
    assert!(redriven::count(&world.secrets, &topic, &back).is_some());
    append(&*world.log, &topic, vec![back.clone()]).unwrap();
    send(&world, &orders[1..]);
    let mut forged = back;
    let other = SecretKeys::new([&STANDARD.encode([2; 32])[..]]).unwrap();
    redriven::mark(&other, &topic, &mut forged, 7);
    append(&*world.log, &topic, vec![forged]).unwrap();
    send(&world, &[json!({ "id": 3, "n": 3 })]);
    assert_eq!(came(3), [1, 2, 3]);
    // One that had passed would have had to wait.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(came(3), [1, 2, 3]);
}

#[test]
fn a_thousand_wait_and_the_rest_is_turned_away() {
    let bed = Bed::new(crate::support::Kind::Local).unwrap();
    let mut world = world(&bed);
    let (topic, out) = (
        format!("{}orders", world.foreign),
        format!("{}out", world.foreign),
    );
    let file = limited(&topic, &out).replace(
        &format!("limit: {LIMIT}, window: 1s"),
        "limit: 1, window: 1h",
    );
    let set = set(bed.dir.path(), &[("slow.yaml", &file)], &bed.prefix);
    world.deployment.deploy(&set).unwrap();
    let began = bed.clock.now().0;
    let records = (0..1005)
        .map(|n| json_record("k", &json!({ "n": n })))
        .collect();
    append(&*world.log, &topic, records).unwrap();
    let turned_away = read_all(&*world.log, &world.names.throttled, 4);
    // One went on at once, a thousand wait; these came last.
    assert_eq!(numbers(&turned_away), [1001, 1002, 1003, 1004]);
    assert_eq!(numbers(&read_all(&*world.log, &out, 1)), [0]);
    let said = |name: &str| {
        let name = format!("omnilink.throttled.{name}");
        let value = header(&turned_away[0].record.headers, &name).unwrap();
        String::from_utf8(value.to_vec()).unwrap()
    };
    assert_eq!(
        (said("policy"), said("limit"), said("window_s")),
        ("slow".into(), "1".into(), "3600".into())
    );
    let retry_at: jiff::Timestamp = said("retry_at").parse().unwrap();
    assert!((3_590_000..3_700_000).contains(&(retry_at.as_millisecond() - began)));
}

/// 55 records at 20 in 10 s, and the lane is away for an hour when 20 are out: the rest leaves as the limit says, not at once.
#[test]
fn a_lane_that_was_away_lets_no_burst_go() {
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
    let set = set(dir.path(), &[("slow.yaml", &file)], "omnilink.");
    let deploy = || {
        let mut deployment = Deployment::new(Setup {
            log: Arc::clone(&log),
            names: names.clone(),
            clock: Arc::<ManualClock>::clone(&clock),
            schemas: Arc::new(NoRegistry),
            partitions: PARTITIONS,
            provision: true,
            make_foreign: true,
            lanes: 1,
        });
        deployment.deploy(&set).unwrap();
        deployment
    };
    let send = |numbers: std::ops::Range<u64>| {
        // One that is filtered out counts too.
        let records = numbers
            .map(|n| json_record("k", &json!({ "n": 100 + n })))
            .collect();
        append(&*log, "in", records).unwrap();
    };
    // No more than so many, however long one waits.
    let out = |expected: usize| {
        assert_eq!(read_all(&*log, "out", expected).len(), expected);
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!(read_all(&*log, "out", expected).len(), expected);
    };
    let deployment = deploy();
    made(&*log, &["in", "out"]);
    send(0..50);
    out(20);
    drop(deployment);
    send(50..55);
    clock.advance(3_600_000);
    let deployment = deploy();
    out(40);
    clock.advance(9_999);
    out(40);
    drop(deployment);
    let _deployment = deploy();
    // The new owner cannot know how long the last one's commit took: what it let go may have left up to now.
    clock.advance(10_001);
    out(55);
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

/// Ids that are one as 64-bit floats are two records: with a program, with a key alone, and in what goes on.
#[test]
fn numbers_keep_their_digits() {
    let bed = Bed::new(crate::support::Kind::Local).unwrap();
    let ids = [
        "18446744073709551615",
        "18446744073709551614",
        "0.12345678901234567891",
        "0.12345678901234567892",
        "9007199254740993",
        "7",
    ];
    let steps = [
        "- key: [id]",
        "- map: |\n      . = { \"id\": .id, \"text\": to_string!(.id), \"all\": . }\n  - key: [id]",
        "- map: .id = to_string!(.id)\n  - key: [id]",
        "- key: [id, sub.id]\n  - map: .x = 1",
    ];
    let mut world = world(&bed);
    let files: Vec<(String, String)> = steps
        .iter()
        .enumerate()
        .map(|(n, steps)| {
            let text = format!(
                "name: t{n}\nsource: {{ topic: {}orders, tenant: acme }}\nsteps:\n  {steps}\n  - dedupe: {{ window: 24h }}\n  - route: [ {{ to: {}out{n} }} ]\n",
                world.foreign, world.foreign,
            );
            (format!("t{n}.yaml"), text)
        })
        .collect();
    let files: Vec<_> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let specs: Vec<TopicSpec> = (0..steps.len())
        .map(|n| TopicSpec {
            name: format!("{}out{n}", world.foreign).into(),
            partitions: 1,
            cleanup: Cleanup::Keep,
        })
        .collect();
    world.log.provision(&specs, true).unwrap();
    let set = set(bed.dir.path(), &files, &bed.prefix);
    world.deployment.deploy(&set).unwrap();
    let records: Vec<Record> = ids
        .iter()
        .chain(&ids)
        .map(|id| Record {
            key: None,
            value: Some(format!("{{\"id\":{id},\"sub\":{{\"id\": {id} }}}}").into()),
            headers: Vec::new(),
        })
        .collect();
    append(&*world.log, &format!("{}orders", world.foreign), records).unwrap();
    for (n, steps) in steps.iter().enumerate() {
        let mut came: Vec<_> =
            read_all(&*world.log, &format!("{}out{n}", world.foreign), ids.len())
                .iter()
                .map(value)
                .collect();
        came.sort();
        let mut expected: Vec<_> = ids
            .iter()
            .map(|id| match n {
                0 => format!("{{\"id\":{id},\"sub\":{{\"id\": {id} }}}}"),
                1 => format!("{{\"all\":{{\"id\":{id},\"sub\":{{\"id\":{id}}}}},\"id\":{id},\"text\":\"{id}\"}}"),
                2 => format!("{{\"id\":\"{id}\",\"sub\":{{\"id\":{id}}}}}"),
                _ => format!("{{\"id\":{id},\"sub\":{{\"id\":{id}}},\"x\":1}}"),
            })
            .collect();
        expected.sort();
        assert_eq!(came, expected, "{steps}");
    }
    assert!(read_all(&*world.log, &world.names.dlq, 0).is_empty());
}

/// Record keys that are no text are told apart, or refused.
#[test]
fn keys_that_are_no_text_are_told_apart_or_refused() {
    let bed = Bed::new(crate::support::Kind::Local).unwrap();
    // The number of records that go on, of two.
    let cases = [
        ("string!(%key)", 0),
        ("upcase(string!(%key))", 0),
        ("\"k\" + string!(%key)", 0),
        ("string!(%headers.h)", 0),
        ("to_string!(%key) + \"x\"", 0),
        ("encode_base16(string!(%key))", 2),
        ("encode_base64(string!(%headers.h))", 2),
        ("to_string(%partition) + \"/\" + to_string(%offset)", 2),
    ];
    let mut world = world(&bed);
    let files: Vec<(String, String)> = cases
        .iter()
        .enumerate()
        .map(|(n, (id, _))| {
            let text = format!(
                "name: t{n}\nsource: {{ topic: {}orders, tenant: acme }}\nsteps:\n  - map: '.id = {id}'\n  - key: [id]\n  - dedupe: {{ window: 24h }}\n  - route: [ {{ to: {}out{n} }} ]\n",
                world.foreign, world.foreign,
            );
            (format!("t{n}.yaml"), text)
        })
        .collect();
    let files: Vec<_> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let specs: Vec<TopicSpec> = (0..cases.len())
        .map(|n| TopicSpec {
            name: format!("{}out{n}", world.foreign).into(),
            partitions: 1,
            cleanup: Cleanup::Keep,
        })
        .collect();
    world.log.provision(&specs, true).unwrap();
    let set = set(bed.dir.path(), &files, &bed.prefix);
    world.deployment.deploy(&set).unwrap();
    let records = [0x84_u8, 0x85].map(|byte| Record {
        key: Some(vec![byte].into()),
        value: Some("{}".into()),
        headers: vec![("h".into(), Some(vec![byte].into()))],
    });
    append(
        &*world.log,
        &format!("{}orders", world.foreign),
        records.to_vec(),
    )
    .unwrap();
    for (n, (id, expected)) in cases.iter().enumerate() {
        let topic = format!("{}out{n}", world.foreign);
        assert_eq!(
            read_all(&*world.log, &topic, *expected).len(),
            *expected,
            "{id}"
        );
    }
    let refused = cases.iter().filter(|(_, on)| *on == 0).count() * 2;
    let dead = read_all(&*world.log, &world.names.dlq, refused);
    assert_eq!(dead.len(), refused);
    for letter in dead {
        assert_eq!(
            header(&letter.record.headers, "omnilink.dlq.code"),
            Some(&b"invalid_utf8"[..])
        );
    }
}

#[test]
fn a_change_touches_only_what_has_changed() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(open(dir.path()));
    let mut deployment = Deployment::new(Setup {
        log: Arc::<LocalLog>::clone(&log),
        names: Names::new("omnilink."),
        clock: Arc::new(SystemClock),
        schemas: Arc::new(NoRegistry),
        partitions: PARTITIONS,
        provision: true,
        make_foreign: true,
        lanes: 1,
    });
    let file = |name: &str, to: &str| {
        format!(
            "name: {name}\nsource: {{ topic: {name}.in }}\nsteps: [ {{ route: [ {{ to: {to} }} ] }} ]\n"
        )
    };
    let put = |files: &[(&str, &str)]| {
        let files: BTreeMap<String, String> = files
            .iter()
            .map(|(name, to)| (format!("{name}.yaml"), file(name, to)))
            .collect();
        let files: Vec<(&str, &str)> = files
            .iter()
            .map(|(n, t)| (n.as_str(), t.as_str()))
            .collect();
        set(dir.path(), &files, "omnilink.")
    };
    let names = |deployed: &Deployed| {
        let Deployed {
            started,
            stopped,
            kept,
        } = deployed.clone();
        [started, stopped, kept].map(|names| names.join(" "))
    };
    let first = deployment
        .deploy(&put(&[("a", "out.a"), ("b", "out.b"), ("c", "out.c")]))
        .unwrap();
    assert_eq!(names(&first), ["a b c", "", ""]);
    // Each is fed before and after; `b` changes where it writes, `c` goes.
    let feed = |topics: &[&str]| {
        for topic in topics {
            append(
                &*log,
                &format!("{topic}.in"),
                vec![json_record("k", &json!(1))],
            )
            .unwrap();
        }
    };
    made(&*log, &["out.a", "out.b", "out.c"]);
    feed(&["a", "b", "c"]);
    assert_eq!(read_all(&*log, "out.b", 1).len(), 1);
    assert_eq!(read_all(&*log, "out.c", 1).len(), 1);
    let second = deployment
        .deploy(&put(&[("a", "out.a"), ("b", "out.d")]))
        .unwrap();
    assert_eq!(names(&second), ["b", "c", "a"]);
    made(&*log, &["out.d"]);
    feed(&["a", "b", "c"]);
    assert_eq!(read_all(&*log, "out.d", 1).len(), 1);
    assert_eq!(read_all(&*log, "out.a", 2).len(), 2);
    assert_eq!(read_all(&*log, "out.b", 1).len(), 1);
    assert_eq!(read_all(&*log, "out.c", 1).len(), 1, "it was stopped");
    // Back again, it goes on where it was.
    deployment.deploy(&put(&[("c", "out.c")])).unwrap();
    assert_eq!(read_all(&*log, "out.c", 2).len(), 2);
}
