//! The embedded log under `kill -9`: all acknowledged records are there afterwards, complete and in order.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use omnilink::{
    base::clock::SystemClock,
    log::{
        Append, Cleanup, Log, TopicSpec, Transaction,
        local::{LocalLog, LocalOptions},
    },
    state::{Changes, Space},
};

use crate::support::{output, read_all, record, value};

const CHILD: &str = "OMNILINK_TEST_KILL_CHILD";

fn open(dir: &std::path::Path) -> LocalLog {
    let mut options = LocalOptions::new(Arc::new(SystemClock));
    options.min_free_bytes = 1 << 20;
    let log = LocalLog::open(dir, options).unwrap();
    let spec = |name: &str| TopicSpec {
        name: name.into(),
        partitions: 1,
        cleanup: Cleanup::Keep,
    };
    log.provision(&[spec("in"), spec("out")], true).unwrap();
    log
}

/// Not a test: the process that is killed. Appends numbers, which a lane copies with a running count in its state.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else {
        return;
    };
    let log = open(dir.as_ref());
    let mut next = log.offset_range("in", 0).unwrap().end;
    let mut lane = log.lane("copy", &["in".to_owned()]).unwrap();
    let mut batch = Vec::new();
    lane.poll(Duration::ZERO, &mut batch).unwrap();
    lane.open(0, 0).unwrap();
    let filler = "x".repeat(2000);
    let stdout = std::io::stdout();
    loop {
        let wave: Vec<_> = (0..40)
            .map(|_| {
                let append = Append {
                    topic: "in".into(),
                    record: record("k", &format!("{next} {filler}")),
                };
                next += 1;
                log.append(vec![append], None)
            })
            .collect();
        batch.clear();
        lane.poll(Duration::from_millis(5), &mut batch).unwrap();
        if let Some(last) = batch.last() {
            let mut state = Changes::default();
            state.put(
                &Space::new("copy", 0),
                "count",
                (last.offset + 1).to_string(),
            );
            lane.commit(Transaction {
                outputs: batch
                    .iter()
                    .map(|f| output("out", f.record.clone()))
                    .collect(),
                state,
                positions: vec![(0, 0, last.offset + 1)],
            })
            .unwrap();
        }
        for one in wave {
            one.blocking_recv().unwrap().unwrap();
        }
        writeln!(stdout.lock(), "acknowledged {next}").unwrap();
    }
}

#[test]
fn acknowledged_records_survive_kills() {
    let dir = tempfile::tempdir().unwrap();
    let kills = 20;
    let mut acknowledged = 0;
    for round in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "log_kill::child",
                "--nocapture",
                "--test-threads",
                "1",
            ])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reading = std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .filter_map(|l| l.split("acknowledged ").nth(1)?.trim().parse::<u64>().ok())
                .max()
        });
        std::thread::sleep(Duration::from_millis(rand::random_range(30..400)));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged = reading
            .join()
            .unwrap()
            .unwrap_or(acknowledged)
            .max(acknowledged);
        let log = open(dir.path());
        let all = read_all(&log, "in", acknowledged as usize);
        assert!(
            all.len() as u64 >= acknowledged,
            "round {round}: {} of {acknowledged}",
            all.len()
        );
        for (n, fetched) in all.iter().enumerate() {
            assert_eq!(fetched.offset, n as u64);
            assert!(
                value(fetched).starts_with(&format!("{n} ")),
                "round {round}"
            );
        }
        // Outputs, state and position come from the same commit.
        let position = log.committed("copy", "in", 0).unwrap().unwrap_or(0);
        assert_eq!(log.offset_range("out", 0).unwrap().end, position);
        let count = log.state().get(&Space::new("copy", 0), b"count").unwrap();
        assert_eq!(
            count.map_or("0".into(), |c| String::from_utf8(c.to_vec()).unwrap()),
            position.to_string()
        );
    }
    assert!(acknowledged > 0, "no record was acknowledged before a kill");
    eprintln!("{kills} kills, {acknowledged} records acknowledged");
}
