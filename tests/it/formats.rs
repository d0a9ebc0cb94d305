//! Foreign Avro with a schema registry, CSV and text, on both logs: decoding, dead letters, and an unavailable registry.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use apache_avro::{schema::Schema, types::Value as Avro, writer::datum::GenericDatumWriter};
use base64::{Engine, engine::general_purpose::STANDARD};
use omnilink::{
    admission::Admission,
    config::{Config, Sources},
    controls::SecretKeys,
    envelope::{avro, foreign::Schemas},
    log::{Cleanup, Fetched, Log, Record, TopicSpec, header, partition_for, topics::Names},
    registry::Registry,
    stream::{
        dlq::redrive::{Pick, Redrive},
        progress::Progress,
    },
    topology::{Deployment, Setup, check},
};
use serde_json::{Value, json};

use crate::support::{
    TestLog, append, on_both_logs, read_all,
    schema_registry::{Mode, TestRegistry},
    value, wait_until,
};

on_both_logs!(
    a_topology_reads_avro,
    an_unavailable_registry_delays_only_the_affected_partition,
    admission_reads_every_foreign_format,
    redriven_records_ask_the_registry_again,
    csv_and_text_become_records,
);

const PARTITIONS: u32 = 3;
const ORDER: &str = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
    {"name":"id","type":"string"},
    {"name":"total","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}},
    {"name":"line","type":["null","shop.Line"],"default":null}]}"#;
const LINE: &str = r#"{"type":"record","name":"Line","namespace":"shop","fields":[{"name":"sku","type":"string"}]}"#;
const TEXT: &str = r#"{"type":"record","name":"T","fields":[{"name":"n","type":"string"}]}"#;

/// A registry client as the configuration creates it.
fn registry(url: &str) -> Arc<Registry> {
    let env = vec![("OMNILINK__SCHEMA_REGISTRY__URL".into(), url.to_owned())];
    let config = Config::load(&Sources {
        env,
        ..Sources::default()
    });
    let url = config.unwrap().schema_registry_url.unwrap();
    Arc::new(Registry::start(&url).unwrap())
}

fn secrets() -> SecretKeys {
    SecretKeys::new([&STANDARD.encode([1; 32])[..]]).unwrap()
}

fn framed(id: u32, datum: &[u8]) -> Vec<u8> {
    [&[0], &id.to_be_bytes()[..], datum].concat()
}

fn datum(schema: &str, fields: &[(&str, Avro)]) -> Vec<u8> {
    let schema = Schema::parse_str(schema).unwrap();
    let record = fields.iter().map(|(n, v)| ((*n).to_owned(), v.clone()));
    let writer = GenericDatumWriter::builder(&schema).build().unwrap();
    let mut out = Vec::new();
    writer
        .write_value(&mut out, Avro::Record(record.collect()))
        .unwrap();
    out
}

fn text(n: &str) -> Vec<u8> {
    datum(TEXT, &[("n", Avro::String(n.to_owned()))])
}

fn record(key: &str, value: Vec<u8>) -> Record {
    Record {
        key: Some(key.to_owned().into()),
        value: Some(value.into()),
        headers: vec![("omnilink-tenant".into(), Some("acme".into()))],
    }
}

/// A log with one topology.
struct Fixture {
    log: Arc<dyn Log>,
    names: Names,
    deployment: Deployment,
    source: String,
    out: String,
}

/// Deploys a file in which `SOURCE` and `OUT` stand for the topics.
fn fixture(test_log: &TestLog, schemas: Arc<dyn Schemas>, file: &str) -> Fixture {
    let log = test_log.open("a");
    let names = Names::new(&test_log.prefix);
    log.provision(&names.specs(PARTITIONS), true).unwrap();
    let topic = |name: &str| format!("f{}{name}", test_log.prefix);
    let (source, out) = (topic("in"), topic("out"));
    let specs = [&source, &out].map(|name| TopicSpec {
        name: name.as_str().into(),
        partitions: PARTITIONS,
        cleanup: Cleanup::Keep,
    });
    log.provision(&specs, true).unwrap();
    let path = test_log.dir.path().join("file.yaml");
    let file = file.replace("SOURCE", &source).replace("OUT", &out);
    std::fs::write(&path, file).unwrap();
    let checked = check(&[path], &test_log.prefix);
    let problems: Vec<_> = checked.problems.iter().map(|p| p.render(false)).collect();
    let set = checked
        .set
        .unwrap_or_else(|| panic!("{}", problems.join("\n")));
    let mut deployment = Deployment::new(Setup {
        schemas,
        ..test_log.topology_setup(&log, PARTITIONS)
    });
    deployment = deployment.with_secrets(Arc::new(secrets()));
    deployment.deploy(&set).unwrap();
    Fixture {
        log,
        names,
        deployment,
        source,
        out,
    }
}

