//! Foreign Avro by way of a registry, CSV and text, on both logs: what becomes of records, and of a registry that is away.

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
        lane,
        progress::Progress,
    },
    topology::{Deployment, Setup, check},
};
use serde_json::{Value, json};

use crate::{
    registry_bed::{Mode, TestRegistry},
    support::{Bed, append, on_both, read_all, value},
};

on_both!(
    a_topology_reads_avro,
    a_registry_that_is_away_holds_up_its_partition_alone,
    admission_reads_every_foreign_form,
    what_went_back_asks_the_registry_again,
    csv_and_text_become_records,
);

const PARTITIONS: u32 = 3;
const ORDER: &str = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
    {"name":"id","type":"string"},
    {"name":"total","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}},
    {"name":"line","type":["null","shop.Line"],"default":null}]}"#;
const LINE: &str = r#"{"type":"record","name":"Line","namespace":"shop","fields":[{"name":"sku","type":"string"}]}"#;
const TEXT: &str = r#"{"type":"record","name":"T","fields":[{"name":"n","type":"string"}]}"#;

/// A registry as the configuration names it.
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

/// A log with one topology on it.
struct World {
    log: Arc<dyn Log>,
    names: Names,
    deployment: Deployment,
    source: String,
    out: String,
}

/// `SOURCE` and `OUT` in the file are its topics.
fn world(bed: &Bed, schemas: Arc<dyn Schemas>, file: &str) -> World {
    let log = bed.open("a");
    let names = Names::new(&bed.prefix);
    log.provision(&names.specs(PARTITIONS), true).unwrap();
    let topic = |name: &str| format!("f{}{name}", bed.prefix);
    let (source, out) = (topic("in"), topic("out"));
    let specs = [&source, &out].map(|name| TopicSpec {
        name: name.as_str().into(),
        partitions: PARTITIONS,
        cleanup: Cleanup::Keep,
    });
    log.provision(&specs, true).unwrap();
    let path = bed.dir.path().join("file.yaml");
    let file = file.replace("SOURCE", &source).replace("OUT", &out);
    std::fs::write(&path, file).unwrap();
    let checked = check(&[path], &bed.prefix);
    let problems: Vec<_> = checked.problems.iter().map(|p| p.render(false)).collect();
    let set = checked
        .set
        .unwrap_or_else(|| panic!("{}", problems.join("\n")));
    let mut deployment = Deployment::new(Setup {
        log: Arc::clone(&log),
        names: names.clone(),
        clock: Arc::clone(&bed.clock),
        schemas,
        partitions: PARTITIONS,
        provision: true,
        make_foreign: false,
        lanes: bed.lanes(),
    });
    deployment = deployment.with_secrets(Arc::new(secrets()));
    deployment.deploy(&set).unwrap();
    World {
        log,
        names,
        deployment,
        source,
        out,
    }
}

