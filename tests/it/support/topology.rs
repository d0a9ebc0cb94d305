//! Fixtures for topologies: loading files, deploying them, and reading what they write.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use omnilink::{
    base::clock::SystemClock,
    controls::SecretKeys,
    envelope::foreign::NoRegistry,
    log::{
        Cleanup, Fetched, Log, Record, TopicSpec,
        local::{LocalLog, LocalOptions},
        topics::Names,
    },
    topology::{Deployment, Set, Setup, check},
};
use serde_json::Value;

use super::TestLog;

pub const PARTITIONS: u32 = 3;
/// The topic prefix of [`open_local`].
pub const PREFIX: &str = "omnilink.";

/// The setup of a deployment as on the embedded log: one lane, and foreign topics are created.
pub fn setup(log: &Arc<dyn Log>, prefix: &str, partitions: u32) -> Setup {
    Setup {
        log: Arc::clone(log),
        names: Names::new(prefix),
        clock: Arc::new(SystemClock),
        schemas: Arc::new(NoRegistry),
        partitions,
        provision: true,
        make_foreign: true,
        lanes: 1,
    }
}

/// Writes topology files and checks them; panics with their problems.
pub fn load(dir: &Path, files: &[(&str, &str)], prefix: &str) -> Set {
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

/// A log with a deployment, and the foreign topics `orders` and `out`.
pub struct Fixture {
    pub log: Arc<dyn Log>,
    pub names: Names,
    pub secrets: Arc<SecretKeys>,
    pub deployment: Deployment,
    /// The prefix of the foreign topics.
    pub foreign: String,
}

impl Fixture {
    pub fn new(test_log: &TestLog) -> Self {
        let log = test_log.open("a");
        let names = Names::new(&test_log.prefix);
        log.provision(&names.specs(PARTITIONS), true).unwrap();
        let foreign = format!("f{}", test_log.prefix);
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
        let deployment = Deployment::new(test_log.topology_setup(&log, PARTITIONS))
            .with_secrets(Arc::clone(&secrets));
        Self {
            log,
            names,
            secrets,
            deployment,
            foreign,
        }
    }
}

/// Waits until these topics exist.
pub fn wait_for_topics(log: &dyn Log, topics: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while topics.iter().any(|topic| log.partitions(topic).is_err()) {
        assert!(Instant::now() < deadline, "{topics:?} do not exist");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn json_record(key: &str, value: &Value) -> Record {
    Record {
        key: Some(key.to_owned().into()),
        value: Some(value.to_string().into()),
        headers: Vec::new(),
    }
}

/// The field `n` of each record.
pub fn numbers(all: &[Fetched]) -> Vec<u64> {
    all.iter()
        .map(|f| {
            let value: Value = serde_json::from_slice(f.record.value.as_ref().unwrap()).unwrap();
            value["n"].as_u64().unwrap()
        })
        .collect()
}

/// Opens an embedded log in `dir`, with the system's topics.
pub fn open_local(dir: &Path) -> LocalLog {
    let mut options = LocalOptions::new(Arc::new(SystemClock));
    options.min_free_bytes = 1 << 20;
    let log = LocalLog::open(&dir.join("log"), options).unwrap();
    log.provision(&Names::new(PREFIX).specs(PARTITIONS), true)
        .unwrap();
    log
}
