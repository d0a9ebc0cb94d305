//! Runs the how-tos from the first command to the last, against real services.

use std::time::{Duration, Instant};

use omnilink::log::{Cleanup, TopicSpec, topics::Names};
use serde_json::json;

use crate::support::{
    LogKind, TestLog, append,
    command::{Up, errors},
    env_or_skip,
    pages::{blocks, follow, has, shell},
    projections::Database,
    read_all, record,
};

/// A node on Kafka with a configuration file.
fn start(test_log: &TestLog, database: &Database) -> Up {
    let config = json!({
        "kafka": { "brokers": [brokers()] }, "topics": { "prefix": test_log.prefix, "partitions": 2 },
        "postgres": { "url": database.url() }, "secret_key": ["c2hvcCBzaG9wIHNob3Agc2hvcCBzaG9wIHNob3Agc2g="],
    });
    std::fs::write(
        test_log.dir.path().join("omnilink.yaml"),
        config.to_string(),
    )
    .unwrap();
    Up::start_with(test_log.dir.path(), &[])
}

fn brokers() -> String {
    env_or_skip("OMNILINK_TEST_KAFKA").unwrap()
}

fn services() -> Option<(TestLog, Database)> {
    let test_log = TestLog::new(LogKind::Kafka)?;
    Some((test_log, Database::new()?))
}

#[test]
fn bring_a_topic_of_your_own() {
    let Some((test_log, database)) = services() else {
        return;
    };
    if !has("kcat", &["-V"]) || !has("psql", &["--version"]) {
        return;
    }
    let page = "docs/how-to/bring-a-topic-of-your-own.md";
    let blocks = blocks(page, "# Bring a topic of your own");
    let topic = format!("f{}shop.orders", test_log.prefix);
    let dir = test_log.dir.path();
    let log = test_log.open("test");
    let spec = TopicSpec {
        name: topic.as_str().into(),
        partitions: 1,
        cleanup: Cleanup::Keep,
    };
    log.provision(&[spec], true).unwrap();
    // The records that kcat shows.
    let records = blocks[1].1.lines().map(|line| {
        let (key, value) = line.split_once(' ').unwrap();
        record(key, value)
    });
    append(&*log, &topic, records.collect()).unwrap();
    let up = start(&test_log, &database);

    let yaml = blocks.iter().position(|(kind, _)| kind == "yaml").unwrap();
    let run = |line: &str| {
        let line = line
            .replace("localhost:9092", &brokers())
            .replace("shop.orders", &topic);
        shell(dir, &up, &line, &[("DATABASE_URL", &database.url())]).replace(&topic, "shop.orders")
    };
    follow(&blocks[..2], run);
    let folder = dir.join("topologies");
    std::fs::create_dir(&folder).unwrap();
    let text = blocks[yaml].1.replace("shop.orders", &topic);
    std::fs::write(folder.join("orders.yaml"), text).unwrap();
    let deadline = Instant::now() + Duration::from_mins(3);
    follow(&blocks[yaml + 1..], |line| {
        let version = "SELECT coalesce(sum(version), 0) FROM omnilink.entities";
        while line.starts_with("psql") && database.number(version) < 2 {
            assert!(Instant::now() < deadline, "{}", errors(dir));
            std::thread::sleep(Duration::from_millis(100));
        }
        run(line)
    });
}

#[test]
fn mend_a_bad_record() {
    let Some((test_log, database)) = services() else {
        return;
    };
    if !has("jq", &["--version"]) {
        return;
    }
    let up = start(&test_log, &database);
    let dir = test_log.dir.path();
    let log = test_log.open("test");
    let names = Names::new(&test_log.prefix);
    let run = |commands: &str| shell(dir, &up, commands, &[("OMNILINK_URL", &up.url)]);
    run("env -u OMNILINK_URL omnilink keys create --first");
    // Two records with the same key and without a tenant.
    let event = |id: &str| {
        let event = json!({ "specversion": "1.0", "id": id, "source": "", "type": "order.paid", "data": 1 });
        record("one", &event.to_string())
    };
    append(&*log, &names.ingress, vec![event("1"), event("2")]).unwrap();
    let letters = read_all(&*log, &names.dlq, 2);
    assert_eq!(letters.len(), 2);
    let blocks = blocks(
        "docs/how-to/mend-a-bad-record.md",
        "# Find and mend a bad record",
    );
    let [first, second] = [0, 1].map(|n| format!("{}:{}", letters[n].partition, letters[n].offset));
    follow(&blocks, |line| {
        let line = line.replace("3:17", &first).replace("3:18", &second);
        let printed = run(&line).replace(&test_log.prefix, "omnilink.");
        printed.replace(&first, "3:17").replace(&second, "3:18")
    });
}