impl Fixture {
    fn send(&self, records: Vec<Record>) {
        append(&*self.log, &self.source, records).unwrap();
    }

    fn came(&self, at_least: usize) -> Vec<Fetched> {
        read_all(&*self.log, &self.out, at_least)
    }

    fn trouble(&self) -> Option<String> {
        let progress = self.deployment.progress();
        progress
            .iter()
            .find_map(|(_, progress): &(String, Arc<Progress>)| progress.trouble())
    }

    /// The code and the value of each dead letter.
    fn dead(&self, at_least: usize) -> Vec<(String, Vec<u8>)> {
        let dead = read_all(&*self.log, &self.names.dlq, at_least);
        let mut dead: Vec<_> = dead
            .iter()
            .map(|f| {
                let code = header(&f.record.headers, "omnilink.dlq.code").unwrap();
                let value = f.record.value.clone().unwrap_or_default();
                (String::from_utf8_lossy(code).into_owned(), value.to_vec())
            })
            .collect();
        dead.sort();
        dead
    }
}

fn a_topology_reads_avro(test_log: TestLog) {
    // The password is percent-encoded in the URL.
    let server = TestRegistry::start_with(Some("Basic bWU6cEBzcw=="));
    server.register("line", LINE, &json!({}));
    let references =
        json!({ "references": [{ "name": "shop.Line", "subject": "line", "version": 1 }] });
    let order = server.register("order", ORDER, &references);
    let protobuf = server.register(
        "p",
        "syntax = \"proto3\";",
        &json!({ "schemaType": "PROTOBUF" }),
    );
    let broken = server.register("b", "{\"type\":\"nothing\"}", &json!({}));
    let doc = "x".repeat(1 << 20);
    let huge = format!(r#"{{"type":"record","name":"H","doc":"{doc}","fields":[]}}"#);
    let huge = server.register("h", &huge, &json!({}));
    let url = server.url.replace("http://", "http://me:p%40ss@");
    let fixture = fixture(
        &test_log,
        registry(&url),
        r#"
name: avro
source: { topic: SOURCE, codec: avro, tenant: acme }
steps:
  - map: |
      . = { "id": string!(.id), "source": "/avro", "type": "order", "data": . }
  - route: [ { to: ingress } ]
"#,
    );
    let good = [
        vec![2, b'1', 4],
        1250_i16.to_be_bytes().to_vec(),
        vec![2, 2, b'x'],
    ]
    .concat();
    let cut = framed(order, &good[..4]);
    fixture.send(vec![
        record("a", framed(order, &good)),
        record("b", cut.clone()),
        record("c", framed(77, b"x")),
        record("d", framed(protobuf, b"x")),
        record("e", framed(broken, b"x")),
        record("g", framed(huge, b"")),
        record("f", b"{}".to_vec()),
    ]);
    let events = read_all(&*fixture.log, &fixture.names.ingress, 1);
    assert_eq!(events.len(), 1, "{:?}", fixture.trouble());
    let event = avro::decode_ingress(events[0].record.value.as_ref().unwrap()).unwrap();
    let omnilink::envelope::Data::Json(data) = &event.data else {
        panic!("{event:?}");
    };
    let data: Value = serde_json::from_str(data).unwrap();
    assert_eq!(
        data,
        json!({ "id": "1", "total": "12.50", "line": { "sku": "x" } })
    );
    let mut expected = vec![
        ("invalid_payload".to_owned(), cut),
        ("invalid_payload".to_owned(), b"{}".to_vec()),
        ("unknown_schema".to_owned(), framed(77, b"x")),
        ("unsupported_schema".to_owned(), framed(protobuf, b"x")),
        ("unsupported_schema".to_owned(), framed(broken, b"x")),
        ("unsupported_schema".to_owned(), framed(huge, b"")),
    ];
    expected.sort();
    assert_eq!(fixture.dead(6), expected);
    // Each schema id is requested once.
    fixture.send(vec![record("a", framed(order, &good)); 5]);
    assert_eq!(read_all(&*fixture.log, &fixture.names.ingress, 6).len(), 6);
    let asked = server.requests();
    let times = |path: &str| asked.iter().filter(|a| a.contains(path)).count();
    assert_eq!(times(&format!("/schemas/ids/{order}")), 1, "{asked:?}");
    assert_eq!(times("/schemas/ids/77"), 1, "{asked:?}");
}

fn an_unavailable_registry_delays_only_the_affected_partition(test_log: TestLog) {
    let server = TestRegistry::start();
    let known = server.register("known", TEXT, &json!({}));
    let later = server.register("later", &TEXT.replace("\"T\"", "\"L\""), &json!({}));
    let registry = registry(&server.url);
    let mut fixture = fixture(
        &test_log,
        registry.clone(),
        r"
name: held
source: { topic: SOURCE, codec: avro, tenant: acme }
steps:
  - filter: .n != null
  - route: [ { to: OUT } ]
",
    );
    // One key for each partition.
    let keys: Vec<String> = (0..PARTITIONS)
        .map(|wanted| {
            (0..100)
                .map(|n| n.to_string())
                .find(|key| partition_for(key.as_bytes(), PARTITIONS) == wanted)
                .unwrap()
        })
        .collect();
    let say = |key: usize, id: u32, n: &str| record(&keys[key], framed(id, &text(n)));
    fixture.send(vec![say(0, known, "first")]);
    assert_eq!(fixture.came(1).len(), 1);

    for (round, mode) in [Mode::Down, Mode::Hangs, Mode::Foreign]
        .into_iter()
        .enumerate()
    {
        server.set_mode(mode);
        // A new schema in each round, which is not cached.
        let new = server.register(
            "new",
            &TEXT.replace("\"T\"", &format!("\"N{round}\"")),
            &json!({}),
        );
        let before = fixture.came(1 + 154 * round).len();
        let mut records = vec![say(0, known, "before"), say(0, new, "held")];
        for n in 0..50 {
            records.push(say(0, known, &n.to_string()));
            records.push(say(1, known, &n.to_string()));
            records.push(say(2, known, &n.to_string()));
        }
        fixture.send(records);
        // The other partitions continue, and so do the records before the delayed one.
        let came = fixture.came(before + 101);
        assert_eq!(came.len(), before + 101, "{mode:?}");
        wait_until("the wait is reported", || {
            fixture
                .trouble()
                .is_some_and(|why| why.contains(&format!("schema {new}")))
        });
        if mode != Mode::Hangs {
            wait_until("the registry is reported", || {
                registry.last_error().is_some()
            });
        }
        // Records that arrive in the meantime are processed too, and nothing is processed twice.
        fixture.send(vec![say(1, known, "meanwhile"), say(0, known, "behind")]);
        assert_eq!(fixture.came(before + 102).len(), before + 102, "{mode:?}");
        server.set_mode(Mode::Works);
        let came = fixture.came(before + 154);
        assert_eq!(
            came.len(),
            before + 154,
            "{mode:?}: {:?}",
            fixture.trouble()
        );
        let of_first: Vec<String> = came
            .iter()
            .filter(|f| f.record.key.as_deref() == Some(keys[0].as_bytes()))
            .map(|f| {
                serde_json::from_str::<Value>(&value(f)).unwrap()["n"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        let start = of_first.len() - 53;
        let mut expected = vec!["before".to_owned(), "held".into()];
        expected.extend((0..50).map(|n| n.to_string()));
        expected.push("behind".into());
        assert_eq!(of_first[start..], expected, "{mode:?}");
        wait_until("nothing is reported any more", || {
            fixture.trouble().is_none() && registry.last_error().is_none()
        });
    }

    // A stop does not wait for the registry.
    server.set_mode(Mode::Hangs);
    fixture.send(vec![say(0, later, "never")]);
    wait_until("the wait is reported", || fixture.trouble().is_some());
    let began = Instant::now();
    fixture.deployment.stop();
    drop(registry);
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

fn admission_reads_every_foreign_format(test_log: TestLog) {
    const CLOUD: &str = r#"{"type":"record","name":"C","fields":[{"name":"specversion","type":"string"},{"name":"id","type":"string"},
        {"name":"source","type":"string"},{"name":"type","type":"string"},{"name":"data","type":["null","int"]}]}"#;
    let server = TestRegistry::start();
    let cloud = server.register("cloud", CLOUD, &json!({}));
    let other = server.register("other", TEXT, &json!({}));
    let log = test_log.open("a");
    let names = Names::new(&test_log.prefix);
    log.provision(&names.specs(PARTITIONS), true).unwrap();
    let admission = Admission::new(&names, PARTITIONS, 24 * 3_600_000, false)
        .with_schemas(registry(&server.url));
    let progress = Arc::<Progress>::default();
    let running = test_log.start_lane(&log, admission, &progress);
    let string = |value: &str| Avro::String(value.to_owned());
    let event = datum(
        CLOUD,
        &[
            ("specversion", string("1.0")),
            ("id", string("avro")),
            ("source", string("/s")),
            ("type", string("t")),
            ("data", Avro::Union(1, Box::new(Avro::Int(5)))),
        ],
    );
    let agent = br#"{"eventId":"agent","eventType":"odoo:expense.paid","payload":{},"source":"s","tenantId":"x"}"#;
    let nobody = Record {
        headers: Vec::new(),
        ..record("n", agent.to_vec())
    };
    let records = vec![
        record("a", framed(cloud, &event)),
        // A duplicate.
        record("b", framed(cloud, &event)),
        record("c", agent.to_vec()),
        record("d", framed(other, &text("x"))),
        record("e", framed(99, &event)),
        nobody,
    ];
    append(&*log, &names.ingress, records).unwrap();
    let events = read_all(&*log, &names.events, 2);
    let mut found: Vec<(String, String)> = events
        .iter()
        .map(|f| {
            let (event, _) = avro::decode_event(f.record.value.as_ref().unwrap()).unwrap();
            (event.id.to_string(), event.tenant.to_string())
        })
        .collect();
    found.sort();
    let acme = |id: &str| (id.to_owned(), "acme".to_owned());
    assert_eq!(
        found,
        [acme("agent"), acme("avro")],
        "{:?}",
        progress.trouble()
    );
    let dead = read_all(&*log, &names.dlq, 3);
    let mut codes: Vec<_> = dead
        .iter()
        .map(|f| {
            header(&f.record.headers, "omnilink.dlq.code")
                .unwrap()
                .to_vec()
        })
        .collect();
    codes.sort();
    assert_eq!(
        codes,
        [
            &b"missing_tenant"[..],
            b"unknown_schema",
            b"unrecognised_payload"
        ]
    );
    drop(running);
}

fn redriven_records_ask_the_registry_again(test_log: TestLog) {
    let server = TestRegistry::start();
    let known = server.register("known", TEXT, &json!({}));
    let fixture = fixture(
        &test_log,
        registry(&server.url),
        r"
name: late
source: { topic: SOURCE, codec: avro, tenant: acme }
steps:
  - filter: .n != null
  - route: [ { to: OUT } ]
",
    );
    let later = known + 1;
    let redrive = || {
        let redrive = Redrive {
            log: &*fixture.log,
            names: &fixture.names,
            secrets: &secrets(),
        };
        let done = redrive.run(&Pick::All, &mut |_| true).unwrap();
        done.redriven
    };
    let asked = || {
        let path = format!("/schemas/ids/{later}");
        let asked = server.requests();
        asked.iter().filter(|a| a.ends_with(&path)).count()
    };
    let records = (0..200).map(|n| record("k", framed(later, &text(&n.to_string()))));
    fixture.send(records.collect());
    let refused = vec![("unknown_schema".to_owned(), framed(later, &text("0")))];
    assert_eq!(fixture.dead(200)[..1], refused);
    // The answer is cached, so there are few requests.
    assert!(asked() <= 3, "{}", asked());

    // Still unknown: redriven records request the schema again, or share a response.
    let before = asked();
    assert_eq!(redrive(), 200);
    assert_eq!(fixture.dead(400).len(), 400, "{:?}", fixture.trouble());
    let again = asked() - before;
    assert!((1..=200).contains(&again), "{again}");

    // Now it is registered, and the records are redriven immediately.
    let id = server.register("later", &TEXT.replace("\"T\"", "\"L\""), &json!({}));
    assert_eq!(id, later);
    assert_eq!(redrive(), 200);
    let came = fixture.came(200);
    assert_eq!(
        (came.len(), fixture.dead(400).len()),
        (200, 400),
        "{:?}",
        fixture.trouble()
    );
    // In order.
    let values = came.iter().map(value);
    let expected = (0..200).map(|n| format!(r#"{{"n":"{n}"}}"#));
    assert!(values.eq(expected), "{:?}", fixture.trouble());
}

fn csv_and_text_become_records(test_log: TestLog) {
    let fixture = fixture(
        &test_log,
        Arc::new(omnilink::envelope::foreign::NoRegistry),
        r#"
name: rows
source: { topic: SOURCE, codec: { csv: { delimiter: ";" } }, tenant: acme }
steps:
  - map: |
      .total = to_float!(.total)
  - key: [order]
  - route: [ { to: OUT } ]
"#,
    );
    let file = "\u{feff}order;total;note\r\n1;9.5;\"a;\r\nb\"\r\n\r\n2;x;\r\n3\r\n4;1;\r\n";
    fixture.send(vec![record("k", file.as_bytes().to_vec())]);
    let came = fixture.came(2);
    let mut values: Vec<Value> = came
        .iter()
        .map(|f| serde_json::from_str(&value(f)).unwrap())
        .collect();
    values.sort_by_key(|v| v["order"].to_string());
    assert_eq!(
        values,
        [
            json!({ "order": "1", "total": 9.5, "note": "a;\r\nb" }),
            json!({ "order": "4", "total": 1.0, "note": "" }),
        ],
        "{:?}",
        fixture.trouble()
    );
    // Each bad row is a dead letter of its own, with the header that it needs to be read again.
    assert_eq!(
        fixture.dead(2),
        [
            ("vrl_error".to_owned(), b"order;total;note\n2;x;".to_vec()),
            ("wrong_columns".to_owned(), b"order;total;note\n3".to_vec()),
        ]
    );
}
