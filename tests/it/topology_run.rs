//! Running topologies on both logs: the tests in files, exactly once, redrives, and changes while they run.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use omnilink::{
    controls::SecretKeys,
    envelope::avro,
    log::{Cleanup, Log, Record, TopicSpec, header},
    stream::dlq::{
        redrive::{Pick, Redrive},
        redriven,
    },
    topology::{Deployed, Deployment, check, find, rehearse, render},
};
use serde_json::{Value, json};

use crate::support::{
    LogKind, TestLog, append, on_both_logs, read_all,
    topology::{self, Fixture, PARTITIONS, PREFIX, json_record, numbers, wait_for_topics},
    value,
};

on_both_logs!(
    an_order_becomes_an_event_once,
    redriven_records_pass_dedupe_once,
);

#[test]
fn the_tests_in_files_pass() {
    let checked = check(
        &find(Path::new("tests/topologies/right")).unwrap(),
        "omnilink.",
    );
    let mut reported = 0;
    let outcomes = rehearse(&checked.set.unwrap(), |_| reported += 1);
    assert_eq!(reported, outcomes.len());
    assert!(outcomes.len() >= 13, "{}", outcomes.len());
    for outcome in &outcomes {
        assert!(outcome.passed(), "{}", render(outcome, false));
    }
}

