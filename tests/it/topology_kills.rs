//! Topologies over kills: a rate limit holds, and waiting records are neither lost nor duplicated.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use omnilink::{
    log::{Cleanup, Log, TopicSpec, topics::Names},
    topology::{Deployment, Setup},
};
use serde_json::json;

use crate::{
    support::{
        LogKind, TestLog, append, read_all,
        topology::{self, PARTITIONS, PREFIX, json_record, open_local},
    },
    topology_limits::{assert_limited, limited},
};

/// The environment variables of the child process: its data folder, and its topic prefix on Kafka.
const CHILD: &str = "OMNILINK_TEST_TOPOLOGY_CHILD";
const CHILD_ON_KAFKA: &str = "OMNILINK_TEST_TOPOLOGY_CHILD_ON_KAFKA";

/// Deploys the topology on a log.
fn deploy(log: &Arc<dyn Log>, dir: &Path, prefix: &str, lanes: usize) -> Deployment {
    let mut deployment = Deployment::new(Setup {
        lanes,
        ..topology::setup(log, prefix, PARTITIONS)
    });
    let [source, out] = foreign(prefix);
    let file = limited(&source, &out).replace(".n == 5", ".n == null");
    let set = topology::load(dir, &[("slow.yaml", &file)], prefix);
    deployment.deploy(&set).unwrap();
    deployment
}

/// The source and output topics of the topology.
fn foreign(prefix: &str) -> [String; 2] {
    ["orders", "out"].map(|name| format!("f{prefix}{name}"))
}

/// The command that runs `test` of this file in its own process.
fn process(test: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let test = format!("topology_kills::{test}");
    command
        .args(["--exact", &test, "--nocapture", "--test-threads", "1"])
        .envs(variables.iter().copied())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Not a test: the process that is killed.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else {
        return;
    };
    let dir = PathBuf::from(dir);
    let log: Arc<dyn Log> = Arc::new(open_local(&dir));
    let _deployment = deploy(&log, &dir, PREFIX, 1);
    let [source, _] = foreign(PREFIX);
    let mut next = loop {
        // The topology creates its source topic.
        match log.offset_range(&source, 0) {
            Ok(_) => {
                break (0..PARTITIONS)
                    .map(|p| log.offset_range(&source, p).unwrap().end)
                    .sum::<u64>();
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let stdout = std::io::stdout();
    loop {
        append(
            &*log,
            &source,
            vec![json_record("k", &json!({ "n": next }))],
        )
        .unwrap();
        next += 1;
        writeln!(stdout.lock(), "acknowledged {next}").unwrap();
        std::thread::sleep(Duration::from_millis(60));
    }
}

#[test]
fn the_limit_holds_over_kills() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for _ in 0..8 {
        let dir = dir.path().to_str().unwrap();
        let mut child = process("child", &[(CHILD, dir)])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, first) = mpsc::channel();
        let reading = std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .filter_map(|l| l.split("acknowledged ").nth(1)?.trim().parse::<u64>().ok())
                .inspect(|_| {
                    // The receiver waits only for the first.
                    let _ = sender.send(());
                })
                .max()
        });
        first
            .recv_timeout(Duration::from_secs(30))
            .expect("the child appends");
        std::thread::sleep(Duration::from_millis(rand::random_range(100..900)));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged = reading
            .join()
            .unwrap()
            .unwrap_or(acknowledged)
            .max(acknowledged);
    }
    assert!(acknowledged > 20, "{acknowledged}");
    let log: Arc<dyn Log> = Arc::new(open_local(dir.path()));
    let _deployment = deploy(&log, dir.path(), PREFIX, 1);
    let [source, out] = foreign(PREFIX);
    let sent = read_all(&*log, &source, acknowledged as usize).len() as u64;
    assert!(sent >= acknowledged);
    assert_limited(&*log, "omnilink.rekey.slow", &out, sent, &[3]);
}

/// Not a test: the process that is killed, with two lanes per stage.
#[test]
fn child_on_kafka() {
    let Ok(prefix) = std::env::var(CHILD_ON_KAFKA) else {
        return;
    };
    let dir = PathBuf::from(std::env::var(CHILD).unwrap());
    let mut test_log = TestLog::new(LogKind::Kafka).unwrap();
    test_log.prefix = prefix;
    let log = test_log.open_in("a", &dir);
    let _deployment = deploy(&log, &dir, &test_log.prefix, test_log.lanes());
    loop {
        std::thread::park();
    }
}

#[test]
fn the_limit_holds_over_kills_on_kafka() {
    let Some(test_log) = TestLog::new(LogKind::Kafka) else {
        return;
    };
    let log = test_log.open("reader");
    let names = Names::new(&test_log.prefix);
    log.provision(&names.specs(PARTITIONS), true).unwrap();
    let [source, out] = foreign(&test_log.prefix);
    let topics = [&source, &out].map(|name| TopicSpec {
        name: name.as_str().into(),
        partitions: PARTITIONS,
        cleanup: Cleanup::Keep,
    });
    log.provision(&topics, true).unwrap();
    let dir = test_log.dir.path().join("a");
    std::fs::create_dir_all(&dir).unwrap();
    let variables = [
        (CHILD, dir.to_str().unwrap()),
        (CHILD_ON_KAFKA, &test_log.prefix),
    ];
    let written = || -> u64 {
        let end = |partition| log.offset_range(&out, partition).unwrap().end;
        (0..PARTITIONS).map(end).sum()
    };
    let mut sent = 0;
    for _ in 0..3 {
        let mut child = KillOnDrop(process("child_on_kafka", &variables).spawn().unwrap());
        let before = written();
        for _ in 0..9 {
            append(
                &*log,
                &source,
                vec![json_record("k", &json!({ "n": sent }))],
            )
            .unwrap();
            sent += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        // Most records still wait when it is killed.
        let deadline = Instant::now() + Duration::from_mins(1);
        while written() == before {
            assert!(Instant::now() < deadline, "nothing is written");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(rand::random_range(0..800)));
        child.kill();
    }
    let again = test_log.open_in("a", &dir);
    let _deployment = deploy(&again, &dir, &test_log.prefix, test_log.lanes());
    let rekey = format!("{}rekey.slow", test_log.prefix);
    assert_limited(&*log, &rekey, &out, sent, &[3]);
}

/// A child process that is killed when the test ends.
struct KillOnDrop(Child);

impl KillOnDrop {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
