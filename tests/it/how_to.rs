//! A how-to is followed from its first command to its last, on the real parts.

use std::time::{Duration, Instant};

use omnilink::log::{Cleanup, TopicSpec};
use serde_json::json;

use crate::{
    cli::{Up, errors},
    pages::{blocks, follow, has, shell},
    projections_bed::Database,
    support::{Bed, Kind, append, part, record},
};

#[test]
fn bring_a_topic_of_your_own() {
    let Some(bed) = Bed::new(Kind::Kafka) else {
        return;
    };
    let Some(database) = Database::new() else {
        return;
    };
    if !has("kcat", &["-V"]) || !has("psql", &["--version"]) {
        return;
    }
    let page = "docs/how-to/bring-a-topic-of-your-own.md";
    let blocks = blocks(page, "# Bring a topic of your own");
    let brokers = part("OMNILINK_TEST_KAFKA").unwrap();
    let topic = format!("f{}shop.orders", bed.prefix);
    let dir = bed.dir.path();
    let log = bed.open("test");
    let spec = TopicSpec {
        name: topic.as_str().into(),
        partitions: 1,
        cleanup: Cleanup::Keep,
    };
    log.provision(&[spec], true).unwrap();
    // What kcat is to show lies there.
    let records = blocks[1].1.lines().map(|line| {
        let (key, value) = line.split_once(' ').unwrap();
        record(key, value)
    });
    append(&*log, &topic, records.collect()).unwrap();
    let config = json!({
        "kafka": { "brokers": [brokers] }, "topics": { "prefix": bed.prefix, "partitions": 2 },
        "postgres": { "url": database.url() }, "secret_key": ["c2hvcCBzaG9wIHNob3Agc2hvcCBzaG9wIHNob3Agc2g="],
    });
    std::fs::write(dir.join("omnilink.yaml"), config.to_string()).unwrap();
    let up = Up::start_with(dir, &[]);

    let yaml = blocks.iter().position(|(kind, _)| kind == "yaml").unwrap();
    let run = |line: &str| {
        let line = line
            .replace("localhost:9092", &brokers)
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
    assert_eq!(up.stop(), 0);
}