#[test]
fn a_failing_test_shows_the_difference() {
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
    let set = topology::load(dir.path(), &[("wrong.yaml", file)], "omnilink.");
    let outcomes = rehearse(&set, |_| ());
    let texts: Vec<String> = outcomes.iter().map(|o| render(o, false)).collect();
    let (first, second) = (&texts[0], &texts[1]);
    assert!(first.contains("wrong.yaml:8: otherwise"), "{first}");
    for line in [
        "shop.out: 2 records expected (-), 2 found (+)",
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

fn an_order_becomes_an_event_once(test_log: TestLog) {
    let mut fixture = Fixture::new(&test_log);
    let topic = format!("{}orders", fixture.foreign);
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
    let set = topology::load(
        test_log.dir.path(),
        &[("orders.yaml", &file)],
        &test_log.prefix,
    );
    fixture.deployment.deploy(&set).unwrap();
    wait_for_topics(
        &*fixture.log,
        &[&format!("{}rekey.orders", test_log.prefix)],
    );
    for n in 0..30 {
        let order = json!({ "event_id": n, "order_id": n % 5, "state": if n == 7 { "test" } else { "paid" } });
        // Twice, with different keys, as from two producers.
        let twice = vec![
            json_record(&n.to_string(), &order),
            json_record("x", &order),
        ];
        append(&*fixture.log, &topic, twice).unwrap();
    }
    append(
        &*fixture.log,
        &topic,
        vec![json_record("bad", &json!({ "state": 7 }))],
    )
    .unwrap();
    let admitted = read_all(&*fixture.log, &fixture.names.ingress, 29);
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
    let troubles: Vec<_> = fixture
        .deployment
        .progress()
        .iter()
        .filter_map(|(name, progress)| Some((name.clone(), progress.trouble()?)))
        .collect();
    assert_eq!(ids, expected, "{troubles:?}");
    let dead = read_all(&*fixture.log, &fixture.names.dlq, 1);
    assert_eq!(dead.len(), 1);
    assert_eq!(value(&dead[0]), r#"{"state":7}"#);
    assert_eq!(dead[0].record.key.as_deref(), Some(&b"bad"[..]));
    let header_of = |name: &str| header(&dead[0].record.headers, &format!("omnilink.dlq.{name}"));
    assert_eq!(header_of("code"), Some(&b"vrl_error"[..]));
    assert_eq!(header_of("stage"), Some(&b"topology.orders"[..]));
    assert_eq!(header_of("topic"), Some(topic.as_bytes()));
}

/// A record that a step after dedupe rejects: after the topology is fixed, a redrive processes it once.
fn redriven_records_pass_dedupe_once(test_log: TestLog) {
    let mut fixture = Fixture::new(&test_log);
    let (topic, out) = (
        format!("{}orders", fixture.foreign),
        format!("{}out", fixture.foreign),
    );
    // There is a topic between the two stages, and the record waits for the limit.
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
    let deploy = |fixture: &mut Fixture, map: &str| {
        let set = topology::load(
            test_log.dir.path(),
            &[("mended.yaml", &file(map))],
            &test_log.prefix,
        );
        fixture.deployment.deploy(&set).unwrap();
    };
    deploy(&mut fixture, ".n = int!(.n)");
    let orders = [json!({ "id": 1, "n": 1 }), json!({ "id": 2, "n": "2" })];
    let send = |fixture: &Fixture, orders: &[Value]| {
        let records = orders.iter().map(|order| json_record("k", order)).collect();
        append(&*fixture.log, &topic, records).unwrap();
    };
    wait_for_topics(
        &*fixture.log,
        &[&format!("{}rekey.mended.2", test_log.prefix)],
    );
    send(&fixture, &orders);
    assert_eq!(read_all(&*fixture.log, &fixture.names.dlq, 1).len(), 1);
    assert_eq!(numbers(&read_all(&*fixture.log, &out, 1)), [1]);
    deploy(&mut fixture, ".n = to_int!(.n)");
    let redrive = Redrive {
        log: &*fixture.log,
        names: &fixture.names,
        secrets: &fixture.secrets,
    };
    let redriven = redrive.run(&Pick::All, &mut |_| true).unwrap();
    assert_eq!(redriven.redriven, 1);
    let received = |at_least: usize| {
        let mut received = numbers(&read_all(&*fixture.log, &out, at_least));
        received.sort_unstable();
        received
    };
    assert_eq!(received(2), [1, 2]);
    // The same record again: as after a crash during a redrive, from a producer, and with a forged mark.
    let back = read_all(&*fixture.log, &topic, 3).pop().unwrap().record;
    assert!(redriven::count(&fixture.secrets, &topic, &back).is_some());
    append(&*fixture.log, &topic, vec![back.clone()]).unwrap();
    send(&fixture, &orders[1..]);
    let mut forged = back;
    let other = SecretKeys::new([&STANDARD.encode([2; 32])[..]]).unwrap();
    redriven::mark(&other, &topic, &mut forged, 7);
    append(&*fixture.log, &topic, vec![forged]).unwrap();
    send(&fixture, &[json!({ "id": 3, "n": 3 })]);
    assert_eq!(received(3), [1, 2, 3]);
    // A record that had passed dedupe would have waited for the limit.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(received(3), [1, 2, 3]);
}

/// Deploys files of which the n-th writes to the foreign topic `out{n}`.
fn deploy_each(test_log: &TestLog, fixture: &mut Fixture, files: &[(String, String)]) {
    let specs: Vec<TopicSpec> = (0..files.len())
        .map(|n| TopicSpec {
            name: format!("{}out{n}", fixture.foreign).into(),
            partitions: 1,
            cleanup: Cleanup::Keep,
        })
        .collect();
    fixture.log.provision(&specs, true).unwrap();
    let files: Vec<_> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let set = topology::load(test_log.dir.path(), &files, &test_log.prefix);
    fixture.deployment.deploy(&set).unwrap();
}

/// Numbers that are equal as 64-bit floats stay distinct: in programs, in keys and in outputs.
#[test]
fn numbers_keep_their_digits() {
    let test_log = TestLog::new(LogKind::Local).unwrap();
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
    let mut fixture = Fixture::new(&test_log);
    let files: Vec<(String, String)> = steps
        .iter()
        .enumerate()
        .map(|(n, steps)| {
            let text = format!(
                "name: t{n}\nsource: {{ topic: {}orders, tenant: acme }}\nsteps:\n  {steps}\n  - dedupe: {{ window: 24h }}\n  - route: [ {{ to: {}out{n} }} ]\n",
                fixture.foreign, fixture.foreign,
            );
            (format!("t{n}.yaml"), text)
        })
        .collect();
    deploy_each(&test_log, &mut fixture, &files);
    let records: Vec<Record> = ids
        .iter()
        .chain(&ids)
        .map(|id| Record {
            key: None,
            value: Some(format!("{{\"id\":{id},\"sub\":{{\"id\": {id} }}}}").into()),
            headers: Vec::new(),
        })
        .collect();
    append(
        &*fixture.log,
        &format!("{}orders", fixture.foreign),
        records,
    )
    .unwrap();
    for (n, steps) in steps.iter().enumerate() {
        let mut came: Vec<_> = read_all(
            &*fixture.log,
            &format!("{}out{n}", fixture.foreign),
            ids.len(),
        )
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
    assert!(read_all(&*fixture.log, &fixture.names.dlq, 0).is_empty());
}

#[test]
fn keys_that_are_not_utf8_are_distinct_or_refused() {
    let test_log = TestLog::new(LogKind::Local).unwrap();
    // The number of records, of two, that are written.
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
    let mut fixture = Fixture::new(&test_log);
    let files: Vec<(String, String)> = cases
        .iter()
        .enumerate()
        .map(|(n, (id, _))| {
            let text = format!(
                "name: t{n}\nsource: {{ topic: {}orders, tenant: acme }}\nsteps:\n  - map: '.id = {id}'\n  - key: [id]\n  - dedupe: {{ window: 24h }}\n  - route: [ {{ to: {}out{n} }} ]\n",
                fixture.foreign, fixture.foreign,
            );
            (format!("t{n}.yaml"), text)
        })
        .collect();
    deploy_each(&test_log, &mut fixture, &files);
    let records = [0x84_u8, 0x85].map(|byte| Record {
        key: Some(vec![byte].into()),
        value: Some("{}".into()),
        headers: vec![("h".into(), Some(vec![byte].into()))],
    });
    append(
        &*fixture.log,
        &format!("{}orders", fixture.foreign),
        records.to_vec(),
    )
    .unwrap();
    for (n, (id, expected)) in cases.iter().enumerate() {
        let topic = format!("{}out{n}", fixture.foreign);
        assert_eq!(
            read_all(&*fixture.log, &topic, *expected).len(),
            *expected,
            "{id}"
        );
    }
    let refused = cases.iter().filter(|(_, on)| *on == 0).count() * 2;
    let dead = read_all(&*fixture.log, &fixture.names.dlq, refused);
    assert_eq!(dead.len(), refused);
    for letter in dead {
        assert_eq!(
            header(&letter.record.headers, "omnilink.dlq.code"),
            Some(&b"invalid_utf8"[..])
        );
    }
}

#[test]
fn a_deployment_restarts_only_changed_topologies() {
    let dir = tempfile::tempdir().unwrap();
    let log: Arc<dyn Log> = Arc::new(topology::open_local(dir.path()));
    let mut deployment = Deployment::new(topology::setup(&log, PREFIX, PARTITIONS));
    let file = |name: &str, to: &str| {
        format!(
            "name: {name}\nsource: {{ topic: {name}.in }}\nsteps: [ {{ route: [ {{ to: {to} }} ] }} ]\n"
        )
    };
    let load = |files: &[(&str, &str)]| {
        let files: BTreeMap<String, String> = files
            .iter()
            .map(|(name, to)| (format!("{name}.yaml"), file(name, to)))
            .collect();
        let files: Vec<(&str, &str)> = files
            .iter()
            .map(|(n, t)| (n.as_str(), t.as_str()))
            .collect();
        topology::load(dir.path(), &files, "omnilink.")
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
        .deploy(&load(&[("a", "out.a"), ("b", "out.b"), ("c", "out.c")]))
        .unwrap();
    assert_eq!(names(&first), ["a b c", "", ""]);
    // All get records before and after the change: `b` writes to another topic, `c` is removed.
    let send = |topics: &[&str]| {
        for topic in topics {
            append(
                &*log,
                &format!("{topic}.in"),
                vec![json_record("k", &json!(1))],
            )
            .unwrap();
        }
    };
    wait_for_topics(&*log, &["out.a", "out.b", "out.c"]);
    send(&["a", "b", "c"]);
    assert_eq!(read_all(&*log, "out.b", 1).len(), 1);
    assert_eq!(read_all(&*log, "out.c", 1).len(), 1);
    let second = deployment
        .deploy(&load(&[("a", "out.a"), ("b", "out.d")]))
        .unwrap();
    assert_eq!(names(&second), ["b", "c", "a"]);
    wait_for_topics(&*log, &["out.d"]);
    send(&["a", "b", "c"]);
    assert_eq!(read_all(&*log, "out.d", 1).len(), 1);
    assert_eq!(read_all(&*log, "out.a", 2).len(), 2);
    assert_eq!(read_all(&*log, "out.b", 1).len(), 1);
    assert_eq!(read_all(&*log, "out.c", 1).len(), 1, "it was stopped");
    // Deployed again, it resumes at its position.
    deployment.deploy(&load(&[("c", "out.c")])).unwrap();
    assert_eq!(read_all(&*log, "out.c", 2).len(), 2);
}
