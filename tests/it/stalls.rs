//! Stalls are detected and reported: a hanging lane, a processor that fails repeatedly, an open transaction, an unavailable
//! Postgres.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use omnilink::{
    log::{Cleanup, Fetched, TopicSpec},
    state::{Space, StateError, StateStore},
    stream::{
        Context, Failure, Processor, Transform,
        progress::{ProcessorStatus, Progress},
        stall,
    },
};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::{Value, json};

use crate::support::{
    LogKind, TestLog, append,
    command::{Up, errors, get, omnilink, output},
    env_or_skip, on_both_logs, record, value, wait_until,
};

on_both_logs!(a_lane_that_hangs_is_seen);

/// Writes nothing; the value `hang` blocks the lane while the flag is set.
struct Hang(String, Arc<AtomicBool>);

impl Processor for Hang {
    fn name(&self) -> &'static str {
        "hang"
    }
    fn topics(&self) -> Vec<String> {
        vec![self.0.clone()]
    }
    fn transform(&self, _: &Space, _: &StateStore) -> Result<Box<dyn Transform>, StateError> {
        Ok(Box::new(HangOne(Arc::clone(&self.1))))
    }
}

struct HangOne(Arc<AtomicBool>);

impl Transform for HangOne {
    fn process(&mut self, input: &Fetched, _: &mut Context<'_>) -> Result<(), Failure> {
        while value(input) == "hang" && self.0.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

fn a_lane_that_hangs_is_seen(test_log: TestLog) {
    let log = test_log.open("a");
    let input = test_log.topic("in");
    let topics = ["in", "dlq", "state.hang"].map(|name| test_log.spec(name, 2, Cleanup::Keep));
    log.provision(&topics, true).unwrap();
    let hanging = Arc::new(AtomicBool::new(true));
    let progress = Arc::<Progress>::default();
    let hang = Hang(input.clone(), Arc::clone(&hanging));
    let running = test_log.start_lane(&log, hang, &progress);
    let watch = |until: &dyn Fn(&ProcessorStatus) -> bool, limit: u64| {
        let began = Instant::now();
        loop {
            stall::check(&*log, std::slice::from_ref(&progress)).unwrap();
            let status = progress.status();
            if until(&status) || began.elapsed() > Duration::from_secs(limit) {
                return (status, began.elapsed());
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    };
    append(&*log, &input, vec![record("a", "1"), record("b", "2")]).unwrap();
    let two = || {
        progress
            .positions()
            .iter()
            .map(|(.., next)| next)
            .sum::<u64>()
            == 2
    };
    watch(&|_| two(), 60);
    assert!(two(), "{:?}", progress.positions());
    // Idle; on Kafka only transaction markers follow.
    let (status, _) = watch(&|status| *status != ProcessorStatus::Running, 13);
    assert_eq!(status, ProcessorStatus::Running);

    append(&*log, &input, vec![record("a", "hang"), record("a", "3")]).unwrap();
    let stalled = |status: &ProcessorStatus| matches!(status, ProcessorStatus::Stalled(_));
    let (status, took) = watch(&stalled, 30);
    let why = status.detail().unwrap();
    assert!(why.starts_with("stalled: no progress for "), "{why}");
    assert!(
        why.contains("records wait in") && why.contains(&input),
        "{why}"
    );
    assert!(took >= Duration::from_secs(9), "{took:?}");

    hanging.store(false, Ordering::SeqCst);
    let (status, _) = watch(&|status| *status == ProcessorStatus::Running, 30);
    assert_eq!(status, ProcessorStatus::Running);
    drop(running);
}

fn foreign(name: &str) -> TopicSpec {
    TopicSpec {
        name: name.into(),
        partitions: 1,
        cleanup: Cleanup::Keep,
    }
}

struct Node {
    test_log: TestLog,
    /// The topic that the topology reads.
    shop: String,
    up: Up,
}

impl Node {
    fn start() -> Option<Self> {
        let test_log = TestLog::new(LogKind::Kafka)?;
        let dir = test_log.dir.path();
        let log = test_log.open("source");
        let source = format!("shop-{}", test_log.prefix.trim_end_matches('.'));
        log.provision(&[foreign(&source)], true).unwrap();
        std::fs::create_dir(dir.join("topologies")).unwrap();
        let file = format!(
            r#"name: shop
source: {{ topic: {source}, tenant: acme }}
steps:
  - map: |
      . = {{ "type": "t", "id": to_string!(.id), "source": "/shop", "data": . }}
  - route: [ {{ when: .data.lost == true, to: {source}-out }}, {{ to: ingress }} ]
"#
        );
        std::fs::write(dir.join("topologies/shop.yaml"), file).unwrap();
        let config = json!({
            "kafka": { "brokers": [env_or_skip("OMNILINK_TEST_KAFKA")?] },
            "topics": { "prefix": test_log.prefix, "partitions": 2, "replication_factor": 1 },
            "secret_key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "postgres": { "url": "postgres://nobody:none@127.0.0.1:9/none" },
            "notify": [{ "on": ["dlq"], "to": { "webhook": {
                "url": "http://127.0.0.1:9/", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
            } } }],
        });
        std::fs::write(dir.join("omnilink.yaml"), config.to_string()).unwrap();
        let first = ["keys", "create", "--first", "--data-dir", "data"];
        let (code, _, error) = output(&mut omnilink(dir, &first));
        assert_eq!(code, 0, "{error}");
        let up = Up::start_with(dir, &[]);
        Some(Self {
            test_log,
            shop: source,
            up,
        })
    }

    /// Runs a command that reads Kafka directly.
    fn json(&self, args: &[&str]) -> (i32, Value) {
        let mut command = omnilink(self.test_log.dir.path(), args);
        command.args(["--data-dir", "data", "--json"]);
        let (code, out, error) = output(&mut command);
        let json = serde_json::from_str(&out);
        (code, json.unwrap_or_else(|e| panic!("{e}: {out} {error}")))
    }

    fn ready(&self) -> (String, Value) {
        let response = get(&self.up.url, "/readyz");
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        let status = head.lines().next().unwrap_or_default().to_owned();
        (status, serde_json::from_str(body).unwrap())
    }

    /// Waits until the detail of a part in `/readyz` contains the text.
    fn wait_for_detail(&self, name: &str, so: &str) {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let (status, ready) = self.ready();
            let part = ready["parts"][name]["detail"].as_str().unwrap_or_default();
            if part.starts_with(so) || so.is_empty() && ready["parts"][name]["status"] == "ok" {
                assert!(status.contains("200"), "{status}");
                return;
            }
            let errors = || errors(self.test_log.dir.path());
            assert!(
                Instant::now() < deadline,
                "{name}: {so}: {ready} {}",
                errors()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn metric(&self, line: &str) -> bool {
        get(&self.up.url, "/metrics").lines().any(|l| l == line)
    }

    /// Status and detail of a check of `doctor`.
    fn doctor(&self, check: &str) -> Vec<(String, String)> {
        let (_, found) = self.json(&["doctor"]);
        let items = found["items"].as_array().unwrap().iter();
        let of = |key: &str, item: &Value| item[key].as_str().unwrap_or_default().to_owned();
        items
            .filter(|item| item["check"] == check)
            .map(|item| (of("status", item), of("detail", item)))
            .collect()
    }

    fn lag(&self) -> Vec<Value> {
        let (code, lag) = self.json(&["lag"]);
        assert_eq!(code, 0, "{lag}");
        lag["items"].as_array().unwrap().clone()
    }
}

#[test]
fn stalled_processors_are_reported() {
    let Some(node) = Node::start() else {
        return;
    };
    // Postgres is unavailable: that is a wait with a reason, and `lag` shows the other processors.
    node.wait_for_detail("projection events", "waiting: Postgres");
    assert_eq!(node.ready().1["status"], "degraded");
    let lag = node.lag();
    let of = |lag: &[Value], name: &str| -> Vec<Value> {
        let items = lag.iter().filter(|item| item["processor"] == name);
        items.cloned().collect()
    };
    assert_eq!(of(&lag, "admission").len(), 2, "{lag:?}");
    assert_eq!(of(&lag, "topology.shop").len(), 1, "{lag:?}");
    for name in ["saga", "workers", "planner"] {
        assert_eq!(of(&lag, name).len(), 2, "{name} {lag:?}");
    }
    for name in ["events", "audit", "odoo.ingress", "runs", "tasks"] {
        let unknown = of(&lag, name);
        assert_eq!(unknown.len(), 1, "{name} {lag:?}");
        assert_eq!(unknown[0]["records"], Value::Null);
        let error = unknown[0]["error"].as_str().unwrap();
        assert!(error.contains("Postgres"), "{unknown:?}");
    }
    wait_until("notifications have positions", || {
        let is_one = |item: &Value| {
            let name = item["processor"].as_str().unwrap();
            name.starts_with("notify.dlq.") && item["records"] == 0
        };
        node.lag().iter().filter(|item| is_one(item)).count() == 2
    });
    let mut table = omnilink(node.test_log.dir.path(), &["lag", "--data-dir", "data"]);
    let (code, table, _) = output(&mut table);
    assert_eq!(code, 0);
    assert!(table.contains("unknown: "), "{table}");
    node.wait_for_detail("admission", "");
    assert!(node.metric("omnilink_processor_stalled{processor=\"admission\"} 0"));

    // The topology's outputs cannot be written: it fails repeatedly, or hangs.
    let log = node.test_log.open("producer");
    let lost = json!({ "id": 1, "lost": true }).to_string();
    append(&*log, &node.shop, vec![record("k", &lost)]).unwrap();
    node.wait_for_detail("topologies", "topology.shop: stalled: no progress for ");
    let deadline = Instant::now() + Duration::from_secs(5);
    while !node.metric("omnilink_processor_stalled{processor=\"topology.shop\"} 1") {
        assert!(Instant::now() < deadline, "the metric is not set");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(node.ready().1["parts"]["admission"]["status"], "ok");
    let found = node.doctor("processors");
    let names = |(status, detail): &(String, String)| {
        let place = format!("{}/0 from offset 0", node.shop);
        status == "warning"
            && detail.starts_with("topology.shop: stalled")
            && detail.contains(&place)
    };
    assert!(found.iter().any(names), "{found:?}");
    assert!(
        found
            .iter()
            .any(|(_, detail)| detail.starts_with("events: waiting: ")),
        "{found:?}"
    );
    log.provision(&[foreign(&format!("{}-out", node.shop))], true)
        .unwrap();
    node.wait_for_detail("topologies", "");
}

#[test]
fn an_open_transaction_is_reported() {
    let Some(node) = Node::start() else {
        return;
    };
    node.wait_for_detail("topologies", "");
    let quiet = node.doctor("transactions");
    assert_eq!(quiet.len(), 1);
    assert_eq!(quiet[0].0, "ok", "{quiet:?}");
    let shop = node.shop.clone();
    // Its producers give the time, and this one gives seconds.
    let settings = [
        ("message.timestamp.type", "CreateTime"),
        ("retention.ms", "-1"),
    ];
    node.test_log.alter_topic(&shop, &settings);
    let producer: BaseProducer = ClientConfig::new()
        .set(
            "bootstrap.servers",
            env_or_skip("OMNILINK_TEST_KAFKA").unwrap(),
        )
        .set("transactional.id", node.test_log.topic("shop-producer"))
        .create()
        .unwrap();
    let patience = Duration::from_secs(30);
    producer.init_transactions(patience).unwrap();
    producer.begin_transaction().unwrap();
    for n in 0..5 {
        let value = json!({ "id": n }).to_string();
        let record = BaseRecord::<str, str>::to(&shop).payload(&value);
        assert!(producer.send(record.timestamp(1_764_411_000)).is_ok());
    }
    producer.flush(patience).unwrap();

    let found = node.doctor("transactions");
    assert_eq!(found.len(), 1, "{found:?}");
    let (status, detail) = &found[0];
    assert_eq!(status, "warning");
    assert!(detail.starts_with(&format!("{shop}/0: ")), "{detail}");
    assert!(detail.contains("offsets 0 to 4"), "{detail}");
    assert!(detail.contains("open for at least "), "{detail}");
    let of_shop = || -> Value {
        let lag = node.lag();
        let item = lag.iter().find(|item| item["processor"] == "topology.shop");
        item.unwrap().clone()
    };
    let held = of_shop();
    assert_eq!(
        (&held["records"], &held["uncommitted"]),
        (&json!(5), &json!(5))
    );
    let (status, ready) = node.ready();
    assert!(status.contains("200"), "{ready}");
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let (_, ready) = node.ready();
        let detail = ready["parts"]["topologies"]["detail"].as_str().unwrap();
        if detail.contains("waiting: a producer's transaction") && detail.contains(&shop) {
            break;
        }
        assert!(Instant::now() < deadline, "{ready}");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(node.metric("omnilink_processor_stalled{processor=\"topology.shop\"} 0"));

    producer.abort_transaction(patience).unwrap();
    node.wait_for_detail("topologies", "");
    let after = of_shop();
    assert_eq!(
        (&after["records"], after.get("uncommitted")),
        (&json!(0), None)
    );
    assert_eq!(node.doctor("transactions")[0].0, "ok");
}

#[test]
fn a_source_that_was_deleted_is_reported() {
    let Some(node) = Node::start() else {
        return;
    };
    node.wait_for_detail("topologies", "");
    let ok = ("ok".to_owned(), String::new());
    assert_eq!(node.doctor("positions"), [ok]);
    node.test_log.kafka_admin().delete(&node.shop);
    let missing = format!("topology.shop: there is no topic `{}`", node.shop);
    wait_until("the finding", || {
        let found = node.doctor("positions");
        matches!(&found[..], [(status, detail)] if status == "warning" && detail.starts_with(&missing))
    });
    // It hides no other processor.
    wait_until("the lag of the others", || {
        let mut command = omnilink(node.test_log.dir.path(), &["lag", "--json"]);
        command.args(["--data-dir", "data"]);
        let (code, out, error) = output(command.env("OMNILINK_URL", &node.up.url));
        assert_eq!(code, 0, "{error}");
        let lag: Value = serde_json::from_str(&out).unwrap();
        let items = lag["items"].as_array().unwrap();
        let of = |name: &'static str| items.iter().filter(move |item| item["processor"] == name);
        of("admission").count() == 2 && of("topology.shop").any(|item| item["error"].is_string())
    });
}

/// Checks the metrics of a node with promtool.
#[test]
fn promtool_reports_no_problems() {
    let dir = crate::support::command::Folder::new();
    std::fs::create_dir(dir.path().join("topologies")).unwrap();
    let file = "name: odd\nsource: { topic: events }\nsteps:\n  - map: .n = int!(.data.n)\n  - route: [ { to: odd.out } ]\n";
    std::fs::write(dir.path().join("topologies/odd.yaml"), file).unwrap();
    let up = Up::start_with(dir.path(), &[]);
    let lines: Vec<String> = (0..20)
        .map(|n| {
            let n = if n < 5 { json!("no number") } else { json!(n) };
            let event =
                json!({ "id": n.to_string(), "source": "/s", "type": "t", "data": { "n": n } });
            event.to_string()
        })
        .collect();
    std::fs::write(dir.path().join("events.jsonl"), lines.join("\n")).unwrap();
    let mut send = omnilink(dir.path(), &["send", "events.jsonl", "--data-dir", "data"]);
    let (code, _, error) = output(send.env("OMNILINK_URL", &up.url));
    assert_eq!(code, 0, "{error}");
    let deadline = Instant::now() + Duration::from_mins(2);
    let text = loop {
        let response = get(&up.url, "/metrics");
        let (_, text) = response.split_once("\r\n\r\n").unwrap();
        let there = [
            "omnilink_projection_delay_seconds_bucket{le=\"0.002\"} ",
            "omnilink_port_request_duration_seconds_count ",
            "omnilink_dlq_records_total{stage=\"topology.odd\",code=\"vrl_error\"} 1",
            "omnilink_processor_lag_records{processor=\"admission\"} 0",
            "omnilink_processor_stalled{processor=\"topology.odd\"} 0",
            "omnilink_build_info{version=\"",
            "process_cpu_seconds_total ",
        ];
        match there.iter().find(|line| !text.contains(**line)) {
            None => break text.to_owned(),
            Some(missing) => assert!(Instant::now() < deadline, "{missing} in {text}"),
        }
        std::thread::sleep(Duration::from_millis(500));
    };
    assert!(
        !text.contains("tenant") && !text.contains("quantile="),
        "{text}"
    );
    let path = dir.path().join("metrics.txt");
    std::fs::write(&path, text).unwrap();
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]);
    promtool.stdin(std::fs::File::open(&path).unwrap());
    match promtool.output() {
        Ok(checked) => {
            let said = String::from_utf8_lossy(&checked.stdout).into_owned()
                + &String::from_utf8_lossy(&checked.stderr);
            assert!(checked.status.success() && said.is_empty(), "{said}");
        }
        Err(error) => eprintln!("SKIPPED: promtool: {error} (scripts/install promtool)"),
    }
    assert_eq!(up.stop(), 0);
}