impl World {
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

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within 60 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn a_topology_reads_avro(bed: Bed) {
    // Percent-encoded, as every URL's password is.
    let server = TestRegistry::guarded(Some("Basic bWU6cEBzcw=="));
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
    let world = world(
        &bed,
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
    world.send(vec![
        record("a", framed(order, &good)),
        record("b", cut.clone()),
        record("c", framed(77, b"x")),
        record("d", framed(protobuf, b"x")),
        record("e", framed(broken, b"x")),
        record("g", framed(huge, b"")),
        record("f", b"{}".to_vec()),
    ]);
    let events = read_all(&*world.log, &world.names.ingress, 1);
    assert_eq!(events.len(), 1, "{:?}", world.trouble());
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
    assert_eq!(world.dead(6), expected);
    // Each id is asked for once.
    world.send(vec![record("a", framed(order, &good)); 5]);
    assert_eq!(read_all(&*world.log, &world.names.ingress, 6).len(), 6);
    let asked = server.asked();
    let times = |path: &str| asked.iter().filter(|a| a.contains(path)).count();
    assert_eq!(times(&format!("/schemas/ids/{order}")), 1, "{asked:?}");
    assert_eq!(times("/schemas/ids/77"), 1, "{asked:?}");
}

fn a_registry_that_is_away_holds_up_its_partition_alone(bed: Bed) {
    let server = TestRegistry::start();
    let known = server.register("known", TEXT, &json!({}));
    let later = server.register("later", &TEXT.replace("\"T\"", "\"L\""), &json!({}));
    let registry = registry(&server.url);
    let mut world = world(
        &bed,
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
    world.send(vec![say(0, known, "first")]);
    assert_eq!(world.came(1).len(), 1);

    for (round, mode) in [Mode::Down, Mode::Hangs, Mode::Strange]
        .into_iter()
        .enumerate()
    {
        server.set(mode);
        // A schema of its own for each round, which nobody has yet.
        let new = server.register(
            "new",
            &TEXT.replace("\"T\"", &format!("\"N{round}\"")),
            &json!({}),
        );
        let before = world.came(1 + 154 * round).len();
        let mut records = vec![say(0, known, "before"), say(0, new, "held")];
        for n in 0..50 {
            records.push(say(0, known, &n.to_string()));
            records.push(say(1, known, &n.to_string()));
            records.push(say(2, known, &n.to_string()));
        }
        world.send(records);
        // The other partitions go on, and what came before the record in its own one.
        let came = world.came(before + 101);
        assert_eq!(came.len(), before + 101, "{mode:?}");
        until("the stall shows", || {
            world
                .trouble()
                .is_some_and(|why| why.contains(&format!("schema {new}")))
        });
        if mode != Mode::Hangs {
            until("the registry's trouble shows", || {
                registry.last_error().is_some()
            });
        }
        // What comes meanwhile passes by as well, and nothing is taken twice.
        world.send(vec![say(1, known, "meanwhile"), say(0, known, "behind")]);
        assert_eq!(world.came(before + 102).len(), before + 102, "{mode:?}");
        server.set(Mode::Works);
        let came = world.came(before + 154);
        assert_eq!(came.len(), before + 154, "{mode:?}: {:?}", world.trouble());
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
        until("it runs", || {
            world.trouble().is_none() && registry.last_error().is_none()
        });
    }

    // It stops at once, whatever it waits for.
    server.set(Mode::Hangs);
    world.send(vec![say(0, later, "never")]);
    until("the stall shows", || world.trouble().is_some());
    let began = Instant::now();
    world.deployment.stop();
    drop(registry);
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

fn admission_reads_every_foreign_form(bed: Bed) {
    const CLOUD: &str = r#"{"type":"record","name":"C","fields":[{"name":"specversion","type":"string"},{"name":"id","type":"string"},
        {"name":"source","type":"string"},{"name":"type","type":"string"},{"name":"data","type":["null","int"]}]}"#;
    let server = TestRegistry::start();
    let cloud = server.register("cloud", CLOUD, &json!({}));
    let other = server.register("other", TEXT, &json!({}));
    let log = bed.open("a");
    let names = Names::new(&bed.prefix);
    log.provision(&names.specs(PARTITIONS), true).unwrap();
    let admission = Admission::new(&names, PARTITIONS, 24 * 3_600_000, false)
        .with_schemas(registry(&server.url));
    let progress = Arc::<Progress>::default();
    let running = lane::start(
        Arc::new(admission),
        lane::Setup {
            log: Arc::clone(&log),
            dlq: Arc::clone(&names.dlq),
            clock: Arc::clone(&bed.clock),
            progress: Arc::clone(&progress),
        },
    )
    .unwrap();
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
        // Twice, for it is an event like any other.
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

fn what_went_back_asks_the_registry_again(bed: Bed) {
    let server = TestRegistry::start();
    let known = server.register("known", TEXT, &json!({}));
    let world = world(
        &bed,
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
            log: &*world.log,
            names: &world.names,
            secrets: &secrets(),
        };
        let done = redrive.run(&Pick::All, &mut |_| true).unwrap();
        done.redriven
    };
    let asked = || {
        let path = format!("/schemas/ids/{later}");
        let asked = server.asked();
        asked.iter().filter(|a| a.ends_with(&path)).count()
    };
    let records = (0..200).map(|n| record("k", framed(later, &text(&n.to_string()))));
    world.send(records.collect());
    let refused = vec![("unknown_schema".to_owned(), framed(later, &text("0")))];
    assert_eq!(world.dead(200)[..1], refused);
    // It is remembered, so few of them asked.
    assert!(asked() <= 3, "{}", asked());

    // Still unknown: each asks again, or is answered with what one of them heard.
    let before = asked();
    assert_eq!(redrive(), 200);
    assert_eq!(world.dead(400).len(), 400, "{:?}", world.trouble());
    let again = asked() - before;
    assert!((1..=200).contains(&again), "{again}");

    // Registered meanwhile, and sent back within the moment.
    let id = server.register("later", &TEXT.replace("\"T\"", "\"L\""), &json!({}));
    assert_eq!(id, later);
    assert_eq!(redrive(), 200);
    let came = world.came(200);
    assert_eq!(
        (came.len(), world.dead(400).len()),
        (200, 400),
        "{:?}",
        world.trouble()
    );
    // In their order.
    let values = came.iter().map(value);
    let expected = (0..200).map(|n| format!(r#"{{"n":"{n}"}}"#));
    assert!(values.eq(expected), "{:?}", world.trouble());
}

fn csv_and_text_become_records(bed: Bed) {
    let world = world(
        &bed,
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
    world.send(vec![record("k", file.as_bytes().to_vec())]);
    let came = world.came(2);
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
        world.trouble()
    );
    // Each bad row alone, with the names that it needs to be read again.
    assert_eq!(
        world.dead(2),
        [
            ("vrl_error".to_owned(), b"order;total;note\n2;x;".to_vec()),
            ("wrong_columns".to_owned(), b"order;total;note\n3".to_vec()),
        ]
    );
}
