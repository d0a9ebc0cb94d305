//! Topologies over kills: a limit holds, and nothing that waits for it is lost or comes twice.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use omnilink::{
    base::clock::SystemClock,
    envelope::foreign::NoRegistry,
    log::{
        Cleanup, Log, TopicSpec,
        local::{LocalLog, LocalOptions},
        topics::Names,
    },
    topology::{Deployment, Setup},
};
use serde_json::json;

use crate::{
    support::{Bed, Kind, append, read_all},
    topology_run::{PARTITIONS, assert_limited, json_record, limited, set},
};

/// The folder of a child's data; and its prefix on Kafka.
const CHILD: &str = "OMNILINK_TEST_TOPOLOGY_CHILD";
const CHILD_ON_KAFKA: &str = "OMNILINK_TEST_TOPOLOGY_CHILD_ON_KAFKA";
const PREFIX: &str = "omnilink.";

pub(super) fn open(dir: &Path) -> LocalLog {
    let mut options = LocalOptions::new(Arc::new(SystemClock));
    options.min_free_bytes = 1 << 20;
    let log = LocalLog::open(&dir.join("log"), options).unwrap();
    log.provision(&Names::new(PREFIX).specs(PARTITIONS), true)
        .unwrap();
    log
}

/// The topology at work on a log.
fn deploy(log: &Arc<dyn Log>, dir: &Path, prefix: &str, lanes: usize) -> Deployment {
    let mut deployment = Deployment::new(Setup {
        log: Arc::clone(log),
        names: Names::new(prefix),
        clock: Arc::new(SystemClock),
        schemas: Arc::new(NoRegistry),
        partitions: PARTITIONS,
        provision: true,
        make_foreign: true,
        lanes,
    });
    let [source, out] = foreign(prefix);
    let file = limited(&source, &out).replace(".n == 5", ".n == null");
    let set = set(dir, &[("slow.yaml", &file)], prefix);
    deployment.deploy(&set).unwrap();
    deployment
}

/// The topics that the topology reads and writes.
fn foreign(prefix: &str) -> [String; 2] {
    ["orders", "out"].map(|name| format!("f{prefix}{name}"))
}

/// Runs `test` of this file in a process of its own.
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

/// Not a test of its own: the process that is killed.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else {
        return;
    };
    let dir = PathBuf::from(dir);
    let log: Arc<dyn Log> = Arc::new(open(&dir));
    let _deployment = deploy(&log, &dir, PREFIX, 1);
    let [source, _] = foreign(PREFIX);
    let mut next = loop {
        // The topology makes its source.
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
fn the_limit_holds_and_nothing_is_lost_over_kills() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for _ in 0..8 {
        let dir = dir.path().to_str().unwrap();
        let mut child = process("child", &[(CHILD, dir)])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (tell, first) = mpsc::channel();
        let reading = std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .filter_map(|l| l.split("acknowledged ").nth(1)?.trim().parse::<u64>().ok())
                .inspect(|_| {
                    // Only the first is waited for.
                    let _ = tell.send(());
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
    let log: Arc<dyn Log> = Arc::new(open(dir.path()));
    let _deployment = deploy(&log, dir.path(), PREFIX, 1);
    let [source, out] = foreign(PREFIX);
    let sent = read_all(&*log, &source, acknowledged as usize).len() as u64;
    assert!(sent >= acknowledged);
    assert_limited(&*log, "omnilink.rekey.slow", &out, sent, &[3]);
}

/// Not a test of its own: the process that is killed, two lanes a stage.
#[test]
fn child_on_kafka() {
    let Ok(prefix) = std::env::var(CHILD_ON_KAFKA) else {
        return;
    };
    let dir = PathBuf::from(std::env::var(CHILD).unwrap());
    let mut bed = Bed::new(Kind::Kafka).unwrap();
    bed.prefix = prefix;
    let log = bed.open_in("a", &dir);
    let _deployment = deploy(&log, &dir, &bed.prefix, bed.lanes());
    loop {
        std::thread::park();
    }
}

#[test]
fn the_limit_holds_and_nothing_is_lost_over_kills_on_kafka() {
    let Some(bed) = Bed::new(Kind::Kafka) else {
        return;
    };
    let log = bed.open("reader");
    let names = Names::new(&bed.prefix);
    log.provision(&names.specs(PARTITIONS), true).unwrap();
    let [source, out] = foreign(&bed.prefix);
    let topics = [&source, &out].map(|name| TopicSpec {
        name: name.as_str().into(),
        partitions: PARTITIONS,
        cleanup: Cleanup::Keep,
    });
    log.provision(&topics, true).unwrap();
    let dir = bed.dir.path().join("a");
    std::fs::create_dir_all(&dir).unwrap();
    let variables = [
        (CHILD, dir.to_str().unwrap()),
        (CHILD_ON_KAFKA, &bed.prefix),
    ];
    let went_on = || -> u64 {
        let end = |partition| log.offset_range(&out, partition).unwrap().end;
        (0..PARTITIONS).map(end).sum()
    };
    let mut sent = 0;
    for _ in 0..3 {
        let mut child = Killed(process("child_on_kafka", &variables).spawn().unwrap());
        let before = went_on();
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
        // Most of them still wait when it is killed.
        let deadline = Instant::now() + Duration::from_mins(1);
        while went_on() == before {
            assert!(Instant::now() < deadline, "nothing goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(rand::random_range(0..800)));
        child.kill();
    }
    let again = bed.open_in("a", &dir);
    let _deployment = deploy(&again, &dir, &bed.prefix, bed.lanes());
    let rekey = format!("{}rekey.slow", bed.prefix);
    assert_limited(&*log, &rekey, &out, sent, &[3]);
}

/// A process that ends with the test, however that does.
struct Killed(Child);

impl Killed {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
